"Twenty people in a room with one model: nobody is lost or mixed up, who leaves frees the place"
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
import numpy as np, pytest
from opensora_nb.app import classroom
from opensora_nb.app.classroom import Limits, Room, export_wall, make_for, wall_html
from opensora_nb.app.visitors import Flags
from opensora_nb.app.fields import Stopped
from opensora_nb.sample.pipeline import SampleConfig, Video
from opensora_nb.sample.turns import Full, Turns

@pytest.fixture
def quick(monkeypatch):
    "Clips without a model: their colour is the seed"
    def make(pipe, prompt, values, on_step, stop):
        if stop(): raise Stopped("Stopped after 0 of 1 steps.")
        seed = values['seed']
        config = SampleConfig(num_sampling_steps=1, cfg_scale=1., seed=seed, num_frames=2, image_size=(16, 16), fps=8)
        return SimpleNamespace(video=Video(np.full((2, 16, 16, 3), seed, np.uint8), prompt, config))
    monkeypatch.setattr(classroom, 'make', make)

def ask(room, turns, flags, who, prompt, seed):
    return list(make_for(None, room, turns, flags, who, prompt, dict(seed=seed)))[-1]

def test_twenty_people(quick, tmp_path):
    "A hundred clips: each person gets their own, and the wall has the latest of each"
    room, turns, flags = Room(tmp_path), Turns(), Flags()
    def person(k):
        room.join(k, f'person {k}')
        return [ask(room, turns, flags, k, f'prompt of {k}', 10*k + i) for i in range(5)]
    with ThreadPoolExecutor(20) as pool: clips = list(pool.map(person, range(20)))
    for k, mine in enumerate(clips):
        assert [(c.name, c.prompt, f'seed {10*k + i}' in c.settings) for i, c in enumerate(mine)] == \
            [(f'person {k}', f'prompt of {k}', True)]*5
    assert len({c.number for mine in clips for c in mine}) == len(room.clips) == 100
    assert {c.name: c.number for c in room.wall()} == {mine[-1].name: mine[-1].number for mine in clips}
    assert not turns.waiting and not turns.served
    again = Room(tmp_path)                                       # started again
    assert again.clips == room.clips and again.count == 100

def test_who_leaves_frees_the_place(quick, tmp_path):
    room, turns, flags = Room(tmp_path), Turns(), Flags()
    for who in 'abc': room.join(who, who)
    first = turns.enter('a')
    waiting = make_for(None, room, turns, flags, 'b', 'x', dict(seed=1))
    assert next(waiting) == '1 before you.'
    with pytest.raises(Full, match='a clip is being made for you'): ask(room, turns, flags, 'b', 'x', 2)
    flags.up('b')
    with pytest.raises(Stopped): list(waiting)
    assert not turns.waiting
    first.leave()
    assert ask(room, turns, flags, 'c', 'x', 3).name == 'c'

def test_a_line_that_a_crash_cut_off(quick, tmp_path):
    room = Room(tmp_path)
    room.join('a', 'a')
    clip = ask(room, Turns(), Flags(), 'a', 'x', 1)
    with open(tmp_path/'wall.jsonl', 'a') as f: f.write('{"number": 2, "na')
    assert Room(tmp_path).clips == [clip]

def test_names_and_prompts_are_text(quick, tmp_path):
    "Markup is shown, not run; a long prompt is shortened on the wall and whole in the export"
    room = Room(tmp_path)
    room.join('a', '<b>x</b>')
    ask(room, Turns(), Flags(), 'a', '<script>1</script>' + 'y'*500, 1)
    page = wall_html(room)
    assert '<script' not in page and '&lt;b&gt;x' in page and 'y'*200 not in page.split('<figcaption>')[1]
    room.teach('t', room.code)
    import zipfile
    kept = zipfile.ZipFile(export_wall(room, tmp_path/'w.zip')).read('clips.jsonl').decode()
    assert 'y'*500 in json.loads(kept)['prompt']

@pytest.mark.parametrize('do, more', [('clear', {}), ('remove', dict(number=1)), ('set_limits', dict(prompt=''))])
def test_only_the_teacher(quick, tmp_path, do, more):
    room = Room(tmp_path, Limits(prompt='the task'))
    room.join('a', 'a')
    ask(room, Turns(), Flags(), 'a', 'mine', 1)
    with pytest.raises(ValueError, match='only the teacher'): getattr(room, do)('a', **more)
    assert room.clips[0].prompt == room.limits.prompt == 'the task'
