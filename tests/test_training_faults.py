"What goes wrong around a run: files in the way, odd settings and recipes, full disks, flipped bits, closed terminals."
import errno, json, os, random, signal, subprocess, sys, time, warnings
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch
from PIL import Image
from torch import nn
from opensora_nb.app.cli import main
from opensora_nb.config import opt, override
from opensora_nb.core import rng_for
from opensora_nb.data.bucket import Buckets
from opensora_nb.data.sampler import BucketSampler
from opensora_nb.sample.pipeline import SampleConfig
from opensora_nb.models.dit import dit_imagenet_256
from opensora_nb.text.labels import ClassLabels
from opensora_nb.train.diffusion import T2VTask, T2VTrain
from opensora_nb.train.launch import find_recipe, resolve
from opensora_nb.train.loop import Callback, Task, TrainConfig, train
from opensora_nb.train.optim import OptimConfig, lr_factor, make_optimiser
from opensora_nb.train.checkpoint import EMA, damage, latest, note
from opensora_nb.train.vae import VAETrain

ROOT = Path(__file__).resolve().parent.parent
OSNB = 'import sys; from opensora_nb.app.cli import main; sys.exit(main())'
PLANTED = ('accelerate', 'torch', 'json', 'numpy', 'dataclasses', 'tqdm', 'safetensors', 'av', 'defusedxml',
           'opensora_nb_recipes')

def osnb_script(folder):
    "The command as pip installs it: a script in a folder of programs"
    (folder/'bin').mkdir(exist_ok=True)
    (folder/'bin'/'osnb').write_text(OSNB)
    return [sys.executable, str(folder/'bin'/'osnb')]

def said_by(*words, cwd, **env):
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', ACCELERATE_USE_CPU='true', **env)
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=240, env=env)

# files in the working directory

@pytest.fixture
def planted(tmp_path):
    "A folder with files named like packages; each that runs leaves a mark"
    work = tmp_path/'work'
    work.mkdir()
    for name in PLANTED: (work/f'{name}.py').write_text(f"open({str(tmp_path/('ran_' + name))!r}, 'w').close()")
    (work/'mine.py').write_text("from opensora_nb.recipes.shapes_t2v import shapes_t2v as small\n")
    return tmp_path

def marks(folder): return sorted(p.name for p in folder.glob('ran_*'))

STARTS = {
    'osnb':                ('script', 'train'),
    'osnb, two processes': ('script', 'train', '--num-processes', '2'),
    'python -m':           (sys.executable, '-m', 'opensora_nb.train.launch'),
}

@pytest.mark.parametrize('start', STARTS)
def test_no_file_in_the_working_directory_takes_the_place_of_a_package(planted, start):
    "A user whose folder holds an accelerate.py, a torch.py or a json.py trains with the installed ones, by his recipe"
    words = STARTS[start]
    if words[0] == 'script': words = (*osnb_script(planted), *words[1:])
    out = said_by(*words, 'mine:small', 'device=nowhere', cwd=planted/'work')
    assert out.returncode == 1 and "unknown device 'nowhere'" in out.stderr, out.stderr
    assert 'Traceback' not in out.stderr.split('unknown device')[0], out.stderr
    assert marks(planted) == []

@pytest.mark.parametrize('module', ['opensora_nb', 'opensora_nb.app.cli'])
def test_the_command_as_a_module_does_not_run_them_either(planted, module):
    out = said_by(sys.executable, '-m', module, '--help', cwd=planted/'work')
    assert out.returncode == 0 and 'search-batch' in out.stdout and marks(planted) == []

def test_the_working_directory_is_searched_last_and_only_for_a_name_with_a_colon(planted, monkeypatch):
    "A recipe of the kit does not look there; one with a colon does, after the installed packages"
    monkeypatch.chdir(planted/'work')
    monkeypatch.setattr(sys, 'path', [p for p in sys.path if p])
    find_recipe('shapes_t2v')
    assert os.getcwd() not in sys.path
    find_recipe('mine:small')
    assert sys.path.index(os.getcwd()) == len(sys.path) - 1 and marks(planted) == []

# recipes that are none

ODD_RECIPES = {
    '..:x':                                'is not written as package.module:function',
    'os:getcwd':                           f"'os:getcwd' is no recipe: it returned {os.getcwd()!r:.60}",
    ':x':                                  'is not written as',
    'x:':                                  "unknown recipe 'x:'",
    '':                                    "unknown recipe ''",
    '.':                                   "unknown recipe '.'",
    '/tmp:x':                              'is not written as',
    'a b:c':                               'is not written as',
    'os.:x':                               'is not written as',
    'os:path':                             "is not a function but <module 'posixpath'",
    'a:b:c':                               'is not written as',
    'mine.py:small':                       'mine:small may be meant',
    'sys:exit':                            "'sys:exit' ended with SystemExit",
    'json:dumps':                          "'json:dumps' ended with TypeError",
    'os:nothing':                          "has no function 'nothing'",
    'nowhere_at_all:x':                    "cannot import 'nowhere_at_all'",
    'os.nowhere:x':                        "cannot import 'os.nowhere'",
    'builtins:list':                       "is no recipe: it returned []",
    'builtins:dict':                       'is no recipe: it returned {}',
    'opensora_nb.train.loop:TrainConfig ': 'is not written as',
    'opensora_nb.train.loop:Task':         "is no recipe: it returned <opensora_nb.train.loop.Task",
}

@pytest.mark.parametrize('name', ODD_RECIPES)
def test_a_name_that_is_no_recipe_gets_one_sentence(name):
    with pytest.raises(ValueError) as e: resolve(name)
    assert ODD_RECIPES[name] in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('text,said', [
    ('def f(:\n',                 'SyntaxError'),
    ('a = b\n',                   "NameError: name 'b' is not defined"),
    ('import sys; sys.exit(3)\n', 'SystemExit: 3'),
    ('1/0\n',                     'ZeroDivisionError'),
])
def test_a_recipe_file_that_does_not_run_says_where(tmp_path, monkeypatch, text, said):
    "The line in the user's own file, in place of a traceback"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    name = f'broken_{abs(hash(text))}'
    Path(f'{name}.py').write_text(text)
    with pytest.raises(ValueError, match=f'importing .* ended with {said}') as e: find_recipe(f'{name}:f')
    assert f'{name}.py, line 1' in str(e.value)

# overrides

PAIRS = [
    (T2VTrain(),                               'lora=4',                'init=tiny'),
    (VAETrain(),                               'stage=joint',           'init_2d=tiny'),
    (VAETrain(),                               'batch_size=9',          'frames_per_clip=3'),
    (VAETrain(),                               'crop=72',               'data.image_size=96,96'),
    (T2VTrain(optim=OptimConfig(name='muon')), 'shard=fsdp2',           'optim.name=adamw'),
    (T2VTrain(),                               'model.hidden_size=180', 'model.num_heads=9'),
    (T2VTrain(),                               'masks_of=17=v11',       'buckets=toy_mix'),
]

@pytest.mark.parametrize('cfg,one,other', PAIRS, ids=lambda x: x if isinstance(x, str) else '')
def test_overrides_may_come_in_any_order(cfg, one, other):
    "Two settings that need each other are checked when both are there; each alone is refused, or changes something"
    assert override(cfg, one, other) == override(cfg, other, one) != cfg
    with pytest.raises(ValueError): override(cfg, one)

def test_overrides_of_one_group_come_after_the_whole_group():
    "In Python, a group and a field of it"
    muon = dict(optim=OptimConfig(name='muon'))
    assert override(T2VTrain(), 'optim.lr=0.5', muon).optim == OptimConfig(name='muon', lr=0.5)
    assert override(T2VTrain(), 'steps=3', 'steps=4').steps == 4

# a small run, for what happens to it

class Small(Task):
    "Reverses vectors of four numbers; trouble may come in the fifth batch, the second validation or the preview"
    def __init__(self, cfg): self.cfg, self.module, self.validated = cfg, nn.Linear(4, 4), 0
    def __len__(self): return 32
    def batch(self, ids, epoch):
        if self.cfg.trouble == 'batch' and int(epoch[0]) > 0: raise OSError(5, 'the disk of the clips is gone')
        x = np.stack([rng_for(1, int(e), int(i)).standard_normal(4) for i, e in zip(ids, epoch)])
        return dict(x=torch.from_numpy(x).float())
    def loss(self, module, batch): return (module(batch['x']) - batch['x'].flip(1)).square().mean(), {}
    def validate(self):
        self.validated += 1
        if self.cfg.trouble == 'validate': raise ValueError('no clip to look at')
        return dict(bias=self.module.bias.abs().mean().item())
    def preview(self):
        if self.cfg.trouble == 'preview': raise RuntimeError('no colours left')
        return Image.new('RGB', (4, 4))
    def export(self, folder):
        folder.mkdir()
        (folder/'plain.bin').write_bytes(bytes(range(200)))

class Sized(Small):
    "The same with batches of two sizes"
    def __init__(self, cfg):
        super().__init__(cfg)
        buckets = Buckets({'64': {1: (1., 4), 34: (.5, 3)}})
        self.sampler = BucketSampler([(35, 96, 96), (1, 96, 96)]*12, buckets, seed=cfg.seed)
    def batch(self, ids, epoch, size): return super().batch(ids, epoch)

@dataclass(frozen=True)
class SmallRun(TrainConfig):
    trouble:str = opt('', "what happens")
    sized:bool = opt(False, "batches of two sizes")
    def make_task(self, device): return (Sized if self.sized else Small)(self)

@pytest.fixture
def small(tmp_path):
    return SmallRun(out=str(tmp_path), steps=12, batch_size=8, log_every=1, save_every=1000, preview_every=0,
                    device='cpu', precision='no', optim=OptimConfig(lr=.1, warmup=2))

def run(cfg, *callbacks): return train(cfg, progress=False, callbacks=callbacks)
def losses(r): return {row['step']: row['loss'] for row in r.log if 'loss' in row}
def weights(r): return [p.detach().clone() for p in r.model.parameters()] + list(r.ema.shadow.values())
def same(a, b): return len(a) == len(b) and all(map(torch.equal, a, b))
def saved(cfg): return sorted(int(p.name[5:]) for p in (cfg.folder/'checkpoints').iterdir())

@pytest.mark.parametrize('trouble,error', [('validate', ValueError), ('preview', RuntimeError)])
def test_the_last_step_is_saved_before_its_preview_and_validation(small, capsys, trouble, error):
    "A validation that fails after two hours costs nothing: the weights are there, and the same command only validates"
    small = replace(small, preview_every=5000)
    with pytest.raises(error): run(replace(small, trouble=trouble))
    assert saved(small) == [12] and 'step 12 is saved' in capsys.readouterr().err
    whole, again = run(replace(small, name='whole')), run(small)
    assert again.step == 12
    assert same(weights(again), weights(whole))
    assert losses(again) == losses(whole)
    assert again.task.validated == 1
    assert [r for r in again.log if 'val_bias' in r] == [r for r in whole.log if 'val_bias' in r] != []
    assert (small.folder/'previews'/'step_00000012.png').exists()
    assert 'unfinished' not in json.loads((latest(small.folder)/'state.json').read_text())
    assert run(small).task.validated == 0

def test_a_stop_between_validation_and_its_note_validates_once_more_and_logs_once(small):
    "kill -9 after the numbers were written and before the checkpoint says so"
    whole = run(small)
    note(small.folder, 12, whole.info | dict(unfinished=True))
    again = run(small)
    assert again.task.validated == 1
    assert [r for r in again.log if 'val_bias' in r] == [r for r in whole.log if 'val_bias' in r]
    longer = run(replace(small, steps=14))
    assert list(losses(longer)) == list(range(1, 15)) and 'unfinished' not in longer.info

@pytest.mark.parametrize('trouble,how,at', [
    ('batch',    {},                     4),
    ('batch',    dict(sized=True),       5),
    ('validate', dict(validate_every=5), 5),
    ('preview',  dict(preview_every=7),  7),
])
def test_an_error_on_the_way_saves_first_and_the_run_goes_on_to_the_same_weights(small, capsys, trouble, how, at):
    "Also the place in the data: the batch that could not be read is the next one"
    small = replace(small, **how)
    whole = run(replace(small, name='whole'))
    with pytest.raises(Exception): run(replace(small, trouble=trouble))
    assert saved(small) == [at] and f'step {at} was saved before the error' in capsys.readouterr().err
    again = run(small)
    assert same(weights(again), weights(whole)) and losses(again) == losses(whole)

@pytest.mark.parametrize('what', ['log.jsonl', 'previews/step_00000006.png', 'config.json'])
def test_a_full_disk_names_the_file_and_a_save_is_tried(small, monkeypatch, capsys, what):
    "A line of the log, a preview and the settings that no longer fit"
    def full(*args, **how): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    small = replace(small, preview_every=6)
    class FillUp(Callback):
        def after(self, r):
            if what == 'log.jsonl' and r.step == 5:
                monkeypatch.setattr('opensora_nb.train.loop.open', full, raising=False)
            if 'previews' in what and r.step == 5: monkeypatch.setattr(Image.Image, 'save', full)
    if what == 'config.json': monkeypatch.setattr('opensora_nb.train.loop.save_config', full)
    with pytest.raises(OSError) as e: run(small, FillUp())
    assert str(small.folder/what) in str(e.value)
    assert 'No space left' in str(e.value)
    assert 'MB are free' in str(e.value)
    assert '\n' not in str(e.value)
    monkeypatch.undo()
    if what == 'config.json': return
    assert saved(small) == [6] and 'step 6 was saved before the error' in capsys.readouterr().err
    assert same(weights(run(small)), weights(run(replace(small, name='whole'))))

def test_a_save_that_fails_too_says_what_is_intact(small, monkeypatch, capsys):
    "Nothing can be written any more: the older checkpoint is named"
    run(replace(small, steps=4))
    def full(*args, **how): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    class FillUp(Callback):
        def after(self, r):
            monkeypatch.setattr('opensora_nb.train.loop.open', full, raising=False)
            monkeypatch.setattr('opensora_nb.train.checkpoint.save_state', full)
    with pytest.raises(OSError, match='log.jsonl'): run(small, FillUp())
    assert 'could not save step 6' in (said := capsys.readouterr().err)
    assert 'step_00000004 is intact' in said
    assert saved(small) == [4]

# signals

class Send(Callback):
    def __init__(self, sig): self.sig = sig
    def after(self, r):
        if r.step == 3: os.kill(os.getpid(), self.sig)

@pytest.mark.skipif(not hasattr(signal, 'SIGHUP'), reason="this system has no SIGHUP")
def test_a_terminal_that_is_closed_saves_and_nohup_goes_on(small):
    "SIGHUP is what a run gets when its window or its connection is closed"
    stopped = run(small, Send(signal.SIGHUP))
    assert stopped.stopped == 'SIGHUP' and saved(small) == [3]
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN) # as nohup does
    try: assert run(replace(small, name='nohup'), Send(signal.SIGHUP)).step == 12
    finally: signal.signal(signal.SIGHUP, old)

SLOW = """
import time
from dataclasses import dataclass
from opensora_nb.train.loop import TrainConfig
@dataclass(frozen=True)
class Slow(TrainConfig):
    def make_task(self, device):
        from accelerate import PartialState
        print('making features\\n', end='', flush=True) # one write, so that two processes do not mix
        if PartialState().is_main_process: time.sleep(100)
        PartialState().wait_for_everyone()
def slow(): return Slow(device='cpu')
"""

def test_ctrl_c_in_several_processes_before_the_first_step_is_one_word(tmp_path):
    "While features are made nothing has to be saved, and no process shows a traceback"
    (tmp_path/'mine.py').write_text(SLOW)
    command = [*osnb_script(tmp_path), 'train', 'mine:slow', '--num-processes', '2']
    def hears_ctrl_c(): signal.signal(signal.SIGINT, signal.default_int_handler)
    p = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         env=dict(os.environ, PYTHONPATH=str(ROOT)), preexec_fn=hears_ctrl_c)
    for _ in range(2): assert p.stdout.readline() == 'making features\n'
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=100)[1]
    assert p.returncode == 130 and 'Traceback' not in err and err.splitlines().count('stopped') == 1, err

# checkpoints whose bytes have changed

@pytest.fixture(scope='module')
def two(tmp_path_factory):
    "A run with checkpoints at steps 8 and 12, in memory: file -> bytes of the newer one"
    cfg = SmallRun(out=str(tmp_path_factory.mktemp('two')), steps=12, batch_size=8, save_every=8, preview_every=0,
                   device='cpu', precision='no')
    run(cfg)
    newer = cfg.folder/'checkpoints'/'step_00000012'
    return cfg, newer, {p: p.read_bytes() for p in newer.rglob('*') if p.is_file()}

@pytest.fixture
def files(two):
    cfg, newer, files = two
    yield cfg, files
    for p, b in files.items(): p.write_bytes(b)

@pytest.mark.parametrize('how', ['one bit', 'zeroed', 'cut', 'gone'])
@pytest.mark.parametrize(
    'name', ['model.safetensors', 'ema.safetensors', 'optim.pt', 'weights/plain.bin', 'state.json'])
def test_a_changed_file_is_noticed_and_the_checkpoint_before_is_taken(files, name, how):
    "One flipped bit would go on training other weights, silently"
    cfg, files = files
    path = next(p for p in files if p.as_posix().endswith(name))
    good = bytearray(files[path])
    if how == 'one bit': good[len(good)*2//3] ^= 4
    if how == 'gone': path.unlink()
    else: path.write_bytes(bytes(len(good)) if how == 'zeroed' else good[:-1] if how == 'cut' else good)
    with pytest.warns(UserWarning, match=f'step_00000012 is passed over: {name}'):
        assert latest(cfg.folder).name == 'step_00000008'
    with pytest.warns(UserWarning): again = run(cfg)
    path.write_bytes(files[path])
    assert again.step == 12

def test_any_flipped_bit_of_state_json_is_noticed(files):
    "300 random bits"
    cfg, files = files
    path, rng = next(p for p in files if p.name == 'state.json'), random.Random(5)
    for _ in range(300):
        bad = bytearray(files[path])
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        assert damage(path.parent) or json.loads(bad) == json.loads(files[path]), bad

def test_checkpoints_of_earlier_versions_have_no_checksums_and_load(files):
    "As the version before wrote them"
    cfg, files = files
    path = next(p for p in files if p.name == 'state.json')
    state = {k: v for k, v in json.loads(files[path]).items() if k not in ('sums', 'seal')}
    path.write_text(json.dumps(state))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert latest(cfg.folder) == path.parent and run(cfg).step == 12
    os.truncate(path.parent/'optim.pt', 100)
    assert damage(path.parent).startswith('optim.pt has 100 of')

def test_where_no_checkpoint_is_intact_nothing_is_begun_anew(small):
    "The log would be written over"
    run(small)
    (small.folder/'checkpoints'/'step_00000012'/'optim.pt').write_bytes(b'')
    log = (small.folder/'log.jsonl').read_text()
    said = r'no checkpoint of .* can be used \(step_00000012: optim.pt has 0 of'
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=said):
        run(small)
    assert (small.folder/'log.jsonl').read_text() == log

def test_a_file_is_not_read_twice(two, monkeypatch):
    "A second look at the same files reads no bytes"
    cfg, newer, _ = two
    assert damage(newer) == ''
    monkeypatch.setattr('opensora_nb.train.checkpoint._crc', None)
    assert damage(newer) == ''

# odd settings

ODD = {
    ('shapes_t2v', 'sampling_steps=0'):            'sampling_steps is a number from 1 to 1,000, not 0; try 30',
    ('shapes_t2v', 'validate_steps=-1'):           'validate_steps is a number from 0 to 1,000, not -1',
    ('shapes_t2v', 'data.image_size=20,20'):       'height 20 is not a multiple of 8; try 16 or 24',
    ('shapes_t2v', 'preview_every=-1'):            'preview_every is a number of at least 0, not -1; try 500',
    ('shapes_t2v', 'cfg_scale=nan'):               'cfg_scale is a number from 0 to 100, not nan',
    ('shapes_t2v', 'optim.final=-1'):              'optim.final is a number from 0 to 1, not -1.0; try 0.05',
    ('shapes_t2v', 'timeout=1e300'):               'timeout is a number of at most 10,000,000, not 1e+300',
    ('shapes_t2v', 'ema=1'):                       'ema is a number of at least 0 and below 1, not 1.0',
    ('shapes_t2v', 'optim.betas=0.9,1'):           'optim.betas is a number of at least 0 and below 1',
    ('shapes_t2v', 'optim.lr=inf'):                'optim.lr is a number of at most 1,000, not inf',
    ('shapes_t2v', 'spike=nan'):                   'spike is a number, not nan',
    ('shapes_t2v', 'data.n=0'):                    'data.n is 0; use 1 to',
    ('shapes_t2v', 'data.num_frames=0'):           'data.num_frames is 0; use 1 to',
    ('shapes_t2v', 'data.fps=0'):                  'data.fps is 0.0; frames a second are above 0',
    ('shapes_t2v', 'data.level=cor'):              "unknown level 'cor'",
    ('shapes_t2v', 'data.split=no'):               "unknown data.split 'no'",
    ('shapes_t2v', 'name=..'):                     'name=.. is no name of a run',
    ('shapes_t2v', 'vae_weights='):                'vae_weights is empty',
    ('shapes_t2v', 'validate_sizes=17x20x20'):     'height 20 is not a multiple of 8',
    ('shapes_t2v', 'base_pix=0'):                  'base_pix is a number of at least 1',
    ('shapes_t2v', 'optim.clip=-1'):               'optim.clip is a number of at least 0',
    ('shapes_t2v', 'seed=1e30'):                   'seed is a number from',
    ('shapes_t2v', 'stop_at=0.5 validate_on=0'):   'stop_at=0.5 needs a score, and there is none with validate_on=0',
    ('shapes_t2v', 'stop_at=0.5 data.path=a.csv'): 'there is none for clips of your own',
    ('shapes_t2v', 'caption_drop=nan'):            'caption_drop is a number, not nan',
    ('shapes_t2v', 'model.mlp_ratio=nan'):         'mlp_ratio',
    ('shapes_t2v', 'masks_of=7=v11 buckets=toy_mix masks_of=7'): "masks_of '7' is not readable",
    ('shapes_t2v', 'batch_size=1e9'):              'batch_size is a number of at most 1,000,000',
    ('shapes_vae', 'kl=nan'):                      'kl is a number of at least 0, not nan',
    ('shapes_vae', 'jitter=-1'):                   'jitter is a number of at least 0',
    ('shapes_vae', '1_image.frames_per_clip=0'):   'frames_per_clip is a number of at least 1',
    ('shapes_vae', 'crop=-8'):                     'crop is a number of at least 0',
    ('shapes_vae', 'data.image_size=20,20'):       'data.image_size 20,20 does not divide into blocks of 8 pixels',
    ('shapes_vae', 'loss.logvar_init=nan'):        'loss.logvar_init is a number, not nan',
    ('shapes_vae', 'stop_at=0.5'):                 'the validation of an autoencoder has none',
    ('shapes_vae', 'image_share=nan'):             'image_share is a number, not nan',
}

@pytest.mark.parametrize('recipe,overrides', ODD)
def test_a_setting_that_cannot_work_is_one_sentence_at_once(recipe, overrides, capsys, tmp_path, monkeypatch):
    "Not after an hour of training: in under a second of this processor, and nothing is written"
    monkeypatch.chdir(tmp_path)
    t = time.process_time()
    code = main(['train', recipe, *overrides.split()])
    assert time.process_time() - t < 1
    out, err = capsys.readouterr()
    assert (code, out) == (1, '')
    assert err.startswith('osnb: error: ')
    assert err.count('\n') == 1
    assert ODD[recipe, overrides] in err
    assert not list(tmp_path.iterdir())

VALUES = ('nan', 'inf', '-inf', '-1', '0', '1', '2', '0.5', '1e9', '1e19', '1e300', '-1e300', '', 'x', '1,2', '7', '17',
          'none', 'yes', '٣', '1_0', '0x10', ' 3 ')

def names_of(cfg, prefix=''):
    for f in fields(cfg):
        value = getattr(cfg, f.name)
        if is_dataclass(value): yield from names_of(value, f'{prefix}{f.name}.')
        else: yield f'{prefix}{f.name}'

@pytest.mark.parametrize(
    'cfg', [T2VTrain(), VAETrain(), VAETrain(stage='joint', init='tiny', form='v12')],
    ids=['text to video', 'autoencoder', 'autoencoder, joint'])
def test_any_value_of_any_setting_is_taken_or_refused_in_one_line(cfg):
    "700 random changes of one to three settings; what is taken can be computed with"
    rng, names, taken = random.Random(7), list(names_of(cfg)), 0
    for _ in range(700):
        words = [f'{n}={rng.choice(VALUES)}' for n in rng.sample(names, rng.randint(1, 3))]
        try: new = override(cfg, *words)
        except ValueError as e:
            assert str(e) and '\n' not in str(e), (words, e)
            continue
        taken += 1
        timedelta(seconds=new.timeout)
        rng_for(new.seed, 1), torch.manual_seed(new.seed)
        new.folder.relative_to(new.out)
        factors = [lr_factor(k, new.steps, new.optim) for k in (0, new.steps//2, new.steps - 1)]
        assert all(0 <= f <= 1 for f in factors) and 0 < new.optim.lr < 1e4, words
        make_optimiser(nn.Linear(2, 2), new.optim), EMA(nn.Linear(2, 2), new.ema)
        assert new.preview_every >= 0 and new.validate_every >= 0, words
        assert new.data.n > 0 and min(new.data.image_size) > 0, words
        if isinstance(new, T2VTrain):
            SampleConfig(num_sampling_steps=new.sampling_steps, cfg_scale=new.cfg_scale)
            SampleConfig(num_sampling_steps=new.validate_steps or None)
    assert taken > 100

def test_a_preview_of_no_prompts_is_none():
    "Recipes for clips of one's own may have none"
    task = SimpleNamespace(cfg=T2VTrain(preview_prompts=()))
    task.preview_prompts = lambda: T2VTask.preview_prompts(task)
    assert T2VTask.preview(task) is None

def test_previews_of_imagenet_ask_for_names_that_are_known():
    "A class has several names in the table, and no prompt is all of them"
    task = SimpleNamespace(cfg=SimpleNamespace(model=dit_imagenet_256()), labels=ClassLabels('imagenet'))
    prompts = T2VTask.preview_prompts(task)
    assert task.labels.encode(prompts)[0].tolist() == [0, 1, 2, 3]

# what a run needs is looked at before work is done

@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder with a file, an empty folder and a folder that holds a bit of everything; no clip may be encoded"
    monkeypatch.chdir(tmp_path)
    Path('file.pt').write_bytes(b'nothing')
    Path('empty').mkdir()
    Path('half').mkdir()
    Path('half', 'config.json').write_text('{}')
    Path('b.json').write_text('{"64": {"17": [1.0, 4]}}')
    def never(*args, **how): raise AssertionError('clips were encoded')
    monkeypatch.setattr('opensora_nb.train.diffusion.open_features', never)
    return tmp_path

LACKING = {
    'init=/no/such/place':                                 "weights '/no/such/place': this folder does not exist",
    'init=nowhere':                                        "weights 'nowhere': this folder does not exist",
    'init=file.pt':                                        "weights 'file.pt': this is a file",
    'init=empty':                                          "weights 'empty': this folder holds no weights",
    'init=half':                                           'has not saved a checkpoint yet',
    'vae_weights=nowhere':                                 "weights 'nowhere'",
    'vae_weights=/no/such/place':                          'no weights at /no/such/place',
    'vae_weights=empty':                                   'no weights in the folder empty',
    'vae_weights=file.pt':                                 'file.pt (7 bytes) cannot be read as weights',
    'text_weights=half':                                   "text_weights=half, which lacks",
    'text_weights=/no/such/place':                         'neither a folder here nor an address',
    'text_weights=nowhere':                                'neither a folder here nor an address',
    'validate_path=none.csv':                              'there is no table none.csv',
    'validate_path=empty':                                 'empty holds no video and no picture',
    'data.path=none.csv':                                  'there is no table none.csv',
    'buckets=v13':                                         "unknown buckets 'v13'",
    'buckets=none.json data.native=17x64x64':              'none.json',
    'buckets=file.pt':                                     "unknown buckets 'file.pt'",
    'masks_of=34=v11 buckets=b.json data.native=17x64x64':
        'masks_of names the bucket 34, and buckets=b.json has none of that name; it has 17, 64/17',
    'masks=v13':                                           "masks 'v13' is not readable",
    'init=tiny text_weights=empty':                        'text_weights=empty, which lacks config.json',
}

@pytest.mark.parametrize('overrides', LACKING)
def test_what_is_not_there_is_said_before_any_clip_is_encoded(place, overrides, capsys):
    "Two seconds of this processor at most, also where weights are opened"
    t = time.process_time()
    code = main(['train', 'shapes_t2v', 'data.n=8', 'device=cpu', *overrides.split()])
    assert time.process_time() - t < 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith('osnb: error: ')]
    assert code == 1 and len(err) == 1 and LACKING[overrides] in err[0]

@pytest.mark.parametrize('overrides,said', [
    ('init=file.pt',                                       "weights 'file.pt': this is a file"),
    ('1_image.init_2d=/no/such/place',                     'no weights at /no/such/place'),
    ('validate_path=none.csv data.path=clips',             'there is no table none.csv'),
    ('1_image.loss.perceptual=lpips lpips=/no/such/place', '/no/such/place'),
])
def test_an_autoencoder_looks_first_too(place, monkeypatch, overrides, said, capsys):
    "Before the first clip is read"
    def never(*args, **how): raise AssertionError('clips were read')
    monkeypatch.setattr('opensora_nb.train.vae.open_data', never)
    assert main(['train', 'shapes_vae', 'only=1', 'device=cpu', *overrides.split()]) == 1
    assert said in capsys.readouterr().err
