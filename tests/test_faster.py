"Compiled blocks give the numbers of plain ones, and can be taken off again."
import shutil
import pytest, torch
from opensora_nb.models.fast_inference import faster
from opensora_nb.models.stdit3 import STDiT3, stdit3_tiny

@pytest.mark.skipif(not shutil.which('g++'), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize('work', [2**29, 0]) # 0: all linear layers take the other road
def test_compiled_blocks(work, monkeypatch):
    monkeypatch.setattr('opensora_nb.models.fast_inference.WORK', work)
    torch.compiler.reset()
    torch.manual_seed(0)
    model = STDiT3(stdit3_tiny()).eval().requires_grad_(False)
    for p in model.parameters(): p.copy_(torch.randn_like(p)*.05)
    ask = dict(x=torch.randn(2, 4, 5, 8, 8), timestep=torch.tensor([100., 900.]), fps=8, height=64, width=64,
               y=torch.randn(2, 1, 9, 128))
    with torch.no_grad():
        plain = model(**ask)
        with faster(model, compiled=True):
            assert all(b._compiled_call_impl for b in (*model.spatial_blocks, *model.temporal_blocks))
            quick = model(**ask)
        # other kernels, the same function
        assert not torch.equal(quick, plain) and (quick - plain).abs().max() < 1e-4*plain.std()
        assert torch.equal(model(**ask), plain)
