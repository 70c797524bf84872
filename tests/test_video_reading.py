"""Video files as other programs write them: trimmed, in fragments, uneven, mirrored, wide pixels, changing sizes.

The right values come from ffmpeg itself (packets, timestamps, filters) or from the numbers a file was made with."""
import io, time
from fractions import Fraction
import av, numpy as np, pytest
from odd_files import sound_only
from opensora_nb.data import video_io
from opensora_nb.data.bucket import file_size
from opensora_nb.data.dataset import ClipFiles
from opensora_nb.data.transforms import resize_crop_to_fill
from opensora_nb.data.video_io import probe, read_video, write_video
from opensora_nb.sample.condition import count_frames, read_reference

MILLI = Fraction(1, 1000)

def moving(f=60, h=64, w=96):
    "A gradient that slides: no two frames are equal"
    i, y, x = np.ogrid[:f, :h, :w]
    return np.stack([(x*2 + i*3) % 256 + 0*y, (y*3 + i) % 256 + 0*x, (x + y + i*2) % 256], -1).astype(np.uint8)

def record(path, clip, codec='libx264', rate=30, ms=None, format=None, matrix=None, aspect=None, gop=250, **options):
    "Write a file with PyAV alone; ms: when each frame is shown"
    with av.open(path if hasattr(path, 'write') else str(path), 'w', format=format, options=options) as c:
        s = c.add_stream(codec, rate=Fraction(rate).limit_denominator(1001))
        s.height, s.width = clip.shape[1:3]
        s.pix_fmt = dict(gif='rgb8', mjpeg='yuvj420p').get(codec, 'yuv420p')
        s.codec_context.gop_size = gop
        if aspect: s.codec_context.sample_aspect_ratio = aspect
        if matrix: s.set_display_matrix(matrix)
        if ms is not None: s.codec_context.time_base = MILLI
        for i, image in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(image, format='rgb24')
            if ms is not None: frame.pts, frame.time_base = ms[i], MILLI
            c.mux(s.encode(frame))
        c.mux(s.encode())
    return path

def copy_packets(source, path, change=lambda packet: packet, format=None):
    "Copy a file packet by packet, without decoding; change returns another packet, or None to leave one out"
    with av.open(str(source)) as a, av.open(str(path), 'w', format=format) as b:
        old = a.streams.video[0]
        new = b.add_stream_from_template(old)
        for packet in a.demux(old):
            if packet.dts is None: continue
            packet = change(packet)
            if packet is None: continue
            packet.stream = new
            b.mux(packet)
    return path

def trimmed(source, path, seconds):
    "`ffmpeg -ss SECONDS -c copy`: the packets from the last key frame on; an edit list hides what comes before"
    with av.open(str(source)) as a, av.open(str(path), 'w') as b:
        old = a.streams.video[0]
        new, start = b.add_stream_from_template(old), int(seconds/old.time_base)
        a.seek(start, stream=old)
        for packet in a.demux(old):
            if packet.dts is None: continue
            packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, new
            b.mux(packet)
    return path

def by_ffmpeg(path, *filters):
    "All frames as RGB, after a chain of ffmpeg's filters"
    with av.open(str(path)) as c:
        s, graph, out = c.streams.video[0], av.filter.Graph(), []
        added = [graph.add(*f) for f in filters]
        nodes = [graph.add_buffer(template=s), *added, graph.add('format', 'rgb24'), graph.add('buffersink')]
        graph.link_nodes(*nodes).configure()
        def pull():
            while True:
                try: out.append(graph.pull().to_ndarray())
                except (BlockingIOError, EOFError): return
        for frame in c.decode(s):
            graph.push(frame)
            pull()
        graph.push(None)
        pull()
    return np.stack(out)

def stamps(path):
    "Seconds at which the packets that are shown begin, in order"
    with av.open(str(path)) as c:
        return sorted(float(p.pts*p.time_base) for p in c.demux(c.streams.video[0]) if p.size and not p.is_discard)

def source_of(path, num_frames, size=(64, 96), **settings):
    return ClipFiles([(path, ['x'])], num_frames, size, **settings)

# ---- what is there, not what the header says

@pytest.mark.parametrize('suffix, gop, seconds, lasting', [
    ('.mp4', 250, 1.5, 15),
    ('.mp4', 10,  .5,  45),
    ('.mov', 12,  1.1, 27),
])
def test_a_film_trimmed_without_encoding_it_again(tmp_path, suffix, gop, seconds, lasting, recwarn):
    "The frames from the cut on, without a complaint; training keeps the file"
    whole = record(tmp_path/f'whole{suffix}', moving(), gop=gop)
    part = trimmed(whole, tmp_path/f'part{suffix}', seconds)
    with av.open(str(part)) as c: assert c.streams.video[0].frames > lasting # the header still counts what is hidden
    info = probe(part)
    assert (info.num_frames, info.fps, info.steady) == (lasting, 30, True)
    assert np.array_equal(read_video(part), by_ffmpeg(whole)[-lasting:])
    assert len(source_of(part, lasting).usable(progress=False)) == 1 and not recwarn.list
    with pytest.raises(ValueError, match=f'{lasting} frames are too few'): source_of(part, lasting + 1).clip(0)

class Pipe(io.RawIOBase):
    "Where a program writes that cannot go back to fill in the header"
    def __init__(self): self.data = bytearray()
    def writable(self): return True
    def seekable(self): return False
    def write(self, data):
        self.data += bytes(data)
        return len(data)

@pytest.mark.parametrize('name, codec', [
    ('a.avi',  'mpeg4'),
    ('a.mkv',  'libx264'),
    ('a.webm', 'libvpx-vp9'),
    ('a.gif',  'gif'),
])
def test_a_film_written_to_a_pipe(tmp_path, name, codec):
    "Its header knows no length, or claims 1,073,741,824 frames: 60 are there"
    pipe = record(Pipe(), moving(), codec, 10, format={'mkv': 'matroska'}.get(name[2:], name[2:]))
    (tmp_path/name).write_bytes(pipe.data)
    assert (probe(tmp_path/name).num_frames, probe(tmp_path/name).fps) == (60, 10)
    assert np.array_equal(read_video(tmp_path/name), by_ffmpeg(tmp_path/name))

def test_an_avi_with_dropped_frames(tmp_path, recwarn):
    "A slow camera leaves gaps: 48 of 60 frames are there, and nothing is damaged"
    whole = record(tmp_path/'whole.avi', moving(), 'mpeg4')
    holes = copy_packets(whole, tmp_path/'holes.avi', lambda p: None if p.dts % 5 == 3 else p)
    info = probe(holes)
    assert (info.num_frames, info.steady) == (48, False) and info.fps == pytest.approx(47/(59/30))
    assert np.array_equal(read_video(holes), by_ffmpeg(holes))
    assert len(source_of(holes, 48).usable(progress=False)) == 1 and not recwarn.list

@pytest.mark.parametrize('suffix', ['.avi', '.mp4', '.mkv'])
def test_mpeg4_frames_that_say_as_before(tmp_path, suffix):
    "A packet that holds no picture (coded = 0) is how DivX and Xvid drop a frame"
    whole = record(tmp_path/'whole.avi', moving(30), 'mpeg4')
    def no_picture(packet):
        if packet.dts not in (4, 5, 15): return packet
        bits = f'0101{packet.dts:05b}10' # a predicted frame at this time, not coded
        bits += '0' + '1'*(-(len(bits) + 1) % 8)
        out = av.Packet(b'\0\0\1\xb6' + int(bits, 2).to_bytes(len(bits)//8, 'big'))
        out.pts, out.dts, out.time_base, out.duration = packet.pts, packet.dts, packet.time_base, packet.duration
        return out
    holes = copy_packets(whole, tmp_path/f'holes{suffix}', no_picture)
    assert len(stamps(holes)) == 30 and len(by_ffmpeg(holes)) == 27
    assert probe(holes).num_frames == 27 and np.array_equal(read_video(holes), by_ffmpeg(holes))

@pytest.mark.parametrize('flags', [
    'frag_keyframe', 'frag_keyframe+empty_moov', 'frag_keyframe+empty_moov+default_base_moof+global_sidx'])
def test_an_mp4_in_fragments(tmp_path, flags):
    "Cameras and browsers write MP4 piece by piece; all 90 frames count, and training sees the last ones"
    path = record(tmp_path/'a.mp4', moving(90), gop=30, movflags=flags)
    with av.open(str(path)) as c: assert c.streams.video[0].frames < 40
    assert (probe(path).num_frames, probe(path).fps) == (90, 30) and np.array_equal(read_video(path), by_ffmpeg(path))
    source = source_of(path, 40)
    assert {int(source.window(0, e)[0]) for e in range(400)} == set(range(51))
    assert source.clip(0).shape == (40, 64, 96, 3)

def test_a_film_that_begins_between_key_frames(tmp_path):
    "Frames before the first complete picture cannot be shown, so they do not count"
    whole = record(tmp_path/'whole.mkv', moving(), gop=10)
    seen = []
    late = copy_packets(whole, tmp_path/'late.mkv', lambda p: seen.append(p) if len(seen) < 4 else p)
    assert probe(late).num_frames == len(read_video(late)) == len(by_ffmpeg(late)) < len(stamps(late))

# ---- the rate

# milliseconds; 10 frames a second on average
UNEVEN = np.cumsum(np.random.default_rng(0).integers(20, 180, 60)).tolist()

@pytest.mark.parametrize('name, codec', [
    ('a.mkv',  'libx264'),
    ('a.webm', 'libvpx-vp9'),
    ('b.webm', 'libvpx'),
    ('a.mp4',  'libx264'),
    ('a.mov',  'libx264'),
])
def test_a_screen_recording_with_an_uneven_rate(tmp_path, name, codec):
    "30 frames a second in the header, 10 by the clock; clips and references go by the clock, like ffmpeg's fps filter"
    path = record(tmp_path/name, moving(), codec, ms=UNEVEN)
    real = 59/((UNEVEN[-1] - UNEVEN[0])/1000)
    info = probe(path)
    assert info.fps == pytest.approx(real, rel=1e-3) and not info.steady and abs(real - 10) < .5
    assert video_io.frame_times(path) == pytest.approx(np.array(UNEVEN)/1000 - UNEVEN[0]/1000, abs=1.1e-3)
    assert np.array_equal(read_video(path), by_ffmpeg(path)) # all frames, once each
    rate = Fraction(59*1000, UNEVEN[-1] - UNEVEN[0])
    evenly = by_ffmpeg(path, ('setpts', 'PTS-STARTPTS'), ('fps', f'fps={rate}:eof_action=pass'))
    assert len(evenly) == 60 and not np.array_equal(evenly, by_ffmpeg(path))
    assert np.array_equal(source_of(path, 60).clip(0), evenly)
    source, cold = source_of(path, 9, frame_interval=3), source_of(path, 9, frame_interval=3)
    cold.left = 0 # read anew each time
    for epoch in range(5):
        at = np.flatnonzero([np.array_equal(f, source.clip(0, epoch)[0]) for f in evenly])
        assert any(np.array_equal(source.clip(0, epoch), evenly[a:a+25:3]) for a in at)
        assert np.array_equal(source.clip(0, epoch), cold.clip(0, epoch))
    assert source.fps_of(0) == pytest.approx(real/3, rel=1e-3)
    assert np.array_equal(read_reference(path, (64, 96)), evenly) and count_frames(path) == 60

@pytest.mark.parametrize('name, codec', [('a.mkv', 'libx264'), ('a.webm', 'libvpx-vp9'), ('a.mp4', 'libx264')])
def test_a_header_that_claims_another_steady_rate(tmp_path, name, codec):
    "30 frames a second are claimed and every frame is shown for a tenth of a second: the rate is 10, and steady"
    path = record(tmp_path/name, moving(20), codec, 30, ms=list(range(500, 2500, 100)))
    assert probe(path).fps == pytest.approx(10) and probe(path).steady

@pytest.mark.parametrize('rate', [Fraction(30000, 1001), Fraction(24000, 1001), 25, 60])
def test_broadcast_rates_stay_exact_where_timestamps_are_rounded(tmp_path, rate):
    "MKV rounds to milliseconds; 30000/1001 is still 30000/1001"
    for n in (2, 3, 60):
        path = record(tmp_path/'a.mkv', moving(n), rate=rate)
        assert (probe(path).fps, probe(path).steady) == (float(rate), True)

# ---- what a viewer sees

ONE, W = 1 << 16, 1 << 30
# a, b, c, d of the matrix -> what ffmpeg's player does with it: first a turn, then a mirror
TURNS = {
    (1, 0, 0, 1):   [],
    (-1, 0, 0, 1):  [('hflip',)],
    (1, 0, 0, -1):  [('vflip',)],
    (-1, 0, 0, -1): [('hflip',), ('vflip',)],
    (0, 1, -1, 0):  [('transpose', 'clock')],
    (0, -1, 1, 0):  [('transpose', 'cclock')],
    (0, 1, 1, 0):   [('transpose', 'clock'), ('hflip',)],
    (0, -1, -1, 0): [('transpose', 'clock'), ('vflip',)],
}

def matrix_of(a, b, c, d): return [a*ONE, b*ONE, 0, c*ONE, d*ONE, 0, 0, 0, W]

@pytest.mark.parametrize('suffix', ['.mp4', '.mov'])
@pytest.mark.parametrize('turn', TURNS)
def test_turned_and_mirrored_films(tmp_path, turn, suffix):
    "Front cameras mirror, phones turn: the frames are those of ffmpeg's filters, to the last bit"
    path = record(tmp_path/f'a{suffix}', moving(5), matrix=matrix_of(*turn))
    right = by_ffmpeg(path, *TURNS[turn])
    assert np.array_equal(read_video(path), right)
    assert (probe(path).height, probe(path).width) == right.shape[1:3]
    assert file_size(path)[1:] == file_size(path, decode=True)[1:] == right.shape[1:3]

@pytest.mark.parametrize('degrees', [0, 90, 180, 270])
@pytest.mark.parametrize('mirror', [(False, False), (True, False), (False, True)])
def test_turns_agree_with_the_angle_that_the_writer_was_given(tmp_path, degrees, mirror):
    "Written as an angle and a mirror, by PyAV's own arithmetic"
    with av.open(str(tmp_path/'a.mp4'), 'w') as c:
        s = c.add_stream('libx264', rate=8)
        s.height, s.width, s.pix_fmt = 32, 48, 'yuv420p'
        s.set_display_rotation(degrees, *mirror)
        for image in moving(3, 32, 48): c.mux(s.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
        c.mux(s.encode())
    turns = {0: [], 90: [('transpose', 'cclock')], 180: [('hflip',), ('vflip',)], 270: [('transpose', 'clock')]}
    turned = turns[degrees]
    mirrored = [('hflip',)]*mirror[0] + [('vflip',)]*mirror[1]
    assert np.array_equal(read_video(tmp_path/'a.mp4'), by_ffmpeg(tmp_path/'a.mp4', *turned, *mirrored))

def shown_as_wide_as(path, width):
    "Write DisplayWidth into the track of a WebM of 96x64, in the place of the language that nobody asks for"
    data = path.read_bytes()
    language, video, void = b'\x22\xb5\x9c\x83und', b'\xe0\x86\xb0\x81\x60\xba\x81\x40', b'\xec\x81\0'
    assert data.count(language) == data.count(video) == 1
    data = data.replace(language, void).replace(video, b'\xe0\x8a' + video[2:] + b'\x54\xb0\x81' + bytes([width]))
    path.write_bytes(data)

@pytest.mark.parametrize('name, codec', [
    ('a.mp4',  'libx264'),
    ('a.mkv',  'libx264'),
    ('a.avi',  'mpeg4'),
    ('a.webm', 'libvpx-vp9'),
])
@pytest.mark.parametrize('aspect', [Fraction(2), Fraction(4, 3), Fraction(1, 2)])
def test_pixels_that_are_not_square(tmp_path, name, codec, aspect):
    "A circle stays a circle: frames are as wide as they are shown, for probe, buckets, reader and training clips"
    path = record(tmp_path/name, moving(5), codec, aspect=aspect)
    if codec == 'libvpx-vp9': shown_as_wide_as(path, round(96*aspect))
    right = by_ffmpeg(path, ('scale', f'w={round(96*aspect)}:h=64:flags=bilinear'))
    assert (probe(path).height, probe(path).width) == right.shape[1:3]
    assert file_size(path)[1:] == file_size(path, decode=True)[1:] == right.shape[1:3]
    assert np.abs(read_video(path).astype(int) - right).max() <= 6 # ffmpeg rounds once more between its two filters
    assert np.array_equal(source_of(path, 5, (32, 32)).clip(0), resize_crop_to_fill(read_video(path), (32, 32)))

def test_wide_pixels_of_a_film_held_sideways(tmp_path):
    "Both at once: first made wide, then turned"
    path = record(tmp_path/'a.mp4', moving(5), aspect=Fraction(2), matrix=matrix_of(0, 1, -1, 0))
    right = by_ffmpeg(path, ('scale', 'w=192:h=64:flags=bilinear'), ('transpose', 'clock'))
    assert right.shape[1:3] == (192, 64) == (probe(path).height, probe(path).width)
    assert np.abs(read_video(path).astype(int) - right).max() <= 6 # ffmpeg rounds once more between its two filters

@pytest.mark.parametrize('aspect', [Fraction(1279, 1280), Fraction(100)])
def test_nearly_square_and_absurd_pixels_are_taken_for_square(tmp_path, aspect):
    "Rounding by a converter must not blur each frame, and a file may not ask for frames of any width"
    path = record(tmp_path/'a.mp4', moving(3), aspect=aspect)
    assert probe(path).width == 96 and np.array_equal(read_video(path), by_ffmpeg(path))

def joined(path, codec, sizes, n=10):
    "Films of several sizes in one stream, as calls and joined files have it"
    with av.open(str(path), 'w') as c:
        out, at = None, 0
        for h, w in sizes:
            with av.open(str(record(path.with_name(f'{w}{path.suffix}'), moving(n, h, w), codec, 10))) as part:
                old = part.streams.video[0]
                out = out or c.add_stream_from_template(old)
                for packet in part.demux(old):
                    if packet.dts is None: continue
                    step = int(Fraction(1, 10)/packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts + at*step, packet.dts + at*step, out
                    c.mux(packet)
            at += n
    return path

@pytest.mark.parametrize('name, codec', [
    ('a.webm', 'libvpx-vp9'),
    ('b.webm', 'libvpx'),
    ('a.avi',  'mjpeg'),
    ('a.mkv',  'mjpeg'),
])
@pytest.mark.parametrize('sizes', [((64, 96), (48, 64)), ((48, 64), (64, 96), (32, 32))])
def test_a_size_that_changes_in_mid_stream(tmp_path, name, codec, sizes):
    "All frames have the first size, whichever part of the film is read; what came before the change is untouched"
    path = joined(tmp_path/name, codec, sizes)
    with av.open(str(path)) as c: raw = list(c.decode(video=0))
    assert [(f.height, f.width) for f in raw[::10]] == list(sizes)
    info, clip = probe(path), read_video(path)
    assert (info.num_frames, info.height, info.width) == clip.shape[:3] == (len(raw), *sizes[0])
    assert file_size(path, decode=True) == clip.shape[:3]
    for n, frame in enumerate(raw):
        h, w = sizes[0]
        right = frame.to_ndarray(format='rgb24') if n < 10 else np.array(frame.to_image(width=w, height=h))
        assert np.array_equal(clip[n], right)
    assert np.array_equal(read_video(path, 15, 5), clip[15:20])
    assert source_of(path, 15, (32, 32)).clip(0).shape == (15, 32, 32, 3)

# ---- names and titles

@pytest.mark.parametrize('name', [
    'a:b.mp4', 'http:x.mp4', 'file:a.mp4', 'concat:a.mp4', '12:30 call.webm', '%03d.mp4', '-i.mp4', 'ä ü.mkv'])
def test_names_that_look_like_addresses(tmp_path, monkeypatch, name):
    "A colon in the name of a file in the current folder is part of the name"
    monkeypatch.chdir(tmp_path)
    write_video(name, moving(5))
    assert probe(name).num_frames == len(read_video(name)) == 5

def test_a_title_that_is_not_utf8(tmp_path):
    "An old MKV with a Latin-1 title is read like any other"
    with av.open(str(tmp_path/'a.mkv'), 'w', metadata_encoding='latin-1') as c:
        c.metadata['title'] = 'café'
        s = c.add_stream('libx264', rate=8)
        s.height, s.width, s.pix_fmt = 32, 48, 'yuv420p'
        for image in moving(5, 32, 48): c.mux(s.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
        c.mux(s.encode())
    with pytest.raises(UnicodeDecodeError): av.open(str(tmp_path/'a.mkv'))
    assert probe(tmp_path/'a.mkv').num_frames == len(read_video(tmp_path/'a.mkv')) == 5

# ---- containers x turns x rates: probe, reader and ffmpeg tell one story

CONTAINERS = {'mp4': 'libx264', 'mov': 'libx264', 'mkv': 'libx264', 'webm': 'libvpx-vp9', 'avi': 'mpeg4', 'gif': 'gif'}
SOME_TURNS = [(1, 0, 0, 1), (-1, 0, 0, -1), (0, 1, -1, 0), (0, -1, 1, 0)] # MKV and WebM keep an angle, and no mirror

def turns_of(suffix): return TURNS if suffix in ('mp4', 'mov') else SOME_TURNS if suffix in ('mkv', 'webm') else [None]

@pytest.mark.parametrize('rate', [8, 24, 30000/1001, 'uneven'])
@pytest.mark.parametrize('suffix', CONTAINERS)
def test_every_container_with_every_rate_and_turn(tmp_path, suffix, rate):
    "Number, shape and rate as ffmpeg finds them by decoding everything, and the frames that it shows"
    even = rate != 'uneven'
    if suffix in ('avi', 'gif') and not even:
        pytest.skip("AVI frames have no time of their own; GIF: tests/test_video_writing.py")
    for seed, turn in enumerate(turns_of(suffix)):
        n = 9 + seed
        ms = None if even else np.cumsum(np.random.default_rng(seed).choice([40, 80, 200], n)).tolist()
        path = record(tmp_path/f'{seed}.{suffix}', moving(n, 32, 48), CONTAINERS[suffix], rate if even else 25, ms,
                      matrix=turn and matrix_of(*turn))
        right, times, info = by_ffmpeg(path, *TURNS.get(turn, [])), stamps(path), probe(path)
        assert (info.num_frames, *file_size(path)[1:]) == (n, info.height, info.width) == right.shape[:3], turn
        assert file_size(path, decode=True) == right.shape[:3] and np.array_equal(read_video(path), right), turn
        by_clock = (n - 1)/(times[-1] - times[0])
        tolerance = .02 if suffix == 'gif' else 1e-6
        assert info.fps == pytest.approx(rate if even and suffix != 'gif' else by_clock, rel=tolerance)
        assert info.steady == even, turn

# ---- odd files: one sentence each, soon

def zeroed(data, at, n=400):
    "The file with n zero bytes at a part of its length"
    k = int(len(data)*at)
    return data[:k] + bytes(n) + data[k+n:]

def patched(data, tag, after, new):
    "The file with other bytes, some way after the start of a tag"
    k = data.index(tag) + after
    return data[:k] + new + data[k+len(new):]

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "Good files of 30 frames, as bytes"
    folder, clip = tmp_path_factory.mktemp('whole'), moving(30)
    kinds = dict(mp4='libx264', mkv='libx264', webm='libvpx-vp9', avi='mpeg4', gif='gif')
    out = {k: record(folder/f'a.{k}', clip, codec, 10, gop=10).read_bytes() for k, codec in kinds.items()}
    for name, flags in (('fast', 'faststart'), ('pieces', 'frag_keyframe+empty_moov')):
        out[name] = record(folder/f'{name}.mp4', clip, gop=10, movflags=flags).read_bytes()
    out['sound'] = sound_only(folder/'s.mkv').read_bytes()
    return out | dict(jpegs=record(folder/'j.avi', clip[:3], 'mjpeg').read_bytes())

UNREADABLE, DAMAGED = 'is not a readable video', 'is damaged'
# name -> (its bytes, what is said)
ODD = {
    'empty.mp4':    (lambda w: b'', UNREADABLE),
    'text.mp4':     (lambda w: b'hello\n'*50, UNREADABLE),
    'page.webm':    (lambda w: b'<html>404</html>'*50, UNREADABLE),
    'noise.mkv':    (lambda w: np.random.default_rng(0).bytes(9999), UNREADABLE),
    'noise.gif':    (lambda w: np.random.default_rng(1).bytes(9999), UNREADABLE),
    'zip.mov':      (lambda w: b'PK\3\4' + bytes(999), UNREADABLE),
    'sound.mkv':    (lambda w: w['sound'], 'no video stream; its streams: audio'),
    'words.mkv':    (lambda w: b'1\n00:00:01,000 --> 00:00:02,000\nhello\n', 'no video stream; its streams: subtitle'),
    'list.mp4':     (lambda w: b'ffconcat version 1.0\nfile whole.mp4\n', 'is a list of other files'),
    'playlist.mp4': (lambda w: b'#EXTM3U\n#EXTINF:10,\nwhole.mp4\n', UNREADABLE),
    'cut.mp4':      (lambda w: w['mp4'][:len(w['mp4'])//2], UNREADABLE),
    'fast60.mp4':   (lambda w: w['fast'][:len(w['fast'])*6//10], DAMAGED),
    'fast95.mp4':   (lambda w: w['fast'][:len(w['fast'])*95//100], DAMAGED),
    'pieces.mp4':   (lambda w: w['pieces'][:len(w['pieces'])//2], DAMAGED),
    'cut30.mkv':    (lambda w: w['mkv'][:len(w['mkv'])*3//10], DAMAGED),
    'cut80.mkv':    (lambda w: w['mkv'][:len(w['mkv'])*8//10], DAMAGED),
    'cut.webm':     (lambda w: w['webm'][:len(w['webm'])//2], DAMAGED),
    'cut80.avi':    (lambda w: w['avi'][:len(w['avi'])*8//10], DAMAGED),
    'head.mp4':     (lambda w: w['mp4'][:40], UNREADABLE),
    'head.mkv':     (lambda w: w['mkv'][:60], UNREADABLE),
    'head.avi':     (lambda w: w['avi'][:400], UNREADABLE),
    'head.gif':     (lambda w: w['gif'][:800], 'holds no frame|has 0 frames'),
    'nodata.mp4':   (lambda w: w['fast'][:w['fast'].index(b'mdat') + 4], '0 of its 30 frames'),
    'zero.mp4':     (lambda w: zeroed(w['fast'], .5), DAMAGED),
    'zero.mkv':     (lambda w: zeroed(w['mkv'], .5), DAMAGED),
    'zero.webm':    (lambda w: zeroed(w['webm'], .5), DAMAGED),
    'wide.gif':     (lambda w: patched(w['gif'], b'GIF', 6, b'\x10\x27\x28\x23'),
                     'has frames of 9000x10000; at most 89 million pixels'),
    'huge.gif':     (lambda w: patched(w['gif'], b'GIF', 6, b'\xff'*4), DAMAGED),
    'huge.avi':     (lambda w: patched(w['jpegs'], b'\xff\xc0\0\x11\x08', 5, b'\xff\xdc\xff\xdc'), DAMAGED),
    'counts.mp4':   (lambda w: patched(w['fast'], b'stsz', 12, b'\x7f\xff\xff\xff'), UNREADABLE),
    'codec.mkv':    (lambda w: w['mkv'].replace(b'V_MPEG4/ISO/AVC', b'V_UNKNOWN/ISO/A'), 'codec that is not known'),
    'codec.mp4':    (lambda w: w['fast'].replace(b'avc1', b'zzz1'), 'codec that is not known'),
}

@pytest.mark.parametrize('name', ODD)
def test_odd_files_get_one_sentence(tmp_path, whole, name):
    "Named, in one line and within two seconds of work, by the probe and by the reader; a folder leaves the file out"
    data, says = ODD[name]
    (tmp_path/'whole.mp4').write_bytes(whole['mp4'])
    (tmp_path/name).write_bytes(data(whole))
    for f in (probe, read_video):
        began = time.process_time()
        with pytest.raises(ValueError, match=says) as e: f(tmp_path/name)
        assert time.process_time() - began < 2 and str(e.value).startswith(name) and '\n' not in str(e.value)
    with pytest.warns(UserWarning, match=f'left out {name}'):
        assert len(ClipFiles([(p, []) for p in tmp_path.iterdir()], 9).usable(progress=False)) == 1

@pytest.mark.parametrize('name, kind, frames', [
    ('mkv.mp4',  'mkv', 30),
    ('mp4.avi',  'mp4', 30),
    ('gif.webm', 'gif', 30),
])
def test_a_wrong_suffix_does_not_matter(tmp_path, whole, name, kind, frames):
    "What a file is shows in its bytes; many phones and sites name them wrongly"
    (tmp_path/name).write_bytes(whole[kind])
    assert probe(tmp_path/name).num_frames == frames
    assert np.array_equal(read_video(tmp_path/name), by_ffmpeg(tmp_path/name))

@pytest.mark.parametrize('name, codec', [
    ('a.mp4',  'libx264'),
    ('a.webm', 'libvpx-vp9'),
    ('a.avi',  'mpeg4'),
    ('a.gif',  'gif'),
])
def test_a_film_of_one_frame(tmp_path, name, codec):
    "One frame is a film, too"
    path = record(tmp_path/name, moving(1), codec)
    assert (probe(path).num_frames, probe(path).steady) == (1, True)
    assert np.array_equal(read_video(path), by_ffmpeg(path))
