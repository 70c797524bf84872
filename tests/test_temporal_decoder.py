"The temporal decoder agrees with the AutoencoderKLTemporalDecoder of diffusers, under its names; its files load"
import pytest, torch
from huggingface_hub import constants
from opensora_nb.app.cli import main
from opensora_nb.core import torch_rng
from opensora_nb.models.zoo import every_layout, randomise
from opensora_nb.vae.image import AutoencoderKLConfig, VideoAutoencoderKL
from opensora_nb.vae.released import load_image_vae
from opensora_nb.vae.temporal_decoder import TemporalDecoderKL, load_temporal_decoder

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

# files

SMALL = AutoencoderKLConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)

def clip(f=5): return torch.randn(2, 3, f, 16, 24, generator=torch_rng(1)).clamp(-1, 1)

def test_every_layout(tmp_path):
    "A file, shards, a training checkpoint, a clone or a cached repository give the same latents and pictures"
    def ask(m):
        z = m.encode(clip())
        return torch.cat([z.flatten(), m.decode(z).flatten()])
    model = randomise(TemporalDecoderKL(SMALL))
    result = every_layout(model, lambda path: load_temporal_decoder(path, norm_num_groups=4), ask, tmp_path)
    assert set(result.values()) == {''}, result

def test_saved_by_diffusers(tmp_path):
    "The folder of a whole pipeline, its part, or the file in it; the groups come from their config.json"
    diffusers = pytest.importorskip('diffusers', reason="diffusers, which writes the reference file, is not installed")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 64), layers_per_block=2, down_block_types=('DownEncoderBlock2D',)*2).eval()
    theirs.save_pretrained(tmp_path/'vae')
    with torch.no_grad():
        z = torch.randn(5, 4, 8, 12, generator=torch_rng(2))
        want = theirs.decode(z, num_frames=5).sample.unflatten(0, (1, 5)).transpose(1, 2)
        for where in (tmp_path, tmp_path/'vae', tmp_path/'vae'/'diffusion_pytorch_model.safetensors'):
            ours = load_temporal_decoder(where)
            seen = ours.decode(0.18215*z.unflatten(0, (1, 5)).transpose(1, 2), num_frames=5)
            torch.testing.assert_close(seen, want, atol=2e-5, rtol=0)

def test_open_sora_wrote_module_in_front(tmp_path):
    "The file of a whole training run of Open-Sora, in bf16 if wanted"
    model = randomise(TemporalDecoderKL(SMALL))
    state = {f'module.{k}': v for k, v in model.state_dict().items()}
    again = load_temporal_decoder(state, norm_num_groups=4, dtype=torch.bfloat16)
    assert again.scaling_factor == 0.18215 and not again.training
    mine = again.state_dict()
    assert all(torch.equal(mine[k], v.bfloat16()) for k, v in model.state_dict().items())

def test_older_names_of_attention():
    "Files from before diffusers renamed the layers hold 1x1 convolutions called query, key, value, proj_attn"
    state = randomise(TemporalDecoderKL(SMALL)).state_dict()
    was = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
    def older(k): return next((k.replace(f'.{new}.', f'.{old}.') for new, old in was.items() if f'.{new}.' in k), k)
    old = {older(k): v[..., None, None] if older(k) != k and v.ndim == 2 else v for k, v in state.items()}
    assert old.keys() != state.keys()
    again = load_temporal_decoder(old, norm_num_groups=4).state_dict()
    assert all(torch.equal(again[k], v) for k, v in state.items())

def test_in_place_of_the_other_autoencoders():
    "It answers what a pipeline asks: sizes of latents, draws, and frames that do not fit"
    model = randomise(TemporalDecoderKL(SMALL))
    with torch.no_grad():
        z = model.encode(clip())
        assert z.shape[2:] == model.latent_size((5, 16, 24)) == (5, 8, 12)
        torch.manual_seed(3)
        a = model.encode(clip(), sample=True)
        torch.manual_seed(3)
        assert torch.equal(a, model.encode(clip(), sample=True)) and not torch.equal(a, z)
    with pytest.raises(ValueError, match='6 frames come from 6 latent frames, this latent has 5'): model.decode(z, 6)

@pytest.mark.parametrize('state, said', [
    (VideoAutoencoderKL(SMALL).module.state_dict(),        'they look like AutoencoderKL weights'),
    ({'a': torch.ones(1)},                                 'they look like nothing known here'),
    ({'decoder.mid_block.resnets.0.temporal_res_block.norm1.weight': torch.ones(1)},
     'no whole TemporalDecoderKL weights: encoder.down_blocks'),
])
def test_other_weights_are_named(state, said):
    with pytest.raises(ValueError, match=said): load_temporal_decoder(state)

def test_without_an_array():
    "A part that was lost is named"
    state = TemporalDecoderKL(SMALL).state_dict()
    del state['decoder.up_blocks.1.resnets.0.time_mixer.mix_factor']
    with pytest.raises(ValueError, match='1 missing in the file: decoder.up_blocks.1.resnets.0.time_mixer.mix_factor'):
        load_temporal_decoder(state, norm_num_groups=4)

def test_doctor_and_the_image_loader_say_what_it_is(tmp_path, capsys):
    model = TemporalDecoderKL(SMALL)
    torch.save(model.state_dict(), tmp_path/'svd.pth')
    main(['doctor', str(tmp_path/'svd.pth')])
    assert 'looks like TemporalDecoderKL weights' in capsys.readouterr().out
    with pytest.raises(ValueError, match='they look like TemporalDecoderKL weights'): load_image_vae(tmp_path/'svd.pth')

def test_hub_address_offline(monkeypatch):
    "Without a network the message says which repository is wanted"
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(FileNotFoundError, match='stabilityai/stable-video-diffusion-img2vid.*0.39 GB'):
        load_temporal_decoder()
