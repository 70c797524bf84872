"STDiT2 (1.1) against stored outputs of the reference in float32, in both orders of norm and rotation, and its files"
import json
from dataclasses import replace
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from opensora_nb.blocks.meter import on_meta
from opensora_nb.config import from_dict, to_dict
from opensora_nb.models.stdit2 import STDiT2, STDiT2Config, stdit2_from_opensora, stdit2_tiny, stdit2_xl2
from opensora_nb.models.zoo import every_layout, randomise
from opensora_nb.weights import load_into, read_config, read_state

GOLDENS = Path(__file__).parent/'goldens'
DATA = load_file(GOLDENS/'stdit2.safetensors')
CONFIGS = {name: m['config'] for name, m in json.loads((GOLDENS/'stdit2.json').read_text())['models'].items()}
CONFIGS['stdit2'] = json.loads((GOLDENS/'stdit2_weights.json').read_text())['config']
CASES = [('stdit2_legacy', 'a'), ('stdit2_legacy', 'xmask'), ('stdit2_noqk', 'a'),
         ('stdit2', 'fwd_video'), ('stdit2', 'fwd_xmask'), ('stdit2', 'fwd_image')]

def part(start): return {k.removeprefix(start): v for k, v in DATA.items() if k.startswith(start)}

def weights(name): return part(f'{name}.weights.') or load_file(GOLDENS/f'{name}_weights.safetensors')

def golden_model(name, **changes):
    "The reference's weights, through the function for public files: no key missing, none unexpected"
    state, cfg = stdit2_from_opensora(weights(name), CONFIGS[name], **changes)
    model = STDiT2(cfg)
    assert load_into(model, state).ok
    return model.eval()

@pytest.mark.parametrize('name,case', CASES)
@torch.no_grad()
def test_forward(name, case):
    out = golden_model(name)(**part(f'{name}.{case}.in.'))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, DATA[f'{name}.{case}.out'], atol=2e-5, rtol=1e-4)

@pytest.mark.parametrize('name,case', [('stdit2_legacy', 'a'), ('stdit2', 'fwd_video')])
@torch.no_grad()
def test_the_other_order_misses_the_stored_output(name, case):
    "Who loads weights in the wrong order gets no error, but other clips"
    legacy = CONFIGS[name]['qk_norm_legacy']
    out = golden_model(name, qk_norm_legacy=not legacy)(**part(f'{name}.{case}.in.'))
    assert (out - DATA[f'{name}.{case}.out']).abs().max() > 1e-4

@pytest.mark.parametrize('name', CONFIGS)
def test_the_configuration_is_that_of_config_json(name):
    assert golden_model(name).cfg == from_dict(STDiT2Config, CONFIGS[name])

def test_without_config_json_the_public_order_is_taken():
    _, cfg = stdit2_from_opensora(weights('stdit2'))
    assert cfg.qk_norm_legacy and cfg.input_sq_size == 512
    assert not stdit2_from_opensora(weights('stdit2_noqk'))[1].qk_norm
    released = {k: v for k, v in CONFIGS['stdit2'].items() if k != 'qk_norm_legacy'} # as the code of 1.1 wrote it
    assert stdit2_from_opensora(weights('stdit2'), released)[1].qk_norm_legacy
    assert not stdit2_from_opensora(weights('stdit2'), released, qk_norm_legacy=False)[1].qk_norm_legacy

@torch.no_grad()
def test_bf16_stays_near():
    out, want = golden_model('stdit2').bfloat16()(**part('stdit2.fwd_video.in.')), DATA['stdit2.fwd_video.out']
    assert out.dtype == torch.float32 and (out - want).norm()/want.norm() < 0.03

def test_published_size():
    model = on_meta(STDiT2, stdit2_xl2())
    assert sum(p.numel() for p in model.parameters()) == 767_452_100 and len(model.state_dict()) == 707
    assert len(golden_model('stdit2').state_dict()) == 83

def test_every_public_layout(tmp_path):
    "A hub folder, one file, shards, training checkpoints: all load, and the answers agree to the bit"
    model = randomise(STDiT2(replace(stdit2_tiny(), hidden_size=48, depth=2, caption_channels=16, input_sq_size=512)))
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(1, 4, 2, 4, 6, generator=g), torch.randn(1, 1, 5, 16, generator=g)
    def load(path):
        folder = path if path.is_dir() else path.parent
        here = folder/'snapshots'/('0'*40) if (folder/'snapshots').is_dir() else folder
        released = read_config(here) if (here/'config.json').is_file() else None
        state, cfg = stdit2_from_opensora(read_state(here if path.is_dir() else path), released)
        again = STDiT2(cfg).eval()
        assert load_into(again, state).ok
        return again
    found = every_layout(model, load, lambda m: m(x, torch.tensor([500.]), y, fps=8, height=64, width=96), tmp_path)
    assert len(found) > 8 and not any(found.values()), found

def test_wrong_files_are_named():
    state, config = weights('stdit2'), CONFIGS['stdit2']
    def without(word): return {k: v for k, v in state.items() if word not in k}
    for name, said in [('temporal_blocks.0.x', 'STDiT3 weights'), ('blocks.0.attn_temp.qkv.weight', 'STDiT weights'),
                       ('blocks.0.adaLN_modulation.1.weight', 'DiT or Latte'),
                       ('blocks.0.cross_attn.proj.weight', 'PixArt weights')]:
        with pytest.raises(ValueError, match=said): stdit2_from_opensora({name: torch.ones(2, 2)})
    with pytest.raises(ValueError, match='rope.freqs is not among them'): stdit2_from_opensora(without('rope'))
    with pytest.raises(ValueError, match='2 missing in the file: blocks.1.attn_temp.proj.weight'):
        stdit2_from_opensora(without('blocks.1.attn_temp.proj'))
    with pytest.raises(ValueError, match='1 unknown to the model: odd'):
        stdit2_from_opensora(state | dict(odd=torch.ones(1)))
    with pytest.raises(ValueError, match='hidden_size 1152, the weights have 72'):
        stdit2_from_opensora(state, config | dict(hidden_size=1152))

@torch.no_grad()
def test_a_longer_text_length_repeats_the_last_row():
    model = golden_model('stdit2', model_max_length=20)
    rows = model.y_embedder.y_embedding
    assert len(rows) == 20 and torch.equal(rows[16:], rows[15:16].expand(4, -1))
    out = model(**part('stdit2.fwd_video.in.'))
    torch.testing.assert_close(out, DATA['stdit2.fwd_video.out'], atol=2e-5, rtol=1e-4)

def test_gradients():
    "Gradients reach every weight but the frozen frequencies"
    model = golden_model('stdit2').train()
    model(**part('stdit2.fwd_xmask.in.'), drop=torch.tensor([False, True])).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == ['rope.freqs']

def test_settings_survive_json():
    assert from_dict(STDiT2Config, to_dict(stdit2_xl2())) == stdit2_xl2()
