"Fused blocks give the numbers of plain ones, whatever else has been done to the model, and leave no trace."
import shutil, subprocess, sys
import pytest, torch
from every_model import EVERY, ask, question, small
import opensora_nb.models.fused_blocks as fused
from opensora_nb.app.options import parse_options
from opensora_nb.app.sampling import check_fusable, load_for, plan_sample
from opensora_nb.blocks.attention import use_backend
from opensora_nb.blocks.kernels import cxx_command, kernels
from opensora_nb.blocks.linears import LINEARS
from opensora_nb.blocks.products import why_not
from opensora_nb.models.adapters import add_lora
from opensora_nb.models.family import FAMILY
from opensora_nb.models.fast_inference import faster
from opensora_nb.models.fused_blocks import FUSED, fused_blocks
from opensora_nb.parallel.comm import local_ranks
from opensora_nb.parallel.sequence import sharing
from opensora_nb.sample.pipeline import generate, load_pipeline
from opensora_nb.sample.settings import SampleConfig
from opensora_nb.sample.step_reuse import reusing

pytestmark = pytest.mark.skipif(not shutil.which('g++'), reason="kernels need a C++ compiler")
FITS = ('PixArt', 'PixArtMS', 'STDiT', 'STDiT2', 'STDiT3')
WAYS = ('fused_norm', 'fused_gate', 'fused_gelu', 'fused_self', 'fused_cross')

def traces(model):
    "Classes, and what objects hold beside weights and parts"
    return {k: (type(m), {*vars(m)}, len(m._forward_pre_hooks)) for k, m in model.named_modules()}

@pytest.fixture
def counted(monkeypatch):
    "How often each kernel ran"
    seen = dict.fromkeys(WAYS, 0)
    for name in WAYS:
        def run(*args, name=name, plain=getattr(fused, name)):
            seen[name] += 1
            return plain(*args)
        monkeypatch.setattr(fused, name, run)
    return seen

def near(got, want, limit=1e-5): return (got - want).square().mean().sqrt() < limit*want.std()

@pytest.mark.parametrize('threads', [1, 3]) # with 3, each frame is a group of rows
@pytest.mark.parametrize('name', FITS)
def test_every_model_that_fits(name, threads, counted):
    "Equal up to rounding, by kernels, with captions of different length; then the same to the bit"
    model, before = small(name, hidden_size=96), torch.get_num_threads()
    q, clean = question(model), traces(model)
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            want = model(**q)
            with fused_blocks(model): got, again = model(**q), model(**q)
            assert torch.equal(got, again) and not torch.equal(got, want) and near(got, want)
            assert torch.equal(model(**q), want) and traces(model) == clean
    finally: torch.set_num_threads(before)
    qk_norm = getattr(model.cfg, 'qk_norm', False)
    assert all(n for k, n in counted.items() if k != 'fused_self' or qk_norm), counted

@pytest.mark.parametrize('size', [(5, 8, 8), (1, 8, 12), (7, 6, 10), (3, 2, 2)])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('name', ['STDiT2', 'STDiT3'])
def test_sizes_and_frame_masks(name, masked, size):
    "Pictures, sides that patches do not fill, frames that are given; one context serves all sizes"
    model = small(name, hidden_size=96)
    questions = [question(model) | dict(x=torch.randn(2, 4, *s)) for s in (size, (5, 8, 8), size)]
    for q in questions if masked else (): q['x_mask'] = torch.arange(2*q['x'].shape[2]).view(2, -1) % 3 > 0
    with torch.no_grad():
        want = [model(**q) for q in questions]
        with fused_blocks(model): got = [model(**q) for q in questions]
    assert all(near(g, w) for g, w in zip(got, want))

def test_one_caption_after_another():
    "Keys and values are kept for one batch of captions, and made anew for the next"
    model, (q, p) = small('STDiT3'), (question(small('STDiT3'), s) for s in (1, 2))
    with torch.no_grad():
        want = [model(**a) for a in (q, p, q)]
        with fused_blocks(model): got = [model(**a) for a in (q, p, q)]
    assert all(near(g, w) for g, w in zip(got, want)) and not near(got[0], got[1])

def test_tables_are_built_once(monkeypatch):
    model, built = small('STDiT3', depth=3), []
    monkeypatch.setattr(fused, 'turn_table', lambda *a, plain=fused.turn_table: built.append(a[1]) or plain(*a))
    with torch.no_grad(), fused_blocks(model):
        for _ in range(3): model(**question(model))
    assert built == [5]

@pytest.mark.parametrize('linears', ['onednn', 'bf16', 'int8'])
def test_with_every_way_of_linear_layers(linears, counted, monkeypatch):
    "GELU is applied once: within the product, or by the kernel behind a plain one"
    if any(map(why_not, LINEARS[linears].ways)): pytest.skip(why_not(LINEARS[linears].ways[0]))
    for work in (0, 2**60): # all layers take the other way; or none does
        monkeypatch.setattr('opensora_nb.blocks.linears.WORK', work)
        model = small('STDiT3', hidden_size=288)
        for p in model.parameters(): p.data.mul_(.5)
        want, counted['fused_gelu'] = ask(model), 0
        with faster(model, linears=linears, fused=True): got = ask(model)
        assert bool(counted['fused_gelu']) == bool(work and linears != 'int8')
        assert near(got, want, .1 if linears == 'int8' or linears == 'bf16' and not work else 1e-5)
        assert torch.equal(ask(model), want)

def test_bfloat16():
    "As near to float32 as the plain blocks in bfloat16 are"
    model = small('STDiT3', hidden_size=96)
    want, half = ask(model), small('STDiT3', hidden_size=96).bfloat16()
    plain = ask(half)
    with fused_blocks(half): got = ask(half)
    assert (got - want).std() < 1.2*(plain - want).std() and not torch.equal(got, plain)

def test_whoever_replaced_attention_is_asked(counted):
    "Another backend, a LoRA, a method that was replaced: all of them still have a say"
    model = small('STDiT3')
    q, asked = question(model), []
    with torch.no_grad():
        want = model(**q)
        use_backend(model, 'naive')
        with fused_blocks(model): assert near(model(**q), want)
        assert not counted['fused_self'] + counted['fused_cross']
        use_backend(model, 'sdpa')
        layer = model.temporal_blocks[0].attn
        layer.forward = lambda *a, plain=layer.forward: asked.append(1) or plain(*a)
        with fused_blocks(model): assert near(model(**q), want) and asked
        del layer.forward
        add_lora(model, 2)
        for k, p in model.named_parameters():
            if 'lora' in k: p.data = torch.randn_like(p)*.1
        other = model(**q)
        with fused_blocks(model): assert near(model(**q), other) and not near(other, want)

def rank_answer():
    model = small('STDiT3')
    want = ask(model)
    with sharing(model), fused_blocks(model): return want, ask(model)

def test_ranks_that_share_tokens():
    "Attention of a shared model is asked as before, everything else is fused"
    for want, got in local_ranks(rank_answer, 2): assert near(got, want)

@pytest.mark.parametrize('policy', [None, 'easy:threshold=0.2', 'first-block:threshold=0.2', 'broadcast', 'taylor'])
def test_with_reuse_between_steps(policy, counted):
    "A policy that was enabled before sees fused blocks, and skips the same calls"
    pipe, cfg, out = load_pipeline('tiny', 'cpu'), SampleConfig(num_sampling_steps=6, num_frames=5), []
    for how in ({}, dict(fused=True)):
        pipe.speed = how
        with reusing(pipe, policy, 6) as count: z = generate(pipe, ['a red circle moves left'], cfg, decode=False)
        out.append((z, count and count.reused))
    assert near(out[1][0], out[0][0]) and out[0][1] == out[1][1] and counted['fused_norm'] > 0

@pytest.mark.parametrize('name', [n for n in EVERY if n not in FITS])
def test_other_models_are_refused(name):
    model = small(name)
    clean = traces(model)
    with pytest.raises(ValueError, match=f'this is {name}; leave fused out'):
        with fused_blocks(model): pass
    assert traces(model) == clean

def test_what_cannot_be_is_refused(monkeypatch):
    model = small('STDiT3')
    clean = traces(model)
    for other, said in ((small('STDiT3').half(), 'in float16'), (small('STDiT3').to('meta'), 'on meta')):
        with pytest.raises(ValueError, match=said): fused_blocks(other).__enter__()
    with pytest.raises(ValueError, match='leave one of compile and fused out'):
        faster(model, compiled=True, fused=True).__enter__()
    with fused_blocks(model):
        with pytest.raises(ValueError, match='no backward pass'): model(**question(model))
    def none(): raise ValueError("no C++ compiler was found")
    monkeypatch.setattr(fused, 'kernels', none)
    with pytest.raises(ValueError, match=r'no C\+\+ compiler'): fused_blocks(model).__enter__()
    assert traces(model) == clean

def test_every_fused_block_has_the_weights_of_its_original():
    assert all(issubclass(new, old) and '__init__' not in vars(new) for old, new in FUSED.items())

SAMPLE = ['--prompt', '3', '--fused'] # a class of a DiT, and a text for others

@pytest.mark.parametrize('more,said', [(['--compile'], '--fused and --compile are two ways of the same'),
                                       (['--dtype', 'fp16'], '--fused computes in fp32 or bf16'),
                                       (['--preset', 'dit'], 'and .* is a DiT; leave it out')])
def test_a_command_that_cannot_be(more, said, tmp_path):
    options = parse_options([*SAMPLE, '--save-dir', str(tmp_path), *more])
    with pytest.raises(ValueError, match=said): plan_sample(options)

def test_a_command_without_a_compiler(monkeypatch, tmp_path):
    "Said before anything is loaded, with the way out"
    def none_found(): raise RuntimeError
    monkeypatch.setattr('torch._inductor.cpp_builder.get_cpp_compiler', none_found)
    monkeypatch.setattr('shutil.which', lambda *_: None)
    for cached in (kernels, cxx_command): cached.cache_clear()
    try:
        with pytest.raises(ValueError, match=r'install g\+\+, leave fused out'):
            plan_sample(parse_options([*SAMPLE, '--save-dir', str(tmp_path)]))
    finally:
        for cached in (kernels, cxx_command): cached.cache_clear()

def test_a_plan_compiles_nothing(monkeypatch, tmp_path):
    "It says what would be made, and may be asked for on a machine that makes nothing"
    def compiled(*_): raise AssertionError('compiled')
    monkeypatch.setattr('opensora_nb.blocks.kernels.compile_cpp', compiled)
    kernels.cache_clear()
    plan = plan_sample(parse_options([*SAMPLE, '--save-dir', str(tmp_path)]))
    with pytest.raises(AssertionError, match='compiled'): load_for(plan)

def fits(check, *args):
    try: check(*args)
    except ValueError: return False
    return True

@pytest.mark.parametrize('kind', FAMILY)
def test_the_plan_refuses_what_cannot_be_fused(kind):
    assert fits(check_fusable, FAMILY[kind].config(), 'run') == fits(fused.check_fused, small(kind))

def test_the_compiler_of_torch_is_not_imported():
    "It takes longer to import than a clip to make"
    code = ("import sys\nfrom opensora_nb.blocks.kernels import kernels\nkernels()\n"
            "sys.exit('torch._dynamo' in sys.modules)")
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
