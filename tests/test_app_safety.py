"The web page against requests that do not come from it: real HTTP against the running server"
import http.client, io, json, time
from contextlib import contextmanager
import pytest
from PIL import Image
from opensora_nb.app.fields import read_form
from opensora_nb.sample.pipeline import load_pipeline

pytest.importorskip('gradio', reason="the web page needs gradio: pip install 'opensora_nb[demo]'")
from opensora_nb.app import demo, studio, visitors

PATIENCE = 120 # s, for a slow machine; nothing here should take more than a few
API = '/gradio_api'

class Site:
    "The page, served by this process, and how often its model was asked"
    def __init__(self):
        self.pipe, self.steps = load_pipeline('tiny'), 0
        self.pipe.model.register_forward_pre_hook(self.count)
        self.page = demo.serve(self.pipe)
        self.host = self.page.local_url.removeprefix('http://').rstrip('/')
        config = json.loads(self.ask('GET', '/config')[1])
        self.job = next(d for d in config['dependencies'] if d['api_name'] == 'generate')
        told = self.page.get_api_info()['named_endpoints']['/generate']['parameters']
        self.usual = {p['parameter_name']: p.get('parameter_default') for p in told}
    def count(self, *_): self.steps += 1
    def ask(self, method, path, body=None, headers={}, host=None):
        "One request, its status and its text"
        c = http.client.HTTPConnection(self.host, timeout=PATIENCE)
        c.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for k, v in {'Host': host or self.host, **headers}.items(): c.putheader(k, v)
        if body is not None: c.putheader('Content-Length', str(len(body)))
        c.endheaders(body)
        answer = c.getresponse()
        text = answer.read().decode()
        c.close()
        return answer.status, text
    def join(self, session, prompt='a red circle moves left', **settings):
        "Fill in the form and press the button, without a browser"
        values = self.usual | dict(prompt=prompt) | settings
        data = [*values.values(), None] # the last is the history, which the server keeps
        body = json.dumps(dict(data=data, fn_index=self.job['id'], session_hash=session)).encode()
        head = {'Content-Type': 'application/json', 'Origin': f'http://{self.host}'}
        return self.ask('POST', f'{API}/queue/join', body, head)
    @contextmanager
    def listening(self, session):
        "The messages of a session's jobs; leaving the block hangs up"
        c = http.client.HTTPConnection(self.host, timeout=PATIENCE)
        c.request('GET', f'{API}/queue/data?session_hash={session}')
        answer = c.getresponse()
        assert answer.status == 200
        def messages():
            while line := answer.readline():
                if line.startswith(b'data:'): yield json.loads(line[5:])
        yield messages()
        answer.close()
        c.close()
    def clip(self, session, **settings):
        "Ask for a clip as a browser does and wait for it; the HTML and the files that came"
        assert self.join(session, **settings)[0] == 200
        with self.listening(session) as messages:
            out = next(m for m in messages if m['msg'] == 'process_completed')['output']
            return out['data'] if 'data' in out else [str(out.get('error'))] # Gradio itself refused it
    def idle(self):
        "Wait until no job runs or waits"
        end = time.monotonic() + PATIENCE
        turns = self.page.studio.turns
        while self.page._queue.get_active_worker_count() or len(self.page._queue) or turns.served or turns.waiting:
            assert time.monotonic() < end
            time.sleep(.02)

@pytest.fixture(scope='module')
def site():
    s = Site()
    yield s
    s.page.close(verbose=False)

def notes(data): return ' '.join(d for d in data if isinstance(d, str))

# ---- who may come in

@pytest.mark.parametrize('name', [
    'evil.example', 'evil.example:7860', '127.0.0.1.evil.example', '', '[::1', '169.254.169.254', '0.0.0.0',
])
def test_a_foreign_name_is_not_served(site, name):
    "A page on the web that points its own name at 127.0.0.1 could read everything"
    for path in ('/', '/config', f'{API}/info', f'{API}/file=/etc/passwd'):
        status, text = site.ask('GET', path, host=name or ' ')
        assert status == 400 and 'a red' not in text, (path, text[:200])

@pytest.mark.parametrize('name', ['127.0.0.1', 'localhost', 'LOCALHOST'])
def test_its_own_names_are_served(site, name):
    assert site.ask('GET', '/', host=f'{name}:{site.page.server_port}')[0] == 200

@pytest.mark.parametrize('origin', [
    'https://evil.example', 'null', 'http://127.0.0.1:1', 'http://localhost.evil.example', 'file://', 'garbage',
])
def test_a_foreign_page_cannot_press_the_button(site, origin):
    "Any page open in the same browser could queue jobs"
    before = site.steps
    for path in (f'{API}/queue/join', f'{API}/call/generate', f'{API}/run/generate', f'{API}/cancel'):
        status, text = site.ask('POST', path, b'{}', {'Content-Type': 'application/json', 'Origin': origin})
        assert status == 403 and 'answers its own requests only' in text, (path, status, text)
    assert site.steps == before

@pytest.mark.parametrize('path', [
    f'{API}/{p}' for p in ('component_server', 'process_recording', 'queue/join')
])
def test_files_come_in_by_one_door(site, path):
    "Only the upload takes files, which it checks"
    part = b'Content-Disposition: form-data; name="files"; filename="a.bin"\r\n\r\n' + b'0'*1000
    body = b'--x\r\n' + part + b'\r\n--x--\r\n'
    head = {'Content-Type': 'multipart/form-data; boundary=x'}
    assert site.ask('POST', path, body, head) == (403, 'this page takes no files here')

def upload(site, name, content, cookie=''):
    "Put a file on the server, as the form does -> status, its path there"
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = b'--x\r\n' + head + content + b'\r\n--x--\r\n'
    told = {'Content-Type': 'multipart/form-data; boundary=x', **({'Cookie': cookie} if cookie else {})}
    status, text = site.ask('POST', f'{API}/upload', body, told)
    return status, json.loads(text)[0] if status == 200 else text

def picture(mode='RGB', size=(64, 64), kind='PNG', **how):
    buf = io.BytesIO()
    Image.new(mode, size).save(buf, kind, **how)
    return buf.getvalue()

def given(path): return [dict(path=path, meta=dict(_type='gradio.FileData'))]

BAD_FILES = { # name -> content, and a part of the sentence
    'dot.png':     (picture(size=(1, 1)),                 'dot.png is 1 x 1; a picture of at least'),
    'tall.png':    (picture(size=(10, 20_000)),           'tall.png is 20000 x 10'),
    'text.png':    (b'not a picture',                     'text.png'),
    'broken.jpg':  (picture(kind='JPEG')[:200],           'broken.jpg'),
    'program.exe': (b'MZ' + b'0'*100,                     'invalid file type'),
    'none.png':    (b'',                                  'none.png')}

@pytest.mark.parametrize('name', BAD_FILES)
def test_bad_files_become_a_sentence(site, name):
    "Whatever is uploaded, the page goes on to serve"
    site.idle()
    before, (content, part) = site.steps, BAD_FILES[name]
    status, path = upload(site, name, content)
    told = notes(site.clip('files', reference_path=given(path))) if status == 200 else path
    assert part in told.lower() and told.count('role="status"') <= 1 and site.steps == before, told

@pytest.mark.parametrize('content', [
    picture('CMYK', kind='JPEG'), picture('I;16'), picture('RGBA', (90, 70)), picture(kind='GIF'),
    picture('P', (64, 48), 'GIF', save_all=True, append_images=[Image.new('P', (64, 48), 9)]),
], ids=['cmyk', '16 bits', 'transparent', 'gif', 'animated'])
def test_odd_pictures_can_be_used(site, content):
    site.idle()
    name = 'odd.png' if content.startswith(b'\x89PNG') else 'odd.gif' if content.startswith(b'GIF') else 'odd.jpg'
    status, path = upload(site, name, content)
    data = site.clip('odd', reference_path=given(path), num_sampling_steps=1)
    assert status == 200 and '1 steps' in notes(data), data

def test_a_file_is_its_owners(site):
    "Another visitor who knows the address of a file does not get it, nor can he begin a clip with it"
    site.idle()
    _, path = upload(site, 'mine.png', picture(size=(48, 48)), 'osnb_visitor=ann')
    def fetch(who): return site.ask('HEAD', f'{API}/file={path}', None, {'Cookie': f'osnb_visitor={who}'})[0]
    assert (fetch('ann'), fetch('bob')) == (200, 404)
    told = notes(site.clip('bob', reference_path=given(path)))
    assert 'was not uploaded by you' in told, told

@pytest.mark.parametrize('path', ['/etc/passwd', '../../etc/passwd', '..%2f..%2fetc/passwd', '/proc/self/environ', ''])
def test_no_other_file_comes_out(site, path):
    assert site.ask('GET', f'{API}/file={path}')[0] in (403, 404)
    told = notes(site.clip('thief', reference_path=given(path))) if path.startswith('/') else 'was not'
    assert 'root:' not in told and site.ask('GET', '/')[0] == 200

def test_a_prompt_names_no_files(site):
    "The grammar of prompt lines has a place for files of the server"
    told = notes(site.clip('thief', prompt='a{"reference_path": "/etc/passwd", "mask_strategy": "0"}'))
    assert 'names files; the form has boxes' in told, told

def test_a_request_is_as_large_as_a_form(site):
    "A prompt of a gigabyte is not read into memory"
    status, text = site.join('large', 'a'*200_000)
    assert status == 413 and '100000' in text
    status, text = site.ask('POST', f'{API}/queue/join', None, {'Transfer-Encoding': 'chunked'})
    assert status == 411

def test_a_public_address_and_a_proxy_are_let_in_by_name(monkeypatch):
    "`share=True` works: the name of the public address is added once Gradio has told it"
    import gradio
    real = gradio.Blocks.launch
    def launch(self, *args, share=False, **kw): # a tunnel without a network
        out = real(self, *args, share=False, **kw)
        if share: self.share_url = 'https://abc123.tunnel.example'
        return out
    monkeypatch.setattr(gradio.Blocks, 'launch', launch)
    page = demo.serve(load_pipeline('tiny'), share=True, hosts=['Demo.School.example'])
    site = Site.__new__(Site)
    site.host = page.local_url.removeprefix('http://').rstrip('/')
    def status(host, origin=None):
        head = {'Origin': origin} if origin else {}
        return site.ask('GET', '/config', None, head, host)[0]
    try:
        assert status('abc123.tunnel.example', 'https://abc123.tunnel.example') == 200
        assert status(site.host, 'https://demo.school.example') == 200 # a proxy that rewrites the host
        assert status('demo.school.example', 'https://demo.school.example') == 200
        assert status('other.tunnel.example') == 400
        assert status('abc123.tunnel.example', 'https://other.tunnel.example') == 403
    finally: page.close(verbose=False)

def test_a_room_needs_its_code():
    "Open to other machines, the page lets in who knows the code on the teacher's screen"
    page = demo.serve(load_pipeline('tiny'), hosts=['0.0.0.0'])
    site = Site.__new__(Site)
    site.host = f'127.0.0.1:{page.server_port}'
    try:
        def status(query='', **headers): return site.ask('GET', f'/{query}', None, headers)[0]
        assert len(page.code) == 6 and status() == 401 and status('?code=AAAAAA') == 401
        assert status(f'?code={page.code}') == status(Cookie=f'osnb_code={page.code}') == 200
        assert status(**{'x-join-code': page.code.lower()}) == 200
        assert site.ask('GET', '/config')[0] == 401
        assert site.ask('GET', f'/?code={page.code}', host='evil.example')[0] == 400
    finally: page.close(verbose=False)

# ---- settings

WRONG = [
    ({'fps': 2147483648}, 'Frames a second is 2147483648; a clip has 1 to 1000'),
    ({'cfg_scale': -3},                'Guidance is -3.0; guidance goes from 0'),
    ({'cfg_scale': 1e9},               'Guidance is 1000000000.0; guidance goes from 0'),
    ({'seed': -1},                    'Seed is -1; use a whole number from 0'),
    ({'seed': 2**32},                 'Seed is 4294967296; use'),
    ({'cfg_scale': 'nan'},             'Guidance is nan; guidance goes from 0'),
    ({'num_sampling_steps': 1001},                 'Steps is 1001; use 1 to 1000'),
    ({'num_frames': 10**9},               '1000000000 frames of 64 x 64 are'),
    ({'image_size': '30000'},               '17 frames of 30000 x 30000 are'),
    ({'seed': 'inf'},                 'Seed is a whole number'),
    ({'seed': 'many'},                'Seed is a whole number'),
    ({'loop': -1},                    'Rounds is -1; use 1 or more'),
    ({'loop': 1e9},                   'Rounds is 1000000000; a form takes at most 20'),
    ({'mask_strategy': 'x'},          'no picture or clip is given'),
    ({'prompt': ''},                  'The prompt is empty'),
    ({'prompt': 'a'*10_000},          'The prompt has 10,000 letters; a form takes at most 2,000'),
    ({'prompt': None},                'The prompt is empty'),
]

@pytest.mark.parametrize('settings, sentence', WRONG)
def test_settings_are_refused_before_the_work(site, settings, sentence):
    "2147483648 frames a second failed when the clip was made already; a guidance of -3 made noise"
    site.idle()
    before = site.steps
    told = notes(site.clip('wrong', **settings))
    assert sentence in told and told.count('<div') == 1 and site.steps == before, told

@pytest.mark.parametrize('prompt', ['a red circle 🔴 moves', '一个红色的圆', '<script>alert(1)</script> a red circle'])
def test_any_prompt_is_shown_as_text(site, prompt):
    site.idle()
    told = notes(site.clip('odd', prompt=prompt, num_sampling_steps=1))
    assert '1 steps' in told and '<script' not in told, told

def test_nothing_means_as_trained(site):
    "Every value null, as a program might send it"
    site.idle()
    nothing = {k: None for k in site.usual if k != 'prompt'}
    told = notes(site.clip('null', **nothing | dict(num_sampling_steps='2')))
    assert '2 steps, guidance 2, seed 42' in told, told

def test_the_notebook_refuses_the_same():
    "The widgets read the same form"
    from opensora_nb.app.widgets import Sampler
    pipe, steps = load_pipeline('tiny'), []
    pipe.model.register_forward_pre_hook(lambda *_: steps.append(1))
    box = Sampler(pipe)
    box.prompt.value = 'a red circle moves left'
    for name, value, sentence in (
        ('fps',       2147483648,   'Frames a second is'),
        ('cfg_scale', -3,           'Guidance is -3.0;'),
        ('cfg_scale', 1e9,          'Guidance is'),
        ('seed',      -1,           'Seed is -1;'),
        ('cfg_scale', float('nan'), 'Guidance is nan;'),
    ):
        usual, box.fields[name].value = box.fields[name].value, value
        box.generate()
        assert sentence in box.message.value and not steps, box.message.value
        box.fields[name].value = usual

def test_ranges_have_one_source():
    "What the form refuses is what `SampleConfig` refuses"
    from opensora_nb.sample.settings import RANGES, SampleConfig
    defaults = load_pipeline('tiny').defaults
    for name, (low, high, _, told) in RANGES.items():
        for value in [low - 1] + ([high + 1] if high < 2**40 else []):
            for refuse in (lambda: SampleConfig(**{name: value}), lambda: read_form(defaults, {name: value})):
                with pytest.raises(ValueError) as e: refuse()
                assert told in str(e.value)

# ---- work that nobody waits for

def test_a_clip_arrives(site):
    "The same road as the tests below, to its end; and by Gradio's own client"
    site.idle()
    data = site.clip('usual', num_sampling_steps=2)
    assert any(isinstance(d, dict) and '_seed42_' in json.dumps(d) for d in data) and '2 steps' in notes(data)

def test_other_programs_get_their_clips(site):
    "Gradio's own client, and two lines of curl without a session"
    from gradio_client import Client
    site.idle()
    client = Client(site.page.local_url, verbose=False)
    clip, caption, *_ = client.predict(prompt='a blue star moves up', num_sampling_steps=2, api_name='/generate')
    assert str(clip).endswith('.mp4') or 'mp4' in str(clip)
    assert caption.startswith('a blue star moves up: 2 steps')
    values = site.usual | dict(prompt='a red circle moves left', num_sampling_steps=3)
    data = json.dumps(dict(data=[*values.values()])).encode()
    head = {'Content-Type': 'application/json'}
    job = json.loads(site.ask('POST', f'{API}/call/generate', data, head)[1])['event_id']
    status, text = site.ask('GET', f'{API}/call/generate/{job}')
    assert status == 200 and 'event: complete' in text and 'moves left: 3 steps' in text, text

def test_who_leaves_in_mid_run_does_not_hold_up_the_next(site):
    "A program that hung up let its job run to the end: the next person waited for 117 s"
    site.idle()
    before = site.steps
    assert site.join('leaves', num_sampling_steps=1000)[0] == 200
    with site.listening('leaves') as messages:
        next(m for m in messages if m['msg'] == 'process_generating' and site.steps > before)
    began = site.steps - before
    site.idle()
    assert 0 < began <= site.steps - before < 500
    assert '2 steps' in notes(site.clip('next', num_sampling_steps=2))

def test_a_crowd_that_does_not_listen_is_sent_away(site, monkeypatch):
    "300 jobs that nobody waited for blocked the page for minutes; now the queue is short, and each is left soon"
    monkeypatch.setattr(visitors, 'GRACE', 1.)
    site.idle()
    before, answers = site.steps, [site.join(f'nobody{i}', num_sampling_steps=1000) for i in range(60)]
    assert all(status in (200, 503) for status, _ in answers)
    assert len(site.page.studio.turns.waiting) < studio.IN_LINE
    site.idle()
    assert site.steps - before < 1000 # all of them together
    assert '2 steps' in notes(site.clip('somebody', num_sampling_steps=2))

def test_one_person_does_not_fill_the_queue(site):
    "Ten impatient presses of one button: three jobs, and a sentence for the others"
    site.idle()
    for _ in range(6): assert site.join('eager', num_sampling_steps=1000)[0] == 200
    with site.listening('eager') as messages:
        told = next(notes(m['output']['data']) for m in messages if m['msg'] == 'process_completed')
    assert '3 clips are being made for you' in told, told
    assert '2 steps' in notes(site.clip('other', num_sampling_steps=2)) # others come in between
    site.page.studio.flags.up('eager')

def test_twenty_people_get_their_own_clips(site):
    "All at once, each with another prompt and seed: none lost, none mixed up"
    from concurrent.futures import ThreadPoolExecutor
    site.idle()
    colours = ('red', 'blue', 'green', 'white', 'yellow')
    def ask(i):
        small = dict(num_sampling_steps=1, image_size='32 x 32', num_frames=5, seed=i)
        return site.clip(f'guest{i}', prompt=f'a {colours[i % 5]} star moves up', **small)
    with ThreadPoolExecutor(20) as people: answers = list(people.map(ask, range(20)))
    for i, data in enumerate(answers):
        assert f'a {colours[i % 5]} star moves up: 1 steps, guidance 2, seed {i}, ' in notes(data), data
        assert f'a_{colours[i % 5]}_star_moves_up_seed{i}_' in json.dumps(data)

def test_who_stays_gets_the_clip_however_long_it_takes(site, monkeypatch):
    "The grace period is for those who never listened"
    site.idle()
    assert site.join('stays', num_sampling_steps=30)[0] == 200
    with site.listening('stays') as messages:
        next(m for m in messages if m['msg'] == 'process_generating')
        monkeypatch.setattr(visitors, 'GRACE', 0.)
        data = next(m for m in messages if m['msg'] == 'process_completed')['output']['data']
    assert '30 steps' in notes(data), data

def test_the_queue_has_no_side_entrance(site):
    "`/run/generate` would work past the queue and its limit"
    status, _ = site.ask('POST', f'{API}/run/generate', b'{"data": []}', {'Content-Type': 'application/json'})
    assert status == 404
