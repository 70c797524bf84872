"Sequence parallelism on real processes: any numbers of tokens, heads and ranks equal one process, gradients too"
import json
from pathlib import Path
import pytest, torch, torch.distributed as dist
from safetensors.torch import load_file
from opensora_nb.config import from_dict
from opensora_nb.models.fast_inference import faster, remember_captions
from opensora_nb.models.pixart import PixArt, PixArtConfig
from opensora_nb.models.stdit import STDiT, STDiTConfig
from opensora_nb.models.stdit2 import STDiT2, STDiT2Config
from opensora_nb.models.stdit3 import STDiT3, STDiT3Config
from opensora_nb.parallel.comm import Ledger, RankError, all_to_all, gather, local_ranks, pieces, rank_of, split
from opensora_nb.parallel.sequence import bytes_sent, check_same, mesh, parallelize, restore, sharing

GOLDENS = Path(__file__).parent/'goldens'

# heads, clips, latent f h w, words of each caption, frame mask?
GRID = [(4, 2, (3, 4, 6), (5, 2), False),    # 6 tokens
        (3, 1, (2, 2, 14), (4,), False),     # 7 tokens, 3 heads: nothing divides
        (4, 3, (5, 2, 22), (1, 5, 3), True), # 11 tokens, ragged text, clean frames
        (2, 2, (1, 6, 10), (3, 3), False),   # a picture
        (2, 2, (4, 2, 4), (5, 1), True),     # 2 tokens: fewer than 3 ranks
        (1, 1, (2, 2, 2), (2,), False),      # 1 token, 1 head
        (5, 2, (3, 3, 9), (4, 2), True)]     # sides that patches of 2 do not fill

def make(heads, depth=2):
    torch.manual_seed(0)
    width = 8*heads if heads % 2 == 0 else 16*heads
    model = STDiT3(STDiT3Config(input_sq_size=64, hidden_size=width, depth=depth, num_heads=heads, caption_channels=12,
                                model_max_length=5, class_dropout_prob=0.))
    with torch.no_grad():
        for p in model.parameters(): p.add_(0.1*torch.randn_like(p)) # at the start temporal blocks would add nothing
    return model

def batch(b, size, lens, masked):
    f, h, w = size
    def row(v): return torch.full((b,), float(v))
    x_mask = torch.rand(b, f) < 0.5 if masked else None
    words = torch.arange(5)[None] < torch.tensor(lens)[:, None]
    return dict(x=torch.randn(b, 4, f, h, w), timestep=torch.linspace(950, 50, b), y=torch.randn(b, 1, 5, 12),
                mask=words.long(), x_mask=x_mask, fps=row(8), height=row(8*h), width=row(8*w))

def run(model, inputs, g):
    "Output, and the gradients of parameters, latent and text"
    x, y = (inputs[k].clone().requires_grad_() for k in 'xy')
    model.zero_grad()
    out = model(**inputs | dict(x=x, y=y))
    (out*g).sum().backward()
    grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    return out.detach(), {'x': x.grad, 'y': y.grad, **grads}

def far(a, b): return (a - b).abs().max().item() / max(1, b.abs().max().item())

def all_cases():
    found = []
    for heads, b, size, lens, masked in GRID:
        model, inputs = make(heads), batch(b, size, lens, masked)
        g = torch.randn(b, 8, *size)
        out, grads = run(model, inputs, g)
        tokens = -(-size[1]//2)*-(-size[2]//2)
        with sharing(model), Ledger() as ledger: shared, own = run(model, inputs, g)
        with sharing(model), torch.no_grad(), Ledger() as there: model(**inputs)
        x_off = far(own['x'], grads['x'])
        for k in own:
            dist.all_reduce(own[k])
            own[k] /= rank_of()[1]
        rank, world = rank_of()
        wanted = [bytes_sent(model.cfg, b, size[0], tokens, world, backward=k)[rank] for k in (False, True)]
        found.append(dict(
            out=far(shared, out), same_names=own.keys() == grads.keys(), x_grad=x_off,
            size=grads['x'].abs().max().item(), grads=max(far(own[k], grads[k]) for k in grads),
            sent=ledger.bytes - sum(wanted),
            sent_there=there.bytes - wanted[0]))
    return dist.get_world_size(), found

@pytest.mark.parametrize('world', [2, 3, 5])
def test_forward_backward_and_bytes_equal_one_process(world):
    answers = local_ranks(all_cases, world)
    assert [w for w, _ in answers] == [world]*world
    for _, found in answers:
        assert len(found) == len(GRID)
        for case, r in zip(GRID, found):
            assert r['same_names'] and r['size'] > 1e-3, (case, r)
            assert r['out'] <= 1e-5 and r['grads'] <= 1e-5 and r['x_grad'] <= 1e-5, (case, r)
            assert r['sent'] == r['sent_there'] == 0, case

EARLIER = [(4, 2, (3, 4, 6), (5, 2), True),   # 6 tokens, clean frames
           (3, 1, (2, 2, 14), (4,), False),   # 7 tokens, 3 heads: nothing divides
           (4, 2, (1, 2, 4), (3, 1), False)]  # a picture of 2 tokens: fewer than 3 ranks

def make_earlier(kind, heads, size):
    torch.manual_seed(0)
    sizes = dict(hidden_size=24*heads, depth=2, num_heads=heads, caption_channels=12, model_max_length=5,
                 class_dropout_prob=0.)
    if kind == 'STDiT': model = STDiT(STDiTConfig(size, **sizes))
    else: model = STDiT2(STDiT2Config(64, **sizes, qk_norm=True, qk_norm_legacy=True))
    with torch.no_grad():
        for p in model.parameters(): p.add_(0.1*torch.randn_like(p))
    return model

def earlier_cases(kind):
    found, (rank, world) = [], rank_of()
    for heads, b, size, lens, masked in EARLIER:
        model, inputs, g = make_earlier(kind, heads, size), batch(b, size, lens, masked), torch.randn(b, 8, *size)
        out, grads = run(model, inputs, g)
        with sharing(model), Ledger() as ledger: shared, own = run(model, inputs, g)
        x_off = far(own['x'], grads['x'])
        for k in own: dist.all_reduce(own[k])
        wanted = sum(bytes_sent(model.cfg, b, size[0], size[1]*size[2]//4, world, backward=k)[rank] for k in (0, 1))
        found.append(dict(same_names=own.keys() == grads.keys(), out=far(shared, out), x_grad=x_off,
                          grads=max(far(own[k]/world, grads[k]) for k in grads), sent=ledger.bytes - wanted))
    return world, found

@pytest.mark.parametrize('kind', ['STDiT', 'STDiT2'])
@pytest.mark.parametrize('world', [2, 3])
def test_earlier_models_equal_one_process(kind, world):
    "STDiT and STDiT2 on several ranks: output, gradients and bytes, with attention in space within each frame"
    for ranks, found in local_ranks(earlier_cases, world, kind):
        assert ranks == world and len(found) == len(EARLIER)
        for case, r in zip(EARLIER, found):
            assert r['same_names'] and r['sent'] == 0, (case, r)
            assert r['out'] <= 1e-5 and r['grads'] <= 1e-5 and r['x_grad'] <= 1e-5, (case, r)

def test_a_model_without_attention_within_frames_is_refused():
    model = PixArt(PixArtConfig((1, 4, 4), hidden_size=24, depth=1, num_heads=2, caption_channels=12))
    with pytest.raises(ValueError, match='PixArt has no blocks that attend within frames'): parallelize(model)

def golden_cases():
    data, spec = load_file(GOLDENS/'stdit3_cases.safetensors'), json.loads((GOLDENS/'stdit3_cases.json').read_text())
    off = {}
    for case in ('a_video_odd', 'c_xmask'):
        name = spec['cases'][case]['weights']
        config = json.loads((GOLDENS/f'stdit3_{name}_weights.json').read_text())['config']
        model = STDiT3(from_dict(STDiT3Config, config))
        model.load_state_dict(load_file(GOLDENS/f'stdit3_{name}_weights.safetensors'))
        parallelize(model.eval())
        given = {k.removeprefix(f'{case}.in.'): v for k, v in data.items() if k.startswith(f'{case}.in.')}
        with torch.no_grad(), Ledger() as ledger:
            out = model(**given)
        torch.testing.assert_close(out, data[f'{case}.out'], atol=2e-5, rtol=1e-4)
        off[case] = ledger.bytes
    return dist.get_world_size(), off

def test_goldens_on_two_ranks():
    for world, sent in local_ranks(golden_cases, 2): assert world == 2 and len(sent) == 2 and min(sent.values()) > 0

def faster_cases():
    model, inputs = make(4), batch(2, (2, 4, 10), (5, 2), False)
    with torch.inference_mode():
        alone = model(**inputs)
        with sharing(model), faster(model): a = [model(**inputs) for _ in range(2)]
        with faster(model), sharing(model): a += [model(**inputs) for _ in range(2)]
        with sharing(model), remember_captions(model): other = model(**inputs | dict(y=torch.randn(2, 1, 5, 12)))
    return max(far(v, alone) for v in a), far(other, alone)

OVERLAP = [(4, 2, (3, 4, 6), (5, 2), False),    # 6 tokens
           (4, 3, (5, 2, 22), (1, 5, 3), True), # 11 tokens, ragged text, clean frames
           (3, 1, (1, 2, 14), (4,), False)]     # one frame cannot be cut; 3 heads do not divide

def overlapped_cases(parts):
    "Off after on; then, against no overlap: output, gradients and bytes"
    found, (rank, world) = [], rank_of()
    for heads, b, size, lens, masked in OVERLAP:
        model, inputs, g = make(heads), batch(b, size, lens, masked), torch.randn(b, 8, *size)
        with sharing(model): before = run(model, inputs, g)
        with sharing(model, overlap=parts), Ledger() as ledger: shared, own = run(model, inputs, g)
        with sharing(model): after = run(model, inputs, g)
        same = torch.equal(before[0], after[0]) and all(torch.equal(before[1][k], after[1][k]) for k in own)
        tokens = -(-size[1]//2)*-(-size[2]//2)
        wanted = sum(bytes_sent(model.cfg, b, size[0], tokens, world, backward=k)[rank] for k in (False, True))
        found.append(dict(off=same, out=far(shared, before[0]), grads=max(far(own[k], before[1][k]) for k in own),
                          sent=ledger.bytes - wanted, times=len(ledger.rows)))
    return found

@pytest.mark.parametrize('world,parts', [(2, 2), (3, 2), (2, 4)])
def test_overlap_changes_nothing_but_the_order(world, parts):
    "Exchanges begun ahead: the same result, gradients and bytes as without, and off again bit for bit"
    for found in local_ranks(overlapped_cases, world, parts):
        for case, r in zip(OVERLAP, found):
            assert r['off'] and r['sent'] == 0, (case, r)
            assert max(r['out'], r['grads']) <= 1e-6, (case, r)
            cut = len(torch.empty(case[1]*case[2][0]).chunk(parts))
            assert r['times'] == 2*2*2*cut + 2, (case, r) # 2 blocks, there and back, forward and backward

def order_of_overlap():
    "Who begins and who ends, in the order of the calls"
    from opensora_nb.parallel import comm
    seen, begin, end = [], comm._Swap.begin, comm._Swap.end
    def begins(swap, *args):
        seen.append('begin')
        begin(swap, *args)
    def ends(swap, how):
        seen.append('end')
        return end(swap, how)
    comm._Swap.begin, comm._Swap.end = begins, ends
    model = parallelize(make(4, depth=1), overlap=2)
    out = model(**batch(1, (4, 2, 4), (3,), False))
    there = ' '.join(seen)
    seen.clear()
    out.sum().backward()
    return there, ' '.join(seen)

def test_every_exchange_has_a_computation_beside_it():
    "Forward and backward: each exchange is under way before the one in front of it is waited for"
    wanted = 'begin begin end begin end begin end end'
    for there, back in local_ranks(order_of_overlap, 2): assert there == back == wanted

def test_overlap_below_one_is_refused():
    with pytest.raises(ValueError, match='use 1 for none, or 2 parts or more'): parallelize(make(2), overlap=0)

def test_works_with_what_a_sampler_remembers():
    for same, other in local_ranks(faster_cases, 3): assert same < 1e-5 < 1e-3 < other

def ddp_case():
    from torch.nn.parallel import DistributedDataParallel
    m = mesh(4, 2)
    model = parallelize(make(4), m.sequence_group)
    def clip(i):
        torch.manual_seed(i)
        return batch(1, (2, 4, 10), (3,), True), torch.randn(1, 8, 2, 4, 10)
    inputs, g = clip(m.data_rank)
    check_same(m.sequence_group, x=inputs['x'], g=g)
    ddp = DistributedDataParallel(model) # keep it: without it nobody averages
    (ddp(**inputs)*g).sum().backward()
    mine = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    alone = [run(restore(model), *clip(i))[1] for i in range(2)]
    places = m.data_rank, m.data_size, m.sequence_rank, m.sequence_size
    return dist.get_world_size(), places, max(far(v, (alone[0][k] + alone[1][k])/2) for k, v in mine.items())

def test_two_groups_of_two_under_ddp():
    answers = local_ranks(ddp_case, 4)
    assert [a[1] for a in answers] == [(0, 2, 0, 2), (0, 2, 1, 2), (1, 2, 0, 2), (1, 2, 1, 2)]
    for world, _, off in answers: assert world == 4 and off < 1e-5

def test_a_copy_shares_too_and_state_dict_is_untouched():
    from copy import deepcopy
    model = parallelize(make(2))
    twin = deepcopy(model)
    assert list(twin.state_dict()) == list(make(2).state_dict())
    # not the attention of the original
    assert twin.spatial_blocks[0].attn.forward.args[0] is twin.spatial_blocks[0].attn

def collectives():
    rank, world = rank_of()
    off = []
    for n, m in ((7, 5), (1, 1), (0, 3), (4, 6)):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            torch.manual_seed(n)
            whole = torch.randn(2, n, m, dtype=dtype)
            mine = split(whole, 1)
            assert mine.shape[1] == pieces(n, world)[rank]
            off += [
                torch.equal(gather(mine, 1, n), whole),
                torch.equal(all_to_all(mine, 2, 1, n), split(whole, 2)),
                torch.equal(gather(all_to_all(mine, -1, -2, n), -1, m), whole),
            ]
    return all(off)

@pytest.mark.parametrize('world', [2, 3])
def test_collectives(world): assert local_ranks(collectives, world) == [True]*world

def fails_in_the_middle():
    model = parallelize(make(2))
    if rank_of()[0] == 1:
        model.temporal_blocks[0].mlp.forward = lambda x: (_ for _ in ()).throw(ValueError('out of paper'))
    model(**batch(1, (2, 4, 4), (2,), False))

def test_a_failing_rank_is_named_first():
    with pytest.raises(RankError, match='rank 1 of 2: ValueError: out of paper'):
        local_ranks(fails_in_the_middle, 2, timeout=20)

def test_no_warning_from_torch():
    def quiet():
        import warnings
        warnings.simplefilter('error')
        return collectives()
    assert local_ranks(quiet, 2) == [True, True]

@pytest.mark.parametrize('share', ['rows', 'tokens', 'overlapped'])
def test_two_processes_make_the_clip_of_one(share, tmp_path):
    "Divided by tokens or by rows, the pixels are those of one process up to rounding"
    from opensora_nb.sample.pipeline import SampleConfig, generate, load_pipeline
    from opensora_nb.parallel.comm import local_ranks
    def clip():
        pipe = load_pipeline('tiny', 'cpu')
        if rank_of()[1] > 1: pipe.share(share)
        return generate(pipe, ['a red circle moves left'], SampleConfig(num_sampling_steps=2))[0]
    alone = clip().astype(int)
    for other in local_ranks(clip, 2): assert abs(other.astype(int) - alone).max() <= 2

@pytest.mark.parametrize('policy', ['first-block:threshold=0.2', 'tea:threshold=1.5', 'easy:threshold=0.2'])
def test_processes_that_share_tokens_agree_on_what_to_reuse(policy):
    "Each rank sees some tokens, and all skip the calls that one process skips; at 0.2 two ranks alone would disagree"
    from opensora_nb.sample.pipeline import SampleConfig, generate, load_pipeline
    from opensora_nb.sample.step_reuse import enable, read_policy
    def clip():
        pipe = load_pipeline('tiny', 'cpu')
        if rank_of()[1] > 1: pipe.share('tokens')
        with enable(pipe, read_policy(policy)) as count:
            clip = generate(pipe, ['a red circle moves left'], SampleConfig(num_sampling_steps=8))[0]
        return clip.astype(int), count.reused
    alone, reused = clip()
    assert 0 < reused < 8
    for other, times in local_ranks(clip, 2, timeout=30): assert times == reused and abs(other - alone).max() <= 2
