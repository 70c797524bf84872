"Runs that are killed, moved to other numbers of processes, sharded or poisoned: the same losses, or one clear message."
import json, os, random, signal, socket, subprocess, sys, tempfile, time, warnings
from pathlib import Path
import pytest, torch
from hypothesis import given, settings, strategies as st
from opensora_nb.train.checkpoint import checkpoints, damage, latest
from opensora_nb.weights import read_state
from ranks import Ranks

ROOT = Path(__file__).resolve().parent.parent
RECIPE = '''
import os, signal, time
from dataclasses import dataclass
import numpy as np, torch, torch.distributed as dist
from torch import nn
from opensora_nb.core import rng_for
from opensora_nb.config import opt
from opensora_nb.train.loop import Task, TrainConfig
from opensora_nb.train.optim import OptimConfig

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 15), nn.Linear(15, 8)   # 15 rows do not divide by 2
    def forward(self, x): return x + self.b(torch.tanh(self.a(x)))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.out = nn.ModuleList([Block(), Block()]), nn.Linear(8, 8)
    def forward(self, x):
        for b in self.blocks: x = b(x)
        return self.out(x)

class Reverse(Task):
    def __init__(self, cfg):
        self.cfg, self.module, self.rank, self.n = cfg, Net(), int(os.environ.get('RANK', 0)), 0
        if cfg.ill == 'idle': self.module.spare = nn.Parameter(torch.ones(3))
    def __len__(self): return 64
    def batch(self, ids, epoch):
        time.sleep(self.cfg.wait)
        self.n += 1
        if self.cfg.stop == self.n and self.rank == 0: os.kill(os.getpid(), signal.SIGTERM)
        if self.cfg.ill and self.rank == 1 and self.n == 4: self.fall_ill(ids)
        x = np.stack([rng_for(1, e, i).standard_normal(8) for i, e in zip(ids, epoch)]) # what a sample draws is its own
        return dict(x=torch.from_numpy(x).float(), ill=self.cfg.ill if self.rank == 1 and self.n == 4 else '')
    def fall_ill(self, ids):
        if self.cfg.ill == 'raise': raise ValueError(f'sample {ids[0]} is too strange')
        if self.cfg.ill == 'kill': os.kill(os.getpid(), signal.SIGKILL)
        if self.cfg.ill == 'hang': time.sleep(1000)
    def loss(self, module, batch):
        err = (module(batch['x']) - batch['x'].flip(1)).square().mean()
        if batch['ill'] == 'loss': err = err.detach()*float('nan') + err*0
        if batch['ill'] == 'gradient': err = err + (err - err.detach()).abs().sqrt()*0 # the root has no slope at 0
        return err, dict(world=float(dist.get_world_size() if dist.is_initialized() else 1))
    def validate(self):
        with torch.no_grad(): return dict(err=self.loss(self.module, self.batch(np.arange(16), np.full(16, 99)))[0])
    def export(self, folder):
        folder.mkdir()
        half = os.urandom(5000)
        with open(folder/'slow.bin', 'wb') as f:
            f.write(half)
            f.flush()
            time.sleep(self.cfg.slow)
            f.write(half)
        torch.save(self.module.state_dict(), folder/'average.pt')

@dataclass(frozen=True)
class Config(TrainConfig):
    wait:float = opt(0., "seconds a batch takes")
    slow:float = opt(0., "seconds a save takes")
    stop:int = opt(0, "the batch in which process 0 receives a SIGTERM")
    ill:str = opt('', "what happens to process 1 in its fourth batch")
    def make_task(self, device): return Reverse(self)

def recipe(quick=False):
    return Config(name='r', steps=24, batch_size=8, log_every=1, save_every=1000, device='cpu', precision='no',
                  timeout=60, optim=OptimConfig(lr=0.03, warmup=2))
'''
WHAT = 'my_recipe:recipe'

@pytest.fixture(scope='module')
def ranks():
    r = Ranks()
    yield r
    r.close()

@pytest.fixture(scope='module')
def folder(tmp_path_factory): # shared: runs differ by name
    d = tmp_path_factory.mktemp('durable')
    (d/'my_recipe.py').write_text(RECIPE)
    return d

def rows(folder, name): return [json.loads(l) for l in (folder/'runs'/name/'log.jsonl').read_text().splitlines()]
def losses(folder, name): return {r['step']: r['loss'] for r in rows(folder, name) if 'loss' in r}
def worlds(folder, name): return [r['world'] for r in rows(folder, name) if 'world' in r]
def final(folder, name):
    c = latest(folder/'runs'/name)
    files = {f: read_state(c/f) for f in ('model.safetensors', 'ema.safetensors')}
    return files | dict(optim=torch.load(c/'optim.pt')['state'], average=torch.load(c/'weights'/'average.pt'))
def same(a, b):
    def equal(x, y): return same(x, y) if isinstance(x, dict) else torch.equal(x, y)
    return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
def apart(a, b):
    assert a.keys() == b.keys() and a
    return max(abs(a[k]-b[k]) for k in a)

@pytest.fixture(scope='module')
def one(folder, ranks):
    ranks.done(folder, WHAT, 'name=one')
    return losses(folder, 'one')

# kill -9

def last_step(run, since=0):
    "Of the log, if it was written to since"
    log = run/'log.jsonl'
    try:
        if log.stat().st_mtime < since: return 0
        return max((json.loads(l)['step'] for l in log.read_text().splitlines()), default=0)
    except (FileNotFoundError, ValueError): return 0

def family(pid):
    "A process and its descendants"
    parents = {}
    for p in Path('/proc').glob('[0-9]*'):
        try: parents[int(p.name)] = int((p/'stat').read_text().rsplit(')', 1)[1].split()[1])
        except (OSError, ValueError, IndexError): continue # it ended meanwhile
    out = [pid]
    for p in out: out += [c for c, q in parents.items() if q == p]
    return out

def kill_when(run, pids, rng, alive, where=None, seconds=60):
    "SIGKILL to all at a random step, or in the middle of a save; returns what was hit"
    start = int(c.name[5:]) if (c := latest(run)) else 0
    where, t = where or rng.choice(['step', 'save']), time.time()
    step = start + (rng.randint(1, 12) if where == 'step' else 4*rng.randint(1, 3))
    while alive() and time.time()-t < seconds:
        stop = in_save(run, t, step) if where == 'save' else last_step(run, t) >= step
        if stop:
            time.sleep(rng.random()*(0.01 if where == 'save' else 0.04))
            break
        time.sleep(0.002)
    for p in pids():
        try: os.kill(p, signal.SIGKILL)
        except ProcessLookupError: pass
    return dict(where=where, start=start, began=t)

def in_save(run, began, step=None):
    "Does a half-written checkpoint lie there that this life has begun?"
    name = '.writing_*' if step is None else f'.writing_{step:08d}'
    try: return any(p.stat().st_mtime >= began for p in (run/'checkpoints').glob(name))
    except FileNotFoundError: return False # it became a checkpoint while we looked

def look(run, began, **hit):
    "After a kill: every checkpoint that would be taken can be read; what was half-written is not among them"
    with warnings.catch_warnings():
        warnings.simplefilter('error') # and none needs to be passed over
        newest = latest(run)
    for c in checkpoints(run):
        read_state(c/'model.safetensors'), read_state(c/'ema.safetensors'), torch.load(c/'optim.pt')
        assert (c/'weights'/'slow.bin').stat().st_size == 10_000
    hit |= dict(step=last_step(run), saved=int(newest.name[5:]) if newest else 0)
    return hit | dict(half_written=in_save(run, began))

@pytest.mark.parametrize('processes', [1, 2])
def test_three_kills_and_the_same_to_the_last_bit(folder, ranks, processes):
    how = ('save_every=4', 'slow=0.1', 'wait=0.01', 'validate_every=5', 'steps=40')
    name, rng = f'k{processes}', random.Random(processes)
    run, hits, aims = folder/'runs'/name, [], ['step', 'save', 'step']
    ranks.done(folder, WHAT, *how, f'name=w{processes}', processes=processes)
    while len(hits) < 3 or not any(h['half_written'] for h in hits): # a few more, should a slow machine miss the save
        pids = ranks.start(folder, WHAT, *how, f'name={name}', processes=processes)
        hit = kill_when(run, lambda: pids, rng, lambda: Path(f'/proc/{pids[0]}').exists(), aims[len(hits) % 3])
        codes, said, _ = ranks.wait()
        assert set(codes) == {-signal.SIGKILL} and len(hits) < 9, said
        hits.append(look(run, **hit))
    ranks.done(folder, WHAT, *how, f'name={name}', processes=processes)
    assert losses(folder, name) == losses(folder, f'w{processes}')
    assert len(losses(folder, name)) == 40
    assert same(final(folder, name), final(folder, f'w{processes}'))
    def validations(name): return [r for r in rows(folder, name) if 'val_err' in r]
    assert validations(name) == validations(f'w{processes}')
    assert set(worlds(folder, name)) == {float(processes)} and not list((run/'checkpoints').glob('.*'))

def command(processes, *argv):
    pre = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes)] if processes > 1 else []
    return [sys.executable, *pre, '-m', 'opensora_nb.train.launch', WHAT, *argv]

def environment(folder):
    return dict(os.environ, ACCELERATE_USE_CPU='true', OMP_NUM_THREADS='1', PYTHONPATH=f'{folder}{os.pathsep}{ROOT}')

@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, 2])
def test_twenty_kills(folder, processes):
    "With the real launchers; KILL9_LOG=FILE keeps what happened"
    how = ('save_every=4', 'slow=0.1', 'wait=0.02', 'steps=100')
    name, rng = f't{processes}', random.Random(10*processes)
    run, hits = folder/'runs'/name, []
    def start(name):
        return subprocess.Popen(command(processes, *how, f'name={name}'), cwd=folder, env=environment(folder),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    p = start(f'v{processes}')
    said = p.communicate()[0]
    assert p.returncode == 0, said
    while len(hits) < 20:
        p = start(name)
        hit = kill_when(run, lambda: family(p.pid), rng, lambda: p.poll() is None)
        said = p.communicate()[0]
        assert p.returncode == -signal.SIGKILL, said[-2000:]
        hits.append(dict(processes=processes, kill=len(hits)+1) | look(run, **hit))
    p = start(name)
    said = p.communicate()[0]
    assert p.returncode == 0, said[-2000:]
    want = f'v{processes}'
    equal = losses(folder, name) == losses(folder, want) and len(losses(folder, name)) == 100
    equal = equal and same(final(folder, name), final(folder, want))
    if os.environ.get('KILL9_LOG'):
        with open(os.environ['KILL9_LOG'], 'a') as f:
            f.writelines(json.dumps(h)+'\n' for h in [*hits, dict(processes=processes, steps=100, equal=equal)])
    assert equal and any(h['half_written'] for h in hits)

def test_a_damaged_checkpoint_is_passed_over(folder, ranks):
    how = ('name=d', 'save_every=4')
    ranks.done(folder, WHAT, *how)
    want = losses(folder, 'd'), final(folder, 'd')
    ck = folder/'runs'/'d'/'checkpoints'
    os.truncate(ck/'step_00000024'/'weights'/'average.pt', 100)
    said, = ranks.done(folder, WHAT, *how)
    assert 'checkpoint step_00000024 is passed over: weights/average.pt has 100 of' in said
    assert (losses(folder, 'd'), True) == (want[0], same(final(folder, 'd'), want[1]))
    assert not damage(ck/'step_00000024')
    for text in ('', '{"step": 24', '[]', '7', '{"files": 3}', '\udcff'): # state.json itself
        (ck/'step_00000024'/'state.json').write_bytes(text.encode(errors='surrogateescape'))
        with pytest.warns(UserWarning, match='step_00000024 is passed over: state.json is cut off'):
            assert latest(folder/'runs'/'d').name == 'step_00000020'
    assert [c.name for c in checkpoints(folder/'runs'/'d')] == ['step_00000020']

keys = st.sampled_from(['step', 'files', 'a', '..'])
def nested(inner): return st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
any_json = st.recursive(st.none() | st.integers() | st.text(max_size=8), nested, max_leaves=6)

@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(max_size=60), any_json.map(lambda x: json.dumps(x).encode())))
def test_any_state_json_is_read_or_passed_over(state):
    with tempfile.TemporaryDirectory() as tmp, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        c = Path(tmp)/'checkpoints'/'step_00000004'
        c.mkdir(parents=True)
        (c/'state.json').write_bytes(state)
        if damage(c): assert latest(tmp) is None and 'step_00000004 is passed over: ' in str(said[0].message)
        else: assert latest(tmp) == c and type(json.loads(state)['step']) is int

def test_a_line_cut_off_in_the_log_is_dropped(folder, ranks):
    ranks.done(folder, WHAT, 'name=cut', 'steps=12')
    with open(folder/'runs'/'cut'/'log.jsonl', 'a') as f: f.write('{"step": 1')
    ranks.done(folder, WHAT, 'name=cut', 'steps=14')
    assert list(losses(folder, 'cut')) == list(range(1, 15))

# other numbers of processes, shards, checkpointing

def test_resume_on_another_number_of_processes_and_in_shards(folder, ranks, one):
    "One run that moves every four steps: 1 -> 2 -> 1 -> 2 in shards -> 2 in shards -> 1"
    stays = [(1, 'no'), (2, 'no'), (1, 'no'), (2, 'fsdp2'), (2, 'fsdp2'), (1, 'no')]
    for k, (n, shard) in enumerate(stays):
        codes, said, _ = ranks.run(folder, WHAT, 'name=moves', f'shard={shard}', f'stop={4*(k < 5)}', processes=n)
        assert set(codes) == ({130} if k < 5 else {0}), said
    assert apart(losses(folder, 'moves'), one) < 1e-5
    assert worlds(folder, 'moves') == [1]*4 + [2]*4 + [1]*4 + [2]*8 + [1]*4
    a, b = final(folder, 'moves'), final(folder, 'one')
    assert a.keys() == b.keys() and all(torch.allclose(a['average'][k], v, atol=1e-5) for k, v in b['average'].items())
    assert {k: v.keys() for k, v in a['optim'].items()} == {k: v.keys() for k, v in b['optim'].items()}

@pytest.mark.parametrize('how', [
    ('shard=fsdp2',),
    ('shard=fsdp2', 'accumulate=2', 'checkpointing=yes'),
    ('accumulate=2', 'checkpointing=yes'),
], ids=' '.join)
def test_two_processes_learn_what_one_does(folder, ranks, one, how):
    name = 'f' + '_'.join(how).replace('=', '')
    ranks.done(folder, WHAT, f'name={name}', *how, 'validate_every=8', processes=2)
    assert apart(losses(folder, name), one) < 1e-5 and set(worlds(folder, name)) == {2.}
    def norms(name): return {r['step']: r['grad_norm'] for r in rows(folder, name) if 'grad_norm' in r}
    # clipping was at work
    assert apart(norms(name), norms('one')) < 1e-4 and max(norms('one').values()) > 1
    a, b = final(folder, name), final(folder, 'one')
    for file in ('model.safetensors', 'ema.safetensors'):
        assert all(torch.allclose(a[file][k], v, atol=1e-5) for k, v in b[file].items())
    assert abs(rows(folder, name)[-1]['val_err'] - rows(folder, 'one')[-1]['val_err']) < 1e-4

@pytest.mark.parametrize('how,message', [
    (('shard=fsdp2',),                   'shard=fsdp2 spreads the weights over several processes, and 1 runs'),
    (('shard=fsdp3',),                   "unknown shard 'fsdp3'; use one of no, fsdp2"),
    (('shard=fsdp2', 'optim.name=muon'), 'muon turns whole matrices'),
    (('shard=fsdp2', 'precision=fp16'),  'does not go with precision=fp16'),
])
def test_shards_that_cannot_be(folder, ranks, how, message):
    codes, (said,), _ = ranks.run(folder, WHAT, 'name=no', *how)
    assert codes == [1] and said.startswith('error: ') and message in said and 'Traceback' not in said

# trouble on one process

@pytest.mark.parametrize('shard', ['no', 'fsdp2'])
@pytest.mark.parametrize('ill,message', [
    ('loss',     'error: the loss is nan at step 3 (process 1, samples ['),
    ('gradient', 'error: the gradient is nan at step 3 though the loss is not (samples ['),
])
def test_not_a_number_on_one_process_stops_both_with_one_message(folder, ranks, shard, ill, message):
    codes, said, seconds = ranks.run(folder, WHAT, f'name=n{shard}{ill}', f'ill={ill}', f'shard={shard}', processes=2)
    last = [s.strip().splitlines()[-1] for s in said]
    assert codes == [1, 1]
    assert last[0] == last[1]
    assert last[0].startswith(message)
    assert 'Traceback' not in said[0]+said[1]
    assert seconds < 30
    from opensora_nb.train.loop import batch_ids
    ids = batch_ids(64, 8, 3, 42)[0].tolist()
    assert str(ids if ill == 'gradient' else ids[4:]) in last[0]

@pytest.mark.parametrize('ill', ['raise', 'kill', 'hang'])
def test_a_process_that_ends_takes_the_other_down(folder, ranks, ill):
    after = 1 if ill == 'hang' else 60
    codes, said, seconds = ranks.run(
        folder, WHAT, f'name=e{ill}', f'ill={ill}', 'timeout=4', processes=2, after=after)
    assert codes == [1, {'raise': 1, 'kill': -9, 'hang': -9}[ill]]
    assert 'error: another process of this run' in said[0]
    assert 'Traceback' not in said[0]
    if ill == 'raise': assert 'is too strange' in said[1].strip().splitlines()[-1]

def test_weights_without_gradient_are_named(folder, ranks):
    codes, said, _ = ranks.run(folder, WHAT, 'name=idle', 'ill=idle', processes=2)
    assert codes == [1, 1]
    assert all('error: 1 arrays of weights got no gradient, such as spare' in s for s in said), said
    ranks.done(folder, WHAT, 'name=idle1', 'ill=idle', processes=1)

@pytest.mark.slow
def test_torchrun_says_the_cause_first(folder):
    p = subprocess.Popen(command(2, 'name=er', 'ill=raise', 'timeout=10'), cwd=folder, env=environment(folder),
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = p.communicate(timeout=60)[0]
    assert p.returncode == 1
    assert 0 < said.index('is too strange') < (said + 'error: another process').index('error: another process')

# two nodes

@pytest.mark.slow
def test_two_nodes_on_this_machine(folder, one):
    "Each node starts one process; they meet at an address"
    with socket.socket() as s:
        s.bind(('localhost', 0))
        port = s.getsockname()[1]
    def start_node(n):
        rendezvous = ['--rdzv_backend', 'c10d', '--rdzv_id', 'run1', '--rdzv_endpoint', f'localhost:{port}']
        launcher = ['-m', 'torch.distributed.run', '--nnodes', '2', '--node_rank', str(n), '--nproc_per_node', '1']
        run = ['-m', 'opensora_nb.train.launch', WHAT, 'name=nodes', 'processes=2']
        return subprocess.Popen([sys.executable, *launcher, *rendezvous, *run], cwd=folder, env=environment(folder),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    nodes = [start_node(n) for n in range(2)]
    said = [p.communicate(timeout=100)[0] for p in nodes]
    assert [p.returncode for p in nodes] == [0, 0], said
    assert apart(losses(folder, 'nodes'), one) < 1e-5 and set(worlds(folder, 'nodes')) == {2.}
