"Experiment trackers of accelerate: the log as TensorBoard shows it, whatever happened to the run."
import os, signal, subprocess, sys, time
import pytest
from opensora_nb.app.cli import main
from opensora_nb.train.loop import TRACKERS, TrainConfig, check_installed
from test_train import RECIPE, ROOT, folder, losses

OSNB = 'from opensora_nb.app.cli import main; raise SystemExit(main())'
PICTURE = '''
from PIL import Image
Reverse.preview = lambda self: Image.new('RGB', (8, 4), (255, 0, 0))
'''

def osnb(folder, *words, **env):
    env = dict(os.environ, PYTHONPATH=f'{folder}{os.pathsep}{ROOT}', OMP_NUM_THREADS='1', **env)
    return subprocess.Popen([sys.executable, '-c', OSNB, 'train', 'my_recipe:recipe', *words], cwd=folder, env=env,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

def finish(p, code=0):
    out, err = p.communicate(timeout=240)
    assert p.returncode == code, err[-2000:]
    return out + err

def events(folder, name='r', project='opensora_nb'):
    "What TensorBoard reads from a run: numbers by step, pictures, settings"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    there = folder/'runs'/name/'trackers'/project
    found = EventAccumulator(str(there)).Reload()
    tags = found.Tags()
    numbers = {t: [(e.step, e.value) for e in found.Scalars(t)] for t in tags['scalars']}
    pictures = {t: [(e.step, e.width, e.height) for e in found.Images(t)] for t in tags['images']}
    return numbers, pictures, [p.read_text() for p in there.glob('*/hparams.yml')]

def test_trackers_are_those_that_accelerate_knows():
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    assert set(LOGGER_TYPE_TO_CLASS) == set(TRACKERS)

def test_tensorboard_has_the_log_the_preview_and_the_settings(folder):
    (folder/'my_recipe.py').open('a').write(PICTURE)
    finish(osnb(folder, 'preview_every=15', '--tracker', 'tensorboard'))
    numbers, pictures, settings = events(folder)
    assert [s for s, _ in numbers['loss']] == list(range(1, 31))
    assert [v for _, v in numbers['loss']] == pytest.approx([*losses(folder).values()])
    assert {'lr', 'grad_norm', 'per_second'} <= set(numbers) and 'step' not in numbers
    assert pictures == {'preview': [(15, 8, 4), (30, 8, 4)]}
    assert len(settings) == 1 and 'optim.lr: 0.03' in settings[0] and 'batch_size: 8' in settings[0]

def test_without_the_option_there_is_no_tracker(folder):
    finish(osnb(folder, 'steps=2'))
    assert not (folder/'runs'/'r'/'trackers').exists()

# a kill is the harder case
@pytest.mark.parametrize('sig', [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_run_that_continues_is_one_curve(folder, sig):
    "After Ctrl-C, and after a kill that loses the steps since the last checkpoint"
    p = osnb(folder, 'wait=0.05', 'save_every=4', '--tracker', 'tensorboard')
    log, start = folder/'runs'/'r'/'log.jsonl', time.time()
    while not (log.exists() and len(log.read_text().splitlines()) >= 10):
        assert time.time() - start < 120 and p.poll() is None
        time.sleep(0.02)
    p.send_signal(sig)
    finish(p, 130 if sig == signal.SIGINT else -9)
    finish(osnb(folder, '--tracker', 'tensorboard'))
    numbers, _, settings = events(folder)
    assert [s for s, _ in numbers['loss']] == list(range(1, 31))
    assert [v for _, v in numbers['loss']] == pytest.approx([*losses(folder).values()])
    assert len(settings) == 1

def test_two_processes_write_one_curve(folder):
    finish(osnb(folder, '--tracker', 'tensorboard', '--num-processes', '2', WANDB_PROJECT='mine'))
    numbers, _, settings = events(folder, project='mine')
    assert [s for s, _ in numbers['loss']] == list(range(1, 31)) and len(settings) == 1

CLOSED = '''
from accelerate.tracking import GeneralTracker, register_tracker_class
class Note(GeneralTracker):
    name, requires_logging_directory, tracker = 'note', False, None
    def __init__(self, project, **how): super().__init__()
    def store_init_configuration(self, values): print('settings', values['steps'])
    def finish(self): print('closed')
'''

@pytest.mark.parametrize('how', ['error', 'end'])
def test_a_tracker_is_closed_however_the_run_ends(how, monkeypatch, capsys, tmp_path):
    from accelerate import tracking
    from opensora_nb.train import loop
    (tmp_path/'closed_recipe.py').write_text(RECIPE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import closed_recipe
    exec(CLOSED, here := {})
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, 'note', here['Note'])
    monkeypatch.setitem(loop.TRACKERS, 'note', 'note')
    monkeypatch.setattr(loop, 'check_installed', lambda trackers: None)
    cfg = closed_recipe.Config(name='c', out=str(tmp_path), steps=3, batch_size=8, device='cpu', trackers=('note',))
    class Crash(loop.Callback):
        def after(self, run): raise RuntimeError('full')
    if how == 'error':
        with pytest.raises(RuntimeError, match='full'): loop.train(cfg, False, (Crash(),))
    else: loop.train(cfg, False)
    assert capsys.readouterr().out == 'settings 3\nclosed\n'

def test_mistakes_name_the_trackers_and_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    def said(*words):
        assert main(['train', 'shapes_t2v', *words]) == 1
        return capsys.readouterr().err
    assert "unknown tracker 'tensorbord'; use one of tensorboard, wandb" in said('--tracker', 'tensorboard,tensorbord')
    from accelerate import tracking
    monkeypatch.setattr(tracking, '_available_trackers', [])
    with pytest.raises(ImportError, match='comet_ml is not installed; get it with: pip install comet-ml$'):
        check_installed(['comet_ml'])
    missing = said('--tracker', 'dvclive', '--tracker', 'tensorboard')
    assert 'the tracker dvclive is not installed; get it with: pip install dvclive' in missing
    assert TrainConfig(trackers=('wandb', 'mlflow')).trackers == ('wandb', 'mlflow')
    assert not (tmp_path/'runs').exists()
