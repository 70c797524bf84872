"""Speed at the released sizes, within ten minutes of one GPU: `python tests/gpu/measure.py speed.json`"""
import argparse
from opensora_nb.metrics.gpu import measure_gpu

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument('out', help="a JSON file; what is in it is not measured again")
parser.add_argument('--device', default='', help="cuda, cuda:1 or cpu (toy sizes); default: a GPU where there is one")
parser.add_argument('--seconds', type=float, default=600, help="after which no further case begins (default: 600)")
args = parser.parse_args()
measure_gpu(args.out, device=args.device, seconds=args.seconds)
