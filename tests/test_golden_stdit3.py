"STDiT3 against stored outputs of the reference (Open-Sora 1.2, float32): forwards, parts, gradients, caption dropout"
import json
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from opensora_nb.blocks.embed import timestep_embedding
from opensora_nb.blocks.position import RoPE, sincos_2d
from opensora_nb.config import from_dict
from opensora_nb.models.stdit3 import STDiT3, STDiT3Config, stdit3_3b2, stdit3_xl2

GOLDENS = Path(__file__).parent/'goldens'
SPEC = json.loads((GOLDENS/'stdit3_cases.json').read_text())
DATA = load_file(GOLDENS/'stdit3_cases.safetensors')
CASES = list(SPEC['cases'])

def close(got, want, factor=1): torch.testing.assert_close(got, want, atol=2e-5*factor, rtol=1e-4*factor)

def model(name, **changes):
    "Reference model A or B, its state dict loaded strictly"
    config = json.loads((GOLDENS/f'stdit3_{name}_weights.json').read_text())['config']
    m = STDiT3(from_dict(STDiT3Config, config | changes))
    m.load_state_dict(load_file(GOLDENS/f'stdit3_{name}_weights.safetensors'), strict=True)
    return m.eval()

def inputs(case):
    start = f'{case}.in.'
    return {k.removeprefix(start): v for k, v in DATA.items() if k.startswith(start)}

@pytest.mark.parametrize('case', CASES)
@torch.no_grad()
def test_forward(case):
    out = model(SPEC['cases'][case]['weights'])(**inputs(case))
    assert out.dtype == torch.float32
    close(out, DATA[f'{case}.out'])

@pytest.mark.parametrize('case', CASES)
@torch.no_grad()
def test_forward_bf16(case):
    "With bfloat16 weights we keep timesteps and positions in float32, so we compare with the float32 output"
    out = model(SPEC['cases'][case]['weights']).bfloat16()(**inputs(case))
    want = DATA[f'{case}.out']
    error = ((out - want).square().mean() / want.square().mean()).sqrt()
    assert error < 2*max(0.01, SPEC['cases'][case]['bf16_rel_rms'])

@pytest.mark.parametrize('backend', ['naive', 'sdpa'])
@torch.no_grad()
def test_backends(backend):
    m = model('A')
    for part in m.modules():
        if hasattr(part, 'backend'): part.backend = backend
    close(m(**inputs('a_video_odd')), DATA['a_video_odd.out'])

@torch.no_grad()
def test_parts():
    "The output of every sub-module on the way"
    m, case, seen = model('A'), 'a_video_odd', {}
    start = f'{case}.inter.'
    want = {k.removeprefix(start): v for k, v in DATA.items() if k.startswith(start)}
    pos = want.pop('pos_embed')
    for name in want: m.get_submodule(name).register_forward_hook(lambda _, i, out, name=name: seen.update({name: out}))
    m(**inputs(case))
    assert set(seen) == set(want)
    for name, out in seen.items(): close(out.reshape(want[name].shape), want[name])
    close(m.positions(4, 5, inputs(case)['height'], inputs(case)['width'])[None], pos)

def test_gradients():
    m, spec = model('A', class_dropout_prob=0.).train(), SPEC['grad']
    loss = (m(**inputs('c_xmask')) * DATA['grad.g']).mean()
    loss.backward()
    close(loss.detach(), DATA['grad.loss'])
    grads = {name: p.grad for name, p in m.named_parameters()}
    assert set(grads) == set(spec['norms'])
    for name, norm in spec['norms'].items():
        if norm is None: assert grads[name] is None, name
        else: torch.testing.assert_close(grads[name].norm().item(), norm, atol=2e-6, rtol=1e-4, msg=name)
    wanted = [k for k in DATA if k.startswith('grad.param.')]
    assert len(wanted) == 8
    for k in wanted: torch.testing.assert_close(grads[k.removeprefix('grad.param.')], DATA[k], atol=2e-6, rtol=1e-4)

def test_caption_dropout():
    m = model('A', class_dropout_prob=0.5).train()
    flags = DATA['drop.uniform'] < 0.5
    assert 0 < flags.sum() < len(flags)
    close(m(**inputs('c_xmask'), drop=flags).detach(), DATA['drop.out'])

@pytest.mark.parametrize('key', [k for k in DATA if k.startswith('pos_embed.')])
def test_positions(key):
    h, w, scale, base = (float(n) for n in key.removeprefix('pos_embed.').split('_'))
    close(sincos_2d(72, int(h), int(w), scale, int(base))[None], DATA[key])

def test_pieces():
    close(timestep_embedding(DATA['timestep_embedding.t']), DATA['timestep_embedding.256'])
    x = DATA['rope.in']
    close(RoPE(x.shape[-1])(x.shape[-2])(x).detach(), DATA['rope.out'])

@pytest.mark.parametrize('preset, parameters', [(stdit3_xl2, 1_207_643_972), (stdit3_3b2, 3_182_211_572)])
def test_released_size(preset, parameters):
    with torch.device('meta'): m = STDiT3(preset())
    state = m.state_dict()
    assert sum(p.numel() for p in m.parameters()) == parameters
    assert len(state) == 973
    assert state['y_embedder.y_embedding'].shape == (300, 4096)

def test_key_order():
    "The order the reference saves its keys in: own first, then parts as they were made"
    with torch.device('meta'): keys = list(STDiT3(stdit3_xl2()).state_dict())
    assert keys[0] == 'rope.freqs' and keys[17] == 'y_embedder.y_proj.fc2.bias'
    assert [k.removeprefix('spatial_blocks.0.') for k in keys[18:35]] == [
        'scale_shift_table', 'attn.qkv.weight', 'attn.qkv.bias', 'attn.q_norm.weight', 'attn.k_norm.weight',
        'attn.proj.weight', 'attn.proj.bias', 'cross_attn.q_linear.weight', 'cross_attn.q_linear.bias',
        'cross_attn.kv_linear.weight', 'cross_attn.kv_linear.bias', 'cross_attn.proj.weight', 'cross_attn.proj.bias',
        'mlp.fc1.weight', 'mlp.fc1.bias', 'mlp.fc2.weight', 'mlp.fc2.bias',
    ]
    assert keys[-3:] == ['final_layer.scale_shift_table', 'final_layer.linear.weight', 'final_layer.linear.bias']
