"Tables and captions as spreadsheets, scripts and tired hands write them: read exactly, or refused with the row"
import csv, io, random, re, time, warnings
import numpy as np, pytest
from opensora_nb.data.dataset import DataConfig, find_data, folder_source, read_table
from opensora_nb.data.video_io import write_image, write_video

def table(tmp_path, text, code='utf-8'):
    (tmp_path/'t.csv').write_bytes(text.encode(code) if isinstance(text, str) else text)
    return tmp_path/'t.csv'

def refused(path, *says):
    "The sentence with which a table is refused, within two seconds"
    start = time.process_time()
    with pytest.raises(ValueError) as e: read_table(path)
    text = str(e.value)
    assert '\n' not in text and path.name in text and time.process_time() - start < 2, text
    assert all(s in text for s in says), text
    return text

# ---- what was lost without a word

def test_a_comma_in_a_caption_is_not_the_end_of_it(tmp_path):
    "`a red cat, sitting on a mat` was trained on as `a red cat`"
    said = refused(table(tmp_path, 'path,text\na.mp4,a red cat, sitting on a mat\n'),
                   'row 2: there are 3 values for the 2 columns path, text')
    assert 'a.mp4 | a red cat | sitting on a mat' in said and 'in quotes' in said

def test_an_open_quote_does_not_swallow_the_next_rows(tmp_path):
    "Three rows became one caption; the row that opens the quote is named, wherever the next quote comes"
    for rest in ('b.mp4,dog\nc.mp4,bird\n', 'b.mp4,"dog, black"\n', 'b.mp4,dog"\nc.mp4,x\n', 'b.mp4,"",\n'):
        refused(table(tmp_path, f'path,text\na.mp4,one\nx.mp4,"a red cat\n{rest}'), 'row 3', 'a red cat', 'in quotes')

def test_an_open_quote_before_6000_rows_is_a_sentence(tmp_path):
    "`_csv.Error: field larger than field limit (131072)` ended `osnb data plan` with a traceback"
    rows = ''.join(f'clips/{i}.mp4,a cat number {i} that sits on a mat\n' for i in range(6000))
    path = table(tmp_path, f'path,text\na.mp4,"a red cat\n{rows}')
    refused(path, 'row 2', 'longer than 131,072 characters', 'never closed')

def test_short_rows_and_columns_of_one_name_are_refused(tmp_path):
    "A row of too few values, and a second column `text` that hid the first"
    refused(table(tmp_path, 'path,text,fps\na.mp4,cat,8\nb.mp4,dog\n'),
            'row 3: fps is empty, since there are 2 values for the 3 columns')
    # a comma of the caption, or a cell?
    refused(table(tmp_path, 'path,text\na.mp4,a red cat,\n'), 'row 2: there are 3 values for the 2 columns')
    refused(table(tmp_path, 'path,text,\na.mp4,a red cat, asleep\n'),
            "row 2: 'asleep' stands in a column without a name")
    refused(table(tmp_path, 'path,text,text\na.mp4,cat,dog\n'), 'row 1: two columns are called text')

def test_rows_are_counted_as_a_spreadsheet_counts_them(tmp_path):
    "Empty lines count, a caption of several lines is one row; where the line in the file differs, both are said"
    refused(table(tmp_path, 'path,text\n\n\na.mp4,cat\n\nb.mp4,\n'), 'row 6: text is empty')
    refused(table(tmp_path, 'path,text\na.mp4,"one\ntwo\nthree"\nb.mp4,\n'), 'row 3 (line 5): text is empty')

# ---- what can be read is read

@pytest.mark.parametrize('sep', [',', ';', '\t'])
@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
@pytest.mark.parametrize('code', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_spreadsheets_of_all_countries(tmp_path, sep, end, code):
    "Excel writes semicolons in half of Europe, tabs and UTF-16 as 'Unicode text', and bare returns on an old Mac"
    rows = [
        ['path', 'text', 'fps'],
        ['a.mp4', 'a "red" cat, asleep; on\ta mat', '8'],
        ['b.mp4', '红色的圆\nzweite Zeile', '8'],
    ]
    file = io.StringIO(newline='')
    # else csv leaves a line feed bare in a file of returns
    csv.writer(file, delimiter=sep, lineterminator=end, quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    got = read_table(table(tmp_path, file.getvalue(), code))
    assert [(p.name, texts[0]) for p, texts in got] == [(r[0], r[1]) for r in rows[1:]]

@pytest.mark.parametrize('text', [
    'path,text\na.mp4, "a red cat, asleep"\n',                   # a space after the comma
    'path,text,,\na.mp4,"a red cat, asleep",,\n',               # columns that nobody filled
    ',path,text\n0,a.mp4,"a red cat, asleep"\n',                # the index of pandas
    ' path , text \na.mp4,"a red cat, asleep"\n',
    '\n\npath,text\n\na.mp4,"a red cat, asleep"\n\n   \n',
    '"path","text"\n"a.mp4","a red cat, asleep"',
])
def test_harmless_habits(tmp_path, text):
    "Spaces, empty cells at the end, an index without a name and empty lines lose nothing, so they are no error"
    assert read_table(table(tmp_path, text)) == [(tmp_path/'a.mp4', ['a red cat, asleep'])]

def test_quotes_that_open_nothing(tmp_path):
    "A word in quotes within a caption is kept; an inch mark has no partner and has to be quoted"
    assert read_table(table(tmp_path, 'path,text\na.mp4,the "big" cat\n')) == [(tmp_path/'a.mp4', ['the "big" cat'])]
    refused(table(tmp_path, 'path,text\na.mp4,a 5" disk\n'), 'row 2: a quote has no partner')
    assert read_table(table(tmp_path, 'path,text\na.mp4,"a 5"" disk"\n')) == [(tmp_path/'a.mp4', ['a 5" disk'])]

# ---- odd tables and captions

ODD = {
    'latin.csv': ('path,text\na.mp4,x\nb.mp4,café\n'.encode('latin-1'), 'line 3, is not UTF-8 text'),
    'utf16.csv': ('path,text\na.mp4,cat\n'.encode('utf-16-le'), 'zero bytes'),
    'odd16.csv': (b'\xff\xfea', 'is not UTF-8 text'),
    'zip.csv': (b'PK\x03\x04' + bytes(range(256)), 'is not UTF-8 text'),
    'zero.csv': (b'path,text\na.mp4,c\0at\n', 'zero bytes'),
    'mark.csv': (b'\xef\xbb\xbf', 'is empty'),
    'spaces.csv': (b'  \n \n\n', 'is empty'),
    'pipes.csv': (b'path|text\na.mp4|cat\n', 'its columns are: path|text'),
    'mixed.csv': (b'path;text\na.mp4,cat\n', 'row 2: text is empty, since there is 1 value'),
    'json.csv': (b'[{"path": "a.mp4", "text": "cat"}]', 'row 1'),
    'slashes.csv': (b'path,text\na.mp4,"a \\"red\\" cat"\n', 'row 2'),
    'escaped.csv': (b'path,text\na.mp4,a \\"red\\" cat\n', 'row 2: a backslash stands before a quote'),
    'comma.csv': (b'path,text\na.mp4,a cat\\, asleep\n', 'row 2: there are 3 values'),
    'after.csv': (b'path,text\na.mp4,"a cat" asleep\n', 'row 2: text follows a closing quote'),
    'nothing.csv': (b'path,text\n', 'no rows'),
    'path.csv': (b'path,text\n,cat\n', 'row 2: path is empty'),
    'score.csv': (b'path,text,aes\na.mp4,cat,nan\n', 'row 2: aes is nan'),
    'long.csv': (b'path,text\na.mp4,' + b'x'*200_000 + b'\n', 'row 2: a value is longer than 131,072 characters'),
}

@pytest.mark.parametrize('name', ODD)
def test_an_odd_table_is_one_sentence_for_the_plan_and_for_training(tmp_path, capsys, name):
    "`osnb data plan` and `osnb train` refuse the same tables, in the same words, within two seconds"
    from opensora_nb.app.cli import main
    data, says = ODD[name]
    (tmp_path/name).write_bytes(data)
    start = time.process_time()
    with pytest.raises(ValueError) as e: find_data(DataConfig(path=str(tmp_path/name)))
    assert says in str(e.value) and name in str(e.value) and '\n' not in str(e.value)
    assert time.process_time() - start < 2
    assert main(['data', 'plan', str(tmp_path/name)]) == 1
    assert capsys.readouterr().err == f'osnb: error: {e.value}\n'

@pytest.mark.parametrize('data, says', [
    ('ein süßer Hund'.encode('latin-1'), 'a.txt, line 1, is not UTF-8 text'),
    ('a\nb\nsüß'.encode('cp1252'),       'a.txt, line 3, is not UTF-8 text'),
    ('cat'.encode('utf-16-be'),          'a.txt is not UTF-8 text but holds zero bytes'),
    (b'\x89PNG\r\n',                     'a.txt, line 1, is not UTF-8 text'),
    (b'x'*200_000,                       'a.txt: a caption has more than 131,072 characters'),
    (None,                               'a.txt is a folder'),
])
def test_an_odd_caption_is_one_sentence_with_its_file(tmp_path, data, says):
    "A caption that is not UTF-8 stopped training with `'utf-8' codec can't decode byte 0xfc`, and no file was named"
    write_image(tmp_path/'a.png', np.zeros((8, 8, 3), np.uint8))
    if data is None: (tmp_path/'a.txt').mkdir()
    else: (tmp_path/'a.txt').write_bytes(data)
    with pytest.raises(ValueError) as e: folder_source(tmp_path)
    assert says in str(e.value) and '\n' not in str(e.value)

def test_captions_of_editors(tmp_path):
    "UTF-8 with its mark, UTF-16 with its mark, all line ends, empty files"
    write_image(tmp_path/'a.png', np.zeros((8, 8, 3), np.uint8))
    files = {
        '\ufeffcat\r\ndog\r\n'.encode(): ['cat', 'dog'],
        'süß'.encode('utf-16'):          ['süß'],
        b'cat\rdog':                     ['cat', 'dog'],
        b'':                             [],
        b' \n':                          [],
    }
    for data, want in files.items():
        (tmp_path/'a.txt').write_bytes(data)
        assert folder_source(tmp_path).texts(0) == want

# ---- dialects, whole and damaged

WORDS = ['a red cat', 'sitting', ',', ', ', ';', '\t', '"', '""', "'", '\n', ' ', 'dog', '红色', 'on a mat', '(blue)',
         '5"', '.', '-', '|', '#']
DIALECTS = {
    'excel':        dict(),
    'tabs':         dict(delimiter='\t'),
    'semicolons':   dict(delimiter=';', lineterminator='\r\n'),
    'unix':         dict(quoting=csv.QUOTE_ALL, lineterminator='\n'),
    'mac':          dict(lineterminator='\r', quoting=csv.QUOTE_ALL),
    'words quoted': dict(quoting=csv.QUOTE_NONNUMERIC),
    'backslash':    dict(doublequote=False, escapechar='\\'),
    'no quotes':    dict(quoting=csv.QUOTE_NONE, escapechar='\\'),
}

def caption(rng): # with a letter in it: of quotes alone, one more or less makes another good value
    text = ''.join(rng.choices(WORDS, k=rng.randrange(1, 8))).strip()
    return text if any(c.isalpha() for c in text) else text + 'cat'

def written(rows, more): # text of a table
    file = io.StringIO(newline='')
    csv.writer(file, **more).writerows(rows)
    return file.getvalue()

def draw_rows(rng):
    "A header and rows of a table; whether the path comes first, and whether there is a third column, is drawn too"
    n, third, last = rng.randrange(1, 7), rng.random() < .5, rng.random() < .3
    rows = [['path', 'text', 'fps'], *([f'clips/{i}.mp4', caption(rng), '8'] for i in range(n))]
    return [r[:2 + third][::-1] if last else r[:2 + third] for r in rows]

def said_or_read(path, rows):
    "Did a table come back as it was? Or the rows that the error names; anything else fails"
    want = [(r[rows[0].index('path')], [r[rows[0].index('text')]]) for r in rows[1:]]
    try: got = [(str(p.relative_to(path.parent)), texts) for p, texts in read_table(path)]
    except ValueError as e:
        assert (row := re.match(r't\.csv, row (\d+)', str(e))) and '\n' not in str(e), e
        return int(row[1])
    assert got == want, (path.read_bytes(), got)

@pytest.mark.parametrize('dialect', DIALECTS)
def test_tables_in_all_dialects_come_back_exactly(tmp_path, dialect):
    "150 tables full of separators and quotes; where a dialect is not ours (backslashes), the row is named instead"
    rng, refusals = random.Random(dialect), 0
    for _ in range(150):
        rows = draw_rows(rng)
        refusals += bool(said_or_read(table(tmp_path, written(rows, DIALECTS[dialect])), rows))
    assert refusals == 0 or dialect in ('backslash', 'no quotes')

def damaged(rng, cells, sep, end):
    "A table, cell by cell as text, with one thing wrong; and the row in which it is"
    cells = [list(r) for r in cells]
    r = rng.randrange(1, len(cells))
    k = rng.randrange(len(cells[r]))
    quoted, how = cells[r][k].startswith('"'), rng.randrange(7)
    if how == 0: del cells[r][k]
    elif how == 1: cells[r].insert(k, 'one more')
    elif how == 2 and quoted: cells[r][k] = cells[r][k][1:]
    elif how == 3 and quoted: cells[r][k] = cells[r][k][:-1]
    elif how == 4 and quoted: cells[r][k] = cells[r][k][1:-1]
    elif how == 5:
        at = rng.randrange(len(cells[r][k]) + 1)
        cells[r][k] = cells[r][k][:at] + '"' + cells[r][k][at:]
    lines = [sep.join(row) for row in cells]
    if how == 6 and r + 1 < len(lines): lines[r:r + 2] = [lines[r] + lines[r + 1]]
    return end.join(lines) + end, r + 1

@pytest.mark.parametrize('dialect', ['excel', 'tabs', 'semicolons', 'unix', 'mac'])
def test_damaged_tables_come_back_exactly_or_name_the_row(tmp_path, dialect):
    "400 tables with a value lost or one too many, a quote lost or one too many, a line end lost: never a wrong caption"
    rng, more, refusals = random.Random(dialect), DIALECTS[dialect], 0
    sep, end = more.get('delimiter', ','), more.get('lineterminator', '\r\n')
    for _ in range(400):
        rows = draw_rows(rng)
        def one_cell(text): # as the csv module writes it
            row = written([[text, '']], more | dict(lineterminator='\n'))
            return row.removesuffix('""\n').removesuffix('\n').removesuffix(sep)
        cells = [[one_cell(c) for c in r] for r in rows]
        # the cells are those of the csv module
        assert end.join(map(sep.join, cells)) + end == written(rows, more)
        text, row = damaged(rng, cells, sep, end)
        if said := said_or_read(table(tmp_path, text), rows):
            refusals += 1
            assert row <= said <= row + 1 + max(c.count('\n') for c in rows[row - 1]), (text, said, row)
    assert refusals > 200

# ---- a small data set, planned and trained

@pytest.fixture(scope='module')
def few(tmp_path_factory):
    "Twelve short clips and their table, as somebody who tries the kit has them"
    folder = tmp_path_factory.mktemp('few')
    clip = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
    for i in range(12): write_video(folder/f'c{i}.mp4', clip[:20 if i % 3 else 40], fps=8)
    (folder/'my.csv').write_text('path,text\n' + ''.join(f'c{i}.mp4,a cat\n' for i in range(12)))
    return folder

def osnb(capsys, *args):
    "What a command answers: exit code, what it printed, what it complained of"
    from opensora_nb.app.cli import main
    with warnings.catch_warnings():
        warnings.simplefilter('always') # what an earlier test was warned of is said again
        rc = main([str(a) for a in args])
    return rc, *capsys.readouterr()

@pytest.mark.parametrize('args', [
    ('data', 'plan', 'TABLE', '--buckets', 'toy_mix'),
    ('plan', 'many_sizes', 'buckets=toy_mix', '--data', 'TABLE'),
    ('train', 'many_sizes', 'data.native=', 'data.path=TABLE', 'buckets=toy_mix', 'device=cpu', 'out=OUT', '--quick'),
])
def test_a_plan_that_cannot_be_shows_its_table_and_the_way_out(few, tmp_path, capsys, args):
    "Twelve clips ended with 'make batches smaller', without a table or a setting that does so; the one named works"
    args = [a.replace('TABLE', str(few/'my.csv')).replace('OUT', str(tmp_path)) for a in args]
    rc, said, error = osnb(capsys, *args)
    assert rc == 1
    assert '| lacks |' in said
    assert '12 of 12 clips are kept; 0 steps an epoch' in said
    assert re.search(r'\| 64 \| 17 \| 1 \| \d \| 16 \| 0 \| \d \| 1,280 \| \d+ \|', said)
    most = re.search(r'max_batch=(\d+) \(osnb data plan: --max-batch \1\)', error)[1]
    if args[0] == 'train': return # the same sentence; trained for real in `test_few_clips_are_trained_on`
    args = [*args, '--max-batch', most] if args[0] == 'data' else [*args[:2], f'max_batch={most}', *args[2:]]
    rc, said, error = osnb(capsys, *args)
    assert rc == 0 and 'error' not in error

def test_clips_too_small_for_the_buckets_hear_of_others(few, capsys):
    "`osnb data plan my.csv` alone plans with Open-Sora's first stage, which takes nothing below 144p"
    rc, said, error = osnb(capsys, 'data', 'plan', few/'my.csv')
    assert rc == 1 and '0 of 12 clips are kept' in said and 'Dropped: 12 too small (144p)' in said
    name, most = re.search(r'--buckets (\w+)\) takes clips of such sizes, with max_batch=(\d+)', error).groups()
    assert osnb(capsys, 'data', 'plan', few/'my.csv', '--buckets', name, '--max-batch', most)[0] == 0

def test_few_clips_are_trained_on(few, tmp_path):
    "What the error names is enough for the loader of training: two batches a step from twelve clips"
    from opensora_nb.data.bucket import Buckets
    from opensora_nb.data.multi_size import open_mixed
    mixed = open_mixed(DataConfig(path=str(few/'my.csv')), Buckets.named('toy_large', 7), progress=False)
    with pytest.raises(ValueError, match='fewer than the 2 of one step') as e: next(mixed.sampler.walk(0, 2))
    most = int(re.search(r'max_batch=(\d+)', str(e.value))[1])
    mixed = open_mixed(DataConfig(path=str(few/'my.csv')), Buckets.named('toy_large', most), progress=False)
    batch, _ = next(mixed.sampler.walk(0, 2))
    assert 1 <= len(batch.ids) <= most < 7

def test_the_plan_says_what_it_did_not_open_and_can_look_as_training_does(few, tmp_path, capsys):
    "A damaged file was counted by the plan and left out by training; a hidden file and a folder's metadata.csv, too"
    from opensora_nb.data.bucket import Buckets
    from opensora_nb.data.multi_size import open_mixed
    for i in range(4): (tmp_path/f'c{i}.mp4').write_bytes((few/f'c{i}.mp4').read_bytes())
    data = bytearray((few/'c1.mp4').read_bytes())
    data[data.index(b'mdat') + 200:data.index(b'mdat') + 4000] = bytes(3800)
    (tmp_path/'c4.mp4').write_bytes(data)
    (tmp_path/'._c1.mp4').write_bytes(b'macOS leaves these')
    (tmp_path/'text.mp4').write_text('not a video')
    with pytest.warns(UserWarning, match='left out'):
        mixed = open_mixed(DataConfig(path=str(tmp_path)), Buckets.named('toy_mix', 1), progress=False)
    trained = len(mixed.source)
    rc, said, error = osnb(capsys, 'data', 'plan', tmp_path, '--buckets', 'toy_mix', '--max-batch', 1)
    assert rc == 0 and 'from headers of files; training decodes every file' in said and 'left out text.mp4' in error
    rc, said, error = osnb(capsys, 'data', 'plan', tmp_path, '--buckets', 'toy_mix', '--max-batch', 1, '--decode')
    assert rc == 0
    assert f'of {trained} clips are kept' in said
    assert 'headers' not in said
    assert 'left out c4.mp4' in error
    assert '._c1' not in error
    (tmp_path/'metadata.csv').write_text('path,text\nc0.mp4,one\nc1.mp4,two\nc0.mp4,a second caption of one\n')
    rc, said, error = osnb(capsys, 'data', 'plan', tmp_path, '--buckets', 'toy_mix', '--max-batch', 1)
    assert rc == 0 and '2 of 2 clips are kept' in said

def test_sizes_of_the_table_are_believed_and_named_so(tmp_path, capsys):
    "Columns of Open-Sora's tools need no files; where a number is lacking the file is asked, and named if it is gone"
    sizes = ''.join(f'a{i}.mp4,x,60,480,854\n' for i in range(9))
    lacking = 'b.mp4,x,nan,480,854\nc.mp4,x,0,480,854\n'
    (tmp_path/'t.csv').write_text('path,text,num_frames,height,width\n' + sizes + lacking)
    (tmp_path/'b.json').write_text('{"240p": {"51": [1.0, 4]}}')
    rc, said, error = osnb(capsys, 'data', 'plan', tmp_path/'t.csv', '--buckets', tmp_path/'b.json')
    assert rc == 0 and '9 from the table, files unopened' in said and '9 of 9 clips are kept' in said
    assert all(f'left out {n}.mp4' in error for n in 'bc') and '9 of 11 files used' in error

# ---- settings that cannot be

@pytest.mark.parametrize('settings', [
    'data.num_frames=0', 'data.num_frames=-1', 'data.num_frames=nan', 'data.num_frames=1e12', 'data.image_size=0,64',
    'data.image_size=64,-8', 'data.image_size=nan,64', 'data.image_size=64', 'data.image_size=1000000,64',
    'data.frame_interval=0', 'data.n=0', 'data.n=1e30', 'data.fps=0', 'data.fps=nan', 'data.fps=inf', 'data.fps=-8',
    'max_batch=-1', 'max_batch=2',
])
def test_an_impossible_data_set_is_refused_where_it_is_made(settings, capsys):
    "`osnb plan … data.num_frames=0` ended with a ZeroDivisionError; whatever cannot be is one sentence, at once"
    start = time.process_time()
    rc, said, error = osnb(capsys, 'plan', 'shapes_t2v', settings)
    name = settings.split('=')[0]
    assert rc == 1 and error.startswith('osnb: error: ') and error.count('\n') == 1 and name in error and said == ''
    assert time.process_time() - start < 2

def test_the_same_in_python():
    for bad in (
        dict(num_frames=0), dict(image_size=(64, 0)), dict(image_size=(64, 64, 64)), dict(fps=float('nan')), dict(n=-1),
        dict(frame_interval=0),
    ):
        with pytest.raises(ValueError, match=next(iter(bad))): DataConfig(**bad)
