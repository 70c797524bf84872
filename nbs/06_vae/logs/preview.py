"""Distils the preview decoder of embedded weights, in minutes on a core:
   python nbs/06_vae/logs/preview.py tiny CLIPS SAMPLED STEPS [FOLDER] [SMALLER]

The lesson has latents of clips and latents that a student of the weights sampled (0: none); the latter are what the
decoder will see. It goes into FOLDER, by default the one beside the weights, and grows from the SMALLER one.
"""
import json, sys, time
from contextlib import nullcontext
from pathlib import Path
import torch
from opensora_nb.core import assets, fast_bf16, machine, set_seed
from opensora_nb.data.dataset import DataConfig, open_data
from opensora_nb.metrics.recon import psnr
from opensora_nb.sample.pipeline import generate, load_pipeline, load_vae, to_pixels
from opensora_nb.vae.preview import (PreviewConfig, PreviewDecoder, distil_preview, grow_preview, load_preview,
                                     save_preview, teacher_pairs, teacher_shows)
from opensora_nb.vae.quick_vae import faster_vae
from opensora_nb.weights import count_parameters

LEVELS = dict(tiny='core:0.5,full:0.5', worlds='core:0.2,full:0.5,many:0.3')
SIZES = dict(tiny=dict(width=96, frame_width=48, more=2), worlds={})
LESSON = dict(tiny=dict(batch_size=4, lr=1.5e-3), worlds={})
STUDENTS, SAMPLED, SEED, BATCH = dict(tiny='tiny_4step'), 11, 90_000, 32

def clips_of(name, n, split): # uint8 clips of the levels that the weights were trained on
    source = open_data(DataConfig(n=n, level=LEVELS[name], split=split, seed=12 if split == 'train' else 42))
    return [source.clip(i, 0) for i in range(n)]

def sampled_by(name, n): # latents of prompts of training
    student, source = load_pipeline(name, 'cpu'), open_data(DataConfig(n=n, seed=SAMPLED))
    if fast_bf16(): student.model.bfloat16()
    texts = [source.texts(i)[0] for i in range(n)]
    made = [generate(student, texts[i:i+BATCH], seeds=[*range(SEED + i, SEED + min(i + BATCH, n))], decode=False)
            for i in range(0, n, BATCH)]
    return torch.cat(made).float().clone()

def lesson_of(name, vae, clips, sampled): # latents, what the full decoder shows
    with faster_vae(vae, 'bf16') if fast_bf16() else nullcontext():
        z, shown = teacher_pairs(vae, clips_of(name, clips, 'train'))
        if not sampled: return z, shown
        made = sampled_by(STUDENTS[name], sampled)
        return torch.cat([made, z]), torch.cat([teacher_shows(vae, made, 17), shown])

@torch.no_grad()
def nearness(net, z, shown): # mean PSNR in dB to what the full decoder shows
    each = [psnr(to_pixels(a), b.permute(1, 2, 3, 0).numpy()) for a, b in zip(net.decode(z, 17), shown)]
    return round(float(torch.tensor(each).mean()), 2)

def run(name, clips=384, sampled=0, steps=600, folder=None, smaller=None, progress=range):
    set_seed(0)
    start, vae, more = time.process_time(), load_vae(name), {}
    z, shown = lesson_of(name, vae, clips, sampled)
    taught, cfg = time.process_time(), PreviewConfig(latent_channels=vae.cfg.latent_channels, **SIZES[name])
    small = load_preview(smaller) if smaller else None
    if small: more = dict(grown_from=count_parameters(small))
    net = grow_preview(small, cfg) if small else PreviewDecoder(cfg)
    losses = distil_preview(net, z, shown, steps, **LESSON[name], progress=progress)
    learned = time.process_time()
    z, shown = teacher_pairs(vae, clips_of(name, 24, 'test'))
    if small: more |= dict(smaller_psnr=nearness(small, z, shown))
    row = dict(name=name, clips=clips, sampled=sampled, steps=steps, parameters=count_parameters(net),
               pairs_cpu_s=round(taught - start), train_cpu_s=round(learned - taught),
               psnr=nearness(net, z, shown), **more, cpu=machine()['cpu'], losses=[round(v, 5) for v in losses[::10]])
    save_preview(net, folder or assets(name)/'preview', meta={k: row[k] for k in ('clips', 'sampled', 'steps', 'psnr')})
    with open(Path(__file__).with_suffix('.jsonl'), 'a') as f: f.write(json.dumps(row) + '\n')
    print({k: v for k, v in row.items() if k != 'losses'})

if __name__ == '__main__': run(sys.argv[1], *map(int, sys.argv[2:5]), *sys.argv[5:])
