"DiT and Latte against stored outputs of the reference (Open-Sora 1.2, float32), published sizes, published layouts"
import json
from dataclasses import replace
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from opensora_nb.blocks.attention import use_backend
from opensora_nb.blocks.meter import on_meta
from opensora_nb.config import from_dict
from opensora_nb.models.dit import DiT, DiTConfig, dit_from_imagenet, dit_imagenet_256, dit_tiny, dit_xl2, dit_xl2x2
from opensora_nb.models.latte import Latte, LatteConfig, latte_from_ucf101, latte_tiny, latte_ucf101, latte_xl2
from opensora_nb.weights import read_state

GOLDENS = Path(__file__).parent/'goldens'
CLASSES = {'DiT': (DiT, DiTConfig), 'Latte': (Latte, LatteConfig)}
CASES = [('dit', 'dit_text'), ('dit', 'dit_label'), ('latte', 'latte_text')]

def golden(file, name):
    "The reference model, its state dict loaded strictly, its inputs and its output"
    entry = json.loads((GOLDENS/f'{file}.json').read_text())['models'][name]
    data = load_file(GOLDENS/f'{file}.safetensors')
    make, config = CLASSES[entry['cls']]
    m = make(from_dict(config, entry['config'])).eval()
    fresh = {k: v.clone() for k, v in m.state_dict().items()}
    start = f'{name}.weights.'
    state = {k.removeprefix(start): v for k, v in data.items() if k.startswith(start)}
    m.load_state_dict(state, strict=True)
    for k in ('pos_embed_spatial', 'pos_embed_temporal'):
        torch.testing.assert_close(fresh[k], state[k], atol=1e-6, rtol=0)
    inputs = {k: data[f'{name}.a.in.{k}'] for k in 'xty'}
    return m, dict(x=inputs['x'], timestep=inputs['t'], y=inputs['y']), data[f'{name}.a.out']

@pytest.mark.parametrize('file,name', CASES)
@torch.no_grad()
def test_forward(file, name):
    "Output in float32, position tables too, whichever way attention is computed"
    m, inputs, want = golden(file, name)
    for backend in ('naive', 'sdpa'):
        out = use_backend(m, backend)(**inputs)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, want, atol=2e-5, rtol=1e-4)

@pytest.mark.parametrize('file,name', CASES)
@torch.no_grad()
def test_forward_bf16(file, name):
    "With bfloat16 weights the same inputs are taken as they are, and the output is close and float32"
    m, inputs, want = golden(file, name)
    out = m.bfloat16()(**inputs)
    assert out.dtype == torch.float32
    assert ((out - want).square().mean() / want.square().mean()).sqrt() < .03

@pytest.mark.parametrize('make,cfg,parameters', [
    (DiT, dit_xl2(), 675_600_800), (DiT, dit_imagenet_256(), 674_834_720), (Latte, latte_xl2(), 675_600_800),
    (DiT, dit_xl2x2(), 675_600_800 + 1152*16 + 1152*32 + 32)])
def test_published_size(make, cfg, parameters):
    "A patch of two frames has 16 numbers more to read and 32 more to write"
    m = on_meta(make, cfg)
    assert sum(p.numel() for p in m.parameters()) == parameters
    assert len(m.state_dict()) == 2 + 2 + 4 + (1 if cfg.num_classes else 5) + 28*10 + 4

def published(m):
    "The state dict as the authors of DiT and Latte save it"
    state = {k: v for k, v in m.state_dict().items() if not k.startswith('pos_embed_')}
    patch = {'x_embedder.proj.weight': state['x_embedder.proj.weight'][:, :, 0].clone()}
    tables = dict(pos_embed=m.pos_embed_spatial)
    if isinstance(m, Latte): tables['temp_embed'] = m.pos_embed_temporal
    return state | patch | tables

@pytest.mark.parametrize('make,cfg,convert', [
    (DiT, replace(dit_tiny(), input_size=(1, 8, 8), condition='label_10', depth=2, no_temporal_pos_emb=True),
     dit_from_imagenet),
    (Latte, replace(latte_tiny(), condition='label_101', depth=2), latte_from_ucf101)])
@torch.no_grad()
def test_published_layout(tmp_path, make, cfg, convert):
    "A file, plain or with an entry `ema`, gives the model that wrote it: same configuration, same output"
    torch.manual_seed(0)
    m = make(cfg).eval()
    for p in m.parameters(): p.normal_(0, .1)
    x, t, y = torch.randn(2, 4, *cfg.input_size), torch.tensor([10., 900.]), torch.tensor([0, 9])
    for content in (published(m), dict(model={k: v*0 for k, v in published(m).items()}, ema=published(m), step=3)):
        torch.save(content, tmp_path/'weights.pt')
        for given in (content, read_state(tmp_path/'weights.pt')):
            state, got = convert(given, num_heads=4)
            assert got == replace(cfg, caption_channels=512)
            again = make(got).eval()
            again.load_state_dict(state, strict=True)
            assert torch.equal(again(x, t, y), m(x, t, y))
    assert m(x, t, y).abs().max() > .1

def changed(state, **arrays): return state | {k.replace('__', '.'): v for k, v in arrays.items()}
SHAPES = {make: {k: torch.empty(v.shape, device='meta') for k, v in published(on_meta(make, cfg)).items()}
          for make, cfg in ((DiT, dit_imagenet_256()), (Latte, latte_ucf101()))}

@pytest.mark.parametrize('convert,state,said', [
    (dit_from_imagenet, SHAPES[Latte], 'look like Latte weights of UCF-101'),
    (latte_from_ucf101, SHAPES[DiT], 'look like ImageNet DiT weights'),
    (dit_from_imagenet, {'spatial_blocks.0.attn.qkv.weight': torch.empty(1), 'temporal_blocks.0.x': torch.empty(1)},
     'look like STDiT3 weights'),
    (dit_from_imagenet, {}, 'x_embedder.proj.weight is not among them'),
    (dit_from_imagenet, {k: v for k, v in SHAPES[DiT].items() if k != 'pos_embed'}, 'pos_embed is not among them'),
    (dit_from_imagenet, changed(SHAPES[DiT], pos_embed=torch.empty(1, 255, 1152, device='meta')), '255 positions'),
    (dit_from_imagenet, changed(SHAPES[DiT], final_layer__linear__weight=torch.empty(24, 1152, device='meta')),
     'returns 24 numbers a token'),
    (dit_from_imagenet, {k: v for k, v in SHAPES[DiT].items() if '.7.' not in k}, 'blocks.7'),
    (latte_from_ucf101, changed(SHAPES[Latte], text_embedding_projection__1__weight=torch.empty(9, 7)),
     '1 unknown: text_embedding_projection.1.weight'),
    (latte_from_ucf101, on_meta(Latte, latte_ucf101()).state_dict(), "under Open-Sora's names")])
def test_other_weights_are_named(convert, state, said):
    "A sentence that says what the file is, or what it lacks"
    with pytest.raises(ValueError) as e: convert(state)
    assert said in str(e.value), e.value

def test_loading_leaves_the_cached_tables_alone():
    "Weights with odd position tables change the model they are loaded into, and no model that is built later"
    m = DiT(replace(dit_tiny(), depth=1))
    m.load_state_dict({k: v*0 for k, v in m.state_dict().items()})
    assert DiT(replace(dit_tiny(), depth=1)).pos_embed_spatial.abs().max() == 1

def test_no_row_for_no_class():
    "A model trained without class dropout says that it cannot be guided"
    m = DiT(replace(dit_tiny(), input_size=(1, 8, 8), condition='label_10', class_dropout_prob=0., depth=1))
    assert len(m.y_embedder.embedding_table.weight) == 10
    with pytest.raises(ValueError, match='cannot be guided'): m.y_embedder.null()
    with pytest.raises(ValueError, match='class 10 is outside'):
        m(torch.randn(1, 4, 1, 8, 8), torch.tensor([5.]), torch.tensor([3]), drop=torch.tensor([True]))
