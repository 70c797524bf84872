"vae.tiling: equal to the whole where it should be, near it where it cannot, bounded memory, clear refusals"
import os, subprocess, sys
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from opensora_nb.core import real_data
from opensora_nb.data.video_io import read_video
from opensora_nb.parallel.comm import local_ranks
from opensora_nb.parallel.vae import decode_on_ranks, encode_on_ranks, shares
from opensora_nb.sample.pipeline import decode_latents, generate, load_pipeline, load_vae, stream_decode, to_pixels
from opensora_nb.sample.settings import SampleConfig
from opensora_nb.vae.image import AutoencoderKLConfig, VideoAutoencoderKL
from opensora_nb.vae.tiling import (PeakMemory, PooledNorms, Tiling, cores, crossfade, equal_in_pieces, iter_decode,
                                    latent_length, ramps, spans, spread_jump, tiled_decode, tiled_encode, windows)
from opensora_nb.vae.video import TemporalVAEConfig, VideoVAE, VideoVAEConfig

ROOT = Path(__file__).resolve().parent.parent
@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad(): yield

def made(levels=2, res=1, groups=2, seed=0, **kw):
    torch.manual_seed(seed)
    cfg_2d = AutoencoderKLConfig(block_out_channels=(8,)*levels, layers_per_block=res, norm_num_groups=groups)
    cfg_time = TemporalVAEConfig(filters=8, num_res_blocks=res, num_groups=groups)
    return VideoVAE(VideoVAEConfig(vae_2d=cfg_2d, vae_temporal=cfg_time, **kw)).eval()
SMALL, TINY = made(), load_vae('tiny')
WIDE = made(levels=4, res=2, groups=4)                                  # the released layout at toy width
def large(x, h, w):
    "A picture, stretched to another size"
    return torch.nn.functional.interpolate(x[0].transpose(0, 1), size=(h, w), mode='bilinear').transpose(0, 1)[None]
def video(b=1, f=5, h=16, w=24, seed=1):
    return torch.rand(b, 3, f, h, w, generator=torch.Generator().manual_seed(seed))*2 - 1
def off(a, b):
    assert a.shape == b.shape
    return (a - b).abs().max().item()

# in time: exact

# rounding; in doubles 1e-12 below
@pytest.mark.parametrize('vae, near', [(TINY, 1e-5), (WIDE, 1e-4)], ids=['tiny', 'released layout'])
@pytest.mark.parametrize('b', [1, 2])
@pytest.mark.parametrize('f', [1, 5, 17, 18, 34, 40])
def test_chunks_equal_the_whole(vae, near, b, f):
    x = video(b, f)
    z = vae.encode(x)
    y = vae.decode(z, f)
    assert off(tiled_encode(vae, x), z) < near and off(tiled_decode(vae, z, f), y) < near
    pieces = list(iter_decode(vae, z, f, Tiling(frames=3)))
    assert sum(p.shape[2] for p in pieces) == f and off(torch.cat(pieces, 2), y) < near

@pytest.mark.parametrize('f', [1, 18, 40])
def test_chunks_equal_the_whole_in_doubles(f):
    vae, x = made(levels=4, res=2, groups=4).double(), video(2, f).double()
    z = vae.encode(x)
    assert off(tiled_encode(vae, x, Tiling(frames=2)), z) < 1e-12
    assert off(tiled_decode(vae, z, f, Tiling(frames=5)), vae.decode(z, f)) < 1e-12

@pytest.mark.parametrize('f', [1, 17, 18, 40, 68])
def test_pieces_of_one_clip_are_equal_bit_by_bit(f):
    "Batches of four frames, in chunks of 17: the batches of the whole, across chunks"
    vae = made(levels=4, res=2, groups=4, micro_batch_size=4)
    z = vae.encode(video(f=f, h=24, w=40))
    pieces = list(iter_decode(vae, z, f))
    assert equal_in_pieces(vae) and [p.shape[2] for p in pieces] == [4]*(f//4) + [f % 4]*bool(f % 4)
    assert torch.equal(torch.cat(pieces, 2), vae.decode(z, f))
    assert equal_in_pieces(FRAMES) and torch.equal(tiled_decode(FRAMES, z, z.shape[2]), FRAMES.decode(z))
    assert not equal_in_pieces(TINY)                            # 34 frames at once, twice a chunk

def test_one_chunk_autoencoder():
    vae, x = made(micro_frame_size=None), video(f=23)
    z = vae.encode(x)
    assert off(tiled_encode(vae, x), z) < 1e-5 and off(tiled_decode(vae, z, 23), vae.decode(z, 23)) < 1e-5

@pytest.mark.parametrize('f', [1, 3, 17, 18, 19, 34, 40, 52])
@pytest.mark.parametrize(
    'kw', [dict(overlap=1), dict(overlap=8), dict(overlap=16), dict(spread=1), dict(spread=8)], ids=str)
def test_every_length_comes_back(f, kw):
    how, x = Tiling(**kw), video(f=f, h=4, w=4)
    z = tiled_encode(SMALL, x, how)
    assert z.shape[2] == latent_length(SMALL, f, how)
    pieces = list(iter_decode(SMALL, z, f, how))
    assert torch.equal(torch.cat(pieces, 2), tiled_decode(SMALL, z, f, how)) and sum(p.shape[2] for p in pieces) == f
    assert all(p.shape[2] for p in pieces)

def test_blends_change_the_borders_only():
    x, z = video(f=51, h=8, w=8), None
    z = SMALL.encode(x)
    y = SMALL.decode(z, 51)
    changed = (tiled_decode(SMALL, z, 51, Tiling(spread=2)) - y).abs().amax((0, 1, 3, 4)) > 1e-4
    assert changed.nonzero().flatten().tolist() == [15, 16, 17, 18, 32, 33, 34, 35]
    how = Tiling(overlap=3)
    y = tiled_decode(SMALL, tiled_encode(SMALL, x, how), 51, how)
    first, second = (SMALL.decode(SMALL.encode(x[:, :, a:a+17]), 17) for a in (0, 14))
    assert off(y[:, :, :14], first[:, :, :14]) < 1e-4 and off(y[:, :, 17:28], second[:, :, 3:14]) < 1e-4

def test_spread_softens_the_border():
    z = TINY.encode(video(f=34, h=32, w=32))
    y, soft = TINY.decode(z, 34), tiled_decode(TINY, z, 34, Tiling(spread=2))
    def step(v): return (v[:, :, 17] - v[:, :, 16]).abs().mean()
    assert step(soft) < .6*step(y)

@pytest.mark.skipif(real_data() is None, reason='no folder of real clips')
@pytest.mark.parametrize('how', [Tiling(spread=2), Tiling(overlap=4)], ids=['spread', 'overlap'])
def test_film_has_less_of_a_seam(how):
    from opensora_nb.data.transforms import resize_crop_to_fill
    from opensora_nb.data.video_io import read_video
    def clip(name): return resize_crop_to_fill(read_video(real_data()/'clips'/name, num_frames=34), (64, 64))
    clips = [np.stack(clip(n)) for n in ('dog_eating.mp4', 'stream_of_water.mp4', 'bbb_wakeup.mp4')]
    x = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).float()/127.5 - 1
    def border(how): # mean step over the joins, divided by the median step
        y = tiled_decode(TINY, tiled_encode(TINY, x, how), 34, how)
        d = (y[:, :, 1:] - y[:, :, :-1]).abs().mean((1, 3, 4))
        wins = windows(34, 17, how.overlap)
        joins = torch.cat([d[:, n-1:e] for (_, e), (n, _) in zip(wins, wins[1:])], 1)
        return (joins.mean(1)/d.median(1).values).mean().item()
    assert border(how) < .6*border(Tiling())

# windows, spans, weights

@given(f=st.integers(1, 300), chunk=st.integers(1, 30), data=st.data())
@settings(max_examples=200, deadline=None)
def test_windows_cover(f, chunk, data):
    o = data.draw(st.integers(0, chunk-1))
    wins = windows(f, chunk, o)
    assert wins[0][0] == 0 and wins[-1][1] == f and all(0 < b - a <= chunk for a, b in wins)
    assert all(e - n >= o and n > a for (a, e), (n, _) in zip(wins, wins[1:]))
    if o == 0: assert all(e == n for (_, e), (n, _) in zip(wins, wins[1:]))
    elif f > chunk: assert all(b - a == chunk for a, b in wins)

@given(n=st.integers(1, 120), tile=st.integers(1, 40), scale=st.sampled_from([1, 2, 8]), data=st.data())
@settings(max_examples=200, deadline=None)
def test_tiles_cover_and_weights_sum_to_one(n, tile, scale, data):
    o = data.draw(st.integers(0, tile-1))
    parts = spans(n, tile, o)
    assert parts[0][0] == 0 and parts[-1][1] == n and len({b - a for a, b in parts}) == 1
    assert all(e - s >= o and s > a for (a, e), (s, _) in zip(parts, parts[1:]))
    total = torch.zeros(n*scale, dtype=torch.float64)
    for (a, b), w in zip(parts, ramps(parts, scale)):
        total[a*scale:b*scale] += w
        assert (w >= 0).all()
    assert (total - 1).abs().max() < 1e-9
    owned = [(a + lo, a + hi) for (a, _), (lo, hi) in zip(parts, cores(parts))]
    assert owned[0][0] == 0 and owned[-1][1] == n and all(p[1] == q[0] for p, q in zip(owned, owned[1:]))

def test_fade_and_spread_keep_dtype():
    a = torch.zeros(1, 2, 5, 3, 3, dtype=torch.bfloat16)
    assert crossfade(a, a, 2).dtype == spread_jump(a, a, 2).dtype == torch.bfloat16
    assert crossfade(a, a, 2).shape[2] == 8 and spread_jump(a, a, 2).shape[2] == 10

# in space

@pytest.mark.parametrize('vae', [TINY, WIDE], ids=['tiny', 'released layout'])
def test_a_tile_as_large_as_the_picture(vae):
    x = video(2, 5, 35, 40)
    z = vae.encode(x)                          # 35: pixels that fill no latent position
    for tile in (40, 48, 4096):
        assert off(tiled_encode(vae, x, Tiling(tile=tile)), z) < 1e-4
        assert off(tiled_decode(vae, z, 5, Tiling(tile=tile, tile_overlap=16)), vae.decode(z, 5)) < 1e-4

def outer_norms(half):
    def norms(module): return sum(isinstance(m, nn.GroupNorm) for m in module.modules())
    return norms(half) - norms(half.mid_block)

@pytest.mark.parametrize('h, w', [(80, 96), (81, 97)])
def test_tiles_are_exact_with_all_passes_and_wide_overlap(h, w):
    vae = made().double()
    x = video(1, 2, h, w).double()
    z = vae.encode(x)
    y = vae.decode(z, 2)
    how = Tiling(tile=72, tile_overlap=56, passes=outer_norms(vae.spatial_vae.module.decoder))
    assert off(tiled_encode(vae, x, how), z) < 1e-12 and off(tiled_decode(vae, z, 2, how), y) < 1e-12
    assert off(tiled_decode(vae, z, 2, replace(how, passes=how.passes-1)), y) > 1e-9
    assert off(tiled_decode(vae, z, 2, replace(how, tile=24, tile_overlap=4)), y) > 1e-3

def test_a_quarter_is_shared_by_default():
    x = video(f=2, h=32, w=32)
    z = SMALL.encode(x)
    y, quarter, none = (tiled_decode(SMALL, z, 2, Tiling(tile=16, tile_overlap=n)) for n in (None, 4, 0))
    assert torch.equal(y, quarter)
    assert off(y, none) > 1e-4

def test_more_is_nearer():
    x = large(video(1, 1, 12, 12), 128, 64)
    z = TINY.encode(x)
    y = TINY.decode(z, 1)
    def rms(**kw): return (tiled_decode(TINY, z, 1, Tiling(tile=64, **kw)) - y).square().mean().sqrt().item()
    own, two = rms(tile_overlap=32, passes=0), rms(tile_overlap=32)
    six, none = rms(tile_overlap=32, passes=6), rms(tile_overlap=0)
    assert max(two, six) < .5*own and two < none, (own, two, six, none)

def test_some_passes_do_not_run_away(): # norms that insist on numbers of the last pass do: a thousandfold
    vae = made(levels=4, res=2, groups=4, seed=42)
    x = large(video(1, 1, 16, 16), 128, 128)
    z = vae.encode(x)
    y = vae.decode(z, 1)
    for passes in (2, 3, 4, 6):
        assert tiled_decode(vae, z, 1, Tiling(tile=64, tile_overlap=16, passes=passes)).abs().max() < 3*y.abs().max()

def test_the_autoencoder_is_left_alone():
    vae = made()
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    forwards = [m for m in vae.modules() if 'forward' in vars(m)]
    x = video(f=2, h=32, w=32)
    z = vae.encode(x)
    y = vae.decode(z, 2)
    tiled_decode(vae, z, 2, Tiling(tile=16, tile_overlap=4))
    tiled_encode(vae, x, Tiling(tile=16, tile_overlap=4))
    assert forwards == [m for m in vae.modules() if 'forward' in vars(m)] == []
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())
    assert torch.equal(vae.decode(z, 2), y)
    twin = PooledNorms(vae.spatial_vae.module.decoder)
    decoder = vae.spatial_vae.module.decoder
    assert {p.data_ptr() for p in twin.net.parameters()} == {p.data_ptr() for p in decoder.parameters()}

def test_flat_pictures_and_bfloat16():
    flat = torch.full((1, 3, 2, 32, 32), -1.)
    how = Tiling(tile=16, tile_overlap=4)
    assert tiled_decode(SMALL, tiled_encode(SMALL, flat, how), 2, how).isfinite().all()
    half = made().bfloat16()
    x = video(f=2, h=32, w=32).bfloat16()
    y = tiled_decode(half, tiled_encode(half, x, how), 2, how)
    assert y.dtype == torch.bfloat16 and y.isfinite().all() and y.device.type == 'cpu'

# memory

def peak(fn):
    with PeakMemory() as m: fn()
    return m.peak

def test_memory_does_not_grow_with_length():
    def run(f):
        for _ in iter_decode(TINY, torch.zeros(1, 4, 5*f//17, 4, 4), f, Tiling(frames=4)): pass
    assert peak(lambda: run(136)) < 1.02*peak(lambda: run(34))
    long, short = torch.zeros(1, 4, 40, 4, 4), torch.zeros(1, 4, 10, 4, 4)
    assert peak(lambda: TINY.decode(long, 136)) > 3.5*peak(lambda: TINY.decode(short, 34))
    z = torch.zeros(1, 4, 5, 4, 4)
    assert peak(lambda: tiled_decode(TINY, z, 17, Tiling(frames=4))) < .4*peak(lambda: tiled_decode(TINY, z, 17))
    frame = torch.zeros(1, 3, 1, 32, 32)
    def film(f): return frame.expand(-1, -1, f, -1, -1)
    assert peak(lambda: tiled_encode(TINY, film(136))) < 1.05*peak(lambda: tiled_encode(TINY, film(34)))

def test_memory_of_tiles():
    z = torch.zeros(1, 4, 1, 32, 32)
    assert peak(lambda: tiled_decode(TINY, z, 1, Tiling(tile=64, tile_overlap=16))) < .2*peak(lambda: TINY.decode(z, 1))

CHILD = """
import re, sys, torch
from pathlib import Path
from opensora_nb.data.video_io import read_video
from opensora_nb.sample.pipeline import decode_latents, generate, load_pipeline, load_vae, stream_decode, to_pixels
from opensora_nb.sample.settings import SampleConfig
from opensora_nb.vae.tiling import Tiling, iter_decode
def high(): # in KB; ru_maxrss would start at the parent's
    return int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])
vae, f = load_vae('tiny'), int(sys.argv[2])
with torch.no_grad():
    vae.decode(torch.zeros(1, 4, 1, 8, 8), 1)
    base = high()
    z = torch.zeros(1, 4, 5*f//17, 8, 8)
    if sys.argv[1] == 'whole': vae.decode(z, f)
    else:
        for _ in iter_decode(vae, z, f): pass
print((high() - base)/1024)
"""
@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='reads the memory of a process from /proc')
def test_the_operating_system_agrees():
    def used(way, f):
        command = [sys.executable, '-c', CHILD, way, str(f)]
        return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    whole, pieces = used('whole', 68), used('pieces', 68)
    assert whole > 100 and pieces < .5*whole, f"{pieces:.0f} MB in pieces, {whole:.0f} MB whole"

STREAM = """
import sys, tempfile, torch
from opensora_nb.blocks.compare import peak_memory
from opensora_nb.sample.pipeline import Pipeline, stream_decode
from opensora_nb.sample.settings import ModelDefaults
from opensora_nb.vae.image import AutoencoderKLConfig
from opensora_nb.vae.video import TemporalVAEConfig, VideoVAE, VideoVAEConfig
vae = VideoVAE(VideoVAEConfig(vae_2d=AutoencoderKLConfig(block_out_channels=(8, 8, 16, 16), norm_num_groups=4),
                              vae_temporal=TemporalVAEConfig(filters=8, num_groups=4))).eval()
pipe, f = Pipeline(vae, vae, None, ModelDefaults(num_frames=17)), int(sys.argv[1])
z = torch.zeros(4, *vae.latent_size((f, 128, 128)))
with tempfile.TemporaryDirectory() as folder:
    print(peak_memory(lambda: stream_decode(pipe, z, f, folder + '/clip.avi'))[1]/2**20)
"""
@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='reads the memory of a process from /proc')
def test_streaming_needs_the_same_memory_for_any_length():
    env = os.environ | dict(MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='65536') # freed is given back
    def used(f):
        command = [sys.executable, '-c', STREAM, str(f)]
        return float(subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout)
    short, long = used(17), used(136)
    assert long < 1.1*short, f"{short:.0f} MB for 17 frames, {long:.0f} MB for 136"

def test_a_stream_is_the_clip(tmp_path):
    pipe = load_pipeline('tiny', 'cpu')
    pipe.vae = made(levels=4, res=2, groups=4, micro_batch_size=4)
    z = torch.randn(4, 12, 2, 3, generator=torch.Generator().manual_seed(0))
    for frames, made_of in ((40, 40), (38, 39)):                # of 39 that are made, the last is left out
        want = decode_latents(pipe, z[None], frames)[0]
        np.testing.assert_array_equal(want, to_pixels(pipe.vae.decode(z[None], made_of)[0])[:frames])
        np.testing.assert_array_equal(read_video(stream_decode(pipe, z, frames, tmp_path/'a.mkv', crf=0)), want)
    with pytest.raises(ValueError, match='40 frames come from 12 latent frames, this latent has 11'):
        stream_decode(pipe, z[:, 1:], 40, tmp_path/'b.mkv')
    with pytest.raises(ValueError, match="cannot write the suffix '.gif'"): stream_decode(pipe, z, 40, tmp_path/'b.gif')
    with torch.no_grad(): pipe.vae.spatial_vae.module.decoder.conv_out.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match='NaN or infinite pixels'): stream_decode(pipe, z, 40, tmp_path/'b.mkv')
    assert [p.name for p in tmp_path.iterdir()] == ['a.mkv']    # no part of a file stays behind

def test_latents_in_place_of_clips(tmp_path):
    pipe = load_pipeline('tiny', 'cpu')
    cfg = SampleConfig(num_sampling_steps=2, seed=1)
    z = generate(pipe, ['a red circle moves left'], cfg, decode=False)
    want = generate(pipe, ['a red circle moves left'], cfg)[0]
    np.testing.assert_array_equal(decode_latents(pipe, z, 17)[0], want)

# refusals

junk = st.one_of(st.none(), st.booleans(), st.integers(-40, 400), st.floats(), st.text(max_size=3),
                 st.lists(st.integers(), max_size=2))
@given(st.dictionaries(st.sampled_from(list(Tiling.__dataclass_fields__)), junk))
@settings(max_examples=300, deadline=None)
def test_any_tiling_works_or_is_refused(kw):
    try:
        how = Tiling(**kw)
        how.check(SMALL.cfg)
    except ValueError as e:
        assert len(str(e).split()) > 4 and '\n' not in str(e)
        return
    assert all(v is None or type(v) is int for v in vars(how).values())
    # slow, tried elsewhere
    if how.tile and how.tile - (how.tile_overlap or 0) < 8 or (how.passes or 0) > 2 or how.overlap > 8: return
    x = torch.zeros(1, 3, 19, 20, 20)
    with torch.no_grad(): assert tiled_decode(SMALL, tiled_encode(SMALL, x, how), 19, how).shape == x.shape

@pytest.mark.parametrize('kw, words', [
    (dict(tile=4),                   'tile of 4 pixels is smaller than one latent position, 8'),
    (dict(tile=64, tile_overlap=64), 'tiles of 64 pixels cannot overlap by 64'),
    (dict(tile=32, tile_overlap=40), 'tiles of 32 pixels cannot overlap by 40'),
    (dict(overlap=17),               'windows of 17 frames cannot overlap by 17'),
    (dict(tile=60),                  'tile is 60 pixels, not a multiple of 8; try 64'),
    (dict(tile=64, tile_overlap=12), 'tile_overlap is 12 pixels, not a multiple of 8'),
    (dict(tile_overlap=16),          'there are no tiles'),
    (dict(spread=9),                 'half a chunk of 17 frames is 8'),
    (dict(spread=1, overlap=1),      'two cures'),
    (dict(frames=0),                 'frames is 0; give a whole number, 1 or more'),
    (dict(passes=-1),                'passes is -1'),
    (dict(tile=64.),                 'tile is 64.0'),
])
def test_refusals(kw, words):
    with pytest.raises(ValueError, match=words):
        tiled_decode(TINY, torch.zeros(1, 4, 10, 2, 2), 34, Tiling(**kw))

def test_refused_latents():
    for how in (Tiling(), Tiling(overlap=4)):
        for z, f, words in (
            (torch.zeros(1, 4, 9, 2, 2),  34, 'this latent has 9'),
            (torch.zeros(4, 5, 2, 2),     17, '5 axes'),
            (torch.zeros(1, 3, 10, 2, 2), 34, '3 channels'),
            (torch.zeros(1, 4, 10, 2, 2), 0,  'num_frames is 0'),
        ):
            # at the call, before the first piece
            with pytest.raises(ValueError, match=words): iter_decode(TINY, z, f, how)
    with pytest.raises(ValueError, match='uint8'): tiled_encode(TINY, torch.zeros(1, 3, 5, 16, 16, dtype=torch.uint8))

# frames by themselves (Open-Sora 1.0 and 1.1)

FRAMES = VideoAutoencoderKL(AutoencoderKLConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=2),
                            micro_batch_size=2, scaling_factor=.5).eval()

@pytest.mark.parametrize('f', [1, 5, 18])
def test_an_autoencoder_of_single_frames_is_cut_too(f):
    x = video(2, f, 32, 48)
    z = FRAMES.encode(x)
    assert off(tiled_encode(FRAMES, x), z) < 1e-5 and off(tiled_decode(FRAMES, z, f), FRAMES.decode(z)) < 1e-5
    assert [p.shape[2] for p in iter_decode(FRAMES, z, f, Tiling(frames=3))] == [3]*(f//3) + [f % 3]*bool(f % 3)
    assert 0 < off(tiled_decode(FRAMES, z, f, Tiling(tile=32)), FRAMES.decode(z)) < .3 # other statistics: near
    assert latent_length(FRAMES, f) == f

def test_ranks_share_single_frames():
    x = video(1, 5, 16, 16)
    z = FRAMES.encode(x)
    def both(): return [encode_on_ranks(FRAMES, x), decode_on_ranks(FRAMES, z, 5)]
    for world in (2, 6):                                        # of six, one gets no frame
        for e, d in local_ranks(both, world): assert off(e, z) < 1e-5 and off(d, FRAMES.decode(z)) < 1e-5
    assert [b - a for a, b, *_ in shares(FRAMES, 5, 2)] == [3, 2]

def test_no_border_to_smooth_between_single_frames():
    z = FRAMES.encode(video())
    for how in (Tiling(spread=2), Tiling(overlap=1)):
        with pytest.raises(ValueError, match='takes each frame by itself, so there is no border'):
            tiled_decode(FRAMES, z, 5, how)
    with pytest.raises(ValueError, match='tile is 9 pixels, not a multiple of 2'):
        tiled_decode(FRAMES, z, 5, Tiling(tile=9))
