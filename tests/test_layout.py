"How code is laid out, as far as it can be counted: STYLE.md says why."
import ast
import json
import re
from collections import defaultdict
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [p for p in sorted([*(ROOT/'nbs').rglob('*.ipynb'), *(ROOT/'tutorials').rglob('*.ipynb')])
         if '.ipynb_checkpoints' not in p.parts]
FILES = [*PAGES, *sorted((ROOT/'tests').glob('*.py')), ROOT/'setup.py']
MODULES = [p for p in sorted((ROOT/'opensora_nb').rglob('*.py')) if p.name not in ('__init__.py', '_modidx.py')]
WIDTH, FUNCTION, CLASS = 120, 2000, 130 # columns, characters, lines

def sources(path):
    "The code of a page, cell by cell, or of a file; magics are comments"
    if path.suffix == '.py': texts = [path.read_text(encoding='utf-8')]
    else:
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        texts = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    return [re.sub(r'^(\s*)[%!]', r'\1#', t, flags=re.M) for t in texts]

def packed_lines(tree):
    "Lines on which a second statement begins"
    for node in ast.walk(tree):
        for name in ('body', 'orelse', 'finalbody'):
            block = getattr(node, name, None)
            if not isinstance(block, list): continue
            for first, second in zip(block, block[1:]):
                if first.end_lineno == second.lineno: yield second.lineno

def faults(text):
    "Sentences, one for each thing that the style forbids"
    lines, tree = text.splitlines(), ast.parse(text)
    for line in lines:
        if len(line) > WIDTH: yield f"{len(line)} columns: {line[:60]}…"
    for number in packed_lines(tree): yield f"two statements: {lines[number - 1][:60]}"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            size = len(ast.get_source_segment(text, node))
            if size > FUNCTION: yield f"the function {node.name} has {size} characters"
        if isinstance(node, ast.ClassDef):
            size = node.end_lineno - node.lineno + 1
            if size > CLASS: yield f"the class {node.name} has {size} lines"
        named = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        if named and isinstance(node.value, ast.Lambda):
            yield f"a lambda is called {node.targets[0].id}; make it a function"

@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_breathes(path):
    "At most 120 columns, one statement a line, no function over 2,000 characters, no class over 130 lines"
    found = [f for text in sources(path) for f in faults(text)]
    assert not found, f"{len(found)} faults of layout, the first: {found[0]}"

@pytest.mark.parametrize('text,said', [
    ('x = 1; y = 2\n', 'two statements'), ('x = "' + 'a'*120 + '"\n', '126 columns'), ('f = lambda x: x\n', 'a lambda'),
    ('def f():\n' + '    x = 1\n'*300, 'the function f has'),
    ('class C:\n' + '    x = 1\n'*131, 'the class C has 132')])
def test_a_fault_is_found(text, said):
    "The rule can fail"
    assert any(said in f for f in faults(text))

def public_names(path):
    "What a module exports"
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__':
            yield from (e.value for e in node.value.elts)

ENTRIES = {'main'} # what a terminal calls: of `osnb`, and of `python -m opensora_nb.train.launch`

def test_a_public_name_stands_in_one_module():
    "Who reads a name can find it with one search"
    homes = defaultdict(list)
    for path in MODULES:
        for name in public_names(path): homes[name].append(str(path.relative_to(ROOT/'opensora_nb')))
    twice = {n: where for n, where in homes.items() if len(where) > 1 and n not in ENTRIES}
    assert not twice, f"{len(twice)} names stand in two modules: {twice}"
