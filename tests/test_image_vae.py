"The 2-D autoencoder of Open-Sora 1.0 and 1.1: files of diffusers, its own AutoencoderKL as judge, layouts, wrong files"
import json
import pytest, torch
from huggingface_hub import constants
from opensora_nb.models.zoo import every_layout, randomise
from opensora_nb.vae.image import AutoencoderKLConfig, VideoAutoencoderKL
from opensora_nb.vae.released import load_image_vae

CFG = AutoencoderKLConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)

@pytest.fixture(autouse=True)
def offline(monkeypatch): monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)

def clip(f=5): return torch.randn(2, 3, f, 16, 24, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)

def test_every_layout(tmp_path):
    "A file, shards, a training checkpoint, a clone or a cached repository give the same latents and pictures"
    model = VideoAutoencoderKL(CFG)
    randomise(model.module)
    def ask(m):
        m = getattr(m, 'module', m)
        post, x = m.encode(clip()[:, :, 0]), None
        return torch.cat([post.moments.flatten(), m.decode(post.mean).flatten()])
    result = every_layout(model.module, lambda path: load_image_vae(path, norm_num_groups=4), ask, tmp_path)
    assert set(result.values()) == {''}, result

def test_saved_by_diffusers(tmp_path):
    "A folder that diffusers wrote is read with its groups, and both encode and decode to the same numbers"
    diffusers = pytest.importorskip('diffusers', reason="diffusers, which writes the reference file, is not installed")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, down_block_types=('DownEncoderBlock2D',)*2,
        up_block_types=('UpDecoderBlock2D',)*2, scaling_factor=0.13025).eval()
    theirs.save_pretrained(tmp_path/'vae')
    config = json.loads((tmp_path/'vae'/'config.json').read_text())
    assert (config['norm_num_groups'], config['scaling_factor']) == (4, 0.13025)
    x = clip()
    with torch.no_grad():
        want = torch.stack([theirs.encode(f).latent_dist.mean for f in x.unbind(2)], 2)
        for where in (tmp_path, tmp_path/'vae', tmp_path/'vae'/'diffusion_pytorch_model.safetensors'):
            ours = load_image_vae(where, micro_batch_size=3)
            assert ours.scaling_factor == 0.18215
            torch.testing.assert_close(ours.encode(x), 0.18215*want, atol=2e-6, rtol=0)
            seen = torch.stack([theirs.decode(z).sample for z in want.unbind(2)], 2)
            torch.testing.assert_close(ours.decode(ours.encode(x)), seen, atol=2e-5, rtol=0)

@pytest.mark.parametrize('part', [None, 1, 4, 100])
def test_micro_batches(part):
    "Frames pass in parts of any size; latents, draws and pictures are those of one pass"
    whole, parts = VideoAutoencoderKL(CFG), VideoAutoencoderKL(CFG, part)
    parts.load_state_dict(randomise(whole).state_dict())
    with torch.no_grad():
        z = whole.encode(clip())
        torch.testing.assert_close(parts.encode(clip()), z)
        torch.testing.assert_close(parts.decode(z, 5), whole.decode(z))
        assert z.shape[2:] == whole.latent_size((5, 16, 24)) == (5, 8, 12)
        a, b = (parts.encode(clip(), sample=True, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a, b) and not torch.equal(a, z)

def test_hub_address_offline():
    "Without a network the message says which repository is wanted"
    with pytest.raises(FileNotFoundError, match='stabilityai/sd-vae-ft-ema.*0.33 GB'): load_image_vae()
