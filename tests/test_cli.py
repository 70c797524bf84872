"The command as a user types it, in this process or in one of its own, and the README's snippets."
import contextlib, csv, io, json, os, re, subprocess, sys, time
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
OSNB = 'import sys; from opensora_nb.app.cli import main; sys.exit(main())'

def osnb(*args, cwd):
    "In this process, which has imported torch long ago"
    from opensora_nb.app.cli import main
    out, err, before = io.StringIO(), io.StringIO(), os.getcwd()
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = main(list(map(str, args)))
    except SystemExit as end: code = end.code or 0
    finally: os.chdir(before)
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())

def own_process(*args, cwd, timeout=300):
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS=os.environ.get('OMP_NUM_THREADS', '2'))
    return subprocess.run([sys.executable, '-c', OSNB, *args], cwd=cwd, env=env, capture_output=True, text=True,
                          timeout=timeout)

def test_sample_writes_numbered_clips_and_repeats_itself(tmp_path):
    (tmp_path/'prompts.txt').write_text('a red circle moves left\n\na blue star moves up\n', encoding='utf-8')
    args = ('sample', '--prompt-path', 'prompts.txt', '--num-sampling-steps', '4', '--seed', '7')
    for d, run in dict(one=osnb, two=own_process).items():
        out = run(*args, '--save-dir', d, cwd=tmp_path)
        assert out.returncode == 0, out.stderr
        assert sorted(p.name for p in (tmp_path/d).iterdir()) == ['jobs.jsonl', 'sample_0000.mp4', 'sample_0002.mp4']
    for n in ('sample_0000.mp4', 'sample_0002.mp4'):
        assert (tmp_path/'one'/n).read_bytes() == (tmp_path/'two'/n).read_bytes()
    from opensora_nb.data.video_io import probe
    info = probe(tmp_path/'one'/'sample_0000.mp4')
    assert (info.num_frames, info.height, info.width) == (17, 64, 64)

RED = ('--prompt', 'a red circle')

@pytest.mark.parametrize('args,said', [
    (['sample'],                                       'give a prompt'),
    (['sample', '--prompt', ' '],                      'prompt is empty'),
    (['sample', *RED, '--weights', 'tyni'],            "weights 'tyni'"),
    (['sample', *RED, '--num-frames', '0'],            "'0' is not a length; use a number of frames from 1 on"),
    (['sample', *RED, '--image-size', '60', '64'],     'height 60 is not a multiple of 8; try 56 or 64'),
    (['sample', *RED, '--num-sampling-steps', '0'],    'num_sampling_steps is 0; use 1 to 1000 steps'),
    (['sample', *RED, '--device', 'gpu'],              "unknown device 'gpu'"),
    (['sample', '--prompt-path', 'none.txt'],          "prompt file 'none.txt' does not exist"),
    (['sample', '--prompt-path', 'empty.txt'],         'holds no prompt'),
    (['train', 'shape_t2v'],                           'unknown recipe'),
    (['train', 'shapes_t2v', 'stepz=3'],               "did you mean 'steps'"),
    (['train', 'shapes_t2v', 'model.hidden_size=190'], 'not divisible'),
    (['train', 'shapes_t2v', 'vae_weights=nowhere'],   "weights 'nowhere'"),
    (['train', 'shapes_t2v', 'data.path=none.csv'],    'there is no table'),
    (['train', 'shapes_t2v', 'data.path=empty.csv'],   'is empty'),
    (['train', 'shapes_t2v', 'data.path=bad.csv'],     'no column text'),
    (['train', 'shapes_t2v', 'data.path=corrupt.csv'], 'broken.mp4'),
    (['data', 'plan', 'none.csv'],                     'no table or folder none.csv'),
    (['data', 'plan', 'empty.csv'],                    'empty.csv is empty; its first line must name the columns'),
    (['data', 'plan', 'bad.csv', '--buckets', 'v13'],  "unknown buckets 'v13'"),
    (['data', 'plan', 'bad.csv', '--world', '0'],      '--world is 0'),
    (['demo', '--weights', 'nowhere'],                 "weights 'nowhere'"),
    (['demo', '--port', '99999'],                      'ports go from 1 to 65535'),
    (['eval', 'nowhere'],                              "weights 'nowhere'"),
    (['eval', '--num', '0'],                           '--num must be at least 1'),
    (['sample', '--prompt', 'a{"reference_path": "none.png", "mask_strategy": "0"}'],
     'no such file: none.png; the path of a reference counts from the working folder'),
    (['data', 'plan', 'none.csv'],                     'folder none.csv; give a .csv file with the column path'),
    (['sample', 'runs/mine', *RED],                    'weights of your own after --weights'),
    (['train', 'shapes_t2v', 'vae_weights=runs/none'], 'no weights at runs/none: there is no such file'),
    (['doctor', 'runs/none'],                          'no weights at runs/none: there is no such file'),
], ids=lambda a: ' '.join(a) if isinstance(a, list) else '')
def test_mistakes_are_one_clear_sentence(tmp_path, args, said):
    (tmp_path/'empty.txt').write_text('\n')
    (tmp_path/'empty.csv').write_text('')
    (tmp_path/'bad.csv').write_text('path,caption\na.mp4,x\n')
    (tmp_path/'corrupt.csv').write_text('path,text\nbroken.mp4,a red circle\n')
    (tmp_path/'broken.mp4').write_bytes(b'not a video')
    out = osnb(*args, cwd=tmp_path)
    assert out.returncode == 1 and said in out.stderr and 'Traceback' not in out.stderr, out.stderr[-1500:]

def test_data_plan_counts_and_says_why_nothing_fits(tmp_path):
    rows = ''.join(f'a{i}.mp4,x,60,480,854\n' for i in range(9)) + 'b.mp4,x,nan,480,854\n'
    (tmp_path/'t.csv').write_text('path,text,num_frames,height,width\n' + rows)
    (tmp_path/'b.json').write_text('{"240p": {"51": [1.0, 4]}}')
    out = osnb('data', 'plan', 't.csv', '--buckets', 'b.json', '--world', '2', cwd=tmp_path)
    assert out.returncode == 0
    assert '| 240p | 51 | 1 | 9 | 4 | 2 | 1 |' in out.stdout
    assert 'left out b.mp4' in out.stderr
    assert '9 of 10 files used' in out.stderr
    assert '9 of 9 clips are kept; 1 step an epoch on 2 processes' in out.stdout
    out = osnb('data', 'plan', 't.csv', cwd=tmp_path)
    assert out.returncode == 1
    assert 'no step in an epoch of 9 clips' in out.stderr
    assert 'make batches smaller' in out.stderr

def test_unknown_words_are_named(tmp_path):
    out = osnb('sample', '--prompt', 'a red zebra moves left', '--num-sampling-steps', '2', cwd=tmp_path)
    assert out.returncode == 0 and 'zebra' in out.stderr

@pytest.mark.parametrize('prompt,said', [
    ('a red blue circle moves left',                          "two values of colour, 'blue' and 'red'"),
    ('a red circle spins',                                    'a spinning circle looks like one that stays still'),
    ('a red star moves down above a blue star that moves up', 'no room'),
    ('a red circle hits a blue square',                       'level physics'),
    ('hello',                                                 "'hello'"),
])
def test_a_prompt_that_cannot_work_gets_a_warning(tmp_path, prompt, said):
    out = osnb('sample', '--prompt', prompt, '--num-sampling-steps', '1', cwd=tmp_path)
    assert out.returncode == 0
    assert 'osnb: warning: ' in out.stderr
    assert said in out.stderr
    assert 'site-packages' not in out.stderr

def test_help_is_quick(tmp_path):
    "In seconds of the processor, so a busy machine counts less"
    times = []
    for _ in range(2):
        start = os.times()
        out = own_process('--help', cwd=tmp_path)
        end = os.times()
        times.append(end.children_user + end.children_system - start.children_user - start.children_system)
    assert out.returncode == 0 and 'sample' in out.stdout and min(times) < 1, times

def test_a_reader_that_stops_is_no_error(tmp_path):
    child = subprocess.Popen([sys.executable, '-c', OSNB, 'train'], cwd=tmp_path, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    child.stdout.close()
    assert (child.wait(timeout=60), child.stderr.read()) == (141, '')

def test_train_on_my_own_clips_and_sample_them(tmp_path):
    "A CSV of two clips, continued from the embedded weights, with a word they do not know"
    from opensora_nb.toy.world import Scene, render
    from opensora_nb.data.video_io import write_video
    for n, c in enumerate(('red', 'blue')):
        write_video(tmp_path/f'{n}.mp4', render(Scene('circle', c, 'moves left')), 8)
    (tmp_path/'my.csv').write_text('path,text\n0.mp4,a crimson circle moves left\n1.mp4,a blue circle moves left\n')
    out = osnb('train', 'shapes_t2v', 'data.path=my.csv', 'init=tiny', 'name=mine', 'steps=3', 'batch_size=2',
               'preview_every=0', cwd=tmp_path)
    assert out.returncode == 0 and '1 new words' in out.stdout + out.stderr, out.stderr[-1500:]
    out = osnb('sample', '--weights', 'runs/mine', '--prompt', 'a crimson circle moves left', '--num-sampling-steps',
               '2', '--format', 'gif', cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert (tmp_path/'samples'/'sample_0000.gif').stat().st_size > 0
    assert 'vocabulary' not in out.stderr, out.stderr

def test_readme_python_runs(tmp_path):
    snippets = re.findall(r'```python\n(.*?)```', (ROOT/'README.md').read_text(), re.S)
    assert snippets
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    code = '\n'.join(snippets)
    out = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert (tmp_path/'samples'/'circle.gif').exists()

def test_readme_links_and_commands_exist():
    text = (ROOT/'README.md').read_text()
    for link in re.findall(r'\]\((?!http)([^)#]+)\)', text):
        assert (ROOT/link).exists(), f"README links to {link}, which is not there"

def test_wheel_works_outside_the_checkout(tmp_path):
    "Build the wheel, unpack it elsewhere, make an mp4 from there"
    pip_wheel = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation']
    subprocess.run([*pip_wheel, '-w', str(tmp_path), str(ROOT)], check=True, capture_output=True)
    import zipfile
    wheel = next(tmp_path.glob('*.whl'))
    zipfile.ZipFile(wheel).extractall(tmp_path/'site')
    env = dict(os.environ, PYTHONPATH=str(tmp_path/'site'))
    code = f"import opensora_nb; assert 'site' in opensora_nb.__file__; {OSNB}"
    out = subprocess.run(
        [sys.executable, '-c', code, 'sample', '--prompt', 'a red circle moves left', '--num-sampling-steps', '2'],
        cwd=tmp_path, env=env, capture_output=True, text=True)
    assert out.returncode == 0 and (tmp_path/'samples'/'sample_0000.mp4').exists(), out.stderr

def test_levels_are_those_of_the_toy_world():
    from opensora_nb.app.data_cli import TOY_LEVELS
    from opensora_nb.toy.levels import WORLDS
    assert TOY_LEVELS == WORLDS

def test_a_photo_becomes_the_first_frame(tmp_path):
    from opensora_nb.toy.world import Scene, render
    from opensora_nb.data.video_io import read_frames, write_image
    from opensora_nb.metrics.recon import psnr
    photo = render(Scene('star', 'blue', 'moves up'))[0]
    write_image(tmp_path/'photo.png', photo)
    line = 'a blue star moves up{"reference_path": "photo.png", "mask_strategy": "0"}'
    out = osnb('sample', '--prompt', line, '--format', 'gif', '--num-sampling-steps', '8', cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    first = read_frames(tmp_path/'samples'/'sample_0000.gif')[0]
    assert psnr(first, photo) > 25 and psnr(first, photo[::-1]) < 20

def test_rounds_skip_and_change(tmp_path):
    from opensora_nb.data.video_io import probe
    args = ('sample', '--prompt', '|0|a red circle moves left|1|a red circle moves up', '--loop', '2',
            '--condition-frame-length', '2', '--num-sampling-steps', '2', '--save-fps', '4')
    out = osnb(*args, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    path = tmp_path/'samples'/'sample_0000.mp4'
    info = probe(path)
    assert (info.num_frames, info.fps) == (29, 4)
    stamp = path.stat().st_mtime_ns
    again = osnb(*args, cwd=tmp_path)
    assert '1 there already' in again.stdout and path.stat().st_mtime_ns == stamp
    other = osnb(*args, '--seed', '1', cwd=tmp_path)
    assert 'the first free name is sample_0001.mp4' in other.stdout and path.stat().st_mtime_ns == stamp
    other = osnb(*args, '--seed', '1', '--overwrite', cwd=tmp_path)
    assert 'written over' in other.stdout and path.stat().st_mtime_ns != stamp

def test_ctrl_c_keeps_finished_rounds(tmp_path):
    import signal, time
    words = ('sample', '--prompt', 'a red circle moves left', '--loop', '200', '--num-sampling-steps', '4')
    # a background job ignores Ctrl-C, and so would its children
    def hears_ctrl_c(): signal.signal(signal.SIGINT, signal.SIG_DFL)
    run = subprocess.Popen([sys.executable, '-c', OSNB, *words], cwd=tmp_path, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, preexec_fn=hears_ctrl_c)
    seen, start = b'', time.time()
    def two_rounds_are_done(): return any(8 < int(n) < 700 for n in re.findall(rb'(\d+)/800', seen))
    while time.time() - start < 100 and not two_rounds_are_done(): seen += run.stderr.read1(200)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130, err[-800:]
    assert sorted(p.name for p in (tmp_path/'samples').iterdir()) == ['jobs.jsonl', 'sample_0000_part.mp4']

def test_plan_makes_nothing(tmp_path):
    out = osnb('sample', 'opensora-1.2', '--prompt', 'a calm sea', '--num-frames', '2s', '--resolution', '144p',
               '--plan', cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    for said in ('51 frames, 144x256', 'a calm sea aesthetic score: 6.5.', 'one step'):
        assert said in out.stdout, out.stdout
    assert not (tmp_path/'samples').exists()

@pytest.mark.parametrize('args,said', [
    (['opensora-1.2', '--weights', 'tiny'],                    'transformer of opensora-1.2 is --ckpt-path'),
    (['--reference-path', 'gone.png', '--mask-strategy', '0'], 'gone.png'),
    (['--reference-path', 'https://example.org/a.png', '--mask-strategy', '0'], 'only files on this disk'),
    (['--loop', '2', '--num-frames', '1'],                     'has one latent frame'),
    (['--aes', '11'],                                          'aes'),
    (['--flow', 'nan'],                                        'flow'),
    (['--vae-tile', '60'],                                     'not a multiple of 8'),
    (['--resolution', '145p'],                                 "'145p'"),
    (['--llm-refine', 'maybe'],                                'neither yes nor no'),
])
def test_bad_conditions_are_one_sentence(tmp_path, args, said):
    out = osnb('sample', *args, '--prompt', 'a red circle moves left', cwd=tmp_path)
    assert out.returncode in (1, 2) and said in out.stderr and 'Traceback' not in out.stderr, out.stderr

def test_llm_refine_asks_only_when_told(tmp_path, monkeypatch, capsys):
    from opensora_nb.app.cli import main
    from opensora_nb.endpoint import practice_server
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('OPENAI_API_KEY', 'key-of-a-test')
    with practice_server('a blue star moves up') as server:
        monkeypatch.setenv('OPENAI_BASE_URL', server.url)
        assert main(['sample', '--prompt', 'etwas Rotes', '--plan']) == 0
        assert not server.requests
        assert 'etwas Rotes' in capsys.readouterr().out
        film = ['--prompt', '|0|etwas Rotes|1|noch etwas', '--loop', '2']
        assert main(['sample', *film, '--llm-refine', 'True', '--plan']) == 0
        assert '|0|a blue star moves up|1|a blue star moves up' in capsys.readouterr().out and len(server.requests) == 2
        # no prompt: one is invented
        assert main(['sample', '--llm-refine', 'True', '--plan', '--end-index', '2']) == 0
        assert capsys.readouterr().out.count('a blue star moves up') == 2
    monkeypatch.delenv('OPENAI_API_KEY')
    monkeypatch.delenv('OPENAI_BASE_URL')
    assert main(['sample', '--prompt', 'a red circle moves left', '--llm-refine', 'True', '--plan']) == 0
    said = capsys.readouterr()
    assert 'a red circle moves left' in said.out and 'OPENAI_API_KEY' in said.err
    assert main(['sample', '--llm-refine', 'True', '--plan']) == 1 and 'is empty' in capsys.readouterr().err

def torchrun(folder, *args, script=None, processes=2):
    (folder/'osnb.py').write_text(script or 'import sys\nfrom opensora_nb.app.cli import main\nsys.exit(main())\n')
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes)]
    command = [*launcher, 'osnb.py', *args]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)

COUNTS = '''import os, sys
from opensora_nb.app.cli import main
from opensora_nb.parallel.comm import Ledger
with Ledger() as ledger: code = main()
said = f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} sent {ledger.by()}\\n"
os.write(2, said.encode()) # in one piece, so that two cannot mix
sys.exit(code)
'''

def test_two_processes_make_the_clip_of_one(tmp_path):
    "Two rounds, so that the second begins with frames that both decoded; 64x80 pixels are 20 tokens a frame"
    from opensora_nb.data.video_io import read_frames
    args = ('sample', '--prompt', '|0|a red circle moves left|1|a red circle moves up', '--loop', '2', '--num-frames',
            '34', '--image-size', '64', '80', '--num-sampling-steps', '3', '--format', 'png', '--share', 'tokens')
    one = osnb(*args, '--save-dir', 'one', cwd=tmp_path)
    assert one.returncode == 0 and 'processes' not in one.stdout, one.stderr
    two = torchrun(tmp_path, *args, '--save-dir', 'two', script=COUNTS)
    assert two.returncode == 0, two.stderr
    # they really share
    for rank in (0, 1):
        assert re.search(rf"rank {rank} of 2 sent .*'all to all'.*'gather'.*'frames'", two.stderr), two.stderr
    # one of them speaks
    assert two.stdout.count('on 2 processes') == 1 and two.stdout.count('two/sample_0000.png (') == 1
    assert sorted(p.name for p in (tmp_path/'two').iterdir()) == ['jobs.jsonl', 'sample_0000.png']
    assert len((tmp_path/'two'/'jobs.jsonl').read_text().splitlines()) == 1
    a, b = (read_frames(tmp_path/d/'sample_0000.png').astype(int) for d in ('one', 'two'))
    assert a.shape == b.shape and len(a) > 34 and abs(a - b).max() <= 1
    again = torchrun(tmp_path, *args, '--save-dir', 'two')
    assert again.returncode == 0 and '1 there already' in again.stdout

def test_the_command_starts_its_own_processes(tmp_path):
    out = own_process('torchrun', '--nproc_per_node', '2', 'scripts/inference.py', '--num-frames', '1',
                      '--prompt', 'a red circle moves left', '--num-sampling-steps', '2', cwd=tmp_path)
    assert out.returncode == 0 and 'on 2 processes' in out.stdout, out.stderr
    assert (tmp_path/'samples'/'sample_0000.png').exists()
    out = osnb('sample', '--num-processes', '0', '--prompt', 'a red circle', cwd=tmp_path)
    assert out.returncode == 1 and 'must be at least 1, not 0' in out.stderr
    out = own_process('sample', '--num-processes', '2', '--prompt', ' ', cwd=tmp_path)
    assert out.returncode == 1 and out.stderr.count('prompt is empty') == 1, out.stderr

DIES = '''import os, sys
from opensora_nb.models.stdit3 import STDiT3Block
from opensora_nb.app.cli import main
if os.environ['RANK'] == '1': STDiT3Block.forward = lambda *_: {0}
sys.exit(main())
'''
@pytest.mark.parametrize('how,said', [
    ("(_ for _ in ()).throw(ValueError('out of paper'))", 'osnb: error: rank 1: out of paper'),
    ('os._exit(7)',                                       'exitcode  : 7'),
])
def test_a_process_that_dies_takes_the_others_along_and_speaks_first(tmp_path, how, said):
    start = time.time()
    out = torchrun(tmp_path, 'sample', '--prompt', 'a red circle moves left', '--num-sampling-steps', '2',
                   script=DIES.format(how))
    assert out.returncode != 0 and said in out.stderr and 'lost the others' not in out.stderr, out.stderr
    assert time.time() - start < 60
    assert not list((tmp_path/'samples').glob('*.mp4'))

def test_eval_goes_through_sizes_and_keeps_each(tmp_path):
    size = ['--num', '2', '--num-sampling-steps', '2', '--output', 's.json']
    def read(): return json.loads((tmp_path/'s.json').read_text())['sizes']
    out = osnb('eval', 'tiny', '--following', '--ceiling', '--sizes', '1x64x64, 9x48x80', *size, cwd=tmp_path)
    assert out.returncode == 0, out.stderr[-1500:]
    got = read()
    assert list(got) == ['1x64x64', '9x48x80'] and all(set(v) == {'following', 'ceiling'} for v in got.values())
    # a picture is asked for no motion
    assert 'motion' in got['9x48x80']['ceiling']
    assert not {'motion', 'speed'} & {*got['1x64x64']['ceiling'], *got['1x64x64']['following']}
    # said before anything is sampled
    wrong = {'9x48x80,9x50x80': 'height 50 is not a multiple of 8', '9x48': 'write FRAMESxHEIGHTxWIDTH'}
    for sizes, said in wrong.items():
        out = osnb('eval', 'tiny', '--sizes', sizes, *size, cwd=tmp_path)
        assert out.returncode == 1 and said in out.stderr and read() == got

WITHOUT_TORCH = '''import sys
from opensora_nb.app.cli import main
try: main(sys.argv[1:])
except SystemExit: pass
print('torch' in sys.modules)'''

@pytest.mark.parametrize('line, said', [
    ('sample', 'give a prompt'), ('sample --prompt a --weights tyni', "weights 'tyni'"),
    ('sample --prompt a --image-size 60 64', 'height 60 is not a multiple of 8'),
    ('sample --prompt a --num-frames many', "'many' is not a length"),
    ('sample --prompt a --cfg-scale nan', 'from 0 (no prompt)'), ('sample --prompt a --loop 0', '--loop is 0'),
    ('sample --help', '--negative-prompt'), ('train --help', '--num-processes'),
    ('eval --help', '--following'), ('data plan --help', '--buckets'),
    ('train', 'The text-to-video model of the embedded weights'), ('--version', 'osnb ')])
def test_help_and_what_was_mistyped_need_no_torch(tmp_path, line, said):
    "torch alone takes seconds, so what can be answered without it, is"
    out = subprocess.run([sys.executable, '-c', WITHOUT_TORCH, *line.split()], cwd=tmp_path,
                         env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True, text=True)
    assert said in out.stdout + out.stderr and out.stdout.endswith('False\n'), out.stderr

def test_the_package_runs_as_the_command(tmp_path):
    out = subprocess.run([sys.executable, '-m', 'opensora_nb', '--version'], cwd=tmp_path,
                         env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True, text=True)
    assert out.returncode == 0 and out.stdout.startswith('osnb '), out.stderr

def test_every_default_of_sample_is_that_of_a_field():
    from opensora_nb.app.options import SampleOptions, parse_options
    assert parse_options([]) == SampleOptions()

@pytest.mark.parametrize('words,chinese', [([], {False}), (['--languages', 'zh'], {True}),
                                           (['--languages', 'en,zh'], {True, False})], ids=str)
def test_captions_of_toy_clips_are_english_unless_asked(tmp_path, words, chinese):
    from opensora_nb.app.cli import main
    assert main(['data', 'shapes', str(tmp_path), '--num', '6', *words]) == 0
    rows = csv.DictReader((tmp_path/'metadata.csv').read_text(encoding='utf-8').splitlines())
    assert {not row['text'].isascii() for row in rows} == chinese
    again = (tmp_path/'CARD.md').read_text(encoding='utf-8').split('`')[-2]
    assert ('Chinese' in (tmp_path/'CARD.md').read_text(encoding='utf-8')) == (True in chinese)
    from opensora_nb.data.shapes import write_dataset
    written = (tmp_path/'metadata.csv').read_bytes()
    assert eval(again, dict(write_dataset=write_dataset, folder=tmp_path/'again')).read_bytes() == written

def test_a_language_without_captions_is_refused(tmp_path, capsys):
    from opensora_nb.app.cli import main
    assert main(['data', 'shapes', str(tmp_path/'toys'), '--languages', 'en,de']) == 1
    assert "captions in 'de' are not written here; languages are en, zh" in capsys.readouterr().err

def test_the_committed_clips_are_those_that_the_card_names():
    from opensora_nb.core import rng_for
    from opensora_nb.toy.world import ToyClips, caption
    table = (ROOT/'datasets'/'shapes'/'metadata.csv').read_text(encoding='utf-8')
    texts = [row['text'] for row in csv.DictReader(table.splitlines())]
    clips = ToyClips(len(texts))
    assert texts == [caption(clips.scene(i), rng_for(0, i, 1)) for i in range(len(texts))]
    assert "(64, 64), 8, ('en', 'zh'))`" in (ROOT/'datasets'/'shapes'/'CARD.md').read_text()

def test_settings_may_stand_behind_options(capsys):
    "`osnb train RECIPE --quick steps=3`, as one types it"
    from opensora_nb.app.cli import main
    assert main(['train', 'shapes_t2v', 'seed=5', '--quick', 'steps=3', '--show', 'out=there']) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown['seed'], shown['steps'], shown['out'], shown['name']) == (5, 3, 'there', 'shapes_t2v_quick')
    for wrong in (['train', 'shapes_t2v', '--quick', 'steps'], ['train', 'shapes_t2v', '--quik=1'],
                  ['doctor', 'tiny', 'steps=3']):
        with pytest.raises(SystemExit): main(wrong)
        assert f'unrecognized arguments: {wrong[-1]}' in capsys.readouterr().err

@pytest.mark.parametrize('words,said', [
    ('sample --prompt x --num_frames 17 --steps 5', '(did you mean --num-frames or --num-sampling-steps?); see osnb'),
    ('sample --size 64', '(did you mean --image-size or --batch-size?); see osnb sample --help'),
    ('sample --format avi', "(choose from 'mp4', 'webm', 'gif', 'png'); see osnb sample --help"),
    ('data plan --bukets x', '(did you mean --buckets?); see osnb data --help'),
    ('train shapes_t2v --quik', '(did you mean --quick?); see osnb train --help'),
    ('doctor tiny --zzz', 'unrecognized arguments: --zzz; see osnb doctor --help'),
])
def test_a_misspelt_option_gets_one_line_with_its_neighbours(words, said, capsys):
    from opensora_nb.app.cli import main
    with pytest.raises(SystemExit) as end: main(words.split())
    err = capsys.readouterr().err
    assert end.value.code == 2 and said in err and err.count('\n') == 1, err

def test_a_second_run_says_where_the_clip_is(tmp_path, capsys):
    from opensora_nb.app.cli import main
    words = ['sample', '--prompt', 'a red circle and '*20, '--num-frames', '1', '--num-sampling-steps', '1']
    words += ['--save-dir', str(tmp_path)]
    assert main(words) == 0
    made = capsys.readouterr().out.splitlines()
    assert made[0].endswith(' tiny') and max(map(len, made)) < 120 + len(str(tmp_path)) + 60, made
    assert main(words) == 0
    assert f"{tmp_path/'sample_0000.png'} (there already; another --seed makes another)" in capsys.readouterr().out

def test_options_of_data_may_stand_before_the_word(tmp_path, capsys):
    "As they could when `data` had one list of options"
    from opensora_nb.app.cli import main
    assert main(['data', '--num', '1', 'shapes', str(tmp_path/'toys')]) == 0
    assert main(['data', 'probe', str(tmp_path/'toys'/'clips'/'00000.mp4')]) == 0
    assert 'num_frames=17' in capsys.readouterr().out
