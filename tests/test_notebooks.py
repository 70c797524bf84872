"Every notebook runs as nbdev-test runs it: in a process and a folder of its own; as many at a time as there are cores."
import os, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [p for p in sorted([*(ROOT/'nbs').rglob('*.ipynb'), *(ROOT/'tutorials').rglob('*.ipynb')])
         if '.ipynb_checkpoints' not in p.parts]

@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_page_runs(page):
    "One thread and the processor's clock: what a page compares holds on a busy machine too"
    command = [str(Path(sys.executable).parent/'nbdev-test'), str(page), '--n-workers', '0']
    env = dict(os.environ, MPLBACKEND='agg', OMP_NUM_THREADS='1')
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=env)
    assert out.returncode == 0, (out.stdout + out.stderr)[-3000:]
