"Downloads that are killed, run twice, or find the disk full; the commands download and interpolate"
import errno, hashlib, subprocess, sys, threading, time
from pathlib import Path
import numpy as np, pytest
from opensora_nb.app.cli import main
from opensora_nb.data import download as module
from opensora_nb.data.download import DownloadSettings, download, practice_files, read_list, url_name
from opensora_nb.data.video_io import read_video, write_video

ROOT = Path(__file__).resolve().parent.parent
DATA = np.random.default_rng(0).bytes(1 << 20)
QUICK = DownloadSettings(wait=.01)

def trickle(request, data=DATA, chunk=1 << 14, pause=.005):
    "Send slowly, from where it was asked for"
    mark = '"same"'
    asked = request.headers.get('Range')
    start = int(asked[6:-1]) if asked and request.headers.get('If-Range') == mark else 0
    request.send_response(206 if start else 200)
    headers = {'Content-Length': len(data) - start, 'ETag': mark}
    if start: headers['Content-Range'] = f'bytes {start}-{len(data) - 1}/{len(data)}'
    for k, v in headers.items(): request.send_header(k, str(v))
    request.end_headers()
    try:
        for at in range(start, len(data), chunk):
            request.wfile.write(data[at:at + chunk])
            time.sleep(pause)
    except OSError: request.close_connection = True

def test_a_killed_download_goes_on_where_it_was(tmp_path, monkeypatch):
    "kill -9 in the middle; the second start asks for the rest only"
    monkeypatch.setattr(module, 'READ_BYTES', 1 << 14)
    code = f"import sys\nfrom opensora_nb.data import download as m\nm.READ_BYTES = {1 << 14}\n" \
           "m.download([sys.argv[1]], sys.argv[2], progress=False)"
    with practice_files({'/a.bin': trickle}) as server:
        process = subprocess.Popen([sys.executable, '-c', code, f'{server.url}/a.bin', tmp_path], cwd=ROOT)
        part = tmp_path/'a.bin.part'
        while not (part.exists() and part.stat().st_size > 1 << 17): time.sleep(.005)
        process.kill()
        process.wait()
        have = part.stat().st_size
        assert not (tmp_path/'a.bin').exists() and have < len(DATA)
        row, = download([f'{server.url}/a.bin'], tmp_path, QUICK, progress=False)
        assert server.requests[-1] == ('/a.bin', f'bytes={have}-')
    assert (tmp_path/'a.bin').read_bytes() == DATA and row['sha256'] == hashlib.sha256(DATA).hexdigest()
    assert not part.exists()

def test_files_come_in_parallel(tmp_path):
    "Never more at a time than asked for"
    running, most, lock = [0], [0], threading.Lock()
    def slow(request):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(.05)
        with lock: running[0] -= 1
        request.send_file(b'x'*100)
    with practice_files({f'/{i}.bin': slow for i in range(9)}) as server:
        rows = download([f'{server.url}/{i}.bin' for i in range(9)], tmp_path, DownloadSettings(parallel=3), False)
    assert all(r['path'] for r in rows) and most[0] == 3

def test_a_full_disk_stops_the_list_in_a_sentence(tmp_path, monkeypatch):
    def full(*args, **kwargs): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(module.os, 'fsync', full)
    monkeypatch.setattr(module.StageLog, 'append', lambda *a: None)
    with practice_files({'/a.bin': b'x'}) as server, pytest.raises(OSError, match='No space left on device'):
        download([f'{server.url}/a.bin'], tmp_path, QUICK, progress=False)

@pytest.mark.parametrize('url', [
    'http://a/../../etc/passwd', 'http://a/%2e%2e/%2e%2e%5c%2e%2e%5cx', 'http://a/a%00b.mp4', 'http://a/%0d%0a.mp4',
    'http://a/.ssh', 'http://a/-rf', 'http://a/' + 'é'*400, '..', '/', '\\\\host\\share', 'http://a/nul', 'C:\\x.mp4'])
def test_hostile_names_stay_in_the_folder(tmp_path, url):
    name = url_name(url)
    assert name and (tmp_path/name).resolve().parent == tmp_path.resolve() and not name.startswith('.')
    assert name.isascii() and name.isprintable() and not set(name) & set('/\\:*?"<>|') and len(name) <= 120

def test_a_server_that_goes_on_for_ever_is_stopped(tmp_path):
    "No Content-Length, and more bytes than are taken"
    def endless(request):
        request.send_response(200)
        request.send_header('Connection', 'close')
        request.end_headers()
        try:
            while True: request.wfile.write(b'x'*(1 << 16))
        except OSError: request.close_connection = True
    with practice_files({'/a.bin': endless}) as server:
        row, = download([f'{server.url}/a.bin'], tmp_path, DownloadSettings(most_mb=1, wait=0), progress=False)
    assert 'more than the 1 MB' in row['why'] and not (tmp_path/'a.bin.part').exists()

@pytest.mark.parametrize('target,says', [('file:///etc/passwd', 'leads to file'), ('ftp://a/b', 'leads to ftp'),
                                         ('/loop.bin', 'leads to /loop.bin')])
def test_redirects_that_are_refused(tmp_path, target, says):
    def elsewhere(request):
        request.send_response(302)
        for k, v in {'Location': target, 'Content-Length': 0}.items(): request.send_header(k, str(v))
        request.end_headers()
    with practice_files({'/loop.bin': elsewhere}) as server:
        row, = download([f'{server.url}/loop.bin'], tmp_path, QUICK, progress=False)
    assert says in row['why'] and not row['path']

def test_the_commands(tmp_path, capsys):
    "A list becomes files and a table, and clips become smoother ones; what is missing is in the exit code"
    write_video(tmp_path/'a.mp4', np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8), fps=8)
    with practice_files({'/a.mp4': (tmp_path/'a.mp4').read_bytes()}) as server:
        (tmp_path/'list.csv').write_text(f'url,text\n{server.url}/a.mp4,"one, two"\n{server.url}/b.mp4,x\n')
        assert main(['data', 'download', str(tmp_path/'list.csv'), str(tmp_path/'got')]) == 1
        assert '1 of 2 files are there' in capsys.readouterr().out
        (tmp_path/'list.txt').write_text(f'{server.url}/a.mp4\n')
        assert main(['data', 'download', str(tmp_path/'list.txt'), str(tmp_path/'got2')]) == 0
    assert [r['text'] for r in read_list(tmp_path/'got'/'download.csv')] == ['one, two', 'x']
    assert main(['data', 'interpolate', str(tmp_path/'got'), '--out', str(tmp_path/'smooth'), '--passes', '2']) == 0
    smooth = read_video(tmp_path/'smooth'/'a_x4.mp4')
    assert len(smooth) == 13
    assert main(['data', 'interpolate', str(tmp_path/'list.txt'), '--out', str(tmp_path/'smooth')]) == 1
    for name in ('x/a.mp4', 'y/a.mp4'): write_video(tmp_path/'two'/name, np.zeros((2, 32, 32, 3), np.uint8), 8)
    assert main(['data', 'interpolate', str(tmp_path/'two'), '--out', str(tmp_path/'both'), '--method', 'repeat']) == 0
    assert sorted(p.name for p in (tmp_path/'both').iterdir()) == ['x_a_x2.mp4', 'y_a_x2.mp4']
