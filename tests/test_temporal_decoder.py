"The temporal decoder agrees with the AutoencoderKLTemporalDecoder of diffusers, under its names"
import pytest, torch
from opensora_nb.vae.image import AutoencoderKLConfig
from opensora_nb.vae.temporal_decoder import TemporalDecoderKL

def test_as_diffusers_has_it():
    "The same weights, loaded strictly, encode and decode to the same numbers, two clips at once"
    diffusers = pytest.importorskip('diffusers', reason="diffusers, the reference here, is not installed")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 64), layers_per_block=2, down_block_types=('DownEncoderBlock2D',)*2).eval()
    for p in theirs.parameters(): p.data += 0.05*torch.randn_like(p)       # also what begins at zero
    ours = TemporalDecoderKL(AutoencoderKLConfig(block_out_channels=(32, 64)))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 5, 16, 24).clamp(-1, 1)
    frames = x.transpose(1, 2).flatten(0, 1)
    with torch.no_grad():
        z = theirs.encode(frames).latent_dist.mean
        seen = theirs.decode(z, num_frames=5).sample.unflatten(0, (2, 5)).transpose(1, 2)
        latent = z.unflatten(0, (2, 5)).transpose(1, 2)*0.18215
        torch.testing.assert_close(ours.encode(x), latent, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.decode(latent), seen, atol=2e-5, rtol=1e-5)

def test_published_size():
    "As many arrays and numbers as diffusers has at the published widths"
    diffusers = pytest.importorskip('diffusers', reason="diffusers, the reference here, is not installed")
    with torch.device('meta'):
        ours, theirs = TemporalDecoderKL(), diffusers.AutoencoderKLTemporalDecoder(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, down_block_types=('DownEncoderBlock2D',)*4)
    shapes = [{k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]
