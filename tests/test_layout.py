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
MODULES = [p for p in sorted((ROOT/'opensora_nb').rglob('*.py')) if p.name not in ('__init__.py', '_modidx.py')]
SCRIPTS = sorted([*(ROOT/'nbs').glob('*/logs/*.py'), *(ROOT/'tests').rglob('*.py')]) # what made a log, and tests
FILES = [*PAGES, *MODULES, *SCRIPTS, ROOT/'setup.py']
WIDTH, FUNCTION, CLASS = 120, 2000, 130 # columns, characters, lines
TUPLE, DEPTH = 4, 2                     # values by position, comprehensions inside each other
COMPREHENSION = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp

def sources(path):
    "The code of a page, cell by cell, or of a file; magics are comments"
    if path.suffix == '.py': texts = [path.read_text(encoding='utf-8')]
    else:
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        texts = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    texts = [re.sub(r'^(\s*)[%!]', r'\1#', t, flags=re.M) for t in texts]
    return [re.sub(r'^__all__ = \[[^]]*\]\n', '', t, flags=re.M) for t in texts] # nbdev wraps that list

def packed_lines(tree):
    "Lines on which a second statement begins"
    for node in ast.walk(tree):
        for name in ('body', 'orelse', 'finalbody'):
            block = getattr(node, name, None)
            if not isinstance(block, list): continue
            for first, second in zip(block, block[1:]):
                if first.end_lineno == second.lineno: yield second.lineno

def by_position(tree):
    "Tuples that a function returns, or that an assignment takes apart; a shape has the letters of STYLE.md"
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple): yield node.value
        if isinstance(node, ast.Assign) and getattr(node.value, 'attr', '') != 'shape':
            yield from (t for t in node.targets if isinstance(t, ast.Tuple))

def depth(node):
    "How many comprehensions stand inside each other"
    return isinstance(node, COMPREHENSION) + max(map(depth, ast.iter_child_nodes(node)), default=0)

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
        if isinstance(node, COMPREHENSION) and depth(node) > DEPTH:
            yield f"{depth(node)} comprehensions inside each other: {ast.unparse(node)[:60]}…"
    for node in by_position(tree):
        if len(node.elts) > TUPLE: yield f"{len(node.elts)} values by position: {ast.unparse(node)[:60]}…"

@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_breathes(path):
    """At most 120 columns, one statement a line, no function over 2,000 characters, no class over 130 lines, no tuple
    of more than four, a comprehension in a comprehension but none in that"""
    found = [f for text in sources(path) for f in faults(text)]
    assert not found, f"{len(found)} faults of layout, the first: {found[0]}"

@pytest.mark.parametrize('text,said', [
    ('x = 1; y = 2\n', 'two statements'), ('x = "' + 'a'*120 + '"\n', '126 columns'), ('f = lambda x: x\n', 'a lambda'),
    ('def f():\n' + '    x = 1\n'*300, 'the function f has'),
    ('class C:\n' + '    x = 1\n'*131, 'the class C has 132'),
    ('def f(): return 1, 2, 3, 4, 5\n', '5 values by position'), ('a, b, c, d, e = f()\n', '5 values by position'),
    ('[[[x for x in y] for y in z] for z in w]\n', '3 comprehensions inside each other')])
def test_a_fault_is_found(text, said):
    "The rule can fail"
    assert any(said in f for f in faults(text))

@pytest.mark.parametrize('text', [
    'b, c, f, h, w = x.shape\n', 'a, b, c, d = f()\n', '[[x for x in y] for y in z]\n',
    '[x for y in z for x in y]\n'])
def test_what_is_no_fault(text): assert not list(faults(text))

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
