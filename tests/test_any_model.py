"One pipeline samples with any transformer of the family, any schedule and either kind of autoencoder"
from dataclasses import replace
import numpy as np, pytest, torch
from opensora_nb.app.options import parse_options
from opensora_nb.app.sampling import plan_cost, plan_sample
from opensora_nb.models.dit import DiT, dit_tiny
from opensora_nb.models.family import FAMILY
from opensora_nb.models.latte import Latte, latte_tiny
from opensora_nb.models.pixart import PixArt, pixart_tiny
from opensora_nb.models.stdit import STDiT, stdit_tiny
from opensora_nb.models.stdit2 import STDiT2, stdit2_tiny
from opensora_nb.models.zoo import randomise
from opensora_nb.sample.pipeline import Pipeline, generate, load_pipeline
from opensora_nb.sample.settings import ModelDefaults, SampleConfig
from opensora_nb.text.clip import ClipText
from opensora_nb.text.labels import ClassLabels
from opensora_nb.vae.image import AutoencoderKLConfig, VideoAutoencoderKL
from test_clip import write_clip

SMALL = dict(hidden_size=48, depth=2, num_heads=2)
MAKES = {'DiT': (DiT, dit_tiny), 'Latte': (Latte, latte_tiny), 'PixArt': (PixArt, pixart_tiny),
         'STDiT': (STDiT, stdit_tiny), 'STDiT2': (STDiT2, stdit2_tiny)}
PROMPT = 'a red circle moves left'

@pytest.fixture(scope='module')
def tiny(): return load_pipeline('tiny')

def relative(tiny, kind, **more): # a pipeline with random weights of another model
    make, config = MAKES[kind]
    changes = SMALL | ({} if kind in ('STDiT2',) else dict(input_size=(5, 8, 8)))
    model = randomise(make(replace(config(), caption_channels=tiny.text.dim, **changes))).eval()
    return Pipeline(tiny.vae, model, tiny.text, ModelDefaults(num_sampling_steps=3, **more), kind)

@pytest.mark.parametrize('kind', MAKES)
def test_each_model_samples_and_comes_back_from_its_folder(tiny, kind, tmp_path):
    pipe = relative(tiny, kind)
    clip = generate(pipe, [PROMPT])[0]
    assert clip.shape == (17, 64, 64, 3)
    pipe.save(tmp_path)
    assert (tmp_path/kind.lower()/'model.safetensors').is_file()
    back = load_pipeline(tmp_path)
    assert type(back.model) is FAMILY[kind].model
    np.testing.assert_array_equal(generate(back, [PROMPT])[0], clip)

@pytest.mark.parametrize('schedule', ('ddpm', 'ddim', 'dpm-solver'))
def test_a_clip_of_a_noise_schedule_depends_on_its_own_seed_alone(tiny, schedule):
    pipe = relative(tiny, 'STDiT2', schedule='ddpm', guided_channels=3)
    how = SampleConfig(schedule=schedule, num_sampling_steps=4, cfg_scale=2.)
    alone = generate(pipe, [PROMPT], how, [7], return_trajectory=True)[1]
    both = generate(pipe, ['a blue star stays still', PROMPT], how, [3, 7], return_trajectory=True)[1]
    torch.testing.assert_close(both[:, 1:], alone, atol=1e-3, rtol=1e-3)
    assert len(alone) == 5

def test_guidance_moves_as_many_channels_as_the_weights_say(tiny):
    pipe = relative(tiny, 'STDiT2', schedule='ddpm', guided_channels=3)
    def first_step(scale): # of DDIM: the noise at the start, as far as the step depends on it
        how = SampleConfig(schedule='ddim', num_sampling_steps=3, cfg_scale=scale)
        return generate(pipe, [PROMPT], how, return_trajectory=True)[1][1, 0]
    change = (first_step(4.) - first_step(1.)).abs().amax((1, 2, 3))
    assert change[3] < 1e-3*change[:3].min() # all but rounding

def test_weights_say_which_schedules_fit(tiny):
    with pytest.raises(ValueError, match='use rflow'): generate(tiny, [PROMPT], SampleConfig(schedule='ddim'))
    noisy = replace(tiny, defaults=replace(tiny.defaults, schedule='ddpm'))
    with pytest.raises(ValueError, match='use ddpm or ddim or dpm-solver'):
        generate(noisy, [PROMPT], SampleConfig(schedule='rflow'))

def test_frames_by_themselves_any_length_and_back_from_the_folder(tiny, tmp_path):
    vae = VideoAutoencoderKL(AutoencoderKLConfig(block_out_channels=(8, 8, 16, 16), layers_per_block=1,
                                                 norm_num_groups=4), micro_batch_size=2, scaling_factor=0.5).eval()
    pipe = replace(relative(tiny, 'STDiT2'), vae=vae)
    clip = generate(pipe, [PROMPT], SampleConfig(num_frames=6, image_size=(32, 48)))[0]
    assert clip.shape == (6, 32, 48, 3)
    pipe.save(tmp_path)
    back = load_pipeline(tmp_path)
    assert (back.vae.micro_batch_size, back.vae.scaling_factor) == (2, 0.5)
    np.testing.assert_array_equal(generate(back, [PROMPT], SampleConfig(num_frames=6, image_size=(32, 48)))[0], clip)

def test_classes_in_place_of_prompts(tiny, tmp_path):
    "Names and numbers; they lie beside the weights, and come back"
    model = randomise(DiT(replace(dit_tiny(), **SMALL, input_size=(5, 8, 8), condition='label_10'))).eval()
    labels = ClassLabels(tuple(f'class{i}' for i in range(10)))
    pipe = Pipeline(tiny.vae, model, labels, ModelDefaults(num_sampling_steps=3, cfg_scale=3.))
    a, b = generate(pipe, ['class3', '4'], seeds=[1, 1])
    assert (a != b).any()
    with pytest.raises(ValueError, match='knows classes and no texts'):
        generate(pipe, ['3'], SampleConfig(negative_prompt='4'))
    pipe.save(tmp_path)
    assert sorted(p.name for p in (tmp_path/'text').iterdir()) == ['labels.json']
    back = load_pipeline(tmp_path)
    assert back.text.names == labels.names
    np.testing.assert_array_equal(generate(back, ['3'])[0], generate(pipe, ['class3'])[0])
    plan = plan_sample(parse_options(['--weights', str(tmp_path), '--prompt', 'Class 3', '--num-frames', '17']))
    assert plan_cost(plan, timed=False).caption_tokens == 0
    with pytest.raises(ValueError, match='prompt 0: there is no class'):
        plan_sample(parse_options(['--weights', str(tmp_path), '--prompt', 'klass']))

def test_a_clip_is_kept_by_its_name(tiny, tmp_path):
    "As a T5 is: the text part of a folder says where its encoder is"
    text = ClipText(write_clip(tmp_path/'clip'))
    model = randomise(DiT(replace(dit_tiny(), **SMALL, input_size=(5, 8, 8), caption_channels=text.dim))).eval()
    pipe = Pipeline(tiny.vae, model, text, ModelDefaults(num_sampling_steps=3))
    pipe.save(tmp_path/'weights')
    assert [p.name for p in (tmp_path/'weights'/'text').iterdir()] == ['clip.json']
    back = load_pipeline(tmp_path/'weights')
    np.testing.assert_array_equal(generate(back, [PROMPT])[0], generate(pipe, [PROMPT])[0])
