"Wrong settings, odd lengths and damaged runs of sampling: each ends in one sentence, and no clip is wrong without a word."
import warnings
import numpy as np
import pytest
from opensora_nb.core import rng_for
from opensora_nb.sample.pipeline import Natural, RANGES, SampleConfig, generate, load_pipeline, text_to_video

RED = 'a red circle moves left'

@pytest.fixture(scope='module')
def tiny(): return load_pipeline('tiny', 'cpu')

def sample_command(*words, cwd=None, monkeypatch=None):
    "`osnb sample` in this process; what it printed is left to capsys"
    from opensora_nb.app.cli import main
    if monkeypatch: monkeypatch.chdir(cwd)
    with warnings.catch_warnings(): return main(['sample', *map(str, words)])

# ---------------------------------------------------------------- ranges

WRONG = dict(num_sampling_steps=(0, -1, 1001, 2.5, 'many'), fps=(0, -1, 2**31, float('inf'), float('nan')),
             cfg_scale=(-3, 1e9, 1e30, float('nan'), float('inf'), 'high'), seed=(-1, 2**32, 2**32 + 42, 1.5, None, 'x'),
             num_frames=(0, -1, 2.5), image_size=(64, (64,), (64, 64, 3), (6.5, 64)), negative_prompt=(None, 3))

@pytest.mark.parametrize('name,value', [(k, v) for k, values in WRONG.items() for v in values])
def test_settings_outside_their_range_are_one_sentence_in_python(name, value):
    "A user of `text_to_video` reads the setting, what was given and the range, before any weights are opened"
    with pytest.raises(ValueError) as said: text_to_video(RED, weights='nowhere', **{name: value})
    text = str(said.value)
    assert text.startswith(f'{name} is {value!r}; ') and '\n' not in text

@pytest.mark.parametrize('name', RANGES)
def test_ends_of_every_range_are_taken(name):
    low, high, *_ = RANGES[name]
    for value in (low, high if high != float('inf') else 10**9): assert getattr(SampleConfig(**{name: value}), name) == value

@pytest.mark.parametrize('words,said', [
    (['--cfg-scale', '-3'], 'cfg_scale is -3.0; guidance goes from 0'), (['--cfg-scale', 'nan'], 'cfg_scale is nan'), (['--fps', '2147483648'], 'a clip has 1 to 1000 frames a second'),
    (['--seed', '-1'], 'seed is -1; use a whole number from 0 to 4294967295'), (['--seed', '4294967295', '--num-sample', '2'], 'seed is 4294967296'),
    (['--num-sampling-steps', '100000'], 'use 1 to 1000 steps'), (['--save-fps', '0.0001'], '--save-fps is 0.0001; a file has 0.01 to 1000'),
    (['--save-fps', 'nan'], '--save-fps is nan'), (['--frame-interval', '1000'], '--fps over --frame-interval is 0.008'), (['--format', 'gif', '--fps', '60'], 'a GIF has 0.01 to 50')])
def test_the_command_refuses_the_same_before_any_work(tmp_path, monkeypatch, capsys, words, said):
    "`--save-fps 0.0001` wrote a file of 24 frames a second; a GIF of more than 50 cannot be written at all"
    assert sample_command('--prompt', RED, *words, cwd=tmp_path, monkeypatch=monkeypatch) == 1
    err = capsys.readouterr().err
    assert said in err and err.startswith('osnb: error: ') and err.count('\n') == 1 and not list(tmp_path.iterdir())

@pytest.mark.parametrize('values', [dict(cfg_scale=-3), dict(cfg_scale=1e9), dict(seed=-1), dict(seed=2**32), dict(fps=2147483648), dict(num_sampling_steps=0)])
def test_the_form_refuses_the_same(values):
    "Guidance -3 was refused by the command and taken by the web page; `fps` 2147483648 failed after the work"
    from opensora_nb.app.form import read_form
    with pytest.raises(ValueError): read_form(Natural(), values)

def test_seeds_that_differ_by_two_to_the_32_are_not_the_same(tiny):
    "Seed 42 and seed 42 + 2^32 made the same clip; now the second is refused, also where `generate` is given seeds, and a training seed draws other numbers"
    with pytest.raises(ValueError, match='seed is 4294967338; use a whole number from 0 to 4294967295'): generate(tiny, [RED], SampleConfig(num_sampling_steps=1), seeds=[2**32 + 42])
    keys = [(s + k*2**32, 3) for s in (0, 42, 2**32 - 1) for k in (-1, 0, 1, 2, 2**32)]
    assert len({rng_for(*k).random() for k in keys}) == len(keys)
    assert rng_for(42, 3).random() == np.random.default_rng([42, 3]).random()       # ordinary keys draw what they always did
