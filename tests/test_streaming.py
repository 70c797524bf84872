"A film goes into its file piece by piece: memory, files that are cut short, and the same bytes as a film that is held"
import os, subprocess, sys
from pathlib import Path
import numpy as np, pytest
import opensora_nb.sample.pipeline as pipeline
from opensora_nb.data.video_io import probe, write_video
from opensora_nb.sample.jobs import GrowingClip, plan_jobs, run_jobs
from opensora_nb.sample.pipeline import SampleConfig, load_pipeline
from opensora_nb.sample.settings import LongConfig

ROOT, RED = Path(__file__).parents[1], 'a red circle moves left'
FEW = SampleConfig(num_sampling_steps=1, image_size=(32, 32), num_frames=17)

@pytest.fixture(scope='module')
def tiny(): return load_pipeline('tiny', 'cpu')

def names(folder): return sorted(p.name for p in folder.iterdir())

FILM = """
import sys, tempfile
import opensora_nb.sample.pipeline as pipeline
from opensora_nb.blocks.compare import peak_memory
from opensora_nb.sample.jobs import plan_jobs, run_jobs
from opensora_nb.sample.settings import LongConfig
from opensora_nb.vae.image import AutoencoderKLConfig
from opensora_nb.vae.video import TemporalVAEConfig, VideoVAE, VideoVAEConfig
pipe = pipeline.load_pipeline('tiny', 'cpu')
pipe.vae = VideoVAE(VideoVAEConfig(vae_2d=AutoencoderKLConfig(block_out_channels=(8, 8, 8, 8), norm_num_groups=4),
                                   vae_temporal=TemporalVAEConfig(filters=8, num_groups=4))).eval()
# of a round, only the transformer's memory grows with the frames: left out
pipeline.sample = lambda answer, noise, *args, **how: noise
def make(frames, loop):
    cfg = pipeline.SampleConfig(num_frames=frames, image_size=(144, 144))
    with tempfile.TemporaryDirectory() as folder:
        jobs = plan_jobs([(0, 'a')], folder, 'avi')
        return [n for _, n in run_jobs(pipe, jobs, cfg, LongConfig(loop, 1), hold=False)]
make(17, 2)
for frames, loop in ((17, 1), (136, 1), (17, 2), (17, 9)):
    made, peak = peak_memory(lambda: make(frames, loop))
    print(*made, peak/2**20)
"""
@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='reads the memory of a process from /proc')
def test_a_long_film_needs_the_memory_of_a_short_one():
    env = os.environ | dict(MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='65536') # freed is given back
    said = subprocess.run([sys.executable, '-c', FILM], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    rows = [[float(w) for w in line.split()] for line in said.stdout.splitlines()]
    assert [n for n, _ in rows] == [17, 136, 33, 145]
    for (n, short), (m, long) in (rows[:2], rows[2:]):
        assert long < 1.1*short, f"{short:.1f} MB for {n:.0f} frames, {long:.1f} MB for {m:.0f}"

@pytest.mark.parametrize('suffix,mark', [('mp4', 'mine'), ('gif', ''), ('avi', '')])
def test_the_same_bytes_as_a_film_that_is_held(tmp_path, tiny, suffix, mark):
    jobs = plan_jobs([(0, RED), (1, 'a blue star')], tmp_path, suffix)
    made = list(run_jobs(tiny, jobs, FEW, LongConfig(2, 1), 2, 8, mark))
    for (job, film), frames in zip(made, (33, 33)):
        assert len(film) == frames
        assert job.path.read_bytes() == write_video(tmp_path/f'held.{suffix}', film, 8).read_bytes()
    (tmp_path/f'held.{suffix}').unlink()
    twins = [f'sample_000{i}_watermark.{suffix}' for i in range(2) if mark]
    assert names(tmp_path) == sorted(['jobs.jsonl', *(j.path.name for j in jobs), *twins])

class Stop(BaseException): "as Ctrl-C"

def stopping(monkeypatch, piece): # decoding stops at this piece, counted over all clips
    seen, plain = [], pipeline.to_pixels
    def to_pixels(x):
        seen.append(1)
        if len(seen) == piece: raise Stop
        return plain(x)
    monkeypatch.setattr(pipeline, 'to_pixels', to_pixels)

@pytest.mark.parametrize('suffix', ['mp4', 'gif'])
def test_a_clip_that_is_cut_short_leaves_no_file(tmp_path, tiny, monkeypatch, suffix):
    "Ctrl-C while the third of four chunks is decoded, of the second clip of a batch: the first is there and whole"
    jobs = plan_jobs([(0, RED), (1, RED)], tmp_path, suffix)
    cfg = SampleConfig(num_sampling_steps=1, image_size=(32, 32), num_frames=68)
    stopping(monkeypatch, 7)
    with pytest.raises(Stop): list(run_jobs(tiny, jobs, cfg, batch_size=2, mark='mine'))
    assert names(tmp_path) == ['jobs.jsonl', f'sample_0000.{suffix}', f'sample_0000_watermark.{suffix}']
    assert probe(jobs[0].path).num_frames == 68

def test_whole_rounds_are_kept_when_decoding_stops(tmp_path, tiny, monkeypatch):
    stopping(monkeypatch, 3)
    with pytest.raises(Stop), pytest.warns(UserWarning, match='2 of 3 rounds are kept'):
        list(run_jobs(tiny, plan_jobs([(0, RED)], tmp_path), FEW, LongConfig(3, 1)))
    assert names(tmp_path) == ['jobs.jsonl', 'sample_0000_part.mp4']
    assert probe(tmp_path/'sample_0000_part.mp4').num_frames == 33

def test_a_file_cannot_be_written(tmp_path, tiny):
    "The name belongs to a folder, the disk is full: an error, and nothing hidden stays"
    [job] = plan_jobs([(0, RED)], tmp_path)
    job.path.mkdir()
    with pytest.raises(OSError), GrowingClip(job, 8) as clip: clip.add(np.zeros((2, 16, 16, 3), np.uint8))
    assert names(tmp_path) == ['sample_0000.mp4']

def test_no_steps_are_kept_but_those_asked_for(tiny, monkeypatch):
    "`generate` held the latents of all steps, though nobody had asked for a trajectory"
    seen, plain = [], pipeline.sample
    monkeypatch.setattr(pipeline, 'sample', lambda *args, **how: seen.append(how) or plain(*args, **how))
    pipeline.generate(tiny, [RED], FEW)
    assert not seen[0]['return_trajectory']
