"""Scores of real and broken files, without weights and with made ones, through Python and through the command."""
import json, pickle, shlex, shutil
from pathlib import Path
import numpy as np, pytest, torch
from opensora_nb.app.cli import main
from opensora_nb.app.opensora_cli import from_original
from opensora_nb.core import real_data
from opensora_nb.data import scores
from opensora_nb.data.camera import CameraMotion
from opensora_nb.data.clip_scores import Aesthetic, Match
from opensora_nb.data.duplicates import Hash, drop_duplicates, hash_rows
from opensora_nb.data.quality import Quality, find_bars
from opensora_nb.data.scenes import detect_scenes, practice_clip
from opensora_nb.data.scores import FlowDis, FlowRaft, TextArea, score_rows
from opensora_nb.data.tables import read_frame
from opensora_nb.data.video_io import iter_video, read_at, write_video
from test_clip import write_clip
from test_video_reading import record

ROOT = real_data()
needs_films = pytest.mark.skipif(ROOT is None, reason="the folder of real clips is absent")
OFFLINE = FlowDis(), TextArea(), Quality(), CameraMotion(), Hash()

@pytest.mark.parametrize('scorer', OFFLINE, ids=lambda s: s.name)
def test_broken_and_black_files_are_never_scored_in_silence(tmp_path, scorer):
    "Whatever the scorer: NaN or nothing, with a reason where there is one, and the rows stay in order"
    (tmp_path/'zero.mp4').write_bytes(b'')
    whole = write_video(tmp_path/'good.mp4', practice_clip(0, 24), 24)
    (tmp_path/'half.mp4').write_bytes(whole.read_bytes()[:-2000])
    write_video(tmp_path/'black.mp4', np.zeros((24, 64, 96, 3), np.uint8), 24)
    names = ['zero.mp4', 'good.mp4', 'half.mp4', 'none.mp4', 'black.mp4', 'film.txt']
    shutil.copy(whole, tmp_path/'film.txt')
    got = score_rows([dict(path=n) for n in names], scorer, tmp_path, batch_size=2)
    assert [r['path'] for r in got] == names
    def known(row): return {c for c in scorer.columns if row[c] not in ('', None) and row[c] == row[c]}
    for row in got:
        assert all(row[f'{c}_model'] == scorer.model for c in scorer.columns)
        bad = row['path'] not in ('good.mp4', 'black.mp4')
        assert bool(row.get('error')) == bad
        if bad: assert not known(row)
    assert known(got[1]) == set(scorer.columns)
    assert known(got[4]) == ({'black'} if scorer.name == 'quality' else set())

def test_scorers_travel_to_other_processes():
    "A pool sends them by pickle, models stay behind"
    for scorer in (*OFFLINE, FlowRaft("x"), Aesthetic("a", "b"), Match("a")):
        assert pickle.loads(pickle.dumps(scorer)) == scorer

def test_odd_files_are_scored_as_people_see_them(tmp_path):
    "Lying on its side, in 4:4:4, of uneven rate: the same speed within a tenth"
    clip = practice_clip(1, 24, step=(2, 0))
    plain = write_video(tmp_path/'plain.mp4', clip, 24)
    exact = write_video(tmp_path/'exact.mp4', clip, 24, crf=0)
    turned = record(tmp_path/'turned.mp4', clip, rate=24, matrix=[0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30])
    got = score_rows([dict(path=str(p)) for p in (plain, exact, turned)], FlowDis())
    speeds = [r['flow_dis_per_s'] for r in got]
    assert all(abs(s/speeds[0] - 1) < .1 for s in speeds)
    labels = [r['cmotion_affine'] for r in score_rows(got, CameraMotion())]
    assert labels[0] == labels[1] == 'pan_right' and labels[2] in ('tilt_up', 'tilt_down')

def test_ten_frames_are_enough(tmp_path):
    "A clip shorter than the original's 31 frames has a motion score, not one that is drawn to zero"
    clip = practice_clip(1, 40, step=(1, 0))
    rows = [dict(path=str(write_video(tmp_path/f'{n}.mp4', clip[:n], 24))) for n in (10, 40)]
    short, long = (r['flow_dis'] for r in score_rows(rows, FlowDis()))
    assert abs(short/long - 1) < .15

def test_raft_is_used_as_torchvision_has_it(tmp_path, monkeypatch):
    "A stand-in for the network: it gets pixels from -1 to 1 at 320 x 576, and its last answer counts"
    seen = []
    def net(a, b):
        seen.append((tuple(a.shape), float(a.min()), float(a.max())))
        return [torch.zeros(1, 2, 320, 576), torch.full((1, 2, 320, 576), -3.)]
    monkeypatch.setattr(scores, '_raft', lambda weights, device: net)
    monkeypatch.setattr(scores, 'has_package', lambda name: True)
    path = write_video(tmp_path/'clip.mp4', practice_clip(0, 31), 24)
    row, = score_rows([dict(path=str(path))], FlowRaft('raft_large.pth'))
    assert row['flow'] == 3 and row['flow_model'] == 'raft raft_large'
    assert len(seen) == 3 and seen[0][0] == (1, 3, 320, 576) and -1 <= seen[0][1] < seen[0][2] <= 1
    monkeypatch.setattr(scores, 'has_package', lambda name: False)
    with pytest.raises(ImportError, match='pip install torch torchvision'): FlowRaft('x').prepare()

def test_clip_scores_equal_those_of_transformers(tmp_path):
    "Match is 100 times the cosine that transformers computes from the same pixels and words"
    from transformers import CLIPModel, CLIPTokenizer
    from opensora_nb.data.clip_scores import clip_input
    folder = write_clip(tmp_path/'clip')
    (folder/'tokenizer_config.json').write_text(json.dumps(dict(tokenizer_class='CLIPTokenizer')))
    path = write_video(tmp_path/'c.mp4', practice_clip(0, 9), 24)
    row, = score_rows([dict(path=str(path), text='a calm sea')], Match(str(folder)))
    model, words = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    given = words(['a calm sea'], max_length=77, padding='max_length', truncation=True, return_tensors='pt')
    with torch.no_grad(): out = model(**given, pixel_values=clip_input(list(read_at(path, [4])), 32))
    cosine = (out.image_embeds*out.text_embeds).sum()
    assert abs(row['match'] - 100*float(cosine)) < 1e-3

ORIGINAL = { # lines of the original -> ours
    'python -m tools.scene_cut.scene_detect meta.csv': 'data scenes --preset 1.2 meta.csv',
    'python -m tools.scene_cut.cut meta.csv --save_dir clips': 'data cut meta.csv --save-dir clips --shorter-size 1080',
    'python -m tools.scene_cut.cut m.csv --save_dir c --min_seconds 2 --max_seconds=15 --shorter_size 720':
        'data cut m.csv --save-dir c --min-seconds 2 --max-seconds 15 --shorter-size 720',
    'torchrun --nproc_per_node 8 -m tools.scoring.aesthetic.inference m.csv --num_frames 1 --bs 1024':
        'data score aes m.csv --frames 1 --batch-size 1024',
    'torchrun --standalone --nproc_per_node 8 -m tools.scoring.optical_flow.inference m.csv': 'data score flow m.csv',
    'torchrun --nproc_per_node 8 tools/scoring/ocr/inference.py m.csv': 'data score text m.csv',
    'torchrun --nproc_per_node 8 -m tools.scoring.matching.inference m.csv': 'data score match m.csv',
    'python -m tools.caption.camera_motion_detect m.csv': 'data score camera m.csv',
    'python -m tools.caption.camera_motion.detect m.csv --threshold 0.2': 'data score camera m.csv --threshold 0.2'}

@pytest.mark.parametrize('line', ORIGINAL)
def test_lines_of_the_original(line): assert from_original(shlex.split(line))[0] == ORIGINAL[line].split()

def test_the_commands_make_one_table_from_films(tmp_path, capsys):
    "Scenes, cut, score: clips beside the table, and a film that cannot be read is in all of them, with its reason"
    film = np.concatenate([practice_clip(k, 20) for k in (0, 1)])
    write_video(tmp_path/'film.mp4', film, 24)
    (tmp_path/'bad.mp4').write_text('no')
    (tmp_path/'meta.csv').write_text('path,text\nfilm.mp4,clouds\nbad.mp4,none\n')
    assert not main(['data', 'scenes', f'{tmp_path}/meta.csv', '--picture', f'{tmp_path}/cuts.png'])
    assert not main(['data', 'cut', f'{tmp_path}/meta_timestamp.csv', '--save-dir', f'{tmp_path}/clips'])
    clips = f'{tmp_path}/meta_timestamp_clips.csv'
    assert not main(['data', 'score', 'quality', clips, '--out', f'{tmp_path}/q.parquet'])
    rows = read_frame(tmp_path/'q.parquet').to_dicts()
    assert [r['path'] for r in rows] == ['clips/film_scene-0.mp4', 'clips/film_scene-1.mp4', 'bad.mp4']
    assert rows[0]['sharpness'] > 0 and rows[2]['sharpness'] is None and 'readable' in rows[2]['error']
    assert '2 shots' in capsys.readouterr().out and (tmp_path/'cuts.png').stat().st_size > 1000
    assert main(['data', 'score', 'flow', f'{tmp_path}/bad.mp4']) == 1
    assert main(['data', 'score', 'aes', f'{tmp_path}/meta.csv']) == 1
    assert 'needs the head' in capsys.readouterr().err

def test_a_table_in_another_folder_still_finds_its_clips(tmp_path, capsys):
    "--out anywhere, no --root: the next command reads the new table; films that differ in their suffix are both cut"
    raw, film = tmp_path/'raw', practice_clip(0, 8)
    for name in ('a.mp4', 'a.mov'): write_video(raw/name, film, 24)
    (raw/'meta.csv').write_text('path\na.mp4\na.mov\n')
    def paths(table): return read_frame(tmp_path/table)['path'].to_list()
    def data(*words): return main(['data', *(str(tmp_path/w) if '.csv' in w or w == 'clips' else w for w in words)])
    assert not data('score', 'hash', 'raw/meta.csv', '--out', 'raw/h.csv') and paths('raw/h.csv') == ['a.mp4', 'a.mov']
    assert not data('score', 'hash', 'raw/meta.csv', '--out', 'up.csv')
    assert paths('up.csv') == ['raw/a.mp4', 'raw/a.mov']
    assert not data('score', 'hash', 'up.csv', '--out', 'far/off.csv')
    assert paths('far/off.csv') == [str(raw/'a.mp4'), str(raw/'a.mov')]
    assert not data('tag', 'far/off.csv', '--key', 'auto', '--out', 'far/auto.csv')
    assert all(read_frame(tmp_path/'far/auto.csv')['text_auto'])
    assert not data('score', 'hash', 'raw/meta.csv', '--out', 'told.csv', '--root', str(raw))
    assert paths('told.csv') == ['a.mp4', 'a.mov'] # as the user says, with the same --root for the next command
    assert not data('cut', 'up.csv', '--save-dir', 'clips', '--out', 'cut.csv')
    assert paths('cut.csv') == ['clips/a_mp4_scene-0.mp4', 'clips/a_mov_scene-0.mp4']

@needs_films
@pytest.mark.slow
def test_motion_of_real_clips_grows_with_their_speed(tmp_path):
    "Stopped, as it is, twice and four times as fast: the motion score is in this order for every clip"
    for path in sorted([*(ROOT/'clips').glob('*'), *(ROOT/'local_only').glob('*.mp4')]):
        first, last = max(detect_scenes(path).shots, key=lambda shot: shot[1] - shot[0]) # films are cut before
        clip = np.stack(list(iter_video(path, longest=320)))[first:min(last, first + 240)]
        if len(clip) < 20: continue
        middle = len(clip)//2 # some films begin in the dark
        speeds = np.repeat(clip[middle:middle+1], 30, 0), clip, clip[::2], clip[::4]
        rows = [dict(path=str(write_video(tmp_path/f'x{k}.mp4', c, 24))) for k, c in enumerate(speeds)]
        got = [r['flow_dis_per_s'] for r in score_rows(rows, FlowDis())]
        assert got == sorted(got) and got[0] < got[1], (path.name, got)

@needs_films
def test_bars_over_a_real_clip_are_found_within_two_pixels(tmp_path):
    "Planted above, below and at the sides of a real picture, after compression"
    frames = read_at(ROOT/'clips'/'stream_of_water.mp4', range(0, 24, 3), longest=256)
    h, w = frames.shape[1:3]
    for top, bottom, left, right in ((18, 18, 0, 0), (0, 0, 30, 30), (7, 20, 0, 0), (10, 10, 16, 16)):
        boxed = np.zeros_like(frames)
        boxed[:, top:h-bottom, left:w-right] = frames[:, top:h-bottom, left:w-right]
        path = write_video(tmp_path/'boxed.mp4', boxed, 24, crf=28)
        found = find_bars(np.stack(list(iter_video(path))))
        assert max(abs(a - b) for a, b in zip(found, (top, bottom, left, right))) <= 2

@needs_films
def test_near_duplicates_of_real_clips(tmp_path):
    "A smaller, poorer copy repeats its clip; another clip does not"
    clips = [read_at(ROOT/'clips'/n, range(24), longest=256) for n in ('stream_of_water.mp4', 'dog_eating.mp4')]
    made = dict(a=(clips[0], 18), b=(clips[1], 18), poor=(clips[0][:, ::2, ::2], 34))
    rows = [dict(path=str(write_video(tmp_path/f'{k}.mp4', c, 24, crf=crf))) for k, (c, crf) in made.items()]
    assert [Path(r['path']).stem for r in drop_duplicates(hash_rows(rows))] == ['a', 'b']
