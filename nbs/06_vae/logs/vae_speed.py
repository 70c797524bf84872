"""Times the autoencoder of 1.2, plain and faster, in minutes on a core:
   python nbs/06_vae/logs/vae_speed.py [height width]"""
import json, sys
from pathlib import Path
import torch
from opensora_nb.blocks.compare import compare
from opensora_nb.core import torch_rng
from opensora_nb.vae.quick_vae import faster_vae
from opensora_nb.vae.video import VideoVAE, video_vae_v12

FRAMES = 17

def run(height=144, width=256):
    torch.manual_seed(0)
    vae, size = VideoVAE(video_vae_v12()).eval().requires_grad_(False), (height, width)
    z = torch.randn(1, vae.cfg.latent_channels, *vae.latent_size((FRAMES, *size)), generator=torch_rng(1))
    x = torch.rand(1, 3, FRAMES, *size, generator=torch_rng(2))*2 - 1
    rows = []
    for what, call in (('decode', lambda: vae.decode(z, FRAMES)), ('encode', lambda: vae.encode(x))):
        found = compare(None, lambda: faster_vae(vae), call, bf16=lambda: faster_vae(vae, 'bf16'))
        row = dict(what=what, frames=FRAMES, size=size) | found.as_row()
        for side, s in zip(row['sides'], found.sides): side['seconds_cpu'] = round(s.busy, 3)
        for side, name in zip(row['sides'], ('plain', 'exact', 'bf16')): side['name'] = name
        rows.append(row)
        Path(__file__).with_suffix('.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))
        print(found, flush=True)

if __name__ == '__main__': run(*map(int, sys.argv[1:]))
