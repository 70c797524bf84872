"The command as a user types it, in a process of its own, and the README's snippets."
import json, os, re, subprocess, sys, time
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent

def osnb(*args, cwd, timeout=300):
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS=os.environ.get('OMP_NUM_THREADS', '2'))
    return subprocess.run([sys.executable, '-c', 'import sys; from opensora_nb.app.cli import main; sys.exit(main())', *args],
                          cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)

def test_sample_writes_numbered_clips_and_repeats_itself(tmp_path):
    (tmp_path/'prompts.txt').write_text('a red circle moves left\n\na blue star moves up\n', encoding='utf-8')
    args = ('sample', '--prompt-path', 'prompts.txt', '--num-sampling-steps', '4', '--seed', '7')
    for d in ('one', 'two'):
        out = osnb(*args, '--save-dir', d, cwd=tmp_path); assert out.returncode == 0, out.stderr
        assert sorted(p.name for p in (tmp_path/d).iterdir()) == ['jobs.jsonl', 'sample_0000.mp4', 'sample_0002.mp4']
    for n in ('sample_0000.mp4', 'sample_0002.mp4'): assert (tmp_path/'one'/n).read_bytes() == (tmp_path/'two'/n).read_bytes()
    from opensora_nb.data.video_io import probe
    info = probe(tmp_path/'one'/'sample_0000.mp4'); assert (info.num_frames, info.height, info.width) == (17, 64, 64)

@pytest.mark.parametrize('args,said', [
    (['sample'], 'give a prompt'), (['sample', '--prompt', ' '], 'prompt is empty'),
    (['sample', '--prompt', 'a red circle', '--weights', 'tyni'], "weights 'tyni'"),
    (['sample', '--prompt', 'a red circle', '--num-frames', '0'], "'0' is not a length; use a number of frames from 1 on"),
    (['sample', '--prompt', 'a red circle', '--image-size', '60', '64'], 'height 60 is not a multiple of 8; try 56 or 64'),
    (['sample', '--prompt', 'a red circle', '--num-sampling-steps', '0'], 'at least 1 step, not 0'),
    (['sample', '--prompt', 'a red circle', '--device', 'gpu'], "unknown device 'gpu'"),
    (['sample', '--prompt-path', 'none.txt'], "prompt file 'none.txt' does not exist"),
    (['sample', '--prompt-path', 'empty.txt'], 'holds no prompt'),
    (['train', 'shape_t2v'], 'unknown recipe'), (['train', 'shapes_t2v', 'stepz=3'], "did you mean 'steps'"),
    (['train', 'shapes_t2v', 'model.hidden_size=190'], 'not divisible'),
    (['train', 'shapes_t2v', 'vae_weights=nowhere'], "weights 'nowhere'"),
    (['train', 'shapes_t2v', 'data.path=none.csv'], 'there is no table'), (['train', 'shapes_t2v', 'data.path=empty.csv'], 'is empty'),
    (['train', 'shapes_t2v', 'data.path=bad.csv'], 'no column text'), (['train', 'shapes_t2v', 'data.path=corrupt.csv'], 'broken.mp4'),
    (['demo', '--weights', 'nowhere'], "weights 'nowhere'"), (['demo', '--port', '99999'], 'ports go from 1 to 65535'), (['eval', 'nowhere'], "weights 'nowhere'"), (['eval', '--num', '0'], '--num must be at least 1')], ids=lambda a: ' '.join(a) if isinstance(a, list) else '')
def test_mistakes_are_one_clear_sentence(tmp_path, args, said):
    (tmp_path/'empty.txt').write_text('\n'); (tmp_path/'empty.csv').write_text(''); (tmp_path/'bad.csv').write_text('path,caption\na.mp4,x\n')
    (tmp_path/'corrupt.csv').write_text('path,text\nbroken.mp4,a red circle\n'); (tmp_path/'broken.mp4').write_bytes(b'not a video')
    out = osnb(*args, cwd=tmp_path)
    assert out.returncode == 1 and said in out.stderr and 'Traceback' not in out.stderr, out.stderr[-1500:]

def test_unknown_words_are_named(tmp_path):
    out = osnb('sample', '--prompt', 'a red zebra moves left', '--num-sampling-steps', '2', cwd=tmp_path)
    assert out.returncode == 0 and 'zebra' in out.stderr

@pytest.mark.parametrize('prompt,said', [('a red blue circle moves left', "two values of colour, 'blue' and 'red'"), ('a red circle spins', 'a spinning circle looks like one that stays still'),
    ('a red star moves down above a blue star that moves up', 'no room'), ('a red circle hits a blue square', 'level physics'), ('hello', "'hello'")])
def test_a_prompt_that_cannot_work_gets_a_warning(tmp_path, prompt, said):
    out = osnb('sample', '--prompt', prompt, '--num-sampling-steps', '1', cwd=tmp_path)
    assert out.returncode == 0 and 'osnb: warning: ' in out.stderr and said in out.stderr and 'site-packages' not in out.stderr

def test_help_is_quick(tmp_path):
    times = []
    for _ in range(2):
        t = time.time(); out = osnb('--help', cwd=tmp_path); times.append(time.time()-t)
    assert out.returncode == 0 and 'sample' in out.stdout and min(times) < 1, times

def test_train_on_my_own_clips_and_sample_them(tmp_path):
    "A CSV of two clips, continued from the embedded weights, with a word they do not know"
    from opensora_nb.data.toy import Scene, render
    from opensora_nb.data.video_io import write_video
    for n, c in enumerate(('red', 'blue')): write_video(tmp_path/f'{n}.mp4', render(Scene('circle', c, 'moves left')), 8)
    (tmp_path/'my.csv').write_text('path,text\n0.mp4,a crimson circle moves left\n1.mp4,a blue circle moves left\n')
    out = osnb('train', 'shapes_t2v', 'data.path=my.csv', 'init=tiny', 'name=mine', 'steps=3', 'batch_size=2', 'preview_every=0', cwd=tmp_path)
    assert out.returncode == 0 and '1 new words' in out.stdout + out.stderr, out.stderr[-1500:]
    out = osnb('sample', '--weights', 'runs/mine', '--prompt', 'a crimson circle moves left', '--num-sampling-steps', '2', '--format', 'gif', cwd=tmp_path)
    assert out.returncode == 0 and (tmp_path/'samples'/'sample_0000.gif').stat().st_size > 0 and 'vocabulary' not in out.stderr, out.stderr

def test_readme_python_runs(tmp_path):
    snippets = re.findall(r'```python\n(.*?)```', (ROOT/'README.md').read_text(), re.S); assert snippets
    out = subprocess.run([sys.executable, '-c', '\n'.join(snippets)], cwd=tmp_path, env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert (tmp_path/'samples'/'circle.gif').exists()

def test_readme_links_and_commands_exist():
    text = (ROOT/'README.md').read_text()
    for link in re.findall(r'\]\((?!http)([^)#]+)\)', text): assert (ROOT/link).exists(), f"README links to {link}, which is not there"

def test_wheel_works_outside_the_checkout(tmp_path):
    "Build the wheel, unpack it elsewhere, make an mp4 from there"
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', str(tmp_path), str(ROOT)], check=True, capture_output=True)
    import zipfile; wheel = next(tmp_path.glob('*.whl')); zipfile.ZipFile(wheel).extractall(tmp_path/'site')
    env = dict(os.environ, PYTHONPATH=str(tmp_path/'site'))
    code = "import sys, opensora_nb; assert 'site' in opensora_nb.__file__; from opensora_nb.app.cli import main; sys.exit(main())"
    out = subprocess.run([sys.executable, '-c', code, 'sample', '--prompt', 'a red circle moves left', '--num-sampling-steps', '2'], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert out.returncode == 0 and (tmp_path/'samples'/'sample_0000.mp4').exists(), out.stderr

def test_levels_are_those_of_the_toy_world():
    from opensora_nb.app.cli import LEVELS
    from opensora_nb.data.worlds import WORLDS
    assert LEVELS == WORLDS
