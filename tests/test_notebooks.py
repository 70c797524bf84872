"Every notebook runs, as nbdev-test runs it: in a process of its own, in its own folder."
import os, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [p for p in sorted([*(ROOT/'nbs').rglob('*.ipynb'), *(ROOT/'tutorials').rglob('*.ipynb')]) if '.ipynb_checkpoints' not in p.parts]

@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_page_runs(page):
    out = subprocess.run([str(Path(sys.executable).parent/'nbdev-test'), str(page), '--n-workers', '0'],
                         cwd=ROOT, capture_output=True, text=True, timeout=600, env=dict(os.environ, MPLBACKEND='agg'))
    assert out.returncode == 0, (out.stdout + out.stderr)[-3000:]
