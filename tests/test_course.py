"The course: pages go out without answers, come back and are judged; JupyterLab opens on the list of lessons."
import json
import re
import pytest
from opensora_nb.app.course import (
    Assignment, Gradebook, Mark, checkout, grade, hand_out, judge_answers, judge_apart, lessons, put_badges, read_cells,
    tasks_of)
from opensora_nb.app.cli import main

PAGE = 'nbs/04_blocks/03_position.ipynb'
RIGHT = '''def my_rope(x):
    *_, f, e = x.shape
    a = torch.arange(f)[:, None]*10000**(-torch.arange(0, e, 2)/e)
    p, q = x[..., ::2], x[..., 1::2]
    return torch.stack([p*a.cos() - q*a.sin(), p*a.sin() + q*a.cos()], -1).flatten(-2)'''
TASKS = [Assignment('my_rope', 'rope_ex', 'blocks')]

def notebook(*cells):
    cells = [dict(cell_type='code', metadata={}, outputs=[], execution_count=None, source=c, id=f'c{i}')
             for i, c in enumerate(cells)]
    return json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5))

def test_lessons_are_there_and_each_once():
    "Every link of the list leads to a page, in the order of the list"
    pages = lessons()
    assert len(pages) > 40 and all((checkout()/p).exists() for p in pages)
    assert str(pages[0]).endswith('01_first_video.ipynb')

def test_every_solution_is_found_as_a_task():
    "A page proves as many exercises as the grader will look for"
    for page in sorted((checkout()/'nbs').rglob('*.ipynb')):
        if page.parent.name == '14_exercises' or page.stem in ('05_check', '14_course'): continue
        code = [c['source'] for c in read_cells(page) if c['cell_type'] == 'code']
        proved = sum(bool(re.search(r'^\w+\.prove\(', s, re.M)) for s in code)
        found = len(tasks_of(page))
        assert found >= proved, f"{page.name}: {proved} exercises, the grader knows {found}"

def test_helpers_in_other_cells_are_run_and_long_work_is_not():
    "A student may cut an answer into pieces; the page's training is left alone"
    cells = ['import torch', 'raise SystemExit("trained for an hour")', 'base = 10000',
             'def angles(f, e): return torch.arange(f)[:, None]*base**(-torch.arange(0, e, 2)/e)',
             RIGHT.replace('torch.arange(f)[:, None]*10000**(-torch.arange(0, e, 2)/e)', 'angles(f, e)')]
    assert judge_answers(cells, TASKS) == [dict(passed=4, total=4, remark='')]

def test_who_redefines_the_checker_gains_nothing():
    "The checker and the exercise are those of the package"
    cheat = ['import opensora_nb.check as c', 'class Yes: passed = total = 9; ok = True; why = ""',
             'c.check = lambda *a: Yes()', 'rope_ex = None', 'def my_rope(x): return c and Yes and x']
    (got,) = judge_answers(cheat, TASKS)
    assert got['passed'] < got['total']

@pytest.mark.parametrize('code,said', [
    ('def my_rope(x): return y z', 'cannot be read by Python'), ('my_rope = nothing', 'NameError'),
    ('import sys; my_rope = sys.exit(3)', 'SystemExit'), ('import os\nmy_rope = os._exit(3)', 'exit code 3'),
    ('x = 1', 'is not defined')])
def test_what_cannot_be_judged_is_told(tmp_path, code, said):
    "A sentence in the remark, and no mark"
    (file := tmp_path/'a.ipynb').write_text(notebook(code))
    (got,) = judge_apart(file, TASKS, 60)
    assert said in got['remark'] and got['total'] == 0

@pytest.mark.parametrize('text', ['', '[]', '{"cells": 3}', '{"cells": [', 'null'])
def test_a_broken_file_is_named(tmp_path, text):
    (file := tmp_path/'a.ipynb').write_text(text)
    assert 'a.ipynb is not a notebook' in judge_apart(file, TASKS)[0]['remark']

def test_no_answer_in_a_handout(tmp_path):
    "No solution, no page of judges; what is left runs into an open stub"
    pages = hand_out(tmp_path/'class', 'https://github.com/a/b')
    assert not [p for p in pages if '14_exercises' in p.parts]
    code = [c['source'] for p in pages for c in read_cells(tmp_path/'class'/p) if c['cell_type'] == 'code']
    assert not [s for s in code if re.match(r'(#\|.*\n)*def solve_|\w+\.prove\(my_', s)]
    cells = read_cells(tmp_path/'class'/PAGE)
    assert sum('colab.research.google.com' in c['source'] for c in cells) == 1
    assert any("git', 'clone'" in c['source'] for c in cells)

def test_badges_twice_are_badges_once(tmp_path):
    "A new address replaces the old one"
    hand_out(tmp_path/'copy')
    for owner in ('one', 'two'): put_badges(f'https://github.com/{owner}/x', tmp_path/'copy')
    text = (tmp_path/'copy'/PAGE).read_text()
    assert text.count('open-in-colab-or-kaggle') == 1 and '/two/x' in text and '/one/x' not in text

def test_grade_in_a_terminal(tmp_path, capsys):
    "A table on the screen, a line for each exercise in the file, and a name that is no page is mentioned"
    (tmp_path/'ada').mkdir()
    (tmp_path/'ada'/'03_position.ipynb').write_text(notebook('import torch', RIGHT))
    (tmp_path/'ada'/'diary.ipynb').write_text(notebook('1'))
    assert main(['grade', str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert 'ada      1/2' in out and 'diary.ipynb: no page with exercises' in out
    assert 'ada,03_position,my_rope,4,4,,1' in (tmp_path/'results.csv').read_text(encoding='utf-8-sig')

def test_a_class_is_sorted_by_name():
    late = Mark('ada2', 'q', 'e', 0, 0, 'not tried')
    book = Gradebook([Mark('bo', 'p', 'e', 1, 2), Mark('Ada', 'p', 'e', 2, 2), late])
    assert [r[0] for r in book.rows()] == ['student', 'Ada', 'ada2', 'bo']
    assert book.rows()[2][1:] == ['–', '0/1', '0/1'] and not book.notes()

def test_grade_wants_a_folder(tmp_path, capsys):
    assert main(['grade', str(tmp_path/'none')]) == 1
    assert 'is no folder' in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match='no notebook of a page with exercises'): grade(tmp_path)
