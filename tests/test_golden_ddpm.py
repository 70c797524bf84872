"""DDPM, SpeeD and DPM-Solver++ against stored results of Open-Sora (fp32, CPU): goldens/iddpm_stdit2.* with STDiT2,
goldens/dpm_solver.* with STDiT, and against the schedulers of diffusers where both define the same thing.
"""
import json
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from opensora_nb.core import torch_rng
from opensora_nb.flow.ddpm import DDIM, DDPM, Mixture, linear_betas, q_sample, respace, tables
from opensora_nb.flow.rflow import sample
from opensora_nb.flow.speed import SpeeD
from opensora_nb.models.stdit2 import STDiT2, STDiT2Config

HERE = Path(__file__).parent/'goldens'
INFO, G = json.loads((HERE/'iddpm_stdit2.json').read_text()), load_file(HERE/'iddpm_stdit2.safetensors')

@pytest.fixture(scope='module')
def stdit2():
    config = json.loads((HERE/'stdit2_weights.json').read_text())['config']
    m = STDiT2(STDiT2Config(**config)).eval()
    m.load_state_dict(load_file(HERE/'stdit2_weights.safetensors'), strict=True)
    return m

def close(ours, theirs, **tol):
    if not torch.is_tensor(theirs): theirs = torch.tensor(theirs, dtype=torch.float64)
    torch.testing.assert_close(ours, theirs, check_dtype=False, **tol)

@pytest.mark.parametrize('steps', INFO['space_timesteps'])
def test_respaced_timesteps(steps):
    assert respace(1000, steps) == INFO['space_timesteps'][steps]

def test_betas():
    betas, g = linear_betas(1000), INFO['named_betas']['linear']
    close(betas[:5], g['first'], atol=1e-12, rtol=1e-9)
    close(betas[-5:], g['last'], atol=1e-12, rtol=1e-9)
    close(betas.sum(), g['sum'], atol=1e-9, rtol=1e-9)

def test_tables_of_ten_steps():
    tab, g = tables(steps=10), INFO['schedule']
    assert tab.timesteps.tolist() == g['timestep_map']
    for ours, theirs in ((tab.betas, 'betas'), (tab.abar, 'alphas_cumprod'), (tab.variance, 'posterior_variance')):
        close(ours, g[theirs], atol=1e-9, rtol=1e-6)
    close(tab.log_variance, g['posterior_log_variance_clipped'], atol=2e-6, rtol=1e-6)

def test_q_sample():
    close(q_sample(tables(), G['q_sample.x'], G['q_sample.noise'], G['q_sample.t']), G['q_sample.out'],
          atol=2e-6, rtol=1e-5)

def test_speed():
    g, speed = INFO['speed'], SpeeD()
    assert speed.meaningful == g['meaningful_steps']
    close(speed.chances[:3], g['p_first'], atol=1e-9, rtol=1e-5)
    close(speed.chances[-3:], g['p_last'], atol=1e-9, rtol=1e-5)
    close(speed.chances.sum(), g['p_sum'], atol=1e-6, rtol=0)
    close(speed.weights[g['weights_at']], g['weights'], atol=1e-7, rtol=1e-6)

LOSS_SIZE = dict(height=torch.full((3,), 144.), width=torch.full((3,), 256.), num_frames=torch.full((3,), 16.),
                 ar=torch.full((3,), 144/256), fps=torch.full((3,), 24.))

@pytest.mark.parametrize('kind', ['plain', 'mask', 'rescaled', 'kl'])
@torch.no_grad()
def test_loss(stdit2, kind):
    schedule, mask = DDPM(), G['loss.frame_mask'] if kind == 'mask' else None
    predict = schedule.asked(stdit2, y=G['loss.y'], mask=G['loss.text_mask'], **LOSS_SIZE)
    terms = schedule.terms(predict, G['loss.x'], G['loss.noise'], G['loss.t'], mask)
    total = dict(kl=1000*terms['vb']).get(kind, terms['mse'] + terms['vb'])
    for name, ours in dict(terms, loss=total).items():
        if f'loss.{kind}.{name}' in G: close(ours, G[f'loss.{kind}.{name}'], atol=1e-4, rtol=1e-3)

@pytest.mark.parametrize('case', INFO['samples'])
def test_sample(stdit2, case):
    info, g = INFO['samples'][case], {k.split('.', 1)[1]: v for k, v in G.items() if k.startswith(case + '.')}
    b, schedule = len(g['z']), DDPM(info['kw']['num_sampling_steps'])
    size = {k: torch.full((b,), v) for k, v in info['args'].items()}
    lens = info['lens']
    seen = []
    guided = schedule.guided(stdit2, info['kw']['cfg_scale'], g['y'], g['text_mask'],
                             channels=info['kw'].get('cfg_channel'), **size)
    def watched(z, t, *m):
        seen.append((z, t))
        return guided(z, t, *m)
    mask = g.get('frame_mask')
    out = sample(watched, g['z'], schedule, mask=mask, x_ref=None if mask is None else g['z'],
                 generator=iter([n[:b] for n in g['noise']]))
    def near(ours, theirs): close(ours, theirs, atol=1e-4*theirs.abs().max().item(), rtol=0)
    assert [t.tolist() for _, t in seen] == g['t'].tolist() and lens == g['text_mask'].sum(1).tolist()
    near(seen[1][0], g['x_step1'])
    near(seen[5][0], g['x_step5'])
    near(out, g['out'])

# diffusers: points around three centres, whose best noise prediction is known
THREE = Mixture(torch.tensor([[0., 1.], [-0.9, -0.5], [0.9, -0.5]]), 0.3)

def best(z, t):
    abar = tables().abar[t]
    return THREE.noise(z, abar.sqrt(), (1 - abar).sqrt())

def walked_by(scheduler, noise):
    z = noise
    for t in scheduler.timesteps:
        out = best(z, t.expand(len(z)))
        z = scheduler.step(out, t, z, **({'eta': 0.} if 'DDIM' in type(scheduler).__name__ else {})).prev_sample
    return z

LINEAR = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule='linear')

@pytest.mark.parametrize('steps', [10, 20, 50])
def test_ddim_as_diffusers_has_it(steps):
    """`ddimN`: equal strides from 0. (Of the timesteps spread to both ends diffusers takes the wrong previous one.)"""
    diffusers = pytest.importorskip('diffusers')
    theirs = diffusers.DDIMScheduler(**LINEAR, clip_sample=False, set_alpha_to_one=True, timestep_spacing='leading')
    theirs.set_timesteps(steps)
    noise, schedule = torch.randn(64, 2, generator=torch_rng(1)), DDIM(f'ddim{steps}')
    assert schedule.visited.timesteps.flip(0).tolist() == theirs.timesteps.tolist()
    close(sample(best, noise, schedule), walked_by(theirs, noise), atol=2e-4, rtol=1e-4)
