"Pictures as people have them: 16 bits, transparent, animated, enormous, damaged; right values by ffmpeg or by hand"
import io, random, struct, time, warnings, zlib
import av, numpy as np, pytest
from PIL import Image
from opensora_nb.data.dataset import ClipFiles, open_source
from opensora_nb.data.video_io import (iter_frames, probe_frames, read_frames, read_image, read_video, readable,
                                       write_image, write_video)

SHAPE = 24, 32

def noise(n=1, seed=0, size=SHAPE): return np.random.default_rng(seed).integers(0, 256, (n, *size, 3), np.uint8)

def by_ffmpeg(path, fmt='rgb24'):
    "The first frame of a file by another decoder than the one under test"
    with av.open(str(path)) as c: return next(c.decode(video=0)).to_ndarray(format=fmt)

def save(path, clip, **more):
    "An animated picture as Pillow writes it"
    first, *rest = map(Image.fromarray, clip)
    first.save(path, save_all=True, append_images=rest, **more)
    return path

# ---- 16 bits

def test_a_grey_picture_of_16_bits_is_scaled_not_white(tmp_path):
    "A depth map of values up to 65,535 came out white from 256 on"
    grey = np.random.default_rng(0).integers(0, 65536, SHAPE).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path/'depth.png')
    got = read_image(tmp_path/'depth.png')
    assert np.abs(got.astype(float) - grey[..., None]/65535*255).max() <= .51            # 16 bits to 8, by hand
    assert np.abs(got.astype(int) - by_ffmpeg(tmp_path/'depth.png')).max() <= 1          # ffmpeg rounds another way
    ramp = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(ramp).save(tmp_path/'ramp.png')
    assert read_image(tmp_path/'ramp.png')[0, :, 0].tolist() == [0, 1, 128, 255]

def png(width, height, depth, kind, rows, *chunks):
    "A PNG put together by hand, with kinds of pixels that Pillow does not write"
    def chunk(name, data):
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
    head = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, kind, 0, 0, 0))
    body = b''.join(chunk(n, d) for n, d in chunks) + chunk(b'IDAT', zlib.compress(b''.join(b'\0' + r for r in rows)))
    return b'\x89PNG\r\n\x1a\n' + head + body + chunk(b'IEND', b'')

def test_16_bits_of_colour_and_of_transparency(tmp_path):
    "Kinds 2 (colour), 4 (grey with alpha) and 0 with one transparent grey, of 16 bits each"
    (tmp_path/'rgb.png').write_bytes(png(2, 1, 16, 2, [struct.pack('>6H', 0, 32768, 65535, 257*9, 257*8, 257*7)]))
    assert read_image(tmp_path/'rgb.png').tolist() == [[[0, 128, 255], [9, 8, 7]]]
    (tmp_path/'la.png').write_bytes(png(2, 1, 16, 4, [struct.pack('>4H', 257*40, 65535, 257*40, 0)]))
    assert read_image(tmp_path/'la.png').tolist() == [[[40]*3, [255]*3]]
    key = b'tRNS', struct.pack('>H', 257*50)
    (tmp_path/'key.png').write_bytes(png(2, 1, 16, 0, [struct.pack('>2H', 257*40, 257*50)], key))
    assert read_image(tmp_path/'key.png').tolist() == [[[40]*3, [255]*3]]

# ---- transparency

def clear_half():
    "Left half green and opaque, right half transparent over a hidden red"
    rgba = np.zeros((*SHAPE, 4), np.uint8)
    rgba[:, :16], rgba[:, 16:] = (0, 200, 0, 255), (255, 0, 0, 0)
    want = np.full((*SHAPE, 3), 255, np.uint8)
    want[:, :16] = 0, 200, 0
    return Image.fromarray(rgba), want

@pytest.mark.parametrize('name', ['a.png', 'palette.png', 'key.png', 'a.webp', 'grey.png', 'inside_is_gif.png'])
def test_what_is_transparent_is_white_in_every_kind_of_file(tmp_path, name):
    "The hidden red was shown by a PNG, and white by the same picture as GIF"
    im, want = clear_half()
    im.save(tmp_path/'a.gif')
    assert np.array_equal(read_video(tmp_path/'a.gif')[0], want)                         # the GIF, by ffmpeg
    path = tmp_path/name
    if name == 'a.png': im.save(path)
    elif name == 'palette.png': im.quantize(8, method=Image.Quantize.FASTOCTREE).save(path)
    elif name == 'key.png': Image.fromarray(np.asarray(im)[..., :3]).save(path, transparency=(255, 0, 0))
    elif name == 'a.webp': im.save(path, lossless=True, exact=True)
    elif name == 'inside_is_gif.png': path.write_bytes((tmp_path/'a.gif').read_bytes())
    else:
        im, want = im.convert('LA'), np.where(want == 255, 255, np.asarray(im.convert('L'))[..., None])
        im.save(path)
    assert np.array_equal(read_image(path), want)
    assert np.array_equal(read_frames(path)[0], want)

def test_half_transparent_is_mixed_with_white(tmp_path):
    "Glass of 50 %: by hand, 255 + (colour - 255)*alpha"
    rgba = np.random.default_rng(0).integers(0, 256, (*SHAPE, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path/'a.png')
    want = 255 + (rgba[..., :3].astype(float) - 255)*rgba[..., 3:]/255
    assert np.abs(read_image(tmp_path/'a.png') - want).max() <= 1

# ---- size

@pytest.mark.parametrize('width, height, says', [(30000, 30000, '900 megapixels'), (18000, 10000, '180 megapixels')])
def test_a_picture_too_large_is_refused_from_its_header(tmp_path, width, height, says):
    "30,000 x 30,000 pixels in a file of 2 KB: refused before 2.7 GB are asked for"
    (tmp_path/'big.png').write_bytes(png(width, height, 8, 2, [b'\0'*999]))
    for f in (read_image, read_frames, probe_frames):
        start = time.process_time()
        with pytest.raises(ValueError, match=f'big.png is too large: {says}, and at most 179 are read') as e:
            f(tmp_path/'big.png')
        assert time.process_time() - start < 1 and '\n' not in str(e.value)

def test_a_picture_too_large_is_left_out_by_name(tmp_path):
    "One panorama of 180 megapixels ended the scan of the whole folder"
    (tmp_path/'panorama.png').write_bytes(png(18000, 10000, 8, 2, [b'\0'*999]))
    write_image(tmp_path/'good.png', noise()[0])
    with pytest.warns(UserWarning, match='left out panorama.png: is too large: 180 megapixels|1 of 2'):
        assert len(open_source(tmp_path, num_frames=1, image_size=(16, 16), progress=False)) == 1
    with pytest.warns(UserWarning, match='left out panorama.png'):
        assert [p.name for p, _ in readable(sorted(tmp_path.iterdir()))] == ['good.png']

def test_a_large_picture_that_is_read_is_read_without_a_word(tmp_path):
    "Pillow warns of a 'decompression bomb DOS attack' from 89 megapixels on, in the middle of a scan"
    (tmp_path/'large.png').write_bytes(png(10000, 9000, 1, 0, [b'\0'*1250]*9000))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert probe_frames(tmp_path/'large.png').height == 9000

def test_an_animated_picture_of_huge_frames_is_refused(tmp_path):
    "A few kilobytes can ask for hours of decoding; 8K is the largest frame that moves"
    flat = [Image.new('L', (8000, 5000), v) for v in (0, 255)]
    flat[0].save(tmp_path/'a.png', save_all=True, append_images=flat[1:], compress_level=1)
    with pytest.raises(ValueError, match='a.png is too large: 40 megapixels, and at most 33 are read'):
        read_frames(tmp_path/'a.png')

# ---- animated pictures

@pytest.mark.parametrize('suffix', ['.png', '.webp', '.gif'])
def test_an_animated_picture_is_a_clip_in_a_data_set(tmp_path, suffix):
    "Our own `--format png` stood still when trained on: 17 times its first frame, at 24 fps"
    clip = noise(17)
    if suffix == '.webp': save(tmp_path/'a.webp', clip, duration=125, lossless=True)
    else: write_video(tmp_path/f'a{suffix}', clip, fps=8)
    src = open_source(tmp_path, num_frames=9, image_size=SHAPE, progress=False)
    assert src.fps_of(0) == pytest.approx(8, rel=.05) and not src.repeatable and src.info(src.path(0)).num_frames == 17
    at = src.window(0, 3)
    want = read_frames(tmp_path/f'a{suffix}')
    assert len(want) == 17 and np.array_equal(src.clip(0, 3), want[at])
    if suffix != '.gif': assert np.array_equal(want, clip)
    # the window moves, as that of a film
    assert len({src.window(0, e)[0] for e in range(20)}) > 3

def test_windows_agree_whether_memory_is_free_or_not(tmp_path):
    "Kept whole or read anew, the same frames"
    save(tmp_path/'a.webp', noise(12), duration=100, lossless=True)
    free, full = (ClipFiles([(tmp_path/'a.webp', [])], 5, (16, 16), 2) for _ in range(2))
    full.left = 0
    for epoch in range(4): assert np.array_equal(free.clip(0, epoch), full.clip(0, epoch))

def test_a_still_stays_a_still(tmp_path):
    "A photo (also one with two views in it, as phones write) is repeated, not played"
    a, b = (Image.fromarray(f) for f in noise(2))
    a.save(tmp_path/'views.jpg', 'MPO', save_all=True, append_images=[b], quality=95)
    assert probe_frames(tmp_path/'views.jpg').num_frames == 1 and len(read_frames(tmp_path/'views.jpg')) == 1
    src = open_source(tmp_path, num_frames=4, image_size=SHAPE, progress=False)
    assert (src.clip(0) == read_image(tmp_path/'views.jpg')).all() and src.repeatable

@pytest.mark.parametrize('suffix, seconds, counts, fps', [
    ('.png',  [.1, .3, .1],       [1, 3, 1],  10),
    ('.webp', [.1, .3, .1],       [1, 3, 1],  10),
    ('.png',  [.033, .034, .033], [1, 1, 1],  30),
    ('.png',  [0, 0, 0],          [1, 1, 1],  10),
    ('.webp', [.04, .04, 1],      [1, 1, 25], 25),
])
def test_frames_come_as_often_as_they_are_shown(tmp_path, suffix, seconds, counts, fps):
    "A frame that lasts three times as long comes three times; durations of 0 are 0.1 s, as in browsers"
    clip = noise(3)
    save(tmp_path/f'a{suffix}', clip, duration=[round(1000*s) for s in seconds], lossless=True)
    info = probe_frames(tmp_path/f'a{suffix}')
    assert info.num_frames == sum(counts) and info.fps == pytest.approx(fps, rel=.01)
    assert np.array_equal(read_frames(tmp_path/f'a{suffix}'), clip.repeat(counts, 0))
    assert np.array_equal(np.stack(list(iter_frames(tmp_path/f'a{suffix}'))), clip.repeat(counts, 0))

def test_the_cover_of_an_animated_png_is_not_in_its_clip(tmp_path):
    "The picture for programs that cannot play is no frame of the film"
    cover, *frames = noise(4)
    save(tmp_path/'a.png', [cover, *frames], duration=50, default_image=True)
    assert np.array_equal(read_frames(tmp_path/'a.png'), frames)
    assert np.array_equal(read_image(tmp_path/'a.png'), frames[0])

def test_parts_of_an_animated_picture(tmp_path):
    "start, num_frames and step as in `read_video`; asking for too much is a sentence with the count"
    clip = noise(9)
    write_video(tmp_path/'a.png', clip)
    assert np.array_equal(read_frames(tmp_path/'a.png', 1, 3, 2), clip[1:6:2])
    assert np.array_equal(read_frames(tmp_path/'a.png', 7), clip[7:])
    for start, n in ((0, 10), (8, 2), (9, None)):
        with pytest.raises(ValueError, match='a.png has 9 frames'): read_frames(tmp_path/'a.png', start, n)

@pytest.mark.parametrize('orientation', range(1, 9))
def test_photos_and_their_headers_agree_on_what_is_up(tmp_path, orientation):
    "All eight orientations of EXIF, by numpy; the size that a plan takes from the header is the size that is read"
    exif, frame = Image.Exif(), noise()[0]
    exif[0x112] = orientation
    turns = {1: frame, 2: frame[:, ::-1], 3: frame[::-1, ::-1], 4: frame[::-1], 5: frame.swapaxes(0, 1),
             6: np.rot90(frame, -1), 7: frame[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(frame)}
    for name in ('a.png', 'a.webp'):
        Image.fromarray(frame).save(tmp_path/name, exif=exif, lossless=True)
        assert np.array_equal(read_image(tmp_path/name), turns[orientation])
        info = probe_frames(tmp_path/name)
        assert (info.height, info.width) == turns[orientation].shape[:2]

# ---- odd files

def odd_pictures():
    "name -> bytes of pictures that cannot be used"
    good, jpg = io.BytesIO(), io.BytesIO()
    Image.fromarray(noise()[0]).save(good, 'PNG')
    Image.fromarray(noise()[0]).save(jpg, 'JPEG')
    good, jpg = good.getvalue(), jpg.getvalue()
    film = io.BytesIO()
    first, *rest = map(Image.fromarray, noise(3))
    first.save(film, 'PNG', save_all=True, append_images=rest)
    return {
        'empty.png': b'',
        'cut.png':   good[:200],
        'cut.jpg':   jpg[:len(jpg)//2],
        'head.png':  good[:30],
        'text.jpg':  b'no picture\n'*9,
        'page.png':  b'<html>404 not found</html>',
        'zeros.bmp': bytes(5000),
        'svg.png':   b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        'pdf.jpg':   b'%PDF-1.7\n',
        'eps.png':   b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n',
        'crc.png':   good[:40] + b'\xff' + good[41:],
        'film_cut.png': film.getvalue()[:-900],
        'riff.webp': b'RIFF\x10\0\0\0WEBPVP8 \0\0\0\0',
        'none.png':  png(0, 5, 8, 2, []),
        'huge.png':  png(30000, 30000, 8, 2, [b'']),
        'huge.bmp':  b'BM' + struct.pack('<IHHIIiiHHIIiiII', 54, 0, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0),
    }

@pytest.mark.parametrize('name', odd_pictures())
def test_an_odd_picture_is_one_sentence_within_two_seconds(tmp_path, name):
    "What cannot be read is named, whatever it is; EPS, which would start a program, is not looked into"
    (tmp_path/name).write_bytes(odd_pictures()[name])
    # the first picture of that film is whole
    for f in (read_frames,) if name == 'film_cut.png' else (read_image, read_frames):
        start = time.process_time()
        with pytest.raises(ValueError, match='is not a readable picture|is too large') as e: f(tmp_path/name)
        assert name in str(e.value) and '\n' not in str(e.value) and time.process_time() - start < 2

def test_damaged_pictures_are_read_or_refused(tmp_path):
    "400 pictures with bytes cut, changed or taken out: frames of the right kind, or a ValueError with the name"
    files, rng, said = {}, random.Random(0), 0
    films = {'e.png': dict(save_all=True), 'f.webp': dict(save_all=True)}
    for name, more in (dict.fromkeys(('a.png', 'b.jpg', 'c.bmp', 'd.webp'), {}) | films).items():
        first, *rest = map(Image.fromarray, noise(3))
        if more: more = dict(save_all=True, append_images=rest, duration=50)
        first.save(tmp_path/name, **more)
        files[name] = (tmp_path/name).read_bytes()
    for _ in range(400):
        name = rng.choice(sorted(files))
        data, how = bytearray(files[name]), rng.randrange(3)
        if how == 0: data = data[:rng.randrange(len(data))]
        elif how == 1: data[rng.randrange(40, len(data))] ^= 1 << rng.randrange(8)
        else:
            at = rng.randrange(len(data))
            del data[at:at+rng.randrange(1, 9)]
        (tmp_path/name).write_bytes(data)
        try: frames = read_frames(tmp_path/name)
        except ValueError as e:
            said += 1
            assert name in str(e) and '\n' not in str(e)
        else: assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3
    assert said > 100
