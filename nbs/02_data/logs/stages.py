"""Clips a second of the stages of the recipe against plain loops over their libraries; writes stages.json.
   python nbs/02_data/logs/stages.py FOLDER     (FOLDER gets a few clips)"""
import json, os, statistics, sys, time
from itertools import islice
from pathlib import Path
import av, cv2, numpy as np, psutil, rapidocr, scenedetect as sd
from fastcore.basics import chunked
from opensora_nb.data.camera import camera_path
from opensora_nb.data.opensora import OpenSoraRecipe, recipe_stages
from opensora_nb.data.pipeline import Pool, StageCall, core_count
from opensora_nb.data.scenes import practice_clip
from opensora_nb.data.scores import FlowDis, flow_pairs, near_pairs
from opensora_nb.data.video_io import write_video

CLIPS, FRAMES, SIZE, FPS = 8, 48, (180, 320), 24
ROUNDS, WORKERS = 9, 2

# What one writes with a library, for one file; threads 1, or 0: as many as the library takes by itself

def cv_frames(path, threads):
    film = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads] if threads else [])
    while (read := film.read())[0]: yield read[1]

def loop_info(threads): # PyAV: rate, packets, and a frame, which says how it is turned; the header alone is often wrong
    def work(path):
        with av.open(path) as c:
            s = c.streams.video[0]
            s.thread_type = 'NONE' if threads else 'AUTO'
            first = next(c.decode(s))
            c.seek(0)
            return first.width, first.height, s.average_rate, sum(p.size > 0 for p in c.demux(s))
    return work

def loop_scenes(threads): # PySceneDetect, whose `detect` reads in a thread of its own
    def alone(path):
        found = sd.AdaptiveDetector()
        for i, frame in enumerate(cv_frames(path, 1)): found.process_frame(sd.FrameTimecode(i, fps=24.), frame)
    def work(path): sd.detect(path, sd.AdaptiveDetector())
    return alone if threads else work

def loop_cut(threads): # PyAV: decoded, and encoded at the same quality
    def work(path):
        with av.open(path) as film, av.open(f'{path}.loop.mp4', 'w') as clip:
            old = film.streams.video[0]
            how = {'x264-params': 'mbtree=0:threads=1'} if threads else {} # as `write_video`, or the library's way
            new = clip.add_stream('libx264', rate=FPS, options=dict(crf='18') | how)
            new.width, new.height, new.pix_fmt = old.width, old.height, 'yuv420p'
            old.thread_type = 'NONE' if threads else 'AUTO'
            for frame in film.decode(old):
                frame.pict_type = 0
                clip.mux(new.encode(frame))
            clip.mux(new.encode())
    return work

def loop_quality(threads): # OpenCV and NumPy, on the frames that `Quality` looks at
    at = {int(i) + k for i in np.linspace(0, FRAMES - 2, 8).round() for k in (0, 1)}
    def work(path):
        frames = [f for i, f in enumerate(cv_frames(path, threads)) if i in at]
        for f in frames:
            grey = cv2.cvtColor(f, cv2.COLOR_BGR2GRAY)
            cv2.Laplacian(grey, cv2.CV_64F).var(), grey.mean(), grey.std(), ((grey <= 2) | (grey >= 253)).mean()
        for a, b in zip(frames[::2], frames[1::2]): cv2.absdiff(a, b).mean()
        return np.max(frames, (0, 3)) # for the bars
    return work

def loop_flow(threads): # OpenCV, on the pairs of frames that `FlowDis` compares
    dis, at = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), FlowDis().at(FRAMES, FPS)
    def work(path):
        frames = {i: f for i, f in enumerate(cv_frames(path, threads)) if i in at}
        for pairs, size in ((flow_pairs(FRAMES), (576, 320)), (near_pairs(FRAMES, FPS), (569, 320))):
            grey = {i: cv2.cvtColor(cv2.resize(frames[i], size), cv2.COLOR_BGR2GRAY) for p in pairs for i in p}
            for i, j in pairs: np.abs(dis.calc(grey[i], grey[j], None)).mean()
    return work

def loop_ocr(threads): # RapidOCR, on the middle frame
    quiet = {'Global.log_level': 'critical', 'EngineConfig.onnxruntime.intra_op_num_threads': threads or -1,
             'Det.limit_type': 'max', 'Det.limit_side_len': 640}
    reader = rapidocr.RapidOCR(params=quiet)
    def work(path): reader(next(islice(cv_frames(path, threads), FRAMES//2, None)), use_cls=False)
    return work

def loop_camera(threads): # OpenCV, corners followed from every other frame to the next
    def work(path): camera_path(np.stack(list(islice(cv_frames(path, threads), 0, None, 2))))
    return work

LOOPS = dict(info=loop_info, scenes=loop_scenes, cut=loop_cut, quality=loop_quality, flow=loop_flow, ocr=loop_ocr,
             camera=loop_camera)

def loop(work, paths, threads):
    cv2.setNumThreads(threads or core_count())
    for path in paths: work(path)

def through(pool, stage, paths):
    for _ in pool.map(stage, [StageCall(p[0], [dict(path=q) for q in p]) for p in chunked(paths, stage.batch)]): pass

def processor(): # seconds of all cores, of this process and its workers
    me = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in (me, *me.children(True)))

def measure(stage, paths): # clips a second, the four ways in turn, so that what disturbs one disturbs all
    pools, loops = {1: Pool(1), WORKERS: Pool(WORKERS)}, {t: LOOPS[stage.name](t) for t in (1, 0)}
    ways = dict(pool=lambda p: through(pools[WORKERS], stage, p), one_worker=lambda p: through(pools[1], stage, p),
                library_one_thread=lambda p: loop(loops[1], p, 1), library_default=lambda p: loop(loops[0], p, 0))
    clock, cores = ({name: [] for name in ways} for _ in range(2))
    for work in ways.values(): work(paths[:2*WORKERS]) # workers start, models are loaded
    for _ in range(ROUNDS):
        for name, work in ways.items():
            for made in Path(paths[0]).parent.glob('*_clips/*'): made.unlink()
            for path in paths: os.utime(path) # nothing of it is known from the round before
            begin, used = time.perf_counter(), processor()
            work(paths)
            clock[name].append(time.perf_counter() - begin)
            cores[name].append(processor() - used)
    for pool in pools.values(): pool.close()
    n = len(paths)
    return {name: dict(median=round(n/statistics.median(clock[name]), 2), best=round(n/min(clock[name]), 2),
                       processor_ms=round(1000*statistics.median(cores[name])/n, 1)) for name in ways}

if __name__ == '__main__':
    folder = Path(sys.argv[1])
    paths = [str(folder/f'{i}.mp4') for i in range(CLIPS)]
    for i, path in enumerate(paths): write_video(path, practice_clip(i, FRAMES, SIZE, (1 + i % 3, 0)), fps=FPS)
    stages, _ = recipe_stages(OpenSoraRecipe(), str(folder/'some'), tuple(sys.argv[2:]) or tuple(LOOPS))
    load, speeds = [os.getloadavg()[0]], {s.name: measure(s, paths) for s in stages if s.name in LOOPS}
    log = dict(machine=f"{core_count()} cores", clips=f"{CLIPS} of {FRAMES} frames, {SIZE[0]}x{SIZE[1]}", rounds=ROUNDS,
               load=[round(x, 1) for x in (*load, os.getloadavg()[0])], speeds=speeds)
    if not sys.argv[2:]: # all of them
        Path(__file__).with_suffix('.json').write_text(json.dumps(log, indent=1) + '\n')
    print(json.dumps(log, indent=1))
