"Cleaning, score sentences and the grammar of prompts against stored results of Open-Sora 1.2: goldens/text_clean.json, goldens/prompts.json."
import json, math, warnings
from pathlib import Path
import pytest
from hypothesis import given, settings, strategies as st
from opensora_nb.data import captions
from opensora_nb.data.captions import MAX_LETTERS, clean_caption, clean_prompt, plain_prompt, repair_text, score_text

HERE = Path(__file__).parent/'goldens'
CLEAN, G = (json.loads((HERE/f'{name}.json').read_text()) for name in ('text_clean', 'prompts'))
quick = settings(max_examples=150, deadline=None)

# texts that look like what people and web pages write, besides any text at all
scraps = st.lists(st.sampled_from(['a boat', ' ', '|0|', '|1|', '|', '{', '}', '"', ':', '&lt;', '&amp;', '<b>', '<![', '<!', '</', '%20', '%ff', '@', '#12', '1:20 ',
                                   'http://', 'www.a.org', '.png', 'free ', 'download', '\\n', '\n', '\x00', '\ud800', '漢', '一', '-_-_', "'", '“', '10x20', 'a1b2c3', '.',
                                   'aesthetic score:', '{"mask_strategy": "0"}', '{"reference_path": "a.png"}', ';', ',', '0', '-1', '1e400', 'nan', '|01|', '|٣|']), max_size=12).map(''.join)
texts = st.one_of(st.text(max_size=60), scraps)

def quiet(fn, *args):
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); return fn(*args)

@pytest.mark.parametrize('row', CLEAN['rows'], ids=lambda r: r['input'][:24].encode('ascii', 'replace').decode() or 'empty')
def test_cleaning(row):
    assert clean_caption(row['input']) == row['clean_once']
    assert quiet(clean_prompt, row['input']) == row['preprocess']
    assert plain_prompt(row['input']) == row['preprocess_off']
    assert repair_text(row['input']) == row['basic_clean']

# steps that no golden row would miss; the results follow from the list of the specification
@pytest.mark.parametrize('text, want', [('www:a boat', 'boat'), ('a ‘‘b’’ c', 'a "b" c'), ('a &amp;quot; b', 'a b'), ('at sea 1:20 @joe', 'at sea'), ('a boat . a gull', 'a boat a gull'),
                                        ('homepage 12', 'homepage 12'), ('10×20 3.5х2', ''), ('an epsom mine', 'an om mine')])
def test_steps_without_a_golden(text, want): assert clean_caption(text) == want

def test_every_step_matters(monkeypatch):
    "Without any one row of the table some result changes"
    texts = [r['input'] for r in CLEAN['rows']] + ['www:a boat', 'a ‘‘b’’ c', 'a &amp;quot; b', 'at sea 1:20 @joe', 'a boat . a gull']
    right = [clean_caption(t) for t in texts]
    for step in captions.STEPS:
        with monkeypatch.context() as m:
            m.setattr(captions, 'STEPS', tuple(s for s in captions.STEPS if s is not step))
            assert [clean_caption(t) for t in texts] != right, f"no test needs {step}"

@quick
@given(texts)
def test_any_text_can_be_cleaned(text):
    clean = quiet(clean_prompt, text)
    assert isinstance(clean, str) and clean == clean.strip()

@pytest.mark.parametrize('bad', [None, float('nan'), 5, b'a', ['a']], ids=repr)
def test_only_strings_are_captions(bad):
    for fn in (clean_caption, clean_prompt):
        with pytest.raises(ValueError, match='string'): fn(bad)

def test_a_prompt_has_an_end():
    with pytest.raises(ValueError, match=str(MAX_LETTERS)): clean_prompt('a '*MAX_LETTERS)

def test_scores():
    prompts, rows = G['append_score']
    assert len(rows) == 6
    for kw, want in rows: assert [score_text(p, **kw) for p in prompts] == want, kw

@quick
@given(texts, st.one_of(st.none(), st.floats(), st.integers(), st.text(max_size=5), st.booleans(), st.just([1])),
       st.one_of(st.none(), st.floats(), st.integers(-10, 10**400)), st.one_of(st.none(), texts, st.integers()), st.sampled_from(['infer', 'train', 'report', 'other']))
def test_scores_are_numbers_in_range_or_a_clear_error(prompt, aes, flow, camera, style):
    try: out = score_text(prompt, aes, flow, camera, style)
    except ValueError as e: assert any(w in str(e) for w in ('from 0 to', 'camera_motion is', 'unknown style'))
    else:
        assert out.startswith(prompt) and score_text(out, aes, flow, camera, style) == out
        for s in (aes, flow): assert s is None or (math.isfinite(s) and not isinstance(s, (bool, str)))

@pytest.mark.parametrize('style', ['infer', 'train', 'report'])
def test_scores_survive_cleaning(style):
    said = clean_prompt(score_text('a boat at sea.', 6.5, 10, 'pan left', style))
    assert clean_prompt(said) == said and '6.5' in said and 'motion score: 10' in said and 'camera motion: pan left' in said
