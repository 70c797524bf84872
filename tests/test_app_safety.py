"The web page against requests that do not come from it: real HTTP against the running server"
import http.client, json, time
from contextlib import contextmanager
import pytest
from opensora_nb.app.fields import read_form
from opensora_nb.sample.pipeline import load_pipeline

pytest.importorskip('gradio', reason="the web page needs gradio: pip install 'opensora_nb[demo]'")
from opensora_nb.app import demo

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
        self.props = {c['id']: c['props'] for c in config['components']}
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
        values = {**{p.get('label'): p.get('value') for p in self.props.values()}, 'prompt': prompt, **settings}
        data = [values[self.props[i]['label']] for i in self.job['inputs']]
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
            return next(m for m in messages if m['msg'] == 'process_completed')['output']['data']
    def idle(self):
        "Wait until no job runs or waits"
        end = time.monotonic() + PATIENCE
        while self.page._queue.get_active_worker_count() or len(self.page._queue):
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
    f'{API}/{p}' for p in ('upload', 'upload?upload_id=1', 'upload/', 'component_server', 'process_recording')
])
def test_files_are_refused(site, path):
    "The form has no field for a file; uploads were kept on the disk all the same"
    part = b'Content-Disposition: form-data; name="files"; filename="a.bin"\r\n\r\n' + b'0'*1000
    body = b'--x\r\n' + part + b'\r\n--x--\r\n'
    head = {'Content-Type': 'multipart/form-data; boundary=x'}
    assert site.ask('POST', path, body, head) == (403, 'this page takes no files')

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

# ---- settings

WRONG = [
    ({'frames a second': 2147483648}, 'Frames a second is 2147483648; a clip has 1 to 1000'),
    ({'guidance': -3},                'Guidance is -3.0; guidance goes from 0'),
    ({'guidance': 1e9},               'Guidance is 1000000000.0; guidance goes from 0'),
    ({'seed': -1},                    'Seed is -1; use a whole number from 0'),
    ({'seed': 2**32},                 'Seed is 4294967296; use'),
    ({'guidance': 'nan'},             'Guidance is nan; guidance goes from 0'),
    ({'steps': 1001},                 'Steps is 1001; use 1 to 1000'),
    ({'frames': 10**9},               '1000000000 frames of 64 x 64 are'),
    ({'size': '30000'},               '17 frames of 30000 x 30000 are'),
    ({'seed': 'inf'},                 'Seed is a whole number'),
]

@pytest.mark.parametrize('settings, sentence', WRONG)
def test_settings_are_refused_before_the_work(site, settings, sentence):
    "2147483648 frames a second failed when the clip was made already; a guidance of -3 made noise"
    site.idle()
    before = site.steps
    told = notes(site.clip('wrong', **settings))
    assert sentence in told and told.count('<div') == 1 and site.steps == before, told

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
    data = site.clip('usual', steps=2)
    assert any(isinstance(d, dict) and 'seed42.mp4' in json.dumps(d) for d in data) and '2 steps' in notes(data)

def test_other_programs_get_their_clips(site):
    "Gradio's own client, and two lines of curl without a session"
    from gradio_client import Client
    site.idle()
    _, caption, _ = Client(site.page.local_url, verbose=False).predict('a blue star moves up', 2, api_name='/generate')
    assert caption.startswith('a blue star moves up: 2 steps')
    data = json.dumps(dict(data=['a red circle moves left', 3, 2., 42, '64 x 64', 17, 8, ''])).encode()
    head = {'Content-Type': 'application/json'}
    job = json.loads(site.ask('POST', f'{API}/call/generate', data, head)[1])['event_id']
    status, text = site.ask('GET', f'{API}/call/generate/{job}')
    assert status == 200 and 'event: complete' in text and 'moves left: 3 steps' in text, text

def test_who_leaves_in_mid_run_does_not_hold_up_the_next(site):
    "A program that hung up let its job run to the end: the next person waited for 117 s"
    site.idle()
    before = site.steps
    assert site.join('leaves', steps=1000)[0] == 200
    with site.listening('leaves') as messages:
        next(m for m in messages if m['msg'] == 'progress')
    began = site.steps - before
    site.idle()
    assert 0 < began <= site.steps - before < 500
    assert '2 steps' in notes(site.clip('next', steps=2))

def test_a_crowd_that_does_not_listen_is_sent_away(site, monkeypatch):
    "300 jobs that nobody waited for blocked the page for minutes; now the queue is short, and each is left soon"
    monkeypatch.setattr(demo, 'GRACE', 1.)
    site.idle()
    before, answers = site.steps, [site.join(f'nobody{i}', steps=1000) for i in range(60)]
    full = [text for status, text in answers if status == 503]
    assert sum(status == 200 for status, _ in answers) <= demo.WAITING + 10
    assert len(full) >= 30
    assert 'Queue is full' in full[0]
    assert all(status in (200, 503) for status, _ in answers)
    site.idle()
    assert site.steps - before < 1000 # all of them together
    assert '2 steps' in notes(site.clip('somebody', steps=2))

def test_who_stays_gets_the_clip_however_long_it_takes(site, monkeypatch):
    "The grace period is for those who never listened"
    site.idle()
    assert site.join('stays', steps=30)[0] == 200
    with site.listening('stays') as messages:
        next(m for m in messages if m['msg'] == 'progress')
        monkeypatch.setattr(demo, 'GRACE', 0.)
        data = next(m for m in messages if m['msg'] == 'process_completed')['output']['data']
    assert '30 steps' in notes(data), data

def test_the_queue_has_no_side_entrance(site):
    "`/run/generate` would work past the queue and its limit"
    status, _ = site.ask('POST', f'{API}/run/generate', b'{"data": []}', {'Content-Type': 'application/json'})
    assert status == 404
