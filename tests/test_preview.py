"A preview decoder serves looks at unfinished clips; clips themselves, and pipelines without one, stay as they are"
import numpy as np, torch
from opensora_nb.sample.pipeline import decode_latents, load_pipeline
from opensora_nb.vae.preview import PreviewConfig, PreviewDecoder, load_preview, save_preview

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
    save_preview(net, tmp_path/'preview')
    net = load_preview(tmp_path)
    with torch.no_grad(): halves = [net.decode(part, 17) for part in z.split(5, dim=2)]
    with torch.no_grad(): torch.testing.assert_close(net.decode(z, 34), torch.cat(halves, dim=2))
