"Video models that start from image models, and larger models that start from smaller ones, compute the same function"
import pytest, torch
from opensora_nb.config import to_dict
from opensora_nb.models.inflation import deepen, grow, inflate, share_columns, shared_sizes
from opensora_nb.models.pixart import PixArt, PixArtConfig, PixArtMS, PixArtMSConfig
from opensora_nb.models.pixart_sigma import PixArtSigma, PixArtSigmaConfig, pixart_sigma_tiny
from opensora_nb.models.stdit import STDiTConfig
from opensora_nb.models.stdit2 import STDiT2Config
from opensora_nb.models.stdit3 import STDiT3Config
from opensora_nb.models.zoo import load_stdit3, randomise

SMALL = PixArtConfig((1, 8, 8), hidden_size=48, depth=2, num_heads=4, no_temporal_pos_emb=True, caption_channels=16,
                     model_max_length=8)
SIZE = dict(fps=24, height=64, width=64)

def image_model(cls=PixArt, config=PixArtConfig, seed=0, **changes):
    "Random weights, the table of positions its own"
    cfg = config(**to_dict(SMALL) | changes)
    m, own = cls(cfg), cls(cfg).state_dict()
    randomise(m, seed)
    m.load_state_dict({k: v for k, v in own.items() if k.startswith('pos_embed')}, strict=False)
    return m

def video_config(config, image, **changes):
    own = dict(input_size=(3, 8, 8)) if config is STDiTConfig else dict(input_sq_size=64)
    own |= {} if config is STDiTConfig else dict(qk_norm=False)
    return config(**own | dict(model_max_length=8) | shared_sizes(image) | changes)

def question(frames=3, length=8):
    g = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1]*length, [1]*3 + [0]*(length - 3)])
    return (torch.randn(2, 4, frames, 8, 8, generator=g), torch.tensor([300., 800.]),
            torch.randn(2, 1, length, 16, generator=g), mask)

def each_frame(image, x, t, y, mask):
    return torch.cat([image(x[:, :, i:i+1], t, y, mask) for i in range(x.shape[2])], 2)

def same(got, want):
    assert want.std() > .1
    torch.testing.assert_close(got, want, atol=2e-5*want.abs().max().item(), rtol=0)

@pytest.mark.parametrize('config', [STDiTConfig, STDiT2Config, STDiT3Config])
@torch.no_grad()
def test_each_frame_gets_the_image_models_answer(config):
    "A clip is answered as its frames would be, captions of two lengths included"
    image = image_model()
    video, why = inflate(image, video_config(config, image))
    assert why == [] and not video.training
    same(video(*question(), **SIZE), each_frame(image, *question()))

@pytest.mark.parametrize('config', [STDiT2Config, STDiT3Config])
@torch.no_grad()
def test_sigma_brings_its_norms(config):
    "The norms of queries and keys are taken over, so the models are the same"
    image = image_model(PixArtSigma, PixArtSigmaConfig, qk_norm=True)
    video, why = inflate(image, video_config(config, image, qk_norm=True))
    assert why == []
    same(video(*question(), **SIZE), each_frame(image, *question()))
    (why,) = inflate(image, video_config(config, image))[1]
    assert why == "qk_norm is off: the image model normalises queries and keys"

@pytest.mark.parametrize('length', [5, 20])
@torch.no_grad()
def test_text_length(length):
    "More or fewer tokens of text: captions that fit both get the same answer; the null text repeats its last row"
    image = image_model()
    video, why = inflate(image, video_config(STDiT3Config, image, model_max_length=length))
    rows, own = video.y_embedder.y_embedding, image.y_embedder.y_embedding
    assert why == [] and len(rows) == length
    torch.testing.assert_close(rows[-1], own[min(length, 8) - 1])
    same(video(*question(length=5), **SIZE), each_frame(image, *question(length=5)))

@torch.no_grad()
def test_equals_the_zoo():
    "`load_stdit3` starts the same model from the same weights"
    image = image_model()
    zoo = load_stdit3(image.state_dict(), num_heads=4, input_sq_size=64, qk_norm=False, model_max_length=8)
    video, _ = inflate(image, video_config(STDiT3Config, image))
    assert torch.equal(zoo(*question(), **SIZE), video(*question(), **SIZE))

@pytest.mark.parametrize('cls,own,config,changes,said', [
    (PixArt, PixArtConfig, STDiT3Config, dict(qk_norm=True), 'qk_norm is new'),
    (PixArt, PixArtConfig, STDiT2Config, dict(qk_norm=True), 'qk_norm is new'),
    (PixArtMS, PixArtMSConfig, STDiT2Config, {}, 'is not told the size'),
    (PixArtMS, PixArtMSConfig, STDiTConfig, {}, 'have no place in STDiT'),
    (PixArt, PixArtConfig, STDiTConfig, dict(space_scale=.5), 'positions of rows and columns are others'),
    (PixArt, PixArtConfig, STDiTConfig, dict(input_size=(3, 8, 12)), 'positions of rows and columns are others')])
def test_another_function_is_named(cls, own, config, changes, said):
    "Whoever inflates is told why the video model is another function"
    image = image_model(cls, own)
    (why,) = inflate(image, video_config(config, image, **changes))[1]
    assert said in why

def test_numbered_frames_are_named():
    "An image model of 1.0's kind adds positions of frames"
    image = image_model(no_temporal_pos_emb=False)
    (why,) = inflate(image, video_config(STDiTConfig, image))[1]
    assert why == "the image model adds the positions of frames to all tokens"

def test_what_does_not_fit_is_refused():
    "Both numbers, and what to do"
    image = image_model()
    with pytest.raises(ValueError, match='hidden_size 96, the image model 48; num_heads 8, the image model 4'):
        inflate(image, video_config(STDiTConfig, image, hidden_size=96, num_heads=8))
    with pytest.raises(ValueError, match="no video model's"): inflate(image, SMALL)
    packed = PixArtSigma(pixart_sigma_tiny())
    with pytest.raises(ValueError, match='compresses keys and values .12 arrays'):
        inflate(packed, STDiT3Config(**shared_sizes(packed)))

@pytest.mark.parametrize('sizes', [dict(hidden_size=96), dict(hidden_size=144, mlp_ratio=6.1, depth=5), dict(depth=3),
                                   dict(mlp_ratio=5.3), dict(mlp_ratio=2, hidden_size=96), {}])
@torch.no_grad()
def test_a_larger_model_is_the_same(sizes):
    "Wider, deeper, a wider MLP, all at once: one answer"
    image = image_model()
    if sizes.get('mlp_ratio') == 2: # the hidden width of before: 4*48 = 2*96 units would be less than copies of all
        with pytest.raises(ValueError, match='the MLP would be 192 wide inside, and it has 384; .* at least 4'):
            grow(image, **sizes)
        return
    larger = grow(image, **sizes)
    assert all(getattr(larger.cfg, k) == v for k, v in sizes.items())
    assert larger.cfg.hidden_size//larger.cfg.num_heads == 12
    same(larger(*question(1)), image(*question(1)))

@pytest.mark.parametrize('config', [STDiTConfig, STDiT2Config, STDiT3Config])
@torch.no_grad()
def test_a_larger_video_model_is_the_same(config):
    "Depth and MLP of models with random weights along time too"
    image = image_model()
    video = randomise(inflate(image, video_config(config, image))[0])
    larger = grow(video, depth=5, mlp_ratio=4.5)
    assert larger.cfg.depth == 5
    same(larger(*question(), **SIZE), video(*question(), **SIZE))

def test_copies_learn_different_things():
    "The gradients of two copies of the stream differ, so the wider model can use its width"
    larger = grow(image_model(), hidden_size=96)
    larger(*question(1)).square().mean().backward()
    for layer in (larger.x_embedder.proj, larger.blocks[0].mlp.fc1, larger.blocks[1].attn.proj):
        a, b = layer.weight.grad.flatten(1).chunk(2)
        assert (a - b).norm() > .02*a.norm()

def test_shares_add_up():
    "The columns of all copies sum to the original's; without copies nothing changes, bit for bit"
    w, index = torch.randn(4, 3), torch.tensor([0, 1, 2, 0, 0, 1])
    torch.testing.assert_close(torch.zeros(4, 3).index_add_(1, index, share_columns(w, index)), w)
    assert torch.equal(share_columns(w, torch.arange(3)), w)

def test_new_blocks_stand_between_the_old():
    "Of 2 blocks made 5, numbers 0 and 3 are the old ones, and the others write zeros"
    state = image_model().state_dict()
    out = deepen(state, 2, 5)
    moved = [bool(out[f'blocks.{i}.mlp.fc2.weight'].any()) for i in range(5)]
    assert moved == [True, False, False, True, False]
    assert torch.equal(out['blocks.3.attn.qkv.weight'], state['blocks.1.attn.qkv.weight'])

def test_sizes_that_cannot_be_kept():
    "A width between two multiples, fewer blocks, a wider model that computes its positions"
    image = image_model()
    with pytest.raises(ValueError, match='hidden_size 78 is 1.625 times 48, .* take 48 or 96'):
        grow(image, hidden_size=78)
    with pytest.raises(ValueError, match='depth 1 is less than the 2 blocks'): grow(image, depth=1)
    video, _ = inflate(image, video_config(STDiT3Config, image))
    with pytest.raises(ValueError, match='STDiT3 computes its positions from its width, and those for 96'):
        grow(video, hidden_size=96)
    wide = grow(image, hidden_size=96)
    assert inflate(wide, video_config(STDiTConfig, wide))[1] == ["the positions of rows and columns are others"]

def test_inflated_model_trains_its_new_parts():
    "Zero is a start, not an end: the temporal projections get a gradient"
    image = image_model()
    video, _ = inflate(image, video_config(STDiT3Config, image))
    video(*question(), **SIZE).square().mean().backward()
    assert all(b.attn.proj.weight.grad.any() for b in video.temporal_blocks)
