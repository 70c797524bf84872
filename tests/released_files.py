"""The parts of every preset with random weights, in the layout they were published in, at toy or full width; and each
part of Open-Sora 1.2 run alone.

    python tests/released_files.py make FOLDER [full]    write FOLDER/t5, FOLDER/vae and FOLDER/stdit3
    python tests/released_files.py preset FOLDER NAME [full]    write the parts of another preset
    python tests/released_files.py presets FOLDER FILE   run every other preset at full width, and write what it took
    python tests/released_files.py PART FOLDER DTYPE     run t5, stdit3 or vae alone; print seconds and peak memory
    python tests/released_files.py log FOLDER FILE       run all of it, at full width, and write what it took to FILE
    python tests/released_files.py xxl . DTYPE           run a T5 v1.1 XXL of full size, built in memory

The last takes 10 GB in bf16, twice as much in fp32.
"""
import json, os, platform, resource, shutil, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
import torch
from safetensors.torch import save_file
from opensora_nb.blocks.position import sincos_1d, sincos_2d
from opensora_nb.config import to_dict
from opensora_nb.core import pick_dtype
from opensora_nb.models.dit import DiT, dit_imagenet_256
from opensora_nb.models.latte import Latte, latte_ucf101
from opensora_nb.models.pixart import PixArt, PixArtMS, pixart_ms_xl2, pixart_xl2, space_table
from opensora_nb.models.pixart_sigma import PixArtSigma, pixart_sigma_xl2
from opensora_nb.models.stdit import STDiT, stdit_xl2_16x256x256
from opensora_nb.models.stdit2 import STDiT2, stdit2_xl2
from opensora_nb.models.stdit3 import STDiT3, STDiT3Config, stdit3_xl2
from opensora_nb.vae.image import AutoencoderKL, AutoencoderKLConfig
from opensora_nb.vae.video import TemporalVAEConfig, VideoVAE, VideoVAEConfig, video_vae_v12
from opensora_nb.weights import save_pretrained

ROOT = Path(__file__).resolve().parent.parent
TEXTS = (
    "a calm sea at dawn, with small waves and a boat",
    "two birds fly over the snow of a mountain",
    "a red car drives along a road by the sea",
    "the camera pans right over a city in the rain",
    "a cat sleeps in the sun",
    "aesthetic score: 6.5. motion score: 5. camera motion: pan right.",
)
XXL = dict(d_model=4096, d_kv=64, d_ff=10240, num_heads=64, feed_forward_proj='gated-gelu')

def small_numbers(model, dtype=torch.bfloat16, std=.02, seed=0):
    "Fill a model that is on the meta device: small random weights, norms near 1"
    g = torch.Generator().manual_seed(seed)
    model = model.to(dtype).to_empty(device='cpu')
    with torch.no_grad():
        for k, v in model.state_dict().items():
            if k == 'rope.freqs': v.copy_(10000**(-torch.arange(0, 2*len(v), 2).float()/(2*len(v))))
            elif k in ('scale', 'shift'): v.copy_(torch.tensor(getattr(model.cfg, k))[None, :, None, None, None])
            else: v.normal_(1. if v.ndim == 1 and k.endswith('weight') else 0., std, generator=g)
    return model.eval()

def tokenizer(texts=TEXTS, pieces=120):
    "A Unigram tokenizer, learned from some texts, with the marks of T5"
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizers.NFKC()
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=pieces, special_tokens=['<pad>', '</s>', '<unk>'], unk_token='<unk>', show_progress=False)
    tok.train_from_iterator(texts, trainer)
    tok.post_processor = processors.TemplateProcessing(
        single='$A </s>', special_tokens=[('</s>', tok.token_to_id('</s>'))])
    return PreTrainedTokenizerFast(tokenizer_object=tok, pad_token='<pad>', eos_token='</s>', unk_token='<unk>')

def t5_model(layers, vocab, dtype, **sizes):
    from transformers import T5Config, T5EncoderModel
    with torch.device('meta'): model = T5EncoderModel(T5Config(num_layers=layers, vocab_size=vocab, **sizes))
    model = small_numbers(model, dtype)
    model.tie_weights()
    return model

def write_t5(folder, full=False):
    "Two layers of a T5"
    tok = tokenizer()
    tok.save_pretrained(folder)
    t5_sizes = XXL if full else dict(d_model=32, d_kv=8, d_ff=64, num_heads=4, feed_forward_proj='gated-gelu')
    t5_model(2, len(tok), torch.float32, **t5_sizes).save_pretrained(folder)

def write_image_vae(folder, full=False):
    "An autoencoder of pictures as diffusers writes it"
    cfg = AutoencoderKLConfig() if full else AutoencoderKLConfig(block_out_channels=(32,)*4, layers_per_block=1)
    with torch.device('meta'): vae = AutoencoderKL(cfg)
    folder.mkdir(parents=True)
    save_file(small_numbers(vae, torch.float32).state_dict(), folder/'diffusion_pytorch_model.safetensors')
    (folder/'config.json').write_text(json.dumps(dict(_class_name='AutoencoderKL') | to_dict(cfg)))

TOY = dict(depth=2, hidden_size=72, num_heads=1)           # heads are 72 wide in published files
SMALL_PICTURE = dict(input_size=(1, 8, 8))                 # of 64 x 64 pixels
PUBLISHED = { # preset -> class, configuration at full width, its changes for a toy, name of the file
    'opensora-1.0': (STDiT, stdit_xl2_16x256x256, TOY, 'OpenSora-v1-HQ-16x256x256.pth'),
    'opensora-1.1': (STDiT2, stdit2_xl2, TOY, 'stdit2'),
    'dit': (DiT, dit_imagenet_256, dict(depth=2, hidden_size=384, num_heads=6) | SMALL_PICTURE,
            'DiT-XL-2-256x256.pt'),
    'latte': (Latte, latte_ucf101, dict(depth=2, hidden_size=384, num_heads=6, input_size=(4, 8, 8)), 'ucf101.pt'),
    'pixart': (PixArt, lambda: pixart_xl2(256), TOY | SMALL_PICTURE, 'PixArt-XL-2-256x256.pth'),
    'pixart-ms': (PixArtMS, pixart_ms_xl2, TOY, 'PixArt-XL-2-1024-MS.pth'),
    'pixart-sigma': (PixArtSigma, lambda: pixart_sigma_xl2(256), TOY, 'PixArt-Sigma-XL-2-256x256.pth')}

def as_published(cfg, state):
    "What the authors of a model put into its file"
    kind, d = type(cfg).__name__.removesuffix('Config'), cfg.hidden_size
    state = {k: v for k, v in state.items() if not k.startswith('pos_embed')}
    if kind == 'STDiT2': return state
    f, h, w = cfg.grid
    if kind != 'STDiT': state['x_embedder.proj.weight'] = state['x_embedder.proj.weight'][:, :, 0].clone()
    if kind == 'STDiT':
        return state | dict(pos_embed=sincos_2d(d, h, w, cfg.space_scale)[None].clone(),
                            pos_embed_temporal=sincos_1d(torch.arange(f)/cfg.time_scale, d)[None].float())
    if kind.startswith('PixArt'): return dict(state_dict=state | dict(pos_embed=space_table(cfg, h, w)))
    state['pos_embed'] = sincos_2d(d, h, w)[None].clone()
    return dict(ema=state | dict(temp_embed=torch.zeros(1, f, d))) if kind == 'Latte' else state

def write_transformer(folder, preset, full=False):
    "One file, or a folder with config.json, with the random weights of a preset"
    make, config, toy, name = PUBLISHED[preset]
    cfg = config() if full else replace(config(), **toy)
    if not full and cfg.caption_channels == 4096: cfg = replace(cfg, caption_channels=32)
    with torch.device('meta'): model = make(cfg)
    state = as_published(cfg, small_numbers(model, torch.bfloat16).state_dict())
    if '.' in name: torch.save(state, folder/name)
    else:
        (folder/name).mkdir()
        save_file(state, folder/name/'model.safetensors')
        (folder/name/'config.json').write_text(json.dumps(dict(model_type='STDiT2') | to_dict(cfg)))
    return folder/name

def write_preset(folder, preset, full=False):
    "The parts of a preset, as they lie after their download; the options that name them"
    folder = Path(folder)
    write_image_vae(folder/'vae', full)
    options = ['--preset', preset.removesuffix('-ms'), '--ckpt-path', write_transformer(folder, preset, full),
               '--vae', folder/'vae']
    if preset in ('dit', 'latte'): return options
    write_t5(folder/'t5', full)
    return [*options, '--text-encoder', folder/'t5']

def write_released(folder, full=False):
    "Three folders, each as its repository on Hugging Face is cloned"
    folder = Path(folder)
    write_t5(folder/'t5', full)
    thin = VideoVAEConfig(vae_2d=AutoencoderKLConfig(block_out_channels=(32, 32, 32, 32), layers_per_block=1),
                          vae_temporal=TemporalVAEConfig(filters=32, num_res_blocks=1))
    small = STDiT3Config(hidden_size=64, depth=2, num_heads=4, caption_channels=32, model_max_length=300)
    with torch.device('meta'):
        model = STDiT3(stdit3_xl2() if full else small)
        vae = VideoVAE(video_vae_v12() if full else thin)
    save_pretrained(small_numbers(model, torch.bfloat16), folder/'stdit3')
    del model
    save_pretrained(small_numbers(vae, torch.float32), folder/'vae')
    return folder

def photo(path, size=(144, 256)):
    "A picture with a gradient and a square"
    from PIL import Image
    h, w = size
    y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing='ij')
    rgb = torch.stack([x, y, 1-x], -1)
    rgb[h//3:h//2, w//3:w//2] = torch.tensor([1., .9, .1])
    Image.fromarray((rgb*255).to(torch.uint8).numpy()).save(path)
    return path

def peak_gb(pid='self'):
    "The most memory a process has held so far; unlike ru_maxrss, without what its parent held (Linux)"
    text = Path(f'/proc/{pid}/status').read_text()
    return round(int(text.split('VmHWM:')[1].split()[0])*1024/1e9, 2) if 'VmHWM:' in text else 0.

def run(argv, folder, limit=900, **env):
    "A process of its own, without network or cache -> exit code, what it wrote, seconds, peak GB"
    start, peak, out = time.perf_counter(), 0., Path(folder)/'output.txt'
    env = dict(os.environ, PYTHONPATH=str(ROOT), HF_HUB_OFFLINE='1', HF_HOME=str(Path(folder)/'hf'),
               PYTHONIOENCODING='utf-8') | env
    with open(out, 'w') as f:
        p = subprocess.Popen([str(a) for a in argv], cwd=folder, env=env, stdout=f, stderr=subprocess.STDOUT)
    try:
        while p.poll() is None:
            if time.perf_counter() - start > limit:
                raise TimeoutError(f"still running after {limit} s: {' '.join(map(str, argv))}")
            peak = max(peak, peak_gb(p.pid))
            time.sleep(.05)
    finally:
        p.kill()
        p.wait()
    return p.returncode, out.read_text(encoding='utf-8'), round(time.perf_counter()-start, 1), peak

def osnb(*argv, folder, **how):
    "The console command, as it is installed beside this python"
    command = Path(sys.executable).with_name('osnb')
    if not command.exists():
        code = 'from opensora_nb.app.cli import main; raise SystemExit(main())'
        return run([sys.executable, '-c', code, *argv], folder, **how)
    return run([command, *argv], folder, **how)

def released(folder):
    "The options that name the three parts"
    folder = Path(folder)
    return ['--preset', 'opensora-1.2', '--ckpt-path', folder/'stdit3', '--vae', folder/'vae',
            '--text-encoder', folder/'t5']

@torch.inference_mode()
def measure(part, folder, dtype, frames=17, size=(144, 256)):
    "Load one part, use it once as `osnb sample` does, and say what it took"
    start, dtype, latent = time.perf_counter(), pick_dtype(dtype), (-(-frames*5//17), size[0]//8, size[1]//8)
    g = torch.Generator().manual_seed(1)
    if part == 't5':
        from opensora_nb.text.encoders import T5Text
        text = T5Text(str(Path(folder)/'t5'), dtype=dtype)
        def use(): return text.encode([TEXTS[0]])[0]
    elif part == 'xxl':
        model = t5_model(24, 32128, dtype, **XXL)
        ids = torch.randint(3, 32128, (1, 300), generator=g)
        def use(): return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    elif part == 'stdit3':
        from opensora_nb.models.fast_inference import faster
        from opensora_nb.models.zoo import load_stdit3
        model = load_stdit3(Path(folder)/'stdit3', dtype)
        z = torch.randn(2, 4, *latent, generator=g).to(dtype) # two rows: with and without the prompt
        y = torch.randn(2, 1, 300, 4096, generator=g).to(dtype)
        def use():
            with faster(model): return model(z, torch.tensor([500., 500.]), y, fps=24, height=size[0], width=size[1])
    else:
        from opensora_nb.vae.released import load_released_vae
        vae = load_released_vae(Path(folder)/'vae', dtype)
        z = torch.randn(1, 4, *latent, generator=g).to(dtype)
        def use(): return vae.decode(z, frames)
    loaded = time.perf_counter()
    out = use()
    done = time.perf_counter()
    assert out.isfinite().all(), f"{part} returned numbers that are not finite"
    return dict(load_s=round(loaded-start, 1), s=round(done-loaded, 1), peak_gb=peak_gb(), shape=list(out.shape))

def machine():
    "In words, without its name"
    info = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    cpu = info.split('model name')[1].splitlines()[0].strip('\t: ') if 'model name' in info else platform.machine()
    with_bf16 = ' with avx512_bf16' if 'avx512_bf16' in info else ''
    memory = os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')/1e9
    return f"{cpu}{with_bf16}, {os.cpu_count()} cores, {memory:.0f} GB of memory"

FULL = { # preset -> what is asked of it at full width: the smallest size it was trained for
    'dit': ('golden retriever', '1 x 256 x 256', []),
    'pixart': (TEXTS[0], '1 x 256 x 256', ['--image-size', '256', '256']),
    'pixart-sigma': (TEXTS[0], '1 x 256 x 256', ['--image-size', '256', '256']),
    'latte': ('YoYo', '16 x 256 x 256', []),
    'opensora-1.1': (TEXTS[0], '16 x 144 x 256', ['--image-size', '144', '256']),
    'opensora-1.0': (TEXTS[0], '16 x 256 x 256', [])}

def run_preset(folder, preset, steps=2):
    "Write the parts of a preset at full width in a process of its own, and sample -> files, seconds of CPU, peak GB"
    folder = Path(folder)
    code, said, *_ = run([sys.executable, __file__, 'preset', folder, preset, 'full'], folder)
    if code: raise RuntimeError(said)
    options, (prompt, _, more) = json.loads(said.splitlines()[-1])['options'], FULL[preset]
    def cpu(): return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    start = cpu()
    code, said, _, peak = osnb('sample', *options, *more, '--num-sampling-steps', steps, '--save-dir', folder/'clips',
                               '--prompt', prompt, folder=folder, limit=3600)
    if code: raise RuntimeError(said)
    return sorted((folder/'clips').glob('*.*[34g]')), round(cpu() - start, 1), peak

def write_presets_log(folder, file, steps=2):
    "Every preset but that of Open-Sora 1.2"
    log = dict(machine=machine(), torch=torch.__version__, date=time.strftime('%Y-%m-%d'), steps=steps, rows=[])
    for preset, (_, clip, _) in FULL.items():
        place = Path(folder).resolve()/preset
        place.mkdir(parents=True)
        _, seconds, peak = run_preset(place, preset, steps)
        log['rows'].append(dict(preset=preset, clip=clip, cpu_s=seconds, peak_gb=peak))
        print(log['rows'][-1], flush=True)
        Path(file).write_text(json.dumps(log, indent=1) + '\n')
        shutil.rmtree(place, ignore_errors=True)

def write_log(folder, file, steps=3):
    "One call of each part and of the command, in a process each"
    folder, file = Path(folder).resolve(), Path(file).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    log = dict(machine=machine(), threads=torch.get_num_threads(), torch=torch.__version__,
               date=time.strftime('%Y-%m-%d'), clip=f"17 frames of 144x256, {steps} steps", rows=[])
    def row(what, dtype, **took):
        log['rows'].append(dict(what=what, dtype=dtype, **took))
        print(log['rows'][-1], flush=True)
    def child(what, *argv):
        code, said, _, peak = run([sys.executable, __file__, *argv], folder)
        if code: raise RuntimeError(said)
        got = json.loads(said.splitlines()[-1])
        row(what, argv[2], load_s=got['load_s'], s=got['s'], peak_gb=got['peak_gb'])
    if not (folder/'vae').is_dir(): run([sys.executable, __file__, 'make', folder, 'full'], folder)
    for dtype in ('bf16', 'fp32'):
        for what, part in (('T5, 2 layers of 24, one text', 't5'), ('STDiT3-XL/2, one step', 'stdit3'),
                           ('autoencoder, decode', 'vae')):
            child(what, part, folder, dtype)
        code, said, seconds, peak = osnb(
            'sample', *released(folder), '--save-dir', folder/dtype, '--resolution', '144p', '--num-frames', 17,
            '--num-sampling-steps', steps, '--dtype', dtype, '--text-dtype', dtype, '--prompt', TEXTS[0], folder=folder)
        if code: raise RuntimeError(said)
        row('whole command', dtype, s=seconds, peak_gb=peak)
    child('T5 v1.1 XXL, 24 layers, one text', 'xxl', '.', 'bf16')
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(log, indent=1) + '\n')

if __name__ == '__main__':
    what, folder, *rest = sys.argv[1:]
    if what == 'log': write_log(folder, *rest)
    elif what == 'presets': write_presets_log(folder, *rest)
    else:
        if what == 'make': took = dict(folder=str(write_released(folder, rest == ['full'])), peak_gb=peak_gb())
        elif what == 'preset':
            options = write_preset(folder, rest[0], rest[1:] == ['full'])
            took = dict(options=[str(w) for w in options], peak_gb=peak_gb())
        else: took = measure(what, folder, *rest)
        print(json.dumps(took))
