"Clips for people by the lines of Open-Sora's scripts, and votes that a killed process has confirmed"
import argparse, os, shlex, signal, subprocess, sys
import pytest
from opensora_nb.app.eval_cli import eval_options, which_eval
from opensora_nb.app.human import human_run, plan_human
from opensora_nb.app.opensora_cli import from_original
from opensora_nb.metrics.preference import read_votes

S = 'bash eval/sample.sh'
V12, V11 = '--preset opensora-1.2 --ckpt-path', '--preset opensora-1.1 --ckpt-path'
LINES = [ # a line of the original, and what it is read as
    (f'{S} ck/e1 51 042 -1',              f'1 {V12} ck/e1 --frames 51 --model-name 042'),
    *[(f'{S} ck/e1 51 042 -2{k}',         f'2{k} {V12} ck/e1 --frames 51 --model-name 042') for k in 'abcdefgh'],
    (f'{S} ck/e1 51 042 -2a -2c',         f'2a 2c {V12} ck/e1 --frames 51 --model-name 042'),
    (f'{S} ck/e1 51 042 --image --video', f'1 video {V12} ck/e1 --frames 51 --model-name 042'),
    (f'{S} tiny 17 tiny -2a --plan',      '2a --weights tiny --frames 17 --model-name tiny --plan'),
    (f'{S} ck/e1 51 042 -5 140 280 240p 9:16 30 2 True',
     f'5 {V12} ck/e1 --frames 51 --model-name 042 --start 140 --end 280 --resolution 240p --aspect-ratio 9:16 '
     '--num-sampling-steps 30 --flow 2 --llm-refine True'),
    (f'CUDA_VISIBLE_DEVICES=3 {S} ck/e1 1 042 -1', f'1 {V12} ck/e1 --frames 1 --model-name 042'),
    ('bash eval/human_eval/launch.sh ck/e1 51 042',
     f'1 2a 2b 2c 2d 2e 2f 2g {V12} ck/e1 --frames 51 --model-name 042 --processes 8'),
    ('bash ./eval/multiple.sh ck/e1 "a boat at sea"', f"multiple {V11} ck/e1 --prompt 'a boat at sea'")]

def parsed(words):
    "What the parser of `osnb eval human` reads"
    parser = argparse.ArgumentParser(prog='osnb eval', exit_on_error=False)
    eval_options(parser, 'human')
    return parser.parse_args(words)

@pytest.mark.parametrize('line, words', LINES, ids=range(len(LINES)))
def test_lines_of_the_original(line, words, tmp_path, monkeypatch):
    "`osnb` in front of a line gives the same modes, checkpoint and options, and the parser takes them"
    monkeypatch.chdir(tmp_path)
    argv, processes = from_original(shlex.split(line))
    assert (shlex.join(argv), processes) == (f'eval human {words}', 1)
    run = human_run(parsed(argv[1:]))
    assert run.weights.ckpt_path in ('ck/e1', None) and run.frames == words.partition('--frames ')[2][:2].strip() \
        or 'multiple' in words

@pytest.mark.parametrize('line, said', [
    (f'{S} ck 51 042', 'makes nothing without one of'), (f'{S} ck 51 042 -3', 'has no -3'),
    (f'{S} ck -2a', 'takes CKPT FRAMES MODEL_NAME'), (f'{S} ck 51 042 -4 0', 'need the first prompt'),
    (f'{S} ck 51 042 -2a 7', "takes '7' behind -4 and -5 only"), ('bash eval/multiple.sh ck', 'a prompt in quotes')])
def test_wrong_lines(line, said):
    with pytest.raises(ValueError, match=said): from_original(shlex.split(line))

COUNTS = { # mode -> clips, first name, frames and size of the first batch
    '1': (30, 'image_1024_1_1_0000.png', (1, 1024, 1024)), '2a': (30, 'sample_4s_720p_0000.mp4', (102, 720, 1280)),
    '2d': (16, 'sora_8s_480p_0000.mp4', (204, 480, 854)), '2e': (32, 'sora_8s_480p_0016.mp4', (204, 480, 854)),
    '2g': (24, 'drone_cliff_prompt_720p_2s_1_1_0000.mp4', (51, 960, 960)),
    '2h': (9, 'ref_L5C5_2s_360p_9_16_0000.mp4', (51, 360, 640))}

@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('mode', COUNTS)
def test_published_sizes(mode, tmp_path):
    "Each mode plans the clips of the original for Open-Sora 1.2, without its weights"
    plans = plan_human(human_run(parsed(['human', mode, '--preset', 'opensora-1.2', '--save-dir', str(tmp_path)])))
    jobs, cfg = [j for p in plans for j in p.jobs], plans[0].cfg
    assert (len(jobs), jobs[0].path.name, (cfg.num_frames, *cfg.image_size)) == COUNTS[mode]
    assert len({j.path for j in jobs}) == len(jobs)
    if mode == '2h': assert [p.shared_latents for p in plans] == [5, 10, 0]

def test_vbench_prompts_of_the_user(tmp_path):
    "Modes 4 and 5 read the original's files, name clips after prompts, five of each, by start and end"
    (tmp_path/'VBench').mkdir()
    (tmp_path/'VBench'/'all_dimension.txt').write_text('\n'.join(f'a boat, number {k}' for k in range(9)))
    words = ['human', '4', '--prompts', str(tmp_path), '--start', '3', '--end', '5', '--save-dir', str(tmp_path/'out')]
    [plan] = plan_human(human_run(parsed([*words, '--preset', 'opensora-1.2'])))
    assert [j.path.name for j in plan.jobs] == [f'a boat, number {k}-{i}.mp4' for k in (3, 4) for i in range(5)]
    assert (plan.jobs[0].path.parent.name, plan.cfg.num_frames, plan.cfg.image_size) == ('out_vbench', 51, (240, 426))

NAMED = 'a boat: dusk', "a dog's bone", 'what is it?' # names that other files would not get
@pytest.mark.parametrize('mode, weights', [('4', 'tiny'), ('-4', 'opensora-1.2'), ('5', 'tiny'), ('-5', 'tiny')])
def test_typed_modes_name_clips_as_the_evaluator_looks_for_them(mode, weights, tmp_path):
    "`osnb eval human 4`, `-5`: the prompt to the letter, also of small weights; a prompt listed twice is made once"
    (tmp_path/'VBench').mkdir()
    lines = '\n'.join((*NAMED, NAMED[0]))
    for name in ('all_dimension', 'all_i2v'): (tmp_path/'VBench'/f'{name}.txt').write_text(lines)
    words = ['human', mode, '--weights', weights, '--prompts', str(tmp_path), '--save-dir', str(tmp_path/'o')]
    [plan] = plan_human(human_run(parsed(which_eval(words))))
    assert [j.path.name for j in plan.jobs] == [f'{p}-{k}.mp4' for p in NAMED for k in range(5)]

def test_a_mode_that_is_none_gets_the_list_of_modes(capsys):
    from opensora_nb.app.cli import main
    with pytest.raises(SystemExit): main(['eval', 'human', '-9'])
    err = capsys.readouterr().err
    assert all(m in err.partition('invalid choice')[2] for m in ('2a', '2h', '4', '5', 'multiple'))

VOTER = """
import sys
from opensora_nb.metrics.preference import append_line
append_line(sys.argv[1], dict(models=['A', 'B'], stamp='x'))
for k in range(10**6):
    append_line(sys.argv[1], dict(rater='ada', name=f'clip{k}', left='A', right='B', choice='left', seconds=1.))
    print(k, flush=True)
"""

@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason="no kill -9 here")
def test_a_killed_vote_loses_nothing_that_was_confirmed(tmp_path):
    "kill -9 in the middle of voting: every vote that was confirmed can be read again"
    file = tmp_path/'votes.jsonl'
    p = subprocess.Popen([sys.executable, '-c', VOTER, str(file)], stdout=subprocess.PIPE, text=True)
    for _ in range(40): p.stdout.readline()
    os.kill(p.pid, signal.SIGKILL)
    said = [int(line) for line in p.stdout.read().split()]
    p.wait()
    last = max([39, *said])
    votes = read_votes(file)[1]
    assert [v.name for v in votes[:last + 1]] == [f'clip{k}' for k in range(last + 1)]

@pytest.mark.slow
def test_two_processes_share_a_mode(tmp_path):
    "Each clip is made once, by one of two processes, and the second run makes nothing"
    words = ['eval', 'human', '2a', '--num-sampling-steps', '1', '--save-dir', str(tmp_path), '--processes', '2']
    for made in (10, 0):
        done = subprocess.run([sys.executable, '-m', 'opensora_nb', *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert sum(int(line.split()[0]) for line in done.stdout.splitlines() if 'clips made' in line) == made
    assert sorted(p.name for p in tmp_path.glob('*.mp4')) == [f'sample_own_{k:04}.mp4' for k in range(10)]
