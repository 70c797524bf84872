"Files as other programs see them: how long a GIF lasts, what colours a browser shows, what a file says about itself"
import base64, shutil
import av, numpy as np, pytest
from PIL import Image
from opensora_nb.data.video_io import probe, read_frames, read_video, write_video

CHROMIUM = next((p for p in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if p), None)

def moving(f, h=32, w=48): # every frame differs from the one before
    i, y, x = np.ogrid[:f, :h, :w]
    return np.stack([(x*5 + i*3) % 256 + 0*y, (y*7) % 256 + 0*x + 0*i, (x + y + i*2) % 256], -1).astype(np.uint8)

def delays(path): # milliseconds of every picture in a file, by Pillow
    with Image.open(path) as im:
        out = []
        for i in range(im.n_frames):
            im.seek(i)
            out.append(im.info['duration'])
        return out

@pytest.mark.parametrize('fps, seconds', [(8, 3.), (15, 1.6), (30, .8), (24, 1.), (50, .48), (23.976, 1.), (.5, 48.)])
def test_a_gif_lasts_as_long_as_it_should(tmp_path, fps, seconds):
    "24 frames at 8, 15 and 30 a second lasted 2.88, 1.44 and 0.72 s: each delay was rounded down"
    path = write_video(tmp_path/'a.gif', moving(24), fps)
    got = delays(path)
    assert len(got) == 24 and sum(got) == pytest.approx(1000*seconds, abs=5), got
    begins = np.cumsum([0, *got])
    # every frame begins at its moment, to half a hundredth
    assert np.abs(begins - 1000*np.arange(25)/fps).max() <= 5.001
    assert probe(path).num_frames == 24 and probe(path).fps == pytest.approx(fps, rel=.02)

@pytest.mark.parametrize('fps', [50.1, 60, 120])
def test_no_player_shows_a_gif_that_fast(tmp_path, fps):
    "60 frames a second became 100 ms a frame in every browser, five times too slow"
    with pytest.raises(ValueError, match=f'fps is {fps:g}, but a GIF shows at most 50 frames a second; write an mp4'):
        write_video(tmp_path/'a.gif', moving(3), fps)
    assert list(tmp_path.iterdir()) == []

@pytest.mark.parametrize('suffix', ['.gif', '.png'])
@pytest.mark.parametrize('counts', [(17,), (8, 2, 7), (1, 1, 15), (16, 1)])
def test_frames_that_stand_still_are_counted(tmp_path, suffix, counts):
    "17 frames of which many are equal came back as 1, 2 or 3"
    clip = moving(len(counts)).repeat(counts, 0)
    path = write_video(tmp_path/f'a{suffix}', clip, fps=8)
    back = read_frames(path)
    assert len(delays(path)) == len(back) == 17
    assert np.abs(back.astype(int) - clip).mean() < (9 if suffix == '.gif' else 1e-9)

@pytest.mark.parametrize('fps', [8, 10, 12.5, 15, 24, 30])
def test_pictures_that_another_program_merged_count_as_often_as_they_stay(tmp_path, fps):
    "Pillow merges equal neighbours into one picture with a longer delay; a window must not run faster for that"
    ends = [round(100*n/fps) for n in (8, 10, 11, 17)] # hundredths of a second
    first, *rest = map(Image.fromarray, moving(4))
    first.save(tmp_path/'a.gif', save_all=True, append_images=rest,
               duration=[10*d for d in np.diff(ends, prepend=0).tolist()])
    assert len(delays(tmp_path/'a.gif')) == 4
    back, info = read_video(tmp_path/'a.gif'), probe(tmp_path/'a.gif')
    assert len(back) == info.num_frames == 17 and info.fps == pytest.approx(fps, rel=.01)
    assert [i for i in range(1, 17) if (back[i] != back[i-1]).any()] == [8, 10, 11]
    assert (read_video(tmp_path/'a.gif', start=7, num_frames=3, step=2) == back[7:12:2]).all()

def test_a_gif_without_a_rhythm_is_read_picture_by_picture(tmp_path):
    "Delays that share no beat up to 50 a second leave one frame a picture, at the average rate"
    stays = [70, 110, 30, 90, 50, 130, 170, 20, 190, 70, 230, 30, 110]
    first, *rest = map(Image.fromarray, moving(len(stays)))
    first.save(tmp_path/'a.gif', save_all=True, append_images=rest, duration=stays)
    info = probe(tmp_path/'a.gif')
    assert info.num_frames == len(read_video(tmp_path/'a.gif')) == len(stays)
    assert info.fps == pytest.approx(1000*len(stays)/sum(stays))

@pytest.mark.parametrize('fps', [24, 30000/1001, 8, 60])
def test_an_animated_png_lasts_as_long_as_it_should(tmp_path, fps):
    "Whole milliseconds made 24 frames a second last 1.008 s"
    got = delays(write_video(tmp_path/'a.png', moving(24), fps))
    assert sum(got) == pytest.approx(1000*24/fps, abs=.01)

@pytest.mark.parametrize('fps', [0, -1, 1e-4, 1e9, 2147483648, float('nan'), float('inf')])
@pytest.mark.parametrize('suffix', ['.mp4', '.gif', '.png'])
def test_rates_that_no_file_holds(tmp_path, suffix, fps):
    "0.0001 frames a second silently became 24, and infinity a traceback"
    with pytest.raises(ValueError, match=r'fps is .*; a file holds 0.01 to 1000 frames a second'):
        write_video(tmp_path/f'a{suffix}', moving(2), fps)

# ---- colours

CARD = np.uint8([(0, 255, 0), (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (20, 96, 255), (128, 128, 128),
                 (255, 200, 0)])

def card(h, w, f=4): # eight patches, two rows of four
    rows, columns = np.arange(h)*2//h, np.arange(w)*4//w
    return np.repeat(CARD[rows[:, None]*4 + columns][None], f, 0)

def centres(clip): # of a card
    h, w = clip.shape[1:3]
    return clip[0][np.ix_([h//4, 3*h//4], [w//8 + i*w//4 for i in range(4)])].reshape(8, 3).astype(int)

def tags(path): # matrix, primaries, transfer, range of the first frame, as numbered in H.273 (range: 1 limited, 2 full)
    with av.open(str(path)) as c:
        frame = next(c.decode(video=0))
        return frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range

@pytest.mark.parametrize('size, matrix', [
    ((64, 64),    6),
    ((480, 854),  6),
    ((720, 1280), 1),
    ((704, 1280), 1),
    ((721, 1281), 1),
])
@pytest.mark.parametrize('suffix', ['.mp4', '.mov', '.mkv', '.webm'])
def test_every_file_says_how_its_colours_are_stored(tmp_path, suffix, size, matrix):
    "A 720p clip was untagged BT.601, which players take for BT.709: pure green became (0, 216, 2)"
    path = write_video(tmp_path/f'a{suffix}', card(*size, f=2))
    assert tags(path) == (matrix, 1, 1, 1)
    assert np.abs(centres(read_video(path)) - CARD).max() <= 4

@pytest.mark.parametrize('size', [(64, 64), (720, 1280)])
def test_avi_cannot_say_it_and_keeps_the_matrix_that_readers_assume(tmp_path, size):
    path = write_video(tmp_path/'a.avi', card(*size, f=2))
    assert tags(path)[0] == 2 and np.abs(centres(read_video(path)) - CARD).max() <= 4

@pytest.mark.parametrize('suffix', ['.mp4', '.mov', '.mkv'])
def test_an_exact_file_says_what_it_is(tmp_path, suffix):
    "`crf=0` stores RGB: exact to the bit, tagged as RGB, with a comment that says why a browser does not play it"
    clip = moving(3)
    path = write_video(tmp_path/f'a{suffix}', clip, crf=0)
    assert (read_video(path) == clip).all() and tags(path) == (0, 1, 1, 2)
    with av.open(str(path)) as c: comment = {k.lower(): v for k, v in c.metadata.items()}['comment']
    assert 'exact RGB' in comment and 'few browsers play it' in comment

# the first frame of a video, drawn to a canvas: colours at the centres of eight patches
SHOW = '''async ([data, mime]) => {
  const video = document.createElement('video');
  video.muted = true;
  video.src = URL.createObjectURL(new Blob([Uint8Array.from(atob(data), c => c.charCodeAt(0))], {type: mime}));
  document.body.append(video);
  await new Promise((ok, no) => { video.onloadeddata = ok; video.onerror = () => no(new Error(video.error.message)); });
  const shown = new Promise(ok => video.requestVideoFrameCallback(ok));
  video.play(); await shown; video.pause();
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const drawing = canvas.getContext('2d');
  drawing.drawImage(video, 0, 0);
  const at = (x, y) => Array.from(drawing.getImageData(x*canvas.width, y*canvas.height, 1, 1).data).slice(0, 3);
  return [.25, .75].flatMap(y => [1/8, 3/8, 5/8, 7/8].map(x => at(x, y)));
}'''

@pytest.fixture(scope='module')
def browser_page():
    "A page of a Chromium that draws as on a machine with a graphics card; without one its BT.709 is off by up to 12"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=[
            '--no-sandbox', '--disable-dev-shm-usage', '--use-gl=angle', '--use-angle=swiftshader',
            '--enable-unsafe-swiftshader',
        ])
        yield browser.new_page()
        browser.close()

@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; get it with: apt-get install chromium")
@pytest.mark.parametrize('size', [(64, 64), (720, 1280)])
@pytest.mark.parametrize('suffix, crf', [('.mp4', 18), ('.webm', 18), ('.mp4', 0)])
def test_a_browser_shows_the_colours_that_were_written(browser_page, tmp_path, suffix, crf, size):
    "Pure green was (0, 216, 2) at 720p, and an exact file black or pink"
    path = write_video(tmp_path/f'a{suffix}', card(*size), crf=crf)
    shown = browser_page.evaluate(SHOW, [base64.b64encode(path.read_bytes()).decode(), f'video/{suffix[1:]}'])
    assert np.abs(np.array(shown) - CARD).max() <= 3, shown
