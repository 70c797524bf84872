"""Clips, prompts and folders that cannot be measured: every command of `osnb eval` says what is wrong by name, in one
sentence, and prints no number"""
import json, re
import numpy as np, pytest, torch
from opensora_nb.app.cli import main
from opensora_nb.data.video_io import write_video
from opensora_nb.toy.world import ToyClips

def save_broken_network(folder):
    "A VideoMAE with a layer of NaN"
    from transformers import VideoMAEConfig, VideoMAEModel
    net = VideoMAEModel(VideoMAEConfig(image_size=32, patch_size=16, num_frames=4, hidden_size=24, num_hidden_layers=1,
                                       num_attention_heads=2, intermediate_size=32))
    with torch.no_grad(): next(net.parameters()).fill_(torch.nan)
    net.save_pretrained(folder)

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Folders of small clips: good ones, and one for each fault"
    here, world = tmp_path_factory.mktemp('faults'), ToyClips(5, 1, 'core', 'all')
    clips = [world[i].video[:8, ::2, ::2] for i in range(5)]
    def folder(name, some, fps=8, names='abcde'):
        for c, n, rate in zip(some, names, np.broadcast_to(fps, len(some)).tolist()):
            write_video(here/name/f'{n}.mp4', c, rate)
    good, small = clips[:3], [c[:, ::2, ::2] for c in clips[:3]]
    folder('A', good)
    folder('B', clips[2:])
    for name, some in dict(short=[c[:4] for c in good], fewer=good[:2], small=small, one=good[:1]).items():
        folder(name, some)
    folder('names', good, names='abx')
    folder('fast', good, 24)
    folder('rates', good, [8, 24, 8])
    folder('sizes', [good[0], small[1], good[2]])
    folder('stills', [c[:1] for c in good])
    folder('vb', clips, names=[f'a-{k}' for k in range(5)])
    folder('vb', clips[:4], names=[f'b-{k}' for k in (0, 1, 3, 4)])
    (here/'none').mkdir()
    info = json.dumps([dict(prompt_en=p, dimension=['scene']) for p in 'ab'])
    for name, text in {'info.json': info, 'two.txt': 'a\nb\n', 'empty.txt': ' \n\n', 'empty.json': '[]',
                       'empty.csv': 'path,text\n', 't2v_samples.txt': '\n', 'VBench/all_dimension.txt': ''}.items():
        (here/name).parent.mkdir(exist_ok=True)
        (here/name).write_text(text)
    run = here/'report'/'tiny' # as `osnb eval report` leaves it, but for its clips
    run.mkdir(parents=True)
    (run/'clips_0000.json').write_text(json.dumps(dict(seconds=1., memory=1., clips=2, fps=8)))
    save_broken_network(here/'nan')
    return here

PAIRS = 'vae --real-video-dir A --generated-video-dir '
FAULTS = { # line after `osnb eval` -> what is said
    # two folders of different length or names
    PAIRS + 'fewer':  'A holds 3 clips, fewer holds 2; 1 of A have no partner: c',
    PAIRS + 'names':  '1 of A have no partner: c; 1 of names have no partner: x',
    'vote A fewer':   'fewer lacks 1 \\(c\\); --common votes on the 2 that all hold',
    'vote A names':   'A lacks 1 \\(x\\); names lacks 1 \\(c\\)',
    # one clip, or none
    'distances A one':  'one holds one clip, a; a distance of sets needs 2 or more',
    'distances A none': 'none holds no videos or pictures',
    'vote A':           'a vote compares at least two folders',
    'vbench score none --offline': 'none holds no clip',
    'report tiny --num 1':         'num is a number from 2',
    # clips of different sizes, lengths or rates
    PAIRS + 'small':     'a is 32x32 in A and 16x16 in small; --resolution',
    PAIRS + 'short':     'a has 8 frames in A and 4 in short; give --num-frames',
    PAIRS + 'fast':      'a runs at 8 frames a second in A and at 24 in fast',
    'distances A small': 'A have 8 frames of 32 x 32, those of small 8 frames of 16 x 16; sample one set',
    'distances A short': 'A have 8 frames of 32 x 32, those of short 4 frames of 32 x 32; sample one set',
    'distances A fast':  'A run at 8 frames a second, those of fast at 24; sample one set',
    'distances A rates': 'rates: b runs at 24 frames a second, a at 8; make them alike',
    'distances A sizes': 'sizes: b has 8 frames of 16 x 16, a has 8 frames of 32 x 32; make them alike',
    'vote A small':      'a has 32x32 pixels in A and 16x16 in small',
    'vote A fast':       'a has 8.0 frames a second in A and 24.0 in fast',
    'vbench score rates --offline':  'rates: b.mp4 runs at 24 frames a second, a.mp4 at 8; .* score them apart',
    'vbench score sizes --offline':  'sizes: b.mp4 has 8 frames of 16 x 16, a.mp4 has 8 frames of 32 x 32; .* apart',
    'vbench score stills --offline': 'stills: a.mp4 is a single frame, and motion needs 2 or more',
    # features that are no numbers
    'distances A B --network nan': 'not finite for 3 of 3 clips of A: a, b, c; look at its weights',
    # an empty list of prompts, or of clips
    'vbench generate tiny --prompts empty.txt':  'empty.txt holds no prompt',
    'vbench generate tiny --prompts empty.json': 'empty.json holds no prompt',
    'human 2a --prompts .':    't2v_samples.txt. holds no prompt',
    'human 4 --prompts .':     'all_dimension.txt. holds no prompt',
    'report tiny --data empty.csv': 'empty.csv has column names but no rows',
    'loss tiny --data empty.csv':   'empty.csv has column names but no rows',
    # a folder of VBench with a missing seed
    'vbench score vb --prompts info.json --dimensions scene': 'vb lacks 1 of 10 clips: b-2.mp4',
    'vbench score vb --prompts two.txt --offline': 'vb lacks 1 of 10 clips: b-2.mp4',
    # a report without its clips
    'distances report/tiny A': 'report/tiny lacks clips_0000.npy; the osnb eval report that wrote it makes them again'}

@pytest.mark.parametrize('line', FAULTS)
def test_what_is_wrong_is_named(line, place, monkeypatch, capsys):
    "Exit code 1, nothing on standard output, one sentence that a user can act on"
    monkeypatch.chdir(place)
    code = main(['eval', *line.split()])
    out, err = capsys.readouterr()
    said = [part for part in err.splitlines() if part.startswith('osnb: error')]
    assert (code, out, len(said)) == (1, '', 1), err
    assert re.search(FAULTS[line], said[0]) and 'Traceback' not in err

def test_fewer_samples_than_features(place, monkeypatch, capsys):
    "What can be said is said, what cannot is left out with the number that it takes"
    monkeypatch.chdir(place)
    assert main(['eval', 'distances', 'A', 'B', '--draws', '4', '--json', 'n.json']) == 0
    out, found = capsys.readouterr().out, json.loads((place/'n.json').read_text())
    assert [m['name'] for m in found['measured']] == ['kvd', 'kid'] and [*found['left_out']][0] == 'fvd'
    assert 'fvd is not measured: 3 clips are too few for 64 features; give at least 65 in each folder' in out

@pytest.mark.filterwarnings('always')
def test_a_seed_that_is_missing_without_a_list_of_prompts(place, monkeypatch, capsys):
    "Nothing says that it should be there but the other prompts: a warning names it"
    monkeypatch.chdir(place)
    assert main(['eval', 'vbench', 'score', 'vb', '--offline']) == 0
    out, err = capsys.readouterr()
    assert 'vb lacks b-2.mp4' in err and ' 9\n' in out

def test_clips_that_were_thrown_away_are_made_again(place):
    "A report whose clips are gone does not fail over it, and they are the same"
    from opensora_nb.metrics.suite_runs import SuiteConfig, SuiteRun, toy_task
    cfg = SuiteConfig(num=2, seeds=1, num_frames=5, image_size=(32, 32), num_sampling_steps=1)
    run, task = SuiteRun('tiny', 'tiny', place/'again'), toy_task(cfg)
    run.sample(task, cfg, progress=False)
    before = np.load(run.clip_files()[0])
    run.clip_files()[0].unlink()
    run.sample(task, cfg, progress=False)
    assert np.array_equal(before, np.load(run.clip_files()[0]))
