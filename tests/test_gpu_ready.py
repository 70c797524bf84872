"What is written for a GPU, as far as a machine without one can try it: refusals, fp8 numbers, the prepared script"
import json
import runpy
import sys
from pathlib import Path
import pytest, torch
from torch import nn
from opensora_nb.blocks import linears, products
from opensora_nb.blocks.compare import relative_error
from opensora_nb.blocks.layers import MLP
from opensora_nb.metrics.gpu import CASE_WAYS, gpu_cases
from opensora_nb.models.fast_inference import CUDA_GRAPHS, compiled_blocks, faster
from opensora_nb.models.stdit3 import STDiT3, stdit3_tiny

SCRIPT = Path(__file__).parent/'gpu'/'measure.py'

@pytest.fixture
def capability(monkeypatch):
    "Pretend that there is a GPU of this compute capability"
    def pretend(*pair):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda *_: pair)
    return pretend

def test_fp8_asks_for_a_gpu_that_has_it(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert 'and there is no GPU here; use bf16, or int8' in products.why_not('fp8')
    capability(8, 0)
    assert 'compute capability 8.9 or more (L40, H100), and this one has 8.0' in products.why_not('fp8')
    for pair in ((8, 9), (9, 0), (12, 0)):
        capability(*pair)
        assert products.why_not('fp8') == ''
    with pytest.raises(ValueError, match='fp8 is for models on cuda, and this one is on cpu; use exact, or onednn'):
        with linears.fast_linears(nn.Linear(32, 32), 'fp8'): pass

def test_fp8_numbers_through_the_seam(monkeypatch, capability):
    "The kind as a GPU would use it, on a CPU, which multiplies the same numbers slowly"
    capability(9, 0)
    here = linears.LINEARS | {'fp8': linears.Kind(('fp8',), '', 0, 0, device='cpu')}
    monkeypatch.setattr(linears, 'LINEARS', here)
    torch.manual_seed(0)
    mlp, odd = MLP(64, 128).bfloat16(), nn.Linear(60, 64)
    x, y = torch.randn(2, 9, 64).bfloat16(), torch.randn(3, 60)
    with torch.inference_mode():
        want = mlp(x), odd(y)
        with linears.fast_linears(nn.ModuleList([mlp, odd]), 'fp8'): got = mlp(x), odd(y)
        assert 1e-3 < relative_error(got[0], want[0])[1] < 6e-2 and got[0].dtype == torch.bfloat16
        assert torch.equal(got[1], want[1]) # 16 does not divide 60
        assert torch.equal(mlp(x), want[0]) and type(mlp) is MLP

def test_cuda_graphs_are_refused_without_a_gpu():
    model = STDiT3(stdit3_tiny())
    with pytest.raises(ValueError, match='CUDA graphs replay the kernels of a GPU, and this model is on cpu'):
        with faster(model, compiled=CUDA_GRAPHS): pass
    assert not model._forward_pre_hooks and not any(b._compiled_call_impl for b in model.spatial_blocks)

def test_compiling_without_a_compiler_says_so_at_once(monkeypatch):
    from torch._inductor import cpp_builder
    def none(): raise RuntimeError('no compiler')
    monkeypatch.setattr(cpp_builder, 'get_cpp_compiler', none)
    monkeypatch.setattr('shutil.which', lambda *_: None)
    with pytest.raises(ValueError, match='compiling needs a C.. compiler, and none was found; install g'):
        with compiled_blocks(STDiT3(stdit3_tiny())): pass

def test_every_way_of_a_case_is_one_that_faster_takes():
    "A misspelt name in the prepared script would cost minutes of a GPU"
    for how in {c.how for c in gpu_cases()}:
        asked = dict(CASE_WAYS[how])
        assert asked.pop('attention', 'flash') == 'flash'
        assert asked.pop('linears', 'fp8') in linears.LINEARS and asked.pop('compiled', True) in (True, CUDA_GRAPHS)
        assert not asked

def test_the_prepared_script_runs_in_small(tmp_path, monkeypatch, capsys):
    "On a CPU: figures for what it can, one line for each thing it cannot"
    file = tmp_path/'speed.json'
    monkeypatch.setattr(sys, 'argv', [str(SCRIPT), str(file), '--device', 'cpu'])
    runpy.run_path(str(SCRIPT), run_name='__main__')
    rows = json.loads(file.read_text())['rows']
    made, refused = ([r for r in rows if k in r] for k in ('seconds', 'error'))
    assert {r['case']['what'] for r in made} == {'step', 'decode', 'train'} and all(r['seconds'] > 0 for r in made)
    assert {r['case']['how'] for r in refused} == {'fp8', 'CUDA graphs', 'flash-attn'}
    assert len(capsys.readouterr().out.splitlines()) == len(rows)
