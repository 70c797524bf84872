"""Memory of `run_jobs` by frames, a process for each row, in minutes on a core:
   python nbs/09_sample/logs/film_memory.py"""
import json, os, subprocess, sys, tempfile
from pathlib import Path
import torch
from opensora_nb.blocks.compare import peak_memory
from opensora_nb.core import machine
from opensora_nb.sample.jobs import plan_jobs, run_jobs
from opensora_nb.sample.pipeline import SampleConfig, load_pipeline, to_pixels
from opensora_nb.sample.settings import LongConfig

SIZE, FREED = (96, 96), dict(MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='65536') # freed is given back
ROWS = [(hold, loop) for hold in (False, True) for loop in (2, 5, 21)] # rounds of 17 frames that share one
ALONE = 17, 68, 340                                                    # frames of one round

def measure_whole(pipe, frames): # the decoder alone, all frames at once
    z = torch.zeros(1, 4, *pipe.vae.latent_size((frames, *SIZE)))
    with torch.inference_mode():
        pipe.vae.decode(z[:, :, :1, :2, :2], 1)
        return peak_memory(lambda: to_pixels(pipe.vae.decode(z, frames)[0]))[1]

def measure(hold, frames, loop): # in a process of its own; 0 rounds: see `measure_whole`
    pipe = load_pipeline('tiny', 'cpu')
    def make(frames, loop):
        cfg = SampleConfig(num_sampling_steps=1, num_frames=frames, image_size=SIZE)
        with tempfile.TemporaryDirectory() as folder:
            jobs = plan_jobs([(0, 'a red circle moves left')], folder)
            made = list(run_jobs(pipe, jobs, cfg, LongConfig(loop, 1), hold=hold))
            return [len(n) if hold else n for _, n in made]
    if loop:
        make(17, 2) # what is loaded once
        [n], peak = peak_memory(lambda: make(frames, loop))
    else: n, peak = frames, measure_whole(pipe, frames)
    print(json.dumps(dict(hold=hold, frames=n, rounds=loop, mib=round(peak/2**20, 1))))

def main():
    told = machine()
    rows, log = [{k: told[k] for k in ('cpu', 'torch')} | dict(size=SIZE)], Path(__file__).with_suffix('.jsonl')
    for hold, frames, loop in [(h, 17, n) for h, n in ROWS] + [(n == 0, f, n) for n in (1, 0) for f in ALONE]:
        line = [sys.executable, __file__, str(int(hold)), str(frames), str(loop)]
        said = subprocess.run(line, env=os.environ | FREED, stdout=subprocess.PIPE, text=True, check=True).stdout
        rows.append(json.loads(said.splitlines()[-1]))
        log.write_text(''.join(json.dumps(r) + '\n' for r in rows))

if __name__ == '__main__':
    if len(sys.argv) > 1: measure(sys.argv[1] == '1', *map(int, sys.argv[2:]))
    else: main()
