"Training on many sizes: one process, two, and one again after a stop; test_train.py starts them as a user does."
import json
from functools import cache
import pytest
from opensora_nb.core import has_package
from opensora_nb.data.bucket import Buckets
from opensora_nb.data.dataset import DataConfig
from opensora_nb.data.multi_size import open_mixed
from opensora_nb.data.video_io import write_image, write_video
from opensora_nb.sample.pipeline import load_pipeline
from opensora_nb.toy.levels import draw_world, render_world
from ranks import Ranks

RECIPE = '''
import os
from dataclasses import replace
from opensora_nb.data.dataset import DataConfig
from opensora_nb.models.stdit3 import stdit3_tiny
from opensora_nb.train.diffusion import T2VTask, T2VTrain
from opensora_nb.train.optim import OptimConfig

class Told(T2VTask): # says how many tokens of a frame its process shares with others
    def loss(self, module, batch):
        out = super().loss(module, batch)
        shared = getattr(getattr(self.module.model, 'tokens', None), 'n', 0)
        os.write(1, f"tokens shared: {shared}\\n".encode())
        return out

class Config(T2VTrain):
    def make_task(self, device): return Told(self, device)

def recipe(quick=False):
    return Config(name='one', model=replace(stdit3_tiny(), hidden_size=32, depth=1, num_heads=2),
                  data=DataConfig(n=48, native=('35x64x64', '18x48x80', '1x64x64')), buckets='buckets.json',
                  batches=2, steps=8, log_every=1, save_every=4, preview_every=0, validate_on=0, masks='random:0.5',
                  device='cpu', precision='no', optim=OptimConfig(lr=1e-2, warmup=2))
'''

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp('mixed')
    (out/'my_recipe.py').write_text(RECIPE)
    (out/'buckets.json').write_text(json.dumps({'64': {1: [1., 4], 9: [1., 3], 17: [[1., .5], 2], 34: [[1., .4], 1]}}))
    return out

@cache
def ranks(): return Ranks()

@pytest.fixture(scope='module', autouse=True)
def closed():
    yield
    if ranks.cache_info().currsize: ranks().close()

def launch(folder, *overrides, processes=1):
    "-> exit code, what all processes said"
    codes, said, _ = ranks().run(folder, 'my_recipe:recipe', f'processes={processes}', *overrides,
                                 processes=processes, seconds=240, after=30)
    return max(codes, key=abs), ''.join(said)

def losses(folder, name):
    rows = map(json.loads, (folder/'runs'/name/'log.jsonl').read_text().splitlines())
    return {r['step']: {k: v for k, v in r.items() if k.startswith('loss')} for r in rows if 'loss' in r}

def test_one_and_two_processes_and_a_change_in_between_take_the_same_steps(folder):
    for name, how in dict(one=[(1, 8)], two=[(2, 8)], change=[(2, 4), (1, 8)]).items():
        for processes, steps in how:
            rc, said = launch(folder, f'name={name}', f'steps={steps}', 'optim.decay=constant', processes=processes)
            assert rc == 0, said[:3000]
    one = losses(folder, 'one')
    seen = set().union(*one.values())
    assert set(one) == set(range(1, 9)) and len([k for k in seen if '/' in k]) >= 3
    for other in (losses(folder, 'two'), losses(folder, 'change')):
        # the same buckets in every step
        assert {s: set(r) for s, r in one.items()} == {s: set(r) for s, r in other.items()}
        assert max(abs(other[s]['loss'] - r['loss']) for s, r in one.items()) < 1e-5
        for s, r in one.items(): assert all(abs(other[s][k] - r[k]) < 1e-5 for k in r if '/' in k)

@pytest.mark.parametrize('world, overlap', [(2, 1), (3, 1), (2, 2)])
def test_processes_that_share_clips_take_the_same_steps_as_one(folder, world, overlap):
    "The model has two heads, so with three processes one has none"
    for processes in (1, world):
        parts = overlap if processes > 1 else 1
        rc, said = launch(folder, f'name=share{world}{overlap}_{processes}', 'steps=4', 'optim.decay=constant',
                          'preview_every=4', 'sampling_steps=2', f'overlap={parts}', f'sequence={processes}',
                          processes=processes)
        assert rc == 0, said[:3000]
        # 16 or 15 tokens a frame
        assert said.count('tokens shared: 0') == (8 if processes == 1 else 0)
        assert said.count('tokens shared: 1') == (0 if processes == 1 else 8*processes)
    one, other = (losses(folder, f'share{world}{overlap}_{n}') for n in (1, world))
    assert set(one) == set(other) == {1, 2, 3, 4}
    for s in one: assert all(abs(one[s][k] - other[s][k]) < 1e-5 for k in one[s] if k != 'loss_mask_random')
    assert (folder/'runs'/f'share{world}{overlap}_{world}'/'previews').is_dir()

@pytest.mark.parametrize('change, processes, message', [
    ('sequence=3',         2, '2 ranks cannot form groups of 3; groups of 1, 2 fit'),
    ('batches=3',          2, '3 batches a step do not divide over 2 processes; try batches=2'),
    ('buckets=v12_stage1', 1, 'no step in an epoch of 48 clips'),
    ('buckets=no',         1, "unknown buckets 'no'; use one of v12_stage1"),
    ('data.native=64x64',  1, 'write FRAMESxHEIGHTxWIDTH'),
    ('data.native=',       1, 'data.native'),
])
def test_what_does_not_fit_is_one_line(folder, change, processes, message):
    rc, said = launch(folder, 'name=bad', change, processes=processes)
    assert rc != 0 and message in said and (processes > 1 or 'Traceback' not in said), said[:3000]

def test_lengths_are_counted_not_believed_and_bad_files_are_named(tmp_path):
    clip = render_world(draw_world(0, 0, 'core'), 40, (64, 64))
    write_video(tmp_path/'a.mp4', clip, fps=8)
    write_image(tmp_path/'b.png', clip[0])
    data = (tmp_path/'a.mp4').read_bytes()
    (tmp_path/'c.mp4').write_bytes(data[:len(data)*2//3])
    (tmp_path/'d.mp4').write_bytes(b'')
    with pytest.warns(UserWarning) as said:
        mixed = open_mixed(DataConfig(path=str(tmp_path)), Buckets({'64': {1: (1., 1), 34: (1., 1)}}), progress=False)
    assert mixed.sizes == [(40, 64, 64), (1, 64, 64)]
    assert all(any(n in str(w.message) for w in said) for n in ('c.mp4', 'd.mp4', '2 of 4'))
    for p in tmp_path.glob('[ab].*'): p.unlink()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match='none|no '):
        open_mixed(DataConfig(path=str(tmp_path)), Buckets({'64': {1: (1., 1)}}), progress=False)

# ---- a frozen T5, a released autoencoder and a released transformer, at toy size

FROZEN = '''
from opensora_nb.data.dataset import DataConfig
from opensora_nb.train.diffusion import T2VTrain
from opensora_nb.train.optim import OptimConfig

def recipe(quick=False):
    return T2VTrain(name='t5', init='{released}/stdit3', vae_weights='{released}/vae', text_weights='{released}/t5',
                    data=DataConfig(n=12, num_frames=17, image_size=(32, 32)), batch_size=4, steps=6, log_every=1,
                    save_every=3, preview_every=6, preview_prompts=('a red circle moves left',), validate_on=2,
                    sampling_steps=2, caption_drop=.3, device='cpu', precision='no',
                    optim=OptimConfig(lr=1e-2, warmup=2))
'''

def check_that_it_resumes(folder):
    "Three steps, then the rest, with the stored captions; the losses are those of a run without a stop"
    import numpy as np
    rc, said = launch(folder, 'steps=3')
    assert rc == 0, said[:3000]
    def stored(): return {f: f.stat().st_mtime_ns for f in (folder/'runs'/'features').glob('*/text-*.safetensors')}
    first = stored()
    rc, said = launch(folder)
    assert rc == 0, said[:3000]
    assert first and stored() == first # stored the first time, and found
    one = losses(folder, 't5')
    assert set(one) == set(range(1, 7)) and all(np.isfinite(r['loss']) for r in one.values())
    rc, said = launch(folder, 'name=whole')
    assert rc == 0
    assert losses(folder, 'whole')[6] != {}
    assert abs(losses(folder, 'whole')[2]['loss'] - one[2]['loss']) < 1e-6

def check_that_an_adapter_is_trained(folder, cfg):
    "On the released layout"
    rc, said = launch(folder, 'name=lora', 'lora=2', 'steps=2', 'preview_every=2')
    assert rc == 0, said[:3000]
    assert list((folder/'runs'/'lora').glob('checkpoints/*/weights/lora/lora.safetensors'))
    assert load_pipeline(folder/'runs'/'lora').model.cfg == cfg

def test_a_released_model_with_its_t5_is_trained_on_and_sampled(folder, tmp_path):
    from released_files import write_released
    from opensora_nb.sample.pipeline import SampleConfig, generate
    from opensora_nb.text.encoders import T5Text
    write_released(tmp_path/'released')
    (tmp_path/'my_recipe.py').write_text(FROZEN.replace('{released}', str(tmp_path/'released')))
    check_that_it_resumes(tmp_path)
    pipe = load_pipeline(tmp_path/'runs'/'t5')
    assert isinstance(pipe.text, T5Text) and pipe.text.max_length == 300
    assert generate(pipe, ['a red circle'], SampleConfig(num_sampling_steps=1))[0].shape == (17, 32, 32, 3)
    if has_package('peft'): check_that_an_adapter_is_trained(tmp_path, pipe.model.cfg)
    wrong = {
        'text_weights=nowhere': 'cannot load the T5 encoder',
        'caption_augment=0.5':  'use caption_augment=0',
        'vae_weights=nowhere':  'nowhere',
    }
    if pipe.vae.cfg.latent_channels != 4: wrong['vae_weights=tiny'] = 'takes 4 channels of the autoencoder'
    for change, message in wrong.items():
        rc, said = launch(tmp_path, 'name=bad', change, 'steps=1')
        assert rc != 0 and message in said and 'Traceback' not in said, said[-1500:]
