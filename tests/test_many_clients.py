"A school class at the web page, by Gradio's own client, over HTTP: who gets what, and what stays in memory"
import gc
from concurrent.futures import ThreadPoolExecutor
import numpy as np, psutil, pytest
pytest.importorskip('gradio', reason="the web page needs gradio: pip install 'opensora_nb[demo]'")
from gradio_client import Client
from opensora_nb.app.demo import serve
from opensora_nb.app.studio import enlarge
from opensora_nb.data.video_io import read_video, write_video
from opensora_nb.sample.pipeline import load_pipeline, text_to_video

COLOURS = 'red', 'blue', 'green', 'orange', 'yellow'

@pytest.fixture(scope='module')
def page():
    page = serve(load_pipeline('tiny'))
    yield page
    page.close(verbose=False)

def prompt(i): return f'a {COLOURS[i % 5]} star moves up'
def asked(i): return dict(prompt=prompt(i), seed=i, num_sampling_steps=1, image_size='32 x 32', num_frames=5)

def expected(page, i, folder):
    "What the library makes of the same settings, packed as the page packs it"
    pipe = page.studio.weights.get()
    video = text_to_video(prompt(i), pipe, seed=i, num_sampling_steps=1, image_size=(32, 32), num_frames=5)
    return read_video(write_video(folder/f'expected{i}.mp4', enlarge(video.frames), pipe.defaults.fps))

def clip_of(answer): # the file, as the client downloaded it
    path = answer[0]
    return read_video(path['video'] if isinstance(path, dict) else path)

@pytest.mark.slow
def test_twenty_clients_get_their_own_clips(page, tmp_path):
    "All at once, each with another seed: none lost, none mixed up, and each clip is the one of its seed"
    clients = [Client(page.local_url, verbose=False, download_files=tmp_path/str(i)) for i in range(20)]
    with ThreadPoolExecutor(20) as people:
        answers = list(people.map(lambda i: clients[i].predict(**asked(i), api_name='/generate'), range(20)))
    right = [expected(page, i, tmp_path) for i in range(20)]
    assert len({clip.tobytes() for clip in right}) == 20 # or else a mix-up could not be seen
    for i, answer in enumerate(answers):
        assert f'{prompt(i)}: 1 steps, guidance 2, seed {i}, ' in answer[1]
        assert np.array_equal(clip_of(answer), right[i]), i

@pytest.mark.slow
def test_memory_is_flat(page, capsys):
    "The process is as large after 100 more requests as after the first 20"
    client, process, sizes = Client(page.local_url, verbose=False, download_files=False), psutil.Process(), []
    for i in range(120):
        client.predict(**asked(i), api_name='/generate')
        if i % 20 == 19:
            gc.collect()
            sizes.append(process.memory_info().rss/2**20)
    with capsys.disabled(): print('\nMB after 20, 40, … requests:', [round(s) for s in sizes])
    assert sizes[-1] - sizes[0] < 30, sizes
