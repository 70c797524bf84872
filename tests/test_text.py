"What the page of the text encoders cannot show: no network, broken folders, two processes, the toy grammar as a whole"
import os, subprocess, sys, warnings
from itertools import product
from pathlib import Path
import pytest, torch
from opensora_nb.toy.world import captions, draw_scene, words
from opensora_nb.text.encoders import T5Text, TinyText, TinyTextConfig, null_text, split_text, tiny_text

ROOT = Path(__file__).resolve().parent.parent

def python(code, **env):
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', **env)
    return subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, timeout=300)

def test_every_toy_caption_is_known_and_fits():
    enc = tiny_text(words())
    texts = []
    for i, level in product(range(100), ('core', 'full')): texts += captions(draw_scene(0, i, level, 'all'))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ids, mask = enc.tokenize(texts)
    assert not (ids == 2).any()
    assert mask.sum(1).max() <= enc.max_length
    assert (ids.gather(1, mask.sum(1, keepdim=True)-1) == 1).all()

def test_offline_t5_names_what_is_missing(tmp_path):
    code = ("from opensora_nb.text.encoders import T5Text\n"
            "try: T5Text()\n"
            "except FileNotFoundError as e: print('SAID', e)")
    r = python(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE='1')
    said = r.stdout.split('SAID')[1].strip()
    assert 'DeepFloyd/t5-v1_1-xxl' in said
    assert str(tmp_path) in said
    assert 'hf download DeepFloyd/t5-v1_1-xxl' in said
    assert '\n' not in said

def test_released_tokenizer_without_sentencepiece(tmp_path):
    from opensora_nb.core import has_package
    if has_package('sentencepiece') and has_package('protobuf'): pytest.skip('sentencepiece is installed')
    (tmp_path/'spiece.model').write_bytes(b'x')
    (tmp_path/'config.json').write_text('{"model_type": "t5"}')
    with pytest.raises(ImportError, match=r"pip install 'opensora_nb\[t5\]'"): T5Text(str(tmp_path))

def test_import_is_light():
    r = python(
        "import sys, opensora_nb.text.encoders\n"
        "print([m for m in ('transformers', 'tokenizers', 'accelerate', 'huggingface_hub') if m in sys.modules])")
    assert r.stdout.strip() == '[]', r.stdout + r.stderr

def test_two_processes_grow_alike():
    code = ("import torch\n"
            "from opensora_nb.text.encoders import tiny_text\n"
            "torch.manual_seed({})\n"
            "e = tiny_text(['a red circle'])\n"
            "e.grow([{}])\n"
            "print(e.cfg.words, e.token.weight[3:].sum(1).tolist())")
    assert python(code.format(1, "'zebra', 'ant'")).stdout == python(code.format(2, "'ant', 'zebra'")).stdout != ''

def test_growing_keeps_a_trained_encoder(tmp_path):
    enc = tiny_text(words(), dim=32, layers=2)
    with torch.no_grad(): [p.add_(torch.randn_like(p)*.1) for p in enc.parameters()]
    y, _ = enc.encode(['a red circle moves left'])
    enc.grow(['a knight casts a spell'])
    enc.save(tmp_path/'text')
    back = TinyText.load(tmp_path/'text')
    assert torch.equal(back.encode(['a red circle moves left'])[0], y) and back.cfg == enc.cfg
    assert back.encode(['a knight'])[0].requires_grad

@pytest.mark.parametrize('cfg, says', [
    (dict(words=('a', 'a')), '2 words, but only 1'),
    (dict(dim=30, heads=4),  '30 is not a multiple of 4'),
    (dict(max_length=1),     'use 2 or more'),
])
def test_bad_config(cfg, says):
    with pytest.raises(ValueError, match=says): TinyTextConfig(**cfg)

def test_train_and_eval_agree():
    "torch takes another road in eval mode without gradients"
    enc = tiny_text(words(), layers=2)
    texts = ['a red circle moves left', '红色', '']
    y = enc.train().encode(texts)[0]
    with torch.no_grad(): z = enc.eval().encode(texts)[0]
    assert (y - z).abs().max() < 1e-5 and z.isfinite().all()

def test_null_text_carries_gradient_and_shape():
    m = torch.nn.Module()
    m.y_embedder = torch.nn.Module()
    m.y_embedder.y_embedding = torch.nn.Parameter(torch.randn(7, 5))
    n = null_text(m, 3)
    assert n.shape == (3, 1, 7, 5) and torch.equal(n[2, 0], m.y_embedder.y_embedding)

@pytest.mark.parametrize('text, pieces', [
    ('ＲＥＤ　１２', ['red', '1', '2']),
    ('naïve_ü',      ['naïve', '_', 'ü']),
    ('3D红圆x2',     ['3', 'd', '红', '圆', 'x', '2']),
    ('score: 6.5.',  ['score', ':', '6', '.', '5']),
    ('。',           []),
    ('\t\n',         []),
])
def test_split(text, pieces): assert split_text(text) == pieces
