"""Rectified flow against stored results of Open-Sora 1.2 (fp32, CPU): goldens/rflow.*, model = STDiT3 A.

Left out on purpose: `loss.weighted`. The reference's table of weights is indexed by the timestep, which a fractional
t cannot do and nobody passes; our `loss` has no such argument. There is no bfloat16 switch either: the goldens are
fp32.
"""
import json
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from opensora_nb.flow.guidance import as_velocity, guided_velocity
from opensora_nb.flow.rflow import interpolate, loss, sample
from opensora_nb.flow.timesteps import discrete_times, logit_normal_times, sampling_times, timestep_shift, uniform_times
from opensora_nb.models.stdit3 import STDiT3, STDiT3Config

HERE = Path(__file__).parent/'goldens'
INFO, G = json.loads((HERE/'rflow.json').read_text()), load_file(HERE/'rflow.safetensors')
TOL = dict(atol=INFO['tolerance']['atol'], rtol=INFO['tolerance']['rtol'])

# The reference counts latent frames as frames//17*5, which is 0 for 2..16 frames: every t becomes 0, and 1000 becomes
# NaN. Our values count the 4 latents that the 1.2 autoencoder makes of 16 frames. (height, width, scale) of these rows:
DEFECT_ROWS = {(144, 256, 1.), (240, 426, 1.), (360, 640, 1.), (360, 640, 2.5), (512, 512, 1.), (720, 1280, 1.),
               (1080, 1920, 1.)}

def latent_frames(f): return f//17*5 + -(-(f % 17)//4)   # Open-Sora 1.2: chunks of 17 frames become 5 latents

@pytest.fixture(scope='module')
def model():
    config = json.loads((HERE/'stdit3_A_weights.json').read_text())['config']
    m = STDiT3(STDiT3Config(**config)).eval()
    m.load_state_dict(load_file(HERE/'stdit3_A_weights.safetensors'), strict=True)
    return m

def close(ours, theirs, **tol): torch.testing.assert_close(ours, theirs, **tol, check_dtype=False)

def test_add_noise():
    out = interpolate(G['add_noise.x'], G['add_noise.noise'], G['add_noise.t']/1000)
    close(out, G['add_noise.out'], atol=1e-6, rtol=1e-6)

ROWS = INFO['timestep_transform']
@pytest.mark.parametrize('row', ROWS, ids=lambda r: f"{r['height']}x{r['width']}x{r['num_frames']}-scale{r['scale']}")
def test_timestep_shift(row):
    t, n_pix, f = torch.tensor(row['t_in'])/1000, row['height']*row['width'], row['num_frames']
    ours = timestep_shift(t, n_pix, latent_frames(f), scale=row['scale'])
    if 1 < f < 17:
        assert (row['height'], row['width'], row['scale']) in DEFECT_ROWS
        assert row['t_out'][:-1] == [0]*(len(t)-1) and row['t_out'][-1] is None, 'the reference still has its defect'
        r = row['scale']*(n_pix/512**2*4)**0.5
        expected = torch.tensor([1000*r*s/(1 + (r-1)*s) for s in t.double().tolist()])
    else: expected = torch.tensor(row['t_out'])
    close(1000*ours, expected, atol=1e-6, rtol=2e-6)

def test_every_defect_row_is_named():
    assert {(r['height'], r['width'], r['scale']) for r in ROWS if 1 < r['num_frames'] < 17} == DEFECT_ROWS

def test_times_drawn_by_seed():
    expected, seed = INFO['t_sampling']['values'], INFO['t_sampling']['seed']
    def g(): return torch.Generator().manual_seed(seed)
    shifted = timestep_shift(logit_normal_times(4, generator=g()), 240*426, latent_frames(51), scale=1.5)
    ours = dict(uniform=uniform_times(4, generator=g()), logit=logit_normal_times(4, generator=g()),
                discrete=discrete_times(4, generator=g()), logit_tt=shifted)
    for name, t in ours.items(): close(1000*t, torch.tensor(expected[name]).float(), atol=1e-4, rtol=1e-6)

SIZE = dict(height=torch.tensor([144.]*2), width=torch.tensor([256.]*2), fps=torch.tensor([24.]*2))

@pytest.mark.parametrize('mask', [None, 'loss.frame_mask'])
@torch.no_grad()
def test_loss(model, mask):
    v = as_velocity(model, y=G['loss.y'], mask=G['loss.text_mask'], **SIZE)
    ours = loss(v, G['loss.x'], G['loss.noise'], G['loss.t']/1000, G.get(mask))
    close(ours, G['loss.mask' if mask else 'loss.plain'], atol=2e-5, rtol=1e-4)

CASES = ('sample_tt', 'sample_plain', 'sample_discrete', 'sample_mask')

@pytest.mark.parametrize('case', CASES)
def test_sample(model, case):
    info, g = INFO['samples'][case], {k.split('.', 1)[1]: v for k, v in G.items() if k.startswith(case + '.')}
    a, sched, b = info['args'], info['scheduler'], len(g['z'])
    shift = {}
    if sched.get('use_timestep_transform'):
        shift = dict(n_pix=int(a['height']*a['width']), n_frames=latent_frames(int(a['num_frames'])))
    times = sampling_times(info['steps'], **shift, discrete=sched.get('use_discrete_timesteps', False))
    close(1000*times[:, None].expand(-1, b), g['t'], atol=1e-6, rtol=1e-6)
    sizes = {k: torch.full((b,), a[k]) for k in ('height', 'width', 'fps')}
    v = guided_velocity(model, info['cfg'], g['y'], g['text_mask'], **sizes)
    entered = []                                   # the reference stored the latent that entered model calls 1 and 5
    def watched(z, t, *m):
        entered.append(z)
        return v(z, t, *m)
    edit = dict(mask=g['frame_mask'], x_ref=g['z'], generator=iter(g['noise'])) if 'frame_mask' in g else {}
    out, path = sample(watched, g['z'], times, **edit, return_trajectory=True)
    for ours, name in ((entered[1], 'z_step1'), (entered[5], 'z_step5'), (out, 'out')): close(ours, g[name], **TOL)
    assert len(path) == info['steps'] + 1 and torch.equal(path[-1], out)

def test_frames_with_mask_0_come_out_untouched(model):
    g, times = {k.split('.', 1)[1]: v for k, v in G.items() if k.startswith('sample_mask.')}, sampling_times(3)
    v = guided_velocity(model, 7., g['y'], g['text_mask'], **SIZE)
    out = sample(v, torch.randn_like(g['z']), times, mask=g['frame_mask'], x_ref=g['z'])
    keep = g['frame_mask'] == 0
    assert torch.equal(out.transpose(1, 2)[keep], g['z'].transpose(1, 2)[keep])
    assert not torch.equal(out, g['z'])
