"""Distils the preview decoder of embedded weights: python nbs/06_vae/logs/preview.py tiny [clips] [steps]; minutes on a core."""
import json, sys, time
from pathlib import Path
import torch
from opensora_nb.core import assets, set_seed
from opensora_nb.data.dataset import DataConfig, open_data
from opensora_nb.metrics.recon import psnr
from opensora_nb.sample.pipeline import load_vae, to_pixels
from opensora_nb.vae.preview import PreviewConfig, PreviewDecoder, distil_preview, save_preview, teacher_pairs

LEVELS = dict(tiny='core:0.7,full:0.3', worlds='core:0.2,full:0.5,many:0.3')

def clips_of(name, n, split): # uint8 clips of the levels that the weights were trained on
    source = open_data(DataConfig(n=n, level=LEVELS[name], split=split))
    return [source.clip(i, 0) for i in range(n)]

def run(name, n=256, steps=600):
    set_seed(0)
    start, vae = time.process_time(), load_vae(name)
    z, shown = teacher_pairs(vae, clips_of(name, n, 'train'))
    taught = time.process_time()
    net = PreviewDecoder(PreviewConfig(latent_channels=vae.cfg.latent_channels))
    losses = distil_preview(net, z, shown, steps)
    z, shown = teacher_pairs(vae, clips_of(name, 24, 'test'))
    with torch.no_grad(): got = net.decode(z, 17)
    each = [psnr(to_pixels(a), b.permute(1, 2, 3, 0).numpy()) for a, b in zip(got, shown)]
    row = dict(name=name, clips=n, steps=steps, pairs_cpu_s=round(taught - start), train_cpu_s=round(time.process_time() - taught),
               psnr=round(float(torch.tensor(each).mean()), 2), losses=[round(v, 5) for v in losses[::10]])
    save_preview(net, assets(name)/'preview', meta={k: row[k] for k in ('clips', 'steps', 'psnr')})
    with open(Path(__file__).with_suffix('.jsonl'), 'a') as f: f.write(json.dumps(row) + '\n')
    print(name, row['psnr'], row['pairs_cpu_s'], row['train_cpu_s'])

if __name__ == '__main__': run(sys.argv[1], *map(int, sys.argv[2:]))
