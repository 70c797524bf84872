"Autoencoder stages with a discriminator: resumed runs, two processes, settings and files of all kinds"
import os, subprocess, sys
from dataclasses import fields, replace
from pathlib import Path
import pytest, torch
from hypothesis import given, settings, strategies as st
from opensora_nb.config import override
from opensora_nb.data.dataset import DataConfig
from opensora_nb.train.loop import batch_ids, train
from opensora_nb.train.optim import OptimConfig
from opensora_nb.train.checkpoint import latest
from opensora_nb.train.vae import VAETask, VAETrain
from opensora_nb.vae.adversarial import AdversarialConfig
from opensora_nb.vae.losses import VAELossConfig
from opensora_nb.vae.perceptual import LPIPS_FILES, load_lpips, make_perceptual
from opensora_nb.sample.pipeline import load_vae
from opensora_nb.vae.image import VideoAutoencoderKL
from opensora_nb.vae.video import video_vae_tiny

ROOT = Path(__file__).resolve().parent.parent
TINY = video_vae_tiny()
NANO = replace(TINY, vae_2d=replace(TINY.vae_2d, block_out_channels=(8, 8, 8, 8)),
               vae_temporal=replace(TINY.vae_temporal, filters=8, channel_multipliers=(1, 1, 1, 1)))
COMMON = dict(vae=NANO, data=DataConfig(n=8), batch_size=2, validate_on=1, preview_every=0, device='cpu',
              precision='no', optim=OptimConfig(lr=1e-3, warmup=0, decay='constant'), log_every=1)

@pytest.fixture(scope='module')
def start(tmp_path_factory):
    out = tmp_path_factory.mktemp('runs')
    train(VAETrain(name='start', stage='image', out=str(out), steps=1, **COMMON | dict(batch_size=4)), progress=False)
    return out

def stage3(out, name, steps, kind='2d', **more):
    adversarial = AdversarialConfig(kind=kind, start=1, ndf=4, n_layers=1, lecam_weight=0.01, lr=1e-2)
    return VAETrain(name=name, out=str(out), steps=steps, stage='all', form='v12', init=str(out/'start'),
                    mix='mixed_video_random', loss=VAELossConfig(perceptual='edges'), adversarial=adversarial,
                    **COMMON | more)

def everything(run):
    "All that learns or remembers: weights, averages, moments, and the same of the discriminator"
    a, o = run.task.discriminator.adversary, run.task.discriminator.opt
    moments = {}
    for opt in (run.opt, o):
        for i, state in opt.state_dict()['state'].items(): moments |= {f'{i}.{k}': v for k, v in state.items()}
    return [dict(run.model.state_dict()), run.ema.shadow, a.state_dict(), moments]

@pytest.mark.parametrize('kind', ['2d', '3d'])
def test_a_resumed_run_with_a_discriminator_is_the_same_to_the_bit(start, kind):
    whole = train(stage3(start, f'whole{kind}', 6, kind), progress=False)
    train(stage3(start, f'parts{kind}', 3, kind), progress=False)
    parts = train(stage3(start, f'parts{kind}', 6, kind), progress=False)
    assert any('d' in r for r in whole.log) and 'd' not in whole.log[0]
    for a, b in zip(everything(whole), everything(parts)):
        assert a.keys() == b.keys()
        for k in a: assert torch.equal(a[k], b[k]), k
    assert whole.task.discriminator.adversary.ema_real != 0
    names = ('loss', 'rec', 'perceptual', 'g', 'd', 'real', 'fake')
    def seen(run): return [{k: r.get(k) for k in names} for r in run.log if 'loss' in r]
    assert seen(whole) == seen(parts)
    saved = torch.load(latest(parts.folder)/'adversary.pt', weights_only=True)
    assert torch.equal(saved['net']['net.main.0.weight'], whole.task.discriminator.adversary.net.main[0].weight)

def test_another_discriminator_is_refused(start):
    train(stage3(start, 'other', 2), progress=False)
    cfg = stage3(start, 'other', 3)
    with pytest.raises(ValueError, match='another discriminator than .*ndf=8'):
        train(replace(cfg, adversarial=replace(cfg.adversarial, ndf=8)), progress=False)

def test_the_decoder_feels_the_discriminator_and_only_from_its_start(start):
    cfg = stage3(start, 'felt', 2)
    never = replace(cfg, adversarial=replace(cfg.adversarial, start=100), name='never')
    felt, never = train(cfg, progress=False), train(never, progress=False)
    assert felt.log[0]['loss'] == never.log[0]['loss'] and 'g' in felt.log[1] and 'g' not in never.log[1]
    def last_layer(run): return run.model.vae.spatial_vae.module.decoder.conv_out.weight
    assert not torch.equal(last_layer(felt), last_layer(never))

def test_passes_and_processes_agree_on_the_length(start):
    "The length of a step comes from its first sample, whichever part of the step one holds"
    task = VAETask(stage3(start, 'lengths', 1, batch_size=4), torch.device('cpu'))
    seen = set()
    for step in range(7): # 8 clips: batches cross from one epoch to the next now and then
        ids, epochs = batch_ids(8, 4, step, 42)
        batches = [task.batch(ids[k:k+2], epochs[k:k+2]) for k in (0, 2)]
        assert {b['step'] for b in batches} == {step} and len({b['x'].shape[2] for b in batches}) == 1
        seen.add(batches[0]['x'].shape[2])
    assert len(seen) > 3

def test_the_perceptual_term_weighs_the_same_in_both_forms(start):
    "own is v12 divided by the values of a frame"
    cfg = replace(stage3(start, 'forms', 1), adversarial=AdversarialConfig())
    x = torch.rand(1, 3, 5, 16, 16)*2 - 1
    terms = []
    for form in ('own', 'v12'):
        task = VAETask(replace(cfg, form=form), torch.device('cpu'))
        task.vae.eval()
        torch.manual_seed(0)
        with torch.no_grad():
            task.vae.spatial_vae.module.quant_conv.weight[4:].zero_()
            task.vae.spatial_vae.module.quant_conv.bias[4:].fill_(-30)  # no noise in either posterior
            task.vae.temporal_vae.quant_conv.conv.weight[4:].zero_()
            task.vae.temporal_vae.quant_conv.conv.bias[4:].fill_(-30)
            terms.append(task.loss(task.module, dict(x=x, step=0))[1]['perceptual'])
    assert terms[1] == pytest.approx(terms[0]*3*16*16, rel=1e-3)

TWO = '''
import sys
import torch.distributed as dist
from tests.test_vae_training import *
run = train(stage3(Path(sys.argv[1]), 'two', 4, processes=2), progress=False)
assert run.step == 4
mine = torch.cat([p.detach().flatten() for p in run.task.discriminator.adversary.net.parameters()])
both = [torch.empty_like(mine) for _ in range(2)]
dist.all_gather(both, mine)
assert torch.equal(*both), 'the discriminators differ'
if run.acc.is_main_process: print('same', any('d' in r for r in run.log))
'''

def test_two_processes_keep_one_discriminator(start, tmp_path):
    (tmp_path/'two.py').write_text(TWO)
    env = dict(os.environ, ACCELERATE_USE_CPU='true', OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
    command = [*launcher, str(tmp_path/'two.py'), str(start)]
    out = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)
    assert 'same True' in out.stdout, (out.stdout + out.stderr)[-2500:]

TEXT = st.one_of(st.text(max_size=12), st.sampled_from([
    'nan', 'inf', '-1', '0', '1e400', 'none', '2d', 'lpips', '0.5 0.9', '1 1', 'true']))
NAMES = [*(f'adversarial.{f.name}' for f in fields(AdversarialConfig)),
         *(f'loss.{f.name}' for f in fields(VAELossConfig)),
         'form', 'mix', 'image_share', 'calibrate', 'stage', 'init_2d']

@settings(max_examples=300, deadline=None)
@given(st.sampled_from(NAMES), TEXT)
def test_settings_of_any_kind_fit_or_say_why(name, text):
    try: override(VAETrain(stage='all', init='somewhere'), f'{name}={text}')
    except ValueError as e: assert len(str(e)) > 10

@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(LPIPS_FILES)), st.binary(max_size=200))
def test_damaged_lpips_files_say_which(tmp_path_factory, name, data):
    folder = tmp_path_factory.mktemp('lpips')
    for other in LPIPS_FILES: torch.save({'x': torch.zeros(1)}, folder/other)
    (folder/name).write_bytes(data)
    with pytest.raises(ValueError, match='vgg'): load_lpips(folder)

@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20))
def test_unknown_measures(name):
    try: make_perceptual(name, 'nowhere')
    except (ValueError, FileNotFoundError) as e: assert 'edges' in str(e)

def test_the_first_stage_alone_gives_an_autoencoder_of_frames(tmp_path):
    "It is saved as Open-Sora 1.0's is, its latents have size 1, and a later stage can start from it by init_2d only"
    how = COMMON | dict(batch_size=4, out=str(tmp_path))
    one = train(VAETrain(name='frames', stage='image', steps=1, frames_alone=True, **how), progress=False)
    vae = load_vae(one.folder)
    assert isinstance(vae, VideoAutoencoderKL) and vae.scaling_factor != .18215
    z = vae.encode(one.task.data.some(8))
    assert z.shape == (8, 4, 17, 8, 8) and .9 < z.std() < 1.1
    with pytest.raises(ValueError, match="has no temporal part; start from it with init_2d"):
        VAETask(VAETrain(name='x', stage='temporal', init=str(one.folder), **how), 'cpu')
    task = VAETask(VAETrain(name='x', stage='temporal', init_2d=str(one.folder), calibrate=False, **how), 'cpu')
    ours, theirs = task.vae.spatial_vae, vae
    assert ours.scaling_factor == theirs.scaling_factor == task.vae.cfg.scaling_factor
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())
    with pytest.raises(ValueError, match='use frames_alone=no, or stage=image'):
        VAETrain(stage='temporal', init='x', frames_alone=True)
