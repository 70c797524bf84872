"`osnb eval distances`: what it measures of two folders, and what it refuses, by name and with both numbers"
import json, re
import numpy as np, pytest, torch
from opensora_nb.app.cli import main
from opensora_nb.data.video_io import write_video
from opensora_nb.toy.world import ToyClips

def clips_of(n, seed=0, frames=8, side=32):
    "Toy clips, smaller"
    some = ToyClips(n, seed, 'core', 'all')
    return np.stack([some[i].video[:frames, :2*side:2, :2*side:2] for i in range(n)])

def as_run(folder, clips, fps=8):
    "As `osnb eval report` leaves the clips of a run"
    folder.mkdir(parents=True)
    for k, part in enumerate(np.array_split(clips, 2)):
        np.save(folder/f'clips_{k:04}.npy', part)
        (folder/f'clips_{k:04}.json').write_text(json.dumps(dict(seconds=1., memory=1., clips=len(part), fps=fps)))
    return folder

def as_videos(folder, clips, fps=8):
    for i, c in enumerate(clips): write_video(folder/f'{i}.mp4', c, fps)
    return folder

def distances(capsys, *words):
    "Exit code, what was printed, and the error"
    code = main(['eval', 'distances', *map(str, words), '--draws', '4'])
    return code, *capsys.readouterr()

def test_two_runs_of_a_report(tmp_path, capsys):
    "Six distances with intervals; bias and extrapolation; grey clips are farther off by every one of them"
    true, grey = clips_of(140, 1), clips_of(140, 2).mean(-1, keepdims=True).astype(np.uint8).repeat(3, -1)
    a, b, c = as_run(tmp_path/'a', true), as_run(tmp_path/'b', clips_of(140, 3)), as_run(tmp_path/'c', grey)
    found = []
    for other in (b, c):
        code, out, err = distances(capsys, a, other, '--json', tmp_path/'n.json')
        assert code == 0 and 'fid is too large by' in out
        found.append(json.loads((tmp_path/'n.json').read_text()))
    names = ['fvd', 'fvd_infinite', 'kvd', 'fid', 'fid_infinite', 'kid']
    near, far = ({m['name']: m for m in f['measured']} for f in found)
    assert [*near] == [*far] == names and not found[0]['left_out']
    assert all(m['n'] == 140 and m['low'] <= m['value'] <= m['high'] for m in near.values())
    assert all(near[n]['high'] < far[n]['low'] for n in names)
    for name, bias in found[0]['bias'].items():
        assert bias == pytest.approx(near[name]['value'] - near[f'{name}_infinite']['value']) and bias > 0

def test_few_clips_get_kernel_distances_and_reasons(tmp_path, capsys):
    "Videos against a run: fewer samples than feature dimensions are no FID, and the numbers are said"
    a, b = as_videos(tmp_path/'a', clips_of(3, 1)), as_run(tmp_path/'b', clips_of(4, 2))
    code, out, err = distances(capsys, a, b)
    assert code == 0 and 'b (4 clips) against' in out
    assert [w.split()[0] for w in out.splitlines()[2:4]] == ['kvd', 'kid']
    assert 'fvd is not measured: 3 clips are too few for 64 features; give at least 65 in each folder' in out
    assert 'fid_infinite is not measured: 3 clips are too few for a line; give at least 66' in out

def test_sizes_lengths_and_rates_that_differ(tmp_path, capsys):
    "Both numbers and the next step; --any-size measures all the same"
    a = as_videos(tmp_path/'a', clips_of(2, 1))
    others = {
        'shorter': (clips_of(2, 1, frames=4), 8, 'those of .*shorter 4 frames of 32 x 32.*--num-frames 8'),
        'smaller': (clips_of(2, 1, side=16), 8, 'have 8 frames of 32 x 32, those of .*smaller 8 frames of 16 x 16'),
        'faster': (clips_of(2, 1), 24, 'run at 8 frames a second, those of .*faster at 24; .*--save-fps 8')}
    for name, (clips, fps, said) in others.items():
        b = as_videos(tmp_path/name, clips, fps)
        code, out, err = distances(capsys, a, b)
        assert code == 1 and not out and err.count('\n') == 1
        assert re.search(said, err)
        assert distances(capsys, a, b, '--any-size')[0] == 0
    run = as_run(tmp_path/'run', clips_of(2, 1), fps=24)
    assert 'those of' in (err := distances(capsys, a, run)[2]) and 'at 24' in err

@pytest.mark.parametrize('second, said', [
    ('one', 'holds one clip, 0'), ('mixed', '1 has 4 frames of 32 x 32, 0 has 8 frames of 32 x 32'),
    ('rates', '1 runs at 24 frames a second, 0 at 8'), ('report', 'is a report of several runs; give one of them: '),
    ('lost', 'lacks clips_0001.npy; the osnb eval report that wrote it makes them again'),
    ('nowhere', 'there is no folder'), ('a', 'are one folder; give two')])
def test_folders_that_are_no_set(second, said, tmp_path, capsys):
    clips = clips_of(4, 1)
    a = as_videos(tmp_path/'a', clips[:2])
    as_videos(tmp_path/'one', clips[:1])
    write_video(as_videos(tmp_path/'mixed', clips[:1])/'1.mp4', clips[1][:4], 8)
    write_video(as_videos(tmp_path/'rates', clips[:1])/'1.mp4', clips[1], 24)
    for name in ('tiny', 'worlds'): as_run(tmp_path/'report'/name, clips)
    (tmp_path/'report'/'suite.json').write_text('{}')
    (as_run(tmp_path/'lost', clips)/'clips_0001.npy').unlink()
    code, out, err = distances(capsys, a, tmp_path/second)
    assert (code, out) == (1, '') and said in err and err.count('\n') == 1

def test_features_that_are_no_numbers_are_named(tmp_path, capsys):
    "A network with a broken weight: the clips, not a traceback and not a distance"
    from transformers import VideoMAEConfig, VideoMAEModel
    net = VideoMAEModel(VideoMAEConfig(image_size=32, patch_size=16, num_frames=4, hidden_size=24, num_hidden_layers=1,
                                       num_attention_heads=2, intermediate_size=32))
    net.save_pretrained(tmp_path/'good')
    with torch.no_grad(): next(net.parameters()).fill_(torch.nan)
    net.save_pretrained(tmp_path/'broken')
    a, b = as_videos(tmp_path/'a', clips_of(2, 1)), as_videos(tmp_path/'b', clips_of(2, 2))
    code, out, err = distances(capsys, a, b, '--network', tmp_path/'good')
    assert code == 0 and 'kvd' in out and 'fid is not measured: the network sees clips, not frames' in out
    code, out, err = distances(capsys, a, b, '--network', tmp_path/'broken')
    assert (code, out) == (1, '') and 'not finite for 2 of 2 clips of' in err and ': 0, 1; look at its weights' in err

def test_networks_of_papers_from_their_files(tmp_path, capsys):
    "Inception gives KID, I3D gives KVD, with files as they were released; random numbers stand in for theirs"
    from opensora_nb.metrics.standard_networks import NETWORKS
    a, b = as_videos(tmp_path/'a', clips_of(2, 1, frames=9)), as_videos(tmp_path/'b', clips_of(2, 2, frames=9))
    for name, row, other in (('inception', 'kid', 'fvd'), ('i3d', 'kvd', 'fid')):
        words = a, b, '--network', name, '--network-folder', tmp_path/'w'
        code, out, err = distances(capsys, *words)
        file, kind = next(iter(NETWORKS[name].items()))
        assert (code, out) == (1, '') and file in err and 'nothing is downloaded' in err and err.count('\n') == 1
        (tmp_path/'w').mkdir(exist_ok=True)
        torch.save({k: v for k, v in kind().state_dict().items() if 'num_batches' not in k}, tmp_path/'w'/file)
        code, out, err = distances(capsys, *words)
        assert code == 0 and f'\n{row} ' in out and f'{other} is not measured: the network sees' in out
    short = as_videos(tmp_path/'short', clips_of(2, 1)), as_videos(tmp_path/'brief', clips_of(2, 2))
    assert 'I3D needs 9 frames or more' in distances(capsys, *short, *words[2:])[2]

@pytest.mark.parametrize('word, said', [('inceptoin', "'inceptoin'; did you mean inception?"),
                                        ('nowhere/mae', "inception, i3d or the folder of a VideoMAE")])
def test_a_network_that_is_not_there(word, said, tmp_path, capsys):
    a, b = as_videos(tmp_path/'a', clips_of(2, 1)), as_videos(tmp_path/'b', clips_of(2, 2))
    code, out, err = distances(capsys, a, b, '--network', word)
    assert (code, out) == (1, '') and said in err and err.count('\n') == 1
