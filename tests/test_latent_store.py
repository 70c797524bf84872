"Latents and text features on disk: runs that share a folder, kills, damage, full disks, room, `osnb data features`."
import json, os, re, signal, subprocess, sys, time, warnings
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest, torch
from opensora_nb.app.cli import main
from opensora_nb.data.dataset import ClipFiles, DataConfig, ToySource
from opensora_nb.data.video_io import write_video
from opensora_nb.text.encoders import tiny_text
from opensora_nb.train import features as features_module, store as store_module
from opensora_nb.train.diffusion import T2VTrain, make_room
from opensora_nb.train.features import Features, TextFeatures, build_features, build_text, open_features
from opensora_nb.train.store import kept, trim
from ranks import free_port
from test_dataset import TinyVAE

ROOT = Path(__file__).resolve().parent.parent

def toy(n, **more): return ToySource(n, image_size=(16, 16), **more)
def build(source, store, vae=None, **how):
    return build_features(source, vae or TinyVAE(), store, batch_size=4, progress=False, **how)

class Refuses(TinyVAE):
    "Where nothing may be encoded"
    def encode(self, x, sample=False): raise AssertionError('encoded although it was stored')
Refuses.__name__ = 'TinyVAE'

class Counts(TinyVAE):
    "Knows how many clips it has encoded"
    done = 0
    def encode(self, x, sample=False):
        self.done += len(x)
        return super().encode(x)
Counts.__name__ = 'TinyVAE'

def test_a_run_that_sees_few_clips_says_how_to_encode_fewer(tmp_path, capsys):
    def said(steps):
        cfg = T2VTrain(name='few', out=str(tmp_path), features=str(tmp_path/'features'), steps=steps, batch_size=2,
                       data=DataConfig(n=8, image_size=(32, 32)), device='cpu', validate_on=0)
        cfg.make_task(torch.device('cpu'))
        return [line for line in capsys.readouterr().err.splitlines() if 'data.n' in line]
    assert said(2) == ['2 steps see at most 4 of 8 clips, and all 8 are encoded first; data.n=4 encodes those only']
    assert said(4) == []

# ---- several processes

CHILD = '''
import hashlib, os, sys, time
from test_dataset import TinyVAE, ToySource
from opensora_nb.train.features import open_features
n, store, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
class Slow(TinyVAE):
    done = 0
    def encode(self, x, sample=False):
        Slow.done += len(x)
        time.sleep(seconds)
        return super().encode(x)
Slow.__name__ = 'TinyVAE'
state = None
if 'RANK' in os.environ:
    from accelerate import PartialState
    state = PartialState(cpu=True)
clips = ToySource(n, image_size=(16, 16))
got = open_features(clips, Slow(), store, batch_size=4, flush=0.2, progress=False, state=state)
print('clips', len(got), Slow.done, hashlib.sha256(got.latents.numpy().tobytes()).hexdigest(), flush=True)
if len(sys.argv) > 4: sys.stdin.read()
'''

def child(n, store, seconds=0., *more, **env):
    env = dict(os.environ, PYTHONPATH=f'{ROOT}{os.pathsep}{ROOT/"tests"}', OMP_NUM_THREADS='1', **env)
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen([sys.executable, '-c', CHILD, str(n), str(store), str(seconds), *more], env=env, **pipes)

def said(process): # -> clips, encoded by it, hash of the latents
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 0, out
    clips, done, digest = re.search(r'clips (\d+) (\d+) (\w+)', out).groups()
    return int(clips), int(done), digest

def until(true, *alive):
    end = time.time() + 100
    while not true():
        ended = [p for p in alive if p.poll() is not None]
        assert time.time() < end and not ended, [p.communicate()[0] for p in ended]
        time.sleep(.02)

def stored(store): return sum(k.have for k in kept(store))

def digest(features): # as the child prints it
    import hashlib
    return hashlib.sha256(features.latents.numpy().tobytes()).hexdigest()

def test_two_runs_at_once_keep_their_own_clips(tmp_path):
    "Two runs, on 16 and on 48 clips: each trains on its own, where the first used to get the 16 of the second"
    a, b = child(48, tmp_path/'f', .05), child(16, tmp_path/'f', .05)
    want = [digest(Features(build(toy(n), tmp_path/'alone'))) for n in (48, 16)]
    assert [said(p)[::2] for p in (a, b)] == list(zip((48, 16), want))

def test_two_runs_at_once_share_what_is_equal(tmp_path):
    "The same clips wanted twice are encoded once, by whoever comes first to each block"
    a, b = child(256, tmp_path/'f', .05), child(256, tmp_path/'f', .05)
    (n, done_a, hash_a), (m, done_b, hash_b) = said(a), said(b)
    assert n == m == 256 == done_a + done_b and min(done_a, done_b) > 0
    assert hash_a == hash_b == digest(Features(build(toy(256), tmp_path/'alone')))

def test_who_is_killed_blocks_nobody(tmp_path):
    "A run waits for the last block of another one that hangs; when that is killed, it makes the block itself"
    hangs = child(8, tmp_path/'f', 1000)
    until(lambda: list(tmp_path.glob('f/*/.claim-*')), hangs)
    waits = child(8, tmp_path/'f')
    until(lambda: 'waiting for it' in waits.stdout.readline(), waits)
    hangs.kill()
    hangs.wait()
    assert said(waits)[:2] == (8, 8) and not list(tmp_path.glob('f/*/.claim-*'))

def test_two_processes_killed_while_encoding_go_on(tmp_path):
    "kill -9 of both processes of a run: what was written stays, and only the rest is encoded"
    def start(seconds):
        port = str(free_port())
        return [child(256, tmp_path/'f', seconds, RANK=str(r), WORLD_SIZE='2', LOCAL_RANK=str(r),
                      MASTER_ADDR='localhost', MASTER_PORT=port, ACCELERATE_USE_CPU='true') for r in (0, 1)]
    both = start(.15)
    until(lambda: len({f.name.split('-')[1][:5] for f in tmp_path.glob('f/*/latents-*')}) > 1
          and stored(tmp_path/'f') > 20, *both)
    for p in both: p.kill()
    for p in both: p.wait()
    have = stored(tmp_path/'f')
    assert 20 < have < 256
    again = [said(p) for p in start(0)]
    assert [n for n, _, _ in again] == [256, 256] and sum(done for _, done, _ in again) == 256 - have
    assert {d for _, _, d in again} == {digest(Features(build(toy(256), tmp_path/'alone')))}

def test_ctrl_c_keeps_every_clip(tmp_path, capsys):
    "SIGINT: even what was not written yet is kept, and the next start says how much is there"
    p = child(64, tmp_path/'f', .1)
    until(lambda: stored(tmp_path/'f') >= 8, p)
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=100)
    have, vae = stored(tmp_path/'f'), Counts()
    assert 8 <= have < 64
    build(toy(64), tmp_path/'f', vae)
    assert f'latents: {have} of 64 are there already' in capsys.readouterr().err and vae.done == 64 - have

# ---- by content

def test_only_what_differs_is_made_again(tmp_path):
    "Another frame size, other or fewer clips and another autoencoder keep what is there; going back costs nothing"
    other = TinyVAE()
    with torch.no_grad(): other.conv.bias += 1e-3
    ways = [(toy(12), TinyVAE()), (toy(8), TinyVAE()), (toy(12, seed=1), TinyVAE()),
            (toy(12).at(9, (16, 16)), TinyVAE()), (toy(12), other)]
    folders = [build(*way[:1], tmp_path, way[1]) for way in ways]
    assert len(set(folders)) == 5 and stored(tmp_path) == 12 + 8 + 12 + 12 + 12
    Refuses_other = Refuses()
    Refuses_other.load_state_dict(other.state_dict())
    assert [build(source, tmp_path, Refuses_other if vae is other else Refuses()) for source, vae in ways] == folders

@pytest.fixture
def clips(tmp_path):
    rng = np.random.default_rng(0)
    for k in 'abc':
        noise = rng.integers(0, 255, (20 if k == 'c' else 8, 32, 32, 3), dtype=np.uint8)
        write_video(tmp_path/'clips'/f'{k}.mp4', noise, fps=10)
    return tmp_path/'clips'

def files_of(folder, words='of', **more):
    return ClipFiles([(folder/f'{k}.mp4', [f'{words} {k}']) for k in 'abc'], 8, (16, 16), **more)

def test_other_captions_cost_nothing(tmp_path, clips):
    "A caption mended in the table sends no pixels through the autoencoder again, and each run has its own captions"
    first = open_features(files_of(clips), TinyVAE(), tmp_path/'f', progress=False)
    mended = open_features(files_of(clips, 'mended'), Refuses(), tmp_path/'f', progress=False)
    assert first.texts(1) == ['of b']
    assert mended.texts(1) == ['mended b']
    assert torch.equal(first.latents, mended.latents)
    assert len(kept(tmp_path/'f')) == 1
    assert Features(first.entry.folder, files_of(clips)).texts(2) == ['of c']
    assert Features(first.entry.folder).texts(2) == ['mended c']

def test_moved_clips_are_known_and_edited_ones_are_not(tmp_path, clips):
    """Files keep their latents when their folder moves; a file with one byte changed in its middle is another clip,
    and so is another window of a longer one"""
    first = build(files_of(clips), tmp_path/'f')
    moved = clips.rename(tmp_path/'moved')
    assert build(files_of(moved), tmp_path/'f', Refuses()) == first
    assert build(files_of(moved, seed=5), tmp_path/'f') != first
    data, file = bytearray((moved/'a.mp4').read_bytes()), moved/'a.mp4'
    data[-1] ^= 1
    file.write_bytes(data)
    assert build(files_of(moved), tmp_path/'f') != first

def test_tasks_with_one_out_have_their_own_clips(tmp_path):
    "In training: other numbers of clips, sizes and pictures in the same `out`; the first run finds its latents again"
    cfg = T2VTrain(out=str(tmp_path), data=DataConfig(n=6, image_size=(32, 32)), device='cpu', validate_on=0)
    def sizes(cfg):
        return [(len(f), *f.latents.shape[2:]) for f, _ in cfg.make_task(torch.device('cpu')).data.stores.values()]
    fewer = replace(cfg, data=replace(cfg.data, n=3))
    smaller = replace(cfg, data=replace(cfg.data, image_size=(16, 16)))
    assert sizes(cfg) == [(6, 5, 4, 4)] and sizes(fewer) == [(3, 5, 4, 4)]
    assert sizes(smaller) == [(6, 5, 2, 2)] and sizes(replace(cfg, pictures=True)) == [(6, 1, 4, 4)]
    before = {f: f.stat().st_mtime_ns for f in (tmp_path/'features').rglob('latents-*')}
    assert len(before) == 3
    assert sizes(cfg) == [(6, 5, 4, 4)]
    assert before == {f: f.stat().st_mtime_ns for f in (tmp_path/'features').rglob('latents-*')}
    elsewhere = replace(fewer, features=str(tmp_path/'elsewhere'))
    assert sizes(elsewhere) == [(3, 5, 4, 4)] and stored(tmp_path/'elsewhere') == 3

# ---- damage

def cut(data): return data[:len(data)//2]
def emptied(data): return b''
def garbage(data): return bytes(reversed(data))
def flipped_first(data): return bytes([data[0] ^ 1]) + data[1:]
def flipped_header(data): return data[:20] + bytes([data[20] ^ 4]) + data[21:]
def flipped_middle(data): return data[:len(data)//2] + bytes([data[len(data)//2] ^ 128]) + data[len(data)//2+1:]
def flipped_last(data): return data[:-1] + bytes([data[-1] ^ 16])
DAMAGES = (cut, emptied, garbage, flipped_first, flipped_header, flipped_middle, flipped_last)

@pytest.mark.parametrize('damage', DAMAGES)
@pytest.mark.parametrize('kind', ['latents-0000004', 'captions'])
def test_a_damaged_file_is_made_anew(tmp_path, kind, damage):
    "Cut, emptied or one bit flipped: a warning that names the file, that part again, and the numbers of before"
    folder = build(toy(12), tmp_path, flush=0)
    good = Features(folder)
    file, = folder.glob(f'{kind}*')
    file.write_bytes(damage(file.read_bytes()))
    vae = Counts()
    with pytest.warns(UserWarning, match=f'{file.name} is damaged'):
        again = open_features(toy(12), vae, tmp_path, batch_size=4, progress=False)
    assert vae.done == (4 if kind.startswith('latents') else 0)
    assert torch.equal(again.latents, good.latents)
    assert [again.texts(i) for i in range(12)] == [good.texts(i) for i in range(12)]

@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_text_features_are_made_anew(tmp_path, damage):
    "The same of captions that a frozen encoder has read; those of other runs in the same entry stay"
    torch.manual_seed(0)
    encoder, asked = tiny_text(['a red circle moves left and up'], dim=16, max_length=12).requires_grad_(False), []
    class Asked:
        def encode(self, texts):
            asked.extend(texts)
            return encoder.encode(texts)
    words = ['a red circle', 'left', 'up', 'a circle']
    for k in (0, 2): folder = build_text(words[k:k+2], Asked, tmp_path, 'tiny', progress=False)
    want = TextFeatures(folder).encode(words)
    file = next(f for f in folder.glob('text-*') if b'circle' in f.read_bytes() and b'left' in f.read_bytes())
    file.write_bytes(damage(file.read_bytes()))
    asked.clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        assert build_text(words, Asked, tmp_path, 'tiny', progress=False) == folder
    assert [file.name in str(w.message) for w in told] == [True] and asked == words[:2]
    got = TextFeatures(folder, words).encode(words)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])

@pytest.mark.parametrize('about', ['null', '{', '', '[]', '{"kind": "latents", "clips": 999999999999}', None])
def test_a_damaged_description_is_written_again(tmp_path, about, capsys):
    "`about.json` only describes: whatever is in it, the latents are found, and the list shows what it can"
    folder = build(toy(4), tmp_path)
    file = folder/'about.json'
    if about is None: file.unlink()
    else: file.write_text(about)
    assert main(['data', 'features', str(tmp_path)]) == 0 and folder.name in capsys.readouterr().out
    assert len(open_features(toy(4), Refuses(), tmp_path, progress=False)) == 4
    assert json.loads(file.read_text())['clips'] == 4

# ---- disks

def test_a_disk_that_fills_up_keeps_what_was_written(tmp_path, monkeypatch):
    "The error names the file and says how much stays; with room again only the rest is encoded"
    real, calls = Path.write_bytes, []
    def full(self, data):
        if 'latents' in self.name: calls.append(1)
        if len(calls) > 2: raise OSError(28, 'No space left on device')
        return real(self, data)
    monkeypatch.setattr(Path, 'write_bytes', full)
    said = ('cannot write .*latents-0000008-.* 8 of 16 latents are encoded and stay; '
            'osnb data features .* --clear unused')
    with pytest.raises(OSError, match=said):
        build(toy(16), tmp_path, flush=0)
    monkeypatch.undo()
    vae = Counts()
    assert len(Features(build(toy(16), tmp_path, vae))) == 16 and vae.done == 8 and not list(tmp_path.rglob('*.part'))

def test_a_store_that_may_only_be_read(tmp_path, monkeypatch):
    "A class trains on its teacher's latents without the right to write there; the error names the folder"
    folder = build(toy(4), tmp_path)
    def no(*_, **__): raise PermissionError(13, 'Permission denied')
    for owner, name in ((store_module, 'hold'), (os, 'utime'), (Path, 'mkdir'), (Path, 'write_bytes')):
        monkeypatch.setattr(owner, name, no)
    assert len(open_features(toy(4), Refuses(), tmp_path, progress=False)) == 4
    assert trim(tmp_path, 1e-9) == []
    assert folder.exists()
    with pytest.raises(OSError, match=f'cannot write {tmp_path}'): build(toy(5), tmp_path)

def test_room_is_made_from_what_is_unused_for_longest(tmp_path, capsys):
    "Above features_gb the oldest unused latents go, each named; what another process uses stays, however old"
    folders = [build(toy(n), tmp_path) for n in (3, 4, 5)]
    for k, f in enumerate(folders): os.utime(f/'used', (0, 1.7e9 + k))
    live = child(3, tmp_path, 0., 'wait')
    until(lambda: 'clips 3' in live.stdout.readline(), live)
    os.utime(folders[0]/'used', (0, 1.6e9))
    sizes = {k.key: k.size for k in kept(tmp_path)}
    make_room(tmp_path, (sum(sizes.values()) - 1)/1e9)
    err = capsys.readouterr().err
    assert [f.exists() for f in folders] == [True, False, True]
    assert folders[1].name in err
    assert '4 of 4 latents' in err
    assert folders[2].name not in err
    make_room(tmp_path, 1e-9)
    assert [f.exists() for f in folders] == [True, False, False]
    live.kill()
    live.communicate()
    make_room(tmp_path, 1e-9)
    assert not folders[0].exists()

@pytest.mark.parametrize('gb', [-1., float('nan'), float('inf')])
def test_a_limit_that_is_none_is_refused(gb):
    "One sentence with what was given and what to try"
    with pytest.raises(ValueError, match=r'features_gb is a number( of at least 0)?, not .*; try 20'):
        T2VTrain(features_gb=gb)

# ---- osnb data features

def test_list_and_clear(tmp_path, capsys):
    "The list names clips, size, autoencoder and use; clearing takes a key, unused or all, and refuses what is in use"
    def osnb(*words): return main(['data', 'features', str(tmp_path), *words]), *capsys.readouterr()
    store = tmp_path/'features'
    used = open_features(toy(6), TinyVAE(), store, progress=False, vae_name='tiny')
    other, third = build(toy(4, seed=3), store), build(toy(2), store)
    code, out, _ = osnb()
    row = next(l for l in out.splitlines() if l.startswith(used.entry.key))
    assert code == 0
    assert '3 stored' in out
    assert '6 of 6 latents' in row
    assert '17x16x16' in row
    assert 'toy core, seed 0' in row
    assert 'by tiny' in row
    assert row.endswith('in use')
    assert 'seed 3' in next(l for l in out.splitlines() if l.startswith(other.name)) and out.count('in use') == 1
    code, _, err = osnb('--clear', used.entry.key)
    assert code == 1 and f'{used.entry.key} is in use by a process that runs now' in err and used.entry.folder.exists()
    code, out, _ = osnb('--clear', third.name)
    assert code == 0 and '1 deleted' in out and not third.exists() and other.exists()
    code, _, err = osnb('--clear', 'fffff')
    assert code == 1 and f'holds no fffff; there are ' in err
    code, out, _ = osnb('--clear', 'unused')
    assert code == 0 and not other.exists() and used.entry.folder.exists()
    code, _, err = osnb('--clear', 'all')
    assert code == 1 and '0 of 1 deleted' in err
    del used
    assert osnb('--clear', 'all')[0] == 0 and '0 stored' in osnb()[1]

def test_what_an_earlier_version_left_is_named_once(tmp_path, capsys):
    "The one-slot layout is not read; a run says so in one line, and clearing deletes its files and no other"
    store = tmp_path/'features'
    for d in (store, store/'17x64x64', tmp_path/'features_held'):
        d.mkdir()
        (d/'index.json').write_text('{}')
        (d/'latents-00000.safetensors').write_bytes(b'old')
    (store/'mine.txt').write_text('keep')
    make_room(store, 20)
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and '6 files' in err and 'of an earlier version, which are not read' in err
    build(toy(2), store)
    assert main(['data', 'features', str(tmp_path), '--clear', 'unused']) == 0
    assert sorted(p.name for p in store.rglob('*') if p.is_file() and not p.name.startswith('.')) == ['mine.txt']
    assert not list((tmp_path/'features_held').iterdir())

@pytest.mark.parametrize('words, message', [
    (['features', '/no/such/place'],       'there is no folder /no/such/place'),
    (['features', 'a', 'b'],               'takes one folder, not 2'),
    (['probe'],                            'osnb data probe needs a path'),
    (['probe', 'a.mp4', '--clear', 'all'], 'use it as osnb data features --clear all'),
])
def test_mistakes_are_one_sentence(words, message, capsys):
    "Nothing is deleted by a word in the wrong place"
    assert main(['data', *words]) == 1 and message in capsys.readouterr().err

def test_looking_leaves_no_trace(tmp_path):
    "A list of a folder that is no store makes no file in it"
    (tmp_path/'video').mkdir()
    assert main(['data', 'features', str(tmp_path/'video')]) == 0 and not list((tmp_path/'video').iterdir())

@pytest.mark.parametrize('buckets', ['', 'toy_mix'], ids=['one size', 'many sizes'])
def test_training_without_progress_shows_no_bar_of_its_data(buckets, tmp_path, monkeypatch):
    from tqdm import tqdm
    from opensora_nb.data import dataset, multi_size
    from opensora_nb.data.shapes import write_dataset
    from opensora_nb.train import loop
    table, shown = write_dataset(tmp_path/'toys', 4), []
    def bar(*args, disable=False, **how): # no bar is drawn, but each that would be is noted
        if not disable: shown.append(how['desc'])
        return tqdm(*args, **how | dict(disable=True))
    for module in (features_module, dataset, multi_size, loop): monkeypatch.setattr(module, 'tqdm', bar)
    def run(name, progress):
        shown.clear()
        data = DataConfig(path=str(table))
        loop.train(T2VTrain(name=name, out=str(tmp_path), data=data, buckets=buckets, steps=1, batch_size=2,
                            max_batch=2*bool(buckets), preview_every=0, device='cpu',
                            features=str(tmp_path/name)), progress)
        return set(shown)
    assert run('silent', False) == set()
    assert run('loud', True) == {'reading clips' if buckets else 'checking clips', 'latents', 'loud'}
