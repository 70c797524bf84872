"Refinement of prompts: whatever a server says or whatever fails, a prompt comes out and nothing is raised."
import os, subprocess, sys, warnings
import pytest
from hypothesis import given, settings, strategies as st
from opensora_nb.data.captions import MAX_LETTERS
from opensora_nb.endpoint import Endpoint, practice_server
from opensora_nb.text.prompts import PromptSpec, parse_prompt_spec
from opensora_nb.text.refine import INVENT, clean_answer, instruction, random_prompt, refine, refine_spec

quick = settings(max_examples=150, deadline=None)
os.environ['no_proxy'] = '127.0.0.1'

class Says:
    "Stands for an endpoint: answers, or raises, what it was given"
    def __init__(self, *answers): self.answers, self.heard = list(answers), []
    def chat(self, messages):
        self.heard.append([dict(m) for m in messages])
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException): raise answer
        return answer

scraps = st.lists(st.sampled_from([
    '<think>', '</think>', 'A cat', ' ', '"', '`', '**', 'prompt', ':', '{', '}', '|', '|0|', '|12|', '1', '\n', '海',
    '\ud800', '.',
]), max_size=10).map(''.join)
answers = st.one_of(st.text(), scraps)

@quick
@given(answers)
def test_any_answer_is_a_plain_prompt_or_refused(said):
    try: out = clean_answer(said)
    except ValueError as e:
        assert 'holds no prompt' in str(e)
        return
    assert out and out == ' '.join(out.split()) and not set(out) & set('{}|')
    assert parse_prompt_spec(out) == PromptSpec(((0, out),))

@quick
@given(answers, answers)
def test_a_spec_is_refined_whole_or_not_at_all(a, b):
    spec = PromptSpec(((0, 'boat'), (3, 'storm')))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        out = refine_spec(spec, Says(a, b))
    assert parse_prompt_spec(str(out)) == out and [k for k, _ in out.segments] == [0, 3]
    assert (out == spec) == bool(seen) or [a, b] == ['boat', 'storm']

@pytest.mark.parametrize(
    'error', [kind('no') for kind in (ValueError, RuntimeError, KeyError, OSError, AttributeError)],
    ids=lambda e: type(e).__name__)
def test_no_failure_stops_a_video(error):
    with pytest.warns(UserWarning, match='without refinement: .?no'): assert refine(' cat ', Says(error)) == ' cat '
    with pytest.warns(UserWarning, match='without refinement: .?no'): assert random_prompt(Says(error)) == ''
    spec = parse_prompt_spec('|0|a|1|b')
    with pytest.warns(UserWarning, match='without refinement: .?no'):
        assert refine_spec(spec, Says('fine', error)) is spec

def test_stopping_by_hand_stops():
    with pytest.raises(KeyboardInterrupt): refine('cat', Says(KeyboardInterrupt()))

def test_what_is_sent():
    with practice_server('A cat.') as server: assert refine('Katze ☀ \ud83d', Endpoint('m', server.url)) == 'A cat.'
    request, = server.requests
    assert request['model'] == 'm'
    assert [m['role'] for m in request['messages']] == ['system', 'user']
    assert request['messages'][1]['content'] == 'Katze ☀ \ud83d'
    says = Says('One.', 'Two.', 'Three.')
    spec = refine_spec(PromptSpec(((0, 'a'), (1, ''), (2, 'c'))), says)
    assert spec.segments == ((0, 'One.'), (1, 'Two.'), (2, 'Three.'))
    assert [m['content'] for m in says.heard[-1]] == [instruction(), 'a', 'One.', INVENT, 'Two.', 'c']

def test_a_bad_environment_is_a_warning(monkeypatch):
    monkeypatch.setenv('OPENAI_BASE_URL', 'ftp://nowhere')
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-1')
    with pytest.warns(UserWarning, match='base_url'): assert refine('cat') == 'cat'
    monkeypatch.delenv('OPENAI_BASE_URL')
    monkeypatch.delenv('OPENAI_API_KEY')
    with pytest.warns(UserWarning, match='set OPENAI_API_KEY'): assert refine('cat') == 'cat'

def test_nothing_is_sent_unasked():
    "The pipeline and the grammar do not even import it"
    code = ("import sys, opensora_nb.sample.pipeline, opensora_nb.text.prompts\n"
            "print([m for m in ('opensora_nb.text.refine', 'opensora_nb.endpoint') if m in sys.modules])")
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == '[]'

def test_a_long_answer_is_refused():
    with pytest.warns(UserWarning, match=f'at most {MAX_LETTERS}'):
        assert refine('cat', Says('sea '*MAX_LETTERS)) == 'cat'

def test_small_print(monkeypatch):
    assert clean_answer('A cat. <think>never ends') == 'A cat.'
    assert clean_answer('|0|A cat.|12|It runs.') == 'A cat. It runs.'
    with practice_server('A cat.') as server:
        monkeypatch.setenv('OPENAI_BASE_URL', server.url)
        monkeypatch.setenv('OPENAI_MODEL', 'home-model')
        assert refine('cat') == 'A cat.' and server.requests[0]['model'] == 'home-model'
