"Each transformer of the family, small, with random weights, and one question that all of them answer."
from dataclasses import replace
import torch
from opensora_nb.core import torch_rng
from opensora_nb.models.dit import DiT, dit_tiny
from opensora_nb.models.latte import Latte, latte_tiny
from opensora_nb.models.pixart import PixArt, PixArtMS, pixart_ms_tiny, pixart_tiny
from opensora_nb.models.pixart_sigma import KVCompressConfig, PixArtSigma, pixart_sigma_tiny
from opensora_nb.models.stdit import STDiT, stdit_tiny
from opensora_nb.models.stdit2 import STDiT2, stdit2_tiny
from opensora_nb.models.stdit3 import STDiT3, stdit3_tiny
from opensora_nb.models.zoo import randomise

EVERY = dict(DiT=(DiT, dit_tiny), Latte=(Latte, latte_tiny), PixArt=(PixArt, pixart_tiny),
             PixArtMS=(PixArtMS, pixart_ms_tiny), PixArtSigma=(PixArtSigma, pixart_sigma_tiny),
             STDiT=(STDiT, stdit_tiny), STDiT2=(STDiT2, stdit2_tiny), STDiT3=(STDiT3, stdit3_tiny))
SMALL = dict(hidden_size=48, num_heads=2, depth=2)

def small(name, seed=0, **changes):
    "A model of the family by its name, in eval mode"
    cls, config = EVERY[name]
    changes = SMALL | changes
    if name == 'PixArtSigma': changes['kv_compress_config'] = KVCompressConfig('conv', 2, (1,))
    return randomise(cls(replace(config(), **changes)), seed).eval()

def question(model, seed=1):
    "Two latents, and two captions of different length where the model reads captions"
    g, cfg, l = torch_rng(seed), model.cfg, 7
    frames = getattr(cfg, 'input_size', (5, 8, 8))
    facts = {k: torch.tensor([v]) for k, v in dict(fps=8., height=64., width=64.).items()}
    vector = isinstance(model, DiT) # and Latte, which is one
    y = torch.randn(2, 1, 1 if vector else l, cfg.caption_channels, generator=g)
    mask = None if vector else torch.tensor([[1]*l, [1]*(l-3) + [0]*3])
    return dict(x=torch.randn(2, cfg.in_channels, *frames, generator=g), timestep=torch.tensor([100., 800.]), y=y,
                mask=mask, **facts)

def ask(model, seed=1):
    "The answer, without gradients"
    with torch.no_grad(): return model(**question(model, seed))
