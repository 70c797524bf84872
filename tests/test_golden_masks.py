"Frame masks against the reference's: strategies with their recorded draws, mask strings, and what they do to latents."
import json, random
from itertools import product
from pathlib import Path
import pytest, torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file
from opensora_nb.flow.masks import (Condition, apply_conditions, conditions_text, draw_mask, mask_ratios,
                                    parse_conditions, pick_strategy, snap)

HERE = Path(__file__).parent/'goldens'
TRAIN, INFER = (json.loads((HERE/f'{n}.json').read_text()) for n in ('mask_train', 'mask_infer'))

class Recorded:
    "A generator that repeats what the reference drew, and checks that the same is asked"
    def __init__(self, draws): self.draws = list(draws)
    def random(self, n=None):
        kind, value = self.draws.pop(0)
        assert kind == ('random' if n is None else 'torch.rand') and (n is None or len(value) == n)
        return value
    def integers(self, low, high, endpoint):
        kind, a, b, value = self.draws.pop(0)
        assert endpoint and (kind, a, b) == ('randint', low, high)
        return value
    def uniform(self, low, high):
        kind, a, b, value = self.draws.pop(0)
        assert (kind, a, b) == ('uniform', low, high)
        return value

def fixed(r): # rows where the reference fails, or leaves nothing to learn, and ours must not
    return r['error'] is not None or not any(r['mask'])

def test_the_defect_rows_are_the_known_ones():
    quarters = product(('quarter_random', 'quarter_head', 'quarter_tail', 'quarter_head_tail'), (2, 3))
    assert {(r['strategy'], r['T']) for r in TRAIN['forced'] if fixed(r)} == {*quarters, ('image_head_tail', 2)}

def test_forced_strategies():
    for r in TRAIN['forced']:
        if fixed(r): continue
        rng = Recorded(r['draws'])
        rng.random()
        assert draw_mask(r['T'], r['strategy'], rng).int().tolist() == r['mask'], r
        assert not rng.draws

def test_a_long_mix_with_the_reference_generators():
    class Python:
        def random(self, n=None): return random.random() if n is None else torch.rand(n).tolist()
        def integers(self, low, high, endpoint): return random.randint(low, high)
        def uniform(self, low, high): return random.uniform(low, high)
    random.seed(TRAIN['mix_seed'])
    torch.manual_seed(TRAIN['mix_seed'])
    rng, ratios = Python(), mask_ratios({k: v for k, v in TRAIN['ratios'].items() if k != 'identity'})
    drawn = [draw_mask(15, pick_strategy(ratios, rng.random()), rng) for _ in TRAIN['mix']]
    assert [m.int().tolist() for m in drawn] == TRAIN['mix']

def test_selection():
    ratios = mask_ratios({k: v for k, v in TRAIN['ratios'].items() if k != 'identity'})
    for u, name in TRAIN['select']: assert pick_strategy(ratios, u) == name.replace('intepolate', 'interpolate')

def test_mask_strings():
    for text, want in INFER['parse'].items():
        text = None if text == '<None>' else text
        if isinstance(want, dict):
            with pytest.raises(ValueError): parse_conditions(text)
        else: assert parse_conditions(text) == tuple(Condition(*map(int, w[:5]), float(w[5])) for w in want)

def test_aligned_points():
    for v, align, length, want in INFER['find_nearest_point']: assert snap(v, length, align) == want

@pytest.mark.parametrize('row', INFER['rows'], ids=lambda r: str(r['index']))
def test_conditions_on_latents(row):
    t = load_file(HERE/'mask_infer.safetensors')
    n = row['index']
    before = t['z'].clone()
    refs = [[t[k] for k in sorted(t) if k.startswith(f'ref.{i}.')] for i in range(len(t['z']))]
    conditions = [parse_conditions(s) for s in row['mask_strategy']]
    z, mask = apply_conditions(t['z'], refs, conditions, row['loop'], row['align'])
    assert torch.equal(z, t[f'apply.{n}.z']) and torch.equal(t['z'], before)
    want = t[f'apply.{n}.mask']
    # the reference returns ones; ours says: no mask
    if mask is None: assert (want == 1).all() and not any(row['mask_strategy'])
    else: assert torch.equal(mask, want)

@given(st.one_of(st.text(max_size=60), st.from_regex(r'[-0-9,;. ae]{0,40}', fullmatch=True)))
def test_any_string_is_read_or_refused_with_a_sentence(text):
    try: conditions = parse_conditions(text)
    except ValueError as e:
        assert str(e) and '\n' not in str(e)
        return
    assert parse_conditions(conditions_text(conditions)) == conditions

small = st.integers(-20, 20)
any_condition = st.builds(Condition, st.integers(0, 3), st.integers(0, 3), small, small, st.integers(1, 20),
                          st.floats(0, 1))
@given(st.lists(any_condition, max_size=4), st.integers(1, 16), st.integers(1, 16), st.sampled_from([None, 4, 5]))
def test_any_condition_is_placed_or_refused(conditions, f, n, align):
    conditions = tuple(conditions)
    assert parse_conditions(conditions_text(conditions)) == conditions
    try: z, mask = apply_conditions(torch.zeros(1, 1, f, 1, 1), [[torch.ones(1, n, 1, 1)]*2], [conditions], align=align)
    except ValueError: return
    if mask is None: assert not z.any()
    else: assert mask.shape == (1, f) and torch.equal(z.flatten() == 0, z.flatten() != 1)
