"""Shots of files as they really come: turned, uneven, in 4:4:4, with several streams, broken; and of real films."""
import json, shutil
from pathlib import Path
import av, numpy as np, pytest
from opensora_nb.core import real_data
from opensora_nb.data import scenes
from opensora_nb.data.scenes import (CutOptions, cut_rows, cut_video, detect_scenes, practice_clip,
                                     scene_rows, score_cuts)
from opensora_nb.data.video_io import read_video, write_video
from test_video_reading import record

ROOT = real_data()
needs_films = pytest.mark.skipif(ROOT is None, reason="the folder of real clips is absent")
FILM = np.concatenate([practice_clip(seed, 20) for seed in (0, 1, 2)])

@pytest.fixture(scope='module')
def film(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp('scenes')/'film.mp4', FILM, 24)

def test_variable_rate_is_cut_by_time_and_counted_by_frame(tmp_path):
    "Frames of uneven length: the cut is the decoded frame, its second is that of the time stamp"
    ms = np.cumsum([0] + [20 if i % 3 else 90 for i in range(59)]).tolist()
    path = record(tmp_path/'uneven.mp4', FILM, ms=ms)
    found = detect_scenes(path)
    assert found.cuts == (20, 40)
    assert found.seconds[1] == (ms[20]/1000, ms[40]/1000)
    clips = cut_video(path, found.seconds, tmp_path/'clips')
    for k, clip in enumerate(clips): # about the mean rate; every frame of the clip belongs to its shot
        got = read_video(clip.path)
        assert abs(len(got) - 20) <= 1
        nearest = [np.abs(FILM.astype(int) - image).mean((1, 2, 3)).argmin() for image in got]
        assert min(nearest) >= 20*k and max(nearest) < 20*k + 20 and nearest == sorted(nearest)

def test_a_clip_is_upright_as_its_film(tmp_path):
    "A phone's film lies on its side in the file; clips are stored upright"
    path = record(tmp_path/'turned.mp4', FILM, matrix=[0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30])
    assert detect_scenes(path).cuts == (20, 40)
    clip, *_ = cut_video(path, [(0, .5)], tmp_path)
    assert read_video(clip.path).shape[1:3] == (96, 64)

@pytest.mark.parametrize('quick', (False, True))
def test_full_chroma_and_other_containers(tmp_path, quick):
    "4:4:4, and VP9 in WebM, are detected and cut both ways"
    exact = write_video(tmp_path/'exact.mp4', FILM, 24, crf=0)
    webm = write_video(tmp_path/'film.webm', FILM, 24)
    for path in (exact, webm):
        found = detect_scenes(path)
        assert found.cuts == (20, 40)
        clips = cut_video(path, found.seconds, tmp_path/path.stem, CutOptions('quick' if quick else 'exact'))
        assert [len(read_video(c.path)) - c.early - c.late for c in clips] == [20]*3

def test_a_quick_cut_says_how_far_off_it_is(film, tmp_path):
    "The encoder sets a key frame at each cut: a clip from frame 47 on begins at 40, and that can be seen"
    clip, = cut_video(film, [(47/24, 60/24)], tmp_path/'clips', CutOptions('quick'))
    assert clip.early == 7 and clip.late == 0 and abs(clip.early_seconds - 7/24) < 1e-3
    got = read_video(clip.path)
    assert len(got) == 20 and np.abs(got[7].astype(int) - FILM[47]).mean() < 6
    exactly, = cut_video(film, [(47/24, 60/24)], tmp_path/'exactly')
    assert exactly.early == 0 and np.abs(read_video(exactly.path)[0].astype(int) - FILM[47]).mean() < 6

def test_a_quick_cut_holds_what_later_frames_need(film, tmp_path):
    "Copied packets decode to the frames of the film, at the end of the clip as well"
    for start, end in ((0, 20), (5, 33), (20, 40), (22, 60)):
        clip, = cut_video(film, [(start/24, end/24)], tmp_path/f'{start}', CutOptions('quick'))
        got, all_frames = read_video(clip.path), read_video(film)
        assert len(got) == clip.frames == end - start + clip.early + clip.late
        wanted = got[clip.early:len(got) - clip.late]
        assert np.abs(wanted.astype(int) - all_frames[start:end]).max() == 0

def test_broken_files_are_named_and_leave_nothing(film, tmp_path):
    "Zero bytes, no video, sound only, cut off, a wrong suffix: each row keeps its reason, no half clip stays"
    (tmp_path/'empty.mp4').write_bytes(b'')
    (tmp_path/'text.mp4').write_text('hello'*100)
    (tmp_path/'half.mp4').write_bytes(film.read_bytes()[:-9000])
    shutil.copy(film, tmp_path/'film.txt')
    with av.open(str(tmp_path/'sound.mp4'), 'w') as c:
        s = c.add_stream('aac', rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format='fltp', layout='mono')
        sound.sample_rate = 44100
        for packet in [*s.encode(sound), *s.encode()]: c.mux(packet)
    names = ['empty.mp4', 'text.mp4', 'half.mp4', 'film.txt', 'sound.mp4', 'none.mp4', '']
    rows = scene_rows([dict(path=str(tmp_path/n) if n else None) for n in names])
    assert len(rows) == len(names) and all(r['error'] and 'timestamp' not in r for r in rows)
    for row, word in zip(rows, ('readable', 'readable', '', 'suffix', 'no video stream', 'no such file', 'no path')):
        assert word in row['error']
    cut = cut_rows([dict(path=str(tmp_path/n), timestamp='[[0, 0.5]]') for n in names[:5]], tmp_path/'clips')
    assert len(cut) == 5 and all(r['error'] for r in cut)
    assert not (tmp_path/'clips').exists() or not list((tmp_path/'clips').iterdir())

def test_a_film_that_breaks_off_leaves_no_clip(film, tmp_path, monkeypatch):
    "The first shot is cut before the damage is seen; it is taken back"
    def breaks_off(path):
        for image in FILM[:30]: yield image
        raise ValueError("film.mp4 is damaged")
    monkeypatch.setattr(scenes, 'iter_video', breaks_off)
    row, = cut_rows([dict(path=str(film), timestamp='[[0, 0.5], [0.5, 2.5]]')], tmp_path/'clips')
    assert row['error'] == "film.mp4 is damaged" and not list((tmp_path/'clips').iterdir())

def test_two_films_of_one_name_do_not_overwrite_each_other(film, tmp_path):
    "rex.mp4 and rex.webm would become the same clip, and so would films of two folders: all get names of their own"
    shutil.copy(film, tmp_path/'rex.mp4')
    write_video(tmp_path/'rex.webm', FILM, 24)
    rows = [dict(path=str(tmp_path/n), timestamp='[[0, 0.5]]') for n in ('rex.mp4', 'rex.webm', 'rex.mp4')]
    first, second, again = cut_rows(rows, tmp_path/'clips')
    assert [r['relpath'] for r in (first, second, again)] == [f'rex_{s}_scene-0.mp4' for s in ('mp4', 'webm', 'mp4')]
    for name in ('x', 'y'):
        (tmp_path/name).mkdir()
        shutil.copy(film, tmp_path/name/'rex.mp4')
    made = cut_rows([dict(path=f'{n}/rex.mp4', timestamp='[[0, 0.5]]') for n in 'xy'], tmp_path/'two', root=tmp_path)
    assert [r['relpath'] for r in made] == ['x_rex_scene-0.mp4', 'y_rex_scene-0.mp4']
    cut_rows(rows[:1], tmp_path/'clips', stems={})
    with pytest.raises(ValueError, match='relpath'): # one film at a time: the clip that is there stays
        cut_rows(rows[1:2], tmp_path/'clips', stems={rows[1]['path']: 'rex'}, on_error='raise')

def test_longer_shots_lose_their_end_or_become_several(film, tmp_path):
    "As in Open-Sora the beginning is kept; chunks keep everything"
    shots = [(0, 60/24)]
    kept = cut_video(film, shots, tmp_path/'a', CutOptions(max_seconds=1))
    chunks = cut_video(film, shots, tmp_path/'b', CutOptions(max_seconds=1, chunks=True))
    assert [c.frames for c in kept] == [24] and [c.frames for c in chunks] == [24, 24, 12]
    assert [c.path.name for c in chunks] == [f'film_scene-0-{j}.mp4' for j in range(3)]

@needs_films
def test_hard_cuts_of_a_montage_of_real_clips():
    "One setting for all files: every hard cut of the exact montages, none of the fades and dissolves"
    root = ROOT/'clips_derived'
    truth = json.loads((root/'shot_ground_truth.json').read_text())
    for name in ('montage_hardcuts.mp4', 'montage_mixed_transitions.mp4'):
        got = score_cuts(detect_scenes(root/name).cuts, truth[name]['hard_cuts'])
        assert got.precision >= .95 and got.recall >= .95, (name, got)

@needs_films
@pytest.mark.slow
def test_all_real_films_have_the_cuts_that_people_saw():
    "Known cuts of the other films, and none in films of one shot, among them one whose camera shakes"
    truth = json.loads((ROOT/'clips_derived'/'shot_ground_truth.json').read_text())
    known = {Path(k).name: v['hard_cuts'] for k, v in truth.items()} | {'nasa_13013_multistream.mp4': [202]}
    folders = [ROOT/f for f in ('clips', 'clips_derived', 'local_only')]
    for path in sorted(p for f in folders for p in f.glob('*') if p.suffix in ('.mp4', '.webm')):
        assert list(detect_scenes(path).cuts) == known.get(path.name, []), path.name

@needs_films
def test_short_and_many_streamed_files():
    "Ten frames are a shot; of several streams the first is cut"
    assert detect_scenes(ROOT/'clips'/'river_10f.mp4').shots == [(0, 10)]
