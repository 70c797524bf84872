"The engine: killed and started again, bad files, full disks, two runs in one place, and the same on Ray"
import errno, os, random, shutil, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest
import pipeline_stages as stages
from odd_files import sound_only
from opensora_nb.data import pipeline
from opensora_nb.data.pipeline import PipelineRun, DataStage, StopRun, run_pipeline
from opensora_nb.data.video_io import write_video

HERE = Path(__file__).resolve().parent
NUMBERS = [dict(n=n) for n in range(40)]

def run(rows, chain, folder, workers=2, **options):
    return run_pipeline(rows, chain, folder, workers, progress=False, **options)

# ---- killed

def launch(folder):
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get('PYTHONPATH', '')])
    return subprocess.Popen([sys.executable, HERE/'pipeline_stages.py', folder], start_new_session=True,
                            env=dict(os.environ, PYTHONPATH=path))

def finished_calls(folder): return sum(f.read_bytes().count(b'\n') for f in Path(folder).glob('*.log'))

def killed_and_whole(tmp_path, times, seed=0):
    "-> rows of a run that was killed so often, rows of one that was not, calls that were in the logs at each kill"
    whole, dice, known = run(NUMBERS, stages.chain(0), tmp_path/'whole', 0), random.Random(seed), []
    calls = finished_calls(tmp_path/'whole')
    for k in range(times):
        process, upto = launch(tmp_path/'killed'), calls*(k + dice.random())/times
        while finished_calls(tmp_path/'killed') < upto and process.poll() is None: time.sleep(.002)
        time.sleep(dice.random()*.03)
        if process.poll() is None: os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        known.append(finished_calls(tmp_path/'killed'))
    assert launch(tmp_path/'killed').wait() == 0
    return list(PipelineRun(tmp_path/'killed').rows()), list(whole.rows()), known

def test_a_run_killed_three_times_ends_with_the_same_table(tmp_path):
    "kill -9 of everything, at random moments: nothing that was finished is lost, nothing is there twice"
    killed, whole, known = killed_and_whole(tmp_path, 3)
    assert killed == whole and len(whole) > 10 and known == sorted(known)
    counts = [[s.rows_in for s in PipelineRun(tmp_path/name).stages] for name in ('killed', 'whole')]
    assert counts[0] == counts[1]

@pytest.mark.slow
def test_a_run_killed_ten_times_ends_with_the_same_table(tmp_path):
    killed, whole, known = killed_and_whole(tmp_path, 10, seed=1)
    assert killed == whole and known == sorted(known)

def test_workers_end_with_the_main_process(tmp_path):
    "Only the main process is killed; a worker that hangs does not stay behind"
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    code = ("from pipeline_stages import *\nif __name__ == '__main__': run_pipeline([dict(path='hangs')], "
            f"[DataStage('look', look, setup=reader)], {str(tmp_path/'r')!r}, 1, progress=False)\n")
    (tmp_path/'main.py').write_text(code)
    import psutil
    main = psutil.Popen([sys.executable, str(tmp_path/'main.py')], env=dict(os.environ, PYTHONPATH=path))
    def workers(): return [c for c in main.children() if 'spawn_main' in ' '.join(c.cmdline())]
    while not workers(): time.sleep(.02)
    time.sleep(.5)
    children = workers()
    main.kill()
    main.wait()
    assert not psutil.wait_procs(children, timeout=10)[1]

def test_ctrl_c_keeps_what_is_there(tmp_path, capsys, monkeypatch):
    "The sentence says so, and the next start goes on"
    calls = []
    def interrupted(rows):
        calls.append(rows[0]['n'])
        if len(calls) == 4: raise KeyboardInterrupt
        return rows
    chain = [DataStage('work', interrupted)]
    with pytest.raises(KeyboardInterrupt): run(NUMBERS[:6], chain, tmp_path/'r', 0)
    assert 'stopped in stage work; what is finished is kept' in capsys.readouterr().err
    assert len(list(run(NUMBERS[:6], chain, tmp_path/'r', 0).rows())) == 6
    assert calls == [0, 1, 2, 3, 3, 4, 5]

# ---- bad files

@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    "Six good clips and six bad files -> rows"
    folder = tmp_path_factory.mktemp('raw')
    for i in range(6): write_video(folder/f'good{i}.mp4', np.full((8, 32, 32, 3), 40*i, np.uint8))
    good = (folder/'good5.mp4').read_bytes()
    (folder/'empty.mp4').write_bytes(b'')
    (folder/'truncated.mp4').write_bytes(good[:len(good)//2])
    (folder/'wrong_extension.mp4').write_text('<html>404</html>')
    sound_only(folder/'audio_only.mp4')
    for name in ('kills', 'hangs'): shutil.copy(folder/'good0.mp4', folder/f'{name}.mp4')
    return [dict(path=str(p)) for p in sorted(folder.iterdir())]

PLANTED = dict(empty='not a readable video', truncated='no video stream', wrong_extension='not a readable video',
               audio_only='no video stream', kills='ended its worker process (SIGSEGV)', hangs='more than 1 seconds')

def look_at(raw, folder, batch=1, **options):
    return run(raw, [DataStage('look', stages.look, setup=stages.reader, batch=batch, timeout=1)], folder, **options)

@pytest.mark.parametrize('batch', [1, 5])
def test_quarantine_holds_exactly_the_bad_files(raw, tmp_path, batch):
    "Each with its reason, and the others as if these were not there, in calls of one row and of five"
    out = look_at(raw, tmp_path/'r', batch)
    found = {Path(path).stem: why for _, path, why in out.quarantined()}
    assert found.keys() == PLANTED.keys() and all(PLANTED[k] in found[k] for k in found)
    assert [(Path(r['path']).stem, r['num_frames']) for r in out.rows()] == [(f'good{i}', 8) for i in range(6)]
    told = (tmp_path/'r'/'quarantine.csv').read_text().splitlines()
    assert told[0] == 'stage,path,why' and len(told) == 7
    assert look_at(raw, tmp_path/'r', batch).stages[0].new == 0 # they are not tried again

def test_quarantine_is_tried_again_when_asked(raw, tmp_path):
    "A file that has been put right since then is another row anyway"
    rows = [r for r in raw if Path(r['path']).stem in ('empty', 'good1', 'good2')]
    look_at(rows, tmp_path/'r', workers=0)
    assert look_at(rows, tmp_path/'r', workers=0, retry=True).stages[0].new == 1
    fixed = tmp_path/'mended.mp4'
    fixed.write_bytes(b'')
    assert look_at([dict(path=str(fixed))], tmp_path/'s', workers=0).stages[0].quarantined == 1
    shutil.copy(rows[1]['path'], fixed)
    assert look_at([dict(path=str(fixed))], tmp_path/'s', workers=0).stages[0].rows_out == 1

def test_a_worker_killed_from_outside_costs_nothing(tmp_path):
    "A row whose worker dies once gets a second try"
    out = run(NUMBERS[:6], [DataStage('once', stages.killed_once, dict(marker=str(tmp_path/'m')))], tmp_path/'r')
    assert list(out.rows()) == NUMBERS[:6] and (tmp_path/'m').exists()

# ---- rows and settings

@pytest.mark.parametrize('fault,says', [
    (stages.loses, 'stage bad loses'), (stages.invents, 'comes from no row it was given'),
    (stages.odd_value, 'puts a set into a row')])
def test_a_stage_that_miscounts_stops_the_run(tmp_path, fault, says):
    "A row never disappears"
    with pytest.raises(StopRun, match=says): run(NUMBERS[:4], [DataStage('bad', fault, batch=2)], tmp_path/'r', 0)

def test_a_model_that_cannot_be_loaded_stops_the_run(tmp_path):
    with pytest.raises(StopRun, match='stage m could not begin: there are no weights here'):
        run(NUMBERS[:4], [DataStage('m', stages.with_model, setup=stages.cannot_load)], tmp_path/'r', 1)

def counts(folder, **settings):
    "How often `square` is called by each of two stages"
    logs = [folder/'a', folder/'b']
    for log in logs: log.mkdir(exist_ok=True)
    before = [len(list(log.iterdir())) for log in logs]
    seconds, high = settings.get('seconds', 0), settings.get('high', 100)
    chain = [DataStage('a', stages.square, dict(seconds=seconds, counted=str(logs[0])), batch=4),
             DataStage('few', pipeline.threshold_rows, dict(column='n', high=high), filter=True),
             DataStage('b', stages.square, dict(counted=str(logs[1])))]
    out = run(NUMBERS[:8], chain, folder/'r', 0)
    return [len(list(log.iterdir())) - n for log, n in zip(logs, before)], len(list(out.rows()))

def test_what_changes_runs_again(tmp_path):
    "A stage's setting: it and those after it; a filter's: only rows that it lets through in addition"
    assert counts(tmp_path, high=3) == ([2, 4], 4)
    assert counts(tmp_path, high=3) == ([0, 0], 4)
    assert counts(tmp_path, high=5) == ([0, 2], 6)
    assert counts(tmp_path, high=5, seconds=.001) == ([2, 6], 6)

def test_new_files_do_not_run_the_old_ones_again(tmp_path):
    chain = [DataStage('s', stages.square)]
    assert run(NUMBERS[:5], chain, tmp_path/'r', 0).stages[0].new == 5
    assert run([dict(n=-1), *NUMBERS[:7]], chain, tmp_path/'r', 0).stages[0].new == 3

def test_files_that_were_deleted_are_written_again(tmp_path):
    "A stage that writes files says in which column they are"
    chain = [DataStage('w', stages.write_files, dict(folder=str(tmp_path)), files=('path',))]
    for gone, new in ((None, 3), (None, 0), ('1.txt', 1)):
        if gone: (tmp_path/gone).unlink()
        assert run(NUMBERS[:3], chain, tmp_path/'r', 0).stages[0].new == new
    assert (tmp_path/'1.txt').read_text() == '1'

def test_threads_of_libraries_are_limited(tmp_path):
    "Two workers on two cores do not start four threads"
    row, = run([dict(n=1)], [DataStage('t', stages.threads)], tmp_path/'r', 2).rows()
    assert (row['omp'], row['cv2']) == ('1', 1)

# ---- folders and disks

def test_two_runs_in_one_folder(tmp_path):
    "The second is refused, and the first one's rows are untouched"
    first = launch(tmp_path/'r')
    while not (tmp_path/'r'/'square.log').exists(): time.sleep(.01)
    with pytest.raises(ValueError, match='another run is writing to'): run(NUMBERS, stages.chain(), tmp_path/'r')
    assert first.wait() == 0 and len(list(PipelineRun(tmp_path/'r').rows())) > 10

def test_a_full_disk_is_a_sentence_and_the_run_goes_on_later(tmp_path, monkeypatch):
    "Half of a line is written, as it happens; the log is as it was before"
    real, room = os.write, [700]
    def small_disk(fd, data):
        if not room[0]: raise OSError(errno.ENOSPC, 'No space left on device')
        n = real(fd, data[:room[0]])
        room[0] -= n
        return n
    monkeypatch.setattr(pipeline.os, 'write', small_disk)
    chain = [DataStage('s', stages.square)]
    with pytest.raises(OSError, match='No space left on device; what is finished is kept'):
        run(NUMBERS, chain, tmp_path/'r', 0)
    monkeypatch.undo()
    out = run(NUMBERS, chain, tmp_path/'r', 0)
    assert 0 < out.stages[0].new < 40 and [r['square'] for r in out.rows()] == [n*n for n in range(40)]

def test_a_disk_that_a_stage_finds_full_blames_no_row(tmp_path, raw):
    with pytest.raises(StopRun, match='stage look: .*No space left.*; what is finished is kept'):
        run([dict(path='full.mp4')], [DataStage('look', stages.look, setup=stages.reader)], tmp_path/'r', 1)

def test_a_damaged_line_is_done_again(tmp_path):
    chain = [DataStage('s', stages.square)]
    run(NUMBERS[:4], chain, tmp_path/'r', 0)
    log = tmp_path/'r'/'s.log'
    log.write_bytes(log.read_bytes().replace(b'"square": 4', b'"square": 5'))
    out = run(NUMBERS[:4], chain, tmp_path/'r', 0)
    assert out.stages[0].new == 1 and [r['square'] for r in out.rows()] == [0, 1, 4, 9]

# ---- Ray

@pytest.fixture(scope='session')
def ray_here():
    ray = pytest.importorskip('ray')
    pipeline.start_ray(ray, 2)
    yield ray
    ray.shutdown()

@pytest.mark.slow
def test_ray_and_the_pool_make_equal_tables(ray_here, raw, tmp_path):
    "Rows, their order, what is in quarantine and why"
    look = DataStage('look', stages.look, setup=stages.reader, batch=5, timeout=1)
    for rows, chain in ((NUMBERS, stages.chain(0)), (raw, [look])):
        name = chain[0].name
        pool, ray = run(rows, chain, tmp_path/f'{name}p'), run(rows, chain, tmp_path/f'{name}r', engine='ray')
        assert list(pool.rows()) == list(ray.rows()) and list(pool.named()) == list(ray.named())
        assert [s.new for s in ray.stages] == [s.new for s in pool.stages]
        assert [s.new for s in run(rows, chain, tmp_path/f'{name}r', 0).stages] == [0]*len(chain)
