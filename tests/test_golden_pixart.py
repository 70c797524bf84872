"PixArt, PixArtMS and PixArtSigma against stored outputs of the reference (float32), and their public layouts"
import json
from dataclasses import replace
from pathlib import Path
import pytest, torch
from einops import rearrange
from safetensors.torch import load_file
from opensora_nb.blocks.attention import use_backend
from opensora_nb.config import from_dict
from opensora_nb.models.pixart import (
    PixArt, PixArtConfig, PixArtMS, PixArtMSConfig, pixart_1b2, pixart_from_alpha, pixart_ms_tiny, pixart_ms_xl2,
    pixart_tiny, pixart_xl2)
from opensora_nb.models.pixart_sigma import (
    SAMPLINGS, CompressedAttention, KVCompressConfig, PixArtSigma, PixArtSigmaConfig, pixart_from_sigma,
    pixart_sigma_kvc, pixart_sigma_tiny, pixart_sigma_xl2)
from opensora_nb.models.zoo import randomise
from opensora_nb.parallel.memory import checkpoint_blocks, transformer_blocks
from opensora_nb.weights import load_into, read_state

GOLDENS = Path(__file__).parent/'goldens'
SPEC = json.loads((GOLDENS/'pixart.json').read_text())['models']
DATA = load_file(GOLDENS/'pixart.safetensors')
CLASSES = dict(pixart=(PixArt, PixArtConfig), pixart_ms=(PixArtMS, PixArtMSConfig))

def part(name, start):
    start = f'{name}.{start}.'
    return {k.removeprefix(start): v for k, v in DATA.items() if k.startswith(start)}

def model(name):
    "The reference's model under its own names, position tables included"
    cls, config = CLASSES[name]
    m = cls(from_dict(config, SPEC[name]['config']))
    own = m.state_dict()
    for k in ('pos_embed', 'pos_embed_temporal'): # computed before they are loaded
        torch.testing.assert_close(own[k], DATA[f'{name}.weights.{k}'], atol=2e-6, rtol=0)
    m.load_state_dict(part(name, 'weights'), strict=True)
    return m.eval()

def asked(name):
    given = part(name, 'a.in')
    info = {k.removeprefix('data_info.'): given.pop(k) for k in list(given) if k.startswith('data_info.')}
    return given | (dict(data_info=info) if info else {})

def close(got, want): torch.testing.assert_close(got, want, atol=2e-5, rtol=0)

@pytest.mark.parametrize('backend', ['naive', 'sdpa'])
@pytest.mark.parametrize('name', CLASSES)
@torch.no_grad()
def test_forward(name, backend):
    "The reference's answer, with either attention"
    m = model(name)
    for p in m.modules():
        if hasattr(p, 'backend'): p.backend = backend
    out = m(**asked(name))
    assert out.dtype == torch.float32
    close(out, DATA[f'{name}.a.out'])

@torch.no_grad()
def test_size_in_all_ways_it_is_passed():
    "data_info, hw and ar, height and width: one answer, that of the reference"
    m, given = model('pixart_ms'), asked('pixart_ms')
    info = given.pop('data_info')
    for how in (info, dict(hw=info['hw'], ar=info['ar']), dict(height=info['hw'][:, 0], width=info['hw'][:, 1],
                                                               ar=info['ar'])):
        close(m(**given, **how), DATA['pixart_ms.a.out'])

@pytest.mark.parametrize('name', CLASSES)
@torch.no_grad()
def test_bfloat16(name):
    "Weights in bfloat16: a float32 answer that is near"
    out, want = model(name).bfloat16()(**asked(name)), DATA[f'{name}.a.out']
    assert out.dtype == torch.float32
    assert (out - want).square().mean().sqrt() < .03*want.square().mean().sqrt()

def test_sizes():
    "Published parameter counts"
    def count(cls, cfg):
        with torch.device('meta'): return sum(p.numel() for p in cls(cfg).parameters())
    assert count(PixArt, pixart_xl2()) == 610_856_096
    assert count(PixArt, pixart_1b2()) == 1_607_256_176
    assert count(PixArtMS, pixart_ms_xl2()) == 610_856_096 + 2*(256*384 + 384 + 384**2 + 384)

def test_starts_at_zero_and_every_weight_learns():
    "An untrained model predicts 0; once the zeros have moved, gradients reach every parameter"
    torch.manual_seed(0)
    m = PixArtMS(pixart_ms_tiny())
    given = dict(x=torch.randn(2, 4, 1, 8, 6), timestep=torch.tensor([3., 700.]), y=torch.randn(2, 1, 5, 128),
                 height=64, width=48)
    assert not m(**given).any()
    randomise(m).train()
    m(**given, drop=torch.tensor([True, False])).square().mean().backward()
    assert not [n for n, p in m.named_parameters() if p.grad is None or not p.grad.any()]

# public layouts

def publish(m, path):
    "As PixArt-alpha publishes: in an entry, a flat kernel, one position table"
    state = {k: v for k, v in m.state_dict().items() if k != 'pos_embed_temporal'}
    state['x_embedder.proj.weight'] = state['x_embedder.proj.weight'][:, :, 0]
    torch.save(dict(state_dict=state, epoch=1), path)
    return path

@pytest.mark.parametrize('cls, cfg', [
    (PixArt, pixart_xl2(256)), (PixArt, pixart_xl2(512)), (PixArtMS, pixart_ms_xl2()), (PixArtMS, pixart_ms_xl2(512))])
@torch.no_grad()
def test_public_layout(cls, cfg, tmp_path):
    "Every name fits, and the answer is the same to the bit"
    theirs = randomise(cls(replace(cfg, hidden_size=144, num_heads=2, depth=2, caption_channels=16)))
    theirs.pos_embed.copy_(cls(theirs.cfg).pos_embed)
    theirs.pos_embed_temporal.copy_(cls(theirs.cfg).pos_embed_temporal)
    state, seen = pixart_from_alpha(read_state(publish(theirs, tmp_path/'PixArt-XL-2.pth')))
    assert seen == theirs.cfg
    ours = cls(seen).eval()
    load_into(ours, state)
    side = cfg.input_size[1]//(2 if cls is PixArtMS else 1)
    given = dict(x=torch.randn(1, 4, 1, side, side), timestep=torch.tensor([300.]), y=torch.randn(1, 1, 9, 16),
                 height=8*side, width=8*side)
    assert torch.equal(ours(**given), theirs(**given))

def test_public_layout_without_a_table():
    "The size is what the caller says, or what was published"
    m = PixArt(replace(pixart_xl2(), hidden_size=144, num_heads=2, depth=1, caption_channels=16))
    state = {k: v for k, v in m.state_dict().items() if 'pos_embed' not in k}
    assert pixart_from_alpha(state)[1] == m.cfg
    _, given = pixart_from_alpha(state, input_size=(1, 256, 256))
    assert given.input_size == (1, 256, 256) and given.space_scale == 4

@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('scale', [.5, 1, 2, 3, 4])
def test_the_scale_is_read_off_the_table(scale, dtype):
    "Of a table in any format; powers of 2 are found in half formats, too"
    m = PixArt(replace(pixart_tiny(), depth=1, space_scale=scale))
    state = m.state_dict() | dict(pos_embed=m.pos_embed.to(dtype))
    _, seen = pixart_from_alpha(state, num_heads=4)
    assert seen.space_scale == scale or (scale == 3 and dtype != torch.float32)

@pytest.mark.parametrize('cls, cfg', [(PixArt, pixart_tiny()), (PixArtMS, pixart_ms_tiny())])
def test_checkpointing_changes_no_gradient(cls, cfg):
    "Blocks that are computed again in the backward pass give the same gradients to the bit"
    def gradients(prepare):
        m = randomise(cls(cfg)).train()
        prepare(m)
        g = torch.Generator().manual_seed(3)
        x, y = torch.randn(2, 4, 1, 8, 8, generator=g), torch.randn(2, 1, 5, 128, generator=g)
        m(x, torch.tensor([3., 700.]), y, height=64, width=64, drop=torch.zeros(2).bool()).square().mean().backward()
        return [p.grad for p in m.parameters()]
    plain, saved = gradients(lambda m: None), gradients(lambda m: checkpoint_blocks(transformer_blocks(m)))
    assert all(map(torch.equal, plain, saved))

@pytest.mark.parametrize('change, said', [
    (lambda s: {k: v for k, v in s.items() if 'blocks.1.' not in k}, 'missing in the file: blocks.1.'),
    (lambda s: s | {'blocks.0.attn.sr.weight': torch.ones(2)}, 'read them with pixart_from_sigma'),
    (lambda s: s | {'fl_embedder.mlp.0.bias': torch.ones(2)}, 'look like STDiT2 weights of Open-Sora 1.1'),
    (lambda s: s | {'temporal_blocks.0.attn.proj.bias': torch.ones(2)}, 'look like STDiT3 weights'),
    (lambda s: s | {'blocks.0.attn.proj.weight': torch.ones(2, 2)}, 'blocks.0.attn.proj.weight: file (2, 2)'),
    (lambda s: s | {'pos_embed': torch.ones(1, 12, 144)}, 'pos_embed has 12 positions, which is no square'),
    (lambda s: s | {'pos_embed': torch.ones(16, 144)}, 'pos_embed has shape (16, 144)'),
    (lambda s: s | {'y_embedder.y_embedding': torch.ones(3)}, 'y_embedder.y_embedding has shape (3,)')])
def test_wrong_files_are_named(change, said):
    "What it is, or what it lacks"
    m = PixArt(replace(pixart_tiny(), hidden_size=144, num_heads=2, depth=3))
    with pytest.raises(ValueError) as e: pixart_from_alpha(change(m.state_dict()))
    assert said in str(e.value)

def test_a_loaded_table_leaves_others_alone():
    "Loading writes into the model's own table, not into a cached one"
    cfg = replace(pixart_tiny(), depth=1)
    first = PixArt(cfg)
    before = first.pos_embed.clone()
    with torch.no_grad(): first.pos_embed.zero_()
    assert torch.equal(PixArt(cfg).pos_embed, before)

# PixArt-Sigma

SIGMA = 'pixart_sigma_kvc'

def sigma():
    m = PixArtSigma(from_dict(PixArtSigmaConfig, SPEC[SIGMA]['config']))
    m.load_state_dict(part(SIGMA, 'weights'), strict=True)
    return m.eval()

@pytest.mark.parametrize('backend', ['naive', 'sdpa'])
@torch.no_grad()
def test_sigma_forward(backend):
    "The reference's answer with compressed keys and values in one block, with either attention"
    m = use_backend(sigma(), backend)
    assert m.blocks[1].attn.backend == backend
    close(m(**asked(SIGMA)), DATA[f'{SIGMA}.a.out'])

def test_sigma_sizes():
    "The published count, and what compression adds: a kernel and a norm in each of its blocks"
    def count(cfg):
        with torch.device('meta'): return sum(p.numel() for p in PixArtSigma(cfg).parameters())
    assert count(pixart_sigma_xl2()) == 610_856_096
    assert count(pixart_sigma_kvc()) == 610_856_096 + 14*(1152*5 + 2*1152)

@pytest.mark.parametrize('sampling', [None, *SAMPLINGS])
@torch.no_grad()
def test_sigma_clips_and_shapes(sampling):
    "Frames are compressed one by one: a clip takes as many keys as its frames alone; any rows and columns"
    kv = sampling and KVCompressConfig(sampling, 2, (0, 1))
    cfg = replace(pixart_sigma_tiny(), depth=2, input_size=(3, 8, 8), no_temporal_pos_emb=False, kv_compress_config=kv)
    m = randomise(PixArtSigma(cfg))
    given = dict(timestep=torch.tensor([500.]), y=torch.randn(1, 1, 5, 128))
    for size in ((3, 8, 8), (3, 10, 12), (3, 7, 9)):
        assert m(torch.randn(1, 4, *size), **given).shape == (1, 8, *size)
    with pytest.raises(ValueError, match='2 frames, this PixArtSigma was built for 3'):
        m(torch.randn(1, 4, 2, 8, 8), **given)
    if sampling in ('conv', 'ave', 'uniform'):
        clip, attn = torch.randn(1, 3*4*6, 192), m.blocks[0].attn
        each = [attn.compress(frame, (1, 4, 6)) for frame in clip.chunk(3, 1)]
        torch.testing.assert_close(attn.compress(clip, (3, 4, 6)), torch.cat(each, 1))

@torch.no_grad()
def test_a_wide_grid_is_compressed_square_by_square():
    "`uniform` keeps the first token of each square, an untrained `conv` the normalised mean of it"
    x = torch.randn(1, 2*4*6, 48)
    squares = rearrange(x, 'b (f h i w j) d -> b (f h w) (i j) d', f=2, h=2, i=2, w=3, j=2)
    conv = CompressedAttention(48, 4).compress(x, (2, 4, 6))
    torch.testing.assert_close(conv, torch.nn.functional.layer_norm(squares.mean(2), (48,)))
    for sampling in ('uniform', 'ave'):
        assert torch.equal(CompressedAttention(48, 4, sampling=sampling).compress(x, (2, 4, 6)), squares[:, :, 0])
    assert CompressedAttention(48, 4, sampling='uniform').compress(x[:, :35], (1, 5, 7)).shape[1] == 12
    assert CompressedAttention(48, 4, sampling='ave').compress(x[:, :35], (1, 5, 7)).shape[1] == 6
    with pytest.raises(ValueError, match='a grid of 1 x 6 tokens is smaller than the square of 2 x 2'):
        CompressedAttention(48, 4).compress(x[:, :6], (1, 1, 6))

@torch.no_grad()
def test_factor_one_is_no_compression():
    "A factor of 1 changes nothing, keys of the state dict included"
    cfg = replace(pixart_sigma_tiny(), kv_compress_config=None)
    none = randomise(PixArtSigma(cfg))
    one = PixArtSigma(replace(cfg, kv_compress_config=KVCompressConfig('conv', 1, (0, 1)))).eval()
    one.load_state_dict(none.state_dict())
    given = dict(x=torch.randn(1, 4, 1, 8, 8), timestep=torch.tensor([500.]), y=torch.randn(1, 1, 5, 128))
    assert torch.equal(one(**given), none(**given))

@pytest.mark.parametrize('side, layers', [(256, ()), (512, (1,)), (1024, ()), (2048, (0, 1))])
@torch.no_grad()
def test_sigma_public_layout(side, layers, tmp_path):
    "Every name fits, 300 tokens of text, and the answer is the same to the bit"
    kv = KVCompressConfig('conv', 2, layers) if layers else None
    cfg = replace(pixart_sigma_xl2(side), hidden_size=144, num_heads=2, depth=2, caption_channels=16,
                  kv_compress_config=kv)
    theirs = randomise(PixArtSigma(cfg))
    theirs.load_state_dict(theirs.state_dict() | {k: v for k, v in PixArtSigma(cfg).state_dict().items()
                                                  if k.startswith('pos_embed')})
    state, seen = pixart_from_sigma(read_state(publish(theirs, tmp_path/'PixArt-Sigma-XL-2.pth')))
    assert seen == cfg and len(state['y_embedder.y_embedding']) == 300
    ours = PixArtSigma(seen).eval()
    load_into(ours, state)
    given = dict(x=torch.randn(1, 4, 1, 16, 8), timestep=torch.tensor([300.]), y=torch.randn(1, 1, 9, 16))
    assert torch.equal(ours(**given), theirs(**given))

@pytest.mark.parametrize('change, said', [
    (lambda s: {k: v for k, v in s.items() if k != 'blocks.4.attn.norm.bias'},
     '1 missing in the file: blocks.4.attn.norm.bias'),
    (lambda s: s | {'csize_embedder.mlp.0.weight': torch.ones(2)}, 'read them with pixart_from_alpha'),
    (lambda s: s | {'blocks.0.attn_temp.proj.bias': torch.ones(2)}, 'look like STDiT weights of Open-Sora 1.0'),
    (lambda s: s | {'blocks.4.attn.sr.weight': torch.ones(192, 1, 3, 3)}, 'blocks compress by [2, 3]')])
def test_wrong_sigma_files_are_named(change, said):
    "What it is, or what it lacks"
    with pytest.raises(ValueError) as e: pixart_from_sigma(change(PixArtSigma(pixart_sigma_tiny()).state_dict()))
    assert said in str(e.value)

def test_sigma_without_compression_is_a_pixart():
    "Open-Sora 1.2 reads Sigma's weights at 2048 pixels as a PixArt of 256 latent rows"
    m = PixArtSigma(replace(pixart_sigma_xl2(2048), hidden_size=144, num_heads=2, depth=1, caption_channels=16))
    state, cfg = pixart_from_alpha(m.state_dict(), base_size=2048//8)
    assert (cfg.input_size, cfg.space_scale, cfg.model_max_length, cfg.base) == ((1, 256, 256), 4, 300, 128)
    load_into(PixArt(cfg), state)
