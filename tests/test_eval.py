"What `osnb eval` says of weights that know nothing of the toy world"
import json, shutil
import numpy as np, pytest
from opensora_nb.app.cli import main
from opensora_nb.core import assets
from opensora_nb.data.dataset import open_source
from opensora_nb.sample.pipeline import load_vae
from opensora_nb.metrics.recon import psnr, round_trip

@pytest.fixture(scope='module')
def mine(tmp_path_factory):
    "The embedded weights as if they had been trained on someone's own clips, and a table of clips"
    folder = tmp_path_factory.mktemp('eval')
    shutil.copytree(assets('tiny'), folder/'mine')
    note = json.loads((folder/'mine'/'pipeline.json').read_text())
    (folder/'mine'/'pipeline.json').write_text(json.dumps(note | dict(levels=[])))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(['data', 'shapes', 'toys', '--num', '3']) == 0
    return folder

QUICK = '--num', '2', '--num-sampling-steps', '1'

def test_a_score_of_the_toy_world_is_called_one(mine, monkeypatch, capsys):
    "Weights of other clips used to get 0.875 without a word; those of the toy world still do"
    monkeypatch.chdir(mine)
    assert main(['eval', 'mine', '--following', *QUICK]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith('mine was not trained on the toy world')
    assert '--data CSV' in first
    assert 'validate_path=CSV' in first
    assert rest[0].startswith('following of mine')
    assert main(['eval', 'tiny', '--following', *QUICK]) == 0
    assert 'not trained' not in capsys.readouterr().out

def test_own_clips_are_scored(mine, monkeypatch, capsys):
    "Reconstruction as computed by hand, and the nearest clip of each sample"
    monkeypatch.chdir(mine)
    assert main(['eval', 'mine', '--data', 'toys', '--num-sampling-steps', '1', '--output', 'out.json']) == 0
    said, found = capsys.readouterr().out, json.loads((mine/'out.json').read_text())['data']
    source, vae = open_source(mine/'toys', progress=False), load_vae('tiny')
    clips = [source.clip(i) for i in range(3)]
    assert found['psnr'] == pytest.approx(np.mean([psnr(c, round_trip(vae, c)) for c in clips]))
    assert found['n'] == found['captions'] == 3 and 0 <= found['same_caption'] <= 1 and found['distance'] > 0
    assert 'reconstruction of 3 clips' in said and 'nearest clip of 3 samples' in said

@pytest.mark.parametrize('words, says', [
    (['--data', 'nowhere.csv'],         'nowhere.csv'),
    (['--data', 'toys', '--ceiling'],   'without --following'),
])
def test_wrong_words_are_one_sentence(mine, monkeypatch, capsys, words, says):
    "No traceback, and what to change"
    monkeypatch.chdir(mine)
    assert main(['eval', 'mine', *words]) == 1
    err = capsys.readouterr().err
    assert says in err and err.count('osnb: error') == 1
