"Released weights: official names and shapes, every layout, hub addresses offline, goldens, broken and hostile files"
import json, os, pickle
from pathlib import Path
import pytest, torch
import huggingface_hub
from huggingface_hub import constants
from hypothesis import HealthCheck, example, given, settings, strategies as st
from safetensors.torch import load_file, save_file
from opensora_nb.app.cli import main
from opensora_nb.config import from_dict
from opensora_nb.models.stdit3 import STDiT3, STDiT3Config, stdit3_3b2, stdit3_xl2
from opensora_nb.models.zoo import (ZOO, check_stdit3_layouts, fit_text_length, load_stdit3, randomise,
                                    stdit3_config_from_state)
from opensora_nb.vae.image import AutoencoderKLConfig
from opensora_nb.vae.released import check_vae_layouts, load_released_vae
from opensora_nb.vae.video import TemporalVAEConfig, VideoVAE, VideoVAEConfig, video_vae_v12
from opensora_nb.weights import (compare_keys, describe, fetch, find_weights, kind_of, read_state, save_pretrained,
                                 write_layouts)

GOLDENS = Path(__file__).parent/'goldens'
DATA, SPEC = load_file(GOLDENS/'stdit3_cases.safetensors'), json.loads((GOLDENS/'stdit3_cases.json').read_text())
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

@pytest.fixture(autouse=True)
def offline(monkeypatch): monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)

CFG = STDiT3Config(input_sq_size=64, hidden_size=24, depth=2, num_heads=2, caption_channels=8, model_max_length=6)
GROUPS = {'vae_2d.norm_num_groups': 4, 'vae_temporal.num_groups': 4}
def toy(cfg=CFG): return randomise(STDiT3(cfg))
def toy_vae():
    cfg_2d = AutoencoderKLConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4)
    cfg_time = TemporalVAEConfig(filters=8, num_res_blocks=1, num_groups=4)
    return randomise(VideoVAE(VideoVAEConfig(vae_2d=cfg_2d, vae_temporal=cfg_time)))
def same(a, b): return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)

# the official sizes, without their memory

def thin(model):
    "The state dict of a model on the meta device as real arrays that share one number"
    state = {k: torch.zeros(()).expand(v.shape) for k, v in model.state_dict().items()}
    if 'rope.freqs' in state: state['rope.freqs'] = 10000**(-torch.arange(0, 72, 2).float()/72)
    return state

@pytest.mark.parametrize('preset, numbers', [(stdit3_xl2, 1_207_643_972), (stdit3_3b2, 3_182_211_572)])
def test_official_transformer(preset, numbers):
    with torch.device('meta'): hollow = STDiT3(preset())
    state = thin(hollow)
    assert len(state) == 973 and compare_keys(hollow, state).ok
    model = load_stdit3(state)
    assert model.cfg == preset() and sum(p.numel() for p in model.parameters()) == numbers
    # nothing was copied
    arrays = {v.data_ptr(): v for v in model.state_dict().values()}
    assert sum(v.untyped_storage().nbytes() for v in arrays.values()) < 5000
    more = {'pos_embed.inv_freq': torch.ones(288), 'rope.dummy': torch.ones(1)}
    assert len(load_stdit3(state | more).state_dict()) == 973

OLD = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
def aged(state):
    out = {}
    for k, v in state.items():
        for new, old in OLD.items(): k = k.replace(f'.{new}.', f'.{old}.')
        out[k] = v[:, :, None, None] if '.attentions.' in k and v.ndim == 2 else v
    assert set(out) != set(state)
    return out

@pytest.mark.parametrize('names', [dict, aged])
@pytest.mark.parametrize('scalars', [False, True])
def test_official_autoencoder(names, scalars):
    with torch.device('meta'): hollow = VideoVAE(video_vae_v12())
    state = names(thin(hollow))
    cfg = video_vae_v12()
    if scalars: state |= {'scale': torch.tensor(1.), 'shift': torch.tensor(0.)}
    else: state |= {k: torch.tensor(getattr(cfg, k))[None, :, None, None, None] for k in ('scale', 'shift')}
    assert len(state) == 517
    model = load_released_vae(state)
    assert sum(p.numel() for p in model.parameters()) == 393_341_007 and len(model.state_dict()) == 517
    assert model.scale.shape == (1, 4, 1, 1, 1)
    if not scalars: assert model.cfg == video_vae_v12()
    model.normalise_by(torch.randn(2, 4, 3, 2, 2))      # the constants have memory of their own

def test_zoo_prints():
    for how in (repr(ZOO), ZOO._repr_markdown_()):
        assert 'STDiT3-XL/2' in how and 'hpcai-tech/OpenSora-STDiT-v3' in how and '4.84' in how

# layouts

def test_every_layout(tmp_path):
    a, b = check_stdit3_layouts(tmp_path/'a'), check_vae_layouts(tmp_path/'b')
    assert len(a) == len(b) == 10 and not any(a.values()) and not any(b.values()), (a, b)

def test_layouts_hold_what_they_say(tmp_path):
    "Each is another format: indices, prefixes and nests are really there"
    paths = write_layouts(toy().state_dict(), tmp_path)
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob('*') if p.is_file()}
    assert {
        'one.safetensors', 'one.pth', 'shards/model.safetensors.index.json', 'bins/pytorch_model.bin.index.json',
        'step100/model/pytorch_model.bin.index.json', 'step200/ema.pt', 'clone/model.safetensors',
        'cache/models--toy--toy/refs/main',
    } <= names
    assert set(torch.load(tmp_path/'ddp.ckpt')) == {'state_dict', 'epoch'}
    assert all(k.startswith('module.') for k in torch.load(tmp_path/'ddp.ckpt')['state_dict'])
    assert find_weights(paths['training checkpoint with ema.pt']).name == 'ema.pt'
    assert read_state(tmp_path/'step200'/'model')['t_block.1.bias'].abs().max() == 0     # the folder can still be named

def test_an_index_cannot_reach_out_of_its_folder(tmp_path):
    torch.save(dict(a=torch.ones(1)), tmp_path/'p.bin')
    (tmp_path/'w').mkdir()
    for name in ('../p.bin', str(tmp_path/'p.bin')):
        (tmp_path/'w'/'pytorch_model.bin.index.json').write_text(json.dumps(dict(weight_map=dict(a=name))))
        with pytest.raises(ValueError, match='no name of a file in its folder'): read_state(tmp_path/'w')

def test_wrappers_in_any_order(tmp_path):
    sd = toy().state_dict()
    for i, prefix in enumerate(('module._orig_mod.', '_orig_mod.module.', 'module.')):
        wrapped = dict(state_dict={prefix+k: v for k, v in sd.items()})
        torch.save(dict(epoch=torch.tensor(1), model=wrapped), tmp_path/f'{i}.pt')
        assert same(read_state(tmp_path/f'{i}.pt'), sd)
    loop = {}
    loop['model'] = loop
    torch.save(loop, tmp_path/'loop.pt')
    with pytest.raises(ValueError, match='holds no state dict'): read_state(tmp_path/'loop.pt')

def test_hub_address(tmp_path, monkeypatch):
    "An address in the cache loads offline: whole repositories, their folders and files; a zoo name is an address"
    model, root = toy(), tmp_path/'hub'
    for name in ('toy--toy', 'hpcai-tech--OpenSora-STDiT-v3'):
        write_layouts(model.state_dict(), tmp_path/name)
        (tmp_path/name/'cache').rename(root) if not root.exists() else None
        (root/'models--toy--toy').rename(root/f'models--{name}') if name != 'toy--toy' else None
        if name == 'toy--toy':
            (root/'models--toy--toy'/'snapshots'/('0'*40)/'part').mkdir()
            torch.save(model.state_dict(), root/'models--toy--toy'/'snapshots'/('0'*40)/'part'/'old.pth')
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(root))
        if name == 'toy--toy':
            for where in ('toy/toy', 'https://huggingface.co/toy/toy', 'toy/toy/part/old.pth', root/'models--toy--toy'):
                assert same(load_stdit3(where).state_dict(), model.state_dict())
        else:
            assert same(load_stdit3('STDiT3-XL/2').state_dict(), model.state_dict())
            assert same(load_stdit3('hpcai-tech/OpenSora-STDiT-v3').state_dict(), model.state_dict())

def test_incomplete_cache_asks_the_network(tmp_path, monkeypatch):
    "Half a download is no success: an index whose shards are not there"
    snap = tmp_path/'models--a--b'/'snapshots'/('0'*40)
    snap.mkdir(parents=True)
    (tmp_path/'models--a--b'/'refs').mkdir()
    (tmp_path/'models--a--b'/'refs'/'main').write_text('0'*40)
    index = dict(weight_map={'w': 'model-00001-of-00001.safetensors'})
    (snap/'model.safetensors.index.json').write_text(json.dumps(index))
    asked = []
    def download(repo, local_files_only, **how):
        asked.append(local_files_only)
        if not local_files_only: save_file(dict(w=torch.ones(1)), snap/'model-00001-of-00001.safetensors')
        return str(snap)
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    with pytest.raises(FileNotFoundError, match='was not asked for'): fetch('a/b', cache_dir=tmp_path, download=False)
    assert fetch('a/b', cache_dir=tmp_path) == snap and asked == [True, True, False]

@pytest.mark.parametrize('load, name, size', [
    (load_stdit3,       'hpcai-tech/OpenSora-STDiT-v3', '4.8 GB'),
    (load_stdit3,       'STDiT3-XL/2',                  '4.8 GB'),
    (load_released_vae, 'hpcai-tech/OpenSora-VAE-v1.2', '1.57 GB'),
])
def test_offline_message(load, name, size, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    with pytest.raises(FileNotFoundError) as e: load(name)
    for word in ('hpcai-tech/OpenSora-', 'config.json', size, 'HF_ENDPOINT', 'HF_HOME', 'hf download'):
        assert word in str(e.value)

def test_save_pretrained(tmp_path):
    model = toy()
    assert json.loads((save_pretrained(model, tmp_path/'a')/'config.json').read_text())['model_type'] == 'STDiT3'
    again = load_stdit3(tmp_path/'a')
    assert again.cfg == CFG and same(again.state_dict(), model.state_dict())
    half = load_stdit3(save_pretrained(model, tmp_path/'b', torch.bfloat16))
    assert half.x_embedder.proj.weight.dtype == torch.bfloat16
    assert load_stdit3(tmp_path/'b', torch.float32).x_embedder.proj.weight.dtype == torch.float32
    vae = toy_vae()
    assert load_released_vae(save_pretrained(vae, tmp_path/'c')).cfg.vae_2d == vae.cfg.vae_2d
    (tmp_path/'pipe').mkdir()
    save_pretrained(model, tmp_path/'pipe'/'stdit3')
    save_pretrained(vae, tmp_path/'pipe'/'vae')
    assert load_stdit3(tmp_path/'pipe').cfg == CFG
    assert same(load_released_vae(tmp_path/'pipe').state_dict(), vae.state_dict())

def test_one_copy_and_the_file_is_safe(tmp_path):
    state = toy().state_dict()
    model = load_stdit3(state, input_sq_size=64)
    assert all(v.data_ptr() == state[k].data_ptr() for k, v in model.state_dict().items())
    assert {k for k, p in model.named_parameters() if not p.requires_grad} == {'rope.freqs'} and not model.training
    path = save_pretrained(model, tmp_path)
    before = (path/'model.safetensors').read_bytes()
    mapped = load_stdit3(path)
    with torch.no_grad():
        for p in mapped.parameters(): p.add_(1)
    assert (path/'model.safetensors').read_bytes() == before
    (path/'model.safetensors').unlink()
    assert torch.equal(mapped.t_block[1].bias, model.t_block[1].bias + 1)

# configuration from shapes

def golden(name):
    stem = GOLDENS/f'stdit3_{name}_weights'
    config = json.loads(stem.with_suffix('.json').read_text())['config']
    return load_file(stem.with_suffix('.safetensors')), from_dict(STDiT3Config, config)

@pytest.mark.parametrize('name', 'AB')
@torch.no_grad()
def test_goldens_load_by_shapes(name, tmp_path):
    state, cfg = golden(name)
    torch.save(dict(state_dict=state), tmp_path/'g.pth')
    model = load_stdit3(tmp_path/'g.pth', input_sq_size=cfg.input_sq_size)         # the one number that no shape tells
    assert model.cfg == cfg
    twin = STDiT3(cfg).eval()
    twin.load_state_dict(state)
    cases = [c for c, s in SPEC['cases'].items() if s['weights'] == name]
    assert len(cases) > 1
    for case in cases:
        x = {k.removeprefix(f'{case}.in.'): v for k, v in DATA.items() if k.startswith(f'{case}.in.')}
        assert torch.equal(model(**x), twin(**x))
        torch.testing.assert_close(model(**x), DATA[f'{case}.out'], atol=2e-5, rtol=1e-4)

@torch.no_grad()
def test_golden_autoencoder_loads_by_shapes(tmp_path):
    weights = load_file(GOLDENS/'vae_pipeline_weights.safetensors')
    in_time = load_file(GOLDENS/'vae_temporal_weights.safetensors')
    weights |= {f'temporal_vae.{k}': v for k, v in in_time.items()}
    save_file(weights, tmp_path/'model.safetensors')
    spec = json.loads((GOLDENS/'vae_pipeline.json').read_text())['runs']
    data = load_file(GOLDENS/'vae_pipeline.safetensors')
    for case, r in spec.items():
        micro = {k: r[k] for k in ('micro_frame_size', 'micro_batch_size')}
        vae = load_released_vae(tmp_path, **GROUPS, **micro)
        assert vae.cfg.shift == video_vae_v12().shift
        z = vae.encode(data[f'{case}.x'])
        torch.testing.assert_close(z, data[f'{case}.z_mean'], atol=5e-5, rtol=1e-4)
        torch.testing.assert_close(vae.decode(z, r['T']), data[f'{case}.rec'], atol=5e-5, rtol=1e-4)

def test_shapes_that_do_not_tell(capsys):
    state = {k: v for k, v in toy().state_dict().items() if k != 'rope.freqs'}
    assert load_stdit3(state).cfg.input_sq_size == 512
    said = capsys.readouterr().out
    assert 'input_sq_size is not in the file: taken as 512' in said
    assert 'rope.freqs is not in the file: computed' in said
    load_stdit3(toy().state_dict(), input_sq_size=64)
    assert capsys.readouterr().out == ''
    bare = STDiT3Config(hidden_size=24, depth=1, num_heads=2, caption_channels=8, model_max_length=6, qk_norm=False)
    lost = {k: v for k, v in toy(bare).state_dict().items() if k != 'rope.freqs'}
    with pytest.raises(ValueError, match='give num_heads'): load_stdit3(lost)
    assert load_stdit3(lost, num_heads=2, input_sq_size=512).cfg == bare

@pytest.mark.parametrize('d, ratio', [(88, 1.3), (88, 2.7), (88, 3.99), (88, 4.), (88, 1.114)])
def test_mlp_ratio(d, ratio):
    "The model rounds width times ratio down; 98/88*88 falls below 98 in floating point"
    with torch.device('meta'): m = STDiT3(STDiT3Config(hidden_size=d, depth=1, num_heads=2, mlp_ratio=ratio))
    cfg = stdit3_config_from_state(m.state_dict())
    assert int(d*cfg.mlp_ratio) == int(d*ratio)
    freqs = 10000**(-torch.arange(0, d//2, 2).float()/(d/2))
    assert load_stdit3(thin(m) | {'rope.freqs': freqs}, mlp_ratio=ratio).cfg.mlp_ratio == ratio

@pytest.mark.parametrize('freqs, words', [
    (torch.zeros(6),              'no frequencies'),
    (torch.full((6,), torch.nan), 'no frequencies'),
    (torch.ones(5),               'for heads of width 10'),
])
def test_bad_rope(freqs, words):
    with pytest.raises(ValueError, match=words): load_stdit3(toy().state_dict() | {'rope.freqs': freqs})

def test_other_rope(capsys):
    freqs = 500**(-torch.arange(0, 12, 2).float()/12)
    assert torch.equal(load_stdit3(toy().state_dict() | {'rope.freqs': freqs}, input_sq_size=64).rope.freqs, freqs)
    assert 'not those of Open-Sora' in capsys.readouterr().out

# overrides, config.json

def test_overrides(tmp_path):
    folder = save_pretrained(toy(), tmp_path)
    assert load_stdit3(folder, input_sq_size=128, class_dropout_prob=.2).cfg.input_sq_size == 128
    with pytest.raises(ValueError, match='depth 3, the weights have 2'): load_stdit3(folder, depth=3)
    with pytest.raises(ValueError, match="no setting 'dpth'; did you mean 'depth'"): load_stdit3(folder, dpth=3)
    config = json.loads((folder/'config.json').read_text())
    (folder/'config.json').write_text(json.dumps(config | dict(hidden_size=48)))
    with pytest.raises(ValueError, match='hidden_size 48, the weights have 24'): load_stdit3(folder)
    assert load_stdit3(folder, hidden_size=24).cfg == CFG                           # the call goes before the file
    (folder/'config.json').write_text(json.dumps(dict(model_type='Other', hidden_size='x')))
    # a config.json of something else is not read
    assert load_stdit3(folder, input_sq_size=64).cfg == CFG

@pytest.mark.parametrize('n', [3, 6, 9])
def test_text_length(n, capsys):
    model = toy()
    null = load_stdit3(model.state_dict(), input_sq_size=64, model_max_length=n).y_embedder.y_embedding
    old = model.y_embedder.y_embedding
    assert torch.equal(null, torch.cat([old, old[-1:].repeat(max(0, n-6), 1)])[:n])
    said = {3: 'text of 6 tokens: cut to 3', 6: '', 9: 'text of 6 tokens: last row repeated to 9'}
    assert said[n] in capsys.readouterr().out
    assert fit_text_length(torch.zeros(120, 2), 300).shape == (300, 2)

# PixArt

def pixart(state):
    later = ('temporal', 'fps', 'rope', '_norm.')
    keep = {k.replace('spatial_', ''): v for k, v in state.items() if not any(s in k for s in later)}
    flat = keep['x_embedder.proj.weight'][:, :, 0]
    return keep | {'pos_embed': torch.zeros(1, 16, 24), 'x_embedder.proj.weight': flat,
                   'csize_embedder.mlp.0.weight': torch.ones(2, 2)}

@pytest.mark.parametrize('qk_norm', [None, True, False])
def test_pixart(qk_norm, tmp_path, capsys):
    source = toy().state_dict()
    torch.save(dict(state_dict=pixart(source)), tmp_path/'PixArt-Sigma-XL-2-2K-MS.pth')
    how = {} if qk_norm is None else dict(qk_norm=qk_norm)
    model = load_stdit3(tmp_path/'PixArt-Sigma-XL-2-2K-MS.pth', num_heads=2, model_max_length=9, **how)
    said, state = capsys.readouterr().out, model.state_dict()
    assert model.cfg.qk_norm is (qk_norm is not False) and state['y_embedder.y_embedding'].shape[0] == 9
    later = ('temporal', 'fps', 'rope', '_norm.', 'y_embedding')
    taken = [k for k in source if k in state and not any(s in k for s in later)]
    assert len(taken) > 30 and all(torch.equal(state[k], source[k]) for k in taken)
    last = [k for k in state if 'temporal' in k and k.endswith(('attn.proj.weight', 'mlp.fc2.weight'))]
    assert all(state[k].abs().max() == 0 for k in last)
    assert 'fresh: ' in said
    assert 'temporal_blocks' in said
    assert 'fps_embedder' in said
    assert 'not used: csize_embedder' in said
    assert ('q_norm' in said) == model.cfg.qk_norm and not any(v.is_meta for v in state.values())

def test_pixart_that_lacks_a_part():
    state = {k: v for k, v in pixart(toy().state_dict()).items() if k != 't_block.1.bias'}
    with pytest.raises(ValueError, match='1 missing in the file: t_block.1.bias'): load_stdit3(state, num_heads=2)

# the report

@pytest.mark.parametrize('name, kind', [
    ('blocks.3.attn_temp.qkv.weight',                  'STDiT weights of Open-Sora 1.0'),
    ('fl_embedder.mlp.0.bias',                         'STDiT2 weights of Open-Sora 1.1'),
    ('blocks.0.cross_attn.proj.bias',                  'PixArt'),
    ('blocks.0.adaLN_modulation.1.bias',               'DiT or Latte'),
    ('spatial_vae.module.quant_conv.bias',             'VideoVAE'),
    ('encoder.down_blocks.0.resnets.0.conv1.bias',     'AutoencoderKL'),
    ('encoder.block.0.layer.0.SelfAttention.q.weight', 'T5'),
    ('double_blocks.0.img_attn.qkv.weight',            'later model'),
    ('text_model.embeddings.token_embedding.weight',   'a CLIP text encoder'),
])
def test_report_names_the_model(name, kind):
    state = {name: torch.ones(1)}
    report = compare_keys(toy(), state)
    assert kind in kind_of(state) and kind in str(report) and 'what to do: ' in str(report) and not report.ok
    if kind != 'PixArt':
        with pytest.raises(ValueError, match=kind): load_stdit3(state)
    with pytest.raises(ValueError, match='Video' if kind == 'VideoVAE' else kind): load_released_vae(state)

# hostile and broken files

class Payload:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.system, (f'touch {self.path}',)

@pytest.mark.parametrize('how', ['pickle', 'torch', 'legacy', 'shard', 'ema', 'lazy'])
def test_a_pickle_with_code_never_runs(how, tmp_path):
    marker, bad = tmp_path/'ran', dict(w=torch.ones(2), x=Payload(tmp_path/'ran'))
    folder = tmp_path/'w'
    (folder/'model').mkdir(parents=True)
    path = {'shard': folder/'model'/'pytorch_model-00001.bin', 'ema': folder/'ema.pt'}.get(how, folder/'w.pth')
    if how == 'pickle': path.write_bytes(pickle.dumps(bad['x'], protocol=2))
    else: torch.save(bad, path, _use_new_zipfile_serialization=how != 'legacy')
    if how == 'shard':
        (folder/'model'/'pytorch_model.bin.index.json').write_text(json.dumps(dict(weight_map=dict(w=path.name))))
    else: (folder/'model').rmdir()
    for load in (read_state, load_stdit3, load_released_vae, describe, lambda p: read_state(p, lazy=True)):
        with pytest.raises(ValueError, match='not run here'): load(folder)
    assert not marker.exists()
    torch.load(path, weights_only=False) if how != 'pickle' else pickle.loads(path.read_bytes())
    assert marker.exists()                                                          # the payload is real

def survives(load, path):
    "Loads, or fails with one of two errors and a sentence"
    try: load(path)
    except (ValueError, FileNotFoundError) as e: assert len(str(e)) > 20 and 'Traceback' not in str(e), str(e)

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    state = toy().state_dict()
    folder = tmp_path_factory.mktemp('files')
    return {k: p.read_bytes() for k, p in write_layouts(state, folder).items() if p.is_file()}, folder

@FEW
@given(which=st.sampled_from(['one .safetensors file', 'one .pth file', '.pt with model and ema']), cut=st.floats(0, 1),
       flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
       head=st.booleans())
def test_fuzz_files(files, tmp_path, which, cut, flips, head):
    raw = bytearray(files[0][which])
    for at, byte in flips: raw[int(at*(min(len(raw), 3000) if head else len(raw)))] = byte
    path = tmp_path/('f.safetensors' if 'safetensors' in which else 'f.pt')
    path.write_bytes(bytes(raw[:int(cut*len(raw)) or None] if cut < .9 else raw))
    survives(read_state, path)
    survives(load_stdit3, path)

def nested(inner): return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), nested, max_leaves=6)
SHARDS = st.one_of(JSON, st.sampled_from(['p.bin', '../p.bin', '/p.bin', '.', '..', '\0']))
INDEX = st.dictionaries(st.sampled_from(['a', 't_block.1.bias']), SHARDS, max_size=3)

@FEW
@given(content=st.one_of(JSON, st.fixed_dictionaries(dict(weight_map=st.one_of(JSON, INDEX)))))
@example(content='[' * 100_000)
@example(content=dict(weight_map=dict(a='p.bin', b='p.bin')))
@example(content=dict(weight_map={}))
def test_fuzz_index(tmp_path, content):
    torch.save(dict(a=torch.ones(1)), tmp_path/'p.bin')
    raw = isinstance(content, str) and content.startswith('[[')
    (tmp_path/'pytorch_model.bin.index.json').write_text(content if raw else json.dumps(content))
    survives(read_state, tmp_path)
    survives(describe, tmp_path)

FIELDS = [*STDiT3Config.__dataclass_fields__, 'model_type', 'vae_2d', 'vae_temporal', 'micro_frame_size', 'scale',
          'shift']
@FEW
@given(config=st.one_of(JSON, st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4)))
@example(config=dict(depth=10**9))
@example(config=dict(mlp_ratio=float('inf')))
@example(config=dict(patch_size=5))
@example(config=dict(vae_2d=dict(block_out_channels=5)))
@example(config=dict(vae_2d=dict(block_out_channels=None), scale=3, shift='x'))
@example(config=dict(model_type='VideoVAE', vae_2d=3, vae_temporal=[1]))
@example(config=dict(vae_2d=dict(micro_batch_size={}, scaling_factor='a')))
@example(config=dict(hidden_size=2**62))
def test_fuzz_config(tmp_path, config):
    folder, vae = tmp_path/'m', tmp_path/'v'
    if not folder.exists():
        save_pretrained(toy(), folder)
        save_pretrained(toy_vae(), vae)
    for f in (folder, vae): (f/'config.json').write_text(json.dumps(config))
    survives(load_stdit3, folder)
    survives(lambda p: load_released_vae(p, **GROUPS), vae)

NAMES = st.sampled_from([
    *toy().state_dict(), 'spatial_blocks.99999999999.x', 'spatial_blocks.5.x',
    'temporal_vae.encoder.conv_in.conv.weight', 'spatial_vae.module.encoder.conv_in.weight', 'blocks.0.cross_attn.x',
])

@FEW
@given(state=st.dictionaries(NAMES, st.lists(st.integers(0, 5), max_size=5), max_size=12), whole=st.booleans())
def test_fuzz_shapes(state, whole):
    odd = {k: torch.zeros(s) for k, s in state.items()}
    odd = toy().state_dict() | odd if whole else odd
    survives(load_stdit3, odd)
    survives(load_released_vae, odd)
    survives(lambda s: load_released_vae(s, **GROUPS), toy_vae().state_dict() | odd)

@FEW
@given(name=st.text(max_size=40) | st.from_regex(r'[a-z.]{1,8}/[a-z./-]{1,20}', fullmatch=True))
@example(name='a/b')
@example(name='\0')
@example(name='a'*10_000)
@example(name='../x/y')
@example(name='STDiT3-3B/2')
@example(name='')
def test_fuzz_names(name, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for load in (load_stdit3, load_released_vae):
        with pytest.raises((ValueError, FileNotFoundError)) as e: load(name)
        assert len(str(e.value)) > 30

def test_quantised():
    state = toy().state_dict()
    with pytest.raises(ValueError, match='holds int8 numbers in the file'):
        load_stdit3(state | {'t_block.1.weight': state['t_block.1.weight'].to(torch.int8)})

# the command

def test_doctor(tmp_path, capsys):
    torch.save(dict(state_dict=toy().state_dict()), tmp_path/'final.pth')
    assert main(['doctor', str(tmp_path/'final.pth')]) == 0
    out = capsys.readouterr().out
    for words in ('one .pth file: 89 arrays', 'float32', 'STDiT3', 'it loads',
                  'not STDiT3-XL/2: hidden_size 24 instead of 1152', 'self-check', 'model/ of ColossalAI'):
        assert words in out, words
    assert out.count(' ok, autoencoder ok') == 10
    (tmp_path/'final.pth').write_bytes((tmp_path/'final.pth').read_bytes()[:900])
    assert main(['doctor', str(tmp_path/'final.pth')]) == 1 and 'does not load' in capsys.readouterr().out
    assert main(['doctor', 'tyni']) == 1 and 'embedded names' in capsys.readouterr().err
    assert main(['doctor', 'owner/name']) == 1 and 'was not asked for' in capsys.readouterr().err
