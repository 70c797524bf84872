"Faster models give the numbers of plain ones, and are plain again afterwards: every model of the family."
import shutil
import pytest, torch
from every_model import EVERY, ask, question, small
from opensora_nb.models.fast_inference import compiled_blocks, faster, remember_captions
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

@pytest.mark.parametrize('linears', ['onednn', 'int8'])
@pytest.mark.parametrize('name', EVERY)
def test_every_model_of_the_family(name, linears, monkeypatch):
    "The same answer: equal up to rounding with oneDNN, off by a few per cent with 8-bit numbers; then a plain model"
    monkeypatch.setattr('opensora_nb.models.fast_inference.WORK', 0)      # no layer is too small
    model = small(name, hidden_size=288).requires_grad_(False)            # wide enough for 8-bit numbers
    for p in model.parameters(): p.mul_(.5)                               # a trained layer does not blow its input up
    want = ask(model)
    with faster(model, linears=linears):
        got, again = ask(model), ask(model)
    assert torch.equal(got, again) and not torch.equal(got, want)
    assert (got - want).std() < (1e-5 if linears == 'onednn' else .1)*want.std()
    assert torch.equal(ask(model), want)

@pytest.mark.parametrize('name', [n for n in EVERY if n not in ('DiT', 'Latte')])
def test_captions_are_embedded_once(name):
    "Thirty steps, one pass of the captions, and the same numbers"
    model, calls = small(name), []
    q = question(model)
    model.y_embedder.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        want = [model(**q | dict(timestep=q['timestep']*s)) for s in (1, .5)]
        before = len(calls)
        with remember_captions(model): got = [model(**q | dict(timestep=q['timestep']*s)) for s in (1, .5)]
    assert (before, len(calls)) == (2, 3) and all(torch.equal(a, b) for a, b in zip(got, want))

@pytest.mark.parametrize('name', EVERY)
def test_every_block_runs_compiled(name, monkeypatch):
    "Each block is handed to the compiler once, none is left out, and afterwards none is compiled"
    model, seen = small(name, depth=3), []
    monkeypatch.setattr(torch, 'compile', lambda fn, *_, **__: seen.append(fn.__self__) or fn)
    blocks = [m for k, m in model.named_modules() if 'blocks.' in k and k.count('.') == 1]
    with compiled_blocks(model): assert {*map(id, seen)} == {*map(id, blocks)} and len(seen) == len(blocks) >= 3
    assert not any(b._compiled_call_impl for b in blocks)
