"Losses of the autoencoder against stored outputs of the reference (Open-Sora 1.2, float32): LPIPS, adversarial terms"
import json, math
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from opensora_nb.vae.adversarial import (
    Adversary, AdversarialConfig, PatchDiscriminator, PatchDiscriminator3d, adaptive_weight, discriminator_loss,
    generator_loss, gradient_penalty, lecam)
from opensora_nb.vae.image import Posterior
from opensora_nb.vae.losses import VAELossConfig, perceptual_term, vae_loss
from opensora_nb.vae.perceptual import LPIPS
from opensora_nb.vae.video import VAEOutput

GOLDENS = Path(__file__).parent/'goldens'
SPEC, DATA = json.loads((GOLDENS/'vae_losses.json').read_text()), load_file(GOLDENS/'vae_losses.safetensors')
def close(got, want, atol=1e-5, rtol=1e-4):
    got, want = (torch.as_tensor(x, dtype=torch.float32) for x in (got, want))
    torch.testing.assert_close(got, want, atol=atol, rtol=rtol)

@pytest.fixture(scope='module')
def lpips():
    "The weights come from the formula in the json; the first value of each array is checked against it"
    model = LPIPS()
    state = model.state_dict()
    assert [k for k, *_ in SPEC['lpips']['keys']] == list(state), "other names, or another order"
    for i, (name, shape, first) in enumerate(SPEC['lpips']['keys']):
        assert list(state[name].shape) == shape, name
        if not name.startswith('scaling_layer'):
            n = state[name].numel()
            k = torch.arange(n, dtype=torch.float64)
            fan = n//shape[0] if len(shape) > 1 else 10
            v = 1.5/math.sqrt(fan)*torch.sin(1 + 0.7*k + 0.3*i + torch.remainder(0.001*k*k, 6))
            state[name] = (v.abs() if name.startswith('lin') else v).view(shape).float()
        assert state[name].double().sum().item() == pytest.approx(first, rel=1e-4, abs=1e-3), name
    model.load_state_dict(state, strict=True)
    return model.eval()

@torch.no_grad()
def test_lpips(lpips):
    out = lpips(DATA['lpips.a'], DATA['lpips.b'])
    assert out.shape == DATA['lpips.out'].shape
    close(out, DATA['lpips.out'], atol=0, rtol=1e-4)

@torch.no_grad()
def test_loss_with_lpips(lpips):
    "The distance of a frame is added to each of its c*h*w errors"
    x, rec, init = DATA['vae.video'], DATA['vae.rec'], SPEC['vae_loss']['perceptual']['init']
    cfg = VAELossConfig(perceptual='lpips', perceptual_loss_weight=init['perceptual_loss_weight'])
    out = VAEOutput(rec, None, None, Posterior(DATA['vae.moments']), None)
    terms = vae_loss(x, out, cfg, lpips)
    close(terms['rec'] + terms['perceptual'], DATA['vae.perceptual.nll'], atol=1e-3)
    close(terms['rec'] + terms['perceptual'], DATA['vae.perceptual.weighted_nll'], atol=1e-3)
    close(terms['kl'], DATA['vae.perceptual.weighted_kl'], atol=1e-9)
    assert terms['perceptual'] > 0.005*terms['rec'] # far above the tolerance
    weight = init['perceptual_loss_weight']
    once = VAELossConfig(perceptual='lpips', perceptual_sum=False, perceptual_loss_weight=weight)
    close(terms['perceptual'], perceptual_term(x, rec, lpips, once)*3*32*32)

@pytest.mark.parametrize('kind', ['2d', '3d'])
@torch.no_grad()
def test_discriminators(kind):
    kinds = {'2d': (PatchDiscriminator, 'nlayer2d', SPEC['nlayer']['d2']),
             '3d': (PatchDiscriminator3d, 'nlayer3d', SPEC['nlayer']['d3'])}
    cls, name, how = kinds[kind]
    net, prefix = cls(**how), f'{name}.weights.'
    net.load_state_dict({k.removeprefix(prefix): v for k, v in DATA.items() if k.startswith(prefix)}, strict=True)
    close(net.eval()(DATA[f'{name}.x']), DATA[f'{name}.eval'])
    if f'{name}.train' in DATA: close(net.train()(DATA[f'{name}.x']), DATA[f'{name}.train'], atol=1e-4)

def test_released_discriminators():
    with torch.device('meta'): two, three = PatchDiscriminator(), PatchDiscriminator3d()
    assert sum(p.numel() for p in two.parameters()) == 2_765_633
    assert sum(p.numel() for p in three.parameters()) == 11_056_961
    for net in (two, three):
        assert sorted({int(k.split('.')[1]) for k in net.state_dict()}) == [0, 2, 3, 5, 6, 8, 9, 11]
    assert [three.main[i].stride for i in (0, 2, 5, 8, 11)] == [(2, 2, 2), (1, 2, 2), (1, 2, 2), (1, 1, 1), (1, 1, 1)]

def test_first_weights():
    "Convolutions N(0, 0.02), gains N(1, 0.02), biases of norms 0"
    torch.manual_seed(0)
    net = PatchDiscriminator()
    assert net.main[5].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert net.main[6].weight.mean().item() == pytest.approx(1, abs=0.01)
    assert net.main[6].weight.std().item() == pytest.approx(0.02, rel=0.2) and not net.main[6].bias.any()

@pytest.mark.parametrize('row', SPEC['disc_loss']['rows'], ids=lambda r: f"{r['type']}-{r['step']}")
def test_discriminator_loss(row):
    real, fake = DATA['disc.real_logits'], DATA['disc.fake_logits']
    counts = float(row['step'] >= AdversarialConfig().start) # the task asks the same
    close(counts*discriminator_loss(real, fake, row['type']), row['adv'])
    close(0.01*lecam(real, fake, 0.2, -0.3), row['lecam'], atol=1e-8)

def test_sigmoid_cross_entropy():
    x = DATA['sig.x']
    for v, one, zero in zip(x, DATA['sig.ones'], DATA['sig.zeros']):
        close(generator_loss(v, 'non-saturating'), one)
        close(discriminator_loss(torch.tensor(1e4), v, 'non-saturating')*2, zero)

def test_gradient_penalty():
    x = DATA['gp.x'].clone().requires_grad_()
    real = (x*DATA['gp.lin']).flatten(1).sum(1) + 0.1*x.square().flatten(1).sum(1)
    close(10*gradient_penalty(x, real), DATA['gp.value'], atol=1e-2)
    close(discriminator_loss(real, real/2, 'non-saturating'), DATA['gp.adv'])

@pytest.mark.parametrize('row', SPEC['gen_loss']['rows'], ids=lambda r: f"{r['type']}-{r['step']}")
def test_generator_loss(row):
    last = DATA['gen.last'].clone().requires_grad_()
    h = DATA['gen.x']@last
    g = generator_loss(3*torch.tanh(h), row['type'])
    w = adaptive_weight(h.square().mean(), g, last)
    close(w, row['adaptive'])
    close((w*g if row['step'] >= AdversarialConfig().start else 0*g).detach(), row['value'])

def test_lecam_memory():
    a = Adversary(AdversarialConfig(kind='2d', ndf=4), decay=SPEC['lecam_ema']['decay'])
    for real, fake, want_real, want_fake in SPEC['lecam_ema']['rows']:
        a.remember(torch.tensor([real]), torch.tensor([fake]))
        close(a.ema_real, want_real, atol=1e-8)
        close(a.ema_fake, want_fake, atol=1e-8)
