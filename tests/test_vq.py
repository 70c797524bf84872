"The VQ-VAE: nearest codes, the straight-through gradient, restarts, numbers out of range, half precision"
import pytest, torch
from opensora_nb.vae.image import AutoencoderKLConfig
from opensora_nb.vae.vq import VQVAE, Codebook, perplexity

CFG = AutoencoderKLConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
def vectors(*shape): return torch.randn(shape, generator=torch.Generator().manual_seed(1))

def test_nearest():
    "Every position gets the code at the least distance, under autocast as without it"
    book, z = Codebook(64, 4), 3*vectors(2, 4, 5, 7)
    flat = z.permute(0, 2, 3, 1).reshape(-1, 4)
    want = torch.cdist(flat, book.codes, compute_mode='donot_use_mm_for_euclid_dist').argmin(1).reshape(2, 5, 7)
    assert torch.equal(book(z).codes, want)
    with torch.autocast('cpu', torch.bfloat16): assert torch.equal(book(z).codes, want)
    torch.testing.assert_close(book(z).z, book.codes[want].permute(0, 3, 1, 2))

def test_the_encoder_learns_from_the_picture():
    "The gradient of the picture passes the codebook; the codes learn only from their own loss"
    net, x = VQVAE(CFG, 32), vectors(2, 3, 16, 16).clamp(-1, 1)
    rec, q = net(x)
    (rec - x).square().mean().backward()
    assert net.encoder.conv_in.weight.grad.abs().sum() > 0 and net.codebook.codes.grad is None
    rec, q = net(x)
    q.loss.backward()
    used = net.codebook.codes.grad.abs().sum(1) > 0
    assert used.sum() == q.codes.unique().numel() < 32

def test_restart_revives():
    "A codebook far from all vectors uses one code; restarts put the others to use"
    book, z = Codebook(16, 4), vectors(4, 4, 8, 8)
    book.codes.data[1:] += 100
    assert perplexity(book(z).codes, 16) == pytest.approx(1)
    for _ in range(5): book.restart(z, book(z).codes, patience=2)
    assert perplexity(book(z).codes, 16) > 8

def test_codes_are_the_picture():
    "Whole numbers are all a picture needs; others than the codebook has are refused"
    net, x = VQVAE(CFG, 32), vectors(2, 3, 16, 24).clamp(-1, 1)
    with torch.no_grad(): torch.testing.assert_close(net.decode(net.encode(x)), net(x)[0])
    for wrong in (-1, 32):
        with pytest.raises(ValueError, match='this codebook has 0 to 31'): net.decode(torch.tensor([[[wrong]]]))
