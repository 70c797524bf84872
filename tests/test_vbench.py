"VBench from a terminal: clips under the evaluator's names, gaps by name, sums to the last digit."
import json, os
from pathlib import Path
import pytest
from opensora_nb.app import cli
from opensora_nb.metrics.vbench import SuitePrompt, missing_clips, read_suite, suite_jobs, suite_name
from opensora_nb.metrics.vbench_scores import I2V_DIMENSIONS, DIMENSIONS, QUALITY, SEMANTIC
from opensora_nb.text.prompts import safe_name

REAL = Path(os.environ.get('OPENSORA_NB_REAL_DATA') or Path(__file__).resolve().parents[2]/'shared/data')/'text'
real = pytest.mark.skipif(not (REAL/'VBench_full_info.json').is_file(), reason="the prompts of VBench are not here")

def osnb(*words): return cli.main([str(w) for w in words])

@real
def test_the_benchmark_has_944_prompts_and_all_its_dimensions():
    "946 lines, two of them twice; numbers of prompts as published"
    suite = read_suite(REAL/'VBench_full_info.json')
    assert len(suite) == 944 and {d for p in suite for d in p.dimensions} == set(DIMENSIONS)
    count = {d: sum(d in p.dimensions for p in suite) for d in DIMENSIONS}
    assert (count['human_action'], count['scene'], count['dynamic_degree']) == (100, 86, 72)
    i2v = read_suite(REAL/'vbench2_i2v_full_info.json')
    assert len(i2v) == 1118 and len({p.image for p in i2v}) == 355
    assert {d for p in i2v for d in p.dimensions} == set(I2V_DIMENSIONS)

@real
def test_no_name_of_a_clip_is_changed():
    "The evaluator looks for the prompt to the letter; 59 prompts would get another name by the rules for other files"
    suite, other = read_suite(REAL/'VBench_full_info.json'), 0
    for p in suite:
        assert suite_name(p.prompt, 4) == f'{p.prompt}-4.mp4'
        other += safe_name(p.prompt) != p.prompt
    assert other == 59
    jobs = suite_jobs(suite, 'x')
    assert len(jobs) == len({j.path for j in jobs}) == 944*5

def write_scores(folder, values):
    folder.mkdir(exist_ok=True)
    for k, v in values.items():
        (folder/f'{k}_eval_results.json').write_text(json.dumps({k: [v, []]}))
        (folder/f'{k}_full_info.json').write_text(json.dumps([dict(prompt_en='a', video_list=['a-0.mp4'])]))
    return folder

def test_a_table_to_the_last_digit_and_none_where_a_dimension_is_missing(tmp_path, capsys):
    "All at their maximum: 100; without motion 93.85; one file gone: its name, and no total"
    top = {k: high for k, (_, high, _) in (QUALITY | SEMANTIC).items()}
    folder = write_scores(tmp_path/'mine', top | dict(dynamic_degree=0.))
    assert osnb('eval', 'vbench', 'table', folder, '--output', tmp_path/'t.json') == 0
    assert 'mine             93.85    92.31    100.00' in capsys.readouterr().out
    assert round(json.loads((tmp_path/'t.json').read_text())['scores']['VBench quality'], 4) == 92.3077
    (folder/'color_eval_results.json').unlink()
    assert osnb('eval', 'vbench', 'table', folder) == 1
    out, err = capsys.readouterr()
    assert '1 of 16 dimensions are missing' in err and 'color' in err and 'mine' not in out

def test_two_processes_make_each_clip_once_and_a_stopped_one_goes_on(tmp_path, monkeypatch, capsys):
    "Rank 0 makes half, rank 1 the rest; a clip that is gone is made anew, alike; nothing else is touched"
    (tmp_path/'p.txt').write_text('a red circle moves left\na blue star moves up\n')
    words = ('eval', 'vbench', 'generate', 'tiny', '--prompts', tmp_path/'p.txt', '--seeds', 1,
             '--num-sampling-steps', 2, '--save-dir', tmp_path/'clips')
    suite = [SuitePrompt('a red circle moves left'), SuitePrompt('a blue star moves up')]
    for rank in (0, 1):
        monkeypatch.setenv('WORLD_SIZE', '2')
        monkeypatch.setenv('RANK', str(rank))
        assert osnb(*words) == 0
        assert len(missing_clips(suite, tmp_path/'clips', 1)) == 1 - rank
    monkeypatch.delenv('RANK')
    monkeypatch.delenv('WORLD_SIZE')
    files = sorted((tmp_path/'clips').glob('*.mp4'))
    before, when = files[0].read_bytes(), files[1].stat().st_mtime_ns
    files[0].unlink()
    assert osnb(*words) == 0
    assert files[0].read_bytes() == before and files[1].stat().st_mtime_ns == when
    assert osnb(*words, '--cfg-scale', '1') == 1
    assert 'made with other settings' in capsys.readouterr().err

def test_without_the_official_package_a_sentence_says_how_to_get_it(tmp_path, capsys):
    "And nothing is scored on a folder with a gap"
    (tmp_path/'i.json').write_text(json.dumps([dict(prompt_en='a', dimension=['scene'])]))
    (tmp_path/'clips').mkdir()
    words = 'eval', 'vbench', 'score', tmp_path/'clips', '--prompts', tmp_path/'i.json', '--dimensions', 'scene'
    assert osnb(*words) == 1 and 'lacks 5 of 5 clips: a-0.mp4' in capsys.readouterr().err
    for k in range(5): (tmp_path/'clips'/f'a-{k}.mp4').write_bytes(b'')
    assert osnb(*words) == 1 and 'pip install vbench' in capsys.readouterr().err
