"Weights from anywhere: code in them never runs; odd sizes, NaN, broken settings are a sentence that names the file"
import ast, json, os, pickle, shutil, time, warnings
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile
import psutil, pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from huggingface_hub import constants
from opensora_nb.app.cli import inspect_weights, main
from opensora_nb.core import has_package
from opensora_nb.data.dataset import ToySource
from opensora_nb.models.adapters import add_lora, load_lora, save_lora
from opensora_nb.models.stdit3 import STDiT3, STDiT3Config
from opensora_nb.models.zoo import load_stdit3, randomise
from opensora_nb.sample.pipeline import ModelDefaults, Pipeline, weights_folder, load_pipeline, load_text
from opensora_nb.text.encoders import T5Text, tiny_text
from opensora_nb.train.features import Features, build_features
from opensora_nb.train.checkpoint import EMA, latest, load_checkpoint, save_checkpoint
from opensora_nb.train.vae import load_2d
from opensora_nb.vae.image import AutoencoderKLConfig
from opensora_nb.vae.perceptual import load_lpips
from opensora_nb.vae.released import load_released_vae
from opensora_nb.vae.video import TemporalVAEConfig, VideoVAE, VideoVAEConfig
from opensora_nb.weights import check_finite, load_into, read_saved, read_state, save_state
from released_files import write_released
from test_dataset import TinyVAE

PACKAGE = Path(weights_folder.__code__.co_filename).parent.parent
MODEL = STDiT3Config(input_sq_size=64, hidden_size=24, depth=2, num_heads=2, caption_channels=8, model_max_length=6)
VAE = VideoVAEConfig(vae_2d=AutoencoderKLConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4),
                     vae_temporal=TemporalVAEConfig(filters=8, num_res_blocks=1, num_groups=4))

@pytest.fixture(autouse=True)
def offline(monkeypatch): monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A folder of weights at toy size"
    torch.manual_seed(0)
    text = tiny_text(['a red circle moves left'], MODEL.caption_channels, MODEL.model_max_length, heads=2)
    folder = tmp_path_factory.mktemp('whole')
    Pipeline(randomise(VideoVAE(VAE)), randomise(STDiT3(MODEL)), text, ModelDefaults()).save(folder)
    return folder

@pytest.fixture
def weights(whole, tmp_path):
    "A copy that a test may spoil"
    return Path(shutil.copytree(whole, tmp_path/'weights'))

@pytest.fixture(scope='module')
def released(tmp_path_factory): return write_released(tmp_path_factory.mktemp('released'))

@pytest.fixture
def t5(released, tmp_path): return Path(shutil.copytree(released/'t5', tmp_path/'t5'))

def refuses(load, *names, seconds=2.):
    "One `ValueError` or `OSError` of one sentence that names the file, soon; returns it"
    start = time.process_time()
    with warnings.catch_warnings(), pytest.raises((ValueError, OSError)) as e:
        warnings.simplefilter('ignore')
        load()
    said, spent = str(e.value), time.process_time() - start
    assert spent < seconds, f"{spent:.1f} s of the processor for: {said}"
    for name in names: assert str(name) in said, said
    assert 20 < len(said) < 2000 and 'Traceback' not in said, said
    return said

# ---- code in files

class Payload:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.system, (f'touch {self.path}',)

def plant(path, marker, how='torch'):
    "A file that makes `marker` when it is unpickled"
    path.unlink(missing_ok=True)
    if how == 'torch':
        torch.save({'x_embedder.proj.bias': torch.ones(2), 'param_groups': [], 'state': Payload(marker)}, path)
    else: path.write_bytes(pickle.dumps(Payload(marker), protocol=2))

def test_the_payload_is_real(tmp_path):
    "Unpickled as torch did by default until 2.5, the planted file runs: the tests below would notice"
    loads = dict(torch=lambda p: torch.load(p, weights_only=False), bare=lambda p: pickle.loads(p.read_bytes()))
    for how, load in loads.items():
        plant(tmp_path/how, tmp_path/f'{how}.ran', how)
        load(tmp_path/how)
        assert (tmp_path/f'{how}.ran').exists()

PARTS = ['stdit3/model.safetensors', 'stdit3/config.json', 'vae/model.safetensors', 'vae/config.json',
         'text/model.safetensors', 'text/config.json', 'text/t5.json', 'pipeline.json']

@pytest.mark.parametrize('how', ['torch', 'bare'])
@pytest.mark.parametrize('part', PARTS)
def test_no_part_of_a_folder_of_weights_runs(weights, tmp_path, part, how):
    "osnb sample --weights FOLDER with a pickle in place of any file: an error that names it, and nothing has run"
    plant(weights/part, tmp_path/'ran', how)
    refuses(lambda: load_pipeline(weights, 'cpu'), weights/part)
    assert not (tmp_path/'ran').exists()

@pytest.mark.parametrize('ending', ['.pth', '.bin', '.ckpt'])
def test_no_pickle_beside_the_weights_runs(weights, tmp_path, ending):
    "Without the .safetensors file a pickle of the usual names is looked at, for released weights and a 2-D autoencoder"
    for part in ('stdit3', 'vae', 'text'):
        (weights/part/'model.safetensors').unlink()
        plant(weights/part/f'pytorch_model{ending}', tmp_path/'ran')
    refuses(lambda: load_pipeline(weights, 'cpu'), weights/'stdit3')
    refuses(lambda: load_stdit3(weights), 'not run here')
    refuses(lambda: load_released_vae(weights), 'not run here')
    refuses(lambda: load_2d(VideoVAE(VAE), str(weights/'vae'/f'pytorch_model{ending}')), 'not run here')
    assert not inspect_weights(weights/'vae') and not (tmp_path/'ran').exists()

def t5_says(folder, **options): # a folder text/ whose note asks for these options
    note = folder.parent/'text'/'t5.json'
    note.parent.mkdir(exist_ok=True)
    note.write_text(json.dumps(dict(name=str(folder), max_length=8) | options))
    return note

@pytest.mark.parametrize('options', [
    dict(weights_only=False), dict(weights_only=False, dtype='auto'), dict(trust_remote_code=True),
    dict(use_safetensors=False), dict(device_map='auto'), dict(device='cuda')])
def test_t5_note_passes_no_options_on(t5, tmp_path, options):
    "text/t5.json with options of transformers: the unknown one is named, and the pickle beside it is not opened"
    (t5/'model.safetensors').unlink()
    plant(t5/'pytorch_model.bin', tmp_path/'ran')
    note = t5_says(t5, **options)
    refuses(lambda: load_text(note.parent), note, f'no setting {list(options)[0]!r}')
    assert not (tmp_path/'ran').exists()

def test_t5_options_from_python_are_few():
    "T5Text takes where its parts lie and in how many bits, and nothing that opens files in another way"
    for odd in ('weights_only', 'trust_remote_code', 'use_safetensors', 'state_dict'):
        refuses(lambda odd=odd: T5Text('nowhere', **{odd: False}), odd)

EVIL = "from pathlib import Path\nPath({marker!r}).touch()\nclass Evil: pass\n"
def run_code(folder, marker): # a module beside the weights, and every file that could ask for it
    (folder/'evil.py').write_text(EVIL.format(marker=str(marker)))
    for name, key in (('config.json', 'AutoModel'), ('tokenizer_config.json', 'AutoTokenizer')):
        said = json.loads((folder/name).read_text())
        classes = {key: 'evil.Evil', 'AutoConfig': 'evil.Evil', 'AutoTokenizer': [None, 'evil.Evil']}
        (folder/name).write_text(json.dumps(said | dict(auto_map=classes)))

T5_FILES = ['model.safetensors', 'config.json', 'tokenizer.json', 'tokenizer_config.json']

@pytest.mark.parametrize('name', T5_FILES)
def test_no_file_of_a_t5_runs(t5, tmp_path, name):
    "A pickle in place of a file of the text encoder"
    plant(t5/name, tmp_path/'ran', 'bare')
    refuses(lambda: T5Text(t5), t5, seconds=5)
    assert not (tmp_path/'ran').exists()

def test_no_pickle_of_a_t5_runs(t5, tmp_path):
    "Only a .bin is there, plain or in shards; or files that transformers looks for lie beside good weights, left alone"
    good = T5Text(t5, 8).encode(['a calm sea'])[0]
    for name in ('.metadata', 'adapter_model.bin', 'training_args.bin', 'optimizer.pt'):
        plant(t5/name, tmp_path/'ran', 'bare')
    adapter = dict(peft_type='LORA', base_model_name_or_path=str(t5), r=1, target_modules=['q'])
    (t5/'adapter_config.json').write_text(json.dumps(adapter))
    assert torch.equal(T5Text(t5, 8).encode(['a calm sea'])[0], good)
    for name in ('model.safetensors', 'adapter_model.bin', 'training_args.bin', 'optimizer.pt'): (t5/name).unlink()
    plant(t5/'pytorch_model.bin', tmp_path/'ran')
    refuses(lambda: T5Text(t5), t5/'pytorch_model.bin', 'not run here')
    (t5/'pytorch_model.bin').rename(t5/'pytorch_model-00001-of-00001.bin')
    index = dict(weight_map={'shared.weight': 'pytorch_model-00001-of-00001.bin'})
    (t5/'pytorch_model.bin.index.json').write_text(json.dumps(index))
    refuses(lambda: T5Text(t5), 'pytorch_model-00001-of-00001.bin', 'not run here')
    assert not (tmp_path/'ran').exists()

def test_no_module_of_a_t5_runs(t5, tmp_path):
    "auto_map names a module in the folder; it is neither asked about nor imported"
    run_code(t5, tmp_path/'ran')
    refuses(lambda: T5Text(t5), t5/'tokenizer_config.json', 'auto_map')
    said = json.loads((t5/'tokenizer_config.json').read_text())
    kept = {k: v for k, v in said.items() if k != 'auto_map'}
    (t5/'tokenizer_config.json').write_text(json.dumps(kept | dict(tokenizer_class='Evil')))
    refuses(lambda: T5Text(t5), 'Evil')
    (t5/'tokenizer_config.json').unlink()
    assert T5Text(t5, 8).dim == 32 and not (tmp_path/'ran').exists()

def test_a_t5_as_before(t5):
    "Features are those of transformers' own loading, from .safetensors and from .bin"
    from transformers import AutoTokenizer, T5EncoderModel
    words = ['a calm sea', 'two birds']
    how = dict(max_length=8, padding='max_length', truncation=True, return_tensors='pt')
    given = AutoTokenizer.from_pretrained(t5)(words, **how)
    with torch.no_grad(): want = T5EncoderModel.from_pretrained(t5).eval()(**given).last_hidden_state
    assert torch.allclose(T5Text(t5, 8).encode(words)[0][:, 0], want, atol=1e-6)
    state = read_state(t5)
    (t5/'model.safetensors').unlink()
    torch.save(state | {'decoder.final_layer_norm.weight': torch.ones(32)}, t5/'pytorch_model.bin')
    assert torch.allclose(T5Text(t5, 8).encode(words)[0][:, 0], want, atol=1e-6)
    assert T5Text(t5, 8, dtype=torch.bfloat16).encode(words)[0].dtype == torch.bfloat16

needs_peft = pytest.mark.skipif(not has_package('peft'), reason="peft is not installed")

@needs_peft
@pytest.mark.parametrize('name', ['lora.safetensors', 'lora.json'])
def test_no_adapter_runs(tmp_path, name):
    "A pickle in place of a file of an adapter"
    save_lora(add_lora(randomise(STDiT3(MODEL)), 2), tmp_path/'lora')
    for how in ('torch', 'bare'):
        plant(tmp_path/'lora'/name, tmp_path/'ran', how)
        refuses(lambda: load_lora(randomise(STDiT3(MODEL)), tmp_path/'lora'), tmp_path/'lora'/name)
    assert not (tmp_path/'ran').exists()

@pytest.mark.parametrize('name', ['vgg.pth', 'vgg16-397923af.pth'])
def test_no_lpips_runs(tmp_path, name):
    "A pickle in place of a file of the perceptual distance"
    for f in ('vgg.pth', 'vgg16-397923af.pth'): torch.save(dict(a=torch.ones(1)), tmp_path/f)
    plant(tmp_path/name, tmp_path/'ran')
    refuses(lambda: load_lpips(tmp_path), name, 'not run here')
    assert not (tmp_path/'ran').exists()

def saved_run(folder):
    model = torch.nn.Linear(3, 2)
    opt = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    opt.step()
    save_checkpoint(folder, 1, model, EMA(model), opt)
    return latest(folder)

def resume(at):
    model = torch.nn.Linear(3, 2)
    return load_checkpoint(at, model, EMA(model), torch.optim.AdamW(model.parameters()))

@pytest.mark.parametrize('name', ['optim.pt', 'model.safetensors', 'ema.safetensors'])
def test_no_checkpoint_runs(tmp_path, name):
    "A pickle in place of the optimiser's state or the weights of a run that goes on"
    at = saved_run(tmp_path/'run')
    assert resume(at)['step'] == 1
    for how in ('torch', 'bare'):
        plant(at/name, tmp_path/'ran', how)
        refuses(lambda: resume(at), at/name)
    (at/name).write_bytes(b'')
    refuses(lambda: resume(at), at/name)
    assert not (tmp_path/'ran').exists()

def test_no_features_run(tmp_path):
    "A pickle in place of every file of the store of latents, in turn: named or made anew, and nothing has run"
    def build(): return build_features(ToySource(2, image_size=(16, 16)), TinyVAE(), tmp_path/'store', progress=False)
    want = Features(build()).latents
    kept = {file: file.read_bytes() for file in build().rglob('*') if file.is_file()}
    assert len(kept) >= 3                              # what it is, latents, captions
    for file, raw in kept.items():
        for how in ('torch', 'bare'):
            plant(file, tmp_path/'ran', how)
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                try: assert torch.equal(Features(build()).latents, want)
                except (ValueError, OSError) as e: assert str(file.parent) in str(e), str(e)
            assert not (tmp_path/'ran').exists(), file
            file.write_bytes(raw)

def calls(tree): # (dotted name, keywords) of every call
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}

def test_nothing_in_the_package_unpickles():
    "In the whole package one line opens pickles, for arrays only; what processes of one run send is their own"
    seen = []
    for file in sorted(PACKAGE.rglob('*.py')):
        for name, given in calls(ast.parse(file.read_text(encoding='utf-8'))):
            where = f'{file.relative_to(PACKAGE).as_posix()}: {name}'
            assert given.get('trust_remote_code', 'False') == 'False', where
            assert given.get('weights_only', 'True') == 'True' and given.get('allow_pickle', 'False') == 'False', where
            if name == 'torch.load': seen.append((where, given.get('weights_only')))
            if name in ('np.load', 'numpy.load'): assert given.get('allow_pickle') == 'False', where
            words = name.split('.')
            if words[0] in ('pickle', 'yaml', 'dill', 'joblib', 'marshal') and words[-1].startswith('load'):
                assert where.startswith('parallel/comm.py'), where
            if name in ('eval', 'exec', 'AutoModel.from_pretrained'): assert False, where
    assert seen == [('weights.py: torch.load', 'True')]

# ---- sizes before memory

def zipped(state, path, squeeze): # a .pth whose zip is compressed
    torch.save(state, path.with_suffix('.plain'))
    with ZipFile(path.with_suffix('.plain')) as plain, ZipFile(path, 'w', squeeze) as out:
        for entry in plain.infolist(): out.writestr(entry.filename, plain.read(entry))
    path.with_suffix('.plain').unlink()
    return path

def test_a_compressed_pth_is_not_unpacked(tmp_path):
    "200 MB of zeros in 200 KB: both sizes are said, and no memory is taken"
    bomb = zipped({'x_embedder.proj.bias': torch.zeros(50_000_000)}, tmp_path/'bomb.pth', ZIP_DEFLATED)
    assert bomb.stat().st_size < 300_000
    before = psutil.Process().memory_info().rss
    for load in (read_state, load_stdit3, load_released_vae, read_saved, lambda p: read_state(p, lazy=True)):
        said = refuses(lambda load=load: load(bomb), bomb, seconds=1)
        assert f'{bomb.stat().st_size:,} bytes would become 200,' in said
    assert psutil.Process().memory_info().rss - before < 100e6 and not inspect_weights(bomb)
    torch.save(dict(a=torch.ones(3)), tmp_path/'fine.pth')
    assert read_state(tmp_path/'fine.pth')['a'].tolist() == [1, 1, 1]

def test_a_file_larger_than_the_memory(tmp_path, monkeypatch):
    "A pickle is read whole; where it cannot fit, both sizes are said"
    torch.save(dict(a=torch.ones(1000)), tmp_path/'w.pth')
    free = psutil.virtual_memory()._replace(available=3000)
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: free)
    assert 'of memory are free here' in refuses(lambda: read_state(tmp_path/'w.pth'), tmp_path/'w.pth')
    assert len(read_state(tmp_path/'w.pth', lazy=True)) == 1

HOLLOW = dict(
    meta=lambda: torch.empty(10**12, device='meta'),
    stretched=lambda: torch.zeros(1).expand(10**12),
    sparse=lambda: torch.sparse_coo_tensor(
        torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (10**6, 10**6), check_invariants=True),
    many=lambda: torch.zeros(4096),
)

@pytest.mark.parametrize('what', HOLLOW)
def test_arrays_that_the_file_does_not_hold(tmp_path, what):
    "A terabyte named in a kilobyte: shapes without numbers, one number spread out, sparse, one array of many names"
    array = HOLLOW[what]()
    torch.save({f'a{i}': array for i in range(100 if what == 'many' else 1)}, tmp_path/'w.pth')
    refuses(lambda: read_state(tmp_path/'w.pth'), tmp_path/'w.pth', seconds=1)

@pytest.mark.parametrize('header', [
    dict(w=dict(dtype='F32', shape=[10**12], data_offsets=[0, 4*10**12])),
    dict(w=dict(dtype='F32', shape=[2**62, 2**62], data_offsets=[0, 4])),
    dict(w=dict(dtype='F32', shape=[10**9], data_offsets=[0, 4])),
    dict(w=dict(dtype='X', shape=[1], data_offsets=[0, 4])),
    [],
    None,
])
def test_absurd_safetensors(tmp_path, header):
    "A header that claims terabytes, or more than numbers can say"
    raw = json.dumps(header).encode()
    for length in (len(raw), 2**60):
        (tmp_path/'w.safetensors').write_bytes(length.to_bytes(8, 'little') + raw + bytes(4))
        refuses(lambda: read_state(tmp_path/'w.safetensors'), tmp_path/'w.safetensors', seconds=1)

# ---- settings

def change(path, **new): # fields of a JSON file; a dotted name reaches inside
    said = json.loads(path.read_text())
    for k, v in new.items():
        *heads, last = k.split('.')
        inner = said
        for h in heads: inner = inner[h]
        inner[last] = v
    path.write_text(json.dumps(said))

HUGE = [
    ('stdit3/config.json', {'depth': 10**9}),
    ('stdit3/config.json', {'depth': 900}),
    ('stdit3/config.json', {'hidden_size': 2**19}),
    ('stdit3/config.json', {'mlp_ratio': 1e5}),
    ('stdit3/config.json', {'mlp_ratio': float('nan')}),
    ('stdit3/config.json', {'caption_channels': 10**15}),
    ('stdit3/config.json', {'model_max_length': 2**20}),
    ('stdit3/config.json', {'num_heads': 0}),
    ('stdit3/config.json', {'patch_size': [1, 10**6, 10**6]}),
    ('text/config.json',   {'layers': 10**9}),
    ('text/config.json',   {'layers': 900}),
    ('text/config.json',   {'dim': 2**20}),
    ('text/config.json',   {'max_length': 2**20}),
    ('text/config.json',   {'heads': 0}),
    ('text/config.json',   {'words': [str(i) for i in range(10**5)]}),
    ('vae/config.json',    {'vae_2d.layers_per_block': 10**9}),
    ('vae/config.json',    {'vae_2d.block_out_channels': [2**20]*4}),
    ('vae/config.json',    {'vae_2d.norm_num_groups': 0}),
    ('vae/config.json',    {'vae_temporal.filters': 2**20}),
    ('vae/config.json',    {'vae_temporal.num_res_blocks': 900}),
    ('vae/config.json',    {'scaling_factor': 0}),
    ('vae/config.json',    {'vae_2d.block_out_channels': []}),
    ('pipeline.json',      {'num_sampling_steps': 10**12}),
    ('pipeline.json',      {'image_size': [10**9, 64]}),
    ('pipeline.json',      {'cfg_scale': float('nan')}),
]

@pytest.mark.parametrize('part, new', HUGE, ids=lambda v: v if isinstance(v, str) else ','.join(v))
def test_sizes_are_compared_with_the_weights(weights, part, new):
    "osnb sample --weights with a config.json of a billion layers: the file is named, nothing of that size is built"
    change(weights/part, **new)
    said = refuses(lambda: load_pipeline(weights, 'cpu'), (weights/part).parent)
    assert list(new)[0].split('.')[-1] in said, said
    assert '\n' not in said

CONTENTS = {
    'null':               'holds null',
    '':                   'not JSON',
    '{':                  'not JSON',
    '[]':                 'holds a list',
    '"x"':                'holds a text',
    '3':                  'holds a number',
    'true':               'holds true or false',
    '\xff\xfe':           'not JSON',
    '{"depth": 2, }':     'not JSON',
    '['*100_000:          'not JSON',
    '{"a": '*100_000:     'not JSON',
    '{"hidden_sise": 4}': 'no setting',
}

@pytest.mark.parametrize('content', CONTENTS, ids=lambda c: c[:12])
def test_what_is_no_configuration(weights, content):
    "null, a brace, a list … in place of each file of settings: one sentence that names it, before weights are opened"
    for part in ('stdit3/config.json', 'vae/config.json', 'text/config.json', 'pipeline.json', 'text/t5.json'):
        kept = (weights/part).read_bytes() if (weights/part).exists() else None
        (weights/part).write_bytes(content.encode('latin-1'))
        said = refuses(lambda: load_pipeline(weights, 'cpu'), weights/part, seconds=1)
        assert CONTENTS[content] in said and '\n' not in said, said
        (weights/part).unlink() if kept is None else (weights/part).write_bytes(kept)
    load_pipeline(weights, 'cpu')
    (weights/'stdit3'/'config.json').write_bytes(content.encode('latin-1'))
    if 'no setting' not in CONTENTS[content]:
        refuses(lambda: load_stdit3(weights), weights/'stdit3'/'config.json', seconds=1)

@needs_peft
@pytest.mark.parametrize('content', [
    *list(CONTENTS)[:6],
    '{"rank": 2}',
    '{"rank": 0, "alpha": 1, "layers": []}',
    '{"rank": 2, "alpha": 1, "layers": ["attn.qkv"], "model": 3}',
    '{"rank": 1000000000, "alpha": 1, "layers": ["attn.qkv"], "model": {}}',
    '{"rank": 2, "alpha": 1, "layers": ["nothing"], "model": {}}',
    '{"rank": "x", "alpha": 1, "layers": ["attn.qkv"], "model": {}}',
])
def test_what_is_no_adapter(tmp_path, content):
    "The same for lora.json"
    save_lora(add_lora(randomise(STDiT3(MODEL)), 2), tmp_path/'lora')
    (tmp_path/'lora'/'lora.json').write_text(content)
    refuses(lambda: load_lora(randomise(STDiT3(MODEL)), tmp_path/'lora'), tmp_path/'lora')

@pytest.mark.parametrize('new', [
    dict(num_layers=10**9),
    dict(num_layers=900),
    dict(d_model=2**20),
    dict(num_heads=0),
    dict(feed_forward_proj='evil'),
    dict(vocab_size='many'),
    dict(d_ff=None),
    dict(layer_norm_epsilon=float('nan')),
], ids=lambda d: f'{list(d)[0]}={list(d.values())[0]}')
def test_sizes_of_a_t5(t5, new):
    "The same for the config.json of a T5; what T5 does not need of it is not read"
    change(t5/'config.json', **new)
    refuses(lambda: T5Text(t5), t5)
    change(t5/'config.json', **dict(num_layers=2, d_model=32, num_heads=4, feed_forward_proj='gated-gelu',
                                    vocab_size=len(T5Words(t5)), d_ff=64, layer_norm_epsilon=1e-6,
                                    quantization_config={'quant_method': 'none'}, _attn_implementation='a/b'))
    assert T5Text(t5, 8).dim == 32

def T5Words(folder): return read_state(folder)['shared.weight'] # a row for each piece

ODD = st.one_of(st.none(), st.booleans(), st.integers(-2, 2**70), st.floats(), st.text(max_size=6),
                st.lists(st.integers(-1, 2**40), max_size=5),
                st.dictionaries(st.text(max_size=4), st.integers(), max_size=2))
CONFIG_2D, CONFIG_TIME = AutoencoderKLConfig.__dataclass_fields__, TemporalVAEConfig.__dataclass_fields__
FIELDS = [
    ('stdit3/config.json', list(STDiT3Config.__dataclass_fields__)),
    ('text/config.json',   ['words', 'dim', 'max_length', 'layers', 'heads']),
    ('pipeline.json',      list(ModelDefaults.__dataclass_fields__)),
    ('vae/config.json',    [*VideoVAEConfig.__dataclass_fields__, *(f'vae_2d.{k}' for k in CONFIG_2D),
                            *(f'vae_temporal.{k}' for k in CONFIG_TIME)]),
]

@settings(max_examples=100, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzz_settings(whole, data):
    "Any value in any field of any file of settings: the weights load, or one sentence says why not, soon"
    part, names = data.draw(st.sampled_from(FIELDS))
    name, value = data.draw(st.sampled_from(names)), data.draw(ODD)
    kept = (whole/part).read_text()
    try:
        change(whole/part, **{name: value})
        start = time.process_time()
        try: load_pipeline(whole, 'cpu')
        except (ValueError, OSError) as e: assert str(whole) in str(e) and '\n' not in str(e), str(e)
        assert time.process_time() - start < 2
    finally: (whole/part).write_text(kept)

# ---- NaN

def spoil(path, value=float('nan'), name=None):
    "One number of a file of weights becomes NaN; returns the array"
    state = read_state(path)
    name = name or next(k for k, v in state.items() if v.is_floating_point() and v.ndim > 1)
    state[name] = state[name].clone()
    state[name].view(-1)[-1] = value
    save_state(state, path)
    return name

@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('part', ['stdit3', 'vae', 'text'])
def test_nan_is_named_at_once(weights, capsys, part, value):
    "One NaN made a black clip, exit 0; now the file, the array and the count are said, by sample and by doctor"
    file = weights/part/'model.safetensors'
    name = spoil(file, value)
    assert '1 of its' in refuses(lambda: load_pipeline(weights, 'cpu'), file, f'{name} holds NaN or infinity')
    assert not inspect_weights(weights/part)
    said = capsys.readouterr().out
    assert f'does not load: {file.parent}' in said and 'NaN or infinity' in said and 'it loads' not in said

@pytest.fixture
def quick(monkeypatch): # the self-check of `osnb doctor` has tests of its own
    monkeypatch.setattr('opensora_nb.models.zoo.check_stdit3_layouts', lambda folder: {})
    monkeypatch.setattr('opensora_nb.vae.released.check_vae_layouts', lambda folder: {})

def test_doctor_does_not_say_that_nan_loads(weights, quick, capsys):
    "osnb doctor FOLDER and osnb doctor FILE"
    spoil(weights/'stdit3'/'model.safetensors')
    shutil.copy(weights/'stdit3'/'model.safetensors', weights.parent/'only.safetensors')
    for path in (weights, weights.parent/'only.safetensors'):
        assert main(['doctor', str(path)]) == 1
        assert 'NaN or infinity' in capsys.readouterr().out

def test_nan_in_other_files(tmp_path, released, t5):
    "Released layouts, PixArt, T5, averages of a run"
    for part, load in (('stdit3', load_stdit3), ('vae', load_released_vae)):
        folder = Path(shutil.copytree(released/part, tmp_path/part))
        names = {'stdit3': 't_block.1.weight', 'vae': 'spatial_vae.module.quant_conv.weight'}
        spoil(folder/'model.safetensors', name=names[part])
        refuses(lambda load=load, folder=folder: load(folder), folder, 'NaN or infinity')
    spoil(t5/'model.safetensors')
    refuses(lambda: T5Text(t5), t5/'model.safetensors', 'NaN or infinity')
    at = saved_run(tmp_path/'run')
    spoil(at/'ema.safetensors')
    refuses(lambda: resume(at), at/'ema.safetensors', 'NaN or infinity')

@needs_peft
def test_nan_in_an_adapter(tmp_path):
    save_lora(add_lora(randomise(STDiT3(MODEL)), 2), tmp_path/'lora')
    spoil(tmp_path/'lora'/'lora.safetensors')
    refuses(lambda: load_lora(randomise(STDiT3(MODEL)), tmp_path/'lora'), tmp_path/'lora'/'lora.safetensors',
            'NaN or infinity')

def test_large_numbers_are_no_nan():
    """The sum of many large numbers overflows, and none of them is infinite: such weights load; so do formats of 8 and
    16 bits, whole numbers, empty arrays and shapes"""
    large = torch.full((1000,), 3e38)
    check_finite(dict(a=large, b=torch.cat([large, -large]), c=torch.ones(3).to(torch.float8_e4m3fn),
                      d=torch.full((9,), 6e4).half(), e=torch.arange(3), f=torch.zeros(0),
                      g=torch.ones(2, device='meta')))
    model = torch.nn.Linear(1000, 1)
    load_into(model, dict(weight=large[None], bias=torch.zeros(1)))
    assert model.weight[0, 0] == 3e38
    refuses(lambda: check_finite(dict(a=large, c=torch.tensor([1, float('nan')]).to(torch.float8_e4m3fn)), 'a/file'),
            'a/file: c holds NaN or infinity (1 of its 2 numbers)')

def test_refused_weights_change_nothing():
    "A model keeps what it had"
    model = torch.nn.Linear(2, 1)
    before = model.weight.detach().clone()
    refuses(lambda: load_into(model, dict(weight=torch.tensor([[1., float('nan')]]), bias=torch.zeros(1))),
            'weight holds NaN')
    assert torch.equal(model.weight, before)

# ---- doctor on odd files

def odd_files(weights, folder):
    "Files that are called weights"
    folder.mkdir()
    whole = (weights/'stdit3'/'model.safetensors').read_bytes()
    pth = folder/'good.pth'
    torch.save(read_state(weights/'stdit3'), pth)
    put = dict(empty=b'', text=b'not found', zeros=bytes(5000), half=whole[:len(whole)//2], head=whole[:100],
               turned=whole[::-1], page=b'<!DOCTYPE html><html></html>',
               lfs=b'version https://git-lfs.github.com/spec/v1\n')
    for name, raw in put.items():
        for ending in ('.safetensors', '.pth'): (folder/f'{name}{ending}').write_bytes(raw)
    raw = pth.read_bytes()
    for share in (.01, .3, .9, .999): (folder/f'cut{share}.pth').write_bytes(raw[:int(share*len(raw))])
    (folder/'middle.pth').write_bytes(raw[:1000] + bytes(len(raw)-2000) + raw[-1000:])
    (folder/'json.pth').write_text('{"a": 1}')
    for name, what in dict(list=[1, 2], number=3, none=None, nested=dict(a=dict(b=1)), other=dict(weight=torch.ones(2)),
                           t5={'encoder.block.0.layer.0.SelfAttention.q.weight': torch.ones(2)}).items():
        torch.save(what, folder/f'{name}.ckpt')
    save_state({'spatial_blocks.0.attn.qkv.weight': torch.ones(2, 2), 'temporal_blocks.0.x': torch.ones(1)},
               folder/'part.safetensors')
    pth.unlink()
    return sorted(folder.iterdir())

def test_doctor_on_odd_files(weights, quick, tmp_path, capsys):
    "Cut, zeroed, empty, text, another model's: never 'it loads', always a sentence with the file, no traceback"
    files = odd_files(weights, tmp_path/'odd')
    assert len(files) >= 28
    for file in files:
        start = time.process_time()
        assert inspect_weights(file) is False, file
        assert time.process_time() - start < 2
        said = capsys.readouterr().out
        assert all(l.strip() != 'it loads' for l in said.splitlines()) and 'Traceback' not in said
        assert str(file) in said or 'no class of this kit loads it' in said, said
    assert main(['doctor', str(tmp_path/'odd'/'zeros.pth')]) == 1

def test_doctor_looks_at_every_part(weights, quick, capsys):
    "A vocabulary that is not that of the weights, a note that is no JSON"
    assert main(['doctor', str(weights)]) == 0
    said = capsys.readouterr().out
    assert said.count('it loads') == 3 and 'it knows' in said
    (weights/'pipeline.json').write_text('{')
    assert main(['doctor', str(weights)]) == 1 and str(weights/'pipeline.json') in capsys.readouterr().out
    change(weights/'text'/'config.json', words=['one'])
    assert main(['doctor', str(weights)]) == 1 and 'words 1, the weights have' in capsys.readouterr().out
