"STDiT (1.0) against stored outputs of the reference in float32, and its public files"
import json
from dataclasses import replace
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from opensora_nb.blocks.meter import on_meta
from opensora_nb.blocks.position import sincos_2d
from opensora_nb.config import from_dict
from opensora_nb.models.stdit import (STDiT, STDiTConfig, stdit_from_opensora, stdit_xl2_16x256x256,
                                      stdit_xl2_16x512x512, stdit_xl2_64x512x512)
from opensora_nb.models.zoo import every_layout, randomise
from opensora_nb.weights import load_into, read_state

GOLDENS = Path(__file__).parent/'goldens'
SPEC = json.loads((GOLDENS/'stdit1.json').read_text())['models']['stdit1']
DATA = load_file(GOLDENS/'stdit1.safetensors')

def part(start): return {k.removeprefix(start): v for k, v in DATA.items() if k.startswith(start)}

def golden_model():
    "The reference's weights, through the function for public files: no key missing, none unexpected"
    state, cfg = stdit_from_opensora(part('stdit1.weights.'), num_heads=SPEC['config']['num_heads'])
    model = STDiT(cfg)
    assert load_into(model, state).ok
    return model.eval()

def test_the_file_tells_the_configuration():
    assert golden_model().cfg == from_dict(STDiTConfig, SPEC['config'])

@pytest.mark.parametrize('case', SPEC['cases'])
@torch.no_grad()
def test_forward(case):
    out = golden_model()(**part(f'stdit1.{case}.in.'))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, DATA[f'stdit1.{case}.out'], atol=2e-5, rtol=1e-4)

@torch.no_grad()
def test_the_gate_of_time_ignores_the_frame_mask():
    "With the masked gate the stored output is missed"
    model, case = golden_model(), 'stdit1.xmask'
    for block in model.blocks:
        forward = block.forward
        block.forward = lambda x, y, lens, modulation, noisy, frames, forward=forward: forward(
            x, y, lens, modulation, modulation, frames)
    assert (model(**part(f'{case}.in.')) - DATA[f'{case}.out']).abs().max() > 1e-3

@torch.no_grad()
def test_bf16_stays_near():
    out, want = golden_model().bfloat16()(**part('stdit1.a.in.')), DATA['stdit1.a.out']
    assert out.dtype == torch.float32 and (out - want).norm()/want.norm() < 0.03

def test_published_sizes():
    for preset in (stdit_xl2_16x256x256, stdit_xl2_16x512x512, stdit_xl2_64x512x512):
        model = on_meta(STDiT, preset())
        assert sum(p.numel() for p in model.parameters()) == 759_620_768
    assert len(model.state_dict()) == 550 - 2 # two tables of a released file are computed

def public(model):
    f, h, w = model.cfg.grid
    tables = dict(pos_embed=sincos_2d(model.cfg.hidden_size, h, w, model.cfg.space_scale)[None],
                  pos_embed_temporal=model.frame_positions()[None])
    return tables | {k: v.clone() for k, v in model.state_dict().items()}

SMALL = STDiTConfig(hidden_size=144, depth=2, num_heads=2, caption_channels=16, model_max_length=12)

SIZES = [((16, 32, 32), 0.5, 1.), ((16, 64, 64), 1., 1.), ((64, 64, 64), 1., 2/3), ((1, 2, 2), 1., 1.),
         ((3, 6, 2), 1., 1.)]

@pytest.mark.parametrize('size,space,time,dtype', [
    *((*row, dtype) for row in SIZES for dtype in (torch.float32, torch.bfloat16)),
    ((3, 2, 6), 2., 0.7, torch.float32)]) # a scale that is no simple ratio
def test_size_and_scales_are_read_off_the_tables(size, space, time, dtype):
    cfg = replace(SMALL, input_size=size, space_scale=space, time_scale=time)
    _, read = stdit_from_opensora({k: v.to(dtype) for k, v in public(STDiT(cfg)).items()})
    assert replace(read, time_scale=time) == cfg and abs(read.time_scale - time) < 1e-5

def test_a_file_with_an_average_inside(tmp_path):
    "1.0 also read a wrapper with `ema`"
    model = STDiT(replace(SMALL, input_size=(2, 4, 4)))
    torch.save(dict(ema=public(model), step=3), tmp_path/'model.pth')
    state, cfg = stdit_from_opensora(read_state(tmp_path/'model.pth'))
    assert load_into(STDiT(cfg), state).ok

def test_every_public_layout(tmp_path):
    "One file, shards, training checkpoints: all load, and the answers agree to the bit"
    model = randomise(STDiT(replace(SMALL, input_size=(2, 4, 6))))
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(1, 4, 2, 4, 6, generator=g), torch.randn(1, 1, 5, 16, generator=g)
    def load(path):
        here = path/'snapshots'/('0'*40) if (path/'snapshots').is_dir() else path
        state, cfg = stdit_from_opensora(read_state(here), input_size=(2, 4, 6))
        again = STDiT(cfg).eval()
        assert load_into(again, state).ok
        return again
    found = every_layout(model, load, lambda m: m(x, torch.tensor([500.]), y), tmp_path)
    assert len(found) > 8 and not any(found.values()), found

def test_wrong_files_are_named():
    state = public(STDiT(replace(SMALL, input_size=(2, 4, 4))))
    def without(word): return {k: v for k, v in state.items() if word not in k}
    for names, said in [(['fl_embedder.mlp.0.weight'], 'STDiT2 weights of Open-Sora 1.1'),
                        (['temporal_blocks.0.x'], 'STDiT3 weights'),
                        (['blocks.0.adaLN_modulation.1.weight'], 'DiT or Latte'),
                        (['blocks.0.cross_attn.proj.weight'], 'PixArt weights')]:
        with pytest.raises(ValueError, match=said): stdit_from_opensora({k: torch.ones(2, 2) for k in names})
    with pytest.raises(ValueError, match='x_embedder.proj.weight is not among them'):
        stdit_from_opensora(without('x_embedder'))
    with pytest.raises(ValueError, match='2 missing in the file: blocks.1.attn_temp.proj.weight'):
        stdit_from_opensora(without('blocks.1.attn_temp.proj'))
    with pytest.raises(ValueError, match='1 unknown to the model: odd'):
        stdit_from_opensora(state | dict(odd=torch.ones(1)))
    with pytest.raises(ValueError, match='position tables'): stdit_from_opensora(without('pos_embed'))

def test_gradients_and_dropout():
    "Gradients reach every weight; a dropped caption is the null text"
    torch.manual_seed(0)
    model = golden_model().train()
    given = part('stdit1.xmask.in.')
    model(**given, drop=torch.tensor([False, True])).square().mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]
    null = given['y'].clone()
    null[1] = model.y_embedder.y_embedding
    with torch.no_grad():
        dropped = model(**given, drop=torch.tensor([False, True]))
        torch.testing.assert_close(dropped, model(**given | dict(y=null), drop=torch.zeros(2).bool()))
