"The contest: what an entry may not do is named, and a contest is judged as it was judged before"
import json
import pytest
from opensora_nb.app.challenge import STARTER, Board, Rules, judge_entry, mcnemar, new_entry, run_contest, score_entry
from opensora_nb.app.cli import main

FEW = Rules(prompts=2, steps=(1,))

def entry(folder, code):
    folder.mkdir(parents=True)
    (folder/'entry.py').write_text(code)
    return folder

@pytest.mark.parametrize('code, said', [
    (STARTER.replace('range(steps + 1)', 'range(steps + 2)'),              'called 2 times in the class of 1 step'),
    ('def sample(v, noise, steps): return noise[:, :2]',                    'sample returned (2, 2, 5, 8, 8)'),
    ('def sample(v, noise, steps): return noise*float("nan")',              'NaN or infinite'),
    ('def sample(v, noise, steps): return v(noise, 0)',                     't goes from 1 down to 0'),
    ('def sample(v, noise, steps): return None',                            'sample returned NoneType'),
    ('def walk(v, noise, steps): return noise',                             'no function sample'),
])
def test_what_an_entry_may_not_do(tmp_path, code, said):
    with pytest.raises((ValueError, RuntimeError)) as e: score_entry(entry(tmp_path/'e', code), FEW)
    assert said in str(e.value)

def test_an_entry_that_ends_its_process(tmp_path):
    "It takes nobody along, and is told that it gave no answer"
    out = judge_entry(entry(tmp_path/'e', 'import os\ndef sample(*_): os._exit(0)'), FEW)
    assert 'ended its own process' in out['error']
    out = judge_entry(entry(tmp_path/'f', 'def sample(:'), FEW)
    assert out['error'].startswith('entry.py, line 1: SyntaxError')

def test_the_seed_decides(tmp_path):
    "Another secret, other prompts: nothing kept is taken for it"
    new_entry(tmp_path/'a')
    first = run_contest(tmp_path, 1, FEW, say=[].append)
    kept = json.loads((tmp_path/'board.json').read_text())
    run_contest(tmp_path, 2, FEW, say=[].append)
    assert json.loads((tmp_path/'board.json').read_text())['key'] != kept['key']
    assert '1 step: everything right, of 2 prompts' in repr(first) and (tmp_path/'board.html').is_file()

def test_shared_ranks():
    "Third behind two that cannot be told apart; and a name is only text in the page"
    def made(n): return {'1': dict(right=[1]*n + [0]*(40 - n), cpu_s=1.)}
    board = Board({'<b>': made(30), 'b': made(29), 'c': made(10), 'd': made(9)}, Rules(steps=(1,), prompts=40))
    assert [(r[0], r[1]) for r in board.ranking(1)] == [(1, '<b>'), (1, 'b'), (3, 'c'), (3, 'd')]
    assert '&lt;b&gt;' in board._repr_html_() and '<b>' not in board._repr_html_()
    assert mcnemar([1, 1, 0], [1, 1, 0]) == 1

@pytest.mark.parametrize('words, said', [
    (['score', '.'],                                'score needs the secret'),
    (['score', '.', '--seed', '1'],                 'holds no folder with an entry.py'),
    (['try', 'nowhere'],                            'osnb challenge new nowhere writes one'),
    (['try', '.', '--weights', 'big'],              "not on 'big'"),
    (['try', '.', '--steps', '0'],                  'steps is 0'),
])
def test_lines_that_cannot_be_read(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(['challenge', *words]) == 1 and said in capsys.readouterr().err
