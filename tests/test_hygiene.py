"The house rules: layers, clean notebooks, small files, cheap imports, metadata said once."
import ast, base64, builtins, io, json, re, subprocess, sys
from configparser import ConfigParser
from pathlib import Path
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted([*(ROOT/'nbs').rglob('*.ipynb'), *(ROOT/'tutorials').rglob('*.ipynb')])
NOTEBOOKS = [p for p in NOTEBOOKS if '.ipynb_checkpoints' not in p.parts]
MODULES = [p for p in sorted((ROOT/'opensora_nb').rglob('*.py')) if p.name not in ('__init__.py', '_modidx.py')]
def ids(path): return str(path.relative_to(ROOT))

def source_of(py):
    "The notebook a module is exported from"
    line = next(l for l in py.read_text().splitlines() if 'File to edit:' in l)
    return (py.parent/line.split('File to edit:')[1].strip().rstrip('.')).resolve()

def imported(py):
    "Modules of this package a module imports, as files"
    here = py.relative_to(ROOT).with_suffix('').parts
    for node in ast.walk(ast.parse(py.read_text())):
        if not isinstance(node, ast.ImportFrom): continue
        if node.level: parts = [*here[:-node.level], *(node.module or '').split('.')]
        elif (node.module or '').startswith('opensora_nb'): parts = node.module.split('.')
        else: continue
        for cand in (parts, *([*parts, a.name] for a in node.names)):
            f = ROOT.joinpath(*[p for p in cand if p]).with_suffix('.py')
            if f.exists(): yield f

@pytest.mark.parametrize('py', MODULES, ids=ids)
def test_layers(py):
    mine = source_of(py)
    assert mine.exists(), f"{py} names a notebook that is gone: {mine}; delete the module"
    for other in imported(py):
        assert source_of(other) < mine, f"{mine.name} imports {other.name}, whose notebook sorts later"

def unknown_names(source):
    "Names a module uses and nowhere defines or imports; a hidden cell of its page may have them, the module has not"
    known, used = set(dir(builtins)) | {'__file__', '__name__'}, set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            known |= {(a.asname or a.name).split('.')[0] for a in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): known.add(node.name)
        elif isinstance(node, ast.arg): known.add(node.arg)
        elif isinstance(node, ast.ExceptHandler): known.add(node.name)
        elif isinstance(node, ast.Name): (used if isinstance(node.ctx, ast.Load) else known).add(node.id)
    return used - known

@pytest.mark.parametrize('py', MODULES, ids=ids)
def test_module_knows_its_names(py):
    assert (not (unknown := unknown_names(py.read_text()))), (
        f"{ids(py)} uses {', '.join(sorted(unknown))} without importing it; import it in an exported cell of "
        f"{source_of(py).name}")

def unused_imports(text):
    "Names that a file imports and never uses"
    tree = ast.parse(text)
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    used |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)} # a fixture
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)) or 'noqa' in text.splitlines()[node.lineno - 1]: continue
        names = [(a.asname or a.name).split('.')[0] for a in node.names]
        yield from (n for n in names if n != '*' and n not in used)

@pytest.mark.parametrize('path', sorted((ROOT/'tests').glob('*.py')), ids=ids)
def test_tests_import_what_they_use(path):
    assert not list(unused_imports(path.read_text(encoding='utf-8')))

def test_an_unused_import_is_found():
    text = "import os, numpy as np\nfrom a import b, folder\ndef test_x(folder): assert np.a(b)\n"
    assert list(unused_imports(text)) == ['os']

def test_layer_rule_can_fail(tmp_path):
    "core imports nothing of the package, and something imports core"
    assert not list(imported(ROOT/'opensora_nb'/'core.py'))
    assert ROOT/'opensora_nb'/'core.py' in set(imported(ROOT/'opensora_nb'/'train'/'loop.py'))

ONE_MACHINE = r'(?:/tmp/|/home/|/root/|/work/|/Users/|site-packages)[^"\\ ]*' # paths that nobody else has

def test_logs_name_no_path_of_one_machine():
    logs = [p for p in (ROOT/'nbs').glob('*/logs/*') if p.suffix in ('.json', '.jsonl', '.csv', '.txt')]
    assert len(logs) > 20
    found = {p.name: re.findall(ONE_MACHINE, p.read_text()) for p in logs}
    assert not {name: paths[:3] for name, paths in found.items() if paths}

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=ids)
def test_notebook_is_clean(nb):
    text = nb.read_text()
    cells = json.loads(text)['cells']
    assert len(text.encode()) <= 300_000, f"{len(text.encode())} bytes; the limit is 300000"
    outputs = [o for c in cells if c['cell_type'] == 'code' for o in c['outputs']]
    assert not [o for o in outputs if o['output_type'] == 'error'], "an output holds a traceback"
    said = json.dumps([{k: v for k, v in o.items() if k != 'data'} |
                       {'data': {m: d for m, d in o.get('data', {}).items() if 'text' in m}} for o in outputs])
    found = re.findall(ONE_MACHINE, said)
    assert not found, f"an output holds a path of one machine: {found[:3]}"
    assert '\\r' not in said, "an output holds all states of a progress bar; keep the last"
    if any('#| default_exp' in ''.join(c['source']) for c in cells):
        assert outputs, "an exporting page without saved outputs"

BYTES, WIDTH = 70_000, 640 # at most and at least, of a saved picture

def pictures(nb):
    "(cell, bytes, width, frames) of every saved chart or sheet; not of a square picture or a file that is shown"
    for cell in json.loads(nb.read_text())['cells']:
        if 'filename=' in ''.join(cell['source']): continue
        for o in cell.get('outputs', []):
            if 'image/png' not in o.get('data', {}): continue
            data = base64.b64decode(''.join(o['data']['image/png']))
            with Image.open(io.BytesIO(data)) as image:
                if image.width <= 1.1*image.height: continue
                yield cell['id'], len(data), image.width, getattr(image, 'n_frames', 1)

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=ids)
def test_pictures_are_wide_and_small(nb):
    "What a reader shall learn from can be read, and a page loads quickly; moving pictures may be narrow"
    for cell, size, width, frames in pictures(nb):
        assert frames > 1 or width >= WIDTH, (
            f"the picture of cell {cell} is {width} pixels wide; call figure_style(), give contact_sheet no scale")
        assert size <= BYTES, f"the picture of cell {cell} has {size} bytes; show palette_png(picture)"

SAID = ( # what this kit tells on the error stream, as a page shows it
    r'osnb: ', r'stopped by SIG', r'\w+ reached [\d.]+ at step', r'latents: \d+ of \d+ are there already',
    r'step \d+ was saved')
NOISE = r'\w*Warning\b|\bWARNING\b|^\W*[IWE]\d{4} \d\d:|^\[?\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d'

def noise(outputs):
    "Sentences, one for each thing in a cell's outputs that a reader did not ask for"
    for o in outputs:
        texts = [o.get('text', ''), *(d for m, d in o.get('data', {}).items() if m.startswith('text'))]
        text = '\n'.join(t if isinstance(t, str) else ''.join(t) for t in texts)
        if found := re.search(NOISE, text, re.M): yield f"a warning or a line of a log: {text[found.start():][:80]}"
        lines = text.splitlines() if o.get('name') == 'stderr' else []
        bars = [line for line in lines if re.search(r'\d+%\|', line)]
        if len(bars) > 1: yield f"{len(bars)} progress bars; keep one at most: {bars[0][:60]}"
        other = [l for l in lines if l not in bars and not any(re.match(s, l) for s in SAID)]
        if other: yield f"on the error stream: {other[0][:80]}"

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=ids)
def test_outputs_hold_no_noise(nb):
    "No warnings and no lines of logs; a warning that belongs to the lesson is caught and printed as a sentence"
    found = {c['id']: said for c in json.loads(nb.read_text())['cells'] for said in noise(c.get('outputs', []))}
    assert not found, f"mend where it comes from, then run the page again: {found}"

@pytest.mark.parametrize('name,text,said', [
    ('stderr', '<cell>:1: UserWarning: odd\n', 'a warning'), ('stdout', 'WARNING:root:odd\n', 'a warning'),
    ('stderr', 'clips: 100%|##| 2/2\nclips: 100%|##| 3/3\n', '2 progress bars'),
    ('stderr', 'Downloading\n', 'on the error stream'), ('stdout', '2026-01-01 10:00:00 odd\n', 'a line of a log')])
def test_noise_is_found(name, text, said):
    "The rule can fail"
    assert any(said in f for f in noise([dict(output_type='stream', name=name, text=[text])]))

def test_everything_is_small():
    files = [Path(ROOT, f) for f in subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True,
        text=True).stdout.splitlines()]
    weights = sum(f.stat().st_size for f in files if 'assets' in f.parts and f.exists())
    assert weights <= 24*2**20, f"embedded weights take {weights/2**20:.1f} MB; the limit is 24"
    assert not [f for f in files if f.exists() and f.stat().st_size > 9*2**20]
    for d in ('datasets', 'tests', 'tutorials'):
        assert not (ROOT/d/'__init__.py').exists(), f"{d} must not be importable"

def test_weights_come_with_a_card():
    "A folder of embedded weights says what they are, what they were trained on, their limits and licence"
    assets = ROOT/'opensora_nb'/'assets'
    for name in sorted({f.relative_to(assets).parts[0] for f in assets.rglob('*.safetensors')}):
        card = assets/name/'CARD.md'
        assert card.is_file(), f"{name} holds weights and no CARD.md"
        text = card.read_text(encoding='utf-8')
        for said in ('| data |', 'Limits', 'Apache-2.0'): assert said in text, f"the card of {name} lacks {said}"

def test_metadata_is_said_once():
    ini = ConfigParser(delimiters=['='], interpolation=None)
    ini.read(ROOT/'settings.ini')
    cfg = ini['DEFAULT']
    toml = (ROOT/'pyproject.toml').read_text()
    assert f'name = "{cfg["lib_name"]}"' in toml and f'requires-python = ">={cfg["min_python"]}"' in toml
    assert f'lib_path = "{cfg["lib_path"]}"' in toml

def extras():
    "Extra -> the packages that it brings, dev aside, as one would write them without a version"
    ini = ConfigParser(delimiters=['='], interpolation=None)
    ini.read(ROOT/'settings.ini')
    found = {k.removesuffix('_requirements'): v for k, v in ini['DEFAULT'].items() if k.endswith('_requirements')}
    return {k: [re.split(r'[<>=\[]', p)[0] for p in v.split()] for k, v in found.items() if k != 'dev'}

def requirements(text):
    "Each `require(name, extra, package)` of a module -> (what is installed, the extra that is named)"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or getattr(node.func, 'id', '') != 'require': continue
        given = dict(zip(('name', 'extra', 'package'), node.args)) | {k.arg: k.value for k in node.keywords}
        said = {k: ast.literal_eval(v) for k, v in given.items()}
        yield said.get('package') or said['name'], said['extra']

def test_install_lines_name_what_brings_the_package():
    "Whoever follows `pip install 'opensora_nb[extra]'` has the package; one of no extra is named itself"
    texts = [text for text in map(Path.read_text, MODULES) if ' require(' in text]
    brings, said = extras(), {r for text in texts for r in requirements(text)}
    assert len(said) > 10
    wrong = [f'{package} is not in the extra {extra or "…"}' for package, extra in sorted(said)
             if package not in brings.get(extra, ()) and (extra or any(package in b for b in brings.values()))]
    assert not wrong, wrong
    assert [*requirements("require('lingua', 'data', package='x')")] == [('x', 'data')]

OUTSIDE = { # every host that README, metadata and modules lead to, so that each was looked up by a person
    'github.com': 'Open-Sora', 'arxiv.org': 'its report'}

def test_outside_links_are_known():
    """No link to a site or repository that nobody has put up: until the owner sets [project.urls] in pyproject.toml,
    the docstring of a module and `File to edit` lead to its notebook in this repository"""
    files = [*ROOT.glob('*.md'), ROOT/'settings.ini', ROOT/'pyproject.toml', ROOT/'CITATION.cff', *MODULES]
    for path in files:
        text = path.read_text(encoding='utf-8')
        if path.suffix == '.py': text = ast.get_docstring(ast.parse(text)) or ''
        for host in re.findall(r'https?://([^/\s")]+)', text):
            assert host in OUTSIDE, f"{ids(path)} leads to {host}, which is on no list"

HEAVY = ('transformers', 'accelerate', 'gradio', 'matplotlib', 'IPython', 'pandas')

def run_python(code):
    "What a program prints that runs in a process of its own"
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True).stdout

@pytest.mark.parametrize('module', ['opensora_nb.sample.pipeline', 'opensora_nb.app.cli'])
def test_imports_stay_light(module):
    "No heavy package comes along, and the module itself takes little of the processor beyond torch"
    code = f"""
import torch, sys, time
start = time.process_time()
import {module}
print(time.process_time() - start, *[m for m in {HEAVY} if m in sys.modules])"""
    seconds, *loaded = run_python(code).split()
    assert loaded == [], f"importing {module} loads {loaded}"
    assert float(seconds) < 1.0 # aim 0.5 s beyond torch; processor time, so a busy machine counts less

def test_command_help_needs_no_torch():
    "`osnb --help` answers before torch could be loaded"
    code = """
import sys
from opensora_nb.app.cli import main
try: main(['--help'])
except SystemExit: pass
print('torch' in sys.modules)"""
    assert run_python(code).strip().endswith('False')
