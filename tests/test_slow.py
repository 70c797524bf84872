"""Every preset at full width through the console command, with random weights: `pytest -m slow -s tests/test_slow.py`

Open-Sora 1.2 takes eight to fifteen minutes on one core, 6 GB of disk and 5 GB of memory; what each call took is
printed. What the other presets took is in nbs/09_sample/logs/presets.json."""
import os, shutil, sys
import pytest
import numpy as np
from PIL import Image
from opensora_nb.data.video_io import probe, read_video
from released_files import FULL, osnb, photo, released, run, run_preset

pytestmark = pytest.mark.slow
PROMPT, LIMIT_GB = "a calm sea at dawn, with small waves", 20
HERE = os.path.abspath(__file__).replace('test_slow', 'released_files')

@pytest.fixture(scope='module')
def tell(request):
    "Print past pytest's capture: name, seconds, peak memory"
    reporter = request.config.pluginmanager.getplugin('terminalreporter')
    def say(what, seconds, gb):
        reporter.write_line(f"  {what:36} {seconds:7.1f} s {gb:6.2f} GB")
        return gb
    return say

@pytest.fixture(scope='module')
def full(tmp_path_factory, tell):
    folder = tmp_path_factory.mktemp('full')
    if shutil.disk_usage(folder).free < 8e9: pytest.skip('needs 8 GB of disk')
    code, said, *took = run([sys.executable, HERE, 'make', folder, 'full'], folder)
    assert code == 0, said
    tell('random weights are written', *took)
    yield folder
    shutil.rmtree(folder)                  # 5 GB

def sample(full, to, tell, what, *options, dtype='bf16'):
    "One call; returns what it wrote"
    to.mkdir(exist_ok=True)
    code, said, *took = osnb('sample', *released(full), '--save-dir', to/'clips', '--resolution', '144p', '--dtype',
                             dtype, '--prompt', PROMPT, *options, folder=to)
    assert code == 0, said
    assert tell(what, *took) < LIMIT_GB
    return said, took

@pytest.mark.parametrize('part, dtype', [('t5', 'fp32'), ('stdit3', 'bf16'), ('vae', 'bf16')])
def test_part_alone(full, tmp_path, tell, part, dtype):
    code, said, *took = run([sys.executable, HERE, part, full, dtype], tmp_path)
    assert code == 0, said                 # it also fails where a number is not finite
    tell(f"{part} alone, {dtype}", *took)

def test_video(full, tmp_path, tell):
    how = '--num-frames', '17', '--num-sampling-steps', '3'
    said, _ = sample(full, tmp_path/'a', tell, 'a video of 17 frames, 3 steps', *how)
    file = tmp_path/'a'/'clips'/'sample_0000.mp4'
    info = probe(file)
    before = file.stat().st_mtime_ns
    assert (info.num_frames, info.height, info.width, info.fps) == (17, 144, 256, 24) and '(17 frames, ' in said
    assert read_video(file).std() > 1      # no empty picture
    said, took = sample(full, tmp_path/'a', tell, 'the same again: it is there', *how)
    assert '0 to make (1 there already)' in said and 'sampling' not in said and 'texts' not in said
    assert took[0] < 30 and took[1] < 1 and file.stat().st_mtime_ns == before       # torch is loaded, no weights are
    sample(full, tmp_path/'b', tell, 'the same seed elsewhere', *how)
    assert (tmp_path/'b'/'clips'/'sample_0000.mp4').read_bytes() == file.read_bytes()

def test_pictures(full, tmp_path, tell):
    sample(full, tmp_path, tell, 'two pictures, 3 steps', '--num-frames', '1', '--num-sampling-steps', '3',
           '--num-sample', '2')
    one, two = (np.array(Image.open(tmp_path/'clips'/f'sample_0000-{k}.png')) for k in range(2))
    assert one.shape == (144, 256, 3) and one.std() > 1 and (one != two).any()      # another seed

def test_video_from_a_photo(full, tmp_path, tell):
    "34 frames are two chunks of five latents; the photo stands at the start of the first"
    sample(full, tmp_path, tell, 'a photo and 34 frames, 2 steps', '--num-frames', '34', '--num-sampling-steps', '2',
           '--reference-path', photo(tmp_path/'photo.png'), '--mask-strategy', '0')
    info = probe(tmp_path/'clips'/'sample_0000.mp4')
    assert (info.num_frames, info.height, info.width) == (34, 144, 256)

@pytest.mark.parametrize('preset', FULL)
def test_preset(tmp_path, tell, preset):
    "The other presets, in their published layouts, at the smallest size; seconds of the processor"
    if shutil.disk_usage(tmp_path).free < 8e9: pytest.skip('needs 8 GB of disk')
    clip = FULL[preset][1]
    (file, *more), *took = run_preset(tmp_path, preset)
    assert not more and tell(f"{preset}, {clip}, 2 steps", *took) < LIMIT_GB
    got = np.array(Image.open(file))[None] if file.suffix == '.png' else read_video(file)
    assert ' x '.join(map(str, got.shape[:3])) == clip and got.std() > 1
    shutil.rmtree(tmp_path)                # up to 4 GB
