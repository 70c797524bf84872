"""Measures a training step, plain and quick, in turn: python nbs/11_train/logs/quick_step.py; minutes of a core.

Lines of JSON are added to quick_step.jsonl, where older ones of the same kind should be taken out first.
"""
import json, os, tempfile, time
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
import torch, torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from opensora_nb.blocks.kernels import CPP, compile_cpp
from opensora_nb.blocks.products import packed_product
from opensora_nb.core import machine
from opensora_nb.models.stdit3 import STDiT3, STDiT3Config
from opensora_nb.parallel.quick_step import quick_text, quicken, unquicken
from opensora_nb.recipes.worlds_t2v import worlds_t2v
from opensora_nb.train.diffusion import TextToVideo
from opensora_nb.train.loop import Run, begin_step, make_accelerator, read_batch, step_batches, update_weights

LOG = Path(__file__).with_suffix('.jsonl')
FEATURES = tempfile.mkdtemp()

def task_of(**changes):
    "The second stage of the recipe for the embedded weights, about to begin, on 256 clips"
    cfg = worlds_t2v()[1]
    cfg = replace(cfg, init='', data=replace(cfg.data, n=256), out=tempfile.mkdtemp(), features=FEATURES, **changes)
    cfg = replace(cfg, preview_every=0, validate_on=0)
    acc = make_accelerator(cfg)
    run = Run(cfg, acc, cfg.make_task(acc.device))
    return run, *acc.prepare(run.model, run.opt)

def only_text(module): # packed captions alone
    module.text.forward = partial(quick_text, module.text)

SIDES = dict(plain=lambda m: m, text=only_text, quick=quicken)

def passes(run, model, opt, batch): # CPU seconds of forward and backward
    start = time.process_time()
    with run.acc.autocast(): loss, _ = run.task.loss(model, batch)
    run.acc.backward(loss)
    spent = time.process_time() - start
    opt.zero_grad()
    return spent

def saved_bytes(module, run): # what a forward pass keeps for the backward pass, weights aside
    seen = {}
    def keep(t):
        seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t): run()
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    return sum(n for at, n in seen.items() if at not in weights)

def profiled(run): # seconds by operation, scaled to CPU time; `run` returns its CPU seconds
    with profile(activities=[ProfilerActivity.CPU]) as prof: spent = run()
    ops = {}
    for r in prof.key_averages(): ops[r.key] = ops.get(r.key, 0) + r.self_cpu_time_total
    whole = sum(ops.values())
    return {k: round(s/whole*spent, 5) for k, s in sorted(ops.items(), key=lambda o: -o[1])[:40]}

def whole_step(run, model, opt): # CPU seconds by part
    marks = [time.process_time()]
    begin_step(run)
    batch = read_batch(run, step_batches(run)[0][0])
    marks.append(time.process_time())
    with run.acc.autocast(): loss, _ = run.task.loss(model, batch)
    run.acc.backward(loss)
    marks.append(time.process_time())
    run.logs = {}
    update_weights(run, model, opt, None)
    marks.append(time.process_time())
    run.ema.update(run.model, run.step)
    marks.append(time.process_time())
    return dict(zip(('data', 'passes', 'optimiser', 'average'), (b - a for a, b in zip(marks, marks[1:]))))

def first_pass(run, model, opt, batch): # of each side: what compiling costs, and what is kept
    for side, put in SIDES.items():
        put(run.model)
        start, wall = os.times(), time.time()
        passes(run, model, opt, batch)
        cpu = sum(os.times()[:4]) - sum(start[:4])
        yield dict(kind='memory', side=side, first_cpu=round(cpu, 1), first_wall=round(time.time() - wall, 1),
                   kept=saved_bytes(run.model, lambda: passes(run, model, opt, batch)))
        unquicken(run.model)

def in_turn(run, model, opt, batch, rounds): # seconds of passes and of whole steps, by side
    times, steps = defaultdict(list), defaultdict(list)
    for _ in range(rounds):
        for side, put in SIDES.items():
            put(run.model)
            times[side].append(round(passes(run, model, opt, batch), 4))
            if side != 'text':
                steps[side].append({k: round(v, 4) for k, v in whole_step(run, model, opt).items()})
            unquicken(run.model)
    return times, steps

def measure(rounds, **changes): # lines for the log
    run, model, opt = task_of(**changes)
    begin_step(run)
    batch = read_batch(run, step_batches(run)[0][0])
    info, here = machine(), dict(precision=run.acc.mixed_precision, threads=torch.get_num_threads())
    yield dict(kind='machine', cpu=info['cpu'], torch=info['torch'], load=round(os.getloadavg()[0], 1),
               batch=len(batch['x']), latent=list(batch['x'].shape[1:]), rounds=rounds) | here
    for row in first_pass(run, model, opt, batch): yield row | here
    times, steps = in_turn(run, model, opt, batch, rounds)
    for side, cpu in times.items(): yield dict(kind='passes', side=side, cpu=cpu) | here
    for side, parts in steps.items(): yield dict(kind='step', side=side, parts=parts) | here
    for side in ('plain', 'quick'):
        SIDES[side](run.model)
        yield dict(kind='profile', side=side, ops=profiled(lambda: passes(run, model, opt, batch))) | here
        unquicken(run.model)

def wide_task(): # width 384 and depth 6: two clips of 4x5x18x32, captions of 120 tokens
    model = STDiT3(replace(STDiT3Config(), hidden_size=384, depth=6))
    for p in model.parameters():
        if p.requires_grad: torch.nn.init.normal_(p, std=.02)
    size = dict(fps=torch.tensor([24.]), height=torch.tensor([144.]), width=torch.tensor([256.]))
    batch = dict(x=torch.randn(2, 4, 5, 18, 32), timestep=torch.tensor([900., 300.]), y=torch.randn(2, 1, 120, 4096))
    return TextToVideo(model).train(), batch | size

def wide_step(module, opt, batch, precision): # CPU seconds of forward, backward and AdamW
    start = time.process_time()
    with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bf16'): loss = module(**batch).square().mean()
    loss.backward()
    opt.step()
    opt.zero_grad()
    return time.process_time() - start

def measure_wide(rounds): # lines for the log
    module, batch = wide_task()
    def adamw(**how): return torch.optim.AdamW(module.parameters(), lr=1e-6, **how)
    opts, sides = dict(plain=adamw(), quick=adamw(fused=True)), dict(plain=unquicken, quick=quicken)
    for precision in ('no', 'bf16'):
        times, kept = defaultdict(list), {}
        for n in range(rounds + 1):
            for side, put in sides.items():
                put(module)
                if n: times[side].append(round(wide_step(module, opts[side], batch, precision), 4))
                else: kept[side] = saved_bytes(module, lambda: wide_step(module, opts[side], batch, precision))
        for s in sides: yield dict(kind='wide', side=s, cpu=times[s], kept=kept[s], precision=precision)
        ops = profiled(lambda: wide_step(module, opts['quick'], batch, precision))
        yield dict(kind='wide profile', side='quick', ops=ops, precision=precision)

def best_rate(flops, run, seconds=.5): # GFLOP per second of CPU time
    run()
    best, end = 1e9, time.process_time() + seconds
    while time.process_time() < end:
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return round(flops/best/1e9)

def rates_of(size, dtype): # of x (n, d) times w (out, d); `size` is n, d, out
    n, d, out = size
    x, w, dy = (torch.randn(*shape).to(dtype) for shape in ((n, d), (out, d), (n, out)))
    linear = torch.ops.mkldnn._linear_pointwise
    runs = dict(forward=lambda: F.linear(x, w), forward_onednn=lambda: linear(x, w, None, 'none', [], ''),
                forward_packed=lambda: packed_product(w, None)(x),
                input=lambda: dy @ w, input_onednn=lambda: linear(dy, w.t(), None, 'none', [], ''),
                weight=lambda: dy.t() @ x)
    with torch.inference_mode(): found = {k: best_rate(2*n*d*out, run) for k, run in runs.items()}
    return dict(kind='rate', format=str(dtype).split('.')[1], rows=n, c_in=d, c_out=out) | found

def measure_rates(): # lines for the log
    start, wall = os.times(), time.time()
    compile_cpp(''.join(CPP.values()), Path(tempfile.mkdtemp()))
    spent = sum(os.times()[:4]) - sum(start[:4])
    yield dict(kind='compile', cpu=round(spent, 1), wall=round(time.time() - wall, 1))
    for dtype in (torch.bfloat16, torch.float32):
        for size in ((5120, 192, 192), (5120, 192, 768), (5120, 768, 192), (2048, 2048, 2048)):
            yield rates_of(size, dtype)

if __name__ == '__main__':
    parts = *(measure(7, precision=p) for p in ('bf16', 'no')), measure_wide(5), measure_rates()
    for row in (row for part in parts for row in part):
        print(line := json.dumps(row), flush=True)
        with open(LOG, 'a') as f: f.write(line + '\n')
