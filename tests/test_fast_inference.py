"Faster models give the numbers of plain ones, and are plain again afterwards: every model of the family."
import shutil, subprocess, sys
from dataclasses import replace
import pytest, torch
from every_model import EVERY, ask, question, small
from opensora_nb.blocks.linears import LINEARS
from opensora_nb.blocks.products import why_not
from opensora_nb.models.fast_inference import compiled_blocks, faster, remember_captions
from opensora_nb.models.stdit3 import STDiT3, stdit3_tiny
from opensora_nb.models.zoo import randomise

@pytest.mark.skipif(not shutil.which('g++'), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize('work', [2**29, 0]) # 0: all linear layers take the other road
def test_compiled_blocks(work, monkeypatch):
    monkeypatch.setattr('opensora_nb.blocks.linears.WORK', work)
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

@pytest.mark.parametrize('linears', ['onednn', 'bf16', 'int8', 'int8-tensor'])
@pytest.mark.parametrize('name', EVERY)
def test_every_model_of_the_family(name, linears, monkeypatch):
    "The same answer: equal up to rounding with oneDNN, off by a few per cent with fewer digits; then a plain model"
    if any(map(why_not, LINEARS[linears].ways)): pytest.skip(why_not(LINEARS[linears].ways[0]))
    monkeypatch.setattr('opensora_nb.blocks.linears.WORK', 0)      # no layer is too small
    model = small(name, hidden_size=288).requires_grad_(False)            # wide enough for 8-bit numbers
    for p in model.parameters(): p.mul_(.5)                               # a trained layer does not blow its input up
    want = ask(model)
    with faster(model, linears=linears):
        got, again = ask(model), ask(model)
    assert torch.equal(got, again) and not torch.equal(got, want)
    assert (got - want).std() < (1e-5 if linears == 'onednn' else .1)*want.std()
    assert torch.equal(ask(model), want)

@pytest.mark.skipif(bool(why_not('bf16')), reason="bfloat16 is not multiplied here")
def test_products_in_bf16_reach_a_model_of_192_channels():
    "One clip of the embedded size is enough; the ways that are chosen by measuring stay with large products"
    model = small('STDiT3', hidden_size=192).requires_grad_(False)
    q = question(model) | dict(x=torch.randn(2, 4, 5, 8, 8))
    with torch.no_grad():
        want = model(**q)
        with faster(model, linears='bf16'): got = model(**q)
        with faster(model, linears='exact'): assert torch.equal(model(**q), want)
    assert 0 < (got - want).std() < .05*want.std()

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

@pytest.mark.skipif(not shutil.which('g++'), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize('linears', ['plain', 'bf16'])
def test_one_graph_serves_all_blocks(linears, monkeypatch):
    "Two kinds of blocks, each cut in two around the captions: 4 graphs for any depth, any captions, any frames"
    monkeypatch.setattr('opensora_nb.blocks.linears.WORK', 0)
    if any(map(why_not, LINEARS[linears].ways)): pytest.skip(why_not(LINEARS[linears].ways[0]))
    torch.compiler.reset()
    counted = torch._dynamo.utils.counters['stats']
    counted.clear()
    model = randomise(STDiT3(replace(stdit3_tiny(), depth=6)))
    def ask(words):
        mask = torch.ones(2, 9, dtype=torch.int64)
        mask[1, words:] = 0
        y = torch.randn(2, 1, 9, 128, generator=torch.Generator().manual_seed(words))
        return dict(x=torch.ones(2, 4, 5, 8, 8), timestep=torch.tensor([100., 900.]), fps=8, height=64, width=64, y=y,
                    mask=mask)
    with torch.no_grad():
        want = [model(**ask(w)) for w in (4, 6)]
        with faster(model, linears=linears, compiled=True): got = [model(**ask(w)) for w in (4, 6)]
        for g, w in zip(got, want): assert (g - w).std() < (1e-5 if linears == 'plain' else .05)*w.std()
        assert counted['unique_graphs'] <= 4
        assert all(torch.equal(model(**ask(w)), x) for w, x in zip((4, 6), want))

@pytest.mark.parametrize('name', EVERY)
def test_every_block_runs_compiled(name, monkeypatch):
    "Each block is handed to the compiler once, none is left out, and afterwards none is compiled"
    model, seen = small(name, depth=3), []
    monkeypatch.setattr(torch, 'compile', lambda fn, *_, **__: seen.append(fn.__self__) or fn)
    blocks = [m for k, m in model.named_modules() if 'blocks.' in k and k.count('.') == 1]
    with compiled_blocks(model): assert {*map(id, seen)} == {*map(id, blocks)} and len(seen) == len(blocks) >= 3
    assert not any(b._compiled_call_impl for b in blocks)

def test_ways_within_each_other_end_one_by_one(monkeypatch):
    "Captions are remembered within compiled blocks, and within a block that remembers them already"
    monkeypatch.setattr(torch, 'compile', lambda fn, *_, **__: fn)
    model = small('STDiT3')
    with torch.no_grad():
        want = ask(model)
        for outer in (compiled_blocks, remember_captions):
            with outer(model):
                with remember_captions(model): assert torch.equal(ask(model), want)
                assert 'captions' in vars(model)
            assert 'captions' not in vars(model) and torch.equal(ask(model), want)

def test_the_compiler_is_not_imported_to_sample():
    "It takes as long to import as a short clip to make; arithmetic on `meta` tensors would do it"
    code = ("import sys\nfrom opensora_nb.sample.pipeline import load_pipeline\nload_pipeline('tiny')\n"
            "sys.exit('torch._dynamo' in sys.modules)")
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
