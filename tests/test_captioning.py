"Captions: models on servers and on this machine, runs that are killed, servers that misbehave, tables that are odd."
import json, multiprocessing, os, signal, socket, threading, time, warnings
from contextlib import contextmanager
import av, numpy as np, pytest
from opensora_nb.app.cli import main
from opensora_nb.app.opensora_cli import from_original
from opensora_nb.data.caption_tags import tag_rows
from opensora_nb.data.captioning import (
    CAPTION_PROMPTS, Answer, CaptionSettings, EndpointCaptioner, Journal, ModelCaptioner, Price, Request, StoppedEarly,
    caption_fault, caption_frames, caption_prompt, caption_rows, plan_captions, tidy_answer)
from opensora_nb.data.video_io import write_video
from opensora_nb.endpoint import Endpoint, EndpointError, practice_server

def clip(seed, frames=20, size=(48, 64)):
    rng = np.random.default_rng(seed)
    return np.broadcast_to(rng.integers(0, 255, (1, 1, 1, 3), np.uint8), (frames, *size, 3)).copy()

@pytest.fixture
def rows(tmp_path):
    "Eight clips"
    for i in range(8): write_video(tmp_path/f'{i}.mp4', clip(i))
    return [dict(path=str(tmp_path/f'{i}.mp4'), text='', id=i) for i in range(8)]

def ask(server, **settings):
    timeout = settings.pop('timeout', 2.)
    return EndpointCaptioner(Endpoint('m', server.url, wait=.01, timeout=timeout, tries=2), **settings)

# ---- transformers ----

WORDS = ['<pad>', '<s>', '</s>', '<image>', *map(chr, range(32, 127))]

def letter_tokens():
    "A tokenizer that knows letters, padding on the wrong side"
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    letters = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token='?'))
    letters.pre_tokenizer = pre_tokenizers.Split('', 'isolated')
    letters.decoder = decoders.Fuse()
    special = dict(pad_token='<pad>', bos_token='<s>', eos_token='</s>', unk_token='?')
    return PreTrainedTokenizerFast(tokenizer_object=letters, padding_side='right',
                                   additional_special_tokens=['<image>'], **special)

@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "A LLaVA and a Llama of a few thousand random parameters"
    import torch
    import transformers as tf
    out, tokens = tmp_path_factory.mktemp('tiny'), letter_tokens()
    template = ("{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
                "{{ '<image>' if c.type == 'image' else c.text }}{% endfor %}{% endif %}{% endfor %}>")
    small = dict(num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    text = tf.LlamaConfig(vocab_size=len(WORDS), hidden_size=32, max_position_embeddings=4096, pad_token_id=0,
                          bos_token_id=1, eos_token_id=2, **small)
    sight = tf.CLIPVisionConfig(hidden_size=16, image_size=28, patch_size=14, **small)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        pictures = tf.CLIPImageProcessor(size=dict(shortest_edge=28), crop_size=dict(height=28, width=28))
    torch.manual_seed(0)
    config = tf.LlavaConfig(vision_config=sight, text_config=text, image_token_index=3, image_seq_length=4,
                            pad_token_id=0)
    tf.LlavaForConditionalGeneration(config).save_pretrained(out/'llava')
    tf.LlavaProcessor(pictures, tokens, patch_size=14, vision_feature_select_strategy='default', chat_template=template,
                      num_additional_image_tokens=1).save_pretrained(out/'llava')
    tokens.chat_template = template
    tf.LlamaForCausalLM(text).save_pretrained(out/'llama')
    tokens.save_pretrained(out/'llama')
    return out

def test_a_batch_says_what_its_rows_say_alone(tiny):
    "Left padding and greedy decoding: neither neighbours nor the size of a batch change a caption"
    model = ModelCaptioner(tiny/'llava', batch=3, max_tokens=12, device='cpu')
    asked = [Request('short', (clip(0)[0],)), Request('a much longer question ' * 3, (clip(1)[0], clip(2)[0])),
             Request('no picture at all')]
    together, alone = model.answer(asked), [model.answer([r])[0] for r in asked]
    assert [a.text for a in together] == [a.text for a in alone] and len({a.text for a in alone}) == 3
    assert [(a.tokens_in, a.tokens_out) for a in together] == [(a.tokens_in, a.tokens_out) for a in alone]
    assert all(a.text and not a.fault and a.tokens_out <= 12 for a in alone)
    assert model.answer(asked[:1], again=True)[0].text != alone[0].text # the second try is another one

def test_captions_of_a_model_on_this_machine(tiny, rows, tmp_path, monkeypatch):
    "Every prompt can be asked, rows come back in order, and a second run asks nothing"
    model = ModelCaptioner(tiny/'llava', batch=3, max_tokens=8, device='cpu')
    monkeypatch.setattr('opensora_nb.data.captioning.judged', lambda job, request, answer: (repr(answer.text), ''))
    for name in ('video-f1-detail-2ex-text', 'pllava'):
        old = [dict(r, text='old') for r in rows[:2]]
        out = caption_rows(old, model, CaptionSettings(name, overwrite=True), progress=False)
        assert [(r['id'], r['caption_model']) for r in out] == [(0, 'llava'), (1, 'llava')]
        assert all(r['text'] != 'old' for r in out)
    told = caption_rows(rows, model, journal=tmp_path/'j.jsonl', progress=False)
    model2 = ModelCaptioner(tiny/'llava', batch=1, max_tokens=8, device='cpu')
    monkeypatch.setattr(ModelCaptioner, 'answer', lambda *a: pytest.fail('asked again'))
    anew = CaptionSettings(overwrite=True)
    assert all(r['text'] for r in told)
    assert caption_rows(told, model2, anew, journal=tmp_path/'j.jsonl', progress=False) == told

def test_a_language_model_tags(tiny):
    "A model of random weights lists nothing, and says so for each row"
    model = ModelCaptioner(tiny/'llama', batch=2, max_tokens=8, vision=False, device='cpu')
    out = tag_rows([dict(text='A dog.'), dict(text=''), dict(text='A cat on a mat.')], model, progress=False)
    assert [r['objects'] for r in out] == ['NONE_FOUND']*3 and all(r['objects_error'] for r in out)

def test_memory_that_is_too_small_halves_the_batch(tiny, monkeypatch):
    "Running out of memory costs time, and a row only where one alone does not fit"
    import torch
    sizes, model = [], ModelCaptioner(tiny/'llava', batch=4, device='cpu')
    def generate(self, requests, again):
        sizes.append(len(requests))
        if len(requests) > 1 or requests[0].text == 'huge': raise torch.OutOfMemoryError('CUDA out of memory')
        return [Answer(requests[0].text)]
    monkeypatch.setattr(ModelCaptioner, 'generate', generate)
    out = model.answer([Request(t) for t in ('a', 'b', 'huge', 'd')])
    assert [a.text for a in out] == ['a', 'b', '', 'd'] and 'out of memory' in out[2].fault and sizes[0] == 4

def test_a_folder_that_is_no_model(tmp_path):
    "One sentence, not a traceback of another library"
    with pytest.raises(ValueError, match='cannot be read as a transformers image-text-to-text model'):
        ModelCaptioner(tmp_path).load()

# ---- a run that ends early ----

def caption_slowly(url, rows, journal):
    caption_rows(rows, EndpointCaptioner(Endpoint('m', url), workers=2), journal=journal, progress=False)

def test_a_kill_loses_at_most_what_is_in_flight(rows, tmp_path):
    "kill -9 again and again: the table is that of a run without a kill, and no answer that arrived is paid twice"
    def answer(sent):
        time.sleep(.08)
        return 'A picture with ' + str(len(sent['messages'][0]['content'][0]['image_url']['url'])) + ' letters.'
    journal, kills = tmp_path/'j.jsonl', 0
    with practice_server(answer) as server:
        captioner = EndpointCaptioner(Endpoint('m', server.url), workers=2)
        want, once = caption_rows(rows, captioner, progress=False), len(server.requests)
        fork = multiprocessing.get_context('fork')
        for after in (1, 3):
            child = fork.Process(target=caption_slowly, args=(server.url, rows, journal))
            child.start()
            def lines(): return journal.read_bytes().count(b'\n') if journal.exists() else 0
            while child.is_alive() and lines() < after: time.sleep(.005)
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            kills += 1
        time.sleep(.2)
        assert caption_rows(rows, captioner, journal=journal, progress=False) == want
        assert once == 8 and len(server.requests) <= once + 8 + 2*kills # two workers
        assert Journal(journal).asked == 8 # every answer once

def test_a_full_disk_ends_the_run_with_a_sentence(rows, tmp_path, monkeypatch):
    "What does not fit is named, and what was written before it is there"
    real, seen = os.write, []
    def write(fd, data):
        seen.append(1)
        if len(seen) > 3: raise OSError(28, 'No space left on device')
        return real(fd, data)
    with practice_server('A clip.') as server:
        monkeypatch.setattr(os, 'write', write)
        with pytest.raises(OSError, match='cannot write .*No space left.*what it holds is kept'):
            caption_rows(rows, ask(server, workers=1), journal=tmp_path/'j.jsonl', progress=False)
    assert len(Journal(tmp_path/'j.jsonl').answers) == 3

def test_a_journal_of_garbage_is_read_as_far_as_it_goes(tmp_path):
    "Lines of zeros, of other JSON and of half a record are skipped, counted and left alone"
    path = tmp_path/'j.jsonl'
    good = json.dumps(dict(key='a', text='A star.', tokens_in=5))
    lines = [good, '[]', '7', '{"key": 1}', '\0\0', '{"key": "b", "text": "A', '']
    path.write_bytes('\n'.join(lines).encode() + b'\xff\n')
    with pytest.warns(UserWarning, match='skipped: 6'): kept = Journal(path)
    assert kept.answers == {'a': json.loads(good)} and kept.tokens == [5, 0]

# ---- servers that misbehave ----

@contextmanager
def raw_server(reply):
    "Sends these bytes to whoever comes, and closes"
    server = socket.create_server(('127.0.0.1', 0))
    def serve():
        while True:
            try: conn, _ = server.accept()
            except OSError: return
            with conn:
                conn.recv(65536)
                conn.sendall(reply)
    threading.Thread(target=serve, daemon=True).start()
    try: yield f'http://127.0.0.1:{server.getsockname()[1]}/v1'
    finally: server.close()

ANSWER = json.dumps(dict(choices=[dict(message=dict(content='A blue star.'))])).encode()

@pytest.mark.parametrize('answers,text,why,requests', [
    (['A star.'], 'A star.', '', 1),
    (['I am sorry, but I cannot help.', 'A star.'], 'A star.', '', 2),
    (["I can't see it.", "I can't see it."], '', 'a refusal', 2),
    (['na '*50, 'na '*50], '', 'repeats itself', 2),
    (['x'*5000, 'A star.'], 'A star.', '', 2),
    ([(200, b''), (200, b'')], '', 'not a chat answer', 2),
    ([(200, b'{"choices": []}'), 'A star.'], 'A star.', '', 2),
    ([(200, b'<html>'), (200, b'<html>')], '', '<html>', 2),
    ([(200, ANSWER[:-20]), 'A star.'], 'A star.', '', 2),
    ([429, 'A star.'], 'A star.', '', 2),
    ([(429, b'{}', {'Retry-After': '0.02'}), 'A star.'], 'A star.', '', 2),
    ([500, 500], '', 'failed 2 times, the last time with status 500', 2),
    ([.6, 'A star.'], 'A star.', '', 2),
    ([.6, .6], '', 'no answer', 2),
    ([400], '', 'status 400', 1),
    ([413], '', 'the request is too long', 1)])
def test_what_an_answer_becomes(answers, text, why, requests, rows):
    "Nonsense is asked for once more, a failing server as often as the endpoint says; then the row tells the reason"
    with practice_server(*answers) as server:
        row, = caption_rows(rows[:1], ask(server, workers=1, timeout=.3), progress=False)
        assert (row['text'], len(server.requests)) == (text, requests)
    assert why in row['caption_error'] and bool(why) == bool(row['caption_error'])

def test_an_answer_that_stops_in_the_middle(rows):
    "A connection that closes within an answer is tried again, then named; the rest of the table goes on"
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n'
    with raw_server(head + ANSWER[:30]) as url:
        captioner = EndpointCaptioner(Endpoint('m', url, wait=.01, timeout=1., tries=2))
        out = caption_rows(rows[:2], captioner, progress=False)
    assert all('failed 2 times' in r['caption_error'] and r['text'] == '' for r in out)

@pytest.mark.parametrize('status', [401, 403, 404])
def test_what_is_wrong_for_every_row_stops_at_once(status, rows, tmp_path):
    "A wrong key or model is a sentence, not a table of errors; answers from before stay"
    with practice_server('A star.', 'A star.', status) as server:
        with pytest.raises(EndpointError, match=f'status {status}'):
            caption_rows(rows, ask(server, workers=1), journal=tmp_path/'j', progress=False)
        assert len(server.requests) == 3
    assert len(Journal(tmp_path/'j').answers) == 2

def test_no_more_requests_at_once_than_workers(rows):
    "Eight rows by three workers: never more than three requests under way, and several at times"
    now, most, lock = [0], [0], threading.Lock()
    def answer(sent):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(.05)
        with lock: now[0] -= 1
        return 'A clip.'
    with practice_server(answer) as server: caption_rows(rows, ask(server, workers=3), progress=False)
    assert 1 < most[0] <= 3

def test_tokens_of_answers_without_a_text_are_counted(rows):
    "An empty answer costs what it costs"
    usage = dict(prompt_tokens=100, completion_tokens=7)
    empty = json.dumps(dict(choices=[dict(message=dict(content=''))], usage=usage)).encode()
    with practice_server((200, empty)) as server:
        captioner = ask(server, workers=1)
        caption_rows(rows[:1], captioner, progress=False)
    assert (captioner.endpoint.tokens_in, captioner.endpoint.tokens_out) == (200, 14)

def test_nonsense_is_paid_once(rows, tmp_path):
    "A refusal is kept with its reason: the next run asks only what had no answer at all; --retry asks for both"
    empty = json.dumps(dict(choices=[dict(message=dict(content=''))],
                            usage=dict(prompt_tokens=100, completion_tokens=7))).encode()
    journal = tmp_path/'j.jsonl'
    def run(server, **how):
        before = len(server.requests)
        out = caption_rows(rows[:4], ask(server, workers=1), journal=journal, progress=False, **how)
        return [(r['text'], r['caption_error'][:12]) for r in out], len(server.requests) - before
    refusal = "I'm sorry, I can't describe this."
    with practice_server(refusal, refusal, (200, empty), (200, empty), (500, b'no'), (500, b'no'), 'A star.') as server:
        first, asked = run(server)
        assert asked == 7 and [t for t, _ in first] == ['', '', '', 'A star.'] and all(why for _, why in first[:3])
    with practice_server('A moon.') as server:
        planned = plan_captions(rows[:4], ask(server), journal=journal)
        assert (planned.todo, planned.kept, planned.refused) == (1, 1, 2) and '2 had an answer' in str(planned)
        assert run(server) == (first[:2] + [('A moon.', ''), ('A star.', '')], 1) # the third had no answer
        assert run(server)[1] == 0
        assert run(server, retry=True) == ([('A moon.', '')]*3 + [('A star.', '')], 2)
        assert run(server)[1] == 0

def test_a_budget_ends_a_run_that_goes_on_later(rows, tmp_path):
    "Spent is spent: what was paid for is kept, and more money buys the rest"
    with practice_server('A star.') as server:
        with pytest.raises(StoppedEarly, match='the budget is 1e-06'):
            caption_rows(rows, ask(server, workers=1), journal=tmp_path/'j', price=Price(1., 1., 1e-6), progress=False)
        done = len(Journal(tmp_path/'j').answers)
        assert done == 1
        out = caption_rows(rows, ask(server), journal=tmp_path/'j', progress=False)
        assert all(r['text'] == 'A star.' for r in out)
        assert len(server.requests) == 8

# ---- rows and files ----

def test_files_that_give_no_frame(tmp_path):
    "Audio alone, no bytes, a folder, a picture that is none: a reason each, and no request"
    with av.open(str(tmp_path/'sound.mp4'), 'w') as c:
        s = c.add_stream('aac', rate=8000, layout='mono')
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
        frame.sample_rate = 8000
        for _ in range(4): c.mux(s.encode(frame))
        c.mux(s.encode())
    (tmp_path/'zero.mp4').write_bytes(b'')
    (tmp_path/'note.png').write_text('hello')
    (tmp_path/'dir.mp4').mkdir()
    (tmp_path/'data.csv').write_text('a,b')
    names = ['sound.mp4', 'zero.mp4', 'note.png', 'dir.mp4', 'data.csv', 'none.mp4', '', None, float('nan'),
             'http://x.example/a.mp4']
    with practice_server('A star.') as server:
        out = caption_rows([dict(path=n) for n in names], ask(server), root=tmp_path, progress=False)
        assert not server.requests
    assert 'no video stream' in out[0]['caption_error'] and all(r['caption_error'] and r['text'] == '' for r in out)
    assert str(plan_captions([dict(path=n) for n in names], ask(server), root=tmp_path)).startswith('10 rows')

def test_existing_captions_of_every_kind(rows):
    "Quotes, line breaks and braces are inserted as what they are, ten megabytes as far as there is room"
    odd = ['He said "no",\n{then} left.', '{}{0}%s', 'word '*2_000_000, '<<<\n>>>', '\ud83d half', '']
    with practice_server('A star.') as server:
        out = caption_rows([dict(r, text=t) for r, t in zip(rows, odd)], ask(server, workers=1),
                           CaptionSettings('video-f1-detail-2ex-text'), progress=False)
        sent = [r['messages'][-1]['content'][-1]['text'] for r in server.requests]
    assert [r['text'] for r in out] == ['A star.']*6 and len(sent) == 6
    assert 'He said "no", {then} left.' in sent[0] and '{}{0}%s' in sent[1] and max(map(len, sent)) < 4000
    assert '<<<' not in sent[5]

def test_rows_that_have_a_caption_keep_it(rows):
    "Also where a new one fails"
    with practice_server('') as server:
        out = caption_rows([dict(rows[0], text='by hand'), dict(rows[1], text='by hand')], ask(server, workers=1),
                           CaptionSettings('video-text'), progress=False)
    assert [(r['text'], bool(r['caption_error'])) for r in out] == [('by hand', True)]*2
    with practice_server('A star.') as server:
        out = caption_rows([dict(rows[0], text='by hand')], ask(server), progress=False)
        assert out[0]['text'] == 'by hand' and not server.requests

def test_other_settings_are_other_keys(rows, tmp_path):
    "Prompt, frames, side, model, inserted caption and content each ask anew; a new name does not"
    os.rename(rows[0]['path'], tmp_path/'renamed.mp4')
    moved = dict(path=str(tmp_path/'renamed.mp4'), text='')
    inserts = CaptionSettings('video-f1-detail-2ex-text')
    changes = [CaptionSettings('video'), CaptionSettings(frames=2), CaptionSettings(side=20), inserts]
    with practice_server('A star.') as server:
        captioner = ask(server)
        def run(row, settings=CaptionSettings(), by=captioner):
            caption_rows([row], by, settings, journal=tmp_path/'j', progress=False)
            return len(server.requests)
        assert [run(moved), run(moved)] == [1, 1]
        os.rename(tmp_path/'renamed.mp4', rows[0]['path'])
        assert run(rows[0]) == 1
        assert [run(rows[0], s) for s in changes] == [2, 3, 4, 5]
        assert run(dict(rows[0], text='old'), inserts) == 6
        assert run(rows[0], by=EndpointCaptioner(Endpoint('other', server.url))) == 7
        assert run(rows[1]) == 8

@pytest.mark.parametrize('n,length,want', [
    (1, 20, [10]), (2, 20, [5, 15]), (3, 20, [2, 10, 18]), (4, 20, [2, 7, 12, 17]), (3, 1, [0]), (4, 2, [0, 1])])
def test_which_frames_are_taken(n, length, want, tmp_path):
    "Open-Sora's points, by the grey of each frame"
    film = np.stack([np.full((32, 32, 3), 10*i + 20, np.uint8) for i in range(length)])
    write_video(tmp_path/'a.mp4', film, crf=0)
    assert [round((f.mean() - 20)/10) for f in caption_frames(tmp_path/'a.mp4', n)] == want

@pytest.mark.parametrize('name', CAPTION_PROMPTS)
def test_a_prompt_is_no_caption(name):
    "A model that repeats what it was told has not described anything"
    prompt = caption_prompt(name)
    asked = f'{prompt.system}\n{prompt.about("old")}'
    assert caption_fault(tidy_answer(asked)[:200], asked) == 'repeats the instruction'

# ---- osnb ----

def test_osnb_data_caption_and_tag(rows, tmp_path, capsys):
    "A table is planned, captioned, tagged, described and told its scores; the same line again asks nothing"
    from opensora_nb.data.tables import read_frame
    table = tmp_path/'meta.csv'
    told = '0.mp4,"a ""red"" cat,\nasleep",5.5\n'
    table.write_text(f'path,text,aes\n{told}1.mp4,,5.5\n2.mp4,,5.5\n3.mp4,,5.5\ngone.mp4,,\n')
    with practice_server('A grey [wall].') as server:
        asked = ['--model', 'm', '--endpoint', server.url, '--price-in', '2', '--price-out', '8']
        line, captioned = ['data', 'caption', str(table), *asked], str(tmp_path/'meta_caption.csv')
        assert main([*line, '--plan']) == 0 and not server.requests
        assert '3 requests to send' in capsys.readouterr().out
        assert main(line) == 0 and len(server.requests) == 3
        assert '5 rows, 4 with text, 1 with a reason' in capsys.readouterr().out
        assert main(line) == main([*line, '--retry']) == 0 and len(server.requests) == 3
        out = read_frame(captioned)
        assert out['text'].to_list()[:2] == ['a "red" cat,\nasleep', 'A grey [wall].']
        assert 'there is no file' in out['caption_error'][4]
        assert main(['data', 'tag', captioned, *asked, '--out', str(tmp_path/'t.parquet')]) == 0
        assert read_frame(tmp_path/'t.parquet')['objects'].to_list() == ['wall']*4 + ['NONE_FOUND']
    for key, column in (('auto', 'text_auto'), ('scores', 'text')):
        assert main(['data', 'tag', captioned, '--key', key, '--out', str(tmp_path/f'{key}.csv')]) == 0
        assert read_frame(tmp_path/f'{key}.csv')[column][1]
    assert 'aesthetic score: 5.5.' in read_frame(tmp_path/'scores.csv')['text'][1]

@pytest.mark.parametrize('words,said', [
    (['caption', 'TABLE'], 'needs a model'), (['caption', 'TABLE', '--model', 'a', '--weights', 'b'], 'not both'),
    (['caption', 'TABLE', '--model', 'a', '--prompt', 'pllave'], 'did you mean pllava'),
    (['caption', 'none.csv', '--model', 'a'], 'no table or folder none.csv'),
    (['caption', 'TABLE', '--model', 'a', '--request', 'x'], 'no JSON'),
    (['tag', 'TABLE', '--key', 'verbs', '--model', 'a'], 'objects, actions'),
    (['tag', 'TABLE', '--key', 'merge', '--model', 'a', '--columns', 'text,alt'], 'no column alt'),
    (['caption', 'TABLE', '--model', 'a', '--endpoint', 'ftp://x'], 'base_url')])
def test_lines_that_cannot_be_run(words, said, tmp_path, capsys, monkeypatch):
    "One sentence and exit code 1, before anything is sent"
    monkeypatch.chdir(tmp_path)
    (tmp_path/'t.csv').write_text('path,text\na.mp4,x\n')
    assert main(['data', *('t.csv' if w == 'TABLE' else w for w in words)]) == 1
    assert said in capsys.readouterr().err

@pytest.mark.parametrize('line,want', [
    ('torchrun --nproc_per_node 8 --standalone -m tools.caption.caption_llava meta.csv --dp-size 8 --tp-size 1 '
     '--model-path liuhaotian/llava-v1.6-mistral-7b --prompt video',
     'caption meta.csv --weights llava-hf/llava-v1.6-mistral-7b-hf --prompt video --frames 1'),
    ('torchrun --nproc_per_node 2 --standalone -m tools.caption.caption_llava meta.csv --bs 8 --resize=672',
     'caption meta.csv --weights llava-hf/llava-v1.6-34b-hf --prompt video-f1-detail-3ex --frames 1 --batch-size 8 '
     '--side 672'),
    ('python -m tools.caption.caption_gpt4 clips out.csv --key k',
     'caption clips --prompt video-f3-detail-3ex --model gpt-4o --out out.csv'),
    ('torchrun --nproc_per_node 2 -m tools.caption.caption_llama3 meta.csv --key actions --output_prefix meta',
     'tag meta.csv --weights meta-llama/Meta-Llama-3-8B-Instruct --key actions --out meta_actions.csv'),
    ('CUDA_VISIBLE_DEVICES=0 python -m tools.caption.pllava_dir.caption_pllava_csv --plan --csv_path a.b.csv '
     '--use_lora --pretrained_model_name_or_path p13 --num_frames 4 --pooling_shape 4-12-12',
     'caption a.b.csv --prompt pllava --weights p13 --frames 4 --out a.b_text.csv --plan')])
def test_lines_of_the_original(line, want, monkeypatch):
    "With osnb in front they mean the same, as far as it means something here"
    monkeypatch.delenv('OPENAI_MODEL', raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        argv, processes = from_original(line.split())
    assert (' '.join(argv), processes) == (f'data {want}', 1)

def test_unknown_options_of_the_original():
    "The nearest one is offered"
    with pytest.raises(ValueError, match='did you mean --prompt'):
        from_original('python -m tools.caption.caption_gpt4 a b.csv --promt x'.split())
