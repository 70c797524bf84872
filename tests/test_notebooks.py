"Every notebook runs as nbdev-test runs it: in a process and a folder of its own; as many at a time as there are cores."
import os, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [p for p in sorted([*(ROOT/'nbs').rglob('*.ipynb'), *(ROOT/'tutorials').rglob('*.ipynb')])
         if '.ipynb_checkpoints' not in p.parts]
ALONE = ('03_fast_inference', '02_forecast', '14_cost') # they compare times, so nothing else may run beside them

def run(page, threads):
    command = [str(Path(sys.executable).parent/'nbdev-test'), str(page), '--n-workers', '0']
    env = dict(os.environ, MPLBACKEND='agg') | threads
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=env)

@pytest.fixture(scope='module')
def runs(request): # page -> function that waits for its result; those that were selected, no others
    wanted = [i.callspec.params['page'] for i in request.session.items if i.module is request.module]
    workers = min(len(wanted), os.cpu_count() or 1)
    threads = dict(OMP_NUM_THREADS='1') if workers > 1 else {}
    pool = ThreadPoolExecutor(workers)
    started = {p: pool.submit(run, p, threads) for p in wanted if p.stem not in ALONE}
    def result(page):
        if page in started: return started[page].result()
        for f in started.values(): f.exception() # wait for all others
        return run(page, {})
    yield result
    pool.shutdown(cancel_futures=True)

@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_page_runs(page, runs):
    out = runs(page)
    assert out.returncode == 0, (out.stdout + out.stderr)[-3000:]
