"Distillation: gradients reach all that learns, runs go on exactly, students share parts with their teacher"
import json
from dataclasses import replace
import pytest
import torch
from opensora_nb.core import assets
from opensora_nb.data.dataset import DataConfig
from opensora_nb.models.shortcut import ShortcutSTDiT3
from opensora_nb.models.stdit3 import stdit3_tiny
from opensora_nb.sample.pipeline import SampleConfig, generate, load_pipeline
from opensora_nb.sample.settings import part_folder
from opensora_nb.train.distill import DistillTrain, mean_velocity
from opensora_nb.train.loop import train
from opensora_nb.train.optim import OptimConfig

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "Settings of a run of a few steps; all runs share the latents of eight clips"
    out = tmp_path_factory.mktemp('students')
    optim = OptimConfig(name='muon', lr=1e-3, warmup=0, decay='constant')
    def make(name, **how):
        return DistillTrain(name=name, out=str(out), batch_size=4, data=DataConfig(n=8), validate_on=0, preview_every=0,
                            log_every=1, optim=optim, **how)
    return make

def test_all_that_learns_gets_a_gradient_in_bf16(small):
    "A student that was asked for its own target before is not taken without gradients out of autocast's cache"
    task = small('gradients', method='shortcut', guidance=1., finest=2, student_steps=1).make_task('cpu')
    batch = task.batch(range(8), [0]*8)
    assert (batch['jump'] == 1).any() and (batch['jump'] < 1).any()
    with torch.autocast('cpu', torch.bfloat16): loss, _ = task.loss(task.module, batch)
    loss.backward()
    lost = [k for k, p in task.module.named_parameters() if p.requires_grad and p.grad is None]
    assert not lost, f"{len(lost)} arrays get no gradient, the first: {lost[0]}"

def test_frozen_parts_are_those_that_a_student_shares(small):
    task = small('frozen').make_task('cpu')
    assert not any(p.requires_grad for p in task.module.text.parameters())
    assert not any(p.requires_grad for p in task.module.model.y_embedder.parameters())
    assert not any(p.requires_grad for p in task.flow_loss.teacher.parameters())

def test_a_stopped_run_goes_on_as_if_it_had_not(small):
    how = dict(method='progressive', guidance=1., student_steps=2, precision='no')
    once = train(small('once', steps=2, **how), progress=False)
    for steps in (1, 2): parts = train(small('parts', steps=steps, **how), progress=False)
    assert parts.log[-1]['loss'] == once.log[-1]['loss']
    teacher = parts.task.flow_loss.teacher.state_dict()
    assert all(torch.equal(v, teacher[f'model.{k}']) for k, v in load_pipeline('tiny').model.state_dict().items())

def test_a_shortcut_model_begins_as_its_teacher():
    plain = ShortcutSTDiT3(stdit3_tiny())
    last = plain.step_embedder.mlp[2]
    assert not last.weight.any() and not last.bias.any()

def test_a_shortcut_model_comes_back_and_is_told_its_steps(tmp_path, monkeypatch):
    "From its folder as any other weights, and the sampler says how far a step goes, with guidance and without"
    pipe, told = load_pipeline('tiny_4step'), []
    model = ShortcutSTDiT3(pipe.model.cfg).eval()
    model.load_state_dict(pipe.model.state_dict(), strict=False)
    model.step_embedder.mlp[2].weight.data.normal_(std=.05)
    replace(pipe, model=model).save(tmp_path)
    back = load_pipeline(tmp_path)
    assert type(back.model) is ShortcutSTDiT3
    assert torch.equal(back.model.step_embedder.mlp[2].weight, model.step_embedder.mlp[2].weight)
    forward = ShortcutSTDiT3.forward
    def seen(self, *args, jump, **kw):
        told.append(jump.tolist())
        return forward(self, *args, jump=jump, **kw)
    monkeypatch.setattr(ShortcutSTDiT3, 'forward', seen)
    for how in (SampleConfig(), SampleConfig(num_sampling_steps=1, cfg_scale=2.)):
        generate(back, ['a red circle moves left'], how, decode=False)
    assert told == [[1/4]]*4 + [[1., 1.]]

def test_a_student_takes_parts_of_its_teacher(tmp_path):
    "Own parts first; without them those that pipeline.json names; an unknown name shares nothing"
    pipe = load_pipeline('tiny_4step')
    assert part_folder('tiny_4step', 'vae') == assets('tiny', 'vae')
    pipe.save(tmp_path/'shared', dtype=torch.bfloat16, parts_of='tiny')
    assert sorted(p.name for p in (tmp_path/'shared').iterdir()) == ['pipeline.json', 'stdit3']
    assert load_pipeline(tmp_path/'shared').defaults.num_sampling_steps == 4
    pipe.save(tmp_path/'whole')
    assert load_pipeline(tmp_path/'whole').defaults.parts_of == ''
    note = json.loads((tmp_path/'shared'/'pipeline.json').read_text()) | dict(parts_of='../../etc')
    (tmp_path/'shared'/'pipeline.json').write_text(json.dumps(note))
    with pytest.raises(FileNotFoundError, match='no autoencoder'): load_pipeline(tmp_path/'shared')

def test_mean_velocity_of_one_step_is_the_velocity():
    x = torch.randn(2, 3)
    def v(x, t): return 2*x
    got = mean_velocity(v, x, [torch.ones(2), torch.zeros(2)])
    assert torch.allclose(got, 2*x)

@pytest.mark.parametrize('wrong,said', [
    (dict(method='halve'), 'distil by one of'), (dict(caption_drop=.1), 'caption_drop=0'),
    (dict(masks='v11'), 'no masks'), (dict(schedule='ddpm'), 'rectified flow'),
    (dict(method='shortcut', finest=6), 'try 4 or 8')])
def test_wrong_settings_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said): replace(DistillTrain(), **wrong)
