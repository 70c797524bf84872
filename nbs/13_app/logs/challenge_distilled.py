"One step, learned from six: the model is fine-tuned on clips of its own"
import torch
from opensora_nb.data.dataset import DataConfig, open_data
from opensora_nb.sample.pipeline import SampleConfig, draw_noise, encode_prompts, finite_answer, latent_shape

def walk(velocity, x, steps):
    times = [1 - k/steps for k in range(steps + 1)]
    for t, after in zip(times, times[1:]): x = x + (t - after)*velocity(x, t)
    return x

def sample(velocity, noise, steps):
    "The model has learned to go straight, and needs no guidance"
    return walk(lambda x, t: velocity(x, t, 1.0), noise, steps)

def answer(pipe, text, guidance):
    cfg = SampleConfig(num_sampling_steps=6, cfg_scale=guidance).filled(pipe.defaults)
    v = finite_answer(pipe, cfg, *encode_prompts(pipe, text))
    return lambda x, t: v(x, torch.full((len(x),), float(t)) if isinstance(t, float) else t)

def tune(pipe, left):
    "Pairs of noise and the latent that six guided steps make of it; then straight lines between the two"
    captions = open_data(DataConfig(n=4096)).texts
    cfg, most, pairs = SampleConfig().filled(pipe.defaults), left(), []
    while left() > .55*most:
        at = 32*len(pairs)
        text = [captions(i % 4096)[0] for i in range(at, at + 32)]
        noise = draw_noise(latent_shape(pipe, cfg), list(range(at, at + 32)))
        with torch.inference_mode(): data = walk(answer(pipe, text, 2.), noise, 6)
        pairs.append((text, noise, data.clone()))
    optim = torch.optim.AdamW(pipe.model.parameters(), lr=1e-3, betas=(.9, .95))
    mean, steps = [p.detach().clone() for p in pipe.model.parameters()], 0
    begin = left()
    while left() > .02*most:
        text, noise, data = pairs[steps % len(pairs)]
        data = data.clone() # out of inference mode
        t = torch.where(torch.rand(32) < .5, torch.ones(32), torch.rand(32))
        way = t.view(-1, 1, 1, 1, 1)
        x = (1 - way)*data + way*noise
        loss = (answer(pipe, text, 1.)(x, t) - (data - noise)).square().mean()
        loss.backward()
        for g in optim.param_groups: g['lr'] = 1e-3*min(1, (steps + 1)/20)*max(.02, (left() - .02*most)/begin)
        optim.step()
        optim.zero_grad()
        steps += 1
        for m, p in zip(mean, pipe.model.parameters()): m.lerp_(p.detach(), .02)
    for m, p in zip(mean, pipe.model.parameters()): p.data.copy_(m)
    print(f"{32*len(pairs)} pairs, {steps} steps, loss {loss.item():.3f}")
