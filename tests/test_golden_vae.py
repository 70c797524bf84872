"Video VAE against stored outputs of the reference (Open-Sora 1.2, float32): parts, gradients, pipeline, sizes, losses"
import json
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from opensora_nb.vae.image import AutoencoderKLConfig, Posterior
from opensora_nb.vae.losses import kl, reconstruction
from opensora_nb.vae.video import TemporalVAE, TemporalVAEConfig, VideoVAE, VideoVAEConfig, video_vae_v12
from opensora_nb.weights import config_from

GOLDENS = Path(__file__).parent/'goldens'
def spec(name): return json.loads((GOLDENS/f'{name}.json').read_text())
def tensors(name): return load_file(GOLDENS/f'{name}.safetensors')

TEMPORAL, PIPELINE = tensors('vae_temporal'), tensors('vae_pipeline')
T_WEIGHTS, P_WEIGHTS = tensors('vae_temporal_weights'), tensors('vae_pipeline_weights')
RUNS, SIZES, LOSSES = spec('vae_pipeline')['runs'], spec('vae_latent_size')['table'], spec('vae_losses')['vae_loss']

def close(got, want, atol=2e-5): torch.testing.assert_close(got, want, atol=atol, rtol=1e-4)

def temporal():
    m = TemporalVAE(config_from(TemporalVAEConfig, spec('vae_temporal_weights')['config']))
    m.load_state_dict(T_WEIGHTS, strict=True)
    return m.eval()

def pipeline(micro_frame_size, micro_batch_size):
    j = spec('vae_pipeline_weights')
    cfg = VideoVAEConfig(vae_2d=config_from(AutoencoderKLConfig, j['vae_2d_diffusers_config']),
                         vae_temporal=config_from(TemporalVAEConfig, j['vae_temporal_config']),
                         micro_frame_size=micro_frame_size, micro_batch_size=micro_batch_size)
    m = VideoVAE(cfg)
    m.load_state_dict(P_WEIGHTS | {f'temporal_vae.{k}': v for k, v in T_WEIGHTS.items()}, strict=True)
    return m.eval()

def replay(case): # hands out the recorded draws in call order
    draws = [PIPELINE[k] for k in sorted(PIPELINE) if k.startswith(f'{case}.noise')]
    def noise(shape):
        draw = draws.pop(0)
        assert draw.shape == shape
        return draw
    return noise, draws

@pytest.mark.parametrize('f', [1, 4, 5, 17, 18, 34])
@torch.no_grad()
def test_temporal(f):
    m, want = temporal(), lambda name: TEMPORAL[f'T{f}.{name}']
    p = m.encode(want('x'))
    for name in ('moments', 'mean', 'std'): close(getattr(p, name), want(name))
    sample = p.sample(lambda shape: want('noise'))
    close(sample, want('sample'))
    close(m.decode(p.mean, f), want('rec'))
    close(p.kl(), want('kl'), atol=1e-4)
    close(-torch.distributions.Normal(p.mean, p.std).log_prob(sample).flatten(1).sum(1), want('nll'), atol=1e-4)

def test_temporal_gradients():
    m, norms, x = temporal(), spec('vae_temporal')['grad']['norms'], TEMPORAL['grad.x']
    p = m.encode(x)
    loss = m.decode(p.mean, x.shape[2]).square().mean() + 1e-3*p.kl().sum()
    loss.backward()
    close(loss.detach(), TEMPORAL['grad.loss'])
    assert set(norms) == {k for k, _ in m.named_parameters()}
    for k, v in m.named_parameters(): assert v.grad.norm().item() == pytest.approx(norms[k], rel=1e-3), k

@pytest.mark.parametrize('case', RUNS)
@torch.no_grad()
def test_pipeline(case):
    r = RUNS[case]
    m, x = pipeline(r['micro_frame_size'], r['micro_batch_size']), PIPELINE[f'{case}.x']
    z = m.encode(x)
    close(z, PIPELINE[f'{case}.z_mean'], 5e-5)
    noise, left = replay(case)
    close(m.encode(x, sample=True, noise=noise), PIPELINE[f'{case}.z_sample'], 5e-5)
    assert not left, f"{len(left)} recorded draws were not used"
    close(m.decode(z, r['T']), PIPELINE[f'{case}.rec'], 5e-5)
    assert list(m.latent_size(x.shape[2:])) == r['latent']

@torch.no_grad()
def test_training_forward():
    noise, left = replay('cal_loss')
    out = pipeline(None, None)(PIPELINE['cal_loss.x'], noise=noise)
    for name in ('x_rec', 'x_z_rec', 'z', 'x_z'): close(getattr(out, name), PIPELINE[f'cal_loss.{name}'], 5e-5)
    close(out.posterior.moments, PIPELINE['cal_loss.moments'], 5e-5)
    assert not left

@torch.no_grad()
def test_posterior_covers_every_chunk():
    "Upstream returns that of the last chunk only, so its KL term forgets the others (a defect we mend)"
    m, x = pipeline(17, 4), PIPELINE['T34.x']
    whole = m.encode_with_posterior(x, sample=False)[1]
    assert whole.mean.shape[2] == 10
    last = m.encode_with_posterior(x[:, :, 17:], sample=False)[1]
    close(whole.mean[:, :, 5:], last.mean)

@pytest.mark.parametrize('micro', [17, None])
def test_latent_sizes(micro):
    with torch.device('meta'): m = VideoVAE(VideoVAEConfig(micro_frame_size=micro))
    rows = [r for r in SIZES if r['micro_frame_size'] == micro]
    assert len(rows) > 50
    for r in rows: assert list(m.latent_size(r['input'])) == r['latent'], r

def test_released_preset():
    with torch.device('meta'): m = VideoVAE(video_vae_v12())
    assert (sum(p.numel() for p in m.parameters()), len(m.state_dict())) == (393_341_007, 517)
    def count(part): return sum(p.numel() for p in part.parameters()), len(part.state_dict())
    assert count(m.spatial_vae) == (83_653_863, 248) and count(m.temporal_vae) == (309_687_144, 267)

@torch.no_grad()
def test_old_attention_names_and_scalar_buffers():
    "A diffusers file from before 0.15 and a training checkpoint load strictly"
    m, state = pipeline(17, 4), {}
    for k, v in m.state_dict().items():
        for new, old in (('to_q', 'query'), ('to_k', 'key'), ('to_v', 'value'), ('to_out.0', 'proj_attn')):
            k = k.replace(f'.{new}.', f'.{old}.')
        state[k] = v[:, :, None, None] if '.attentions.' in k and k.endswith('.weight') and v.ndim == 2 else v
    state |= dict(scale=torch.tensor(1.), shift=torch.tensor(0.))
    twin = pipeline(17, 4)
    twin.load_state_dict(state, strict=True)
    x = PIPELINE['T17.x']
    close(twin.encode(x), m.encode(x)*m.scale + m.shift, 5e-5)

@pytest.mark.parametrize('case', [c for c in LOSSES if c != 'perceptual'])
def test_losses(case):
    data, init, call = tensors('vae_losses'), LOSSES[case]['init'], LOSSES[case]['call']
    def want(name): return data[f'vae.{case}.{name}']
    nll = reconstruction(data['vae.video'], data['vae.rec'], logvar=init.get('logvar_init', 0.))
    close(nll, want('nll'), 1e-5)
    close(nll*call.get('nll_weights', 1.), want('weighted_nll'), 1e-5)
    close(kl(Posterior(data['vae.moments']))*init.get('kl_loss_weight', 1e-6), want('weighted_kl'), 1e-9)
