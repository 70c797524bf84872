"The validation loss, from a terminal and in training: the same number, every clip once, and nothing else changes."
import json
import numpy as np, pytest, torch
from opensora_nb.app import cli
from opensora_nb.config import override
from opensora_nb.data.video_io import write_video
from opensora_nb.metrics import val_loss
from opensora_nb.metrics.val_loss import LossReport, logged_losses
from opensora_nb.recipes.shapes_t2v import shapes_t2v
from opensora_nb.train.loop import train

def osnb(*words): return cli.main([str(w) for w in words])

@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    "Six clips of 20 frames and one of 8, in two shapes, and a picture's size too small"
    folder = tmp_path_factory.mktemp('clips')
    rng, rows = np.random.default_rng(0), ['path,text']
    for i, (n, h, w) in enumerate([(20, 64, 64)]*3 + [(20, 96, 56)]*3 + [(8, 64, 64), (20, 32, 32)]):
        clip = rng.integers(0, 255, (1, h, w, 3)).repeat(n, 0).astype(np.uint8)
        write_video(folder/f'{i}.mp4', clip, 8)
        rows.append(f'{i}.mp4,a red circle moves left')
    (folder/'table.csv').write_text('\n'.join(rows) + '\n')
    return folder/'table.csv'

def test_every_clip_that_fits_counts_once_in_the_shape_nearest_to_its_own(clips, tmp_path, capsys):
    "Two shapes of a bucket with 3 clips each and 2 at a time: 6 clips, none left out, none twice; others are too short"
    out = tmp_path/'loss.json'
    assert osnb('eval', 'loss', 'tiny', '--data', clips, '--resolution', '64', '--frames', 9, '17', '--num-times', 2,
                '--batch-size', 2, '--output', out) == 0
    said = json.loads(out.read_text())
    assert list(said['loss']) == ['64'] and set(said['loss']['64']) == {'9', '17'}
    assert sorted(said['clips']['64/17']) == [f'{i}.mp4' for i in range(6)]
    assert float(said['loss']['64']['17']) == pytest.approx(said['measured'][1]['value'], abs=1e-4)

def test_a_stopped_measurement_goes_on_and_ends_with_the_same_numbers(clips, tmp_path, monkeypatch):
    "Stopped in the second size, run again: the first is not measured anew, and nothing differs from one go"
    words = ('eval', 'loss', 'tiny', '--data', clips, '--sizes', '17x64x64,9x48x48', '--num-times', 2, '--num', 2)
    assert osnb(*words, '--output', tmp_path/'whole.json') == 0
    right, seen = val_loss.bucket_loss, []
    def stops(pipe, parts, name, **how):
        seen.append(name)
        if name == '48x48/9' and len(seen) == 2: raise KeyboardInterrupt
        return right(pipe, parts, name, **how)
    monkeypatch.setattr(val_loss, 'bucket_loss', stops)
    assert osnb(*words, '--output', tmp_path/'parts.json') != 0
    assert osnb(*words, '--output', tmp_path/'parts.json') == 0
    assert seen == ['64x64/17', '48x48/9', '48x48/9']
    a, b = (json.loads((tmp_path/f'{n}.json').read_text()) for n in ('whole', 'parts'))
    assert a == b

@pytest.mark.parametrize('words, says', [
    (['--data', 'nowhere.csv'], 'there is no table or folder nowhere.csv'),
    (['--resolution', '64'], 'use --sizes'), (['--preset', 'opensora-7'], 'unknown preset'),
    (['tiny', '--ckpt-path', 'x'], 'give one'), (['--sizes', '17x60x60', '--data', 'TABLE'], ''),
    (['--sizes', '99x64x64', '--data', 'TABLE'], 'none of the 8 clips fits'),
    (['--resolution', '32', '--data', 'TABLE'], '32'), (['--num-times', '0'], 'at least 1')])
def test_what_cannot_be_measured_is_said_in_a_sentence(words, says, clips, capsys):
    "What is missing is named, and there is no number"
    words = [str(clips) if w == 'TABLE' else w for w in words]
    few = () if '--num-times' in words else ('--num-times', 1)
    code, (out, err) = osnb('eval', 'loss', *words, *few), capsys.readouterr()
    if not says: return
    assert code == 1 and says in err and 'Traceback' not in err and 'validation loss of' not in out

@pytest.fixture(scope='module')
def runs(clips, tmp_path_factory):
    "The same short run, with and without the loss at fixed times"
    home, out = tmp_path_factory.mktemp('runs'), {}
    cfg = override(shapes_t2v(quick=True) if 'quick' in shapes_t2v.__code__.co_varnames else shapes_t2v(), dict(
        steps=2, batch_size=2, init='tiny', validate_on=0, preview_every=0, log_every=1, save_every=2, out=str(home),
        **{'data.path': str(clips), 'data.num_frames': 9, 'data.image_size': (64, 64)}))
    for name, more in (('with', dict(validate_path=str(clips), validate_times=3, validate_every=1)), ('without', {})):
        run = train(override(cfg, dict(name=name, **more)), progress=False)
        out[name] = run.cfg.folder
    return out

def test_training_is_the_same_to_the_bit_with_the_loss_at_fixed_times(runs):
    "Looking does not change what is looked at"
    from opensora_nb.train.checkpoint import latest
    from opensora_nb.weights import read_state
    a, b = (sorted(latest(runs[n]).rglob('*.safetensors')) for n in ('with', 'without'))
    assert [p.name for p in a] == [p.name for p in b] and a
    for p, q in zip(a, b):
        mine, other = dict(read_state(p)), dict(read_state(q))
        assert all(torch.equal(mine[k], other[k]) for k in mine)

def test_training_and_the_command_measure_the_same_loss(runs, clips, tmp_path):
    "The last line of log.jsonl is what osnb eval loss says of the run; latents are stored in half precision"
    rows = [json.loads(line) for line in (runs['with']/'log.jsonl').read_text().splitlines()]
    logged = logged_losses(rows)
    assert logged[:, 0].tolist() == [1, 2]
    assert osnb('eval', 'loss', runs['with'], '--data', clips, '--num-times', 3, '--output', tmp_path/'l.json') == 0
    result, = LossReport.load(tmp_path/'l.json').results.values()
    assert result.bucket == '64x64/9' and result.mean == pytest.approx(logged[-1, 1], rel=2e-3)
