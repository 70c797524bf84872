"Every preset of published weights through the command, on toy files in the published layouts; and what is refused."
import numpy as np, pytest, torch
from huggingface_hub import constants
from PIL import Image
from opensora_nb.app.cli import main
from opensora_nb.app.options import parse_options
from opensora_nb.app.sampling import plan_sample
from opensora_nb.data.video_io import read_video
from opensora_nb.models.dit import DiT, DiTConfig
from opensora_nb.models.family import FAMILY
from opensora_nb.models.latte import Latte, LatteConfig
from opensora_nb.models.zoo import randomise
from opensora_nb.sample import forecast
from opensora_nb.sample.released import load_released, released_config, released_parts
from opensora_nb.sample.settings import RELEASED, published_at
from released_files import PUBLISHED, osnb, photo, write_preset
from test_clip import write_clip

SMALL = { # preset -> what a toy of it makes: frames, height, width
    'opensora-1.0': (4, 64, 96), 'opensora-1.1': (4, 64, 88), 'dit': (1, 64, 64), 'latte': (4, 64, 64),
    'pixart': (1, 64, 64), 'pixart-ms': (1, 64, 96), 'pixart-sigma': (1, 64, 96)}
PROMPTS = {'dit': 'golden retriever', 'latte': 'YoYo'}

@pytest.fixture(scope='module')
def toys(tmp_path_factory):
    "preset -> the options that name its files, written once"
    made, folder = {}, tmp_path_factory.mktemp('toys')
    def options(preset):
        if preset not in made:
            (folder/preset).mkdir()
            made[preset] = [str(w) for w in write_preset(folder/preset, preset)]
        return made[preset]
    return options

@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path/'hub'))

def name_of(preset): return preset.removesuffix('-ms')
def sized(preset):
    f, h, w = SMALL[preset]
    return ['--num-frames', str(f), '--image-size', str(h), str(w)]
def words(toys, preset, to, *more, prompt=None):
    return ['sample', *toys(preset), '--save-dir', str(to), '--verbose', '0', '--dtype', 'fp32', *more,
            '--prompt', prompt or PROMPTS.get(preset, 'a calm sea')]

@pytest.mark.parametrize('preset', PUBLISHED)
def test_a_preset_samples_from_its_files(toys, tmp_path, preset):
    "Files as they were published, through the command, into a file"
    assert main(words(toys, preset, tmp_path, *sized(preset), '--num-sampling-steps', '2')) == 0
    f, h, w = SMALL[preset]
    if f == 1: got = np.array(Image.open(tmp_path/'sample_0000.png'))[None]
    else: got = read_video(tmp_path/'sample_0000.mp4')
    assert got.shape == (f, h, w, 3) and got.std() > 1

@pytest.mark.parametrize('preset', PUBLISHED)
def test_files_become_the_models_they_were_published_for(toys, preset):
    options = toys(preset)
    given = dict(zip(options[::2], options[1::2]))
    f, *size = SMALL[preset]
    pipe = load_released([PROMPTS.get(preset, 'a')], given['--ckpt-path'], given['--vae'], given.get('--text-encoder'),
                         'cpu', 'fp32', preset=name_of(preset), num_frames=f, image_size=tuple(size))
    assert type(pipe.model).__name__ in RELEASED[name_of(preset)].kinds and type(pipe.model) is PUBLISHED[preset][0]
    assert pipe.defaults == RELEASED[name_of(preset)].defaults
    assert (pipe.vae.micro_batch_size, pipe.vae.scaling_factor) == (4, .13025 if preset == 'pixart-sigma' else .18215)
    if preset == 'opensora-1.0': assert pipe.model.cfg.input_size == (4, 8, 12) and pipe.model.cfg.space_scale == .5

def test_an_stdit_is_built_for_the_size_and_length_asked_for(toys, monkeypatch):
    "Open-Sora 1.0 numbers the frames of clips of more than 16 in steps of 1.5; a file without tables is read too"
    file = toys('opensora-1.0')[3]
    def cfg(frames, size, file=file): return released_config('opensora-1.0', file, frames, size)[1]
    assert cfg(16, (256, 256)).time_scale == 1 and cfg(64, (512, 512)).time_scale == pytest.approx(2/3)
    assert cfg(64, (512, 512)).input_size == (64, 64, 64) and cfg(16, (512, 512)).space_scale == .5
    bare = {k: v for k, v in torch.load(file).items() if not k.startswith('pos_embed')}
    torch.save(bare, file + '.bare.pth')
    assert cfg(16, (256, 256), file + '.bare.pth').space_scale == .5
    assert cfg(16, (480, 864), file + '.bare.pth').space_scale == 1

@pytest.mark.parametrize('preset', [p for p in PUBLISHED if p not in ('dit', 'pixart')])
def test_weights_of_another_generation_are_called_by_name(toys, tmp_path, preset, monkeypatch):
    "Before anything heavy is loaded, in a plan too"
    for name in ('T5Text', 'load_transformer', 'load_image_vae'):
        monkeypatch.setattr(f'opensora_nb.sample.released.{name}', lambda *_, **__: pytest.fail('loaded'))
    other = 'dit' if preset != 'latte' else 'opensora-1.0'
    file = toys(preset)[3]
    line = ['--preset', other, '--ckpt-path', file, '--prompt', PROMPTS.get(other, 'a'), '--save-dir', str(tmp_path)]
    kind = PUBLISHED[preset][0].__name__
    with pytest.raises(ValueError) as e: plan_sample(parse_options(line))
    assert f" {kind} checkpoint" in str(e.value) and f"--preset {name_of(preset)}" in str(e.value)
    assert FAMILY[kind].preset == name_of(preset)

def refused(*line):
    with pytest.raises((ValueError, OSError)) as e: plan_sample(parse_options([*line]))
    assert '\n' not in str(e.value)
    return str(e.value)

SEA = '--prompt', 'a calm sea'
DOG = '--prompt', 'golden retriever'
@pytest.mark.parametrize('line, said', [
    (['dit', *DOG, '--image-size', '240', '426'],        'for 256 x 256 and 512 x 512 pixels, not for 240 x 426'),
    (['latte', '--prompt', 'YoYo', '--image-size', '512', '512'], 'not for 512 x 512; ask for --image-size 256 256'),
    (['latte', '--prompt', 'YoYo', '--num-frames', '17'], 'make 16 frames of 256 x 256 pixels, not 17 frames'),
    (['dit', *DOG, '--num-frames', '16'],                'make a picture of 256 x 256 pixels, not 16 frames'),
    (['pixart', *SEA, '--num-frames', '16', '--image-size', '1024', '1024'], 'make pictures, not 16 frames'),
    (['pixart-sigma', *SEA, '--num-frames', '2'],        'make pictures, not 2 frames; ask for --num-frames 1'),
    (['opensora-1.0', *SEA, '--image-size', '240', '426'], 'multiples of 16 pixels, not 426; try --image-size 240 432'),
    (['dit', *DOG, '--num-sampling-steps', '1'],         'takes at least 2 steps, not 1'),
    (['opensora-1.1', *SEA, '--schedule', 'rflow'],      'use ddpm or ddim or dpm-solver'),
    (['opensora-1.2', *SEA, '--schedule', 'ddim'],       'use rflow'),
    (['opensora-1.1', *SEA, '--loop', '2', '--schedule', 'dpm-solver'], 'DPM-Solver++ cannot go on from'),
    (['latte', '--prompt', 'YoYo', '--loop', '2'],       '--loop gives frames to go on from, and Latte on'),
    (['pixart', *SEA, '--reference-path', 'a.png'],      '--reference-path gives frames to go on from'),
    (['latte', '--prompt', 'YoYo{"reference_path": "a.png", "mask_strategy": "0"}'], 'prompt 0 is given frames'),
    (['dit', *DOG, '--negative-prompt', 'cat'],          '--negative-prompt is about texts, and dit is given the name'),
    (['dit', *DOG, '--aes', '6'],                        '--aes is about texts'),
    (['dit', *DOG, '--llm-refine', 'True'],              '--llm-refine is about texts'),
    (['dit', *DOG, '--text-dtype', 'bf16'],              '--text-dtype is about texts'),
    (['dit', *DOG, '--weights', 'tiny'],                 'the transformer of dit is --ckpt-path'),
    (['dit', '--prompt', 'golden retreiver'],            'prompt 0: there is no class'),
    (['dit', '--prompt', '1000'],                        'class 1000 is outside the 1000 classes, 0 to 999'),
    (['latte', '--prompt', 'a man plays with a yoyo in a park'], 'takes the name or number of a class, no sentence'),
    (['opensora-1.0', '--prompt', '207'],                "prompt 0 is '207', the number of a class"),
    (['pixart', '--prompt', 'n02099601'],                'write a sentence, or use --preset dit or latte'),
    (['dit', *DOG, '--num-processes', '2', '--share', 'tokens'],
     'only the tokens of an STDiT, STDiT2 or STDiT3 can be shared'),
    (['opensora-1.1', *SEA, '--vae-spread', '2'],        'takes each frame by itself'),
    (['opensora-1.1', *SEA, '--aspect-ratio', '9:16', '--image-size', '240', '426'], 'both say the size'),
])
def test_what_cannot_be_is_said_in_one_sentence(line, said, offline): assert said in refused(*line)

@pytest.mark.parametrize('steps', ['0', '1001'])
def test_more_steps_than_there_are(steps, offline):
    assert '1 to 1000 steps' in refused('dit', *DOG, '--num-sampling-steps', steps)

def test_a_toy_has_its_own_size(toys, offline):
    "The file says which size; the number of classes too, and where texts and classes are confused"
    assert 'make a picture of 64 x 64 pixels, not a picture of 256 x 256 pixels' in refused(*toys('dit'), *DOG)
    assert 'these weights know 1,000 classes and no texts' in refused(
        *toys('dit'), *sized('dit'), '--text-encoder', 'clip', *DOG)

def test_one_class_by_three_names(toys, tmp_path):
    for k, name in enumerate(('golden retriever', '207', 'n02099601')):
        assert main(words(toys, 'dit', tmp_path/str(k), *sized('dit'), '--num-sampling-steps', '2', prompt=name)) == 0
    pictures = [(tmp_path/k/'sample_0000.png').read_bytes() for k in '012']
    assert pictures[0] == pictures[1] == pictures[2]
    assert main(words(toys, 'dit', tmp_path/'3', *sized('dit'), '--num-sampling-steps', '2', prompt='208')) == 0
    assert (tmp_path/'3'/'sample_0000.png').read_bytes() != pictures[0]

@pytest.mark.parametrize('schedule, steps', [('ddpm', '4'), ('ddim', '3'), ('dpm-solver', '2')])
def test_any_walk_of_a_noise_model(toys, tmp_path, schedule, steps):
    line = words(toys, 'latte', tmp_path, *sized('latte'), '--schedule', schedule, '--num-sampling-steps', steps)
    assert main(line) == 0 and read_video(tmp_path/'sample_0000.mp4').shape == (4, 64, 64, 3)

def test_rounds_and_a_photo_with_1_1(toys, tmp_path):
    "Frames by themselves: any number of them can be given; 1.0 is asked with a warning"
    first = ['--reference-path', str(photo(tmp_path/'p.png', (64, 88))), '--mask-strategy', '0', '--loop', '2',
             '--condition-frame-length', '1', '--num-sampling-steps', '3']
    assert main(words(toys, 'opensora-1.1', tmp_path, *sized('opensora-1.1'), *first)) == 0
    film = read_video(tmp_path/'sample_0000.mp4')
    assert film.shape == (7, 64, 88, 3)
    with pytest.warns(UserWarning, match='1.0 was never trained with given frames'):
        plan_sample(parse_options(['opensora-1.0', *SEA, '--loop', '2']))

def test_1_1_says_every_third_frame(offline):
    "Told 24 frames a second, written with 8, and seconds are those of the file"
    p = plan_sample(parse_options(['opensora-1.1', *SEA, '--num-frames', '2s']))
    assert (p.cfg.num_frames, p.cfg.fps, p.save_fps) == (16, 24, 8)
    p = plan_sample(parse_options(['opensora-1.1', *SEA, '--frame-interval', '1']))
    assert p.save_fps == 24
    assert plan_sample(parse_options(['opensora-1.0', *SEA])).save_fps == 8

@pytest.mark.parametrize('preset, parts, get', [
    ('opensora-1.0', 3, '`hf download hpcai-tech/Open-Sora OpenSora-v1-HQ-16x256x256.pth` (3.0 GB)'),
    ('opensora-1.1', 3, '`hf download hpcai-tech/OpenSora-STDiT-v2-stage3` (3.1 GB)'),
    ('dit', 2, '`curl -LO https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x256.pt` (2.7 GB)'),
    ('latte', 2, '`hf download maxin-cn/Latte ucf101.pt` (2.7 GB)'),
    ('pixart', 3, '`hf download PixArt-alpha/PixArt-alpha PixArt-XL-2-512x512.pth` (2.4 GB)'),
    ('pixart-sigma', 3, '`hf download PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers --include "vae/*"` (0.3 GB)')])
def test_a_plan_says_what_is_missing_and_what_it_costs(preset, parts, get, tmp_path, monkeypatch, capsys, offline):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(forecast, 'rate', lambda *_: 1e10)       # how fast this machine is does not matter here
    prompt = {'dit': 'goldfish', 'latte': 'YoYo'}.get(preset, 'a calm sea')
    assert main(['sample', '--preset', preset, '--prompt', prompt, '--plan']) == 0
    out = capsys.readouterr().out
    assert f'{parts} of the {parts} parts of {RELEASED[preset].title} are missing:' in out and get in out
    assert 'one step' in out and 'decode a clip' in out and ('a class a row' in out) == (parts == 2)
    assert main(['sample', '--preset', preset, '--prompt', prompt]) == 1     # the same without --plan
    err = capsys.readouterr().err
    assert get in err and 'nothing was loaded' in err

def test_an_autoencoder_of_another_kind(toys, offline):
    "Refused in a plan; the 2-D half of a video autoencoder is one of single frames"
    assert 'AutoencoderKL weights' in refused('opensora-1.2', *SEA, '--vae', toys('dit')[5])
    assert 'these are no AutoencoderKL weights; they look like a T5' in refused(
        'opensora-1.1', *SEA, '--vae', toys('opensora-1.1')[7])

def test_bare_names_of_published_files(tmp_path, monkeypatch):
    "As Open-Sora's commands name them: here, in pretrained_models, or on the hub"
    monkeypatch.chdir(tmp_path)
    assert published_at('Latte-XL-2-256x256-ucf101.pt') == 'maxin-cn/Latte/ucf101.pt'
    assert released_parts('PixArt-XL-2-1024MS.pth', preset='pixart')[-1].where.endswith('/PixArt-XL-2-1024-MS.pth')
    (tmp_path/'pretrained_models').mkdir()
    (tmp_path/'pretrained_models'/'DiT-XL-2-256x256.pt').touch()
    assert published_at('DiT-XL-2-256x256.pt') == 'pretrained_models/DiT-XL-2-256x256.pt'
    (tmp_path/'DiT-XL-2-256x256.pt').touch()
    assert published_at('DiT-XL-2-256x256.pt') == 'DiT-XL-2-256x256.pt'
    assert released_parts(preset='dit')[-1].where == 'DiT-XL-2-256x256.pt'     # found without --ckpt-path
    assert released_parts(preset='dit', image_size=(512, 512))[-1].where.startswith('https://')

def test_two_processes_share_an_stdit(toys, tmp_path):
    "64 frames, as Open-Sora's own line asks; the clip of one process, but for rounding"
    line = [*toys('opensora-1.0'), '--dtype', 'fp32', '--num-frames', '64', '--image-size', '32', '64',
            '--num-sampling-steps', '2', '--prompt', 'a calm sea']
    code, said, _, _ = osnb('torchrun', '--standalone', '--nproc_per_node', '2', 'scripts/inference.py', *line,
                            '--save-dir', 'two', folder=tmp_path)
    assert code == 0, said
    assert main(['sample', *line, '--save-dir', str(tmp_path/'one'), '--verbose', '0']) == 0
    two, one = (read_video(tmp_path/k/'sample_0000.mp4').astype(int) for k in ('two', 'one'))
    assert abs(two - one).max() <= 2

@pytest.mark.parametrize('preset, make, config, frames', [('dit', DiT, DiTConfig, 1), ('latte', Latte, LatteConfig, 4)])
def test_a_text_model_that_was_trained_with_open_sora(toys, tmp_path, preset, make, config, frames, offline):
    "Under Open-Sora's names a DiT and a Latte look alike; the text encoder is CLIP, one vector a prompt"
    clip = write_clip(tmp_path/'clip')
    cfg = config(input_size=(frames, 8, 8), hidden_size=384, depth=2, num_heads=6, caption_channels=32,
                 no_temporal_pos_emb=frames == 1)
    torch.save(dict(state_dict=randomise(make(cfg)).state_dict()), tmp_path/'own.pth')
    line = words(toys, preset, tmp_path/'out', *sized(preset), '--num-sampling-steps', '2', '--ckpt-path',
                 str(tmp_path/'own.pth'), prompt='a calm sea')
    assert 'these weights read texts and no classes; give their text encoder: --text-encoder' in refused(*line[1:])
    assert main([*line, '--text-encoder', str(clip)]) == 0
    kind, seen = released_config(preset, str(tmp_path/'own.pth'), frames, (64, 64))
    assert kind == make.__name__ and seen == cfg
