"Documented command lines of Open-Sora 1.2, with `osnb` in front: each is read, and planned as the original would have run it."
import argparse, shlex
import numpy as np, pytest
from opensora_nb.data.video_io import write_image, write_video
from opensora_nb.app.original import from_original
from opensora_nb.app.sampling import plan_sample, sample_options

SAMPLE = 'scripts/inference.py configs/opensora-v1-2/inference/sample.py'
LINES = [ # command, and what must come of it: prompts, frames of a round, size, and more fields
    (f'python {SAMPLE} --num-frames 4s --resolution 720p --aspect-ratio 9:16 --prompt "a beautiful waterfall"', 1, 102, (720, 1280), {}),
    (f'python {SAMPLE} --num-frames 4s --resolution 720p --layernorm-kernel False --flash-attn False --prompt "a beautiful waterfall"', 1, 102, (720, 1280), {}),
    (f'python {SAMPLE} --num-frames 4s --resolution 720p --layernorm-kernel True --flash-attn True --prompt "a beautiful waterfall"', 1, 102, (720, 1280), {}),
    (f'CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc_per_node 2 {SAMPLE} --num-frames 4s --resolution 720p --aspect-ratio 9:16 --prompt "a beautiful waterfall"', 1, 102, (720, 1280), {}),
    (f'torchrun --standalone --nproc_per_node=8 {SAMPLE} --num-frames 2s --resolution 480p --aspect-ratio 1:1 --prompt "a cat" "a dog"', 2, 51, (640, 640), {}),
    (f'python {SAMPLE} --num-frames 4s --resolution 720p --prompt "a beautiful waterfall" --aes 7 --flow 5 --camera-motion "pan right"', 1, 102, (720, 1280),
     dict(texts=['a beautiful waterfall aesthetic score: 7.0. motion score: 5.0. camera motion: pan right.'])),
    (f'python {SAMPLE} --num-frames 1 --image-size 1024 1024 --prompt "A scene from a disaster film."', 1, 1, (1024, 1024), dict(suffix='.png')),
    (f'python {SAMPLE} --prompt-path prompts.txt --start-index 1 --end-index 3 --num-frames 1 --resolution 240p --sample-name image', 2, 1, (240, 426), dict(names=['image_0001.png', 'image_0002.png'])),
    (f'python {SAMPLE} --prompt "a cat" --num-sample 3 --batch-size 2', 1, 51, (240, 426), dict(names=['sample_0000-0.mp4', 'sample_0000-1.mp4', 'sample_0000-2.mp4'])),
    (f'python {SAMPLE} --prompt "a cat" --prompt-as-path --save-dir out --sample-name ""', 1, 51, (240, 426), dict(names=['a cat.mp4'])),
    (f"""python {SAMPLE} --num-frames 4s --resolution 720p --prompt 'A sunrise over the sea.{{"reference_path": "assets/images/condition/wave.png","mask_strategy": "0"}}'""", 1, 102, (720, 1280),
     dict(references=('assets/images/condition/wave.png',))),
    (f"""python {SAMPLE} --prompt 'A car drives on the ocean.{{"reference_path": "video.mp4","mask_strategy": "0,0,-5,0,5"}}' --loop 3 --condition-frame-length 5""", 1, 51, (240, 426), dict(frames=119)),
    (f'python {SAMPLE} --prompt "a bird" --reference-path "a.png;b.png" --mask-strategy "0;0,1,0,-1,1"', 1, 51, (240, 426), dict(references=('a.png', 'b.png'))),
    (f'python {SAMPLE} --loop 5 --prompt "|0|a sunny day |2|a rainy day"', 1, 51, (240, 426), dict(frames=187, texts=['a sunny day aesthetic score: 6.5.', 'a rainy day aesthetic score: 6.5.'])),
    (f'python {SAMPLE} --prompt "a cat" --fps 24 --save-fps 12 --seed 7 --num-sampling-steps 50 --cfg-scale 5 --dtype fp32', 1, 51, (240, 426), dict(fps=12, steps=50)),
    (f'python {SAMPLE} --prompt "a cat" --frame-interval 3 --verbose 2 --watermark True --llm-refine False', 1, 51, (240, 426), dict(fps=8)),
    (f'python {SAMPLE} --prompt "a cat" --ckpt-path hpcai-tech/OpenSora-STDiT-v3 --num-frames 16s --resolution 144p --aspect-ratio 3:8', 1, 408, (117, 312), {}),
]

def plan(line, tmp_path):
    argv, _ = from_original(shlex.split(line)); assert argv[0] == 'sample'
    p = argparse.ArgumentParser(); sample_options(p); args = p.parse_args(argv[1:])
    args.save_dir = str(tmp_path/'out'); return plan_sample(args)

@pytest.mark.parametrize('line, prompts, frames, size, more', LINES, ids=range(len(LINES)))
def test_documented_lines_plan(line, prompts, frames, size, more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); (tmp_path/'prompts.txt').write_text('zero\none\ntwo\nthree\n')
    for name in ('assets/images/condition/wave.png', 'a.png', 'b.png'): write_image(tmp_path/name, np.zeros((16, 24, 3), np.uint8))
    write_video(tmp_path/'video.mp4', np.zeros((40, 16, 24, 3), np.uint8))
    p = plan(line, tmp_path)
    assert (p.preset, p.cfg.num_frames, p.cfg.image_size, len({j.index for j in p.jobs})) == ('opensora-1.2', frames, size, prompts)
    seen = dict(texts=p.texts, names=[j.path.name for j in p.jobs], suffix=p.jobs[0].path.suffix, references=p.jobs[0].spec.references, frames=p.frames, fps=p.save_fps, steps=p.cfg.num_sampling_steps)
    assert {k: seen[k] for k in more} == more

@pytest.mark.parametrize('line', ['python scripts/inference.py configs/opensora-v1-1/inference/sample.py --prompt "a cat"', 'python scripts/inference.py configs/opensora/inference/16x256x256.py --prompt "a cat"'])
def test_other_versions_say_so(line, tmp_path):
    with pytest.raises(ValueError, match='another version than 1.2'): plan(line, tmp_path)
