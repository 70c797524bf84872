"Distances between sets of features against references in double precision, and what cannot be computed"
import json
from pathlib import Path
import numpy as np, pytest, torch
from opensora_nb.metrics.frechet import frechet
from opensora_nb.metrics.set_distances import kernel_distance, set_distances
from opensora_nb.metrics.standard_networks import NETWORKS
from opensora_nb.metrics.video_features import clip_features, standard_features

def sets(n=300, m=400, d=24):
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(d, d))
    return rng.normal(size=(n, d)) @ mix, rng.normal(.2, 1.3, size=(m, d)) @ mix

def test_frechet_agrees_with_the_matrix_root_of_scipy():
    from scipy.linalg import sqrtm
    a, b = sets()
    sa, sb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    want = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(sa + sb - 2*sqrtm(sa @ sb).real)
    assert frechet(a, b) == pytest.approx(want, rel=1e-3)
    assert frechet(a.astype(np.float32), b.astype(np.float32)) == pytest.approx(want, rel=1e-3)

def test_kernel_distance_agrees_with_torchmetrics():
    from torchmetrics.image.kid import poly_mmd
    a, b = sets(m=300) # it takes sets of one size
    want = poly_mmd(torch.from_numpy(a), torch.from_numpy(b)).item()
    assert kernel_distance(a, b) == pytest.approx(want, rel=1e-6)

@pytest.mark.parametrize('change, said', [
    (lambda a: a[:20],                                 '20 samples of 24 features'),
    (lambda a: np.where(np.arange(300)[:, None] == 7, np.nan, a), '1 of 300 samples have features that are not finite'),
    (lambda a: a[:, :5],                               'one set has 5 features, the other 24')])
def test_features_that_allow_no_distance(change, said):
    a, b = sets()
    with pytest.raises(ValueError, match=said): set_distances(change(a), b, draws=4)

def test_a_standard_network_from_a_folder(tmp_path):
    "A VideoMAE with random weights, as transformers saves it"
    from transformers import VideoMAEConfig, VideoMAEModel
    torch.manual_seed(0)
    VideoMAEModel(VideoMAEConfig(image_size=32, patch_size=16, num_frames=4, hidden_size=24, num_hidden_layers=1,
                                 num_attention_heads=2, intermediate_size=32)).save_pretrained(tmp_path)
    clips = [np.random.default_rng(i).integers(0, 256, (6, 20, 30, 3)).astype(np.uint8) for i in range(5)]
    out = standard_features(clips, tmp_path)
    assert out.shape == (5, 24) and np.isfinite(out).all()
    assert np.allclose(out[:2], standard_features(clips[:2], tmp_path, batch=1), atol=1e-5)
    with pytest.raises(ValueError, match='5 samples of 24 features'): frechet(out, out)

def test_features_of_nothing():
    with pytest.raises(ValueError, match='no clips'): clip_features([])
    black = [np.zeros((2, 8, 8, 3), np.uint8)]
    with pytest.raises(ValueError, match="unknown part 'sound'"): clip_features(black, 'sound')

def test_frechet_agrees_with_torchmetrics():
    "Its class for FID takes a module that gives the features; here they are the inputs themselves"
    fid = pytest.importorskip('torchmetrics.image.fid')
    class Given(torch.nn.Module):
        num_features = 24
        def forward(self, x): return x
    a, b = sets()
    theirs = fid.FrechetInceptionDistance(Given(), normalize=True).set_dtype(torch.float64)
    for x, real in ((a, True), (b, False)): theirs.update(torch.from_numpy(x), real=real)
    assert frechet(a, b) == pytest.approx(theirs.compute().item(), rel=1e-3)

GOLDEN = Path(__file__).parent/'goldens'/'standard_networks.json'

def settled(net):
    "The network with numbers drawn name by name, of a size that signals survive"
    gen, state = torch.Generator().manual_seed(0), {}
    for k, v in sorted(net.state_dict().items()):
        if 'num_batches' in k or k.startswith('fc.'): continue
        r = torch.randn(v.shape, generator=gen)
        if k.endswith('running_var'): state[k] = 1 + .1*r.abs()
        elif v.ndim > 1: state[k] = r*(2/v[0].numel())**.5
        else: state[k] = .1*r + k.endswith('bn.weight')
    net.load_state_dict(state, strict=False)
    return net.eval()

def some_pixels(*shape): return torch.rand(shape, generator=torch.Generator().manual_seed(1))*2 - 1

@pytest.mark.parametrize('name, shape', [('inception', (1, 3, 299, 299)), ('i3d', (1, 3, 11, 224, 224))])
def test_standard_networks_agree_with_others(name, shape):
    "Inception v3 with torchvision's, changed as pytorch-fid does, I3D with that of cd-fvd: numbers written down once"
    net = settled(next(iter(NETWORKS[name].values()))())
    with torch.inference_mode(): got = net(some_pixels(*shape))[0]
    want = torch.tensor(json.loads(GOLDEN.read_text())[name])
    assert torch.allclose(got[::len(got)//12], want, rtol=1e-3, atol=1e-4*want.abs().max())
