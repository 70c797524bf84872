"Links of pages and of the files at the top lead to a file that is there, and to a heading that it has."
import json
import re
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [p for p in sorted([*(ROOT/'nbs').rglob('*.ipynb'), *(ROOT/'tutorials').rglob('*.ipynb')])
         if '.ipynb_checkpoints' not in p.parts]
FILES = [*PAGES, *sorted(ROOT.glob('*.md')), *sorted((ROOT/'opensora_nb'/'assets').rglob('*.md'))]

def prose(path):
    "The text that a person reads"
    text = path.read_text(encoding='utf-8')
    if path.suffix != '.ipynb': return text
    return '\n\n'.join(''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type'] == 'markdown')

def anchors(path):
    "Names of headings, as GitHub and as JupyterLab write them"
    for title in re.findall(r'^#+ (.*)$', prose(path), re.M):
        plain = re.sub(r'[`*]', '', title)
        yield plain.replace(' ', '-')
        yield re.sub(r'[^\w\- ]', '', plain.lower()).replace(' ', '-')

def dead_links(path):
    "Targets that are not there"
    for target, heading in re.findall(r'\]\(([^)\s#]*)(?:#([^)\s]+))?\)', prose(path)):
        if re.match(r'[a-z]+:', target): continue
        file = path.parent/target if target else path
        if not file.exists(): yield f'{target}: no such file'
        elif heading and file.suffix in ('.ipynb', '.md') and heading not in anchors(file):
            yield f'{target}#{heading}: no such heading'

@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    "Whoever clicks arrives"
    assert not (dead := list(dead_links(path))), f"{len(dead)} dead links: {dead}"

def test_a_dead_link_is_found(tmp_path):
    "The rule can fail"
    page = tmp_path/'a.md'
    page.write_text('# One two\n[a](#One-two) [b](#three) [c](d.md)')
    assert list(dead_links(page)) == ['#three: no such heading', 'd.md: no such file']
