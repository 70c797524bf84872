"Batches that fit, steps that are recorded, and launchers that this loop refuses."
import gzip, json, os, signal, subprocess, sys, time
from dataclasses import dataclass, replace
from pathlib import Path
import numpy as np, psutil, pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from opensora_nb.app import cli
from opensora_nb.core import rng_for
from opensora_nb.data.bucket import Buckets
from opensora_nb.data.dataset import DataConfig
from opensora_nb.models.stdit3 import stdit3_tiny
from opensora_nb.train import plan, search, trials
from opensora_nb.train.diffusion import T2VTask, T2VTrain
from opensora_nb.train.loop import PLUGINS, Task, TrainConfig, make_accelerator, train
from opensora_nb.train.optim import OptimConfig
from opensora_nb.train.search import largest, search_batches
from opensora_nb.train.trials import Drill, Trials, drill_config

ROOT = Path(__file__).resolve().parent.parent
TABLE = {'64': {1: [1.0, 80], 17: [[1.0, 0.6], 16], 34: [0.0, None]}, '48': {17: [1.0, 28]}, '96': {17: [0.4, 8]}}

@pytest.fixture
def cfg(tmp_path):
    (tmp_path/'b.json').write_text(json.dumps(TABLE))
    return T2VTrain(name='r', out=str(tmp_path/'runs'), buckets=str(tmp_path/'b.json'), device='cpu', precision='no',
                    model=replace(stdit3_tiny(), depth=1))

def made_up(size, n): # memory and seconds in straight lines over tokens
    tokens = n*(5 if size[0] == 17 else 1)*size[1]*size[2]/256
    return (0.1 + tokens/1000, 0.4 + tokens/2000) if 0.4 + tokens/2000 <= 1 else None

@settings(deadline=None, max_examples=200)
@given(st.integers(0, 300), st.integers(1, 300), st.none() | st.integers(1, 400))
def test_largest_is_what_trying_all_would_find(true, limit, guess):
    asked = []
    got = largest(lambda n: asked.append(n) or n <= true, limit, lambda: guess)
    assert got == min(true, limit) and len(asked) == len(set(asked)) and all(1 <= n <= limit for n in asked)

def test_table_of_a_search(cfg, tmp_path):
    found = search_batches(cfg, memory=1., trial=made_up, progress=False)
    assert [r.name for r in found.rows] == ['96/17', '64/17', '64/1', '48/17']
    for r in found.rows: # by hand
        assert made_up(r.size, r.batch) and not made_up(r.size, r.batch + 1)
    base = next(r for r in found.rows if found.base.startswith(r.name))
    most = made_up(base.size, base.batch)[0]
    assert all(made_up(r.size, r.balanced)[0] <= 1.01*most for r in found.rows) and base.balanced == base.batch
    assert all(made_up(r.size, r.balanced + 1)[0] > 0.99*most for r in found.rows if r.balanced < r.batch)
    found.save(tmp_path/'new'/'mine.json')
    new = Buckets.named(str(tmp_path/'new'/'mine.json'))
    old = Buckets.named(cfg.buckets)
    def fields(p): return p.resolution, p.frames, p.keep, p.attempt
    assert [fields(p) for p in new.pairs] == [fields(p) for p in old.pairs]
    want = {r.name: r.balanced for r in found.rows} | {'64/34': None}
    assert {f'{p.resolution}/{p.frames}': p.batch_size for p in new.pairs} == want

def test_what_does_not_fit_is_left_out_and_nothing_fitting_is_an_error(cfg):
    found = search_batches(cfg, memory=1., trial=lambda s, n: made_up(s, n) if s[0] == 1 else None, progress=False)
    picture = next(r for r in found.rows if r.name == '64/1')
    assert found.table == {'64': {34: [0.0, None], 1: [1.0, picture.batch]}}
    assert 'not even one clip fits' in repr(found)
    with pytest.raises(ValueError, match='not even one clip of any bucket'):
        search_batches(cfg, memory=1., trial=lambda s, n: None, progress=False)

def test_the_limit_sets_no_time(cfg):
    found = search_batches(cfg, memory=1., limit=20, trial=made_up, progress=False)
    assert next(r for r in found.rows if r.name == '64/1').batch == 20 and not found.base.startswith('64/1,')
    small = next(r.name for r in found.rows if r.frames == 1)
    def only(size, n): return None if size[0] == 1 else made_up(size, n)
    with pytest.warns(UserWarning, match=f'no clip of {small} fits, so .* sets the time'):
        search_batches(cfg, memory=1., base=small, trial=only, progress=False)
    with pytest.raises(ValueError, match='base=0 is no time'):
        search_batches(cfg, memory=1., base='0', trial=made_up, progress=False)
    found = search_batches(cfg, memory=1., base=0.11, trial=made_up, progress=False)
    assert {r.balanced for r in found.rows if r.frames > 1} == {1}

def test_ctrl_c_gives_what_was_found(cfg, tmp_path, monkeypatch, capsys):
    seen = []
    def trial(size, n):
        if size not in seen: seen.append(size)
        if len(seen) == 3: raise KeyboardInterrupt
        return made_up(size, n)
    found = search_batches(cfg, memory=1., trial=trial, progress=False)
    assert found.stopped
    assert [bool(r.batch) for r in found.rows] == [True, True, False, False]
    assert 'not searched to the end: ' in repr(found)
    with pytest.raises(ValueError, match='was stopped'): found.save(tmp_path/'x.json')
    seen.clear()
    def stopped(*args): return search_batches(*args, progress=False, trial=trial)
    monkeypatch.setattr(search, 'search_batches', stopped)
    assert cli.main(['train', 'search-batch', 'many_sizes', '--memory', '1', '--limit', '40']) == 130
    assert 'not searched' in capsys.readouterr().out

def test_the_command_writes_a_table_that_training_takes(tmp_path, monkeypatch, capsys):
    def on_made_up_numbers(*args): return search_batches(*args, progress=False, trial=made_up)
    monkeypatch.setattr(search, 'search_batches', on_made_up_numbers)
    assert cli.main(['train', 'search-batch', 'many_sizes', f'out={tmp_path}', '--memory', '1', '--base', '64/17']) == 0
    assert f'buckets={tmp_path}' in capsys.readouterr().out
    assert Buckets.named(str(tmp_path/'many_sizes'/'buckets.json')).pairs
    assert cli.main(['search-batch', 'shapes_t2v', '--memory', '1']) == 0 and 'batch_size=' in capsys.readouterr().out
    assert cli.main(['train', 'search-batch', 'v12_stages', '--output', 'b.json']) == 1
    assert 'has 3 stages' in capsys.readouterr().err
    assert cli.main(['train', 'search-batch', 'many_sizes', '--output', 'b.txt']) == 1
    assert 'not a .json file' in capsys.readouterr().err
    assert cli.main(['train', 'shapes_t2v', '--profile', '--show']) == 0
    assert json.loads(capsys.readouterr().out)['profile'] == 5

@settings(deadline=None, max_examples=20)
@given(st.text(max_size=8) | st.floats(), st.integers(-5, 50), st.floats() | st.none())
def test_only_clear_errors(base, limit, memory):
    cfg = T2VTrain(buckets='toy_mix', device='cpu')
    try: search_batches(cfg, 1., limit, base, progress=False, trial=made_up)
    except ValueError as e: assert str(e)
    if memory is not None and not 0 < memory < 1e5:
        with pytest.raises(ValueError, match='memory'): Trials(cfg, memory)

def test_a_drill_has_the_shapes_of_training(tmp_path):
    cfg = T2VTrain(name='d', out=str(tmp_path), data=DataConfig(n=2), device='cpu', masks='v12_stage1',
                   model=replace(stdit3_tiny(), depth=1))
    real, made = T2VTask(cfg, torch.device('cpu')), Drill(drill_config(cfg), torch.device('cpu'))
    made.size = real.data.size
    a, b = (t.batch(np.arange(2), np.zeros(2, int)) for t in (real, made))
    def kinds(batch): return {k: (v.shape, v.dtype) for k, v in batch.items() if torch.is_tensor(v)}
    assert kinds(a) == kinds(b)
    assert a.keys() == b.keys()
    def sizes(task): # without the words, which are in the data
        return {k: p.shape for k, p in task.module.named_parameters() if k != 'text.token.weight'}
    assert sizes(real) == sizes(made) and torch.isfinite(made.loss(made.module, b)[0])

def test_frozen_text_and_adapters_without_files():
    small = replace(stdit3_tiny(), depth=1, caption_channels=64)
    unseen = T2VTrain(model=small, text_weights='some/t5', vae_weights='some/vae', buckets='v12_stage1',
                      init='runs/none/yet')
    far = Drill(drill_config(unseen), torch.device('cpu'))
    assert far.batch(np.arange(3), np.zeros(3, int))['y'].shape == (3, 1, 40, 64)
    assert far.module.text is None
    assert far.vae.latent_size((17, 64, 64)) == (5, 8, 8)
    adapted = Drill(drill_config(T2VTrain(init='tiny', lora=2)), torch.device('cpu'))
    trained = [n for n, p in adapted.module.named_parameters() if p.requires_grad]
    assert 'default' in {n.split('.')[-2] for n in trained}
    with pytest.raises(FileNotFoundError):
        drill_config(cfg := T2VTrain(init='tyni')) and Drill(cfg, torch.device('cpu'))

@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='the limit is of Linux')
def test_a_real_child_keeps_its_cap_and_lives_on(cfg):
    with Trials(cfg, memory=0.6, timed=1) as go:
        seconds, gb = go((17, 64, 64), 1)
        child, most = go.child, 0
        assert 0.2 < gb < 0.6 and seconds > 0
        go.pipe.send(((17, 64, 64), 5000, 1))
        while not go.pipe.poll(0.001): most = max(most, psutil.Process(child.pid).memory_info().rss)
        assert go.pipe.recv() is False and most < 0.62*trials.GB and child.is_alive()         # refused, as on a GPU
        assert go((17, 64, 64), 1) and go.child is child                                      # and it goes on
        os.kill(child.pid, signal.SIGINT)
        time.sleep(.05)
        assert go((17, 64, 64), 1)        # Ctrl-C of a terminal reaches it too
        os.kill(child.pid, signal.SIGKILL)
        assert go((17, 64, 64), 1) is None and go.child is None # a crash is a batch too large
        with pytest.raises(ValueError, match='take|fit|built'): Trials(cfg, memory=0.05)((17, 64, 64), 1)

def test_only_memory_counts_as_too_large():
    assert trials._too_large(MemoryError())
    assert trials._too_large(torch.OutOfMemoryError('x'))
    assert trials._too_large(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not trials._too_large(RuntimeError('mat1 and mat2 shapes cannot be multiplied'))
    assert not trials._too_large(ValueError('memory'))

class Reverse(Task):
    def __init__(self, cfg): self.cfg, self.module = cfg, nn.Linear(8, 8)
    def __len__(self): return 64
    def batch(self, ids, epoch):
        x = np.stack([rng_for(1, e, i).standard_normal(8) for i, e in zip(ids, epoch)])
        return dict(x=torch.from_numpy(x).float())
    def loss(self, module, batch): return (module(batch['x']) - batch['x'].flip(1)).square().mean(), {}

@dataclass(frozen=True)
class Config(TrainConfig):
    def make_task(self, device): return Reverse(self)

def small(tmp_path, **kw):
    defaults = dict(out=str(tmp_path), steps=8, batch_size=8, log_every=1, save_every=4, device='cpu', precision='no',
                    optim=OptimConfig(lr=.03, warmup=2))
    return Config(**defaults | kw)

def test_a_profile_changes_no_loss_and_opens_as_json(tmp_path, capsys):
    plain = train(small(tmp_path, name='plain'), progress=False)
    assert plain.recorder is None and not list(plain.folder.glob('*.gz')) and not capsys.readouterr().out
    run = train(small(tmp_path, name='seen', profile=3, accumulate=2), progress=False)
    said = capsys.readouterr().out
    def losses(run): return [r['loss'] for r in run.log if 'loss' in r]
    assert losses(run) == pytest.approx(losses(plain), abs=1e-5)
    events = json.loads(gzip.decompress((run.folder/'trace.json.gz').read_bytes()))['traceEvents']
    marks = [e['name'] for e in events if e.get('ph') == 'X' and e['name'].startswith('phase ')]
    want = dict(data=6, forward=6, backward=6, optimiser=3, ema=3, log=6, save=3)
    assert {p: marks.count(f'phase {p}') for p in want} == want
    assert run.recorder.report.steps == 3 and 'backward' in said and 'aten::' in said and 'trace.json.gz' in said
    train(small(tmp_path, name='short', profile=3, steps=2), progress=False)
    assert 'nothing was recorded' in capsys.readouterr().out

@pytest.mark.parametrize('variable', PLUGINS)
def test_other_shards_are_refused_with_what_to_use(tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, 'true')
    with pytest.raises(ValueError, match='shard=fsdp2') as e: train(small(tmp_path), progress=False)
    assert PLUGINS[variable] in str(e.value)
    monkeypatch.setenv(variable, 'false')
    make_accelerator(small(tmp_path))

def test_a_script_without_a_main_guard_is_not_run_again(tmp_path):
    "A plan that measures, at the top of a file, prints once"
    (tmp_path/'script.py').write_text("""from opensora_nb.train.launch import resolve
from opensora_nb.train.plan import plan_run
plan = plan_run(resolve('shapes_t2v', 'batch_size=2', 'device=cpu')[0], measure=True)
print(plan.measured, plan.why_not)
""")
    done = subprocess.run([sys.executable, 'script.py'], cwd=tmp_path, capture_output=True, text=True,
                          env=dict(os.environ, PYTHONPATH=str(ROOT)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('StepCost(seconds=') == 1

def test_plan_of_every_kind_of_stage_is_measured(capsys, monkeypatch):
    "`osnb plan` says first what a stage costs here, for autoencoders too; a child is one process, whatever is trained"
    assert cli.main(['plan', 'speedrun', 'only=3_temporal', 'batch_size=4', 'device=cpu']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('speedrun/3_temporal: 500 steps on 1 process, an autoencoder of ')
    assert lines[1].startswith('on this machine (') and ' s a step' in lines[1]
    monkeypatch.setattr(plan, 'free_memory', lambda: 16.)
    assert cli.main(['plan', 'v12_stages', 'only=1', 'device=cpu']) == 0
    said = 'not measured; weights, gradients and averages alone need 22.5 GB, and 16.0 GB are free'
    assert said in capsys.readouterr().out
