"Speed in the forms: the same clip as by the command, nothing of it stays, and it is said in Chinese, too"
import numpy as np, pytest, torch
import opensora_nb.app.fields as fields
import opensora_nb.sample.pipeline as pipeline
from opensora_nb.app.fields import make
from opensora_nb.app.options import REUSE_WAYS, form_fields, knows, parse_options
from opensora_nb.app.sampling import plan_sample, run_sample
from opensora_nb.app.studio import CHINESE, HELP, chinese_sentence
from opensora_nb.core import fast_bf16
from opensora_nb.sample.pipeline import load_pipeline
from opensora_nb.sample.step_reuse import POLICIES

RED, FEW = 'a red circle moves left', dict(num_sampling_steps=4, num_frames=5)

@pytest.fixture(scope='module')
def tiny(): return load_pipeline('tiny', 'cpu')

needs_bf16 = pytest.mark.skipif(not fast_bf16(), reason='no products of bf16')
WAYS = [dict(vae_speed='exact'), dict(preview=True), dict(reuse='guidance-every'),
        pytest.param(dict(preview=True, vae_speed='bf16'), marks=needs_bf16)]

@pytest.mark.parametrize('how', WAYS, ids=' '.join)
def test_the_form_makes_the_clip_of_the_command(tmp_path, tiny, how):
    plain, quick = (make(tiny, RED, FEW | more).video.frames for more in ({}, how))
    words = [w for k, v in (FEW | how).items() for w in ('--' + k.replace('_', '-'), str(v))]
    plan = plan_sample(parse_options(['--prompt', RED, '--save-dir', str(tmp_path), '--verbose', '0', *words]))
    (_, film), = run_sample(plan)
    np.testing.assert_array_equal(film, quick)
    assert (quick != plain).any() or how in (dict(vae_speed='exact'), dict(fused=True))
    np.testing.assert_array_equal(make(tiny, RED, FEW).video.frames, plain)

@needs_bf16
def test_weights_are_not_rounded_under_the_eyes_of_others(tiny, monkeypatch):
    "While a clip is decoded in bf16, an older clip may be looked at in another thread, by the same autoencoder"
    seen, plain = [], pipeline.to_pixels
    def to_pixels(x):
        seen.append({p.dtype for net in (tiny.vae, tiny.preview) for p in net.parameters()})
        return plain(x)
    monkeypatch.setattr(pipeline, 'to_pixels', to_pixels)
    before, after = (make(tiny, RED, FEW | dict(vae_speed=v)).video.frames for v in ('plain', 'bf16'))
    assert seen == [{torch.float32}]*2 and (before != after).any()
    make(tiny, RED, FEW | dict(vae_speed='bf16', preview=True))
    assert seen == [{torch.float32}]*3

def test_what_cannot_be_is_a_sentence(tiny, monkeypatch):
    monkeypatch.setattr(fields, 'fast_bf16', lambda device: False)
    bare = load_pipeline('tiny', 'cpu')
    bare.preview = None
    for pipe, how in ((tiny, dict(vae_speed='bf16')), (bare, dict(preview=True)),
                      (tiny, dict(reuse='easy', num_sampling_steps=1))):
        with pytest.raises(ValueError) as e: make(pipe, RED, FEW | how)
        said = chinese_sentence(fields.sentence(e.value))
        assert said != fields.sentence(e.value) and '。' in said, said
    assert 'preview' not in fields.known_of(bare) and 'preview' in fields.known_of(tiny)

def test_ways_to_reuse_need_no_calibration():
    assert all(not POLICIES[way].calibrated for way in REUSE_WAYS)

def test_explanations_have_their_chinese():
    told = {f.name for f in form_fields(*knows('tiny'))}
    assert {'vae_speed', 'preview', 'reuse', 'fused'} <= told & {*HELP} and {*HELP.values()} <= {*CHINESE}

def test_widgets_have_the_boxes(tiny):
    from opensora_nb.app.widgets import Sampler, as_command
    box = Sampler(tiny)
    assert dict(box.fields['reuse'].options)['none'] is None
    for name, value in dict(FEW, reuse='guidance-every', preview=True).items(): box.fields[name].value = value
    box.generate()
    assert box.message.value == '' and as_command(box.made[0]).endswith('--reuse guidance-every --preview')
