"""Every notebook runs as `nbdev-test PAGE` runs it, in a process and a folder of its own; as many at a time as there
are cores. What nearly every page imports is imported once: each page is a fork of a process that has done so."""
import os, signal, subprocess, sys, tempfile, threading
from contextlib import contextmanager
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [p for p in sorted([*(ROOT/'nbs').rglob('*.ipynb'), *(ROOT/'tutorials').rglob('*.ipynb')])
         if '.ipynb_checkpoints' not in p.parts]
SLOW = [p for p in PAGES if '"#| slow' in p.read_text(encoding='utf-8')] # cells that a quick run leaves out
LIMIT = 900 # seconds
SERVER = '''
import os, sys
import accelerate, IPython.core.interactiveshell, matplotlib.pyplot, torch, torch._dynamo
import opensora_nb.sample.pipeline, opensora_nb.train.diffusion
from nbdev.test import nbdev_test

def run_page(page, said, flags):
    os.setpgid(0, 0) # its children end with it
    file = os.open(said, os.O_WRONLY)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (file, 1), (file, 2)): os.dup2(old, new)
    nbdev_test(page, flags=flags, n_workers=0)

for line in sys.stdin:
    page, said, flags = line.rstrip('\\n').split('\\t')
    child = os.fork()
    if not child:
        code = 1
        try:
            run_page(page, said, flags)
            code = 0
        except SystemExit as end: code = end.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
'''

@pytest.fixture(scope='session')
def server():
    "One thread and the processor's clock: what a page compares holds on a busy machine too"
    env = dict(os.environ, MPLBACKEND='agg', OMP_NUM_THREADS='1')
    with subprocess.Popen([sys.executable, '-c', SERVER], cwd=ROOT, env=env, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process: yield process

@contextmanager
def stopped_after(child, seconds):
    "End a page's process, and those it started, when it takes longer"
    clock = threading.Timer(seconds, os.killpg, (child, signal.SIGKILL))
    clock.start()
    try: yield
    finally: clock.cancel()

def run(page, server, flags=''):
    with tempfile.NamedTemporaryFile('r', encoding='utf-8') as said:
        server.stdin.write(f'{page}\t{said.name}\t{flags}\n')
        server.stdin.flush()
        child = int(server.stdout.readline())
        with stopped_after(child, LIMIT): code = int(server.stdout.readline())
        assert code == 0, said.read()[-3000:]

def name(page): return str(page.relative_to(ROOT))

@pytest.mark.parametrize('page', PAGES, ids=name)
def test_page_runs(page, server): run(page, server)

@pytest.mark.slow
@pytest.mark.parametrize('page', SLOW, ids=name)
def test_page_runs_with_its_slow_cells(page, server): run(page, server, 'slow')
