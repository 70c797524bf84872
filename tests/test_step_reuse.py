"Reuse between steps: what it goes well with, and that a way of reusing is as exact as it says"
import pytest
import torch
from opensora_nb.models.fast_inference import compiled_blocks
from opensora_nb.sample.pipeline import SampleConfig, generate, load_pipeline
from opensora_nb.sample.step_reuse import Easy, WalkMemory, enable

@pytest.fixture(scope='module')
def pipe(): return load_pipeline('tiny', 'cpu')

def test_compiled_blocks_go_with_policies_on_whole_answers(pipe, monkeypatch):
    "The others look into the blocks, and say so, whether blocks are compiled already or will be"
    monkeypatch.setattr(torch, 'compile', lambda fn, *_, **__: fn)
    how = SampleConfig(num_sampling_steps=6)
    def latents(): return generate(pipe, ['a red circle moves left'], how, decode=False)
    with enable(pipe, 'easy', threshold=.2) as count: want = latents()
    assert count.reused
    with compiled_blocks(pipe.model), pytest.raises(ValueError, match='leave compile out, or use easy'):
        enable(pipe, 'first-block').__enter__()
    monkeypatch.setattr(pipe, 'speed', dict(compiled=True))
    with pytest.raises(ValueError, match='Taylor decides within the blocks'): enable(pipe, 'taylor').__enter__()
    with enable(pipe, 'easy', threshold=.2): assert torch.equal(latents(), want)

def test_easy_of_order_1_goes_on_along_a_line():
    "Answers that are a line in time are foretold exactly, and those of order 0 are not"
    off = {}
    for order in (0, 1):
        policy, walk, asked, worst = Easy(threshold=1e9, order=order, high=1000.), WalkMemory((1,)), [], 0.
        for t in (1000., 900., 800., 650., 500., 300.):
            def plain(x):
                asked.append(t)
                return 2*x + 1
            walk.times.append(t)
            walk.skip, x = False, torch.full((1,), t/1000)
            out = policy.answer(walk, plain, x)
            walk.since += walk.skip
            worst = max(worst, (out - 2*x - 1).abs().item())
        assert len(asked) == 2
        off[order] = worst
    assert off[1] < 1e-5 < .5 < off[0]

def test_easy_of_another_order_is_refused():
    with pytest.raises(ValueError, match='order 0 or 1, not 2'): Easy(order=2)
