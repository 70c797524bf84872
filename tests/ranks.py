"""Runs of `opensora_nb.train.launch` in a fraction of a second: a server that has imported everything forks them,
with the variables that torchrun would set.

Unlike torchrun it stops nobody when one process fails, so a test sees what the processes do by themselves.
Reads a line of JSON (folder, processes, argv, seconds, after); answers with the process ids, then with exit codes
and what was printed."""
import json, os, signal, socket, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

class Ranks:
    "The test's side"
    def __init__(self):
        env = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE')}
        env |= dict(ACCELERATE_USE_CPU='true', OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
        self.server = subprocess.Popen(
            [sys.executable, __file__], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    def start(self, folder, *argv, processes=1, seconds=60, after=60):
        "-> process ids; all are killed after so many seconds, or so many after the first has ended"
        job = dict(folder=str(folder), argv=argv, processes=processes, seconds=seconds, after=after)
        print(json.dumps(job), file=self.server.stdin, flush=True)
        return json.loads(self.server.stdout.readline())
    def wait(self):
        "-> exit codes (negative: the signal), what each printed, seconds it took"
        return json.loads(self.server.stdout.readline())
    def run(self, folder, *argv, **how):
        self.start(folder, *argv, **how)
        return self.wait()
    def done(self, folder, *argv, **how):
        codes, said, _ = self.run(folder, *argv, **how)
        assert set(codes) == {0}, (codes, said)
        return said
    def close(self):
        self.server.stdin.close()
        self.server.wait(timeout=30)

def free_port():
    with socket.socket() as s:
        s.bind(('localhost', 0))
        return s.getsockname()[1]

def together(code, folder, argv=lambda rank: (), local=lambda rank: rank):
    "-> what each of two processes prints that run this code and can talk to each other"
    port = free_port()
    def start(rank):
        env = dict(os.environ, PYTHONPATH=f'{ROOT}{os.pathsep}{ROOT/"tests"}', OMP_NUM_THREADS='1',
                   RANK=str(rank), WORLD_SIZE='2', LOCAL_RANK=str(local(rank)), MASTER_ADDR='localhost',
                   MASTER_PORT=str(port), ACCELERATE_USE_CPU='true')
        return subprocess.Popen([sys.executable, '-c', code, *argv(rank)], env=env, cwd=folder,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    both = [start(rank) for rank in (0, 1)]
    said = [p.communicate(timeout=100)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    return said

def child(job, rank, port, out):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job['processes']),
                      LOCAL_WORLD_SIZE=str(job['processes']), MASTER_ADDR='localhost', MASTER_PORT=str(port))
    if job['processes'] == 1: [os.environ.pop(k) for k in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE')]
    os.chdir(job['folder'])
    sys.path.insert(0, job['folder'])
    f = open(out, 'w', buffering=1)
    os.dup2(f.fileno(), 1)
    os.dup2(f.fileno(), 2)
    from opensora_nb.train.launch import main
    try:
        main(job['argv'])
        code = 0
    except SystemExit as e:
        if isinstance(e.code, str): print(e.code, file=sys.stderr)
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        import traceback
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

def serve():
    import accelerate, numpy.ma, torch, opensora_nb.recipes, opensora_nb.train.launch # noqa: F401
    import torch._dynamo, torch.distributed.fsdp, torch.distributed.tensor, torch.onnx, torch.profiler # noqa: F401
    real = os.dup(1)
    answer = os.fdopen(real, 'w', buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        job, port, t = json.loads(line), free_port(), time.time()
        pids, codes = [], {}
        end = t + job['seconds']
        outs = [Path(job['folder'])/f'.said_{r}' for r in range(job['processes'])]
        for r, out in enumerate(outs):
            pid = os.fork()
            if pid == 0: child(job, r, port, out)
            pids.append(pid)
        print(json.dumps(pids), file=answer)
        while len(codes) < len(pids):
            for p in pids:
                if p in codes: continue
                pid, status = os.waitpid(p, os.WNOHANG)
                if pid:
                    codes[p] = os.waitstatus_to_exitcode(status)
                    end = min(end, time.time() + job['after'])
                elif time.time() > end: os.kill(p, signal.SIGKILL)
            time.sleep(0.01)
        said = [o.read_text() for o in outs]
        print(json.dumps([[codes[p] for p in pids], said, round(time.time()-t, 2)]), file=answer)

if __name__ == '__main__': serve()
