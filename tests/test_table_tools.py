"The original's lines for tables with `osnb` in front, tables of spreadsheets through them, and the way to training"
import io, shlex, subprocess, sys, warnings
import pytest
from opensora_nb.app.cli import main
from opensora_nb.app.opensora_cli import from_original
from opensora_nb.data.dataset import DataConfig, find_data, table_rows
from opensora_nb.data.shapes import write_dataset

pl = pytest.importorskip('polars')
from opensora_nb.data.tables import CsvTable, read_frame, write_table

LINES = { # a documented line -> what it is here
    'python -m tools.datasets.convert video clips --output meta.csv': 'data convert video clips --output meta.csv',
    'python -m tools.datasets.convert image clips': 'data convert image clips',
    'python -m tools.datasets.convert imagenet IN --split train': 'data convert imagenet IN --split train',
    'python -m tools.datasets.convert ucf101 UCF --split videos': 'data convert ucf101 UCF --split videos',
    'python -m tools.datasets.convert vidprom VP --info VidProM_semantic_unique.csv':
        'data convert vidprom VP --info VidProM_semantic_unique.csv',
    'python tools/datasets/convert_dataset.py ucf101 UCF --split videos': 'data convert ucf101 UCF --split videos',
    'python -m tools.datasets.datautil meta.csv --info --fmin 1': 'data datautil meta.csv --info --fmin 1',
    'python -m tools.datasets.datautil a.csv b.csv': 'data datautil a.csv b.csv',
    'python -m tools.datasets.datautil a.csv --shard 10': 'data datautil a.csv --shard 10',
    'python -m tools.datasets.datautil a.csv --fmin 128 --fmax 256 --disable-parallel':
        'data datautil a.csv --fmin 128 --fmax 256 --disable-parallel',
    'python -m tools.datasets.datautil a.csv --abspath /data': 'data datautil a.csv --abspath /data',
    'python -m tools.datasets.datautil a.csv --sort-descending aes': 'data datautil a.csv --sort aes',
    'python -m tools.datasets.datautil a.csv --clean-caption T5': 'data datautil a.csv --clean-caption',
    'python -m tools.datasets.datautil a.csv --count-num-token': 'data datautil a.csv --count-num-token t5',
    'python -m tools.datasets.datautil a.csv --aesmin=4.5': 'data datautil a.csv --aesmin=4.5',
    'python -m tools.datasets.csvutil a.csv --remove-caption-prefix': 'data datautil a.csv --refine-llm-caption',
    'python -m tools.datasets.analyze a.csv': 'data analyze a.csv',
    'python -m tools.datasets.split a.csv -o b.csv -c configs/opensora-v1-2/train/stage1.py':
        'data split a.csv -o b.csv -c configs/opensora-v1-2/train/stage1.py',
    'python -m tools.datasets.transform img_resize a.csv IN OUT --length 1080':
        'data transform img_resize a.csv IN OUT --length 1080'}

@pytest.mark.parametrize('line', LINES)
def test_a_line_of_the_original_is_read(line):
    "Every documented line becomes an `osnb data` line whose options exist"
    import argparse
    from opensora_nb.app.data_cli import data_options
    words, processes = from_original(shlex.split(line))
    assert (shlex.join(words), processes) == (LINES[line], 1)
    p = argparse.ArgumentParser()
    data_options(p, words[1])
    p.parse_args(words[1:])

@pytest.mark.parametrize('line, says', [
    ('python -m tools.datasets.filter_panda10m', 'a file of one server'),
    ('python -m tools.datasets.csv2txt a.csv', 'csv2txt has no counterpart here; those that have: convert'),
    ('python -m tools.datasets.datautil a.csv --unescape', '--clean-caption undoes HTML escapes')])
def test_what_has_no_counterpart_is_a_sentence(line, says, capsys):
    "Refused before anything is read"
    assert main(shlex.split(line)) == 1
    err = capsys.readouterr().err
    assert says in err and err.count('\n') == 1

def run(line, capsys):
    code = main(shlex.split(line))
    out = capsys.readouterr()
    assert code == 0, out.err
    return out.out

def test_from_a_folder_to_a_training_plan(tmp_path, capsys, monkeypatch):
    "The original's first two lines, captions from another table, and `osnb data plan` and training read the result"
    monkeypatch.chdir(tmp_path)
    write_dataset('made', 6, num_frames=12)
    (tmp_path/'made/clips/torn.mp4').write_bytes(b'torn')
    run('python -m tools.datasets.convert video made/clips --output meta/meta.csv', capsys)
    captions = read_frame('made/metadata.csv').with_columns(path=str(tmp_path/'made') + '/' + pl.col('path'))
    write_table(captions.select('path', 'text'), 'captions.parquet')
    said = run('python -m tools.datasets.datautil meta/meta.csv --info --fmin 1 --intersection captions.parquet '
               '--remove-empty-caption --format parquet', capsys)
    assert said.startswith('6 of 7 rows: meta/meta_info_noempty_fmin1.parquet')
    for table in ('meta/meta_info_noempty_fmin1.parquet', 'train.csv'):
        if table == 'train.csv':
            run(f'data datautil meta/meta_info_noempty_fmin1.parquet --train-column --output {table}', capsys)
        said = run(f'data plan {table} --buckets toy_mix --max-batch 2', capsys)
        assert 'sizes: 6 from the table' in said
        source = find_data(DataConfig(path=table, num_frames=9, image_size=(32, 32)))
        assert len(source) == 6 and source.clip(0).shape == (9, 32, 32, 3) and source.texts(0)[0]

def test_merging_tables_of_several_folders_keeps_their_paths_apart(tmp_path, capsys):
    "Two tables say `0.mp4`, each of its own folder: no row points into the other's"
    for name in 'ab':
        (tmp_path/name).mkdir()
        write_table(pl.DataFrame(dict(path=['0.mp4'], text=[name])), tmp_path/name/'t.csv')
    run(f'data datautil {tmp_path}/a/t.csv {tmp_path}/b/t.csv', capsys)
    got = read_frame(tmp_path/'a/t+t.csv')
    assert got.rows() == [(f'{tmp_path}/{n}/0.mp4', n) for n in 'ab']

@pytest.mark.parametrize('words, says', [
    ('meta.csv --aesmin 5', 'error: --aesmin needs the column aes; the table has path, text'),
    ('meta.csv --sort aes --sort-ascending aes', 'give two orders'),
    ('meta.csv --fmin -1', '--fmin is -1; use 0 or more'),
    ('meta.csv --path-subset [', 'is no pattern'),
    ('meta.csv --intersection twice.csv', 'twice.csv names a.mp4 2 times'),
    ('meta.csv --output meta.xlsx', 'meta.xlsx ends in .xlsx; write a .csv or a .parquet file'),
    ('none.csv --info', 'there is no table none.csv'),
    ('short.csv', 'short.csv, row 3: text is empty'),
    ('words.csv --fmin 1', "words.csv, row 2: num_frames is 'many', where a whole number is expected")])
def test_bad_tables_and_flags_are_one_sentence(tmp_path, capsys, monkeypatch, words, says):
    "Exit code 1, one line on stderr, no output file"
    monkeypatch.chdir(tmp_path)
    files = {'meta.csv': 'path,text\na.mp4,cat\n', 'twice.csv': 'path,aes\na.mp4,5\na.mp4,6\n',
             'short.csv': 'path,text\na.mp4,cat\nb.mp4\n', 'words.csv': 'path,num_frames\na.mp4,many\n'}
    for name, text in files.items(): (tmp_path/name).write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert main(['data', 'datautil', *shlex.split(words)]) == 1
    err = capsys.readouterr().err.strip().splitlines()
    assert says in err[-1] and {p.name for p in tmp_path.iterdir()} == set(files), err

@pytest.mark.parametrize('line, says', [
    ('run opensora MISSING --out t.csv', 'there is no folder or table MISSING; give the folder that holds the videos'),
    ('run opensora bare.csv --out t.csv', 'bare.csv has no column path; its columns are: file, text'),
    ('run opensora head.csv --out t.csv', 'head.csv has column names but no rows'),
    ('scenes MISSING', 'there is no table or folder MISSING; give a .csv'),
    ('score flow bare.csv', 'bare.csv has no column path'),
    ('cut bare.csv --save-dir c', 'has no column path'), ('tag MISSING --key auto', 'there is no table or folder'),
    ('caption bare.csv --model x --endpoint http://127.0.0.1:9/v1', 'bare.csv has no column path'),
    ('download MISSING.txt to', 'there is no list MISSING.txt; give a text file with an address a line'),
    ('download head.csv to', 'head.csv is no list of addresses such as https://host/clip.mp4'),
    ('interpolate MISSING --out c', 'there is no file or folder MISSING'),
    ('datautil clips', 'clips is a folder; a table of it comes from: osnb data convert video clips'),
    ('transform img_resize MISSING clips c', 'there is no table MISSING'),
    ('transform img_resize gone.csv clips c', 'no usable file among 1; the first: no such file: clips/gone.png')])
def test_bad_input_says_what_is_wrong_and_what_to_do(tmp_path, capsys, monkeypatch, line, says):
    "A name that is mistyped, a table without paths, a folder in place of a table: one sentence, nothing is written"
    monkeypatch.chdir(tmp_path)
    (tmp_path/'clips').mkdir()
    tables = {'bare': 'file,text\na.mp4,x\n', 'head': 'path,text\n', 'gone': 'path\nclips/gone.png\n'}
    for name, text in tables.items(): (tmp_path/f'{name}.csv').write_text(text)
    before = {*tmp_path.rglob('*')}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert main(['data', *shlex.split(line)]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith('osnb: error: ') and says in said and {*tmp_path.rglob('*')} == before

def test_a_table_without_captions_is_planned(tmp_path, capsys, monkeypatch):
    "Sizes are enough for a plan, which says how captions come; training says the same and stops"
    monkeypatch.chdir(tmp_path)
    write_dataset('made', 6, num_frames=12)
    write_table(read_frame('made/metadata.csv').select('path'), 'made/bare.csv')
    said = run('data plan made/bare.csv --buckets toy_mix --max-batch 2', capsys)
    assert '6 of 6 clips have no caption' in said and 'osnb data run caption made/bare.csv' in said
    assert 'of 6 clips are kept; ' in said
    assert main(['train', 'shapes_t2v', 'data.path=made/bare.csv', '--quick']) == 1
    assert 'osnb data caption made/bare.csv --model NAME' in capsys.readouterr().err
    run('data run caption made/bare.csv --out made/told.csv --measured --workers 0', capsys)
    assert all(read_frame('made/told.csv')['text'])
    assert 'no caption' not in run('data plan made/told.csv --buckets toy_mix --max-batch 2', capsys)

@pytest.mark.parametrize('data, says', [
    (b'path,text\na.mp4,"cat\n' + b'b.mp4,dog\n'*20000, 'row 2'), (b'path,text\na.mp4,c\0at\n', 'zero bytes'),
    (b'path,text\na.mp4,' + b'x'*10_000_000 + b'\n', 'row 2: a value is longer than 131,072'),
    (b'path,text,text\na.mp4,a,b\n', 'two columns are called text'), (b'', 'is empty'),
    ('path,text\na.mp4,süß\n'.encode('latin-1'), 'line 2, is not UTF-8 text'),
    (b'path,text\n' + b'a.mp4,cat\n'*100_000 + b'b.mp4,a 5" disk\n', 'row 100002: a quote has no partner')])
def test_a_table_that_cannot_be_read_names_the_row(tmp_path, data, says):
    "The same refusals as in training, from the reader in parts"
    (tmp_path/'t.csv').write_bytes(data)
    with pytest.raises(ValueError, match=says.replace('"', '.')) as e: CsvTable(tmp_path/'t.csv', 100_000)
    assert 't.csv' in str(e.value) and '\n' not in str(e.value)

def test_the_quick_reader_agrees_with_the_careful_one(tmp_path):
    "400 random tables, good and broken: the same rows, or a refusal by both"
    import csv, random
    rnd, path, kept = random.Random(0), tmp_path/'t.csv', 0
    atoms = ['a', 'cat', ',', ';', '"', '""', ' ', '\n', '\\', '\\"', 'x.mp4', 'é', '001', '\t', '"a"', '1.5', '']
    for k in range(400):
        rows = [['path', 'text', 'n']]
        for _ in range(rnd.randint(0, 5)):
            rows.append([''.join(rnd.choices(atoms, k=rnd.randint(0, 4))) for _ in 'abc'])
        text = io.StringIO(newline='')
        if k % 2: csv.writer(text, lineterminator='\n').writerows(rows)
        else: text.write('\n'.join(','.join(r) for r in rows) + '\n'*rnd.randint(0, 1))
        path.write_text(text.getvalue())
        try: want = [tuple(r.values()) for r in table_rows(path)[0]]
        except ValueError: want = None
        try: got = [row for frame, _ in CsvTable(path, rnd.choice([40, 60, 1000])).strings() for row in frame.rows()]
        except ValueError: got = None
        assert got == want, text.getvalue()
        kept += want is not None
    assert kept > 100

def test_a_full_disk_leaves_the_old_table(tmp_path):
    "One sentence, and neither a part nor a change"
    write_table(pl.DataFrame(dict(path=['a.mp4'])), tmp_path/'t.csv')
    code = ("import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nimport polars as pl\n"
            "from opensora_nb.data.tables import write_table\n"
            "try: write_table(pl.DataFrame(dict(path=[f'{i}' for i in range(200_000)])), sys.argv[1])\n"
            "except OSError as e: print(e)")
    out = subprocess.run([sys.executable, '-c', code, str(tmp_path/'t.csv')], capture_output=True, text=True)
    assert 'cannot write' in out.stdout and 'free some space' in out.stdout, out
    assert (tmp_path/'t.csv').read_text() == 'path\na.mp4\n' and len(list(tmp_path.iterdir())) == 1

def test_transform_split_and_analyze_from_the_command(tmp_path, capsys, monkeypatch):
    "Frames of videos, a few clips of each bucket, pictures of a table"
    monkeypatch.chdir(tmp_path)
    write_dataset('made', 3, num_frames=12)
    run('data convert video made/clips --output meta.csv', capsys)
    run('data transform vid_frame_extract meta.csv made frames --points 0 0.5', capsys)
    assert len(read_frame('meta_vid_frame_extract.csv')) == 6 and len(list((tmp_path/'frames/clips').iterdir())) == 6
    run('data datautil meta.csv --info', capsys)
    said = run('data split meta_info.csv -o few.csv -c toy_mix -l 2', capsys)
    assert said.startswith('2 of 3 rows')
    assert '3 videos' in run('data analyze meta_info.csv --save-img infos', capsys)
    assert (tmp_path/'infos/video_num_frames.png').exists()

@pytest.mark.slow
def test_captions_in_several_processes(tmp_path, capsys):
    "Cleaning in two processes gives what one gives"
    from opensora_nb.data.tables import clean_texts, row_bar, spread_texts
    texts = [f'The Dog no. {i} runs, see www.x.org' for i in range(30)]*200
    assert spread_texts(clean_texts, texts, 2, row_bar('texts')) == clean_texts(texts[:30])*200

class Counter:
    "In place of a bar: what it says, of how many, and how far it got"
    every = []
    def __init__(self, items=(), desc='', total=None, **more):
        self.items, self.desc, self.n = items, desc, 0
        self.total = len(items) if total is None and hasattr(items, '__len__') and len(items) else total
        Counter.every.append(self)
    def update(self, n=1): self.n += n
    def __iter__(self):
        for item in self.items:
            self.update()
            yield item

@pytest.mark.parametrize('words, bars', [
    ('datautil meta.csv --info --ext --filesize --load-caption txt',
     {'load-caption': (6, 6), 'files': (6, 6), 'ext': (6, 6), 'filesize': (6, 6)}),
    ('datautil meta.csv --clean-caption --merge-cmotion --score-to-text --relpath .',
     {'paths': (None, 6), 'merge-cmotion': (6, 6), 'score-to-text': (6, 6), 'clean captions': (6, 6)}),
    ('datautil meta.csv --path-subset [0-3].mp4 --clean-caption', {'clean captions': (None, 4)}),
    ('transform vid_frame_extract meta.csv made frames --points 0', {'videos': (6, 6)}),
    ('split meta.csv -c toy_mix', {'buckets': (6, 6)}), ('tag meta.csv --key auto', {'auto': (6, 6)})])
def test_long_steps_have_a_bar(tmp_path, capsys, monkeypatch, words, bars):
    "What reads files or goes over captions says how far it is, of how many where that is known"
    monkeypatch.chdir(tmp_path)
    rows = read_frame(write_dataset('made', 6, num_frames=3)).with_columns(
        path='made/' + pl.col('path'), aes=5., flow=1., cmotion=pl.lit('static'),
        num_frames=pl.lit(3), height=pl.lit(64), width=pl.lit(64))
    write_table(rows, 'meta.csv')
    Counter.every.clear()
    for place in ('tqdm.auto.tqdm', 'tqdm.tqdm'): monkeypatch.setattr(place, Counter)
    run(f'data {words}', capsys)
    got = {b.desc: (b.total, b.n) for b in Counter.every if b.n and b.desc}
    assert got == bars

def test_a_bar_is_drawn_and_ends_its_line(tmp_path, capsys, monkeypatch):
    "On a terminal, once its two seconds are over"
    import tqdm.auto
    from opensora_nb.data.datautil import prepare_table
    real = tqdm.auto.tqdm
    monkeypatch.setattr('tqdm.auto.tqdm', lambda *a, **k: real(*a, **{**k, 'delay': 0, 'mininterval': 0}))
    write_table(pl.DataFrame(dict(path=['a.mp4']*1500, text=['The dog &amp; the cat']*1500)), tmp_path/'t.csv')
    prepare_table(tmp_path/'t.csv', clean_caption=True)
    said = capsys.readouterr().err
    assert 'clean captions: 100%' in said and '1500/1500' in said and said.endswith('\n'), said[-500:]

def test_public_sets_become_tables(tmp_path, capsys, monkeypatch):
    "A tree of UCF-101, and a list of captions beside a heap of videos"
    monkeypatch.chdir(tmp_path)
    write_dataset('made', 2, num_frames=5)
    for i, name in enumerate(('YoYo', 'TaiChi')):
        (tmp_path/'ucf/videos'/name).mkdir(parents=True)
        (tmp_path/f'made/clips/{i:05d}.mp4').rename(tmp_path/'ucf/videos'/name/f'v_{i}.mp4')
    run('python -m tools.datasets.convert ucf101 ucf --split videos', capsys)
    assert read_frame('ucf101_videos.csv')['text'].to_list() == ['Tai Chi', 'Yo Yo']
    (tmp_path/'list.json').write_text('[{"vid": "v_0", "caption": "a yo-yo"}, {"vid": "lost", "caption": ""}]')
    with pytest.warns(UserWarning, match='1 of 2 files are not in ucf'):
        from opensora_nb.data.public_sets import read_captions
        assert read_captions('list.json', 'ucf')['text'].to_list() == ['a yo-yo']
    assert main(['data', 'convert', 'captions', 'ucf']) == 1
    assert 'captions needs --info' in capsys.readouterr().err
