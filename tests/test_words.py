"The field's terms stand in a title, a subtitle or a heading of the page that explains them, so that people find it."
import json
import re
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [p for p in sorted([*(ROOT/'nbs').rglob('*.ipynb'), *(ROOT/'tutorials').rglob('*.ipynb')])
         if '.ipynb_checkpoints' not in p.parts]
TERMS = {
    'flow and sampling': ['rectified flow', 'flow matching', 'velocity prediction', 'Euler sampler',
                          'classifier-free guidance', 'guidance scale', 'negative prompt', 'timestep shift',
                          'logit-normal timestep sampling', 'noise schedule', 'DDPM', 'DDIM', 'DPM-Solver',
                          'image-to-video', 'video-to-video', 'SDEdit', 'frame conditioning'],
    'architecture': ['diffusion transformer', 'patch embedding', 'adaLN-zero', 'adaLN-single', 'self-attention',
                     'cross-attention', 'spatial-temporal attention', 'rotary position embedding',
                     'sinusoidal position embedding', 'QK normalisation', 'variational autoencoder',
                     'latent diffusion', 'KL divergence', 'causal 3-D convolution', 'tiled decoding',
                     'T5 text encoder', 'CLIP', 'null caption', 'LoRA'],
    'training': ['exponential moving average', 'mixed precision', 'gradient accumulation', 'activation checkpointing',
                 'gradient clipping', 'learning-rate warm-up', 'AdamW', 'Muon', 'stochastic depth', 'data parallelism',
                 'sharded training', 'sequence parallelism', 'all-to-all', 'aspect-ratio bucketing',
                 'multi-stage training', 'precomputed latents'],
    'evaluation': ['PSNR', 'SSIM', 'LPIPS', 'prompt following', 'compositional generalisation', 'memorisation',
                   'motion score', 'FVD', 'FID', 'optical flow', 'aesthetic score', 'validation loss', 'VBench']}
# Their pages are not built; this list only shrinks.
NOT_YET = []

def headings(page):
    "Title, subtitle and headings of a page"
    for cell in json.loads(page.read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] != 'markdown': continue
        for line in ''.join(cell['source']).splitlines():
            if re.match(r'(#{1,4}|>) ', line): yield line

HEADINGS = '\n'.join(line for page in PAGES for line in headings(page))

def stands(term): return re.search(rf'(?<!\w){re.escape(term)}s?(?!\w)', HEADINGS, 0 if term.isupper() else re.I)

@pytest.mark.parametrize('term', [t for terms in TERMS.values() for t in terms])
def test_a_term_is_found_in_a_heading(term):
    "Somebody who searches for the term finds the page"
    assert stands(term), f"no title, subtitle or heading names {term!r}"

@pytest.mark.parametrize('term', NOT_YET)
def test_the_list_of_missing_terms_only_shrinks(term):
    "A term whose page exists leaves the list"
    assert not stands(term), f"{term!r} has a page now; move it up"

GLOSSARY = ROOT/'nbs'/'00_start'/'07_glossary.ipynb'
ROWS = [(term, page) for cell in json.loads(GLOSSARY.read_text(encoding='utf-8'))['cells']
        for term, page in re.findall(r'^\| \*\*(.+?)\*\* \|.*\]\((\S+?)\) \|$', ''.join(cell['source']), re.M)]

@pytest.mark.parametrize('term,page', ROWS)
def test_the_glossary_leads_to_the_page_that_explains_the_term(term, page):
    "The first word of each row stands in a heading of the page it links to"
    first = re.split(r',| \(', term)[0]
    found = '\n'.join(headings(GLOSSARY.parent/page))
    assert re.search(rf'(?<!\w){re.escape(first)}s?(?!\w)', found, re.I), f"{page} has no heading with {first!r}"

def test_the_glossary_holds_the_terms():
    "Every term of the list above has a row, under its own name or in brackets behind another"
    rows = ' '.join(term for term, _ in ROWS).lower()
    missing = [t for terms in TERMS.values() for t in terms if t.lower() not in rows]
    assert not missing, f"the glossary lacks {missing}"
