"Adapters: exact at the start, merged, saved, read back, refused where they do not fit; LoRA runs that stop and go on"
import copy, json, re
import pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
import every_model
from every_model import EVERY, small
from opensora_nb.core import has_package, set_seed, torch_rng
from opensora_nb.models.adapters import (PARTS, NewWords, add_lora, adapter_size, chosen_linears, freeze, load_lora,
                                         merge_lora, read_lora, save_lora, train_words)
from opensora_nb.models.stdit3 import STDiT3, STDiT3Config
from opensora_nb.models.zoo import load_stdit3, randomise
from opensora_nb.text.encoders import tiny_text
from opensora_nb.train.diffusion import TextToVideo
from opensora_nb.weights import count_parameters, save_pretrained

needs_peft = pytest.mark.skipif(not has_package('peft'),
                                reason="peft is not installed; pip install 'opensora_nb[lora]'")
CFG = STDiT3Config(input_sq_size=64, hidden_size=24, depth=2, num_heads=2, caption_channels=8, model_max_length=6)
WORDS = 'a red blue ball'

def both(seed=0):
    set_seed(seed)
    return TextToVideo(randomise(STDiT3(CFG), seed), tiny_text([WORDS], 8, 6, 1, 2)).eval()
def ask(m, text='a red ball'):
    x = torch.randn(2, 4, 2, 4, 6, generator=torch_rng(1))
    kw = dict(fps=torch.tensor([8.]), height=torch.tensor([64.]), width=torch.tensor([96.]))
    with torch.no_grad():
        if isinstance(m, TextToVideo): return m(x, torch.tensor([200., 700.]), *m.text.tokenize([text]*2), **kw)
        return m(x, torch.tensor([200., 700.]), torch.randn(2, 1, 5, 8, generator=torch_rng(2)), **kw)
def shake(m): # in place of training
    with torch.no_grad():
        for k, p in m.named_parameters():
            if p.requires_grad: p.add_(.1*torch.randn(p.shape, generator=torch_rng(len(k), p.numel())))
    return m

@needs_peft
@pytest.mark.parametrize('layers', ['attention', 'all', ['qkv'], ['mlp.fc1', 'final_layer.linear'], 't_block.1'])
@pytest.mark.parametrize('make', [both, lambda: both().model], ids=['text and model', 'model'])
def test_exact_at_the_start_and_merged(make, layers):
    m = make()
    keys, want, grads = list(m.state_dict()), ask(m), [p.requires_grad for p in m.parameters()]
    n = adapter_size(m, 3, layers)
    assert add_lora(m, 3, 5, layers) is m and torch.equal(ask(m), want)
    assert count_parameters(m, True) == n and all('lora_' in k for k, p in m.named_parameters() if p.requires_grad)
    new = ask(shake(m))
    assert (new - want).abs().max() > 1e-3
    assert torch.allclose(ask(merge_lora(m)), new, atol=1e-5, rtol=1e-5)
    assert list(m.state_dict()) == keys
    assert [p.requires_grad for p in m.parameters()] == grads
    assert not hasattr(getattr(m, 'model', m), 'lora')

@needs_peft
def test_round_trip_with_words(tmp_path):
    m, plain = both(), both()
    m.text.grow(['glorp', 'ant'])
    add_lora(m, 4, 2., 'all', ['glorp', 'red'])
    old = m.text.token.weight.clone()
    new = ask(shake(m), 'a red glorp')
    moved = (m.text.token.weight != old).any(1).nonzero().flatten().tolist()
    assert moved == sorted([m.text.index['glorp'], m.text.index['red']])
    save_lora(m, tmp_path)
    load_lora(plain, tmp_path)
    assert torch.equal(ask(plain, 'a red glorp'), new) and plain.model.lora == m.model.lora
    save_lora(plain, tmp_path/'again')
    assert (tmp_path/'again'/'lora.safetensors').read_bytes() == (tmp_path/'lora.safetensors').read_bytes()
    before = copy.deepcopy(plain)
    merge_lora(plain)
    assert torch.allclose(ask(plain, 'a red glorp'), new, atol=1e-5, rtol=1e-5)
    assert list(plain.state_dict()) == list(both().state_dict())
    with pytest.raises(ValueError, match="brings the words glorp, red, and STDiT3 has no text encoder"):
        load_lora(both().model, tmp_path)
    assert torch.equal(ask(before, 'a red glorp'), new)

@needs_peft
def test_gradients_reach_the_adapter_and_the_word_alone():
    m = both().train()
    m.text.grow(['glorp'])
    add_lora(m, 2, words=['glorp'])
    shake(m)
    x = torch.randn(1, 4, 2, 4, 4)
    size = dict(fps=torch.tensor([8.]), height=torch.tensor([64.]), width=torch.tensor([64.]))
    m(x, torch.tensor([300.]), *m.text.tokenize(['a glorp']), **size).square().mean().backward()
    got = {k for k, p in m.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert got == {k for k, p in m.named_parameters() if p.requires_grad} and 'text.token.new' in got

@needs_peft
def test_bf16_and_the_released_layout(tmp_path):
    "An adapter made in float32 goes onto the same weights in bf16; a merged model saves and loads as any other"
    m = both().model
    save_pretrained(m, tmp_path/'base')
    add_lora(m, 4)
    want = ask(shake(m))
    save_lora(m, tmp_path/'lora')
    save_pretrained(merge_lora(m), tmp_path/'merged')
    assert torch.allclose(ask(load_stdit3(tmp_path/'merged')), want, atol=1e-5, rtol=1e-5)
    half = load_lora(load_stdit3(tmp_path/'base', dtype=torch.bfloat16), tmp_path/'lora')
    got = ask(half)
    assert (got - want).abs().max() < .05*want.abs().max()
    assert {p.dtype for p in merge_lora(half).parameters()} == {torch.bfloat16}

@needs_peft
@pytest.mark.parametrize('kw, said', [
    (dict(rank=25),             'rank 25 does not fit; the smallest of the chosen layers has 24'),
    (dict(rank=0),              'rank 0 does not fit'),
    (dict(rank=2.5),            'rank 2.5 does not fit'),
    (dict(rank=True),           'rank True does not fit'),
    (dict(alpha=0),             'alpha must be a number above 0, not 0'),
    (dict(alpha=float('nan')),  'above 0, not nan'),
    (dict(layers='qvk'),        "no linear layer is called 'qvk'; use attention, all, or a list of"),
    (dict(layers=[]),           'no layers were named'),
    (dict(layers=['qkv', 'x']), "called 'x'"),
    (dict(layers=['kv']),       "called 'kv'"),
    (dict(words=['moon']),      "has no 'moon'"),
])
def test_refusals_leave_the_model_alone(kw, said):
    m = both()
    want, keys, grads = ask(m), list(m.state_dict()), [p.requires_grad for p in m.parameters()]
    with pytest.raises(ValueError, match=said): add_lora(m, **kw)
    assert list(m.state_dict()) == keys
    assert torch.equal(ask(m), want)
    assert [p.requires_grad for p in m.parameters()] == grads
    add_lora(m)

@needs_peft
def test_another_model_is_refused(tmp_path):
    m = add_lora(both().model, 4)
    save_lora(m, tmp_path)
    with pytest.raises(ValueError, match='hidden_size 24, this model has 48'):
        load_lora(STDiT3(STDiT3Config(**{**vars(CFG), 'hidden_size': 48})), tmp_path)
    with pytest.raises(ValueError, match='depth 2, this model has 3'):
        load_lora(STDiT3(STDiT3Config(**{**vars(CFG), 'depth': 3})), tmp_path)
    with pytest.raises(ValueError, match='adapter of rank 4 already'): load_lora(m, tmp_path)
    with pytest.raises(FileNotFoundError, match='holds no adapter'): load_lora(both(), tmp_path/'no')
    with pytest.warns(UserWarning, match='other weights of the same size'): load_lora(both(1).model, tmp_path)

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                    lambda kids: st.lists(kids, max_size=3) | st.dictionaries(st.text(max_size=5), kids, max_size=3),
                    max_leaves=6)
@needs_peft
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changed=st.dictionaries(st.sampled_from(['rank', 'alpha', 'layers', 'words', 'model', 'mark', 'else']), JSON,
                               min_size=1))
def test_fuzz_the_note(tmp_path, changed):
    "A damaged note gives a clear ValueError, or an adapter that works"
    if not (tmp_path/'lora.json').exists():
        m = both()
        save_lora(add_lora(m, 4, words=['red']), tmp_path)
        (tmp_path/'good').write_text((tmp_path/'lora.json').read_text())
    (tmp_path/'lora.json').write_text(json.dumps(json.loads((tmp_path/'good').read_text()) | changed))
    plain = both()
    want = ask(plain)
    try: load_lora(plain, tmp_path)
    except ValueError: assert torch.equal(ask(plain), want)

@needs_peft
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.binary(max_size=60))
def test_fuzz_bytes(tmp_path, text):
    if not (tmp_path/'lora.safetensors').exists(): save_lora(add_lora(both().model, 4), tmp_path)
    (tmp_path/'lora.json').write_bytes(text)
    with pytest.raises(ValueError): read_lora(tmp_path)

@pytest.mark.parametrize('what, trained', [
    ('all but temporal',    {'model.temporal_blocks'}),
    ('all but ends + text', {'model.x_embedder', 'model.final_layer', 'model.y_embedder', 'text'}),
])
def test_freeze_by_name(what, trained):
    m = both()
    now, of = freeze(m, what)
    def part(name): return 'text' if name.startswith('text') else '.'.join(name.split('.')[:2])
    assert {part(k) for k, p in m.named_parameters() if p.requires_grad} == trained
    assert now == count_parameters(m, True) < of == count_parameters(m)
    free, _ = freeze(both().model, 'text')
    assert free == sum(
        p.numel() for k, p in both().model.named_parameters() if not k.startswith(('y_embedder', 'rope')))

@given(what=st.text(max_size=12))
@settings(max_examples=60, deadline=None)
def test_fuzz_freeze(what):
    try: freeze(STDiT3(CFG), what)
    except ValueError as e: assert 'there is no part' in str(e) and all(p in str(e) for p in PARTS)
    else: assert all(n.strip() in PARTS for n in what.replace('all but ', '').split('+'))

def test_only_chosen_words_are_trained():
    text = both().text
    train_words(text, ['red'])
    assert isinstance(text.token, NewWords)
    assert [k for k, p in text.named_parameters() if p.requires_grad] == ['token.new']
    with pytest.raises(ValueError, match="has no 'sun'"): train_words(both().text, ['sun'])
    assert len(chosen_linears(both())) == 4*5

# every model of the family

@needs_peft
@pytest.mark.parametrize('layers', ['attention', 'all'])
@pytest.mark.parametrize('name', EVERY)
def test_every_model_of_the_family(name, layers, tmp_path):
    "Trains only its matrices, saves, loads onto the plain model, merges to the same answer and the same names"
    m, plain = small(name), small(name)
    want, keys = every_model.ask(m), list(m.state_dict())
    add_lora(m, 3, 5., layers)
    assert torch.equal(every_model.ask(m), want) and count_parameters(m, True) == adapter_size(plain, 3, layers)
    m.train()
    m(**every_model.question(m)).square().mean().backward()
    got = {k for k, p in m.named_parameters() if p.grad is not None}
    assert got == {k for k, p in m.named_parameters() if 'lora_' in k}
    new = every_model.ask(shake(m).eval())
    assert (new - want).abs().max() > 1e-3*want.std()
    save_lora(m, tmp_path)
    assert torch.equal(every_model.ask(load_lora(plain, tmp_path)), new)
    assert (every_model.ask(merge_lora(m)) - new).abs().max() < 1e-4*new.std() and list(m.state_dict()) == keys

@needs_peft
def test_adapter_of_another_kind_is_refused(tmp_path):
    "DiT and Latte have the same layers of the same sizes; an adapter knows which of the two it was trained on"
    save_lora(add_lora(small('Latte'), 2), tmp_path)
    with pytest.raises(ValueError, match='made for a model of kind Latte, this is DiT'):
        load_lora(small('DiT'), tmp_path)

@needs_peft
def test_adapters_of_stdit3_from_before_the_family_load(tmp_path):
    "A note without a kind belongs to an STDiT3"
    m = both().model
    save_lora(add_lora(m, 2), tmp_path)
    note = json.loads((tmp_path/'lora.json').read_text())
    (tmp_path/'lora.json').write_text(json.dumps({k: v for k, v in note.items() if k != 'kind'}))
    assert load_lora(both().model, tmp_path).lora == m.lora

@pytest.mark.parametrize('name, temporal', [
    ('Latte',  r'blocks\.1\.'), ('STDiT', r'blocks\.\d\.attn_temp\.'), ('STDiT3', r'temporal_blocks\.'),
    ('STDiT2', r'blocks\.\d\.(attn_temp\.|scale_shift_table_temporal)|t_block_temp\.')])
def test_temporal_layers_of_each_model(name, temporal):
    "What learns motion when an image model becomes a video model"
    m = small(name)
    now, of = freeze(m, 'all but temporal')
    want = {k for k, _ in m.named_parameters() if re.match(temporal, k)}
    assert {k for k, p in m.named_parameters() if p.requires_grad} == want and 0 < now < of

@pytest.mark.parametrize('name', ['DiT', 'PixArt', 'PixArtMS', 'PixArtSigma'])
def test_image_models_have_no_temporal_layers(name):
    "Said at once, and nothing is frozen"
    m = small(name)
    with pytest.raises(ValueError, match=f'{name} has no temporal layers; it has spatial, text, time, ends'):
        freeze(m, 'all but temporal')
    assert all(p.requires_grad for k, p in m.named_parameters() if k != 'rope.freqs')
    assert freeze(m, 'all but spatial')[0] == sum(p.numel() for k, p in m.named_parameters() if k.startswith('blocks.'))

# the command

@needs_peft
def test_sample_with_an_adapter(tmp_path, monkeypatch, capsys):
    "The adapter's new word is known, the adapter makes another clip, and a wrong one is one sentence"
    from opensora_nb.app.cli import main
    from opensora_nb.sample.pipeline import load_pipeline
    monkeypatch.chdir(tmp_path)
    pipe = load_pipeline('tiny', 'cpu')
    pipe.text.grow(['glorp'])
    adapted = shake(add_lora(TextToVideo(pipe.model, pipe.text), 4, words=['glorp']))
    save_lora(adapted, 'run/checkpoints/step_00000003/weights/lora')
    few = ['--num-sampling-steps', '2', '--num-frames', '1', '--device', 'cpu', '--verbose', '0']
    def made(name, *more):
        code = main(['sample', '--prompt', 'a red glorp', *few, '--save-dir', name, *more])
        return code, capsys.readouterr().err
    def pixels(name): return (tmp_path/name).read_bytes()

    assert made('a', '--lora', 'run') == (0, '')
    assert 'glorp' in made('b')[1] and pixels('a/sample_0000.png') != pixels('b/sample_0000.png')
    assert made('b', '--lora', 'run')[0] == 0 # something else, so it takes the next number
    assert pixels('b/sample_0001.png') == pixels('a/sample_0000.png')
    assert made('c', '--lora', 'nowhere') == (1, (
        "osnb: error: nowhere holds no adapter: there is no lora.json; "
        "give a folder written by save_lora, or a run that trains one\n"))
    code, err = made('c', '--lora', 'run', '--weights', 'worlds')
    assert code == 1 and 'was made for another model' in err

# training

def check_that_it_goes_on_bit_equal(whole, rest):
    "A run that was stopped and continued against one that was not"
    assert [r['loss'] for r in rest.log if 'loss' in r] == [r['loss'] for r in whole.log if 'loss' in r]
    a, b = whole.model.state_dict(), rest.model.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert all(torch.equal(whole.ema.shadow[k], rest.ema.shadow[k]) for k in whole.ema.shadow)

def check_that_the_rest_is_frozen(run, base, learn, new):
    "What is frozen did not move, not even in the last bit, and takes no place in the checkpoint"
    from opensora_nb.weights import read_state
    trained = [k for k, p in run.model.named_parameters() if p.requires_grad]
    assert all(learn in k or k in new for k in trained) and set(new) <= set(trained)
    now = run.model.state_dict()
    for k, p in base.model.named_parameters():
        head, _, leaf = k.rpartition('.')
        if learn not in k: assert torch.equal(now.get(f'model.{k}', now.get(f'model.{head}.base_layer.{leaf}')), p)
    saved = max((run.folder/'checkpoints').iterdir())
    assert not [k for k in read_state(saved/'model.safetensors') if 'spatial' in k and learn not in k]
    assert set(run.ema.shadow) == set(trained)
    assert sum(len(g['params']) for g in run.opt.param_groups) == len(trained)

def check_that_it_can_be_sampled(run, base, lora):
    "The folder of the run makes what the run makes; so does an adapter by itself, on the weights it started from"
    from opensora_nb.sample.pipeline import SampleConfig, generate, load_pipeline
    def picture(pipe):
        cfg = SampleConfig(num_sampling_steps=2, num_frames=1)
        return generate(pipe, ['a red circle moves left'], cfg)[0].astype(int)
    made = load_pipeline(run.folder, 'cpu')
    assert list(made.model.state_dict()) == list(base.model.state_dict())
    with run.ema.applied(run.model): want = picture(run.task.pipeline())
    assert abs(picture(made) - want).max() <= 1
    if lora: assert abs(picture(merge_lora(load_lora(base, run.folder))) - want).max() <= 1

@needs_peft
@pytest.mark.parametrize('how, level, learn', [
    (dict(lora=2),                'full', 'lora_'),
    (dict(train_only='temporal'), 'core', 'temporal_blocks'),
], ids=['lora', 'temporal'])
def test_a_run_that_stops_goes_on_bit_equal_and_can_be_sampled(tmp_path, how, level, learn):
    from dataclasses import replace
    from opensora_nb.data.dataset import DataConfig
    from opensora_nb.sample.pipeline import load_pipeline
    from opensora_nb.train.diffusion import T2VTrain
    from opensora_nb.train.loop import Callback, train
    from opensora_nb.train.optim import OptimConfig
    class Kill(Callback):
        def after(self, run): run.stopped = 'SIGTERM' if run.step == 2 else run.stopped
    cfg = T2VTrain(out=str(tmp_path), init='tiny', data=DataConfig(n=8, level=level), steps=4, batch_size=4,
                   log_every=1, validate_on=0, preview_every=0, device='cpu', precision='no',
                   features=str(tmp_path/'features'), optim=OptimConfig(lr=3e-3, warmup=1), **how)
    whole = train(replace(cfg, name='whole'), progress=False)
    part = replace(cfg, name='part')
    assert train(part, progress=False, callbacks=(Kill(),)).step == 2
    rest, base = train(part, progress=False), load_pipeline('tiny', 'cpu')
    check_that_it_goes_on_bit_equal(whole, rest)
    check_that_the_rest_is_frozen(rest, base, learn, ['text.token.new'] if 'lora' in how else [])
    check_that_it_can_be_sampled(rest, base, 'lora' in how)
    with pytest.raises(ValueError, match='Train the same parts as before'):
        train(replace(part, steps=5, lora=0, train_only='spatial+text'), progress=False)

def test_settings_that_cannot_be():
    from opensora_nb.train.diffusion import T2VTask, T2VTrain
    from opensora_nb.data.dataset import DataConfig
    for kw, said in (
        (dict(lora=8),                                 'such as init=tiny'),
        (dict(train_only='time'),                      'such as init=tiny'),
        (dict(lora=-1, init='tiny'),                   'not -1'),
        (dict(lora=4, train_only='time', init='tiny'), 'give one of them'),
        (dict(train_only='tempral', init='tiny'),      "no part 'tempral'; there are spatial, temporal"),
    ):
        with pytest.raises(ValueError, match=said): T2VTrain(**kw)

def test_new_words_need_to_learn(tmp_path):
    from opensora_nb.train.diffusion import T2VTask, T2VTrain
    from opensora_nb.data.dataset import DataConfig
    cfg = dict(out=str(tmp_path), init='tiny', data=DataConfig(n=2, level='full'), device='cpu')
    with pytest.raises(ValueError, match='the captions have new words .*; train text as well, or use lora'):
        T2VTask(T2VTrain(**cfg, train_only='temporal'), torch.device('cpu'))
    T2VTask(T2VTrain(**cfg, train_only='all but time'), torch.device('cpu'))
