"""Training runs with one fault each, planted by someone who had not read the rules of `osnb doctor`, and healthy runs.

Each function gets a path, makes the run `PATH/run` and returns it; toy latents lie beside PATH and are shared.
A finding has the right name if it contains one of the words that `FAULTS` gives for it, and means them."""
import csv, json, shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch
import numpy as np
import torch
from einops import rearrange
from opensora_nb.data.dataset import DataConfig, ToySource
from opensora_nb.data.transforms import to_float
from opensora_nb.data.video_io import write_video
from opensora_nb.flow import guidance, rflow
from opensora_nb.models.adapters import add_lora
from opensora_nb.models.stdit3 import STDiT3Block
from opensora_nb.recipes.shapes_t2v import shapes_t2v
from opensora_nb.text.encoders import TinyText
from opensora_nb.toy.levels import captions_of
from opensora_nb.train import diffusion, features, loop
from opensora_nb.train.checkpoint import EMA
from opensora_nb.train.diffusion import FlowLoss
from opensora_nb.train.optim import OptimConfig, lr_factor
from opensora_nb.vae.video import VideoVAE

ADAMW = OptimConfig(lr=2e-3, warmup=10)

def settings(folder, **changes):
    "A small run on 256 toy clips"
    quick, folder = shapes_t2v(True), Path(folder)
    model = replace(quick.model, hidden_size=96, depth=2)
    usual = dict(out=str(folder), name='run', features=str(folder.parent/'latents'), model=model, optim=ADAMW, steps=60,
                 batch_size=16, preview_every=0, validate_on=0, log_every=5, device='cpu')
    return replace(quick, **usual | changes)

def trained(folder, *changed, **changes):
    "The folder of a run, while some attributes are other ones: (owner, name, value)"
    with ExitStack() as stack:
        for owner, name, value in changed: stack.enter_context(patch.object(owner, name, value))
        return loop.train(settings(folder, **changes), progress=False).folder

def on_files(folder, change_clip=None, change_row=None, n=48, **changes):
    "A run on video files, with what some clips and the rows of the table become"
    source, files = ToySource(n), Path(folder)/'clips'
    files.mkdir(parents=True)
    rows = [(f'{i:04d}.mp4', source.texts(i)[0]) for i in range(n)]
    for i, (name, _) in enumerate(rows):
        clip = source.clip(i)
        write_video(files/name, change_clip(i, clip) if change_clip else clip)
    with open(files/'clips.csv', 'w', newline='') as f:
        csv.writer(f).writerows([('path', 'text'), *(change_row(rows) if change_row else rows)])
    return trained(folder, data=DataConfig(path=str(files/'clips.csv')), **changes)

def copied(folder):
    "A copy of one healthy run, which is trained when it is first asked for"
    base = Path(folder).parent/'base'
    if not (base/'run').exists(): trained(base)
    return Path(shutil.copytree(base/'run', Path(folder)/'run'))

def weights_of(run): return max((run/'checkpoints').iterdir())/'weights'

# settings

def hot(folder):
    "The learning rate is fifteen times too high and there is no warm-up, so the weights are thrown about."
    return trained(folder, optim=OptimConfig(lr=0.03, warmup=0))

def short(folder):
    "The warm-up is far longer than the run, so the learning rate never gets anywhere."
    return trained(folder, optim=OptimConfig(lr=2e-3, warmup=5000))

def regular(folder):
    "Decoupled weight decay is as strong as a decay that is not multiplied by the learning rate: weights go to zero."
    return trained(folder, optim=OptimConfig(lr=2e-3, warmup=10, weight_decay=50.))

def certain(folder):
    "No caption is ever dropped, so the null text was not trained, and sampling with guidance rests on it."
    return trained(folder, caption_drop=0., cfg_scale=7.)

# code

def _other_way(v, x, eps, t, mask=None, error=torch.square):
    def turned(*args): return -v(*args)
    return rflow.loss(turned, x, eps, t, mask, error)

def paper(folder):
    "The model learns eps - x, the sign of other papers, and the sampler walks along x - eps: the velocity is reversed."
    return trained(folder, (diffusion, 'flow_loss', _other_way))

def _unit_time(model, **cond):
    def asked(x, timestep, **more): return model(x, timestep/1000, **more)
    return guidance.as_velocity(asked, **cond)

def unit(folder):
    "In training the model is told timesteps in [0, 1], and when sampling those in [0, 1000] that it is made for."
    return trained(folder, (diffusion, 'as_velocity', _unit_time))

def _drawn(self, x, ids, epoch, size, counts, draw=FlowLoss.draw):
    return draw(self, x, range(len(ids)), [0]*len(ids), size, counts)

def repeat(folder):
    "The random seed is set anew before each step, so all batches get the same noise and the same diffusion times."
    return trained(folder, (FlowLoss, 'draw', _drawn))

def _nothing(*args, **how): pass

def keeper(folder):
    "zero_grad is never called: each step adds its gradients to those of all steps before."
    return trained(folder, (torch.optim.Optimizer, 'zero_grad', _nothing))

def shadow(folder):
    "The moving average (EMA) is never updated: what is exported and sampled from are the weights of the start."
    return trained(folder, (EMA, 'update', _nothing))

def apart(folder):
    "The features of the captions are detached, so the text encoder that should learn along gets no gradient."
    return trained(folder, (TinyText, 'forward', torch.no_grad()(TinyText.forward)))

def _four_times(step, steps, cfg): return lr_factor(4*step, steps, cfg)

def quicker(folder):
    "The scheduler is stepped once for each of four micro-batches, so the learning rate is at its end after a quarter."
    return trained(folder, (loop, 'lr_factor', _four_times), accumulate=4)

def _as_view(self, x, rope):
    b, f, s, d = x.shape
    if self.temporal: return self.attn(x.reshape(b*s, f, d), rope).reshape(b, f, s, d)
    return rearrange(self.attn(rearrange(x, 'b f s d -> (b f) s d')), '(b f) s d -> b f s d', b=b)

def reshaped(folder):
    "Temporal attention gets its rows by reshape without a transpose: it mixes neighbours in space, not frames in time."
    return trained(folder, (STDiT3Block, 'attend', _as_view))

def _first_batch(n, batch_size, step, seed, ids=loop.batch_ids): return ids(n, batch_size, 0, seed)

def debug(folder):
    "A line that was there to overfit one batch was left in: all steps train on the same 16 clips, with the same noise."
    return trained(folder, (loop, 'batch_ids', _first_batch))

def _beside(module, *args, **how):
    add_lora(module, *args, **how)
    for name, p in module.named_parameters():
        if 'lora_A' in name: torch.nn.init.zeros_(p)

def zeros(folder):
    "Both matrices of each LoRA pair start as zero, so no gradient ever reaches the adapter and it learns nothing."
    model = shapes_t2v(True).model
    return trained(folder, (diffusion, 'add_lora', _beside), init='tiny', model=model, lora=4, steps=30)

def again(folder):
    "The run was stopped half way and went on without the state of the optimiser: its moments began at zero again."
    steady = replace(ADAMW, decay='constant')
    trained(folder, optim=steady, steps=30)
    return trained(folder, (torch.optim.AdamW, 'load_state_dict', _nothing), optim=steady)

# data

def _lost(i, clip): return clip*0 if i % 3 == 0 else clip

def reader(folder):
    "The decoder failed for a third of the files and gave black frames, which were encoded as if they were clips."
    return on_files(folder, _lost)

def _first_frame(i, clip): return np.repeat(clip[:1], len(clip), 0)

def seek(folder):
    "Seeking in the videos failed, all frames of a clip are its first one: nothing moves, whatever the caption says."
    return on_files(folder, _first_frame)

def _next_text(self, i): return captions_of(self.scene((i + 1) % self.n))

def merged(folder):
    "The captions are off by one row: each clip has the caption of the next."
    return trained(folder, (ToySource, 'texts', _next_text))

def _one_text(rows): return [(name, 'a video') for name, _ in rows]

def column(folder):
    "The wrong column was taken for the captions: all clips have the same one."
    return on_files(folder, change_row=_one_text)

def _raw(self, x, sample=False, generator=None, noise=None):
    return self.encode_with_posterior(x, sample, generator, noise)[0]

def cached(folder):
    "The latents were stored without the shift and scale of the autoencoder, so they are not normalised."
    return trained(folder, (VideoVAE, 'encode', _raw), data=DataConfig(n=64), features=str(Path(folder)/'features'))

def _to_one(clips): return to_float(clips)/2 + 0.5

def pixels(folder):
    "The autoencoder got pixels in [0, 1] in place of [-1, 1], so all latents are those of pale clips."
    return trained(folder, (features, 'to_float', _to_one), data=DataConfig(n=64),
                   features=str(Path(folder)/'features'))

def generous(folder):
    "The validation clips are the training clips, so the validation loss says nothing of new ones."
    return on_files(folder, validate_path=str(Path(folder)/'clips'/'clips.csv'), validate_every=20)

# files

def edited(folder):
    "The exported pipeline says that noise was learned (ddpm), while the run learned a velocity (rflow)."
    run = copied(folder)
    file = weights_of(run)/'pipeline.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(schedule='ddpm')))
    return run

def full(folder):
    "The disk was full while a checkpoint was copied: ema.safetensors is cut off."
    run = copied(folder)
    file = weights_of(run).parent/'ema.safetensors'
    file.write_bytes(file.read_bytes()[:100_000])
    return run

def borrowed(folder):
    "The text encoder in the checkpoint is that of another run with another seed."
    run, other = copied(folder), trained(Path(folder)/'other', seed=7, steps=5)
    shutil.copy(weights_of(other)/'text'/'model.safetensors', weights_of(run)/'text'/'model.safetensors')
    return run

FAULTS = dict(
    hot=('learning rate', 'optim.lr'), short=('warm-up', 'warmup'), regular=('weight decay', 'weight_decay'),
    certain=('null text', 'drop', 'guidance'), paper=('velocity', 'sign'), unit=('timestep', 'diffusion time'),
    repeat=('noise', 'seed'), keeper=('zero_grad', 'zeroed', 'accumulat'), shadow=('EMA', 'average'),
    apart=('text encoder',), quicker=('learning rate', 'schedule'), reshaped=('temporal', 'frames'),
    debug=('same batch', 'overfit', 'memor', 'few clips'), zeros=('LoRA', 'adapter'), again=('optimi', 'moments'),
    reader=('black', 'blank', 'constant', 'same clip', 'duplicate', 'identical'), seek=('motion', 'move', 'still'),
    merged=('caption',), column=('caption',), cached=('normalis', 'scale', 'standard deviation'),
    pixels=('pixel', 'range', '[-1, 1]'), generous=('validation', 'held-out'), edited=('schedule', 'ddpm'),
    full=('ema.safetensors', 'cut off', 'bytes'), borrowed=('text',))

# healthy runs

def matrices(folder):
    "Muon, a narrow model, uniform times without a shift, a quick average."
    model = replace(shapes_t2v(True).model, hidden_size=64, depth=2)
    return trained(folder, model=model, optim=OptimConfig(name='muon', lr=3e-3, warmup=20), times='uniform',
                   shift=False, ema=0.9)

def further(folder):
    "The embedded weights trained a little further, gently, with some frames given."
    return trained(folder, init='tiny', model=shapes_t2v(True).model, optim=OptimConfig(lr=1e-4, warmup=5),
                   masks='v12_stage1', steps=20)

def adapter(folder):
    "A LoRA adapter beside the embedded weights."
    return trained(folder, init='tiny', model=shapes_t2v(True).model, lora=4, steps=30)

def stills(folder):
    "First frames alone, with large batches and another seed."
    return trained(folder, pictures=True, batch_size=32, seed=5)

def sizes(folder):
    "Clips and pictures of many sizes, the learning rate falling in a line."
    data = DataConfig(n=40, native=('35x96x96', '1x96x96'))
    return trained(folder, data=data, buckets='toy_mix', max_batch=4, optim=replace(ADAMW, decay='linear'), steps=40,
                   features=str(Path(folder)/'features'))

def noise(folder):
    "DDPM in place of rectified flow, stopped half way and gone on."
    trained(folder, schedule='ddpm', steps=30, optim=replace(ADAMW, decay='constant'))
    return trained(folder, schedule='ddpm', optim=replace(ADAMW, decay='constant'))

def files(folder):
    "Video files of one's own, and others to validate on."
    held_out = Path(folder)/'held_out'
    held_out.mkdir(parents=True)
    for i in range(8):
        write_video(held_out/f'{i}.mp4', ToySource(8, seed=1).clip(i))
        (held_out/f'{i}.txt').write_text(ToySource(8, seed=1).texts(i)[0])
    return on_files(folder, validate_path=str(held_out), validate_every=20)

HEALTHY = [matrices, further, adapter, stills, sizes, noise, files]
