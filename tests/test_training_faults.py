"What goes wrong around a training run: files that lie in the way, odd settings, odd recipes, full disks, flipped bits, closed terminals."
import json, os, subprocess, sys
from pathlib import Path
import pytest
from opensora_nb.config import override
from opensora_nb.train.diffusion import T2VTrain
from opensora_nb.train.launch import find_recipe, resolve
from opensora_nb.train.optim import OptimConfig
from opensora_nb.train.vae import VAETrain

ROOT = Path(__file__).resolve().parent.parent
OSNB = 'import sys; from opensora_nb.app.cli import main; sys.exit(main())'
PLANTED = ('accelerate', 'torch', 'json', 'numpy', 'dataclasses', 'tqdm', 'safetensors', 'av', 'defusedxml', 'opensora_nb_recipes')

def osnb_script(folder):
    "The command as pip installs it: a script in a folder of programs"
    (folder/'bin').mkdir(exist_ok=True)
    (folder/'bin'/'osnb').write_text(OSNB)
    return [sys.executable, str(folder/'bin'/'osnb')]

def said_by(*words, cwd, **env):
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=240,
                          env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', ACCELERATE_USE_CPU='true', **env))

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

STARTS = {'osnb': ('script', 'train'), 'osnb, two processes': ('script', 'train', '--num-processes', '2'), 'python -m': (sys.executable, '-m', 'opensora_nb.train.launch')}

@pytest.mark.parametrize('start', STARTS)
def test_no_file_in_the_working_directory_takes_the_place_of_a_package(planted, start):
    "A user whose folder holds an accelerate.py, a torch.py, a json.py trains with the installed ones, and his own recipe is found all the same"
    words = [w for s in STARTS[start] for w in (osnb_script(planted) if s == 'script' else [s])]
    out = said_by(*words, 'mine:small', 'device=nowhere', cwd=planted/'work')
    assert out.returncode == 1 and "unknown device 'nowhere'" in out.stderr and 'Traceback' not in out.stderr.split('unknown device')[0], out.stderr
    assert marks(planted) == []

def test_the_command_as_a_module_does_not_run_them_either(planted):
    out = said_by(sys.executable, '-m', 'opensora_nb.app.cli', '--help', cwd=planted/'work')
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

ODD_RECIPES = {'..:x': 'is not written as package.module:function', 'os:getcwd': f"'os:getcwd' is no recipe: it returned {os.getcwd()!r:.60}", ':x': 'is not written as', 'x:': "unknown recipe 'x:'",
    '': "unknown recipe ''", '.': "unknown recipe '.'", '/tmp:x': 'is not written as', 'a b:c': 'is not written as', 'os.:x': 'is not written as', 'os:path': "is not a function but <module 'posixpath'",
    'a:b:c': 'is not written as', 'mine.py:small': 'mine:small may be meant', 'sys:exit': "'sys:exit' ended with SystemExit", 'json:dumps': "'json:dumps' ended with TypeError", 'os:nothing': "has no function 'nothing'",
    'nowhere_at_all:x': "cannot import 'nowhere_at_all'", 'os.nowhere:x': "cannot import 'os.nowhere'", 'builtins:list': "is no recipe: it returned []", 'builtins:dict': 'is no recipe: it returned {}',
    'opensora_nb.train.loop:TrainConfig ': 'is not written as', 'opensora_nb.train.loop:Task': "is no recipe: it returned <opensora_nb.train.loop.Task"}

@pytest.mark.parametrize('name', ODD_RECIPES)
def test_a_name_that_is_no_recipe_gets_one_sentence(name):
    with pytest.raises(ValueError) as e: resolve(name)
    assert ODD_RECIPES[name] in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('text,said', [('def f(:\n', 'SyntaxError'), ('a = b\n', "NameError: name 'b' is not defined"), ('import sys; sys.exit(3)\n', 'SystemExit: 3'), ('1/0\n', 'ZeroDivisionError')])
def test_a_recipe_file_that_does_not_run_says_where(tmp_path, monkeypatch, text, said):
    "The line in the user's own file, in place of a traceback"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    name = f'broken_{abs(hash(text))}'
    Path(f'{name}.py').write_text(text)
    with pytest.raises(ValueError, match=f'importing .* ended with {said}') as e: find_recipe(f'{name}:f')
    assert f'{name}.py, line 1' in str(e.value)

# overrides

PAIRS = [(T2VTrain(), 'lora=4', 'init=tiny'), (VAETrain(), 'stage=joint', 'init_2d=tiny'), (VAETrain(), 'batch_size=9', 'frames_per_clip=3'), (VAETrain(), 'crop=72', 'data.image_size=96,96'),
         (T2VTrain(optim=OptimConfig(name='muon')), 'shard=fsdp2', 'optim.name=adamw'), (T2VTrain(), 'model.hidden_size=180', 'model.num_heads=9'), (T2VTrain(), 'masks_of=17=v11', 'buckets=toy_mix')]

@pytest.mark.parametrize('cfg,one,other', PAIRS, ids=lambda x: x if isinstance(x, str) else '')
def test_overrides_may_come_in_any_order(cfg, one, other):
    "Two settings that need each other are checked when both are there; each alone is refused, or changes something"
    assert override(cfg, one, other) == override(cfg, other, one) != cfg
    with pytest.raises(ValueError): override(cfg, one)

def test_overrides_of_one_group_come_after_the_whole_group():
    "In Python, a group and a field of it"
    assert override(T2VTrain(), 'optim.lr=0.5', dict(optim=OptimConfig(name='muon'))).optim == OptimConfig(name='muon', lr=0.5)
    assert override(T2VTrain(), 'steps=3', 'steps=4').steps == 4
