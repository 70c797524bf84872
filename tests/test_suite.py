"""`osnb eval RUN RUN`: killed and resumed it says the same; on one's own clips it measures what applies there."""
import os, signal, subprocess, sys, time
import pytest
from opensora_nb.core import repo_root
from opensora_nb.metrics import suite as suites
from opensora_nb.metrics.preference import append_line
from opensora_nb.metrics.suite import Suite
from opensora_nb.metrics.suite_report import write_suite_report
from opensora_nb.metrics.suite_runs import SuiteConfig
from opensora_nb.vae.perceptual import EdgeDistance

BRIEF = dict(num=3, seeds=1, num_frames=9, num_sampling_steps=2, batch_size=1, extra=1)

@pytest.fixture(autouse=True)
def few_training_clips(monkeypatch): monkeypatch.setattr(suites, 'TRAINING_CLIPS', 64) # thousands take seconds

def kill_after(file, words): # start osnb, kill it with a signal that cannot be caught as soon as the file is there
    run, quiet = "import sys; from opensora_nb.app.cli import main; main(sys.argv[1:])", subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, '-c', run, *words], stdout=quiet, stderr=quiet)
    try:
        for _ in range(1200):
            if file.is_file() or process.poll() is not None: break
            time.sleep(.05)
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        if process.poll() is None: os.kill(process.pid, signal.SIGKILL)
        process.wait()

def figures(folder): # all but those of time and memory
    out = Suite(['tiny'], folder, SuiteConfig(**BRIEF), progress=False).run()
    cost = out['headings'][suites.HEADINGS['cost']]
    return {who: [r for r in rows if r['name'] not in cost] for who, rows in out['measured'].items()}

def test_killed_from_outside_and_started_again_it_ends_with_the_same_numbers(tmp_path):
    "No batch that was written is made anew, and no figure differs from those of one go"
    options = [w for k, v in BRIEF.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    first, last = (tmp_path/'killed'/'tiny'/f'clips_000{k}.json' for k in (0, 2))
    kill_after(first, ['eval', 'report', 'tiny', '--out', str(tmp_path/'killed'), '--device', 'cpu', *options])
    assert not last.exists() and not (tmp_path/'killed'/'figures.json').exists()
    before = first.stat().st_mtime_ns
    resumed = figures(tmp_path/'killed')
    assert first.stat().st_mtime_ns == before and last.exists()
    assert resumed == figures(tmp_path/'whole')

def test_on_own_clips_distances_are_measured_and_columns_of_the_toy_world_are_not_shown(tmp_path):
    cfg = SuiteConfig(data=str(repo_root()/'datasets/shapes/metadata.csv'), num=3, seeds=1, num_frames=9,
                      num_sampling_steps=2)
    votes = [dict(rater='ada', name=f'clip {i}', left='tiny', right='tiny_4step', choice='right') for i in range(10)]
    for row in [dict(models=['tiny', 'tiny_4step']), *votes]: append_line(tmp_path/'votes.jsonl', row)
    suite = Suite(['tiny', 'tiny_4step'], tmp_path, cfg, progress=False)
    out = suite.run()
    names = {who: {r['name'] for r in rows} for who, rows in out['measured'].items()}
    assert {'KVD', 'nearest true clip', 'votes'} <= names['tiny'] and 'prompt followed' not in names['tiny']
    assert {'KVD', 'nearest true clip'} <= names['true clips'] # there are further clips in the folder
    assert 'it needs 130 clips of each run' in out['left_out']['FVD']
    assert next(d for d in out['differences'] if d['name'] == 'votes')['winner'] == 'tiny_4step'
    page = write_suite_report(suite).read_text()
    assert '<td>split</td>' not in page and '<td>level</td>' not in page and '<td>num</td>' in page
    assert 'toy world</i>' not in page and 'What people prefer' in page

def test_laws_are_asked_of_runs_that_were_taught_them_and_lpips_measured_where_its_weights_are(tmp_path, monkeypatch):
    "Here tiny passes for a run of level physics, and slopes of pictures for AlexNet"
    monkeypatch.setattr(suites, 'FURTHER', dict(laws='core'))
    monkeypatch.setattr(suites, 'find_lpips', lambda files: {})
    monkeypatch.setattr(suites, 'lpips_net', EdgeDistance)
    cfg = SuiteConfig(num=2, seeds=1, num_frames=9, num_sampling_steps=1, extra=2)
    suite = Suite(['tiny'], tmp_path, cfg, progress=False)
    out = suite.run()
    figures = {who: {r['name']: r['value'] for r in rows} for who, rows in out['measured'].items()}
    assert figures['true clips']['laws kept, trained speeds'] == figures['true clips']['laws kept, new speeds'] == 1
    assert 0 <= figures['tiny']['laws kept, trained speeds'] <= 1 and 'one thing, seen' not in figures['tiny']
    assert 0 < figures['tiny']['autoencoder LPIPS'] < 1 and 'autoencoder LPIPS' not in out['left_out']
