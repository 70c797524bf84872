"Every core page has exercises that are checked and proved, a wrong line to try, and stubs that are still open"
import json
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

def cells_of(page): return json.loads((ROOT/'nbs'/f'{page}.ipynb').read_text())['cells']
def source(cell): return ''.join(cell['source'])
def shown(cell): return ''.join(''.join(o.get('data', {}).get('text/plain', '')) for o in cell.get('outputs', []))

@pytest.mark.parametrize('page', CORE + ALONE)
def test_page_has_exercises(page):
    cells = cells_of(page)
    text = [source(c) for c in cells if c['cell_type'] == 'markdown']
    code = [c for c in cells if c['cell_type'] == 'code']
    assert any('## Exercises' in t for t in text) and any('## Break it' in t for t in text)
    made = [source(c).count('Exercise(') + source(c).count('check_value(') for c in code]
    proved = [c for c in code if '.prove(' in source(c)]
    assert sum(made) >= 2, f"{sum(made)} exercises; two are the least"
    assert len(proved) >= 2, f"{len(proved)} proved; two are the least"
    assert all('#| hide' in source(c) for c in proved)
    assert any('break_it(' in source(c) for c in code) == (page in CORE)
    start = next(i for i, c in enumerate(cells) if '## Break it' in source(c))
    assert any(c.get('outputs') for c in cells[start:]), "what breaks is shown"

@pytest.mark.parametrize('page', CORE + ALONE)
def test_stubs_are_open_and_solutions_pass(page):
    code = [c for c in cells_of(page) if c['cell_type'] == 'code']
    judged = [(source(c).strip().splitlines()[-1], shown(c)) for c in code]
    stubs, solved = ([s for line, s in judged if line.startswith(f'check({k}_')] for k in ('my', 'solve'))
    assert len(stubs) == len(solved) >= 2
    assert all(s.startswith('✗ 0') for s in stubs)
    assert all(s.startswith('✓') for s in solved)
    folds = [c for c in code if '#| code-fold: true' in source(c) and '"One solution"' in source(c)]
    assert len(folds) == len(solved)
