"PixArt and PixArtMS against stored outputs of the reference (float32), and their public layouts"
import json
from dataclasses import replace
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from opensora_nb.config import from_dict
from opensora_nb.models.pixart import (
    PixArt, PixArtConfig, PixArtMS, PixArtMSConfig, pixart_1b2, pixart_from_alpha, pixart_ms_tiny, pixart_ms_xl2,
    pixart_tiny, pixart_xl2)
from opensora_nb.models.zoo import randomise
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
    seen, state = pixart_from_alpha(read_state(publish(theirs, tmp_path/'PixArt-XL-2.pth')))
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
    assert pixart_from_alpha(state)[0] == m.cfg
    given, _ = pixart_from_alpha(state, input_size=(1, 256, 256))
    assert given.input_size == (1, 256, 256) and given.space_scale == 4

@pytest.mark.parametrize('change, said', [
    (lambda s: {k: v for k, v in s.items() if 'blocks.1.' not in k}, 'missing in the file: blocks.1.'),
    (lambda s: s | {'blocks.0.attn.sr.weight': torch.ones(2)}, 'read them with pixart_from_sigma'),
    (lambda s: s | {'fl_embedder.mlp.0.bias': torch.ones(2)}, 'look like STDiT2 weights of Open-Sora 1.1'),
    (lambda s: s | {'temporal_blocks.0.attn.proj.bias': torch.ones(2)}, 'look like STDiT3 weights'),
    (lambda s: s | {'blocks.0.attn.proj.weight': torch.ones(2, 2)}, 'blocks.0.attn.proj.weight: file (2, 2)'),
    (lambda s: s | {'pos_embed': torch.ones(1, 12, 144)}, 'pos_embed has 12 positions, which is no square'),
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
