"""Samples with fused blocks beside plain ones: a line of JSON for each case, with processor and wall time.

Run from the repository, with the cases wanted:
python nbs/05_models/logs/fused_blocks.py lengths tiny student wide rounding
"""
import argparse, json, time
from functools import partial
from dataclasses import replace
from pathlib import Path
import numpy as np, torch, torch._dynamo
from einops import rearrange
from opensora_nb.blocks.attention import SelfAttention, attend
from opensora_nb.blocks.compare import compare, relative_error
from opensora_nb.blocks.kernels import fused_self
from opensora_nb.models.fast_inference import faster
from opensora_nb.models.fused_blocks import FixedRoPE
from opensora_nb.models.stdit3 import STDiT3, stdit3_xl2
from opensora_nb.models.zoo import randomise
from opensora_nb.sample.pipeline import generate, load_pipeline
from opensora_nb.sample.settings import SampleConfig
from opensora_nb.toy.world import test_prompts

LOG = Path(__file__).with_suffix('.jsonl')

def sampled(pipe, answer, **speed):
    "A function that answers with these settings"
    def run():
        before, pipe.speed = pipe.speed, speed
        try: return answer()
        finally: pipe.speed = before
    return run

def ways(use, kinds, compiled=False):
    "name -> what `use` makes of it; each kind of linear layers without and with fused blocks"
    out = {}
    for kind in kinds:
        out[kind] = use(linears=kind)
        out[f'{kind}, fused'] = use(linears=kind, fused=True)
        if compiled: out[f'{kind}, compiled'] = use(linears=kind, compiled=True)
    return out

def keep(case, sides, run, rounds, **about):
    "Measure and write a line"
    off, on, *rest = sides
    found = compare(sides[off], sides[on], run, rounds=rounds, **{n: sides[n] for n in rest})
    for side, name in zip(found.sides, sides): side.name = name
    print(case, about, found, sep='\n', flush=True)
    first = found.sides[0]
    def times(kind): # how many times as fast as the first, within each round
        return {s.name: round(float(np.median(np.divide(getattr(first, kind), getattr(s, kind)))), 3)
                for s in found.sides}
    by_cpu, by_wall = times('cpu'), times('wall')
    rows = [dict(name=s.name, cpu=round(s.busy, 5), times=by_cpu[s.name], wall_times=by_wall[s.name],
                 rms=float(f'{s.error_rms:.2g}'), largest=float(f'{s.error_max:.2g}'), ready=round(s.ready, 2))
            for s in found.sides]
    row = dict(date=time.strftime('%Y-%m-%d'), case=case, **about, rounds=rounds, load=found.load, **found.where)
    with LOG.open('a', encoding='utf-8') as f: f.write(json.dumps(row | dict(sides=rows)) + '\n')

def tiny(rounds):
    "The walk of the embedded weights with guidance, without the decoder; a model in float32 and one in bfloat16"
    for dtype in ('fp32', 'bf16'):
        pipe = load_pipeline('tiny', 'cpu', dtype)
        for b, steps in ((1, 30), (20, 10)):
            answer = partial(generate, pipe, test_prompts(b), SampleConfig(num_sampling_steps=steps), decode=False)
            kinds = ('exact', 'bf16') if dtype == 'fp32' and b == 1 else ('exact',)
            keep('tiny', ways(partial(sampled, pipe, answer), kinds), None, rounds if b > 1 else 3*rounds, dtype=dtype,
                 clips=b, steps=steps)

def student(rounds):
    "Prompts to pixels by the student of four steps"
    for dtype in ('fp32', 'bf16'):
        pipe = load_pipeline('tiny_4step', 'cpu', dtype)
        for b in (1, 10):
            def answer(): return np.stack(generate(pipe, test_prompts(b))).astype(np.float32)
            keep('student', ways(partial(sampled, pipe, answer), ('exact',)), None, rounds if b > 1 else 3*rounds,
                 dtype=dtype, clips=b, steps=4)

def wide(rounds):
    "One call of the released width, two pairs of blocks, 17 frames of 144 x 256 with guidance"
    torch._dynamo.config.recompile_limit = 64
    torch.manual_seed(0)
    cfg = replace(stdit3_xl2(), depth=2, class_dropout_prob=0.)
    mask = torch.zeros(1, 300)
    mask[:, :120] = 1
    ask = dict(x=torch.randn(2, 4, 5, 18, 32), timestep=torch.tensor([500., 500.]), y=torch.randn(2, 1, 300, 4096),
               mask=mask, fps=24, height=144, width=256)
    model = randomise(STDiT3(cfg)).eval().requires_grad_(False)
    keep('wide', ways(lambda **how: lambda: faster(model, **how), ('exact', 'bf16'), compiled=True),
         lambda: model(**ask), rounds, dtype='fp32', clips=1, steps=1)
    model = model.bfloat16()
    half = ask | {k: ask[k].bfloat16() for k in 'xy'}
    keep('wide', ways(lambda **how: lambda: faster(model, **how), ('packed',), compiled=True),
         lambda: model(**half), rounds, dtype='bf16', clips=1, steps=1)

def rounding(rounds):
    "How far plain and fused answers in float32 are from one in float64; one pair of blocks of the released width"
    torch.manual_seed(0)
    model = randomise(STDiT3(replace(stdit3_xl2(), depth=1, class_dropout_prob=0.))).eval().requires_grad_(False)
    ask = dict(x=torch.randn(2, 4, 5, 10, 16), timestep=torch.tensor([500., 500.]), y=torch.randn(2, 1, 40, 4096),
               fps=24, height=144, width=256)
    with torch.no_grad():
        plain = model(**ask)
        with faster(model, linears='plain', fused=True): fused = model(**ask)
        want = model.double()(**ask | {k: ask[k].double() for k in 'xy'})
    rms = dict(plain=relative_error(plain, want)[1], fused=relative_error(fused, want)[1])
    with LOG.open('a', encoding='utf-8') as f:
        f.write(json.dumps(dict(date=time.strftime('%Y-%m-%d'), case='rounding', rms=rms)) + '\n')
    print(rms)

def lengths(rounds):
    "Attention alone, about 1440 tokens of width 1152, 16 heads: the kernel, and the module without its two products"
    attn = randomise(SelfAttention(1152, 16, True)).eval().requires_grad_(False)
    gains, rows = torch.ones(2, 72), []
    for n in (5, 16, 48, 144, 360, 720, 1440):
        m = max(1, 1440//n)
        qkv, turn = torch.randn(m*n, 3*1152), FixedRoPE(72)
        turn.turns = {}
        turn = turn(n)
        def module():
            q, k, v = rearrange(qkv, '(b n) (c k e) -> c b k n e', n=n, c=3, k=16)
            return rearrange(attend(*attn.prepare(q, k, turn), v), 'b k n e -> (b n) (k e)')
        found = compare(module, lambda: fused_self(qkv, gains*torch.tensor([[72**-.5], [1.]]), turn.rows, (m, 1, n)),
                        rounds=2*rounds + 3)
        rows.append(dict(n=n, module=round(found['off'].busy*1e3, 3), kernel=round(found['on'].busy*1e3, 3)))
        print(rows[-1], flush=True)
    with LOG.open('a', encoding='utf-8') as f:
        f.write(json.dumps(dict(date=time.strftime('%Y-%m-%d'), case='lengths', rows=rows)) + '\n')

def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('cases', nargs='+', choices=['lengths', 'rounding', 'tiny', 'student', 'wide'])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for case in args.cases: globals()[case](args.rounds)

if __name__ == '__main__': main()
