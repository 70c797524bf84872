"Stages for tests/test_pipeline.py, in a file that other processes can import; as a program: a run to be killed"
import json, os, signal, sys, time
from pathlib import Path
from opensora_nb.data.pipeline import DataStage, drop, threshold_rows, run_pipeline

def reader():
    "Loaded before the clock of a row begins"
    from opensora_nb.data.video_io import read_video
    return read_video

def look(rows, read_video):
    "Decode a clip, unless its name says to crash, to hang or to fill the disk"
    out = []
    for row in rows:
        name = Path(row['path']).stem
        if name == 'kills': os.kill(os.getpid(), signal.SIGSEGV)
        if name == 'hangs': time.sleep(1000)
        if name == 'full': raise OSError(28, 'No space left on device')
        clip = read_video(row['path'])
        out.append(dict(row, num_frames=len(clip), bright=float(clip.mean())))
    return out

def parts(rows, most=3):
    "Row n becomes n % most rows"
    made = [[dict(row, part=k) for k in range(row['n'] % most)] or [drop(row, 'too short')] for row in rows]
    return [row for rows in made for row in rows]

def square(rows, seconds=0., counted=None):
    time.sleep(seconds)
    if counted: Path(counted, f'{time.time_ns()}').write_text(json.dumps([row['n'] for row in rows]))
    return [dict(row, square=row['n']**2) for row in rows]

def rank(rows): return [dict(row, rank=k) for k, row in enumerate(sorted(rows, key=lambda r: -r['n']))]

def load_model(): return dict(pid=os.getpid())
def with_model(rows, model): return [dict(row, same=model['pid'] == os.getpid()) for row in rows]
def cannot_load(): raise OSError("there are no weights here")

def threads(rows):
    import cv2
    return [dict(row, omp=os.environ['OMP_NUM_THREADS'], cv2=cv2.getNumThreads()) for row in rows]

def killed_once(rows, marker):
    "The first process that gets row 3 is killed from outside, as the system does when memory runs out"
    for row in rows:
        if row['n'] == 3 and not Path(marker).exists():
            Path(marker).write_text('')
            os.kill(os.getpid(), signal.SIGKILL)
    return rows

def write_files(rows, folder):
    for row in rows: Path(folder, f"{row['n']}.txt").write_text(str(row['n']))
    return [dict(row, path=str(Path(folder, f"{row['n']}.txt"))) for row in rows]

def loses(rows): return rows[1:]
def invents(rows): return [*rows, dict(path='x')]
def odd_value(rows): return [dict(row, what={1, 2}) for row in rows]

def chain(seconds=.02):
    return [DataStage('square', square, dict(seconds=seconds), batch=2), DataStage('parts', parts, batch=4),
            DataStage('few', threshold_rows, dict(column='square', high=300), filter=True, batch=8),
            DataStage('rank', rank, batch=0), DataStage('model', with_model, setup=load_model, batch=5)]

if __name__ == '__main__':
    import pipeline_stages
    run_pipeline([dict(n=n) for n in range(40)], pipeline_stages.chain(), sys.argv[1], 2, progress=False)
