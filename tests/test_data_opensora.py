"Open-Sora's data pipeline as a command: raw videos in, a table that trains out"
import os, random, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest
from opensora_nb.app.cli import main
from opensora_nb.data.dataset import DataConfig, open_data
from opensora_nb.data.opensora import OpenSoraRecipe, run_opensora
from opensora_nb.data.scenes import practice_clip
from opensora_nb.data.video_io import write_video
from opensora_nb.endpoint import practice_server

ROOT = Path(__file__).resolve().parent.parent
QUICK = '--without', 'ocr,camera,quality', '--workers', '0'

@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    "Three films of two shots each, one of them without a caption, and a file that is no video"
    folder = tmp_path_factory.mktemp('raw')
    for k, name in enumerate('abc'):
        shots = [practice_clip(2*k + i, 20, (48, 64), (2, i)) for i in (0, 1)]
        write_video(folder/f'{name}.mp4', np.concatenate(shots), fps=10)
        if name != 'c': (folder/f'{name}.txt').write_text(f'In this video, clouds of kind {name}')
    (folder/'bad.mp4').write_text('404')
    return folder

def test_raw_videos_to_a_table_that_trains(raw, tmp_path, capsys):
    "What is left out is said, what is dropped is named, and plan and training read the table"
    table = tmp_path/'table.csv'
    assert main(['data', 'run', 'opensora', str(raw), '--out', str(table), *QUICK]) == 0
    said = capsys.readouterr().out
    assert 'aes: it lacks weights (clip and aes_head)' in said and 'match: it lacks weights (clip); left out' in said
    assert '4 rows' in said and (tmp_path/'table_run'/'report.html').exists()
    assert 'c_scene-0.mp4,it has no caption' in (tmp_path/'table_run'/'dropped.csv').read_text()
    source = open_data(DataConfig(str(table), num_frames=17, image_size=(32, 32)), progress=False)
    assert len(source) == 4 and source.texts(0) == ['clouds of kind a']
    assert main(['data', 'plan', str(table), '--buckets', 'toy_mix', '--max-batch', '4']) == 0

@pytest.mark.slow
def test_training_takes_the_table(raw, tmp_path):
    table = tmp_path/'table.csv'
    assert main(['data', 'run', 'opensora', str(raw), '--out', str(table), *QUICK, '--measured']) == 0
    words = ['train', 'shapes_t2v', '--quick', 'steps=3', f'data.path={table}', f'out={tmp_path/"run"}']
    assert main(words) == 0

def test_a_stage_asked_for_by_name_is_refused_without_weights(raw, tmp_path, capsys):
    assert main(['data', 'run', 'aes', str(raw), '--out', str(tmp_path/'t.csv')]) == 1
    assert 'the stage aes was asked for and lacks weights' in capsys.readouterr().err
    assert main(['data', 'run', 'aess', str(raw), '--out', str(tmp_path/'t.csv')]) == 1
    assert "there is no stage 'aess'; use some of info, scenes" in capsys.readouterr().err

def recipe_run(source, out, recipe=OpenSoraRecipe(), only=(), **how):
    return run_opensora(source, out, recipe, only, say=str, workers=0, progress=False, **how)

def test_captions_come_from_a_server(raw, tmp_path):
    "Each clip gets one, and the whole table is asked for once only"
    with practice_server('The video shows a grey cloud that drifts over a green field.') as server:
        recipe = OpenSoraRecipe(caption_model='m', caption_url=server.url)
        run = recipe_run(raw, tmp_path/'t.csv', recipe, ('info', 'scenes', 'cut', 'caption', 'clean'))
        texts, asked = [r['text'] for r in run.rows()], len(server.requests)
        recipe_run(raw, tmp_path/'t.csv', recipe, ('info', 'scenes', 'cut', 'caption', 'clean'))
        assert len(server.requests) == asked == 2 # of the film without a text
    assert texts[-1] == 'a grey cloud that drifts over a green field.' and len(texts) == 6

def test_a_server_that_is_not_there_stops_the_run_and_nobody_is_blamed(raw, tmp_path):
    with practice_server((401, b'{"error": {"message": "no such key"}}')) as server:
        recipe = OpenSoraRecipe(caption_model='m', caption_url=server.url)
        with pytest.raises(RuntimeError, match='captions: '): recipe_run(raw, tmp_path/'t.csv', recipe, ('caption',))

def test_a_table_with_other_films_of_the_same_name(tmp_path):
    "a.mp4 and a.avi in one folder: their clips do not overwrite each other"
    for k, suffix in enumerate(('mp4', 'avi')):
        write_video(tmp_path/'raw'/f'a.{suffix}', practice_clip(k, 12, (48, 64)), fps=10)
    run = recipe_run(tmp_path/'raw', tmp_path/'t.csv', only=('info', 'cut'))
    assert len({r['path'] for r in run.rows()}) == 2

@pytest.mark.slow
def test_the_recipe_killed_ten_times_ends_with_the_same_table(raw, tmp_path):
    "As a command with two workers, with kill -9 to all of its processes"
    words = [sys.executable, '-m', 'opensora_nb', 'data', 'run', 'opensora', raw, '--measured', '--workers', '2']
    def start(name):
        return subprocess.Popen([*words, '--out', tmp_path/name/'t.csv'], cwd=ROOT, start_new_session=True)
    def calls(name): return sum(f.read_bytes().count(b'\n') for f in (tmp_path/name/'t_run').glob('*.log'))
    assert start('whole').wait() == 0
    dice, most = random.Random(0), calls('whole')
    for k in range(10):
        process, upto = start('killed'), most*(k + dice.random())/10
        while calls('killed') < upto and process.poll() is None: time.sleep(.01)
        if process.poll() is None: os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start('killed').wait() == 0
    whole, killed = ((tmp_path/name/'t.csv').read_text() for name in ('whole', 'killed'))
    assert whole == killed and len(whole.splitlines()) == 7
    clips = [sorted(p.name for p in (tmp_path/name/'t_clips').rglob('*')) for name in ('whole', 'killed')]
    assert clips[0] == clips[1]
