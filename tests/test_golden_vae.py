"The video autoencoder against tensors computed with the reference (tests/goldens)."
import json
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from opensora_nb.vae.image import AutoencoderKLConfig
from opensora_nb.vae.video import TemporalVAE, TemporalVAEConfig, VideoVAE, VideoVAEConfig, latent_frames

HERE = Path(__file__).parent/'goldens'
info = lambda name: json.loads((HERE/f'{name}.json').read_text())
TEMPORAL = TemporalVAEConfig(filters=8, num_res_blocks=1, num_groups=4)
SPATIAL = AutoencoderKLConfig(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4)

@pytest.fixture(scope='module')
def temporal():
    m = TemporalVAE(TEMPORAL); m.load_state_dict(load_file(HERE/'vae_temporal_weights.safetensors'), strict=True); return m.eval()

def pipeline(micro_frame_size=17, micro_batch_size=4):
    m = VideoVAE(VideoVAEConfig(SPATIAL, TEMPORAL, micro_frame_size, micro_batch_size, shift=(0.,)*4, scale=(1.,)*4))
    state = load_file(HERE/'vae_pipeline_weights.safetensors') | {f'temporal_vae.{k}': v for k, v in load_file(HERE/'vae_temporal_weights.safetensors').items()}
    m.load_state_dict(state, strict=True); return m.eval()

def near(a, b, atol=2e-5): torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)

@pytest.mark.parametrize('T', [1, 4, 5, 17, 18, 34])
def test_temporal(temporal, T):
    g = {k.split('.', 1)[1]: v for k, v in load_file(HERE/'vae_temporal.safetensors').items() if k.startswith(f'T{T}.')}
    with torch.no_grad():
        p = temporal.encode(g['x'])
        near(p.moments, g['moments']); near(p.mean, g['mean']); near(p.std, g['std']); near(p.kl(), g['kl'], 1e-3)
        near(p.sample(lambda shape: g['noise']), g['sample']); near(temporal.decode(p.mean, T), g['rec'])

def test_temporal_gradients(temporal):
    g, want = load_file(HERE/'vae_temporal.safetensors'), info('vae_temporal')['grad']
    temporal.zero_grad(); x = g['grad.x']; p = temporal.encode(x)
    loss = temporal.decode(p.mean, x.shape[2]).square().mean() + 1e-3*p.kl().sum(); loss.backward()
    near(loss.detach(), g['grad.loss'].reshape(()), 1e-4)
    got = {k: v.grad.norm().item() for k, v in temporal.named_parameters()}
    assert set(got) == set(want['norms'])
    for k, n in want['norms'].items(): assert abs(got[k]-n) <= 1e-5 + 1e-3*n, (k, got[k], n)

@pytest.mark.parametrize('run', ['T1', 'T17', 'T20', 'T34', 'T20_nomicro', 'T12_mfs8'])
def test_pipeline(run):
    meta = info('vae_pipeline')['runs'][run]; vae = pipeline(meta['micro_frame_size'], meta['micro_batch_size'])
    g = {k[len(run)+1:]: v for k, v in load_file(HERE/'vae_pipeline.safetensors').items() if k.startswith(run+'.')}
    draws = iter([g[f'noise.{i:02d}'] for i in range(meta['n_noise'])])
    with torch.no_grad():
        near(vae.encode(g['x']), g['z_mean'], 5e-5)
        near(vae.encode(g['x'], sample=True, noise=lambda shape: next(draws)), g['z_sample'], 5e-5)
        near(vae.decode(g['z_mean'], meta['T']), g['rec'], 5e-5)
    assert next(draws, None) is None                                  # every draw was used, in this order
    assert list(vae.latent_size((meta['T'], *g['x'].shape[3:]))) == meta['latent']

def test_training_forward():
    "`cal_loss`: without shift, scale and chunks; both draws injected"
    vae = pipeline(None, None); g = {k[9:]: v for k, v in load_file(HERE/'vae_pipeline.safetensors').items() if k.startswith('cal_loss.')}
    draws = iter([g[k] for k in sorted(g) if k.startswith('noise')])
    with torch.no_grad(): out = vae(g['x'], noise=lambda shape: next(draws))
    for k in ('x_rec', 'x_z_rec', 'z', 'x_z'): near(getattr(out, k), g[k], 5e-5)
    near(out.posterior.moments, g['moments'], 5e-5)

def test_latent_sizes():
    vae = pipeline(); rows = info('vae_latent_size')['table']; assert len(rows) > 40
    for r in rows:
        f, h, w = r['input']
        assert latent_frames(f, r['micro_frame_size']) == r['latent'][0], r
        if r['micro_frame_size'] == 17: assert list(vae.latent_size(r['input'])) == r['latent'], r
