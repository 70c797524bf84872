"The console command on a toy in the released layout, and what is said when parts are missing"
import json
import pytest
import numpy as np
from huggingface_hub import constants
from hypothesis import HealthCheck, example, given, settings, strategies as st
from PIL import Image
from opensora_nb.app import sampling
from opensora_nb.app.cli import main
from opensora_nb.data.video_io import probe, read_video
from opensora_nb.sample.released import need_parts
from opensora_nb.text.encoders import T5Text, t5_lacks
from opensora_nb.weights import no_download, whole_weights
from released_files import osnb, photo, released, write_released

@pytest.fixture(scope='module')
def toy(tmp_path_factory): return write_released(tmp_path_factory.mktemp('toy'))

@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path/'hub'))

def sample(toy, to, *options, prompt="a calm sea"):
    return main(['sample', *map(str, released(toy)), '--save-dir', str(to), '--image-size', '48', '80',
                 '--num-sampling-steps', '2', '--verbose', '0', *options, '--prompt', prompt])

def test_the_command(toy, tmp_path):
    code, said, _, _ = osnb('sample', *released(toy), '--resolution', '144p', '--num-frames', '17',
                            '--num-sampling-steps', '1', '--prompt', 'a calm sea', folder=tmp_path)
    assert code == 0, said
    info = probe(tmp_path/'samples'/'sample_0000.mp4')
    assert (info.num_frames, info.height, info.width, info.fps) == (17, 144, 256, 24)

def test_made_once_and_the_same_each_time(toy, tmp_path, monkeypatch, capsys):
    assert sample(toy, tmp_path/'a', '--num-frames', '18') == 0
    assert sample(toy, tmp_path/'b', '--num-frames', '18', '--text-dtype', 'bf16') == 0
    a, b = (read_video(tmp_path/k/'sample_0000.mp4') for k in 'ab')
    assert a.shape == b.shape == (18, 48, 80, 3) and a.std() > 1
    assert sample(toy, tmp_path/'c', '--num-frames', '18') == 0
    assert (tmp_path/'c'/'sample_0000.mp4').read_bytes() == (tmp_path/'a'/'sample_0000.mp4').read_bytes()
    monkeypatch.setattr(sampling, 'load_for', lambda *_: pytest.fail('weights were loaded'))
    assert sample(toy, tmp_path/'a', '--num-frames', '18', '--verbose', '1') == 0
    assert '0 to make (1 there already)' in capsys.readouterr().out

@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
def test_pictures(toy, tmp_path, dtype):
    assert sample(toy, tmp_path, '--num-frames', '1', '--num-sample', '2', '--dtype', dtype) == 0
    one, two = (np.array(Image.open(tmp_path/f'sample_0000-{k}.png')) for k in range(2))
    assert one.shape == (48, 80, 3) and one.std() > 1 and (one != two).any()

def test_video_from_a_photo(toy, tmp_path):
    first = ['--reference-path', str(photo(tmp_path/'p.png', (48, 80))), '--mask-strategy', '0']
    assert sample(toy, tmp_path, '--num-frames', '34', *first) == 0
    assert probe(tmp_path/'sample_0000.mp4').num_frames == 34

def test_tokenizer_is_of_pieces(toy):
    "Unigram: an unseen word is cut into known pieces, and the end mark comes last"
    tok = T5Text(str(toy/'t5')).tokenizer
    ids = tok("seaside", max_length=300)['input_ids']
    assert len(ids) > 2
    assert ids[-1] == tok.eos_token_id
    assert tok.unk_token_id not in ids
    assert tok.decode(ids[:-1]).strip() == 'seaside'

# what is missing

REPOS = {'text encoder': 'DeepFloyd/t5-v1_1-xxl', 'autoencoder': 'hpcai-tech/OpenSora-VAE-v1.2',
         'transformer': 'hpcai-tech/OpenSora-STDiT-v3'}
SIZES = {'text encoder': '19.1 GB', 'autoencoder': '1.6 GB', 'transformer': '4.8 GB'}
FLAGS = {'text encoder': '--text-encoder', 'autoencoder': '--vae', 'transformer': '--ckpt-path'}

def never(*_, **__): pytest.fail('something was loaded')

@pytest.mark.parametrize('lost', [
    ['text encoder'], ['autoencoder'], ['transformer'], ['autoencoder', 'transformer'], list(REPOS)])
def test_missing_parts_are_named_before_anything_is_loaded(toy, tmp_path, offline, monkeypatch, capsys, lost):
    for name in ('T5Text', 'load_transformer', 'load_released_vae'):
        monkeypatch.setattr(f'opensora_nb.sample.released.{name}', never)
    folders = {'text encoder': 't5', 'autoencoder': 'vae', 'transformer': 'stdit3'}
    kept = []
    for what, flag in FLAGS.items():
        if what not in lost: kept += [flag, str(toy/folders[what])]
    options = ['--save-dir', str(tmp_path), '--verbose', '0', '--prompt', 'a calm sea']
    assert main(['sample', '--preset', 'opensora-1.2', *kept, *options]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f'osnb: error: {len(lost)} of the 3 parts')
    assert all(w in said for w in ('HF_ENDPOINT', 'HF_HOME', 'cannot be reached'))
    for what, repo in REPOS.items():
        assert (what in said) == (what in lost)
        assert (f'`hf download {repo}` ({SIZES[what]})' in said) == (what in lost)
        assert (f'{FLAGS[what]} FOLDER' in said) == (what in lost)

def test_no_network_ends_quickly(tmp_path):
    "A process of its own, with a network that refuses: no retries"
    code, said, seconds, _ = osnb('sample', '--preset', 'opensora-1.2', '--prompt', 'a calm sea', folder=tmp_path,
                                  HF_HUB_OFFLINE='0', HF_ENDPOINT='http://127.0.0.1:9')
    assert code == 1
    assert '3 of the 3 parts' in said
    assert 'http://127.0.0.1:9 cannot be reached' in said
    assert 'Retry' not in said
    assert 'Traceback' not in said
    assert seconds < 60 # 7 of the processor; 25 beside five other programs on two cores

def test_folders_that_lack_something(toy, tmp_path, offline):
    half = tmp_path/'half'
    half.mkdir()
    (tmp_path/'hub').mkdir()
    with pytest.raises(FileNotFoundError, match='it lacks config.json and the tokenizer .* and the weights'):
        need_parts(toy/'stdit3', toy/'vae', half)
    index = dict(weight_map=dict(w='model-00001-of-00001.safetensors'))
    (half/'model.safetensors.index.json').write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match='(?s)transformer .*lacks 1 of 1 shards'):
        need_parts(half, toy/'vae', toy/'t5')
    with pytest.raises(FileNotFoundError, match='the weights .*lacks 1 of 1 shards'):
        need_parts(toy/'stdit3', toy/'vae', half)
    with pytest.raises(FileNotFoundError, match='no weights in the folder'): need_parts(tmp_path/'hub', toy, toy/'t5')
    with pytest.raises(ValueError, match='no weights of STDiT3-3B/2 were published'):
        need_parts('STDiT3-3B/2', toy/'vae', toy/'t5')
    assert t5_lacks(toy/'t5') == [] and whole_weights(toy/'vae').name == 'model.safetensors'
    need_parts(toy, toy, toy/'t5')         # folders of this kit: the parts are inside

class Answer:
    def __init__(self, status): self.status = status
    def head(self, url, **_):
        self.asked = url
        return type('', (), dict(status_code=self.status))

@pytest.mark.parametrize('status, refused', [(200, False), (307, False), (401, True), (404, True), (500, False)])
def test_with_a_network(monkeypatch, toy, status, refused):
    "Where the hub answers, what is not here is left to be downloaded, unless it has no such thing"
    import huggingface_hub
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(huggingface_hub, 'get_session', lambda: Answer(status))
    assert bool(no_download('toy/none')) == refused
    if not refused: need_parts('toy/none', toy/'vae', 'toy/none')
    else:
        with pytest.raises(FileNotFoundError, match=f'has no toy/none for you .it answers {status}'):
            need_parts('toy/none', toy/'vae', toy/'t5')

def test_no_text_dtype_for_a_small_model(capsys):
    assert main(['sample', '--prompt', 'a red circle', '--text-dtype', 'bf16']) == 1
    assert 'belongs to --preset opensora-1.2' in capsys.readouterr().err

@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=40) | st.from_regex(r'[a-z.]{1,8}/[a-z./-]{1,20}', fullmatch=True),
       part=st.sampled_from(['model', 'vae', 'text']))
@example(name='', part='text')
@example(name='\0', part='text')
@example(name='a'*10_000, part='text')
@example(name='a/' + 'b'*10_000, part='text')
@example(name='a/' + 'b'*10_000, part='vae')
@example(name='../x/y', part='text')
def test_fuzz_names(name, part, toy, tmp_path, offline, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = dict(model=toy/'stdit3', vae=toy/'vae', text=toy/'t5') | {part: name}
    with pytest.raises((ValueError, FileNotFoundError)) as e: need_parts(**parts)
    assert len(str(e.value)) > 30
