"""How `pytest` uses a machine. The whole suite, or all pages, run in one process a core with one thread each: a file's
tests stay together and share what they trained once, pages go one by one. Files named one by one run in this process.
`-n 0` turns the processes off, `-n 4` asks for four."""
import os
from pathlib import Path
if 'PYTEST_XDIST_WORKER' in os.environ: os.environ['OMP_NUM_THREADS'] = '1' # torch reads it when it is imported

import tempfile
os.environ.setdefault('OPENSORA_NB_CACHE', tempfile.mkdtemp(prefix='opensora_nb_')) # what is measured here stays here
import psutil
from xdist.scheduler import LoadScopeScheduling

MEMORY = 3e9 # bytes that a process and the programs its tests start may take

def pytest_xdist_auto_num_workers(config):
    "For `-n auto`, which pyproject.toml asks for; 0 is this process"
    named = [Path(a.split('::')[0]) for a in config.args]
    pages = all(p.name == 'test_notebooks.py' for p in named)
    everything = all(p.is_dir() for p in named) and not config.option.keyword and config.option.markexpr == 'not slow'
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    workers = min(cores, int(psutil.virtual_memory().available/MEMORY))
    return workers if (pages or everything) and workers > 1 else 0

class Files(LoadScopeScheduling):
    "A file is one piece of work, a page too"
    def _split_scope(self, nodeid):
        return nodeid if 'test_notebooks.py' in nodeid else nodeid.split('::')[0]

def pytest_xdist_make_scheduler(config, log): return Files(config, log)
