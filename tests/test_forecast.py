"What a run will cost: the FLOP formula against torch's counter, the dry run against both, and what people may ask for."
from dataclasses import replace
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.utils.flop_counter import FlopCounterMode
from opensora_nb.blocks.attention import use_backend
from opensora_nb.models.stdit3 import STDiT3, STDiT3Config, stdit3_tiny, stdit3_xl2
from opensora_nb.blocks.meter import Meter, total_flops
from opensora_nb.sample.forecast import (PUBLISHED, decode_stage, denoise_stages, forecast, stdit3_flops,
                                         text_tokens)
from opensora_nb.sample.pipeline import Pipeline, generate, load_pipeline
from opensora_nb.sample.settings import ModelDefaults, SampleConfig
from opensora_nb.vae.image import AutoencoderKLConfig, VideoAutoencoderKL
from opensora_nb.vae.video import VideoVAE, video_vae_tiny, video_vae_v12
from every_model import small

TOY = STDiT3Config(hidden_size=24, depth=1, num_heads=2, caption_channels=10, model_max_length=9)
RELEASED = stdit3_xl2(), video_vae_v12()

@settings(max_examples=15, deadline=None)
@given(st.integers(1, 2), st.integers(1, 4), st.integers(1, 7), st.integers(1, 7), st.integers(1, 9), st.booleans(),
       st.sampled_from([(1, 2, 2), (1, 1, 2)]), st.sampled_from([1., 4.]))
def test_formula_is_torchs_count(depth, f, h, w, words, sigma, patch, ratio):
    cfg = replace(TOY, depth=depth, pred_sigma=sigma, patch_size=patch, mlp_ratio=ratio)
    model, row = use_backend(STDiT3(cfg).eval(), 'naive'), torch.ones(2)
    with torch.inference_mode(), FlopCounterMode(display=False) as c:
        model(torch.zeros(2, 4, f, h, w), row, torch.zeros(2, 1, words, 10), fps=row, height=8*h*row, width=8*w*row)
    assert sum(stdit3_flops(cfg, 2, f, -(-h//patch[1])*-(-w//patch[2]), words).values()) == c.get_total_flops()

@pytest.mark.parametrize('guidance', [True, False])
def test_dry_run_is_the_formula(guidance):
    cfg = replace(stdit3_tiny(), depth=5)
    first, rest = denoise_stages(cfg, (5, 9, 8), (72, 64), 3, 17, guidance, torch.float32)
    parts = stdit3_flops(cfg, 3*(1 + guidance), 5, 20, 17)
    assert total_flops(first.work) == sum(parts.values())
    assert total_flops(rest.work) == sum(parts.values()) - parts['captions']

def test_depths_are_extrapolated_exactly():
    cfg = replace(stdit3_tiny(), depth=4)
    model, row = STDiT3(cfg).eval(), torch.ones(2)
    first = denoise_stages(cfg, (5, 8, 8), (64, 64), 1, 40, True, torch.float32)[0]
    assert first.params == sum(p.numel() for p in model.parameters())

@pytest.mark.parametrize('f', [1, 4, 17, 20, 51])
def test_decode_counts_all_chunks(f):
    cfg = replace(video_vae_tiny(), micro_batch_size=4)
    vae = VideoVAE(cfg).eval()
    size = vae.latent_size((f, 32, 16))
    with torch.inference_mode(), Meter(vae) as m: vae.decode(torch.zeros(1, 4, *size), f)
    stage = decode_stage(cfg, f, size, torch.float32)
    assert total_flops(stage.work) == pytest.approx(m.flops, rel=1e-6)
    assert stage.peak == pytest.approx(m.peak, rel=0.2)
    assert stage.params == sum(p.numel() for p in vae.parameters())

def test_whole_generate_is_metered_alike(): # the real thing on real tensors
    pipe = load_pipeline('tiny', device='cpu', dtype='fp32')
    plan, words = forecast(pipe, 34, (64, 96), 3, device=None), pipe.text.max_length
    def zeros(texts):
        return torch.zeros(len(texts), 1, words, pipe.text.dim), torch.ones(len(texts), words, dtype=torch.long)
    pipe.text.encode = zeros
    with Meter(pipe.model, pipe.vae, pipe.text) as m:
        generate(pipe, ['a red circle'], SampleConfig(num_frames=34, image_size=(64, 96), num_sampling_steps=3))
    assert m.flops == pytest.approx(plan.total_flops, rel=1e-6) and m.peak == pytest.approx(plan.memory, rel=0.1)

def test_no_model_is_allocated():
    from opensora_nb.sample import forecast as module
    for cls, cfg in zip((STDiT3, VideoVAE), RELEASED):
        assert all(p.is_meta for p in module.on_meta(cls, cfg).parameters())

def test_published_rows_have_forecasts():
    def of_released(length, resolution):
        return forecast(RELEASED, length, resolution, 30, dtype='bf16', device=None, extra=19_000_000_000)
    rows = (('360p', 1), ('480p', '4s'), ('720p', '16s'))
    near = [of_released(length, resolution) for resolution, length in rows]
    for p, (s, g) in zip(near, (PUBLISHED[k] for k in rows)):
        assert 0.6 < p.memory/1e9/g < 1.1 and dict(p.lines())['published'].startswith(f'{s} s and {g} GB')
    for p, k in zip(near[1:], rows[1:]): assert 100 < p.total_flops/PUBLISHED[k][0]/1e12 < 150
    assert 'published' not in dict(forecast(RELEASED, '4s', '720p', 20, device=None).lines())

@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(max_size=6), st.integers(-3, 60), st.sampled_from(['2s', '1x', None])),
       st.one_of(st.text(max_size=6), st.none(), st.tuples(st.integers(-9, 99), st.integers(-9, 99)),
                 st.sampled_from(['144p', '256'])),
       st.integers(-2, 4), st.integers(-1, 2), st.integers(-1, 12))
def test_any_question_has_an_answer_or_a_clear_error(f, size, steps, batch, words):
    try: plan = forecast((TOY, video_vae_tiny()), f, size, steps, batch, device=None, caption_tokens=words)
    except ValueError as e: assert len(str(e)) > 20
    else: assert plan.memory > plan.weights > 0 and plan.total_flops > 0 and str(plan)

class Words: # captions of as many tokens as the model takes, or classes
    def __init__(self, cfg): self.cfg = cfg
    def to(self, device=None): return self
    def encode(self, texts):
        n, l = len(texts), text_tokens(self.cfg)
        if not l: return torch.zeros(n, dtype=torch.int64), None
        return torch.zeros(n, 1, l, self.cfg.caption_channels), torch.ones(n, l, dtype=torch.long)

FRAMES = AutoencoderKLConfig(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4)

@pytest.mark.parametrize('kind, changes, schedule', [
    ('STDiT', {}, 'ddpm'), ('STDiT2', {}, 'ddpm'), ('STDiT3', {}, 'rflow'), ('Latte', dict(depth=6), 'dpm-solver'),
    ('Latte', dict(depth=4, condition='label_5'), 'ddim'), ('DiT', dict(condition='label_5'), 'ddpm'),
    ('DiT', {}, 'ddpm'), ('PixArt', {}, 'dpm-solver'), ('PixArtMS', {}, 'dpm-solver'),
    ('PixArtSigma', {}, 'dpm-solver')])
def test_every_transformer_is_metered_alike(kind, changes, schedule):
    "Frames by themselves; the real walk of each schedule, with guidance"
    model = small(kind, **dict(depth=3) | changes)
    f, h, w = getattr(model.cfg, 'input_size', (5, 8, 8))
    vae = VideoAutoencoderKL(FRAMES, micro_batch_size=2).eval()
    pipe = Pipeline(vae, model, Words(model.cfg), ModelDefaults(f, (8*h, 8*w), cfg_scale=3., schedule=schedule))
    plan = forecast(pipe, steps=3, device=None)
    with Meter(model, vae) as m: generate(pipe, ['a'], SampleConfig(num_sampling_steps=3))
    assert m.flops == pytest.approx(plan.total_flops, rel=1e-6)
    assert m.peak == pytest.approx(plan.memory, rel=.15)
    assert plan.params['transformer'] == sum(p.numel() for p in model.parameters())
    assert f"{f} frames of {8*h} x {8*w}" in str(plan)
    assert ('a class a row' in str(plan)) == (changes.get('condition') == 'label_5')
