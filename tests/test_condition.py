"""References and rounds beyond what their pages show: random mask strings, damaged files, long rounds against the
reference implementation's rule."""
import warnings
import pytest, torch
from hypothesis import given as drawn, settings, strategies as st
from opensora_nb.toy.world import Scene, render
from opensora_nb.data.video_io import write_video
from opensora_nb.flow.masks import Condition
from opensora_nb.sample.condition import encode_frames, given, latent_spans, read_reference
from opensora_nb.sample.long import LongConfig, rounds
from opensora_nb.sample.pipeline import load_pipeline

@pytest.fixture(scope='module')
def vae(): return load_pipeline('tiny', 'cpu').vae
CLIP = render(Scene('star', 'blue', 'moves up'), num_frames=40, size=(32, 32))

numbers = st.integers(-12, 12)
written = st.builds(lambda *a: a, st.integers(0, 1), st.integers(0, 2), numbers, numbers, st.integers(1, 20),
                    st.floats(0, 1))
@settings(max_examples=60, deadline=None)
@drawn(conds=st.lists(written, max_size=3), frames=st.sampled_from([1, 2, 5, 17, 18, 34]),
       lengths=st.lists(st.sampled_from([1, 3, 17, 40]), max_size=2), align=st.sampled_from([0, 5]))
def test_any_conditions_are_placed_or_refused(vae, conds, frames, lengths, align):
    conds = tuple(Condition(*c) for c in conds)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: got = given(vae, [[CLIP[:n] for n in lengths]], [conds], frames, (32, 32), align=align)
        except ValueError as e:
            assert str(e)
            return
    if not any(c.loop == 0 for c in conds):
        assert got == {}
        return
    assert got['mask'].shape == (1, len(latent_spans(vae, frames))) and got['x_ref'].isfinite().all()

def test_whole_chunks_are_what_the_reference_encodes(vae):
    "Open-Sora encodes all of a clip and copies; encoding only the piece at its place gives the same for whole chunks"
    conds = (Condition(0, 0, 5, 5, 5),)
    ours, theirs = (given(vae, [[CLIP[:34]]], [conds], 34, (32, 32), align=a) for a in (0, 5))
    assert torch.equal(ours['mask'], theirs['mask'])
    torch.testing.assert_close(ours['x_ref'], theirs['x_ref'], atol=1e-5, rtol=1e-5)

@pytest.mark.parametrize('align', [0, 5])
def test_last_chunk_of_a_clip_is_the_head_of_the_next(vae, align):
    "What `rounds` gives (the last 17 frames) and what Open-Sora gives (the last 5 of all latents) agree"
    want = encode_frames(vae, CLIP[:34])[:, -5:]
    got = given(vae, [[CLIP[17:34]]], [(Condition(0, 0, 0, 0, 5),)], 34, (32, 32), align=align)['x_ref'][0, :, :5]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)

def test_damaged_references(tmp_path):
    (tmp_path/'no.mp4').write_bytes(b'this is no video')
    (tmp_path/'no.png').write_bytes(b'nor a picture')
    (tmp_path/'no.txt').write_text('text')
    for name in ('no.mp4', 'no.png', 'no.txt'):
        with pytest.raises(ValueError, match=name): read_reference(tmp_path/name, (32, 32))
    for name in ('gone.mp4', 'gone.png'):
        with pytest.raises((ValueError, FileNotFoundError), match=name): read_reference(tmp_path/name, (32, 32))
    with pytest.raises((ValueError, OSError)): read_reference(tmp_path, (32, 32))
    write_video(tmp_path/'good.gif', CLIP[:3])
    assert read_reference(tmp_path/'good.gif', (16, 16)).shape == (3, 16, 16, 3)

def test_rounds_refuse_before_they_work():
    class Never: # a pipeline whose networks must not be asked
        defaults = load_pipeline('tiny', 'cpu').defaults
        vae = load_pipeline('tiny', 'cpu').vae
    for loop, c in ((0, 1), (2, 5), (2, 9)):
        with pytest.raises(ValueError): next(rounds(Never, [], [], long=LongConfig(loop, c)))
