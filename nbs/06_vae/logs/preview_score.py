"""Scores clips decoded in several ways: python nbs/06_vae/logs/preview_score.py tiny_4step [prompts] [dtype] [teacher]

Minutes on a core. dtype (fp32 or bf16) is that of the transformer; a teacher, such as tiny, makes the same prompts and
seeds in turn, as it does by default.
"""
import json, os, sys, time
from pathlib import Path
import numpy as np
from opensora_nb.core import fast_bf16, machine
from opensora_nb.data.dataset import DataConfig, open_data
from opensora_nb.metrics.recon import psnr
from opensora_nb.sample.pipeline import SampleConfig, decode_latents, generate, load_pipeline
from opensora_nb.toy.objects import score_world
from opensora_nb.weights import count_parameters

LEVEL, SEED, BATCH = dict(worlds='full'), 7000, 10

def clocked(fn):
    start = time.process_time()
    out = fn()
    return out, time.process_time() - start

def made_by_default(pipe, some, seeds): # clips, seconds of one to sample, to decode
    z, sampled = clocked(lambda: generate(pipe, some, SampleConfig(), seeds, decode=False))
    clips, decoded = clocked(lambda: decode_latents(pipe, z, pipe.defaults.num_frames))
    return clips, sampled/len(some), decoded/len(some)

def told_of(pipe, clips, spent, prompts, dtype): # a line of the log, without the teacher's
    right = {way: score_world(cs, prompts) for way, cs in clips.items()}
    told, near = machine(), [psnr(a, b) for a, b in zip(clips['preview'], clips['full'])]
    return dict(dtype=dtype, prompts=len(prompts), steps=pipe.defaults.num_sampling_steps,
                parameters=count_parameters(pipe.preview), psnr=round(float(np.mean(near)), 2),
                cpu_s={k: round(float(np.median(v)), 4) for k, v in spent.items()},
                strict={k: round(float(r.strict), 4) for k, r in right.items()},
                each={k: {a: round(float(v), 4) for a, v in r.accuracy.items()} for k, r in right.items()},
                cpu=told['cpu'], threads=told['threads'], torch=told['torch'], load=round(os.getloadavg()[0], 1))

def run(name, n=100, dtype='fp32', teacher=''):
    pipe, beside, spent_beside = load_pipeline(name, 'cpu'), [], []
    other = load_pipeline(teacher, 'cpu') if teacher else None
    if dtype == 'bf16': pipe.model.bfloat16()
    prompts = open_data(DataConfig(seed=2042, level=LEVEL.get(name, 'core'))).test_prompts(n)
    clips = {way: [] for way in ('full', 'bf16', 'preview', 'preview bf16') if 'bf16' not in way or fast_bf16()}
    spent = {way: [] for way in ('sample', *clips)}
    for i in range(0, n, BATCH): # in turn, so that a busy machine is busy for both
        some = prompts[i:i+BATCH]
        seeds = [SEED + k for k in range(i, i + len(some))]
        z, seconds = clocked(lambda: generate(pipe, some, SampleConfig(), seeds, decode=False))
        spent['sample'].append(seconds/len(some))
        for way in clips:
            pipe.vae_speed, look = dict(precision='bf16') if 'bf16' in way else None, 'preview' in way
            made, seconds = clocked(lambda: decode_latents(pipe, z, pipe.defaults.num_frames, look))
            clips[way] += made
            spent[way].append(seconds/len(some))
        if other:
            made, *seconds = made_by_default(other, some, seeds)
            beside += made
            spent_beside.append(seconds)
    row = dict(name=name) | told_of(pipe, clips, spent, prompts, dtype)
    if other:
        seconds = dict(zip(('sample', 'full'), np.median(spent_beside, axis=0).round(4).tolist()))
        row |= dict(teacher=teacher, teacher_cpu_s=seconds, teacher_strict=float(score_world(beside, prompts).strict))
    with open(Path(__file__).with_suffix('.jsonl'), 'a') as f: f.write(json.dumps(row) + '\n')
    print(row)

if __name__ == '__main__': run(sys.argv[1], *map(int, sys.argv[2:3]), *sys.argv[3:])
