"Cleaning, score sentences and the grammar of prompts against stored results of Open-Sora 1.2 (text_clean, prompts)."
import json, math, warnings
from itertools import chain
from pathlib import Path
import pytest
from hypothesis import given, settings, strategies as st
from opensora_nb.data import captions
from opensora_nb.core import assets
from opensora_nb.toy.world import parse_prompt
from opensora_nb.toy.levels import prompt_warnings
from opensora_nb.flow.masks import Condition, parse_conditions
from opensora_nb.text.prompts import (
    MAX_NAME, PromptSpec, _mask_text, example_prompts, join_segments, parse_prompt_spec, read_prompt_file, safe_name,
    sample_name, split_segments, with_previous)
from opensora_nb.data.captions import MAX_LETTERS, clean_caption, clean_prompt, plain_prompt, repair_text, score_text

HERE = Path(__file__).parent/'goldens'
CLEAN, G = (json.loads((HERE/f'{name}.json').read_text()) for name in ('text_clean', 'prompts'))
quick = settings(max_examples=150, deadline=None)

# texts that look like what people and web pages write, besides any text at all
scraps = st.lists(st.sampled_from([
    'a boat', ' ', '|0|', '|1|', '|', '{', '}', '"', ':', '&lt;', '&amp;', '<b>', '<![', '<!', '</', '%20', '%ff', '@',
    '#12', '1:20 ', 'http://', 'www.a.org', '.png', 'free ', 'download', '\\n', '\n', '\x00', '\ud800', '漢', '一',
    '-_-_', "'", '“', '10x20', 'a1b2c3', '.', 'aesthetic score:', '{"mask_strategy": "0"}',
    '{"reference_path": "a.png"}', ';', ',', '0', '-1', '1e400', 'nan', '|01|', '|٣|',
]), max_size=12).map(''.join)
texts = st.one_of(st.text(max_size=60), scraps)

def quiet(fn, *args):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return fn(*args)

def short(text): return text[:24].encode('ascii', 'replace').decode() or 'empty'
@pytest.mark.parametrize('row', CLEAN['rows'], ids=lambda r: short(r['input']))
def test_cleaning(row):
    assert clean_caption(row['input']) == row['clean_once']
    assert quiet(clean_prompt, row['input']) == row['preprocess']
    assert plain_prompt(row['input']) == row['preprocess_off']
    assert repair_text(row['input']) == row['basic_clean']

# steps that no golden row would miss; the results follow from the list of the specification
@pytest.mark.parametrize('text, want', [
    ('www:a boat',       'boat'),
    ('a ‘‘b’’ c',        'a "b" c'),
    ('a &amp;quot; b',   'a b'),
    ('at sea 1:20 @joe', 'at sea'),
    ('a boat . a gull',  'a boat a gull'),
    ('homepage 12',      'homepage 12'),
    ('10×20 3.5х2',      ''),
    ('an epsom mine',    'an om mine'),
])
def test_steps_without_a_golden(text, want): assert clean_caption(text) == want

def test_every_step_matters(monkeypatch):
    "Without any one row of the table some result changes"
    more = ['www:a boat', 'a ‘‘b’’ c', 'a &amp;quot; b', 'at sea 1:20 @joe', 'a boat . a gull']
    texts = [r['input'] for r in CLEAN['rows']] + more
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
       st.one_of(st.none(), st.floats(), st.integers(-10, 10**400)), st.one_of(st.none(), texts, st.integers()),
       st.sampled_from(['infer', 'train', 'report', 'other']))
def test_scores_are_numbers_in_range_or_a_clear_error(prompt, aes, flow, camera, style):
    try: out = score_text(prompt, aes, flow, camera, style)
    except ValueError as e: assert any(w in str(e) for w in ('from 0 to', 'camera_motion is', 'unknown style'))
    else:
        assert out.startswith(prompt) and score_text(out, aes, flow, camera, style) == out
        for s in (aes, flow): assert s is None or (math.isfinite(s) and not isinstance(s, (bool, str)))

@pytest.mark.parametrize('style', ['infer', 'train', 'report'])
def test_scores_survive_cleaning(style):
    said = clean_prompt(score_text('a boat at sea.', 6.5, 10, 'pan left', style))
    assert clean_prompt(said) == said
    assert '6.5' in said
    assert 'motion score: 10' in said
    assert 'camera motion: pan left' in said

# the grammar of prompt lines

@pytest.mark.parametrize('text, want', G['split_prompt'], ids=lambda v: str(v)[:24])
def test_split_prompt(text, want):
    texts, starts = want
    spec = parse_prompt_spec(text)
    assert [t for _, t in spec.segments] == texts and [k for k, _ in spec.segments] == (starts or [0])

ONE_SEGMENT = '|0|only' # ours writes a single segment without its marker; it means the same

@pytest.mark.parametrize('text, want', G['merge_split'], ids=lambda v: v[:24])
def test_merge_split(text, want): assert str(parse_prompt_spec(text)) == ('only' if text == ONE_SEGMENT else want)

# defect: asked before it has re-joined the segments, the reference leaves the spaces around them
UNSTRIPPED = '|0| a beautiful day |1| a sunny day |2| a rainy day'

@pytest.mark.parametrize('text, loop, want', G['extract_prompts_loop'])
def test_extract_prompts_loop(text, loop, want):
    if text == UNSTRIPPED:
        assert want != want.strip()
        want = want.strip()
    assert parse_prompt_spec(text).text_at(loop) == want

LATE = 'b{"mask_strategy":"0,0"}' # defect: the reference finds out only when it samples that reference 0 is missing

@pytest.mark.parametrize('row', G['extract_json'], ids=lambda r: r[0][:24])
def test_extract_json(row):
    text, *want = row
    if text == LATE:
        with pytest.raises(ValueError, match='asks for reference 0, but there are 0'): parse_prompt_spec(text)
        spec = parse_prompt_spec(text, reference_path='x.png')
        want[1] = ['x.png']
    elif isinstance(want[0], dict):
        with pytest.raises(ValueError, match='at most one|not \'bad\''): parse_prompt_spec(text)
        return
    else: spec = quiet(parse_prompt_spec, text)
    assert [[spec.text_at(0)], [';'.join(spec.references)]] == want[:2]
    assert spec.conditions == parse_conditions(want[2][0])

@pytest.mark.parametrize('row', G['append_generated'], ids=['refs 1 and 0', 'refs 0 and 2'])
def test_append_generated(row):
    for n_after, before, after in zip(row['n_refs_after'], row['ms_before'], row['ms_after']):
        conditions = parse_conditions(before)
        spec = PromptSpec(references=('r.png',)*max(n_after - 1, bool(conditions)), conditions=conditions)
        assert len(spec.references) == n_after - 1
        out = with_previous(spec, 'previous.mp4', row['loop'], row['length'], row['edit'])
        assert out.conditions == parse_conditions(after) and _mask_text(out.conditions) == after
        assert out.references[-1] == 'previous.mp4'
        assert len(out.references) == n_after
        assert len(spec.references) == n_after - 1

@pytest.mark.parametrize('kw, want', G['save_path'])
def test_save_path(kw, want):
    prompt = kw['prompt'] if kw.get('prompt_as_path') else None
    numbers = kw.get('sample_idx', 0), kw.get('k', 0), kw.get('num_sample', 1)
    assert 'DIR/' + sample_name(*numbers, kw.get('sample_name'), prompt) == want

def told(e): return str(e) and len(str(e)) < 1500 and '\n' not in str(e)

@quick
@given(st.one_of(texts, st.builds(lambda a, b: a + '{' + b, texts, texts)), st.one_of(st.none(), texts),
       st.one_of(st.none(), texts))
def test_any_line_is_read_or_refused_with_a_sentence(text, paths, masks):
    try: spec = quiet(parse_prompt_spec, text, paths, masks)
    except ValueError as e:
        assert told(e)
        return
    assert quiet(parse_prompt_spec, str(spec)) == spec and spec.text_at(0) == spec.segments[0][1]

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), texts),
    lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(texts, v, max_size=3)), max_leaves=5)
masks = st.lists(st.sampled_from(['0', '1,1,-5,0,5,0.3', '0,1', '2']), max_size=3).map(';'.join)
any_settings = st.dictionaries(st.sampled_from(['reference_path', 'mask_strategy', 'mask', '']), values, max_size=3)
like_settings = st.fixed_dictionaries(
    dict(reference_path=st.sampled_from(['a.png', 'a.png; b.mp4', '']), mask_strategy=masks))

@quick
@given(texts, st.one_of(any_settings, like_settings))
def test_any_json_is_read_or_refused_with_a_sentence(text, said):
    try: spec = quiet(parse_prompt_spec, text + json.dumps(said))
    except ValueError as e:
        assert told(e)
        return
    assert quiet(parse_prompt_spec, str(spec)) == spec

@pytest.mark.parametrize('tail', [
    '{', '{}}', '{"reference_path": ' + '['*100_000, '{"mask_strategy": NaN}', '{"reference_path": 0}',
    '{"mask_strategy": ["0"]}', '{"mask_strategy": "", "mask_strategy": ""}',
    '{"mask_strategy": "' + '0;'*9000 + '0"}', '{"reference_path": "a.png"} and more',
    '{"mask_strategy": "' + '9'*1000 + '"}',
], ids=lambda t: t[:24])
def test_awful_json(tail):
    with pytest.raises(ValueError) as e: parse_prompt_spec('a' + tail)
    assert told(e.value)

paths = st.one_of(st.text(min_size=1, max_size=8), st.sampled_from(['a.png', '{}.mp4', 'a b', '\\{', 'é"\ud800']))
conditions = st.builds(Condition, st.integers(0, 10**30), st.integers(0, 2), st.integers(-9, 9), st.integers(-9, 9),
                       st.integers(1, 9), st.one_of(st.floats(0, 1), st.integers(0, 1)))
def first_at_0(segments): return tuple((k if i else 0, text) for i, (k, text) in enumerate(segments))
segments = st.lists(st.tuples(st.integers(0, 10**10), texts), max_size=3).map(first_at_0)

@quick
@given(segments, st.lists(paths, max_size=3), st.lists(conditions, max_size=3))
def test_every_object_that_is_built_comes_back(segments, references, conditions):
    try: spec = PromptSpec(segments, references, conditions)
    except ValueError as e:
        assert told(e)
        return
    assert quiet(parse_prompt_spec, str(spec)) == spec
    assert join_segments(spec.segments) == join_segments(split_segments(join_segments(spec.segments)))

@pytest.mark.parametrize('kw', [
    dict(segments=((0, 'a {'),)),
    dict(segments=((0, 'a'), (2, 'b'), (1, 'c'))),
    dict(segments=((0, 'a'), (0, 'b'))),
    dict(references=('a;b.png',)),
    dict(segments=((0, 'a|5'), (1, 'b'))),
    dict(segments=((0, 'a'), (10**9, 'b'))),
    dict(segments=5),
    dict(segments=((0, None),)),
    dict(segments='ab'),
    dict(references=(' a.png',)),
    dict(references=None),
    dict(references=(b'a.png',)),
    dict(conditions=(None,)),
    dict(references=('a',), conditions=(Condition(10**6000),)),
    dict(references=('a',), conditions=(Condition(),)*6000),
], ids=lambda kw: str(list(kw)))
def test_what_cannot_be_written_is_refused(kw):
    with pytest.raises(ValueError) as e: PromptSpec(**kw)
    assert told(e.value)

@quick
@given(st.text(), st.text())
def test_any_text_makes_a_file_name(a, b):
    name = safe_name(a)
    assert not set(name) & set('<>:"/\\|?*\0\n')
    assert len(name.encode()) <= MAX_NAME + 7
    assert name not in ('.', '..')
    assert name == name.strip()
    if ' '.join(a.split()) != ' '.join(b.split()) and name: assert name != safe_name(b)

@quick
@given(st.binary(max_size=60), st.integers(0, 5), st.one_of(st.none(), st.integers(0, 5)))
def test_any_bytes_are_a_prompt_file_or_a_clear_error(tmp_path_factory, content, start, end):
    path = tmp_path_factory.getbasetemp()/'prompts.txt'
    path.write_bytes(content)
    try: rows = read_prompt_file(path, start, end)
    except ValueError as e:
        assert told(e)
        return
    assert rows and all(start <= i and (end is None or i < end) and line.strip() == line != '' for i, line in rows)

def test_numbers_of_a_prompt_file_stay(tmp_path):
    path = tmp_path/'p.txt'
    path.write_text('a\n\nb\r\n  \nc\n', newline='')
    assert read_prompt_file(path) == [(0, 'a'), (2, 'b'), (4, 'c')]
    assert read_prompt_file(path, 1, 4) == [(2, 'b')] and read_prompt_file(path, 2, 2 + 1) == [(2, 'b')]

def test_examples():
    assert len(example_prompts('tiny')) >= 16
    assert len(example_prompts('t2v')) >= 20
    assert len(example_prompts('t2i')) >= 20
    for p in example_prompts('tiny'):
        named, strange = parse_prompt(p)
        assert set(named) == {'shape', 'colour', 'motion'} and not strange and not prompt_warnings(p, ('core',)), p
    for name in ('t2v', 't2i'):
        for p in example_prompts(name):
            assert p.isascii() and sum(p.count(c) for c in '.!?') <= 6, p
            assert parse_prompt_spec(p) == PromptSpec(((0, p),)), p
    everything = list(chain(*(example_prompts(f.stem) for f in assets('prompts').glob('*.txt'))))
    assert len(set(everything)) == len(everything)

def test_small_print():
    assert parse_prompt_spec('|0| only ').segments == ((0, 'only'),)
    assert parse_prompt_spec(' only ').segments == ((0, ' only '),)
    assert safe_name('a/b') != safe_name('a_b') and safe_name('a'*300 + 'b') != safe_name('a'*300 + 'c')
    for text in ('\ud800 a', '海'*100, 'a\x85\x07b', 'CON.txt', 'lpt1', '..', 'a' + 'ä'*200):
        name = safe_name(text)
        assert text.startswith('..') or name != text
        name.encode()
        assert '\ufffd' not in name

def test_prompt_files_are_utf8(tmp_path):
    path = tmp_path/'p.txt'
    path.write_bytes('\ufeffa\u2028b\x0cc\nd'.encode())
    assert read_prompt_file(path) == [(0, 'a\u2028b\x0cc'), (1, 'd')]
    path.write_bytes(b'ab\xff')
    with pytest.raises(ValueError, match=r'no text in UTF-8 \(byte 2\)'): read_prompt_file(path)
