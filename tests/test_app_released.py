"The web page with weights in the layout of Open-Sora 1.2: the controls of the original's app, and what they do"
import threading, asyncio
import pytest
from opensora_nb.app.options import form_fields, knows
from opensora_nb.app.studio import Order, Studio, Weights, run_job
from opensora_nb.data.video_io import probe
from released_files import photo, write_released

@pytest.fixture(scope='module')
def studio(tmp_path_factory):
    toy = write_released(tmp_path_factory.mktemp('toy'))
    parts = dict(model=str(toy/'stdit3'), vae=str(toy/'vae'), text=str(toy/'t5'))
    studio = Studio(Weights('opensora-1.2', 'cpu', **parts).begin())
    return studio

def job(studio, prompt, **values):
    "What a job tells from its beginning to its end"
    async def follow():
        order = Order(prompt, values, 'ann', 'ann', lambda: False)
        return [item async for item in run_job(studio, order)]
    heard, trouble = [], []
    def run():
        try: heard.extend(asyncio.run(follow()))
        except Exception as e: trouble.append(e)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if trouble: raise trouble[0]
    return heard

QUICK = dict(resolution='144p', aspect_ratio='1:1', num_frames='17', num_sampling_steps=1)

def test_the_form_has_the_original_s_controls():
    "Resolution, ratio, length, steps, guidance, seed, motion, aesthetics, camera, fps, rounds, reference, watermark"
    asked = {f.name: f for f in form_fields(*knows('opensora-1.2'))}
    assert {'resolution', 'aspect_ratio', 'num_frames', 'seed', 'num_sampling_steps', 'cfg_scale', 'flow', 'aes',
            'camera_motion', 'fps', 'loop', 'reference_path', 'watermark', 'negative_prompt'} <= {*asked}
    assert asked['aes'].value == 6.5 and asked['cfg_scale'].value == 7 and asked['fps'].value == 24
    assert asked['num_frames'].choices == ('2s', '4s', '8s', '16s') and 'tilt up' in asked['camera_motion'].choices

def test_refining_is_there_where_an_endpoint_is(monkeypatch):
    monkeypatch.delenv('OPENAI_API_KEY', raising=False)
    assert 'llm_refine' not in {f.name for f in form_fields(*knows('opensora-1.2'))}
    monkeypatch.setenv('OPENAI_API_KEY', 'x')
    assert 'llm_refine' in {f.name for f in form_fields(*knows('opensora-1.2'))}

def test_any_prompt_after_loading(studio):
    "The text encoder stays, since nobody knows the prompts beforehand; scores are appended and the text is cleaned"
    heard = job(studio, 'A calm Sea', **QUICK, flow=5, camera_motion='pan right', fps=12)
    _, made, path = heard[-1]
    info = probe(path)
    assert (info.num_frames, round(info.fps)) == (17, 12) and made.video.config.image_size == (192, 192)
    assert (made.asked.text.aes, made.asked.text.flow, made.asked.text.camera_motion) == (6.5, 5, 'pan right')
    assert made.asked.text.clean and any(item[0] == 'step' for item in heard)
    again = job(studio, 'two birds', **QUICK, seed=3, negative_prompt='a cat')[-1][1]
    assert (again.video.frames != made.video.frames).any()

def test_a_picture_then_a_film_of_two_rounds(studio, tmp_path):
    "Text to image to video, in rounds that share the third that Open-Sora's app shares"
    picture = job(studio, 'a calm sea', **QUICK | dict(num_frames=1, flow=9, loop=3))[-1]
    assert picture[2].suffix == '.png' and picture[1].asked.text.flow is None and len(picture[1].video.frames) == 1
    first = photo(tmp_path/'p.png', (192, 192))
    film = job(studio, 'a calm sea', **QUICK | dict(num_frames='51', loop=2, reference_path=[str(first)]))[-1][1]
    assert len(film.video.frames) == 51 + 34 and str(film.asked.spec).endswith('"mask_strategy": "0"}')

def test_weights_that_are_not_there_are_a_sentence(tmp_path):
    "The page is up before weights are read, so what is missing is told to who asks for a clip"
    studio = Studio(Weights('opensora-1.2', 'cpu', **dict.fromkeys(('model', 'vae', 'text'), str(tmp_path))).begin())
    with pytest.raises((FileNotFoundError, ValueError)) as e: job(studio, 'a calm sea', **QUICK)
    assert str(tmp_path) in str(e.value)
