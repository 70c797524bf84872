"Video files of the real world and of the bad day: what the page 02_data/01_video_io cannot show"
import csv, errno, os, subprocess, sys, warnings
from pathlib import Path
import av, numpy as np, pytest
from av.stream import Disposition
from opensora_nb.core import real_data
from opensora_nb.data.video_io import (ReadReport, VideoInfo, frame_times, probe, read_frames, read_image, read_video,
                                       readable, write_atomic, write_image, write_video)

ROOT = real_data()
needs_real = pytest.mark.skipif(
    ROOT is None, reason="the folder of real clips (../shared/data or $OPENSORA_NB_REAL_DATA) is absent")

def manifest(kind): # rows of MANIFEST.csv for videos or pictures
    if ROOT is None: return []
    with open(ROOT/'MANIFEST.csv', newline='', encoding='utf-8') as f:
        return [r for r in csv.DictReader(f) if Path(r['file']).suffix in kind and (ROOT/r['file']).exists()]

def moving(f=17, h=32, w=48):
    i, y, x = np.ogrid[:f, :h, :w]
    return np.stack([(x*5 + i*3) % 256 + 0*y, (y*7) % 256 + 0*x + 0*i, (x + y + i*2) % 256], -1).astype(np.uint8)

@needs_real
def test_real_videos_match_their_manifest():
    rows = manifest(('.mp4', '.webm'))
    assert len(rows) >= 15
    for r in rows:
        info = probe(ROOT/r['file'])
        size = tuple(int(r[k]) for k in ('frames', 'height', 'width'))
        assert (info.num_frames, info.height, info.width) == size, r['file']
        assert abs(info.fps - float(r['fps'])) < .01 and abs(info.seconds - float(r['seconds'])) < .05, r['file']

@needs_real
def test_real_videos_decode_to_the_end():
    for r in manifest(('.mp4', '.webm')): # every frame is decoded and counted; one past the last is refused
        with pytest.raises(ValueError, match=f"has {r['frames']} frames, so none from frame {r['frames']} on"):
            read_video(ROOT/r['file'], start=int(r['frames']))

@needs_real
def test_real_videos_hold_pictures():
    for r in manifest(('.mp4', '.webm')):
        clip = read_video(ROOT/r['file'], start=3, num_frames=2, step=4)
        assert clip.shape == (2, int(r['height']), int(r['width']), 3) and clip.dtype == np.uint8
        # not one flat colour (that one fades in from black)
        assert r['file'] == 'clips/bbb_opening_30s.webm' or clip.std() > 5, r['file']

@needs_real
def test_real_pictures():
    rows = manifest(('.png', '.jpg'))
    assert len(rows) >= 10
    for r in rows: assert read_image(ROOT/r['file']).shape == (int(r['height']), int(r['width']), 3), r['file']

@needs_real
def test_several_streams():
    p = ROOT/'clips'/'nasa_13013_multistream.mp4'
    assert probe(p) == VideoInfo(325, 180, 320, 25., 'h264', True, 2)
    assert (probe(p, stream=1).num_frames, probe(p, stream=1).height) == (390, 270)
    # the second stream alone was stream-copied to its own file: same pictures
    assert (read_video(p, 20, 3, stream=1) == read_video(ROOT/'clips'/'nasa_webb.mp4', 20, 3)).all()

@needs_real
def test_a_real_file_cut_short_is_refused(tmp_path):
    src = (ROOT/'clips'/'stream_of_water.mp4').read_bytes()
    for part in (.2, .5, .95):
        cut = tmp_path/'cut.mp4'
        cut.write_bytes(src[:int(len(src)*part)])
        with pytest.raises(ValueError, match=r'not a readable video|is damaged'): read_video(cut)

def two_streams(path): # a file with two film sizes and sound
    with av.open(str(path), 'w') as c:
        vs = []
        for h, w in ((32, 48), (64, 96)):
            s = c.add_stream('libx264', rate=10)
            s.height, s.width, s.pix_fmt = h, w, 'yuv420p'
            vs.append((s, moving(12, h, w)))
        a = c.add_stream('aac', rate=8000, layout='mono')
        for s, clip in vs:
            for img in clip: c.mux(s.encode(av.VideoFrame.from_ndarray(img, format='rgb24')))
            c.mux(s.encode())
        wave = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
        wave.rate = 8000
        c.mux(a.encode(wave))
        c.mux(a.encode())

def test_sound_and_two_videos_made_here(tmp_path):
    p = tmp_path/'two.mp4'
    two_streams(p)
    assert probe(p) == VideoInfo(12, 32, 48, 10., 'h264', True, 2)
    assert read_video(p).shape == (12, 32, 48, 3) and read_video(p, stream=1).shape == (12, 64, 96, 3)
    with pytest.raises(ValueError, match='has 2 video streams, so stream 2 does not exist'): read_video(p, stream=2)

def test_a_film_held_sideways_is_turned(tmp_path):
    "Phones store the picture lying down and a matrix in the file's track header"
    p = write_video(tmp_path/'a.mp4', moving())
    data, one = bytearray(p.read_bytes()), (0x10000).to_bytes(4, 'big')
    at = data.index(b'tkhd') + 4 + 40                                     # 3x3 matrix: [a b u; c d v; x y w]
    assert data[at:at+4] == one
    minus = (0xFFFF0000).to_bytes(4, 'big')
    zero = bytes(4)
    # a quarter turn clockwise
    data[at:at+32] = zero + one + zero + minus + zero + zero + (32 << 16).to_bytes(4, 'big') + zero
    (tmp_path/'turned.mp4').write_bytes(data)
    plain, turned = read_video(p), read_video(tmp_path/'turned.mp4')
    assert turned.shape == (17, 48, 32, 3) and (turned == np.rot90(plain, -1, (1, 2))).all()
    assert (probe(tmp_path/'turned.mp4').height, probe(tmp_path/'turned.mp4').width) == (48, 32)

def test_a_cover_picture_is_not_the_film(tmp_path):
    p = tmp_path/'cover.mp4'
    with av.open(str(p), 'w') as c:
        cover, film = c.add_stream('mjpeg', rate=10), c.add_stream('libx264', rate=10)
        cover.height, cover.width, cover.pix_fmt, cover.disposition = 64, 64, 'yuvj420p', Disposition.attached_pic
        film.height, film.width, film.pix_fmt = 32, 48, 'yuv420p'
        for s, clip in ((cover, moving(1, 64, 64)), (film, moving(9))):
            for img in clip: c.mux(s.encode(av.VideoFrame.from_ndarray(img, format='rgb24')))
            c.mux(s.encode())
    with av.open(str(p)) as c: assert len(c.streams.video) == 2
    assert probe(p) == VideoInfo(9, 32, 48, 10., 'h264', False, 1) and read_video(p).shape == (9, 32, 48, 3)
    with pytest.raises(ValueError, match='has 1 video streams, so stream 1 does not exist'): read_video(p, stream=1)

@pytest.mark.parametrize('name, content', [
    ('page.mp4',   b'<html>'*50),
    ('empty.webm', b''),
    ('noise.avi',  bytes(range(256))*40),
    ('text.mkv',   b'hello\n'*99),
])
def test_what_is_not_a_video_is_one_sentence(tmp_path, name, content):
    (tmp_path/name).write_bytes(content)
    for f in (probe, read_video, read_frames):
        with pytest.raises(ValueError, match='is not a readable video') as e: f(tmp_path/name)
        assert name in str(e.value) and '\n' not in str(e.value) and str(len(content)) in str(e.value)

def test_bad_pictures(tmp_path):
    good = write_image(tmp_path/'a.png', np.random.default_rng(0).integers(0, 255, (32, 48, 3)).astype(np.uint8))
    (tmp_path/'cut.png').write_bytes(good.read_bytes()[:100])
    (tmp_path/'text.jpg').write_text('no picture')
    for n in ('cut.png', 'text.jpg'):
        with pytest.raises(ValueError, match='is not a readable picture'): read_image(tmp_path/n)
    with pytest.raises(FileNotFoundError, match='no such file'): read_image(tmp_path/'none.png')
    with pytest.raises(ValueError, match='is a folder'):
        (tmp_path/'d.png').mkdir()
        read_image(tmp_path/'d.png')

def test_a_failed_rename_leaves_the_old_file(tmp_path, monkeypatch):
    p = write_video(tmp_path/'a.mp4', moving())
    before = p.read_bytes()
    def full(*_): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, 'replace', full)
    said = r'cannot write .*a.mp4 \(\d+ KB\): No space left on device; free some space'
    with pytest.raises(OSError, match=said) as e:
        write_video(p, moving()[::-1])
    assert e.value.errno == errno.ENOSPC
    assert p.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ['a.mp4']

def test_disk_full_while_writing(tmp_path):
    "A process that may not write more than 1 KB, as on a full disk: one sentence, nothing left behind"
    pytest.importorskip('resource')
    code = ("import resource, sys, numpy as np\n"
            "from opensora_nb.data.video_io import write_video\n"
            "clip = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3)).astype(np.uint8)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
            "for name in ('a.mp4', 'a.webm', 'a.gif', 'a.png'):\n"
            "    try: write_video(sys.argv[1] + '/' + name, clip)\n"
            "    except OSError as e: print(e)\n")
    done = subprocess.run([sys.executable, '-c', code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 4, done.stderr
    assert all('cannot write' in l and 'free some space or choose another folder' in l for l in lines)
    assert list(tmp_path.iterdir()) == []

def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path/'file').write_text('in the way')
    with pytest.raises(OSError, match='cannot write'): write_atomic(tmp_path/'file'/'a.mp4', b'x')
    assert (tmp_path/'file').read_text() == 'in the way'

def gradient(f, h=64, w=64): # smooth motion, on which x264's defaults were seen to differ most
    i, y, x = np.ogrid[:f, :h, :w]
    waves = [127.5 + 110*np.sin((x + 3*i)/w*2*np.pi + a)*(.4 + .6*y/h) for a in (0, 2, 4)]
    return np.stack(waves, -1).round().astype(np.uint8)

@pytest.mark.parametrize('suffix, times', [('.mp4', 40), ('.webm', 5), ('.avi', 5), ('.gif', 3), ('.png', 3)])
def test_same_clip_same_bytes(tmp_path, suffix, times):
    "x264's default rate control breaks this now and then, so one repetition proves nothing"
    clip = gradient(51)
    files = {write_video(tmp_path/f'a{suffix}', clip).read_bytes() for _ in range(times)}
    assert len(files) == 1

def test_colours_survive(tmp_path):
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 64, 200)):
        clip = np.full((3, 32, 32, 3), colour, np.uint8)
        for suffix in ('.mp4', '.webm', '.avi', '.gif'):
            back = read_video(write_video(tmp_path/f'a{suffix}', clip))
            assert np.abs(back.astype(int) - clip).max() <= 6, (suffix, colour)

def test_the_report_counts(tmp_path):
    files = [write_video(tmp_path/f'{i}.mp4', moving(9)) for i in range(3)]
    files.append(write_video(tmp_path/'short.mp4', moving(4)))
    (tmp_path/'bad.mp4').write_text('no')
    report = ReadReport()
    with pytest.warns(UserWarning) as said: got = list(readable([*files, tmp_path/'bad.mp4'], 9, report))
    assert len(got) == report.good == 3 and [p.name for p, _ in report.skipped] == ['short.mp4', 'bad.mp4']
    texts = [str(w.message) for w in said]
    assert 'short.mp4' in texts[0]
    assert '4 frames, 9 are needed' in texts[0]
    assert texts[-1] == '3 of 5 files used, 2 left out'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(list(readable(files[:3], 9))) == 3 # no warning when all is well

def test_a_file_that_changed_is_looked_at_again(tmp_path):
    "`probe` remembers the last files, but not one that was written anew"
    path, clip = tmp_path/'a.mp4', np.zeros((8, 32, 32, 3), np.uint8)
    write_video(path, clip, fps=8)
    assert probe(path).num_frames == len(frame_times(path)) == 8
    write_video(path, clip[:5], fps=8)
    assert probe(path).num_frames == len(frame_times(path)) == 5
    with pytest.raises(ValueError): frame_times(path)[0] = 1 # shared with whoever asks next
