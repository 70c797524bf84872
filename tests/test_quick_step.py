"The quicker training step: off it leaves no trace, on it resumes to the bit, and refuses what it does not fit"
import shutil
from dataclasses import dataclass, replace
import pytest, torch, torch.nn.functional as F
from opensora_nb.data.dataset import DataConfig
from opensora_nb.blocks.attention import SelfAttention
from opensora_nb.models.adapters import add_lora
from opensora_nb.models.dit import DiTConfig
from opensora_nb.models.stdit3 import STDiT3, STDiT3Config
from opensora_nb.blocks import kernels
from opensora_nb.models import fused_blocks as fused
from opensora_nb.parallel import quick_step
from opensora_nb.train.diffusion import T2VTask, T2VTrain, TextToVideo
from opensora_nb.train.loop import train
from opensora_nb.train.optim import OptimConfig

pytestmark = pytest.mark.skipif(not shutil.which('c++'), reason="the kernels need a C++ compiler")
SMALL = STDiT3Config(input_sq_size=64, hidden_size=48, depth=1, num_heads=4, pred_sigma=False, caption_channels=32,
                     model_max_length=40)

@pytest.fixture(scope='module')
def place(tmp_path_factory): return tmp_path_factory.mktemp('quick')

def config(place, name, **changes):
    return T2VTrain(name=name, out=str(place), features=str(place/'features'), model=SMALL, steps=4, batch_size=4,
                    data=DataConfig(n=8), masks='v12_stage1', caption_augment=.5, preview_every=0, validate_on=0,
                    log_every=1, device='cpu', optim=OptimConfig(name='muon', lr=1e-3, warmup=1), **changes)

def losses(run): return [row['loss'] for row in run.log if 'loss' in row]
def weights(run): return {k: p.detach().clone() for k, p in run.model.named_parameters()}
def touched(module): return [n for n, m in module.named_modules() if n and {'forward', 'captions'} & set(vars(m))]

def test_off_leaves_no_trace(place):
    run = train(config(place, 'plain', quick_step=False), progress=False)
    assert touched(run.model) == []
    assert not T2VTrain().quick_step

@pytest.mark.parametrize('precision,apart', [('no', 1e-4), ('bf16', 2e-2)])
def test_on_trains_the_same(place, precision, apart):
    plain = train(config(place, f'off_{precision}', precision=precision), progress=False)
    quick = train(config(place, f'on_{precision}', precision=precision, quick_step=True), progress=False)
    assert len(touched(quick.model)) == 2*SMALL.depth + 2 # blocks, captions, text encoder
    assert losses(quick) == pytest.approx(losses(plain), rel=apart)
    assert weights(quick).keys() == weights(plain).keys()

def test_resumes_to_the_bit(place):
    steady = OptimConfig(name='muon', lr=1e-3, warmup=1, decay='constant') # a shorter run has the same learning rates
    def run(name, steps): return train(replace(config(place, name, quick_step=True), steps=steps, optim=steady), False)
    whole, _ = run('whole', 4), run('parts', 2)
    parts = run('parts', 4)
    assert losses(parts) == losses(whole)
    assert all(torch.equal(p, weights(whole)[k]) for k, p in weights(parts).items())

def test_checkpointing_changes_nothing(place):
    runs = [train(config(place, f'c{c}', quick_step=True, checkpointing=c), progress=False) for c in (False, True)]
    assert losses(runs[0]) == losses(runs[1])

@pytest.mark.parametrize('changes,said', [
    (dict(buckets='toy_mix'), 'buckets=toy_mix'), (dict(sequence=2), 'sequence=2'),
    (dict(shard='fsdp2'), 'shard=fsdp2'),
    (dict(lora=8, init='tiny'), 'lora=8'), (dict(precision='fp16'), 'precision=fp16')])
def test_refuses_by_name(changes, said):
    with pytest.raises(ValueError, match=f'not tried with {said}.*quick_step=no'): T2VTrain(quick_step=True, **changes)

def test_refuses_other_models():
    with pytest.raises(ValueError, match='STDiT3, not for DiT'): T2VTrain(quick_step=True, model=DiTConfig())
    plain = TextToVideo(STDiT3(replace(SMALL, qk_norm=False)))
    with pytest.raises(ValueError, match='with qk_norm'): quick_step.quicken(plain)

def batch_of(frames, rows, columns, words=(3, 1, 5)): # what a `TextToVideo` without a text encoder takes
    size = dict(fps=torch.tensor([8.]), height=torch.tensor([8.*rows]), width=torch.tensor([8.*columns]))
    mask = torch.arange(max(words)) < torch.tensor(words)[:, None]
    return dict(x=torch.randn(3, 4, frames, rows, columns), timestep=torch.tensor([900., 500., 20.]), mask=mask.long(),
                y=torch.randn(3, 1, max(words), 32), drop=torch.tensor([False, True, False]), **size)

def gradients(module, batch):
    module.zero_grad()
    module(**batch).square().mean().backward()
    return {k: p.grad.clone() for k, p in module.named_parameters() if p.grad is not None}

def as_plain(cfg, batch): # the largest relative error of a gradient
    torch.manual_seed(0)
    module = TextToVideo(STDiT3(cfg)).train()
    for p in module.parameters():
        if p.requires_grad: torch.nn.init.normal_(p, std=.1)
    plain = gradients(module, batch)
    quick = gradients(quick_step.quicken(module), batch)
    assert plain.keys() == quick.keys()
    small = 1e-5 # queries and keys of a single frame have no gradient at all
    return max(((quick[k] - g).norm()/(g.norm() + small)).item() for k, g in plain.items())

@pytest.mark.parametrize('size', [(1, 6, 10), (5, 8, 8), (17, 2, 4), (2, 14, 12)])
@pytest.mark.parametrize('heads', [4, 3, 1])
def test_any_size_and_width_of_head(size, heads):
    assert as_plain(replace(SMALL, num_heads=heads), batch_of(*size)) < 1e-4

def test_two_threads_are_one():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try: assert as_plain(SMALL, batch_of(5, 8, 8)) < 1e-4
    finally: torch.set_num_threads(threads)

def test_frozen_blocks_stay_without_gradient():
    module = quick_step.quicken(TextToVideo(STDiT3(SMALL)).train())
    for p in module.model.spatial_blocks.parameters(): p.requires_grad_(False)
    grads = gradients(module, batch_of(5, 8, 8))
    assert not any(k.startswith('model.spatial_blocks') for k in grads)
    assert 'model.x_embedder.proj.weight' in grads and 'model.temporal_blocks.0.mlp.fc2.weight' in grads

def test_fused_blocks_reach_a_quick_model(monkeypatch): # as a validation in bf16 asks for
    module, batch = quick_step.quicken(TextToVideo(STDiT3(SMALL))), batch_of(5, 8, 8)
    for p in module.parameters(): torch.nn.init.normal_(p, std=.1)
    module.eval()
    gates = []
    fused_gate = fused.fused_gate
    monkeypatch.setattr(fused, 'fused_gate', lambda *args: gates.append(args) or fused_gate(*args))
    with torch.no_grad():
        plain = module(**batch)
        assert not gates
        with fused.fused_blocks(module.model): quick = module(**batch)
    assert len(gates) == 2*2*SMALL.depth # two gates a block
    assert (quick - plain).std()/plain.std() < 1e-5

@pytest.mark.parametrize('quick', [True, False])
def test_validation_in_bf16_is_fused_in_a_quick_run(place, quick, monkeypatch):
    monkeypatch.setattr('opensora_nb.train.diffusion.fast_bf16', lambda device: True)
    run = train(config(place, f'val_{quick}', quick_step=quick, validate_bf16=True), progress=False)
    assert run.task.validation_pipeline().speed == dict(linears='bf16', fused=quick)

def test_large_scores_stay_finite():
    q, kv, starts = 300*torch.randn(4, 16), 300*torch.randn(6, 32), torch.tensor([0, 2, 6])
    o = [F.scaled_dot_product_attention(q[i][None], *kv[j][None].chunk(2, -1))[0] for i, j in
         ((slice(0, 2), slice(0, 2)), (slice(2, 4), slice(2, 6)))]
    assert torch.allclose(kernels.fused_cross(q, kv, starts, 1), torch.cat(o), rtol=1e-3)
    assert all(t.isfinite().all() for t in kernels.fused_cross_grad(q, kv, starts, 1, torch.randn(4, 16)))

def test_a_library_is_made_once(tmp_path, monkeypatch):
    source = 'extern "C" int two() { return 2; }'
    path = kernels.compile_cpp(source, tmp_path)
    made = path.stat().st_mtime_ns
    assert kernels.compile_cpp(source, tmp_path) == path and path.stat().st_mtime_ns == made
    assert kernels.compile_cpp(source + ' ', tmp_path) != path
    assert sorted(p.suffix for p in tmp_path.iterdir()) == ['.so', '.so'] # and nothing is left lying about
    with pytest.raises(ValueError, match='did not: .*error.*use quick_step=no'):
        kernels.compile_cpp('this is no C++', tmp_path)

def test_says_that_a_compiler_is_missing(monkeypatch):
    def none_found(): raise RuntimeError('no compiler')
    monkeypatch.setattr('torch._inductor.cpp_builder.get_cpp_compiler', none_found)
    monkeypatch.setattr('shutil.which', lambda *_: None)
    with pytest.raises(ValueError, match='no C.. compiler was found'):
        quick_step.quicken(TextToVideo(STDiT3(SMALL)))

class Alone(SelfAttention): "Computes something else with the same weights"

@dataclass(frozen=True)
class AloneTrain(T2VTrain):
    def make_task(self, device): return AloneTask(self, device)

class AloneTask(T2VTask):
    def make_model(self, cfg): return STDiT3(cfg, attention=Alone)

def test_a_part_of_ones_own_is_not_left_out(place):
    own = AloneTrain(**vars(config(place, 'alone', quick_step=True)))
    with pytest.raises(ValueError, match='spatial_blocks.0.attn as .*SelfAttention.*Alone there; use quick_step=no'):
        train(own, progress=False)
    adapted = add_lora(TextToVideo(STDiT3(SMALL)), 2, layers='all')
    with pytest.raises(ValueError, match=r"kit's Linear does, and this model has peft\.\S+ there"):
        quick_step.quicken(adapted)
    module = TextToVideo(STDiT3(SMALL))
    module.model.temporal_blocks[0].mlp.forward = torch.sin
    with pytest.raises(ValueError, match='temporal_blocks.0.mlp as .*MLP.*another forward there'):
        quick_step.quicken(module)
