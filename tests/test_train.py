"Training as a user meets it: real signals, real second processes, real full disks."
import json, os, re, shlex, signal, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
import pytest
from ranks import together
from opensora_nb.train.launch import again_command
from opensora_nb.train.optim import OPTIMISERS

ROOT = Path(__file__).resolve().parent.parent
RECIPE = '''
import time
from dataclasses import dataclass
import numpy as np, torch
from torch import nn
from opensora_nb.core import rng_for
from opensora_nb.config import opt
from opensora_nb.train.loop import Task, TrainConfig
from opensora_nb.train.optim import OptimConfig

class Reverse(Task):
    def __init__(self, cfg): self.cfg, self.module = cfg, nn.Linear(8, 8)
    def __len__(self): return 64
    def batch(self, ids, epoch):
        if self.cfg.wait: time.sleep(self.cfg.wait)
        x = np.stack([rng_for(1, e, i).standard_normal(8) for i, e in zip(ids, epoch)])
        return dict(x=torch.from_numpy(x).float())
    def loss(self, module, batch): return (module(batch['x']) - batch['x'].flip(1)).square().mean(), {}

@dataclass(frozen=True)
class Config(TrainConfig):
    wait:float = opt(0., "seconds a batch takes")
    def make_task(self, device): return Reverse(self)

def recipe(quick=False):
    return Config(name='r', steps=30, batch_size=8, log_every=1, save_every=1000, device='cpu', precision='no',
                  optim=OptimConfig(lr=0.03, warmup=2))
'''

@pytest.fixture
def folder(tmp_path):
    (tmp_path/'my_recipe.py').write_text(RECIPE)
    return tmp_path

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "Losses of a run that nothing stops"
    folder = tmp_path_factory.mktemp('whole')
    (folder/'my_recipe.py').write_text(RECIPE)
    done(launch(folder))
    return losses(folder)

def launch(folder, *overrides, processes=1):
    env = dict(os.environ, ACCELERATE_USE_CPU='true', OMP_NUM_THREADS='1', PYTHONPATH=f'{folder}{os.pathsep}{ROOT}')
    pre = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes)] if processes > 1 else []
    return subprocess.Popen([sys.executable, *pre, '-m', 'opensora_nb.train.launch', 'my_recipe:recipe', *overrides],
                            cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

def losses(folder, name='r'):
    rows = map(json.loads, (folder/'runs'/name/'log.jsonl').read_text().splitlines())
    return {r['step']: r['loss'] for r in rows if 'loss' in r}
def done(p):
    out, err = p.communicate(timeout=240)
    assert p.returncode == 0, err[-2000:]
    return out + err

# Muon hands what is no matrix to AdamW, so it takes both ways
@pytest.mark.parametrize('optimiser', [pytest.param(n, marks=[pytest.mark.slow][n == 'muon':]) for n in OPTIMISERS])
def test_two_processes_really_run_and_learn_the_same(folder, optimiser):
    how = f'optim.name={optimiser}', 'optim.lr=0.1'
    done(launch(folder, *how, 'name=one'))
    done(launch(folder, *how, 'name=two', 'processes=2', processes=2))
    one, two = losses(folder, 'one'), losses(folder, 'two')
    assert set(one) == set(two) == set(range(1, 31)) and one[30] < one[1]/2
    assert max(abs(one[k]-two[k]) for k in one) < 1e-5

SHARED = """
import torch
from accelerate import PartialState
from opensora_nb.train import optim
state, seen, real = PartialState(cpu=True), [], optim.orthogonalise
optim.orthogonalise = lambda g: (seen.append(len(g)), real(g))[1]
def step(share):
    torch.manual_seed(0)
    sizes = ((8, 8), (8, 8), (8, 8), (8, 16), (16, 4))
    net = torch.nn.Sequential(*(torch.nn.Linear(a, b) for a, b in sizes))
    o = optim.make_optimiser(net, optim.OptimConfig(name='muon'), share=share)
    for k in range(2):
        o.zero_grad()
        net(torch.randn(5, 8)).square().sum().backward()
        o.step()
    return torch.cat([w.detach().reshape(-1) for w in net.parameters()])
shared = step(True)
mine = sum(seen)
alone = step(False)
print('matrices', mine, sum(seen) - mine, (shared - alone).abs().max().item())
"""

def test_processes_share_the_matrices_of_muon(tmp_path):
    "Five matrices, two steps: the first process takes three, the second two, and both end where one alone does"
    shared, alone, apart = zip(*(t.split('matrices ')[1].split() for t in together(SHARED, tmp_path)))
    assert shared == ('6', '4') and alone == ('10', '10') and max(map(float, apart)) < 1e-6

def test_wrong_number_of_processes_is_refused(folder):
    p = launch(folder, 'processes=3', processes=2)
    out, err = p.communicate(timeout=240)
    assert p.returncode != 0 and '3 processes were asked for but 2 started' in out + err

def wait_for_five_steps(folder, run):
    "Until the log of the run in this folder has five lines"
    log, start = folder/'runs'/'r'/'log.jsonl', time.time()
    while not (log.exists() and len(log.read_text().splitlines()) >= 5):
        assert time.time() - start < 120 and run.poll() is None
        time.sleep(0.05)

# one process hears SIGINT, the command SIGTERM; the handler is the same
@pytest.mark.parametrize('sig', [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_signal_saves_and_the_next_run_continues_bit_equal(folder, whole, sig):
    p = launch(folder, 'wait=0.1')
    wait_for_five_steps(folder, p)
    p.send_signal(sig)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 130 and f'stopped by {sig.name}' in err and 'run the same command again' in err
    stopped = max(losses(folder))
    assert 5 <= stopped < 30
    assert [q.name for q in (folder/'runs'/'r'/'checkpoints').iterdir()] == [f'step_{stopped:08d}']
    done(launch(folder))
    assert losses(folder) == whole

@pytest.mark.parametrize('sig', [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_to_the_command_stops_all_its_processes_and_saves(folder, sig):
    env = dict(os.environ, PYTHONPATH=f'{folder}{os.pathsep}{ROOT}')
    code = 'from opensora_nb.app.cli import main; raise SystemExit(main())'
    words = ('train', 'my_recipe:recipe', 'wait=0.1', '--num-processes', '2')
    p = subprocess.Popen([sys.executable, '-c', code, *words], cwd=folder, env=env, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    wait_for_five_steps(folder, p)
    p.send_signal(sig)
    out, err = p.communicate(timeout=120)  # returns only when no process holds the pipes any more
    stopped = max(losses(folder))
    assert p.returncode == 130 and 5 <= stopped < 30 and 'run the same command again' in err and 'Traceback' not in err
    assert [q.name for q in (folder/'runs'/'r'/'checkpoints').iterdir()] == [f'step_{stopped:08d}']

def last_line(*command, folder):
    "The one line on a run that its standard output ends with"
    env = dict(os.environ, ACCELERATE_USE_CPU='true', OMP_NUM_THREADS='1', PYTHONPATH=f'{folder}{os.pathsep}{ROOT}')
    p = subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, timeout=240)
    said = [l for l in p.stdout.splitlines() if l.startswith(('done:', 'stopped:'))]
    assert len(said) == 1 and p.stdout.splitlines()[-1] == said[0], p.stdout + p.stderr[-2000:]
    return said[0]

OSNB = '-c', 'from opensora_nb.app.cli import main; raise SystemExit(main())', 'train', 'my_recipe:recipe'
MODULE = '-m', 'opensora_nb.train.launch', 'my_recipe:recipe'

@pytest.mark.parametrize('how', [
    OSNB, (*OSNB, '--num-processes', '2'), ('-m', 'accelerate.commands.launch', '--num_processes', '2', *MODULE)],
    ids=['osnb', 'osnb, two', 'accelerate launch, two'])
def test_a_run_ends_with_one_line_on_what_it_came_to(folder, how):
    "Also where two processes ran: the folder, the steps, the loss, the seconds"
    said = last_line(*how, folder=folder)
    loss = losses(folder)[30]
    assert re.fullmatch(rf'done: runs.r, 30 steps, loss {loss:.4f}, \d+\.\d s', said)

STOPPING = '''
from opensora_nb.train.loop import Callback, Validate
class Stop(Callback):
    def after(self, run):
        if run.step == 7: run.stopped = 'SIGTERM'
Validate.after = Stop.after
'''

@pytest.mark.parametrize('processes', ['', pytest.param(' --num-processes 2', marks=pytest.mark.slow)])
def test_the_line_on_a_stopped_run_holds_the_command_that_goes_on(folder, processes):
    (folder/'my_recipe.py').write_text(RECIPE + STOPPING)
    said = last_line(*OSNB, 'name=my run', 'log_every=10', *processes.split(), folder=folder)
    again = "osnb train my_recipe:recipe 'name=my run' log_every=10" + processes
    assert re.fullmatch(rf'stopped: runs.my run, 7 of 30 steps; go on with: {re.escape(again)}', said)
    (folder/'my_recipe.py').write_text(RECIPE)
    assert 'runs/my run, 30 steps' in last_line(*OSNB[:2], *shlex.split(again)[1:], folder=folder)

def test_the_command_that_goes_on_names_processes_and_machines(monkeypatch):
    run = SimpleNamespace(acc=SimpleNamespace(num_processes=4))
    def again(): return again_command(run, 'r', ('steps=3', 'processes=4'), True)
    assert again() == 'osnb train r steps=3 --quick --num-processes 4'
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    assert again() == 'osnb train r steps=3 --quick --num-processes 2 --nodes 2'

def test_the_line_on_a_run_names_a_command_that_uses_it(tmp_path):
    "A quick recipe of clips ends with a command that samples from it"
    few = ('steps=2', 'data.n=8', 'validate_on=0', 'preview_every=0')
    said = last_line(*OSNB[:3], 'shapes_t2v', *few, '--quick', folder=tmp_path)
    command = shlex.split(said.split('; next: ')[1])
    assert command == ['osnb', 'sample', '--weights', 'runs/shapes_t2v_quick', '--prompt', 'a red circle moves left']
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    assert not subprocess.run([sys.executable, *OSNB[:2], *command[1:], '--num-sampling-steps', '2'], cwd=tmp_path,
                              env=env).returncode and [*tmp_path.rglob('*.mp4')]

def test_kill_loses_only_the_steps_since_the_last_save(folder, whole):
    p = launch(folder, 'wait=0.1', 'save_every=4')
    log = folder/'runs'/'r'/'log.jsonl'
    t = time.time()
    while not (log.exists() and len(log.read_text().splitlines()) >= 10):
        assert time.time()-t < 120 and p.poll() is None
        time.sleep(0.05)
    p.kill()
    p.communicate()
    saved = max(int(q.name[5:]) for q in (folder/'runs'/'r'/'checkpoints').glob('step_*'))
    assert saved >= 8
    done(launch(folder))
    assert losses(folder) == whole

@pytest.mark.parametrize('override,message', [
    ('stepz=3',     "has no setting 'stepz'; did you mean 'steps'"),
    ('optim.lr=-1', 'must be positive'),
    ('steps=many',  "steps is a whole number, not 'many'"),
])
def test_bad_override_is_one_line(folder, override, message):
    p = launch(folder, override)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 1 and message in err and 'Traceback' not in err

def test_checkpoint_of_another_model_is_refused(folder):
    done(launch(folder, 'steps=2'))
    other = RECIPE.replace('nn.Linear(8, 8)', 'nn.Sequential(nn.Linear(8, 9), nn.Linear(9, 8))')
    (folder/'my_recipe.py').write_text(other)
    p = launch(folder)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 1 and 'Traceback' not in err and 'weight' in err

@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_place_is_named(folder):
    (folder/'locked').mkdir(mode=0o500)
    p = launch(folder, 'out=locked')
    out, err = p.communicate(timeout=120)
    assert p.returncode == 1 and 'cannot write to' in err

def test_full_disk_keeps_the_old_checkpoint(tmp_path):
    "RLIMIT_FSIZE makes every large write fail, as a full disk does"
    code = f'''
import resource, signal, torch
from torch import nn
from opensora_nb.train.checkpoint import EMA, latest, save_checkpoint
m = nn.Linear(64, 64); parts = lambda: (m, EMA(m), torch.optim.AdamW(m.parameters()))
save_checkpoint({str(tmp_path)!r}, 1, *parts())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try: save_checkpoint({str(tmp_path)!r}, 2, *parts())
except OSError as e: print('said:', e)
print(latest({str(tmp_path)!r}).name)
'''
    out = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    said = out.stdout + out.stderr[-1500:]
    for words in ('said:', 'could not save step 2', 'step_00000001 is intact'): assert words in out.stdout, said
    assert out.stdout.strip().endswith('step_00000001') and not list((tmp_path/'checkpoints').glob('.writing*'))
