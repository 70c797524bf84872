"Training takes any transformer of the family, texts and classes, rectified flow and DDPM; plans and trials know them"
import warnings
from dataclasses import dataclass, replace
import numpy as np, pytest, torch
from opensora_nb.blocks.attention import SelfAttention
from opensora_nb.data.dataset import DataConfig
from opensora_nb.flow.speed import SpeeD
from opensora_nb.models.stdit3 import STDiT3, stdit3_tiny
from opensora_nb.sample.pipeline import load_pipeline, save_vae, text_to_video
from opensora_nb.train.diffusion import T2VTask, T2VTrain
from opensora_nb.train.family import DiTTrain, LatteTrain, PixArtTrain, STDiT2Train, STDiTTrain
from opensora_nb.train.loop import train
from opensora_nb.train.optim import OptimConfig
from opensora_nb.train.plan import plan_run
from opensora_nb.train.trials import Trials
from opensora_nb.vae.image import AutoencoderKLConfig, VideoAutoencoderKL

KINDS = {'dit': DiTTrain, 'latte': LatteTrain, 'pixart': PixArtTrain, 'stdit': STDiTTrain, 'stdit2': STDiT2Train}
SMALL = dict(hidden_size=48, depth=2, num_heads=2)

def small(kind, out, **more): # twenty steps on sixteen clips
    cls = KINDS[kind]
    how = dict(name=kind, out=str(out), data=DataConfig(n=16), batch_size=8, steps=20, validate_on=0, save_every=99,
               preview_every=0, log_every=2, features=str(out/'features'), sampling_steps=3, seed=3,
               optim=OptimConfig(name='muon', lr=5e-3, warmup=2))
    model = replace(cls().model, **SMALL | more.pop('model', {}))
    return cls(**how | more, model=model)

@pytest.fixture(scope='module')
def out(tmp_path_factory): return tmp_path_factory.mktemp('family')

@pytest.mark.parametrize('kind,schedule', [*((k, 'rflow') for k in KINDS), ('stdit', 'ddpm'), ('stdit', 'speed'),
                                           ('dit', 'ddpm')])
def test_a_run_learns_and_its_weights_sample(kind, schedule, out):
    run = train(small(kind, out, name=f'{kind}_{schedule}', schedule=schedule), progress=False)
    losses = [row['loss'] for row in run.log if 'loss' in row]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    pipe = load_pipeline(run.folder)
    assert type(pipe.model).__name__.lower() == kind
    assert pipe.defaults.schedule == ('rflow' if schedule == 'rflow' else 'ddpm')
    assert text_to_video('a red circle moves left', pipe).frames.shape == (17, 64, 64, 3)

def test_noise_predictions_are_judged_by_ddpm(out):
    task = T2VTask(small('stdit', out, schedule='ddpm'), torch.device('cpu'))
    batch = task.batch(range(8), [0]*8)
    assert not batch['t'].is_floating_point() and batch['t'].max() > 1
    per = task.loss(task.module, batch)[0].item()
    assert 0.9 < per < 3 # of a fresh model, which answers 0: the squared noise is 1, and the variance has its part

def test_speed_trains_on_pairs(out):
    task = T2VTask(small('stdit', out, schedule='speed'), torch.device('cpu'))
    t = task.batch(range(8), [0]*8)['t']
    assert torch.equal(t[4:], SpeeD().partner(t[:4]))

def test_pictures_and_another_size_in_the_next_stage(out):
    first = train(small('stdit', out, name='first', pictures=True), progress=False)
    assert load_pipeline(first.folder).model.cfg.input_size == (1, 8, 8)
    cfg = small('stdit', out, name='second', init=str(first.folder), data=DataConfig(n=16, image_size=(48, 64)))
    task = T2VTask(cfg, torch.device('cpu'))
    assert task.cfg.model.input_size == (5, 6, 8)
    for k, v in load_pipeline(first.folder).model.state_dict().items():
        assert torch.equal(task.module.model.state_dict()[k], v), k

def test_an_autoencoder_of_frames_is_planned_and_trained_with(out, tmp_path):
    cfg = AutoencoderKLConfig(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4)
    save_vae(VideoAutoencoderKL(cfg), tmp_path/'frames'/'vae')
    data = DataConfig(n=4, num_frames=5)
    small_cfg = small('stdit', out, name='frames', vae_weights=str(tmp_path/'frames'), data=data)
    assert plan_run(small_cfg).rows[0]['tokens'] == 8*5*4*4 # a latent frame for each frame of 8 clips
    assert T2VTask(small_cfg, torch.device('cpu')).cfg.model.input_size == (5, 8, 8)

def test_a_later_stage_adds_norms(out, capsys):
    first = train(small('stdit2', out, name='plain', model=dict(qk_norm=False)), progress=False)
    task = T2VTask(small('stdit2', out, name='normed', init=str(first.folder)), torch.device('cpu'))
    assert 'norms on queries and keys are new' in capsys.readouterr().out
    old, new = load_pipeline(first.folder).model.state_dict(), task.module.model.state_dict()
    assert all(torch.equal(new[k], v) for k, v in old.items())
    assert {k.rsplit('.', 2)[1] for k in set(new) - set(old)} == {'q_norm', 'k_norm'}

def test_what_does_not_go_together_is_said(out, tmp_path):
    with pytest.raises(ValueError, match='STDiT is built for one'): small('stdit', out, buckets='toy_mix')
    with pytest.raises(ValueError, match='train with one of rflow, ddpm, speed'): small('stdit', out, schedule='ddim')
    run = train(small('stdit', out, name='other'), progress=False)
    with pytest.raises(ValueError, match='is an STDiT, and this run trains a Latte'):
        T2VTask(small('latte', out, init=str(run.folder)), torch.device('cpu'))

@pytest.mark.parametrize('kind', KINDS)
def test_plans_count_and_trials_measure(kind, out):
    cfg = small(kind, out)
    plan = plan_run(cfg)
    task = T2VTask(cfg, torch.device('cpu'))
    assert plan.params == sum(p.numel() for p in task.module.model.parameters())
    assert plan.rows[0]['transformer'] > 0
    with Trials(cfg, timed=1) as trial: seconds, gigabytes = trial((17, 64, 64), 2)
    assert seconds > 0 and gigabytes > 0

class Alone(SelfAttention): "Somebody's own, with the weights of the kit's"

@dataclass(frozen=True)
class AloneTrain(T2VTrain):
    def make_task(self, device): return AloneTask(self, device)

class AloneTask(T2VTask):
    def make_model(self, cfg): return STDiT3(cfg, attention=Alone)

def test_weights_of_a_part_of_ones_own_say_so(out):
    start = T2VTrain(name='own', out=str(out), features=str(out/'features'), data=DataConfig(n=8), steps=1,
                     batch_size=4, model=replace(stdit3_tiny(), **SMALL), preview_every=0, validate_on=0)
    kit, own = train(replace(start, name='kit'), progress=False), train(AloneTrain(**vars(start)), progress=False)
    with pytest.warns(UserWarning, match=r'spatial_blocks.0.attn: \S*test_train_any_model.Alone.*weights hold no code'):
        load_pipeline(own.folder)
    assert own.task.next_command(own.folder) == '' != kit.task.next_command(kit.folder)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        load_pipeline(kit.folder)
        assert load_pipeline('tiny').defaults.own_part == ''
