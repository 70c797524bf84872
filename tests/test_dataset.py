"Bad tables and files as people really have them, and a build of features that is killed"
import os, signal, subprocess, sys, time, warnings
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from ranks import together
from opensora_nb.data.dataset import ClipFiles, DataConfig, ToySource, open_data, open_source, read_table
from opensora_nb.data.video_io import write_image, write_video
from opensora_nb.train.features import Features, build_features

ROOT = Path(__file__).resolve().parent.parent

def clip(n=20, size=(24, 32), seed=0): return np.random.default_rng(seed).integers(0, 256, (n, *size, 3), np.uint8)

class TinyVAE(nn.Module):
    "Stands for a VideoVAE: the same call, in no time"
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(3, 4, (4, 8, 8), (4, 8, 8))
    def encode(self, x, sample=False): return self.conv(x)

@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(('a.mp4', 'sub/b.webm')): write_video(tmp_path/name, clip(seed=i), fps=10)
    (tmp_path/'meta.csv').write_text('path,text\na.mp4,one\nsub/b.webm,two\n')
    return tmp_path

# ---- tables

@pytest.mark.parametrize('data, says', [
    (b'',                        'is empty'),
    (b'\n\n',                    'is empty'),
    # as Open-Sora 1.0 wrote them, without a header
    (b'a.mp4,a red circle\n',    'has no column path and no column text; its columns are: a.mp4, a red circle'),
    (b'Path,Text\na.mp4,x\n',    'has no column path'),
    (b'path,text\n',             'no rows'),
    (b'path,text\na.mp4\n',      'row 2: text is empty'),
    (b'path,text\n ,x\n',        'row 2: path is empty'),
    ('path,text\na.mp4,café\n'.encode('latin-1'), 'not UTF-8'),
])
def test_bad_table(tmp_path, data, says):
    (tmp_path/'t.csv').write_bytes(data)
    with pytest.raises(ValueError, match=says) as e: read_table(tmp_path/'t.csv')
    assert 't.csv' in str(e.value) and '\n' not in str(e.value)

def test_table_as_spreadsheets_write_it(tmp_path):
    (tmp_path/'t.csv').write_bytes('\ufeffpath,text,fps\r\na.mp4,"red, ""very"" red\r\ncircle",8\r\n'.encode())
    assert read_table(tmp_path/'t.csv') == [(tmp_path/'a.mp4', ["red, \"very\" red\ncircle"])]

def test_missing_table(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no table'): open_source(tmp_path/'nothing.csv')
    with pytest.raises(FileNotFoundError): open_source(tmp_path/'nothing')

# ---- files

def test_paths_are_relative_to_the_table(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    src = open_source(folder/'meta.csv', num_frames=5, image_size=(16, 16), progress=False)
    assert len(src) == 2 and src.clip(1).shape == (5, 16, 16, 3) and src.fps == 10

def test_all_kinds_of_bad_files_are_named_and_counted(folder):
    (folder/'torn.mp4').write_bytes((folder/'a.mp4').read_bytes()[:-500])
    (folder/'text.mp4').write_text('hello')
    (folder/'zero.png').write_bytes(b'')
    write_video(folder/'short.mp4', clip(3))
    names = ['torn.mp4', 'text.mp4', 'zero.png', 'short.mp4', 'gone.mp4', 'notes.pdf']
    (folder/'meta.csv').write_text('path,text\na.mp4,x\n' + ''.join(f'{n},x\n' for n in names))
    with pytest.warns(UserWarning) as said: src = open_source(folder/'meta.csv', num_frames=10, progress=False)
    text = [str(w.message) for w in said]
    assert len(src) == 1 and '1 of 7 files used, 6 left out' in text[-1]
    assert all(any(n in t for t in text) for n in names)

def test_no_usable_clip(folder):
    with warnings.catch_warnings(), pytest.raises(ValueError, match='no usable file among 2.*need 50'):
        warnings.simplefilter('ignore')
        open_source(folder/'meta.csv', num_frames=50, progress=False)

def test_same_clip_for_everyone(folder):
    "The clip of (seed, epoch, file) depends neither on who asks nor on what else is in the table"
    files = [(folder/'a.mp4', ['one']), (folder/'sub/b.webm', ['two', 'three'])]
    both, alone = ClipFiles(files, 4, (16, 16), 2), ClipFiles(files[1:], 4, (16, 16), 2)
    for e in range(5):
        assert np.array_equal(both.clip(1, e), alone.clip(0, e))
        assert both.sample(1, e)['text'] == alone.sample(0, e)['text']
    assert len({both.window(0, e)[0] for e in range(40)}) > 5
    assert ClipFiles(files, 4, seed=1).window(0)[0] != ClipFiles(files, 4, seed=0).window(0)[0] or \
           ClipFiles(files, 4, seed=2).window(0)[0] != ClipFiles(files, 4, seed=0).window(0)[0]

def test_picture_source(tmp_path):
    write_image(tmp_path/'a.png', clip(1)[0])
    src = open_source(tmp_path, num_frames=1, image_size=(16, 16), progress=False)
    assert src.clip(0).shape == (1, 16, 16, 3) and src.fps_of(0) == 120 and src.repeatable and src.texts(0) == []

def test_fingerprint_sees_files_and_captions(folder):
    def fp(): return open_source(folder/'meta.csv', num_frames=4, progress=False).fingerprint()
    first = fp()
    assert first == fp()
    (folder/'meta.csv').write_text('path,text\na.mp4,ONE\nsub/b.webm,two\n')
    second = fp()
    write_video(folder/'a.mp4', clip(seed=7), fps=10)
    assert len({first, second, fp()}) == 3

def test_toy_config_is_strict():
    assert len(open_data(DataConfig(n=3))) == 3
    with pytest.raises(ValueError): ToySource(3, level='kore').clip(0)
    with pytest.raises(ValueError): ToySource(3, level='core:-1').clip(0)

# ---- features

SCRIPT = '''
import sys, time; sys.path.insert(0, {tests!r})
from test_dataset import TinyVAE, ToySource, build_features
class Slow(TinyVAE):
    def encode(self, x, sample=False): time.sleep(0.2); return super().encode(x)
Slow.__name__ = 'TinyVAE'
build_features(ToySource(40, image_size=(16, 16)), Slow(), {out!r}, batch_size=4, flush=0.3, progress=False)
'''

def test_killed_build_goes_on(tmp_path, capsys):
    "SIGKILL in the middle: what was written stays as it is, the rest is made, the result is that of an undisturbed run"
    src, out = ToySource(40, image_size=(16, 16)), tmp_path/'f'
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    p = subprocess.Popen([sys.executable, '-c', SCRIPT.format(tests=str(ROOT/'tests'), out=str(out))], env=env)
    until = time.time() + 120
    while len(list(out.glob('*/latents-*'))) < 2:
        assert time.time() < until and p.poll() is None
        time.sleep(.02)
    p.send_signal(signal.SIGKILL)
    p.wait()
    kept = {f: f.stat().st_mtime_ns for f in out.glob('*/latents-*')}
    entry, = {f.parent for f in kept}
    done = sum(int(f.name.split('-')[2]) - int(f.name.split('-')[1]) for f in kept)
    assert 2 <= len(kept) and 0 < done < 40
    with pytest.raises(ValueError, match=f'{done} of 40 latents are there'): Features(entry)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        build_features(src, TinyVAE(), out, batch_size=4, progress=False)
    assert f'latents: {done} of 40 are there already' in capsys.readouterr().err
    assert all(f.stat().st_mtime_ns == t for f, t in kept.items()) and not list(entry.glob('.*.part'))
    a, b = Features(entry), Features(build_features(src, TinyVAE(), tmp_path/'g', batch_size=4, progress=False))
    assert torch.equal(a.latents, b.latents) and all(a.texts(i) == b.texts(i) for i in range(40))

SHARED = """
import sys
from accelerate import PartialState
from test_dataset import TinyVAE, ToySource, build_features
import opensora_nb.train.features as features
features.BLOCK = 8
class Counted(TinyVAE):
    clips = 0
    def encode(self, x, sample=False):
        Counted.clips += len(x)
        return super().encode(x)
Counted.__name__ = 'TinyVAE'
src = ToySource(40, image_size=(16, 16))
where = build_features(src, Counted(), sys.argv[1], batch_size=4, progress=False, state=PartialState(cpu=True))
print('clips', Counted.clips, where)
"""

@pytest.mark.parametrize('disk', ['shared', 'own'])
def test_processes_share_the_encoding(tmp_path, disk):
    """Blocks one and three of five are the second process's; a machine that does not see the other's files makes them
    itself; what was there before stays"""
    earlier = ToySource(16, seed=9, image_size=(16, 16))
    before = build_features(earlier, TinyVAE(), tmp_path/'0', batch_size=4, progress=False)
    def folder(rank): return str(tmp_path/('0' if disk == 'shared' else str(rank)))
    said = together(SHARED, tmp_path, lambda r: [folder(r)], lambda r: r if disk == 'shared' else 0)
    count, where = zip(*(s.split('clips ')[1].split() for s in said))
    assert [int(c) for c in count] == ([24, 16] if disk == 'shared' else [40, 40])
    alone = Features(build_features(ToySource(40, image_size=(16, 16)), TinyVAE(), tmp_path/'g', batch_size=4,
                                    progress=False))
    for w in where: assert torch.equal(Features(w).latents, alone.latents) and Features(w).texts(39) == alone.texts(39)
    assert len(Features(before)) == 16

def test_features_of_files(folder):
    src = open_source(folder/'meta.csv', num_frames=8, image_size=(16, 16), progress=False)
    f = Features(build_features(src, TinyVAE(), folder/'feats', progress=False))
    assert f.latents.shape == (2, 4, 2, 2, 2) and f.texts(1) == ['two'] and f.fps.tolist() == [10, 10]

def test_what_differs_gets_a_place_of_its_own(tmp_path):
    "Another VAE, other clips or another format never replace latents that are there"
    src, other = ToySource(4, image_size=(16, 16)), TinyVAE()
    with torch.no_grad(): other.conv.bias += 1e-3
    def build(src, vae, **how): return build_features(src, vae, tmp_path, progress=False, **how)
    first = build(src, TinyVAE())
    file, = first.glob('latents-*')
    before = file.stat().st_mtime_ns
    assert build(src, TinyVAE()) == first and file.stat().st_mtime_ns == before          # nothing to do, nothing done
    more = [build(src, other), build(ToySource(4, seed=9, image_size=(16, 16)), other),
            build(src, TinyVAE(), dtype=torch.bfloat16), build(ToySource(5, image_size=(16, 16)), TinyVAE())]
    assert len({first, *more}) == 5
    assert file.stat().st_mtime_ns == before
    assert [len(Features(f)) for f in (first, *more)] == [4, 4, 4, 4, 5]

def test_overflow_is_said(tmp_path):
    big = TinyVAE()
    with torch.no_grad(): big.conv.bias += 1e6
    with pytest.raises(ValueError, match='NaN or numbers beyond 65504'):
        build_features(ToySource(2, image_size=(16, 16)), big, tmp_path, progress=False)
    assert not list(tmp_path.rglob('latents-*'))

def test_full_disk(tmp_path, monkeypatch):
    "One sentence, and no half file"
    import opensora_nb.data.video_io as io_
    def build(): return build_features(ToySource(2, image_size=(16, 16)), TinyVAE(), tmp_path/'f', progress=False)
    real = Path.write_bytes
    def full(self, data):
        if 'latents' in self.name:
            real(self, data[:10])
            raise OSError(28, 'No space left on device')
        return real(self, data)
    monkeypatch.setattr(io_.Path, 'write_bytes', full)
    said = 'latents.*No space left.* 0 of 2 latents are encoded and stay; osnb data features .* --clear unused'
    with pytest.raises(OSError, match=said):
        build()
    assert not list((tmp_path/'f').rglob('*latents-*'))
    monkeypatch.undo()
    assert len(Features(build())) == 2
