"""Every notebook runs as `nbdev-test PAGE` runs it, in a process and a folder of its own; as many at a time as there
are cores. What nearly every page imports is imported once: each page is a fork of a process that has done so."""
import os, signal, subprocess, sys, tempfile, threading
from contextlib import contextmanager
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [p for p in sorted([*(ROOT/'nbs').rglob('*.ipynb'), *(ROOT/'tutorials').rglob('*.ipynb')])
         if '.ipynb_checkpoints' not in p.parts]
LIMIT = 900 # seconds
SERVER = '''
import os, sys
import accelerate, IPython.core.interactiveshell, matplotlib.pyplot, torch
from nbdev.test import nbdev_test

def run_page(page, said):
    os.setpgid(0, 0) # its children end with it
    file = os.open(said, os.O_WRONLY)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (file, 1), (file, 2)): os.dup2(old, new)
    nbdev_test(page, n_workers=0)

for line in sys.stdin:
    page, said = line.rstrip('\\n').split('\\t')
    child = os.fork()
    if not child:
        code = 1
        try:
            run_page(page, said)
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

@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_page_runs(page, server):
    with tempfile.NamedTemporaryFile('r', encoding='utf-8') as said:
        server.stdin.write(f'{page}\t{said.name}\n')
        server.stdin.flush()
        child = int(server.stdout.readline())
        with stopped_after(child, LIMIT): code = int(server.stdout.readline())
        assert code == 0, said.read()[-3000:]
