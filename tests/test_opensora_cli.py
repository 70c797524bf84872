"Documented command lines of Open-Sora, with `osnb` in front: each is read and planned as the original would run it."
import argparse, shlex, warnings
from itertools import chain
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from opensora_nb.app.cli import main, train_options
from opensora_nb.app.opensora_cli import CONFIGS, IDLE, LAUNCHERS, SETTINGS, from_original
from opensora_nb.config import flat
from opensora_nb.data.video_io import write_image, write_video
from opensora_nb.app.options import SAMPLE_CONFIGS, parse_options
from opensora_nb.app.sampling import plan_sample
from opensora_nb.sample.released import released_parts
from opensora_nb.train.launch import recipe_names, resolve

SAMPLE = 'scripts/inference.py configs/opensora-v1-2/inference/sample.py'
LINES = [ # command, and what must come of it: prompts, frames of a round, size, and more fields
    (f'python {SAMPLE} --num-frames 4s --resolution 720p --aspect-ratio 9:16 --prompt "a beautiful waterfall"',
     1, 102, (720, 1280), {}),
    (f'python {SAMPLE} --num-frames 4s --resolution 720p --layernorm-kernel False --flash-attn False '
     '--prompt "a beautiful waterfall"',
     1, 102, (720, 1280), {}),
    (f'python {SAMPLE} --num-frames 4s --resolution 720p --layernorm-kernel True --flash-attn True '
     '--prompt "a beautiful waterfall"',
     1, 102, (720, 1280), {}),
    (f'CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc_per_node 2 {SAMPLE} --num-frames 4s --resolution 720p '
     '--aspect-ratio 9:16 --prompt "a beautiful waterfall"',
     1, 102, (720, 1280), {}),
    (f'torchrun --standalone --nproc_per_node=8 {SAMPLE} --num-frames 2s --resolution 480p --aspect-ratio 1:1 '
     '--prompt "a cat" "a dog"',
     2, 51, (640, 640), {}),
    (f'python {SAMPLE} --num-frames 4s --resolution 720p --prompt "a beautiful waterfall" --aes 7 --flow 5 '
     '--camera-motion "pan right"',
     1, 102, (720, 1280),
     dict(texts=['a beautiful waterfall aesthetic score: 7.0. motion score: 5.0. camera motion: pan right.'])),
    (f'python {SAMPLE} --num-frames 1 --image-size 1024 1024 --prompt "A scene from a disaster film."',
     1, 1, (1024, 1024), dict(suffix='.png')),
    (f'python {SAMPLE} --prompt-path prompts.txt --start-index 1 --end-index 3 --num-frames 1 --resolution 240p '
     '--sample-name image',
     2, 1, (240, 426), dict(names=['image_0001.png', 'image_0002.png'])),
    (f'python {SAMPLE} --prompt "a cat" --num-sample 3 --batch-size 2',
     1, 51, (240, 426), dict(names=['sample_0000-0.mp4', 'sample_0000-1.mp4', 'sample_0000-2.mp4'])),
    (f'python {SAMPLE} --prompt "a cat" --prompt-as-path --save-dir out --sample-name ""',
     1, 51, (240, 426), dict(names=['a cat.mp4'])),
    (f'python {SAMPLE} --num-frames 4s --resolution 720p --prompt '
     """'A sunrise over the sea.{"reference_path": "assets/images/condition/wave.png","mask_strategy": "0"}'""",
     1, 102, (720, 1280), dict(references=('assets/images/condition/wave.png',))),
    (f'python {SAMPLE} --prompt '
     """'A car drives on the ocean.{"reference_path": "video.mp4","mask_strategy": "0,0,-5,0,5"}' """
     '--loop 3 --condition-frame-length 5',
     1, 51, (240, 426), dict(frames=119)),
    (f'python {SAMPLE} --prompt "a bird" --reference-path "a.png;b.png" --mask-strategy "0;0,1,0,-1,1"',
     1, 51, (240, 426), dict(references=('a.png', 'b.png'))),
    (f'python {SAMPLE} --loop 5 --prompt "|0|a sunny day |2|a rainy day"',
     1, 51, (240, 426),
     dict(frames=187, texts=['a sunny day aesthetic score: 6.5.', 'a rainy day aesthetic score: 6.5.'])),
    (f'python {SAMPLE} --prompt "a cat" --fps 24 --save-fps 12 --seed 7 --num-sampling-steps 50 --cfg-scale 5 '
     '--dtype fp32',
     1, 51, (240, 426), dict(fps=12, steps=50)),
    (f'python {SAMPLE} --prompt "a cat" --frame-interval 3 --verbose 2 --watermark True --llm-refine False',
     1, 51, (240, 426), dict(fps=8)),
    (f'python {SAMPLE} --prompt "a cat" --ckpt-path hpcai-tech/OpenSora-STDiT-v3 --num-frames 16s --resolution 144p '
     '--aspect-ratio 3:8',
     1, 408, (117, 312), {}),
]

def plan(line, tmp_path):
    argv, _ = from_original(shlex.split(line))
    assert argv[0] == 'sample'
    return plan_sample(parse_options([*argv[1:], '--save-dir', str(tmp_path/'out')]))

@pytest.mark.parametrize('line, prompts, frames, size, more', LINES, ids=range(len(LINES)))
def test_documented_lines_plan(line, prompts, frames, size, more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'prompts.txt').write_text('zero\none\ntwo\nthree\n')
    for name in ('assets/images/condition/wave.png', 'a.png', 'b.png'):
        write_image(tmp_path/name, np.zeros((16, 24, 3), np.uint8))
    write_video(tmp_path/'video.mp4', np.zeros((40, 16, 24, 3), np.uint8))
    p = plan(line, tmp_path)
    assert (p.preset, len({j.index for j in p.jobs})) == ('opensora-1.2', prompts)
    assert (p.cfg.num_frames, p.cfg.image_size) == (frames, size)
    seen = dict(texts=p.texts, names=[j.path.name for j in p.jobs], suffix=p.jobs[0].path.suffix,
                references=p.jobs[0].spec.references, frames=p.frames, fps=p.save_fps, steps=p.cfg.num_sampling_steps)
    assert {k: seen[k] for k in more} == more

SCRIPT, LONG = 'scripts/inference.py', 'scripts/inference-long.py configs/opensora-v1-1/inference/sample.py'
RUN1, T2V = f'torchrun --standalone --nproc_per_node 1 {SCRIPT}', '--prompt-path ./assets/texts/t2v_samples.txt'
V1, V11 = 'configs/opensora/inference', 'configs/opensora-v1-1/inference'
V11_LONG = f'python {LONG} --ckpt-path CKPT_PATH --num-frames 32'
JEEP = '|'.join(f'{k}|a white jeep on a road, part {k}.' for k in range(0, 16, 2))
EARLIER_LINES = [ # as the documents of 1.0 and 1.1 have them: preset, prompts, frames of a round, size, and more
    (f'{RUN1} {V1}/16x512x512.py --ckpt-path OpenSora-v1-HQ-16x512x512.pth {T2V}',
     'opensora-1.0', 4, 16, (512, 512),
     dict(steps=100, fps=8, model='hpcai-tech/Open-Sora/OpenSora-v1-HQ-16x512x512.pth')),
    (f'{RUN1} {V1}/16x256x256.py --ckpt-path OpenSora-v1-HQ-16x256x256.pth {T2V}',
     'opensora-1.0', 4, 16, (256, 256), dict(model='hpcai-tech/Open-Sora/OpenSora-v1-HQ-16x256x256.pth', vae=True)),
    (f'{RUN1} {V1}/64x512x512.py --ckpt-path ./path/to/your/ckpt.pth {T2V}',
     'opensora-1.0', 4, 64, (512, 512), dict(fps=12, model='./path/to/your/ckpt.pth')),
    (f'torchrun --standalone --nproc_per_node 2 {SCRIPT} {V1}/64x512x512.py --ckpt-path ./path/to/your/ckpt.pth {T2V}',
     'opensora-1.0', 4, 64, (512, 512), dict(processes=2)),
    (f'{RUN1} {V1}/16x256x256.py --ckpt-path outputs/001-STDiT-XL-2/epoch12-global_step2000/ema.pt',
     'opensora-1.0', 4, 16, (256, 256), {}),
    (f'torchrun --standalone --nproc_per_node 2 {SCRIPT} {V1}/16x256x256.py --ckpt-path outputs/001/epoch12',
     'opensora-1.0', 4, 16, (256, 256), dict(processes=2)),
    (f'python {SCRIPT} {V11}/sample.py --ckpt-path CKPT_PATH --prompt-path assets/texts/t2i_samples.txt --num-frames 1 '
     '--image-size 1024 1024', 'opensora-1.1', 3, 1, (1024, 1024), dict(suffix='.png')),
    (f'python {SCRIPT} {V11}/sample.py --ckpt-path CKPT_PATH --prompt "A beautiful sunset over the city" '
     '--num-frames 1 --image-size 1024 1024', 'opensora-1.1', 1, 1, (1024, 1024), {}),
    (f'python {SCRIPT} {V11}/sample.py --ckpt-path CKPT_PATH --prompt "A beautiful sunset over the city" '
     '--num-frames 32 --image-size 480 854', 'opensora-1.1', 1, 32, (480, 854), dict(steps=100, fps=8)),
    (f'python {SCRIPT} {V11}/sample.py --prompt "A beautiful sunset over the city" --num-frames 32 '
     '--image-size 480 854 --layernorm-kernel False --flash-attn False', 'opensora-1.1', 1, 32, (480, 854),
     dict(model='hpcai-tech/OpenSora-STDiT-v2-stage3', texts=['a beautiful sunset over the city'])),
    (V11_LONG + """ --image-size 240 426 --sample-name image-cond --prompt 'A breathtaking sunrise scene."""
     """{"reference_path": "assets/images/condition/wave.png","mask_strategy": "0"}'""",
     'opensora-1.1', 1, 32, (240, 426), dict(names=['image-cond_0000.mp4'],
                                             references=('assets/images/condition/wave.png',))),
    (V11_LONG + """ --image-size 240 426 --sample-name image-cond --prompt 'A car driving on the ocean."""
     """{"reference_path": "video.mp4","mask_strategy": "0,0,0,-8,8"}'""",
     'opensora-1.1', 1, 32, (240, 426), dict(references=('video.mp4',))),
    (V11_LONG + f""" --image-size 240 426 --loop 16 --condition-frame-length 8 --sample-name long --prompt '|{JEEP}"""
     """{"reference_path": "video.mp4", "mask_strategy": "0,0,0,0,16"}'""",
     'opensora-1.1', 1, 32, (240, 426), dict(frames=16*32 - 15*8, names=['long_0000.mp4'])),
    (V11_LONG + """ --image-size 240 426 --sample-name connect --prompt 'A breathtaking sunrise scene."""
     """{"reference_path": "a.png;b.png","mask_strategy": "0;0,1,0,-1,1"}'""",
     'opensora-1.1', 1, 32, (240, 426), dict(references=('a.png', 'b.png'))),
    (V11_LONG + """ --image-size 480 853 --sample-name edit --prompt 'A cyberpunk-style city at night."""
     """{"reference_path": "video.mp4","mask_strategy": "0,0,0,0,32,0.4"}'""",
     'opensora-1.1', 1, 32, (480, 853), {}),
    (f'python scripts/inference-long.py {V11}/sample-ref.py --prompt "a sea"',
     'opensora-1.1', 1, 16, (240, 426), dict(frames=2*16 - 4)),
    (f'python {SCRIPT} configs/dit/inference/1x256x256-class.py --ckpt-path DiT-XL-2-256x256.pt',
     'dit', 2, 1, (256, 256), dict(steps=20, suffix='.png', texts=['207', '360'],
                                   model='https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x256.pt')),
    (f'python {SCRIPT} configs/latte/inference/16x256x256-class.py --ckpt-path Latte-XL-2-256x256-ucf101.pt',
     'latte', 1, 16, (256, 256), dict(steps=20, fps=8, texts=['100'], model='maxin-cn/Latte/ucf101.pt')),
    (f'python {SCRIPT} configs/dit/inference/16x256x256.py --ckpt-path MINE --prompt YoYo',
     'dit', 1, 16, (256, 256), dict(reads='openai/clip-vit-base-patch32')),
    (f'python {SCRIPT} configs/dit/inference/1x256x256.py --ckpt-path MINE --prompt goldfish',
     'dit', 1, 1, (256, 256), dict(reads='openai/clip-vit-base-patch32')),
    (f'python {SCRIPT} configs/latte/inference/16x256x256.py --ckpt-path MINE --prompt YoYo',
     'latte', 1, 16, (256, 256), dict(reads='openai/clip-vit-base-patch32')),
    (f'{RUN1} configs/pixart/inference/1x256x256.py --ckpt-path PixArt-XL-2-256x256.pth',
     'pixart', 3, 1, (256, 256), dict(steps=20, model='PixArt-alpha/PixArt-alpha/PixArt-XL-2-256x256.pth')),
    (f'{RUN1} configs/pixart/inference/1x512x512.py --ckpt-path PixArt-XL-2-512x512.pth',
     'pixart', 3, 1, (512, 512), dict(model='PixArt-alpha/PixArt-alpha/PixArt-XL-2-512x512.pth')),
    (f'{RUN1} configs/pixart/inference/1x1024MS.py --ckpt-path PixArt-XL-2-1024MS.pth',
     'pixart', 3, 1, (1920, 512), dict(model='PixArt-alpha/PixArt-alpha/PixArt-XL-2-1024-MS.pth')),
    (f'{RUN1} configs/pixart/inference/1x2048MS.py --prompt "a cat"',
     'pixart-sigma', 1, 1, (2560, 1536), dict(steps=14, model='PixArt-alpha/PixArt-Sigma/PixArt-Sigma-XL-2-2K-MS.pth')),
    (f'{RUN1} configs/pixart/inference/16x256x256.py --ckpt-path MINE --prompt "a cat"',
     'pixart', 1, 16, (256, 256), dict(fps=8)),
]

@pytest.fixture
def original_files(tmp_path, monkeypatch):
    "A folder with the files that the documents name"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path/'hub'))
    for name in ('assets/images/condition/wave.png', 'a.png', 'b.png'):
        write_image(tmp_path/name, np.zeros((16, 24, 3), np.uint8))
    write_video(tmp_path/'video.mp4', np.zeros((40, 16, 24, 3), np.uint8))
    (tmp_path/'assets'/'texts').mkdir()
    texts = dict(t2v_samples='a\nb\nc\nd', t2i_samples='a\nb\nc', imagenet_id='207\n360', ucf101_id='100')
    for name, lines in texts.items():
        (tmp_path/'assets'/'texts'/f'{name}.txt').write_text(lines + '\n')
    return tmp_path

@pytest.mark.parametrize('line, preset, prompts, frames, size, more', EARLIER_LINES, ids=range(len(EARLIER_LINES)))
def test_lines_of_earlier_versions_plan(line, preset, prompts, frames, size, more, original_files):
    "1.0 and 1.1, DiT, Latte and PixArt: each config is a preset with its size and frames"
    p = plan(line, original_files)
    w = p.options.weights
    assert (p.preset, len({j.index for j in p.jobs})) == (preset, prompts)
    assert (p.cfg.num_frames, p.cfg.image_size, p.made) == (frames, size, frames)
    where = released_parts(w.ckpt_path, w.vae, w.text_encoder, preset, p.cfg.image_size)[-1].where
    seen = dict(texts=p.texts, names=[j.path.name for j in p.jobs], suffix=p.jobs[0].path.suffix, fps=p.save_fps,
                references=p.jobs[0].spec.references, frames=p.frames, steps=p.cfg.num_sampling_steps, model=where,
                reads=w.text_encoder, processes=from_original(shlex.split(line))[1],
                vae=not hasattr(p.vae.cfg, 'vae_2d'))
    assert {k: seen[k] for k in more} == more

def test_every_sampling_config_is_in_the_table():
    named = ' '.join(line for line, *_ in EARLIER_LINES)
    assert [k for k in SAMPLE_CONFIGS if k not in named] == []

def test_what_is_typed_goes_before_a_config(original_files):
    "Size, length, prompts; the config's own prompts only where the file is there"
    config = f'python {SCRIPT} {V1}/64x512x512.py'
    p = plan(f'{config} --num-frames 16 --image-size 256 256 --fps 8 --prompt "a cat"', original_files)
    assert (p.cfg.num_frames, p.cfg.image_size, p.save_fps, len(p.jobs)) == (16, (256, 256), 8, 1)
    p = plan(f'{config} --resolution 256 --aspect-ratio 1:1', original_files)
    assert (p.cfg.num_frames, p.cfg.image_size, len(p.jobs)) == (64, (256, 256), 4)
    (original_files/'assets'/'texts'/'t2v_samples.txt').unlink()
    with pytest.raises(ValueError, match='give a prompt'): plan(config, original_files)

@pytest.mark.parametrize('config', ['opensora/inference/16x512x512-rflow.py', 'opensora/train/16x256x256.py'])
def test_configs_without_a_counterpart_say_so(config, tmp_path):
    with pytest.raises(ValueError, match='has no counterpart here; this command samples with those of 1.2'):
        plan(f'python {SCRIPT} configs/{config} --prompt "a cat"', tmp_path)

TRAIN, V12, V10 = 'scripts/train.py', 'configs/opensora-v1-2/train', 'configs/opensora/train'
# command, the same for osnb, settings that must come of it; None: the recipe is made elsewhere
TRAINED = [
    (f'torchrun --standalone --nproc_per_node 8 {TRAIN} {V12}/stage1.py --data-path YOUR_CSV_PATH '
     '--ckpt-path YOUR_PRETRAINED_CKPT',
     'v12_stages only=1 init=YOUR_PRETRAINED_CKPT data.path=YOUR_CSV_PATH --num-processes 8',
     {'name': 'v12_stages/1', 'init': 'YOUR_PRETRAINED_CKPT', 'data.path': 'YOUR_CSV_PATH', 'steps': 30_000,
      'buckets': 'v12_stage1'}),
    (f'torchrun --standalone --nproc_per_node 8 {TRAIN} {V12}/stage2.py --data-path c.csv',
     'v12_stages only=2 data.path=c.csv --num-processes 8',
     {'name': 'v12_stages/2', 'init': 'runs/v12_stages/1', 'buckets': 'v12_stage2'}),
    (f'torchrun --standalone --nproc_per_node 8 {TRAIN} {V12}/stage3.py --data-path c.csv --ckpt-path W',
     'v12_stages only=3 init=W data.path=c.csv --num-processes 8',
     {'name': 'v12_stages/3', 'init': 'W', 'masks': 'v12_stage3', 'optim.warmup': 1000}),
    (f'torchrun --nproc_per_node 8 {TRAIN} {V12}/adapt.py --data-path c.csv',
     'v12_stages:v12_adapt data.path=c.csv --num-processes 8',
     {'name': 'v12_adapt', 'buckets': 'v12_adapt', 'masks': 'v12_adapt', 'checkpointing': False}),
    (f'colossalai run --nproc_per_node 8 --hostfile hostfile {TRAIN} {V12}/stage1.py --data-path c.csv --ckpt-path W',
     'v12_stages only=1 init=W data.path=c.csv --num-processes 8 --nodes 3', {'init': 'W'}),
    (f'colossalai run --nproc_per_node 8 --host a,b --master_addr a {TRAIN} {V12}/stage1.py --data-path c.csv',
     'v12_stages only=1 data.path=c.csv --num-processes 8 --nodes 2', {}),
    (f'torchrun --nnodes=1 --nproc_per_node=8 {TRAIN} {V12}/stage1.py --seed 7 --outputs out --dtype fp16 --lr 2e-5 '
     '--warmup-steps 10',
     'v12_stages only=1 seed=7 out=out precision=fp16 optim.lr=2e-5 optim.warmup=10 --num-processes 8',
     {'seed': 7, 'out': 'out', 'precision': 'fp16', 'optim.lr': 2e-5, 'optim.warmup': 10}),
    (f'python {TRAIN} {V12}/stage1.py --dtype fp32 --data_path=a=b.csv --plan',
     'v12_stages only=1 data.path=a=b.csv precision=no --plan', {'precision': 'no', 'data.path': 'a=b.csv'}),
    (f'torchrun --nproc_per_node 8 {TRAIN} {V12}/stage1.py --data-path c.csv --load old/v12_stages/1',
     'v12_stages only=1 data.path=c.csv out=old --num-processes 8', {'out': 'old', 'resume': True}),
    (f'torchrun --nproc_per_node 8 {TRAIN} {V12}/stage2.py --data-path c.csv --load old/v12_stages/1 '
     '--start-from-scratch',
     'v12_stages only=2 data.path=c.csv init=old/v12_stages/1 --num-processes 8',
     {'init': 'old/v12_stages/1', 'out': 'runs'}),
    (f'WANDB_API_KEY=k torchrun --nnodes=1 --nproc_per_node=8 {TRAIN} {V10}/64x512x512.py --data-path c.csv '
     '--wandb True',
     'v10_stages only=64x512x512_hq data.path=c.csv --num-processes 8',
     {'schedule': 'ddpm', 'data.num_frames': 64, 'data.frame_interval': 2, 'model.input_size': (64, 64, 64)}),
    (f'torchrun --nnodes=1 --nproc_per_node=8 {TRAIN} {V10}/16x256x256.py --data-path c.csv',
     'v10_stages only=16x256x256 data.path=c.csv --num-processes 8',
     {'steps': 80_000, 'data.num_frames': 16, 'data.image_size': (256, 256), 'optim.lr': 2e-5}),
    (f'torchrun --nnodes=1 --nproc_per_node=8 {TRAIN} {V10}/16x512x512.py --data-path c.csv --batch-size 4',
     'v10_stages only=16x512x512_hq data.path=c.csv batch_size=32 --num-processes 8', {'batch_size': 32}),
    (f'torchrun --nnodes=1 --nproc_per_node=8 {TRAIN} {V10}/360x512x512.py --data-path c.csv --ckpt-path W',
     'v10_stages only=360x512x512 init=W data.path=c.csv --num-processes 8', {'sequence': 2, 'init': 'W'}),
    (f'torchrun --nnodes=1 --nproc_per_node=8 {TRAIN} configs/opensora-v1-1/train/stage1.py --data-path c.csv',
     'v11_stages only=1b data.path=c.csv --num-processes 8',
     {'schedule': 'speed', 'buckets': 'v11_stage1', 'model.qk_norm': False}),
    (f'torchrun --nnodes=1 --nproc_per_node=8 {TRAIN} configs/opensora-v1-1/train/stage3.py --data-path c.csv '
     '--ckpt-path W',
     'v11_stages only=3 init=W data.path=c.csv --num-processes 8',
     {'schedule': 'ddpm', 'buckets': 'v11_stage3', 'masks': 'v11', 'guided_channels': 3}),
    *((f'torchrun --nnodes=1 --nproc_per_node=8 scripts/train_vae.py configs/vae/train/stage{i}.py '
       '--data-path YOUR_CSV_PATH',
       f'v12_vae only={i} data.path=YOUR_CSV_PATH --num-processes 8', None) for i in (1, 2, 3)),
    ('torchrun --nnodes=3 --nproc_per_node=8 scripts/train_vae.py configs/vae/train/stage3.py --data-path c.csv '
     '--batch-size 2',
     'v12_vae only=3 data.path=c.csv batch_size=48 --num-processes 8 --nodes 3', None),
    ('torchrun --standalone --nproc_per_node 1 scripts/misc/search_bs.py configs/opensora-v1-2/misc/bs.py '
     '--data-path s.csv --resolution 240p',
     'search-batch v12_stages only=1 data.path=s.csv', None),
    ('torchrun --standalone --nproc_per_node 8 scripts/misc/search_bs.py configs/opensora-v1-2/misc/bs.py '
     '--data-path s.csv',
     'search-batch v12_stages only=1 data.path=s.csv', None),
]

@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('line, words, must', TRAINED, ids=range(len(TRAINED)))
def test_documented_training_lines(line, words, must, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'hostfile').write_text('one\ntwo slots=8\n\n# three\nfour\n')
    (tmp_path/'old'/'v12_stages'/'1').mkdir(parents=True)
    argv, processes = from_original(shlex.split(line))
    assert argv == ['train', *words.split()] and processes == (8 if '=8' in line or ' 8 ' in line else 1)
    recipe = words.split()[0]
    if must is None:
        assert recipe in ('search-batch', 'v12_vae')
        return
    p = argparse.ArgumentParser()
    train_options(p)
    args = p.parse_args(argv[1:])
    cfg, = resolve(args.recipe, *args.overrides)
    assert {k: flat(cfg)[k] for k in must} == must
    assert args.plan == ('--plan' in line)
    assert args.nodes == (3 if 'hostfile' in line else 2 if '--host a' in line else 1)

def test_every_config_leads_to_a_stage():
    "The table names recipes and stages that exist; v12_vae and search-batch come from elsewhere"
    for script, rows in CONFIGS.items():
        for recipe, *only in rows.values():
            if recipe in recipe_names() or ':' in recipe: assert len(resolve(recipe, *only)) == 1
            else: assert recipe in ('v12_vae', 'search-batch')

def test_what_changes_nothing_is_said_once(tmp_path, monkeypatch):
    line = (f'{STAGE1} --flash-attn False --layernorm-kernel True --wandb True --batch-size 4 --resolution 240p '
            '--start-from-scratch')
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        argv, _ = from_original(shlex.split(line))
    assert argv == ['train', 'v12_stages', 'only=1']
    assert len(said) == 1
    assert all(k in str(said[0].message) for k in (*IDLE, '--start-from-scratch'))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        from_original(shlex.split(f'python {TRAIN} {V12}/stage1.py --wandb False'))

STAGE1 = f'python {TRAIN} {V12}/stage1.py'
WRONG = [
    (f'python {TRAIN}', 'needs a config first, such as configs/opensora-v1-2/train/stage1.py'),
    (f'python {TRAIN} {V12}/stage4.py',                             'stage4.py has no counterpart'),
    (f'python {TRAIN} configs/vae/train/stage1.py',                 'has no counterpart'),
    (f'{STAGE1} --lr 0',                                            "--lr is a number above 0, not '0'"),
    (f'{STAGE1} --lr nan',                                          '--lr is a number above 0'),
    (f'{STAGE1} --lr',                                              '--lr needs a value'),
    (f'{STAGE1} --lr --seed 3',                                     '--lr needs a value'),
    (f'{STAGE1} --seed -1',                                         '--seed is a whole number'),
    (f'{STAGE1} --seed ²',                                          '--seed is a whole number'),
    (f'{STAGE1} --load gone/v12_stages/1',                          'a folder that exists'),
    (f'{STAGE1} --dtype half',                                      '--dtype is one of bf16'),
    (f'{STAGE1} --wandb maybe',                                     '--wandb is True or False'),
    (f'{STAGE1} --warmup 5',                                        'did you mean --warmup-steps?'),
    (f'{STAGE1} --prompt cat',                                      "has no option '--prompt'"),
    (f'{STAGE1} stage2.py',                                         "has no option 'stage2.py'"),
    (f'{STAGE1} --load outputs/000-STDiT3-XL-2/epoch0-global_step1000', 'a run of this kit is needed'),
    (f'{STAGE1} --load old/v12_stages/1 --outputs new',             'goes on in old, but --outputs is new'),
    (f'{STAGE1} --load old/v12_stages/1 --ckpt-path W',             'give one of them'),
    (f"{STAGE1} --data-path ''",                                    '--data-path is empty'),
    ('python scripts/train_vae.py configs/vae/train/stage1.py --batch-size 0', '--batch-size must be at least 1'),
    (f'torchrun --nnodes 1:4 {TRAIN} {V12}/stage1.py',              "--nnodes is a number of machines, not '1:4'"),
    (f'colossalai {TRAIN} {V12}/stage1.py',                         'colossalai run'),
    ('colossalai',                                                  'colossalai run'),
    (f'colossalai run --hostfile empty {TRAIN} {V12}/stage1.py',    'names no machine'),
    ('python scripts/misc/search_bs.py configs/opensora-v1-2/misc/bs.py --plan', 'has no --plan'),
    ('python eval/loss/eval_loss.py configs/opensora-v1-2/misc/eval_loss.py', 'needs clips'),
    ('python eval/loss/eval_loss.py --data-path c.csv', 'takes config in front, not 0 words'),
    ('python eval/loss/eval_loss.py c.py --data-path', '--data-path needs a value'),
    ('python eval/loss/eval_loss.py c.py --data-pth c.csv', "has no option '--data-pth'"),
    ('python eval/vbench/calc_vbench.py samples/v', 'takes video_folder and model_ckpt in front, not 1 words'),
    ('python eval/vbench/calc_vbench.py samples/v ck --start 16', 'are none of the 16'),
    ('python eval/vbench/calc_vbench.py samples/v ck --start x', "'x' is no such number"),
    ('python eval/vbench/tabulate_vbench_scores.py', 'needs a folder of scores'),
    ('python eval/loss/tabulate_rl_loss.py --log_dir logs', "osnb eval loss … --output FILE writes that table"),
    ('python scripts/misc/extract_feat.py configs/opensora-v1-2/misc/extract.py',
     'training computes latents and captions itself'),
    (f'torchrun --nnodes 2 --nproc_per_node 8 {SAMPLE} --prompt x', '2 machines cannot sample together'),
]

@pytest.mark.parametrize('line, said', WRONG, ids=range(len(WRONG)))
def test_wrong_training_lines(line, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'empty').write_text('# none\n')
    (tmp_path/'old'/'v12_stages'/'1').mkdir(parents=True)
    with pytest.raises(ValueError) as e: from_original(shlex.split(line))
    assert said in str(e.value)

def test_no_hostfile_is_one_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="no file of hosts 'hosts' here; one machine"):
        line = f'colossalai run --nproc_per_node 8 --hostfile hosts {TRAIN} {V12}/stage1.py'
        argv, _ = from_original(shlex.split(line))
    assert argv[-2:] == ['--num-processes', '8']

configs = [f'configs/{k}' for k in chain(*CONFIGS.values())]
WORDS = st.sampled_from([
    *LAUNCHERS, 'run', TRAIN, 'scripts/train_vae.py', 'scripts/misc/search_bs.py', 'scripts/inference.py', *configs,
    *SETTINGS, *IDLE, '--load', '--start-from-scratch', '--plan', '--nproc_per_node', '--nnodes', '--hostfile',
    '--host', '--standalone', 'True', '8', '1e-4', 'bf16', 'c.csv', '--lr=1', '--seed=x', '=', '--', '', '.', 'A=1',
    '²', '٣',
])
LAUNCHED = ['', 'colossalai run --hostfile', 'torchrun --nnodes', 'python',
            f'torchrun --nproc_per_node 2 {TRAIN} {V12}/stage1.py']

@pytest.mark.filterwarnings('ignore::UserWarning')
@settings(max_examples=400, deadline=None)
@given(st.lists(WORDS | st.text(max_size=6), max_size=10), st.sampled_from(LAUNCHED))
def test_no_line_of_words_breaks_the_reader(words, front):
    "A launcher in front or not: a command, the words as they were, or a ValueError in one sentence"
    words, started = [*front.split(), *words], TRAIN in front
    try: argv, n = from_original(words)
    except ValueError as e:
        assert str(e) and len(str(e)) < 2000
        return
    assert n >= 1 and all(isinstance(w, str) for w in argv)
    if started:
        assert argv[:3] == ['train', 'v12_stages', 'only=1']
        p = argparse.ArgumentParser(exit_on_error=False)
        train_options(p)
        args = p.parse_args(argv[1:])
        try: cfg, = resolve(args.recipe, *args.overrides)
        except ValueError as e: assert str(e)
        else: assert cfg.name == 'v12_stages/1'

def test_plan_of_a_training_line_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    launched = f'torchrun --nnodes 2 --nproc_per_node 8 {TRAIN} {V12}/stage2.py'
    assert main(shlex.split(f'{launched} --data-path c.csv --lr 3e-5 --flash-attn True --plan')) == 0
    out, err = capsys.readouterr()
    assert 'v12_stages/2 on 16 processes of 2 machines: from runs/v12_stages/1 to runs/v12_stages/2' in out
    assert 'optim.lr=3e-05 (the recipe: 0.0001)' in out
    assert '23,000 steps on 16 processes' in out
    assert '--node_rank 1' in out
    read_as = 'osnb train v12_stages only=2 data.path=c.csv optim.lr=3e-5 --num-processes 8 --nodes 2 --plan'
    assert f'read as: {read_as}' in err
    assert err.count('without effect') == 1
    assert not list(tmp_path.iterdir())

def test_earlier_releases_are_planned_as_they_are_typed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = f'torchrun --nproc_per_node 64 {TRAIN} {V10}/16x256x256.py --data-path c.csv'
    assert main(shlex.split(line + ' --plan')) == 0
    out = capsys.readouterr().out
    assert '80,000 steps on 64 processes' in out and 'data.path=c.csv' in out
    assert not list(tmp_path.iterdir())
    assert main(['plan', 'v10_stages', '--measure', 'False']) == 0 and 'all stages' in capsys.readouterr().out
    assert main(shlex.split(f'torchrun --nnodes 2 --nproc_per_node 8 {TRAIN} {V12}/stage1.py')) == 1
    assert 'torchrun --nnodes 2 --node_rank 0' in capsys.readouterr().err

LOSS = 'eval/loss/eval_loss.py configs/opensora-v1-2/misc/eval_loss.py'
EVAL_LINES = [ # documented line, and the words here
    (f'torchrun --standalone --nproc_per_node 1 {LOSS} --data-path /d/img.csv --ckpt-path /c/ckpt',
     'eval loss --preset opensora-1.2 --data /d/img.csv --ckpt-path /c/ckpt --resolution all'),
    (f'torchrun --standalone --nproc_per_node 1 {LOSS} --data-path /d/vid.csv --ckpt-path /c/ckpt --resolution 720p',
     'eval loss --preset opensora-1.2 --data /d/vid.csv --ckpt-path /c/ckpt --resolution 720p'),
    (f'CUDA_VISIBLE_DEVICES=1 torchrun --master_port 29501 --nproc_per_node 1 {LOSS} --data-path i.csv --ckpt-path c '
     '--start-index 5 --end-index 6',
     'eval loss --preset opensora-1.2 --data i.csv --ckpt-path c --start-index 5 --end-index 6 --resolution all'),
    ('bash eval/sample.sh ck/e1 51 042 -4 0 120',
     'eval vbench generate --preset opensora-1.2 --ckpt-path ck/e1 --num-frames 51 '
     '--save-dir samples/samples_042_e1_vbench --start 0 --end 120'),
    ('bash eval/sample.sh tiny 17 t --vbench 0 9 240p 9:16 30 None True',
     'eval vbench generate tiny --num-frames 17 --save-dir samples/samples_t_tiny_vbench --start 0 --end 9 '
     '--resolution 240p --aspect-ratio 9:16 --num-sampling-steps 30 --llm-refine True'),
    ('python eval/vbench/calc_vbench.py samples/v ck --start 0 --end 2',
     'eval vbench score samples/v --output ck/vbench --dimensions subject_consistency imaging_quality'),
    ('CUDA_VISIBLE_DEVICES=7 python eval/vbench/calc_vbench.py samples/v ck --start 13',
     'eval vbench score samples/v --output ck/vbench --dimensions scene temporal_style dynamic_degree'),
    ('python eval/vbench_i2v/vbench_i2v.py samples/i ck --calc_i2v',
     'eval vbench score samples/i --output ck/vbench_i2v --i2v --dimensions i2v_subject i2v_background camera_motion'),
    ('python eval/vbench_i2v/vbench_i2v.py samples/i ck --calc_quality --start 3 --end 4',
     'eval vbench score samples/i --output ck/vbench_i2v --i2v --dimensions dynamic_degree'),
    ('python eval/vbench/tabulate_vbench_scores.py --score_dir ck/vbench', 'eval vbench table ck/vbench'),
    ('python eval/vbench_i2v/tabulate_vbench_i2v_scores.py --score_dir ck/v', 'eval vbench table ck/v'),
]

@pytest.mark.parametrize('line, words', EVAL_LINES, ids=[line[:60] for line, _ in EVAL_LINES])
def test_documented_measuring_lines(line, words):
    "Each is read by the command it becomes, with the values that were typed"
    from opensora_nb.app.eval_cli import EVAL_COMMANDS
    got, processes = from_original(shlex.split(line))
    assert (got, processes) == (shlex.split(words), 1)
    p = argparse.ArgumentParser()
    EVAL_COMMANDS[got[1]].options(p)
    p.parse_args(got[2:])

COMPARE = 'python eval/vae/eval_common_metric.py'
VAE_LINES = [ # as its pages have them, and what must come of it
    ('torchrun --standalone --nnodes=1 --nproc_per_node=1 scripts/inference_vae.py configs/vae/inference/video.py '
     '--ckpt-path V --data-path c.csv --save-dir out/v',
     'V --num-frames 17 --image-size 256 256 --num-samples 100 --save-dir out/v --data-path c.csv --cal-stats'),
    ('python scripts/inference_vae.py configs/vae/inference/image.py --data-path c.csv',
     'hpcai-tech/OpenSora-VAE-v1.2 --num-frames 1 --image-size 256 256 --save-dir samples/vae_image --data-path c.csv'),
    (f'{COMPARE} --batch_size 2 --real_video_dir A_ori --generated_video_dir A_rec --device cuda --sample_fps 24 '
     '--crop_size 256 --resolution 256 --num_frames 17 --sample_rate 1 --metric ssim psnr lpips flolpips',
     '--num-frames 17 --resolution 256 --real-video-dir A_ori --generated-video-dir A_rec --device cuda '
     '--crop-size 256 --sample-rate 1 --metric ssim psnr lpips flolpips'),
    (f'{COMPARE} --real_video_dir A --generated_video_dir B --subset_size None --metric psnr',
     '--num-frames 100 --resolution 336 --real-video-dir A --generated-video-dir B --metric psnr')]

@pytest.mark.parametrize('line, want', VAE_LINES, ids=range(len(VAE_LINES)))
@pytest.mark.filterwarnings('ignore:without effect here')
def test_lines_that_score_an_autoencoder(line, want):
    from opensora_nb.app.cli import command_parser
    argv, processes = from_original(shlex.split(line))
    assert (argv[:2], shlex.join(argv[2:]), processes) == (['eval', 'vae'], want, 1)
    command_parser(argv).parse_args(argv) # its options exist

@pytest.mark.parametrize('line, said', [
    ('python scripts/inference_vae.py --data-path c.csv', 'needs a config first'),
    (f'{COMPARE} --metrik psnr', "has no option '--metrik'"), (f'{COMPARE} --resolution', 'needs a value')])
def test_wrong_lines_that_score_an_autoencoder(line, said):
    with pytest.raises(ValueError, match=said): from_original(shlex.split(line))
