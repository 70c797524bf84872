"Measures of reconstruction against other programs: scikit-image, torchmetrics"
import json, shutil
from pathlib import Path
import numpy as np, pytest, torch
from opensora_nb.app.cli import main
from opensora_nb.data.video_io import write_image, write_video
from opensora_nb.metrics.lpips import frame_lpips, load_alex_lpips
from opensora_nb.metrics.recon import frame_psnr, frame_ssim
from opensora_nb.vae.perceptual import load_lpips

@pytest.fixture(scope='module', params=[(5, 40, 52), (2, 33, 17), (1, 64, 64)], ids=str)
def pair(request):
    "A clip of blurred noise and a damaged one"
    rng = np.random.default_rng(0)
    a = np.kron(rng.integers(0, 256, (request.param[0], 10, 10, 3)), np.ones((1, 7, 7, 1)))
    f, h, w = request.param
    a = a[:, :h, :w]
    return a.astype(np.uint8), np.clip(a + rng.normal(0, 15, a.shape), 0, 255).astype(np.uint8)

def test_psnr_and_ssim_agree_with_scikit_image(pair):
    "The settings that the page names, to a millionth"
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    a, b = (v/255 for v in pair)
    want = [peak_signal_noise_ratio(x, y, data_range=1.) for x, y in zip(a, b)]
    assert np.abs(frame_psnr(*pair) - want).max() < 1e-6
    how = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=-1, data_range=1., full=True)
    want = [structural_similarity(x, y, **how)[1][5:-5, 5:-5].mean() for x, y in zip(a, b)]
    assert np.abs(frame_ssim(*pair) - want).max() < 1e-6

def test_psnr_and_ssim_agree_with_torchmetrics(pair):
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure as ssim
    x, y = (torch.from_numpy(v).permute(0, 3, 1, 2).double()/255 for v in pair)
    for got, want in zip(frame_psnr(*pair), (peak_signal_noise_ratio(p, q, data_range=1.) for p, q in zip(x, y))):
        assert got == pytest.approx(want.item(), rel=1e-6) # its logarithm of 10 is a float32
    whole = ssim(x, y, data_range=1., reduction='none', return_full_image=True)[1] # its mean has the border in it
    assert np.abs(frame_ssim(*pair) - whole[..., 5:-5, 5:-5].mean((1, 2, 3)).numpy()).max() < 1e-6

def features(name):
    "The convolutions of torchvision's networks, with random weights"
    from torch.nn import Conv2d, MaxPool2d, ReLU, Sequential
    if name == 'alex':
        return Sequential(Conv2d(3, 64, 11, 4, 2), ReLU(), MaxPool2d(3, 2), Conv2d(64, 192, 5, padding=2), ReLU(),
                          MaxPool2d(3, 2), Conv2d(192, 384, 3, padding=1), ReLU(), Conv2d(384, 256, 3, padding=1),
                          ReLU(), Conv2d(256, 256, 3, padding=1), ReLU(), MaxPool2d(3, 2))
    layers, c_in = [], 3
    for c in (64, 64, 'M', 128, 128, 'M', 256, 256, 256, 'M', 512, 512, 512, 'M', 512, 512, 512, 'M'):
        layers += [MaxPool2d(2)] if c == 'M' else [Conv2d(c_in, c, 3, padding=1), ReLU()]
        c_in = c_in if c == 'M' else c
    return Sequential(*layers)

@pytest.mark.parametrize('name, load, file, size', [('alex', load_alex_lpips, 'alexnet-owt-7be5be79.pth', 64),
                                                    ('vgg', load_lpips, 'vgg16-397923af.pth', 32)])
@torch.no_grad()
def test_lpips_agrees_with_torchmetrics(name, load, file, size, monkeypatch, tmp_path):
    "Both read the same two files: the channel weights as released, and a network with the released names"
    import torchmetrics.functional.image.lpips as theirs
    torch.manual_seed(0)
    net = features(name)
    torch.save({f'features.{k}': v for k, v in net.state_dict().items()}, tmp_path/file)
    shutil.copy(Path(theirs.__file__).parent/'lpips_models'/f'{name}.pth', tmp_path)
    ours = load(tmp_path)
    monkeypatch.setattr(theirs, '_get_tv_model_features', lambda *_: net) # what torchvision would have brought
    other, mapped = (theirs._LPIPS(net=name, spatial=spatial) for spatial in (False, True))
    a, b = (torch.rand(2, 3, size, size)*2 - 1 for _ in range(2))
    assert torch.allclose(ours(a, b).flatten(), other(a, b).flatten(), rtol=1e-6, atol=1e-6)
    assert ours(a, b).min() > 1e-5
    clip, other_clip = ((v.permute(0, 2, 3, 1)/2 + .5).double().numpy() for v in (a, b))
    want = mapped(a, b).mean((1, 2, 3)).numpy() # the map of Open-Sora's evaluation, and its mean
    assert np.abs(frame_lpips(clip, other_clip, ours) - want).max() < 1e-6

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "Three clips, and the same with noise"
    root, rng = tmp_path_factory.mktemp('pairs'), np.random.default_rng(0)
    for i in range(3):
        clip = np.full((6, 32, 40, 3), 40*i, np.uint8)
        clip[:, 8:20, 8:20] = (200, 90, 30)
        write_video(root/'a'/f'{i}.mp4', clip, 8, crf=0)
        write_video(root/'b'/f'{i}.mp4', (clip + rng.integers(0, 9, clip.shape)).astype(np.uint8), 8, crf=0)
    return root

def compare(root, a, b, *more):
    return main(['eval', 'vae', '--real-video-dir', str(root/a), '--generated-video-dir', str(root/b), *more])

@pytest.mark.parametrize('change, said', [
    (lambda d: (d/'2.mp4').unlink(),                                     'holds 3 clips'),
    (lambda d: (d/'2.mp4').rename(d/'3.mp4'),                            'no partner: 2'),
    (lambda d: write_video(d/'1.mp4', np.zeros((5, 32, 40, 3), np.uint8), 8),  '1 has 6 frames in'),
    (lambda d: write_video(d/'1.mp4', np.zeros((6, 32, 32, 3), np.uint8), 8),  '1 is 32x40 in'),
    (lambda d: write_video(d/'1.mp4', np.zeros((6, 32, 40, 3), np.uint8), 12), '1 runs at 8 frames a second'),
    (lambda d: [f.unlink() for f in d.iterdir()],                        'holds no videos')])
def test_folders_that_cannot_be_compared_say_which_clip(change, said, folders, tmp_path, capsys):
    shutil.copytree(folders/'b', tmp_path/'b')
    shutil.copytree(folders/'a', tmp_path/'a')
    change(tmp_path/'b')
    assert compare(tmp_path, 'a', 'b') == 1
    assert said in capsys.readouterr().err

def test_one_clip_and_grey_clips_have_numbers_without_an_interval(folders, tmp_path, capsys):
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (6, 32, 40, 1)), 3, -1).astype(np.uint8)
    for d in 'ab': write_video(tmp_path/d/'0.mp4', grey if d == 'a' else grey//2, 8, crf=0)
    assert compare(tmp_path, 'a', 'b', '--output', str(tmp_path/'out')) == 0
    said = json.loads((tmp_path/'out'/'rec'/'scores.json').read_text())
    assert [m['n'] for m in said['measures']] == [1]*4
    assert all(m['low'] is None for m in said['measures'])
    assert (tmp_path/'out'/'sheet.png').is_file()

def test_pictures_have_no_motion_and_the_report_says_so(tmp_path, capsys):
    for d in 'ab': write_image(tmp_path/d/'0.png', np.full((32, 32, 3), 90, np.uint8))
    assert compare(tmp_path, 'a', 'b', '--metric', 'psnr', 'flicker') == 1
    assert 'flicker is not measured: 1 of 1 clips are single frames' in capsys.readouterr().out

def test_settings_of_the_original(folders, capsys):
    "Its own line; LPIPS lacks its files here, is named, and the others are measured"
    words = ['--metric', 'ssim', 'psnr', 'lpips', '--lpips-folder', str(folders), '--num-frames', '4', '--resolution',
             '24', '--crop-size', '24']
    assert compare(folders, 'a', 'b', *words) == 1
    out = capsys.readouterr().out
    assert 'psnr' in out and 'ssim' in out and 'lpips is not measured' in out
