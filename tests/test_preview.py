"A preview decoder serves looks at unfinished clips; clips themselves, and pipelines without one, stay as they are"
import numpy as np, pytest, torch
from opensora_nb.app.options import parse_options
from opensora_nb.app.sampling import plan_sample, run_sample
from opensora_nb.metrics.recon import psnr
from opensora_nb.sample.pipeline import decode_latents, load_pipeline
from opensora_nb.sample.settings import part_folder
from opensora_nb.toy.world import ToyClips
from opensora_nb.vae.preview import PreviewConfig, PreviewDecoder, load_preview, save_preview, teacher_pairs

def test_only_looks_use_it(tmp_path):
    pipe, z = load_pipeline('tiny', 'cpu'), torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        pipe.preview = None
        before = decode_latents(pipe, z, 5)[0]
        np.testing.assert_array_equal(decode_latents(pipe, z, 5, preview=True)[0], before)
        pipe.preview = PreviewDecoder(PreviewConfig(width=8, frame_width=8))
        look = decode_latents(pipe, z, 5, preview=True)[0]
        assert look.shape == before.shape and (look != before).any()
        np.testing.assert_array_equal(decode_latents(pipe, z, 5)[0], before)

def test_goes_with_the_weights(tmp_path):
    pipe = load_pipeline('tiny', 'cpu')
    pipe.preview = PreviewDecoder(PreviewConfig(width=8, frame_width=8))
    pipe.save(tmp_path)
    again, z = load_pipeline(tmp_path, 'cpu').preview, torch.randn(1, 4, 5, 2, 2)
    with torch.no_grad(): torch.testing.assert_close(again.decode(z, 17), pipe.preview.decode(z, 17), atol=.05, rtol=0)

def test_chunks_do_not_know_of_each_other(tmp_path):
    net, z = PreviewDecoder(PreviewConfig(width=8, frame_width=8)), torch.randn(1, 4, 10, 2, 2)
    save_preview(net, tmp_path)
    net = load_preview(tmp_path)
    with torch.no_grad(): halves = [net.decode(part, 17) for part in z.split(5, dim=2)]
    with torch.no_grad(): torch.testing.assert_close(net.decode(z, 34), torch.cat(halves, dim=2))

def test_embedded_ones_are_small_and_near():
    for name in ('tiny', 'tiny_4step', 'worlds'):
        file, pipe = part_folder(name, 'preview')/'model.safetensors', load_pipeline(name, 'cpu')
        clip = ToyClips(n=1, seed=9, level='core')[0].video
        z, shown = teacher_pairs(pipe.vae, [clip])
        want = shown[0].permute(1, 2, 3, 0).numpy()
        assert file.stat().st_size < 1e6 and psnr(decode_latents(pipe, z, 17, preview=True)[0], want) > 20

def test_finished_clips_on_request():
    pipe, z = load_pipeline('tiny', 'cpu'), torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    look = decode_latents(pipe, z, 5, preview=True)[0]
    pipe.preview_all = True
    np.testing.assert_array_equal(decode_latents(pipe, z, 5)[0], look)

def test_the_command_decodes_with_it(tmp_path):
    ask = ['--prompt', 'a red circle moves left', '--save-dir', str(tmp_path)]
    ask += ['--num-sampling-steps', '1', '--verbose', '0']
    plans = [plan_sample(parse_options([*ask, *more])) for more in ([], ['--preview'])]
    assert plans[0].jobs[0].key != plans[1].jobs[0].key          # another clip under the same name is noticed
    (_, whole), (_, look) = (next(run_sample(p)) for p in plans)
    assert whole.shape == look.shape and 15 < psnr(look, whole) < 60
    pipe = load_pipeline('tiny', 'cpu')
    pipe.preview = None
    pipe.save(tmp_path/'weights')
    for weights, who in ((['--weights', str(tmp_path/'weights')], 'weights'), (['opensora-1.2'], 'published weights')):
        with pytest.raises(ValueError, match=f'{who} have no preview decoder'):
            plan_sample(parse_options([*weights, *ask, '--preview']))
