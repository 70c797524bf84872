"""Measures the forward pass of STDiT3-XL/2 in every way, in turn: a line of JSON for each depth.

Run from the repository on an otherwise idle machine, with the depths wanted:
python nbs/05_models/logs/forward_speed.py 4 28
"""
import argparse, json, time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
import torch, torch._dynamo
from opensora_nb.blocks.compare import compare
from opensora_nb.blocks.linears import LINEARS
from opensora_nb.blocks.products import PRODUCTS, product_speed, why_not
from opensora_nb.models.fast_inference import faster
from opensora_nb.models.stdit3 import STDiT3, stdit3_xl2
from opensora_nb.sample.forecast import stdit3_flops

LOG = Path(__file__).with_suffix('.jsonl')
ROWS, C_IN, C_OUT = 1440, 1152, 4608 # of the product that is the roof

def models(depth):
    "Random weights of the released width, filled everywhere; the same again in bfloat16"
    cfg = replace(stdit3_xl2(), depth=depth, class_dropout_prob=0.)
    torch.manual_seed(0)
    whole = STDiT3(cfg).eval().requires_grad_(False)
    for p in whole.parameters():
        if not p.any(): p.copy_(torch.randn_like(p)*.02)
    half = STDiT3(cfg).eval().requires_grad_(False)
    half.load_state_dict(whole.state_dict())
    return whole, half.to(torch.bfloat16)

def question():
    "Guidance for one clip of 17 x 144 x 256: two captions of 300 tokens, 120 of them not padding"
    mask = torch.zeros(1, 300)
    mask[:, :120] = 1
    return dict(x=torch.randn(2, 4, 5, 18, 32), timestep=torch.tensor([500., 500.]), y=torch.randn(2, 1, 300, 4096),
                mask=mask, fps=24, height=144, width=256)

def sides(depth, kinds):
    "name -> opens the context in which `answer` is asked"
    whole, half = models(depth)
    ask, at = question(), []
    @contextmanager
    def use(model, **how):
        with faster(model, **how):
            at[:] = [model, ask | {k: ask[k].to(model.final_layer.linear.weight.dtype) for k in 'xy'}]
            yield
    out = {'plain': lambda: use(whole, linears='plain', remember=False),
           'captions once': lambda: use(whole, linears='plain')}
    for kind in kinds:
        out[kind] = lambda kind=kind: use(whole, linears=kind)
        out[f'{kind}, compiled'] = lambda kind=kind: use(whole, linears=kind, compiled=True)
    if not why_not('bf16'):
        out['all bf16'] = lambda: use(half, linears='plain')
        out['all bf16, packed'] = lambda: use(half, linears='packed')
        out['all bf16, packed, compiled'] = lambda: use(half, linears='packed', compiled=True)
    return out, lambda: at[0](**at[1])

def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('depths', type=int, nargs='+', help='pairs of blocks')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--sides', nargs='+', default=[], help='only these, beside plain')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 64 # each kind of linear layers is a graph of its own
    kinds = [k for k in LINEARS if k != 'plain' and not any(map(why_not, LINEARS[k].ways))]
    for depth in args.depths:
        ways, answer = sides(depth, kinds)
        names = [n for n in ways if n == 'plain' or n in args.sides or not args.sides]
        result = compare(ways[names[0]], ways[names[1]], answer, rounds=args.rounds, **{n: ways[n] for n in names[2:]})
        print(result)
        row = result.as_row()
        for side, name in zip(row['sides'], names): side['name'] = name
        with torch.device('meta'):
            flops = sum(stdit3_flops(replace(stdit3_xl2(), depth=depth), 2, 5, 144, 120).values())
        rates = {w: round(product_speed(w, ROWS, C_IN, C_OUT, seconds=1.)) for w in PRODUCTS if not why_not(w)}
        row |= dict(date=time.strftime('%Y-%m-%d'), depth=depth, flops=flops, rates=rates)
        with LOG.open('a', encoding='utf-8') as f: f.write(json.dumps(row) + '\n')

if __name__ == '__main__': main()
