"vae.quick_vae: near the plain autoencoder within the block, the very same one after it, and clear refusals"
import pytest, torch
from opensora_nb.app.options import parse_options
from opensora_nb.app.sampling import plan_sample
from opensora_nb.blocks.compare import relative_error
from opensora_nb.core import fast_bf16
from opensora_nb.sample.pipeline import SampleConfig, generate, load_pipeline
from opensora_nb.vae import quick_vae
from opensora_nb.vae.image import AutoencoderKLConfig, Upsample, VideoAutoencoderKL
from opensora_nb.vae.quick_vae import faster_vae, fold_kernel, folded_upsampling
from opensora_nb.vae.tiling import Tiling, tiled_decode
from opensora_nb.vae.video import TemporalVAEConfig, VideoVAE, VideoVAEConfig

torch.manual_seed(0)
PICTURES = AutoencoderKLConfig(block_out_channels=(16, 16, 32, 32), norm_num_groups=4)
VAE = VideoVAE(VideoVAEConfig(vae_2d=PICTURES, vae_temporal=TemporalVAEConfig(filters=16, num_groups=4))).eval()
FRAMES = VideoAutoencoderKL(PICTURES, micro_batch_size=2).eval()
needs_bf16 = pytest.mark.skipif(not fast_bf16(), reason='no products of bf16 here')

def noise(*size, seed=1): return torch.randn(*size, generator=torch.Generator().manual_seed(seed))

@pytest.mark.parametrize('how, most', [
    (dict(fold=False), 1e-5), (dict(channels_last=False), 1e-5), ({}, 1e-5),
    pytest.param(dict(precision='bf16'), 5e-2, marks=needs_bf16)], ids=str)
@pytest.mark.parametrize('vae', [VAE, FRAMES], ids=['video', 'frames'])
def test_near_within_the_block_and_itself_after_it(vae, how, most):
    z, x = noise(2, 4, 2, 3, 5), noise(1, 3, 5, 24, 40).clamp(-1, 1)
    frames = 5 if vae is VAE else 2
    tensors = [(k, id(t)) for k, t in [*vae.named_parameters(), *vae.named_buffers()]]
    with torch.inference_mode():
        y, e = vae.decode(z, frames), vae.encode(x)
        with faster_vae(vae, **how):
            pairs = (vae.decode(z, frames), y), (vae.encode(x), e), (tiled_decode(vae, z, frames).float(), y)
        for got, want in pairs: assert got.dtype == want.dtype and relative_error(got, want)[1] < most
        assert torch.equal(vae.decode(z, frames), y) and torch.equal(vae.encode(x), e)
    assert tensors == [(k, id(t)) for k, t in [*vae.named_parameters(), *vae.named_buffers()]]
    assert not any({'forward', 'encode', 'decode'} & {*vars(m)} for m in vae.modules())

def test_itself_after_an_error_too():
    weight = VAE.spatial_vae.module.decoder.conv_in.weight
    with pytest.raises(KeyError), faster_vae(VAE): raise KeyError
    assert VAE.spatial_vae.module.decoder.conv_in.weight is weight
    assert not any('forward' in vars(m) for m in VAE.modules())

@pytest.mark.parametrize('size', [(1, 1), (1, 4), (5, 3), (8, 8)])
def test_folding_is_exact_in_doubles(size):
    up, x = Upsample(3).double(), noise(2, 3, *size).double()
    with torch.no_grad():
        want = up(x)
        with folded_upsampling(up): assert torch.allclose(up(x), want, atol=1e-12, rtol=0)
    assert sum(k.sum() for row in fold_kernel(up.conv.weight.detach()) for k in row).item() \
        == pytest.approx(4*up.conv.weight.sum().item())

def test_with_gradients_the_plain_way_is_taken():
    up, x = Upsample(3), noise(1, 3, 2, 2)
    up(x).sum().backward()
    want, up.conv.weight.grad = up.conv.weight.grad.clone(), None
    with folded_upsampling(up): up(x).sum().backward()
    assert torch.equal(up.conv.weight.grad, want)

def test_tiles_keep_their_statistics():
    z, how = noise(1, 4, 1, 6, 8), Tiling(tile=32, tile_overlap=16)
    with torch.inference_mode():
        want = tiled_decode(VAE, z, 1, how)
        with faster_vae(VAE): assert relative_error(tiled_decode(VAE, z, 1, how), want)[1] < 1e-4

def test_bf16_is_refused_where_it_is_no_faster(monkeypatch):
    monkeypatch.setattr(quick_vae, 'fast_bf16', lambda device: False)
    with pytest.raises(ValueError, match="bf16 would be no faster here: .* use precision='fp32'"):
        with faster_vae(VAE, 'bf16'): pass
    assert next(VAE.parameters()).dtype == torch.float32 and not any('forward' in vars(m) for m in VAE.modules())
    monkeypatch.setattr('opensora_nb.app.sampling.fast_bf16', lambda device: False)
    ask = ['--prompt', 'a red circle moves left', '--device', 'cpu']
    with pytest.raises(ValueError, match='--vae-speed bf16 would be no faster here.*use --vae-speed exact'):
        plan_sample(parse_options([*ask, '--vae-speed', 'bf16']))

def test_unknown_precision():
    with pytest.raises(ValueError, match="unknown precision 'fp8'; use fp32 or bf16"):
        with faster_vae(VAE, 'fp8'): pass

def test_a_pipeline_takes_it():
    pipe, cfg = load_pipeline('tiny_4step', 'cpu'), SampleConfig(seed=3, num_sampling_steps=1)
    def made(): return torch.as_tensor(generate(pipe, ['a red circle moves left'], cfg)[0]).int()
    want, pipe.vae_speed = made(), dict(precision='fp32')
    assert (made() - want).abs().max() <= 1
    pipe.vae_speed = dict(precision='fp8')
    with pytest.raises(ValueError, match='unknown precision'): made()
    pipe.vae_speed = None
    assert torch.equal(made(), want)
