"""Measures step reuse and fewer steps on STDiT3 as wide as XL/2, with random weights: a line for each and caption.

Four pairs of blocks, one clip of 17 x 144 x 256 (latent 4 x 5 x 18 x 32) with guidance, 300 text tokens, products in
bfloat16 on all sides. Time and the error of the latent at the end, no clips: weights that were never trained have none.
Run from the repository with one thread (OMP_NUM_THREADS=1): python nbs/09_sample/logs/reuse_wide.py [steps]
"""
import json, sys, time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
import torch
from opensora_nb.blocks.meter import on_meta
from opensora_nb.core import machine, torch_rng
from opensora_nb.models.stdit3 import STDiT3, stdit3_xl2
from opensora_nb.sample.pipeline import ModelDefaults, Pipeline, SampleConfig, generate
from opensora_nb.sample.step_reuse import calibrate_reuse, enable
from opensora_nb.vae.video import VideoVAE, VideoVAEConfig

LOG, DEPTH, CAPTIONS = Path(__file__).with_suffix('.jsonl'), 4, 3

WAYS = {'all steps': None, 'first-block': {}, 'magnitude': {}, 'tea': {}, 'easy': {}, 'easy order=1': dict(order=1),
        'broadcast': {}, 'taylor': {}, 'guidance-every': {}, '8 steps': None, '6 steps': None}

class RandomText:
    "Captions of 120 tokens, padded to 300; a number names one"
    name = 'random'
    def encode(self, texts):
        y = torch.stack([torch.randn(1, 300, 4096, generator=torch_rng(int(t))) for t in texts])
        mask = torch.zeros(len(texts), 300, dtype=torch.long)
        mask[:, :120] = 1
        return y, mask
    def to(self, *_): return self

def wide_pipeline():
    "Random weights, filled everywhere; the autoencoder only says how large a latent is"
    torch.manual_seed(0)
    model = STDiT3(replace(stdit3_xl2(), depth=DEPTH, class_dropout_prob=0.)).eval().requires_grad_(False)
    for p in model.parameters():
        if not p.any(): p.copy_(torch.randn_like(p)*.02)
    defaults = ModelDefaults(image_size=(144, 256), fps=24, cfg_scale=7., base_pix=512*512)
    return Pipeline(on_meta(VideoVAE, VideoVAEConfig()), model, RandomText(), defaults, speed=dict(linears='bf16'))

def timed(pipe, caption, cfg, table, way):
    "The latent at the end, CPU seconds, calls reused"
    name, more, steps = way.split()[0], WAYS[way], cfg.num_sampling_steps
    if name.isdigit(): cfg = replace(cfg, num_sampling_steps=int(name))
    with nullcontext() if more is None else enable(pipe, name, table=table, steps=steps, **more) as count:
        start = time.process_time()
        z = generate(pipe, [caption], cfg, [int(caption)], decode=False)
        seconds = time.process_time() - start
    return z, seconds, count.reused if count else 0

def main(steps=10):
    rows = [*map(json.loads, LOG.read_text().splitlines())] if LOG.exists() else []
    here, (pipe, cfg) = machine(), (wide_pipeline(), SampleConfig(num_sampling_steps=steps))
    told = dict(processor=here['cpu'], torch=here['torch'], threads=here['threads'])
    table = calibrate_reuse(pipe, ['100'], steps) # a caption of its own
    for caption in range(CAPTIONS):
        idle = {r['way'] for r in rows if not r['reused'] and WAYS[r['way']] is not None} # not asked again
        done = {r['way'] for r in rows if r['caption'] == caption}
        todo = [w for w in WAYS if w not in idle | done]
        for way in ['all steps']*bool(todo) + [w for w in todo if w != 'all steps']: # all anew beside the others
            z, seconds, reused = timed(pipe, str(caption), cfg, table, way)
            if way == 'all steps': whole, base = z, seconds
            error = ((z - whole).std()/whole.std()).item()
            row = dict(way=way, caption=caption, steps=steps, depth=DEPTH, cpu=round(seconds, 2), base=round(base, 2),
                       reused=reused, error_rms=float(f'{error:.3g}'), **told)
            if way in done: continue
            rows.append(row)
            with LOG.open('a') as f: f.write(json.dumps(row) + '\n')
            print(row, flush=True)

if __name__ == '__main__': main(*map(int, sys.argv[1:]))
