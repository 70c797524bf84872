"Wrong settings, odd lengths and damaged runs of sampling: each ends in one sentence, and no clip is wrong silently."
import json
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from itertools import product
import numpy as np
import psutil
import pytest
import torch
from opensora_nb.app.fields import make
from opensora_nb.app.options import parse_options
from opensora_nb.app.sampling import UNKNOWN_VAE, plan_cost, plan_sample
from opensora_nb.core import assets, rng_for
from opensora_nb.toy.world import Scene, render
from opensora_nb.data.video_io import probe, read_frames, write_video
from opensora_nb.toy.levels import prompt_warnings, read_prompt, world_clips
from opensora_nb.flow.masks import parse_conditions
from opensora_nb.metrics.recon import round_trip
from opensora_nb.models.fast_inference import faster
from opensora_nb.sample.condition import given, read_reference
from opensora_nb.sample.forecast import forecast
from opensora_nb.sample.jobs import left, plan_jobs, run_jobs, write_clip
from opensora_nb.sample.long import LongConfig, rounds
from opensora_nb.sample.pipeline import (ModelDefaults, SampleConfig, generate, length_note, load_pipeline, made_frames,
                                         text_to_video, warnings_for)
from opensora_nb.sample.settings import OPENSORA_12, RANGES
from opensora_nb.text.prompts import parse_prompt_spec, read_prompt_file

RED = 'a red circle moves left'

@pytest.fixture(scope='module')
def tiny(): return load_pipeline('tiny', 'cpu')

def sample_command(*words, cwd=None, monkeypatch=None):
    "`osnb sample` in this process; what it printed is left to capsys"
    from opensora_nb.app.cli import main
    if monkeypatch: monkeypatch.chdir(cwd)
    with warnings.catch_warnings(): return main(['sample', *map(str, words)])

# ---------------------------------------------------------------- ranges

WRONG = dict(
    num_sampling_steps=(0, -1, 1001, 2.5, 'many'),
    fps=(0, -1, 2**31, float('inf'), float('nan')),
    cfg_scale=(-3, 1e9, 1e30, float('nan'), float('inf'), 'high'),
    seed=(-1, 2**32, 2**32 + 42, 1.5, None, 'x'),
    num_frames=(0, -1, 2.5),
    image_size=(64, (64,), (64, 64, 3), (6.5, 64)),
    negative_prompt=(None, 3),
)
WRONG_PAIRS = []
for name, values in WRONG.items(): WRONG_PAIRS += [(name, v) for v in values]

@pytest.mark.parametrize('name,value', WRONG_PAIRS)
def test_settings_outside_their_range_are_one_sentence_in_python(name, value):
    "A user of `text_to_video` reads the setting, what was given and the range, before any weights are opened"
    with pytest.raises(ValueError) as said: text_to_video(RED, weights='nowhere', **{name: value})
    text = str(said.value)
    assert text.startswith(f'{name} is {value!r}; ') and '\n' not in text

@pytest.mark.parametrize('name', RANGES)
def test_ends_of_every_range_are_taken(name):
    low, high, *_ = RANGES[name]
    for value in (low, high if high != float('inf') else 10**9):
        assert getattr(SampleConfig(**{name: value}), name) == value

@pytest.mark.parametrize('words,said', [
    (['--cfg-scale', '-3'],                         'cfg_scale is -3.0; guidance goes from 0'),
    (['--cfg-scale', 'nan'],                        'cfg_scale is nan'),
    (['--fps', '2147483648'],                       'a clip has 1 to 1000 frames a second'),
    (['--seed', '-1'],                              'seed is -1; use a whole number from 0 to 4294967295'),
    (['--seed', '4294967295', '--num-sample', '2'], 'seed is 4294967296'),
    (['--num-sampling-steps', '100000'],            'use 1 to 1000 steps'),
    (['--save-fps', '0.0001'],                      '--save-fps is 0.0001; a file has 0.01 to 1000'),
    (['--save-fps', 'nan'],                         '--save-fps is nan'),
    (['--frame-interval', '1000'],                  '--fps over --frame-interval is 0.008'),
    (['--format', 'gif', '--fps', '60'],            'a GIF has 0.01 to 50'),
])
def test_the_command_refuses_the_same_before_any_work(tmp_path, monkeypatch, capsys, words, said):
    "`--save-fps 0.0001` wrote a file of 24 frames a second; a GIF of more than 50 cannot be written at all"
    assert sample_command('--prompt', RED, *words, cwd=tmp_path, monkeypatch=monkeypatch) == 1
    err = capsys.readouterr().err
    assert said in err and err.startswith('osnb: error: ') and err.count('\n') == 1 and not list(tmp_path.iterdir())

@pytest.mark.parametrize('values', [
    dict(cfg_scale=-3), dict(cfg_scale=1e9), dict(seed=-1), dict(seed=2**32), dict(fps=2147483648),
    dict(num_sampling_steps=0)])
def test_the_form_refuses_the_same(values):
    "Guidance -3 was refused by the command and taken by the web page; `fps` 2147483648 failed after the work"
    from opensora_nb.app.fields import read_form
    with pytest.raises(ValueError): read_form(ModelDefaults(), values)

def test_seeds_that_differ_by_two_to_the_32_are_not_the_same(tiny):
    "Seed 42 + 2^32 made the clip of seed 42; now it is refused, also in `seeds`, and a training seed draws others"
    with pytest.raises(ValueError, match='seed is 4294967338; use a whole number from 0 to 4294967295'):
        generate(tiny, [RED], SampleConfig(num_sampling_steps=1), seeds=[2**32 + 42])
    keys = [(s + k*2**32, 3) for s, k in product((0, 42, 2**32 - 1), (-1, 0, 1, 2, 2**32))]
    assert len({rng_for(*k).random() for k in keys}) == len(keys)
    # ordinary keys draw what they always did
    assert rng_for(42, 3).random() == np.random.default_rng([42, 3]).random()

# ---------------------------------------------------------------- lengths

FEW = dict(num_sampling_steps=2)

def as_asked(pipe):
    "The same weights, told to make every length as it is, as released weights are"
    return replace(pipe, defaults=replace(pipe.defaults, lengths=(1,)))

@pytest.mark.parametrize('frames', range(1, 41))
def test_a_length_is_made_whole_and_cut(tiny, frames):
    "Every length is made as the next one whose chunks of 17 begin with three empty frames, as in training"
    made = made_frames(tiny.vae, tiny.defaults, frames)
    ends = [min(17, made - a) for a in range(0, made, 17)]
    assert all(-n % 4 == 3 for n in ends)
    assert 0 <= made - frames < 4
    assert made_frames(tiny.vae, tiny.defaults, made) == made
    assert not any(all(-min(17, n - a) % 4 == 3 for a in range(0, n, 17)) for n in range(frames, made))
    assert bool(length_note(tiny.vae, tiny.defaults, frames)) == (made != frames)

@pytest.mark.parametrize('frames', [1, 5, 17, 18, 34, 35])
def test_good_lengths_are_what_they_were_to_the_bit(tiny, frames):
    "17, 18, 34, 35 frames and pictures do not change by a bit, and nothing is said"
    cfg = SampleConfig(num_frames=frames, **FEW)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        got = generate(tiny, [RED], cfg)[0]
    with warnings.catch_warnings(record=True): want = generate(as_asked(tiny), [RED], cfg)[0]
    assert np.array_equal(got, want) and len(got) == frames

@pytest.mark.parametrize('frames,made', [(16, 17), (4, 5), (21, 22)])
def test_other_lengths_are_the_beginning_of_the_next_good_one(tiny, frames, made):
    "`num_frames=16` gave broken first frames and a shape in two pieces, without a word"
    with pytest.warns(UserWarning, match=f'{made} frames are made and the first {frames} kept') as said:
        video = text_to_video(RED, tiny, num_frames=frames, **FEW)
    assert len(said) == 1
    assert np.array_equal(video.frames, generate(tiny, [RED], SampleConfig(num_frames=made, **FEW))[0][:frames])

def test_what_the_autoencoder_shows_at_16_frames(tiny):
    "True clips through the autoencoder alone: 28 dB at 16 frames (first frame 20), 32 dB where 17 are made and 16 kept"
    clips = [c.video for c in world_clips(6, 'core', 1000, 'test', 17)]
    back = {n: [round_trip(tiny.vae, c[:n])[:16] for c in clips] for n in (16, 17)}
    def psnr(made, kept):
        errors = [np.square(b[:kept].astype(float) - c[:kept]).mean() for b, c in zip(back[made], clips)]
        return np.mean([10*np.log10(255**2/e) for e in errors])
    assert psnr(16, 1) < 22 and psnr(17, 1) > 30
    assert psnr(16, 16) < 29 and psnr(17, 16) > 31.5

def test_the_command_makes_16_frames_and_says_so_once(tmp_path, monkeypatch, capsys):
    "`osnb sample --num-frames 16`: a file of 16 frames, one line of warning, also with --plan"
    words = ['--prompt', RED, '--num-frames', '16', '--num-sampling-steps', '2', '--format', 'png', '--verbose', '0']
    assert sample_command(*words, '--plan', cwd=tmp_path, monkeypatch=monkeypatch) == 0
    first = capsys.readouterr()
    assert sample_command(*words, cwd=tmp_path, monkeypatch=monkeypatch) == 0
    for out in (first, capsys.readouterr()): assert out.err.count('17 frames are made and the first 16 kept') == 1
    assert len(read_frames(tmp_path/'samples'/'sample_0000.png')) == 16

def test_a_form_says_it_beside_the_clip(tiny):
    "The widgets and the web page show the sentence under the clip"
    made = make(tiny, RED, dict(num_frames='16', num_sampling_steps='2'))
    assert len(made.video.frames) == 16
    assert any('17 frames are made' in s for s in made.said)
    assert len(made.guess(0)) == 16

@pytest.mark.parametrize('frames', [16, 21])
def test_films_and_given_frames_of_such_lengths(tiny, tmp_path, monkeypatch, frames):
    "Plan and run agree on the frames of a film, and frames can be given in all latent frames that are made"
    monkeypatch.chdir(tmp_path)
    write_video('own.mp4', render(Scene('circle', 'red', 'moves left'), num_frames=17))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        words = ['--prompt', RED, '--num-frames', str(frames), '--loop', '2', '--num-sampling-steps', '2']
        reference = ['--reference-path', 'own.mp4', '--mask-strategy', '0,0,0,-1,1']
        plan = plan_sample(parse_options([*words, *reference]))
        refs = [read_reference('own.mp4', plan.cfg.image_size)]
        film = np.concatenate([p[0] for p in rounds(tiny, [plan.jobs[0].spec], [refs], plan.cfg, plan.long)])
    assert len(film) == plan.frames
    assert forecast(tiny, frames, device=None).num_frames == plan_cost(plan, timed=False).num_frames == plan.made

def test_a_mask_of_another_length_is_named(tiny):
    "In Python a mask made for 16 frames does not fit the 17 that are made"
    ref = render(Scene('circle', 'red', 'moves left'), num_frames=17)
    keep = given(tiny.vae, [[ref]], [parse_conditions('0')], 16, (64, 64))
    said = 'the mask has 4 latent frames; a clip of 16 frames is made as one of 17, which has 5'
    with pytest.raises(ValueError, match=said), pytest.warns(UserWarning):
        generate(tiny, [RED], SampleConfig(num_frames=16, **FEW), **keep)

def test_released_weights_keep_the_reference_s_lengths(tiny):
    "Open-Sora's own weights: every length is made as it is there; those beside the training lengths are noted"
    assert all(made_frames(UNKNOWN_VAE, OPENSORA_12, n) == n for n in range(1, 120))
    assert [n for n in range(1, 500) if not length_note(UNKNOWN_VAE, OPENSORA_12, n)] == [1, 51, 102, 204, 408]
    assert length_note(UNKNOWN_VAE, OPENSORA_12, 16).startswith(
        'these weights were trained on clips of 1, 51, 102, 204 and 408 frames; '
        '16 frames are made as Open-Sora makes them')
    with pytest.warns(UserWarning, match='trained on'):
        clip = generate(as_asked(tiny), [RED], SampleConfig(num_frames=16, **FEW))[0]
    assert clip.shape == (16, 64, 64, 3)

# ---------------------------------------------------------------- NaN

def broken(part, value):
    "`tiny` with one part of its weights spoilt"
    pipe = load_pipeline('tiny', 'cpu')
    for p in getattr(pipe, part).parameters(): p.data.fill_(value)
    return pipe

@pytest.mark.parametrize('part,said', [
    ('model', "the weights 'tiny' hold them"),
    ('text',  "the text encoder of the weights 'tiny' gives them"),
    ('vae',   'the autoencoder made NaN or infinite pixels'),
])
def test_damaged_weights_end_in_a_sentence_that_names_the_part(part, said):
    "NaN weights made a black clip, exit 0"
    with pytest.raises(ValueError, match=said) as e: generate(broken(part, float('nan')), [RED], SampleConfig(**FEW))
    assert '\n' not in str(e.value)

def test_numbers_that_run_away_stop_at_their_step(tiny):
    "Weights that overflow: the sentence says what to try, and no further step is made"
    pipe, steps = load_pipeline('tiny', 'cpu', 'fp16'), []
    for p in pipe.model.final_layer.linear.parameters(): p.data.fill_(6e4)
    def counted(times):
        for t in times:
            steps.append(t)
            yield t
    said = 'try dtype bf16 or fp32, since fp16 ends at 65504 and guidance 2 in place of 9'
    with pytest.raises(ValueError, match=said):
        generate(pipe, [RED], SampleConfig(num_sampling_steps=5, cfg_scale=9), progress=counted)
    assert len(steps) == 1

# ---------------------------------------------------------------- sizes

@pytest.mark.parametrize('words,said', [
    (['--num-frames', '1000000000'],         'a clip of 1,000,000,000 frames of 64 x 64 pixels needs more than'),
    (['--num-frames', '100000000'],          'a clip of 100,000,000 frames'),
    (['--num-frames', '9'*400],              'GB'),
    (['--loop', '1000000000'],               'a film of 1,000,000,000 rounds of 17 frames'),
    (['--image-size', '4000000', '4000000'], '17 frames of 4000000 x 4000000 pixels needs more than'),
    (['--num-sample', '1000000000'],         '--num-sample 1000000000 of 1 prompt makes 1,000,000,000 files'),
])
def test_what_cannot_fit_is_said_before_memory_is_taken(tmp_path, monkeypatch, capsys, words, said):
    "`--num-frames 1000000000` ended in a `MemoryError`, a tenth of it took 4 GB first"
    start, before = time.process_time(), psutil.Process().memory_info().rss
    assert sample_command('--prompt', RED, *words, cwd=tmp_path, monkeypatch=monkeypatch) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count('\n') == 1
    assert time.process_time() - start < 1
    assert psutil.Process().memory_info().rss - before < 1e8

def test_an_endless_list_of_prompts_is_refused(tmp_path, monkeypatch, capsys):
    "`--end-index 10000000000` with --prompt-generator filled the memory with a list; with a file it only ends the file"
    assert sample_command('--prompt-generator', RED, '--end-index', 10**10, cwd=tmp_path, monkeypatch=monkeypatch) == 1
    said = '--start-index 0 to --end-index 10000000000 makes 10,000,000,000 files; one command makes at most 100,000'
    assert said in capsys.readouterr().err
    (tmp_path/'p.txt').write_text(RED)
    assert sample_command('--prompt-path', 'p.txt', '--end-index', 10**10, '--plan') == 0

def test_python_refuses_what_cannot_fit(tiny):
    "The same sentence from `generate` and from a film"
    huge = SampleConfig(num_frames=10**9, **FEW)
    said = 'a clip of 1,000,000,000 frames of 64 x 64 pixels needs more than 49,152 GB of memory, this machine has'
    for run in (lambda: generate(tiny, [RED], huge), lambda: next(rounds(tiny, [parse_prompt_spec(RED)], [[]], huge))):
        with pytest.raises(ValueError, match=said): run()

# ---------------------------------------------------------------- files

ONE = ('--num-frames', '1', '--num-sampling-steps', '1')

def names(folder): return sorted(p.name for p in folder.glob('*.png'))
def contents(folder): return {p.name: p.read_bytes() for p in folder.glob('*.png')}

def test_a_second_prompt_takes_the_next_free_number(tmp_path, monkeypatch, capsys):
    "A second prompt wrote over `samples/sample_0000.mp4`; each command run again still makes nothing"
    for prompt in (RED, 'a blue star moves up', 'a green square moves down'):
        assert sample_command('--prompt', prompt, *ONE, cwd=tmp_path, monkeypatch=monkeypatch) == 0
    first = contents(tmp_path/'samples')
    assert names(tmp_path/'samples') == ['sample_0000.png', 'sample_0001.png', 'sample_0002.png']
    assert len(set(first.values())) == 3
    assert 'sample_0000.png is taken, so the first free name is sample_0002.png' in capsys.readouterr().out
    for prompt in (RED, 'a green square moves down', 'a blue star moves up'):
        assert sample_command('--prompt', prompt, *ONE) == 0
        assert '0 to make (1 there already)' in capsys.readouterr().out
    assert contents(tmp_path/'samples') == first

def test_overwrite_takes_the_copy_with_a_watermark_along(tmp_path, monkeypatch, capsys):
    "The old `_watermark` twin of another prompt stayed beside the new clip; a clip and its twin belong together"
    def run(prompt, *more):
        return sample_command('--prompt', prompt, *ONE, *more, cwd=tmp_path, monkeypatch=monkeypatch)
    assert run(RED, '--watermark') == run('a blue star moves up', '--watermark') == 0
    assert names(tmp_path/'samples') == ['sample_0000.png', 'sample_0000_watermark.png', 'sample_0001.png',
                                         'sample_0001_watermark.png']
    before = contents(tmp_path/'samples')
    assert run('a green square moves down', '--overwrite') == 0
    assert '1 made from something else will be written over' in capsys.readouterr().out
    after = contents(tmp_path/'samples')
    assert sorted(after) == ['sample_0000.png', 'sample_0001.png', 'sample_0001_watermark.png']
    assert after['sample_0000.png'] != before['sample_0000.png']
    assert all(after[n] == before[n] for n in sorted(after)[1:])
    (tmp_path/'samples'/'sample_0001.png').unlink()                        # the user keeps only the copy with the mark
    assert run('a yellow star moves up') == 0
    assert 'sample_0002.png' in names(tmp_path/'samples')
    assert 'sample_0001.png' not in names(tmp_path/'samples')

def planned(folder, *lines, **more):
    return [j.path.name for j in plan_jobs(list(enumerate(lines)), folder, 'mp4', **more)]

def made_by(folder, *lines, **more):
    "Pretend that these were made: files and ledger, without a model"
    for j in left(plan_jobs(list(enumerate(lines)), folder, 'mp4', **more)):
        write_clip(j, np.zeros((1, 16, 16, 3), np.uint8), 8)

def test_names_are_those_of_open_sora_while_they_are_free(tmp_path):
    "sample_0000, sample_0001-2, a prompt as a name; gaps, several samples and files of the user"
    assert planned(tmp_path, 'a', 'b') == ['sample_0000.mp4', 'sample_0001.mp4']
    made_by(tmp_path, 'a', 'b')
    # a longer list of the same
    assert planned(tmp_path, 'a', 'b', 'c') == ['sample_0000.mp4', 'sample_0001.mp4', 'sample_0002.mp4']
    assert planned(tmp_path, 'b', 'a') == ['sample_0002.mp4', 'sample_0003.mp4']
    # what is free keeps its own
    assert planned(tmp_path, 'c', 'd', 'e') == ['sample_0003.mp4', 'sample_0004.mp4', 'sample_0002.mp4']
    assert planned(tmp_path, 'c', 'd', overwrite=True) == ['sample_0000.mp4', 'sample_0001.mp4']
    assert planned(tmp_path, 'a', num_sample=2) == ['sample_0000-0.mp4', 'sample_0000-1.mp4']
    made_by(tmp_path, 'a', num_sample=2)
    assert planned(tmp_path, 'a', num_sample=3) == [f'sample_0000-{k}.mp4' for k in range(3)]
    # samples of a prompt stay together
    assert planned(tmp_path, 'z', num_sample=3) == [f'sample_0001-{k}.mp4' for k in range(3)]
    (tmp_path/'a boat.mp4').touch()
    assert planned(tmp_path, 'a boat', 'a car', prompt_as_path=True) == ['a boat 2.mp4', 'a car.mp4']
    assert planned(tmp_path, 'a boat', 'a boat 2', prompt_as_path=True) == ['a boat 3.mp4', 'a boat 2.mp4']

def test_the_same_again_is_found_under_its_number(tmp_path):
    "A clip that got a later number is done when the command runs again, and made again there when its file is gone"
    made_by(tmp_path, 'a')
    made_by(tmp_path, 'b')
    made_by(tmp_path, 'c')
    assert [planned(tmp_path, p) for p in 'abc'] == [[f'sample_000{n}.mp4'] for n in range(3)]
    assert not left(plan_jobs([(0, 'b')], tmp_path))
    (tmp_path/'sample_0001.mp4').unlink()
    assert planned(tmp_path, 'b') == ['sample_0001.mp4'] and planned(tmp_path, 'd') == ['sample_0001.mp4']
    made_by(tmp_path, 'd')
    assert planned(tmp_path, 'b') == ['sample_0003.mp4'] and planned(tmp_path, 'd') == ['sample_0001.mp4']

def test_kept_rounds_of_another_film_stay(tmp_path, tiny):
    "The rounds that Ctrl-C left in `_part` were deleted by the next clip of that name, whatever it was"
    class Stop(Exception): pass
    seen = []
    def stop(steps):
        seen.append(1)
        if len(seen) == 2: raise Stop
        return steps
    cfg, films = SampleConfig(num_sampling_steps=1, num_frames=5), LongConfig(2, 1)
    with pytest.raises(Stop), pytest.warns(UserWarning, match='1 of 2 rounds are kept'):
        list(run_jobs(tiny, plan_jobs([(0, RED)], tmp_path), cfg, films, progress=stop))
    assert planned(tmp_path, 'a blue star') == ['sample_0001.mp4'] and planned(tmp_path, RED) == ['sample_0000.mp4']
    made_by(tmp_path, 'a blue star')
    assert (tmp_path/'sample_0000_part.mp4').exists()
    made_by(tmp_path, RED)
    assert not (tmp_path/'sample_0000_part.mp4').exists() and (tmp_path/'sample_0000.mp4').exists()

def test_a_file_that_came_meanwhile_stays(tmp_path):
    "Two commands in one folder at the same time: both planned sample_0000, and both clips are kept"
    job = plan_jobs([(0, 'a')], tmp_path)[0]
    (tmp_path/'sample_0000.mp4').write_text('of the other command')
    assert write_clip(job, np.zeros((1, 16, 16, 3), np.uint8), 8).path.name == 'sample_0000 2.mp4'
    assert (tmp_path/'sample_0000.mp4').read_text() == 'of the other command'
    assert planned(tmp_path, 'a') == ['sample_0000 2.mp4']

def test_a_ledger_of_the_version_before_is_read(tmp_path):
    "Rows without a name asked for, and rows that are cut off, damaged or of another kind"
    job = plan_jobs([(0, 'a')], tmp_path)[0]
    job.path.touch()
    line = '{"file": "sample_0000.mp4", "line": "a", "text": ["a"], "seed": 42, "key": "%s"}' % job.key
    (tmp_path/'jobs.jsonl').write_text('[1]\n{"file": 3, "key": "x"}\n' + line + '\n{"fi')
    assert not left(plan_jobs([(0, 'a')], tmp_path)) and planned(tmp_path, 'b') == ['sample_0001.mp4']

# ---------------------------------------------------------------- seconds

def plan_of(*words):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return plan_sample(parse_options([*words, '--prompt', RED]))

@pytest.mark.parametrize('words,frames', [
    (['--num-frames', '2s'],                                 16),
    (['--num-frames', '0.5s'],                               4),
    (['--num-frames', '2s', '--fps', '12'],                  24),
    (['--num-frames', '17'],                                 17),
    (['opensora-1.2', '--num-frames', '2s'],                 51),
    (['opensora-1.2', '--num-frames', '16s', '--fps', '12'], 408),
])
def test_seconds_are_seconds_at_the_model_s_rate(words, frames):
    "`--num-frames 2s` with `tiny` gave 51 frames, so 6.4 seconds; names of Open-Sora's weights mean the same there"
    assert plan_of(*words).cfg.num_frames == frames

@pytest.mark.parametrize('length,said', [
    ('0s',         '0s is less than a frame at 8 frames a second; use at least 0.125s'),
    ('0.01s',      'less than a frame'),
    ('-2s',        'is not a length'),
    ('s',          'is not a length'),
    ('9'*30 + 's', 'GB of memory'),
])
def test_seconds_that_are_no_length(length, said):
    "One sentence for each"
    with pytest.raises(ValueError, match=said) as e: plan_of(f'--num-frames={length}')
    assert '\n' not in str(e.value)

def test_a_two_second_file_lasts_two_seconds(tmp_path, monkeypatch):
    "The file itself, read back"
    words = ('--prompt', RED, '--num-frames', '2s', '--num-sampling-steps', '1')
    assert sample_command(*words, cwd=tmp_path, monkeypatch=monkeypatch) == 0
    info = probe(tmp_path/'samples'/'sample_0000.mp4')
    assert info.num_frames/info.fps == 2

# ---------------------------------------------------------------- what a command says

def test_a_run_folder_is_announced_by_its_name(tmp_path, monkeypatch, capsys):
    "`--weights runs/mine` announced \"tiny\""
    shutil.copytree(assets('tiny'), tmp_path/'runs'/'mine')
    words = ('--weights', 'runs/mine', '--prompt', RED, '--plan')
    assert sample_command(*words, cwd=tmp_path, monkeypatch=monkeypatch) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.split(',')[-1].strip() == 'runs/mine'
    assert sample_command('worlds', '--prompt', RED, '--plan') == 0
    assert capsys.readouterr().out.splitlines()[0].strip().endswith(', worlds')

@pytest.mark.parametrize('dtype,gb', [('fp32', '19.1 GB in fp32'), ('bf16', '9.5 GB in bf16')])
def test_a_plan_of_the_released_weights_names_all_of_them(tmp_path, monkeypatch, capsys, dtype, gb):
    "`--preset opensora-1.2 --plan` left out T5, what is missing and how to get it; it asks no network"
    monkeypatch.setattr('opensora_nb.sample.released.no_download', lambda *_: pytest.fail('a network was asked'))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path/'nowhere'))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    words = ('--preset', 'opensora-1.2', '--prompt', 'a cat', '--num-frames', '1', '--text-dtype', dtype, '--plan')
    assert sample_command(*words, cwd=tmp_path, monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert '3 of the 3 parts of Open-Sora 1.2 are missing:' in out and gb in out
    repos = {'DeepFloyd/t5-v1_1-xxl': '19.1 GB', 'hpcai-tech/OpenSora-VAE-v1.2': '1.6 GB',
             'hpcai-tech/OpenSora-STDiT-v3': '4.8 GB'}
    for repo, size in repos.items():
        assert f'{repo} ({size} in float32): not on this disk' in out and f'`hf download {repo}` ({size})' in out

def test_int8_says_when_it_changes_nothing(tmp_path, monkeypatch, capsys):
    "All layers of `tiny` are too small for --linears int8: the clip is the same, and one line says so"
    words = ('--prompt', RED, *ONE, '--verbose', '0')
    assert sample_command(*words, '--linears', 'int8', cwd=tmp_path, monkeypatch=monkeypatch) == 0
    err = capsys.readouterr().err
    linears = [m for m in load_pipeline('tiny', 'cpu').model.modules() if isinstance(m, torch.nn.Linear)]
    widest = max(min(m.weight.shape) for m in linears)
    assert err.count('int8 changes nothing here') == 1 and f'at most {widest}' in err
    assert sample_command(*words, '--linears', 'plain', '--save-dir', 'plain') == 0
    assert 'int8' not in capsys.readouterr().err
    assert (tmp_path/'samples'/'sample_0000.png').read_bytes() == (tmp_path/'plain'/'sample_0000.png').read_bytes()
    with warnings.catch_warnings(), faster(torch.nn.Sequential(torch.nn.Linear(256, 256)), 'int8', remember=False):
        warnings.simplefilter('error')                                     # a model with one wide layer: nothing to say

@pytest.mark.parametrize('prompt', ['a', 'the', '...', ''])
def test_a_prompt_that_names_nothing_is_told_what_is_missing(prompt):
    "The warning for the prompt \"a\" ended in an empty list"
    assert prompt_warnings(prompt, ('core',)) == [
        "this prompt names no shape, no colour and no motion; write a sentence such as 'a red circle moves left'"]

@pytest.mark.parametrize('prompt,level', [
    ('a big red dog and two cats',              'core'),
    ('two cats',                                'core'),
    ('a circle and two dogs',                   'core'),
    ('three dogs, a red circle',                'core'),
    ('一个红色圆形和两个狗',                    'core'),
    ('two red circles move left',               'many'),
    ('two big red circles',                     'many'),
    ('there are three blue stars that move up', 'many'),
    ('两个红色圆形向左移动',                    'many'),
])
def test_a_number_counts_only_with_a_thing_of_this_world(prompt, level):
    "\"a big red dog and two cats\" was said to be of level many"
    got, named, _ = read_prompt(prompt)
    assert got == level and ('count' in named) == (level == 'many')
    assert any('level many' in s for s in prompt_warnings(prompt, ('core',))) == (level == 'many')

def test_marks_of_byte_order_within_a_prompt_file(tmp_path):
    "Files that were joined carry a mark at the start of each; it stayed in the prompt"
    (tmp_path/'p.txt').write_bytes(
        b'\xef\xbb\xbfa red circle\n\xef\xbb\xbfa blue star\r\n\xef\xbb\xbf\n \xef\xbb\xbf a green square\n')
    assert read_prompt_file(tmp_path/'p.txt') == [(0, 'a red circle'), (1, 'a blue star'), (3, 'a green square')]

# ---------------------------------------------------------------- what checks a prompt

def test_weights_name_a_checker_of_the_package_and_no_code(tmp_path):
    "pipeline.json names what checks prompts; a name outside this package is refused, and nothing is imported for it"
    for path in (tmp_path/'other', tmp_path/'old'): shutil.copytree(assets('tiny'), path)
    settings = json.loads((tmp_path/'old'/'pipeline.json').read_text())
    assert settings.pop('prompt_checker') == 'toy'
    (tmp_path/'old'/'pipeline.json').write_text(json.dumps(settings))
    (tmp_path/'other'/'pipeline.json').write_text(json.dumps(settings | dict(prompt_checker='os:getcwd')))
    with pytest.raises(ValueError, match="unknown prompt_checker 'os:getcwd'; this package has toy"):
        load_pipeline(tmp_path/'other', 'cpu')
    old = load_pipeline(tmp_path/'old', 'cpu').defaults                      # a folder of before still warns
    new = load_pipeline('tiny', 'cpu').defaults
    assert warnings_for('two red circles move left', old) == warnings_for('two red circles move left', new) != []
    assert warnings_for('two red circles move left', ModelDefaults()) == []

def test_the_sampler_does_not_import_the_toy_world():
    "Weights that were trained on something else are sampled without it"
    code = "import sys, opensora_nb.sample.pipeline; print([m for m in sys.modules if m.startswith('opensora_nb.toy')])"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == '[]'
