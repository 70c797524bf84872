"""Memory of streaming decode, a process for each length: python nbs/06_vae/logs/stream.py; minutes on a core."""
import json, os, subprocess, sys, tempfile, time
from pathlib import Path
import torch
from opensora_nb.blocks.compare import peak_memory
from opensora_nb.core import machine, set_seed
from opensora_nb.sample.pipeline import Pipeline, stream_decode, to_pixels
from opensora_nb.sample.settings import ModelDefaults
from opensora_nb.vae.image import AutoencoderKLConfig
from opensora_nb.vae.video import TemporalVAEConfig, VideoVAE, VideoVAEConfig

SIZE, LENGTHS = (144, 256), dict(stream=(17, 34, 68, 136, 340), whole=(17, 68, 340))
FREED = dict(MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='65536') # what is freed is given back at once

def small_v12(): # the layout of 1.2, an eighth of its width
    return VideoVAE(VideoVAEConfig(vae_2d=AutoencoderKLConfig(block_out_channels=(16, 32, 64, 64), norm_num_groups=4),
                                   vae_temporal=TemporalVAEConfig(filters=16, num_groups=4))).eval()

def decode_whole(vae, z, frames): return to_pixels(vae.decode(z[None], frames)[0])

def measure(way, frames): # in a process of its own
    set_seed(0)
    vae = small_v12()
    pipe = Pipeline(vae, vae, None, ModelDefaults(num_frames=17))
    z = torch.randn(4, *vae.latent_size((frames, *SIZE)))
    with torch.inference_mode(): vae.decode(z[None, :, :1, :2, :2], 1)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        def run():
            if way == 'stream': return stream_decode(pipe, z, frames, Path(folder)/'clip.mp4')
            return decode_whole(vae, z, frames)
        start = time.process_time()
        _, peak = peak_memory(run)
    seconds = time.process_time() - start
    print(json.dumps(dict(way=way, frames=frames, mib=round(peak/2**20, 1), cpu_s=round(seconds, 1))))

def main():
    told = machine()
    about = {k: told[k] for k in ('cpu', 'threads', 'torch')}
    rows, log = [about | dict(load=round(os.getloadavg()[0], 1), size=SIZE)], Path(__file__).with_suffix('.jsonl')
    for way, frames in [(way, n) for way, ns in LENGTHS.items() for n in ns]:
        line = [sys.executable, __file__, way, str(frames)]
        said = subprocess.run(line, env=os.environ | FREED, stdout=subprocess.PIPE, text=True, check=True).stdout
        rows.append(json.loads(said.splitlines()[-1]))
        log.write_text(''.join(json.dumps(r) + '\n' for r in rows))

if __name__ == '__main__': measure(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 1 else main()
