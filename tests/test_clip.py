"What the page of the CLIP text encoder cannot show: no network, every layout, files that are not what they say"
import json, os, shutil, subprocess, sys
from pathlib import Path
import pytest, torch
from opensora_nb.text.clip import ClipText
from opensora_nb.text.encoders import T5Text
from opensora_nb.weights import read_state, save_state
from released_files import write_released

ROOT = Path(__file__).resolve().parent.parent
WORDS = ('boat', 'calm', 'sea', 'red')
TEXTS = ['a calm sea', 'Red  boat!', '', 'boat '*60]

def write_clip(folder, legacy_end=False):
    "A random CLIP of both halves, and the files of a byte-level tokenizer that knows a few merges"
    from transformers import CLIPConfig, CLIPModel
    marks = [chr(i) for i in range(33, 127)]
    pieces = [*marks, *(f'{c}</w>' for c in marks)]
    merges = [(w[:i], w[i] + '</w>'*(i == len(w) - 1)) for w in WORDS for i in range(1, len(w))]
    pieces = list(dict.fromkeys([*pieces, *map(''.join, merges), '<|startoftext|>', '<|endoftext|>']))
    folder.mkdir()
    (folder/'vocab.json').write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
    (folder/'merges.txt').write_text('\n'.join(['#version: 0.2', *map(' '.join, merges)]) + '\n')
    n = len(pieces)
    text = dict(vocab_size=n, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                eos_token_id=2 if legacy_end else n-1, bos_token_id=n-2)
    picture = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=picture, projection_dim=8)).save_pretrained(folder)
    return folder

def theirs(folder, texts):
    "What transformers makes of the same folder"
    from transformers import CLIPTextModel, CLIPTokenizer
    given = CLIPTokenizer.from_pretrained(folder)(texts, max_length=77, padding='max_length', truncation=True,
                                                  return_tensors='pt')
    with torch.no_grad(): return CLIPTextModel.from_pretrained(folder).eval()(given.input_ids).pooler_output

@pytest.fixture
def clip(tmp_path): return write_clip(tmp_path/'clip')

def same(got, want): return torch.allclose(got[:, 0, 0], want, atol=1e-6)

def test_features_are_those_of_transformers(clip):
    "From both halves in one .safetensors, from a .bin, and from the text half alone; long and empty texts too"
    want, state = theirs(clip, TEXTS), read_state(clip)
    y, mask = ClipText(clip).encode(TEXTS)
    assert same(y, want) and y.shape == (4, 1, 1, 32) and torch.equal(mask, torch.ones(4, 1, dtype=torch.int64))
    assert (want[0] - want[1]).norm() > 1
    (clip/'model.safetensors').unlink()
    ids = {'text_model.embeddings.position_ids': torch.arange(77)[None]} # in files of older transformers
    torch.save(state | ids, clip/'pytorch_model.bin')
    assert same(ClipText(clip).encode(TEXTS)[0], want)
    (clip/'pytorch_model.bin').unlink()
    bare = {k.removeprefix('text_model.'): v for k, v in state.items() if k.startswith('text_model.')}
    save_state(bare, clip/'model.safetensors')
    known = json.loads((clip/'config.json').read_text())['text_config']
    (clip/'config.json').write_text(json.dumps(known | dict(model_type='clip_text_model')))
    assert same(ClipText(clip).encode(TEXTS)[0], want)
    assert ClipText(clip, dtype=torch.bfloat16).encode(TEXTS)[0].dtype == torch.bfloat16

def test_an_older_file_calls_its_end_mark_two(tmp_path):
    "The published config.json says eos_token_id 2, which transformers reads as the highest id"
    folder = write_clip(tmp_path/'old', legacy_end=True)
    assert same(ClipText(folder).encode(TEXTS)[0], theirs(folder, TEXTS))

def test_the_mask_is_not_passed(clip):
    "With padding that is not the end mark the answer stays: nothing behind the end mark is seen"
    a, b = ClipText(clip), ClipText(clip)
    b.tokenizer.pad_token = 'a'
    assert (a.tokens(TEXTS).input_ids != b.tokens(TEXTS).input_ids).any()
    assert torch.allclose(a.encode(TEXTS)[0], b.encode(TEXTS)[0], atol=1e-6)

def test_t5_and_clip_are_told_apart(clip, tmp_path):
    "Each folder given to the other class is named by its type"
    write_released(tmp_path/'all')
    with pytest.raises(ValueError, match="of type 't5', not a CLIP text encoder"): ClipText(tmp_path/'all'/'t5')
    with pytest.raises(ValueError, match="of type 'clip', not a T5 encoder"): T5Text(clip)
    shutil.copy(tmp_path/'all'/'t5'/'model.safetensors', clip/'model.safetensors')
    with pytest.raises(ValueError, match="looks like a T5 text encoder"): ClipText(clip)

def test_what_is_missing_is_named(tmp_path, clip):
    "Without network or cache: what to download and how large it is; in a folder: which part"
    code = ("from opensora_nb.text.clip import ClipText\n"
            "try: ClipText()\n"
            "except FileNotFoundError as e: print('SAID', e)")
    env = dict(os.environ, PYTHONPATH=str(ROOT), HF_HOME=str(tmp_path), HF_HUB_OFFLINE='1')
    r = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, timeout=300)
    said = r.stdout.split('SAID')[1].strip()
    assert 'hf download openai/clip-vit-base-patch32` (0.61 GB)' in said and str(tmp_path) in said and '\n' not in said
    (clip/'merges.txt').unlink()
    with pytest.raises(FileNotFoundError, match='tokenizer.json or vocab.json and merges.txt'): ClipText(clip)

@pytest.mark.parametrize('change, said', [
    (dict(num_hidden_layers=3), 'num_hidden_layers 3, the weights have 2'), (dict(num_attention_heads=5), '5 heads'),
    (dict(hidden_size=64), 'of another shape'), (dict(hidden_act='relu'), 'quick_gelu'),
    (dict(vocab_size=10**9), 'vocab_size'), (dict(eos_token_id=3), 'do not belong together')])
def test_sizes_that_do_not_fit(clip, change, said):
    "A config.json that is not of these weights"
    known = json.loads((clip/'config.json').read_text())
    (clip/'config.json').write_text(json.dumps(known | dict(text_config=known['text_config'] | change)))
    with pytest.raises(ValueError, match=said): ClipText(clip)

def test_nothing_in_the_folder_runs(clip, tmp_path):
    "Code beside the weights is not imported, a pickle that calls something is not opened"
    class Evil:
        def __reduce__(self): return (Path.touch, (tmp_path/'ran',))
    asked = dict(auto_map=dict(AutoTokenizer=[None, 'evil.Evil']))
    (clip/'evil.py').write_text(f"from pathlib import Path\nPath({str(tmp_path/'ran')!r}).touch()\nclass Evil: pass\n")
    (clip/'tokenizer_config.json').write_text(json.dumps(asked))
    with pytest.raises(ValueError, match='auto_map'): ClipText(clip)
    (clip/'tokenizer_config.json').write_text(json.dumps(dict(tokenizer_class='Evil')))
    with pytest.raises(ValueError, match='Evil'): ClipText(clip)
    (clip/'tokenizer_config.json').unlink()
    (clip/'model.safetensors').unlink()
    torch.save(Evil(), clip/'pytorch_model.bin')
    with pytest.raises(ValueError, match='not run here'): ClipText(clip)
    assert not (tmp_path/'ran').exists()
