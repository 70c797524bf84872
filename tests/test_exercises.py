"Every core page has exercises that are checked and proved, a wrong line to try, and stubs that are still open"
import json
import re
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = [
    '03_flow/01_rectified_flow', '03_flow/02_timesteps', '03_flow/03_guidance', '04_blocks/01_layers',
    '04_blocks/02_attention', '04_blocks/03_position', '05_models/07_stdit3', '06_vae/01_image_vae',
    '06_vae/02_causal', '07_text/01_encoders', '01_toy/03_following',
    '05_models/01_dit', '05_models/02_latte', '05_models/03_pixart', '05_models/04_pixart_sigma', '05_models/05_stdit',
    '05_models/06_stdit2', '05_models/11_family', '03_flow/05_ddpm', '03_flow/06_dpm_solver',
]
ALONE = [ # what these explain has no place in the trained system, so they break it on the page
    '03_flow/07_speed', '05_models/12_inflation', '06_vae/09_temporal_decoder', '06_vae/10_vq',
]

def cells_at(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def cells_of(page): return cells_at(ROOT/'nbs'/f'{page}.ipynb')
def source(cell): return ''.join(cell['source'])
def shown(cell): return ''.join(''.join(o.get('data', {}).get('text/plain', '')) for o in cell.get('outputs', []))

@pytest.mark.parametrize('page', CORE + ALONE)
def test_page_has_exercises(page):
    cells = cells_of(page)
    text = [source(c) for c in cells if c['cell_type'] == 'markdown']
    code = [c for c in cells if c['cell_type'] == 'code']
    assert any('## Exercises' in t for t in text) and any('## Break it' in t for t in text)
    proved = [c for c in code if '.prove(' in source(c)]
    assert len(proved) >= 2, f"{len(proved)} exercises; two are the least"
    assert all('"One solution"' in source(c) for c in proved)
    assert any('break_it(' in source(c) for c in code) == (page in CORE)
    start = next(i for i, c in enumerate(cells) if '## Break it' in source(c))
    assert any(c.get('outputs') for c in cells[start:]), "what breaks is shown"

@pytest.mark.parametrize('page', CORE + ALONE)
def test_stubs_are_open_and_solutions_pass(page):
    code = [c for c in cells_of(page) if c['cell_type'] == 'code']
    last = [(source(c).strip().splitlines()[-1], shown(c)) for c in code]
    stubs = [s for line, s in last if re.match(r'check\(my_\w+, \w+\)$', line)]
    solved = [s for line, s in last if re.match(r'\w+\.prove\(my_\w+, solve_\w+\)$', line)]
    assert len(stubs) == len(solved) >= 2
    assert all(s.startswith('✗ 0') for s in stubs)
    assert all(s.startswith('✓') for s in solved)

PAGES = sorted([*(ROOT/'nbs').rglob('*.ipynb'), *(ROOT/'tutorials').rglob('*.ipynb')])
PAGES = [p for p in PAGES if '.ipynb_checkpoints' not in p.parts]
FOLD = dict(cellView='form', jupyter=dict(source_hidden=True)) # in Colab, in JupyterLab

def spoilers(cell):
    "Sentences, one for each thing that would show a learner an answer"
    text = source(cell)
    if re.search(r'\bsolve_\w+\(|\.prove\(my_|#\| code-fold: true', text):
        if any(cell['metadata'].get(k) != v for k, v in FOLD.items()): yield f"open in JupyterLab or Colab: {text[:60]}"
        if not text.startswith('#| code-summary:'): yield f"folded, the first line should tell what it is: {text[:60]}"
    if re.search(r'\b(Exercise|Wrong)\(', text): yield f"how it is judged belongs to nbs/14_exercises: {text[:60]}"

@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_answer_stands_in_the_open(page):
    "Solutions are folded wherever the page is read; wrong answers and test cases stand on another page"
    if page.parent.name == '14_exercises' or page.stem == '05_check': return # pages for those who write exercises
    cells = [c for c in json.loads(page.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    found = [s for c in cells for s in spoilers(c)]
    assert not found, found[0]

@pytest.mark.parametrize('text,folded,said', [
    ('#| code-summary: "One solution"\n#| code-fold: true\nx = 1', {}, 'open in JupyterLab'),
    ('#| code-fold: true\nx = 1', FOLD, 'the first line'), ('a_ex = Exercise(f, [])', {}, 'nbs/14_exercises')])
def test_a_spoiler_is_found(text, folded, said):
    "The rule can fail"
    assert any(said in s for s in spoilers(dict(source=[text], metadata=folded)))

JUDGES = [(path.stem, name) for path in sorted((ROOT/'opensora_nb'/'exercises').glob('*.py'))
          for name in re.findall(r'^(\w+) = Exercise\(', path.read_text(), re.MULTILINE)]

def proofs():
    "(module, exercise) whose solution passes and whose wrong answers fail, each with its hint, on some page"
    for page in PAGES:
        code = '\n'.join(source(c) for c in cells_at(page) if c['cell_type'] == 'code')
        for module, names in re.findall(r'from opensora_nb\.exercises\.(\w+) import ([\w, ]+)', code):
            yield from ((module, n) for n in names.split(', ') if f'{n}.prove(' in code)

def test_every_judge_is_proved():
    "`prove` runs the solution and the wrong answers; an exercise without it might take any answer"
    assert len(JUDGES) > 60 and not {*JUDGES} - {*proofs()}
