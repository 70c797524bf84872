"""Ten million rows through filter, select and join, and three steps against pandas: writes tables.json beside itself.
   python nbs/02_data/logs/tables.py FOLDER     (FOLDER takes about 3 GB; polars and pandas must be installed)"""
import json, os, resource, subprocess, sys, time
from pathlib import Path

ROWS, SMALL = 10_000_000, 1_000_000

def write_input(folder, n, name):
    import numpy as np, polars as pl
    from opensora_nb.data.tables import write_table
    rng, k = np.random.default_rng(0), pl.int_range(n, eager=True)
    texts = pl.Series(['a red circle moves left, slowly', 'two people walk "home" in the rain', 'a street at night',
                       'the sea; waves, and a boat that comes nearer'])
    frame = pl.DataFrame(dict(
        path=pl.select(pl.format('/videos/{}.mp4', k % (n*9//10))).to_series(), text=texts.gather(k % 4),
        num_frames=rng.integers(0, 600, n), height=rng.choice([360, 720, 1080], n),
        width=rng.choice([640, 1280, 1920], n),
        aes=rng.normal(5, 1, n).round(3), flow=rng.gamma(1.5, 4, n).round(3)))
    for kind in ('csv', 'parquet'): write_table(frame, folder/f'{name}.{kind}')
    write_table(frame.select('path', match=pl.col('aes')*4).unique('path', keep='first', maintain_order=True)
                .sample(fraction=.5, seed=1), folder/f'{name}_match.parquet')

def filter_select_join(folder, kind):
    import polars as pl
    from opensora_nb.data.tables import intersect_table, keep_in_range, scan_table, write_table
    begin = time.perf_counter()
    frame = scan_table(folder/f'big.{kind}').pipe(keep_in_range, 'num_frames', low=1).pipe(keep_in_range, 'aes', low=5)
    frame = intersect_table(frame.select('path', 'text', 'num_frames', 'aes'), scan_table(folder/'big_match.parquet'))
    write_table(frame, folder/f'out.{kind}')
    seconds, peak = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024**2
    kept = pl.scan_parquet(folder/'out.parquet').select(pl.len()).collect().item() if kind == 'parquet' else sum(
        1 for _ in open(folder/'out.csv')) - 1
    return dict(what=f'{kind}, {(folder/f"big.{kind}").stat().st_size/1e9:.2f} GB', rows=ROWS, kept=kept,
                seconds=round(seconds, 1), peak_gb=round(peak, 2))

def against_pandas(folder):
    import pandas as pd, polars as pl
    from opensora_nb.data.tables import drop_repeated, keep_in_range, read_frame, collected, sort_by
    ours, theirs = read_frame(folder/'small.parquet'), pd.read_parquet(folder/'small.parquet')
    steps = dict(filter=(lambda: collected(keep_in_range(ours, 'aes', low=5)), lambda: theirs[theirs['aes'] >= 5]),
                 sort=(lambda: collected(sort_by(ours, 'aes'), 'in-memory'),
                       lambda: theirs.sort_values('aes', ascending=False)),
                 dedupe=(lambda: collected(drop_repeated(ours, 'path'), 'in-memory'),
                         lambda: theirs.drop_duplicates('path')))
    def seconds(step): # of the processor, in one thread
        begin = time.process_time()
        step()
        return time.process_time() - begin
    result = {}
    for name, (a, b) in steps.items():
        assert len(a()) == len(b()), name
        turns = [(seconds(a), seconds(b)) for _ in range(9)] # what disturbs one disturbs both; the best of each counts
        result[name] = {who: round(SMALL/min(t)) for who, t in zip(('this page', 'pandas'), zip(*turns))}
    return result

if __name__ == '__main__':
    folder, what = Path(sys.argv[1]), sys.argv[2:]
    if what: # one measurement, in a process of its own
        done = dict(small=lambda: write_input(folder, SMALL, 'small'), big=lambda: write_input(folder, ROWS, 'big'),
                    csv=lambda: filter_select_join(folder, 'csv'), pandas=lambda: against_pandas(folder),
                    parquet=lambda: filter_select_join(folder, 'parquet'))[what[0]]()
        print(json.dumps(done))
        sys.exit()
    folder.mkdir(parents=True, exist_ok=True)
    def run(name):
        env = os.environ | (dict(POLARS_MAX_THREADS='1') if name == 'pandas' else {})
        out = subprocess.run([sys.executable, __file__, str(folder), name], check=True, text=True, env=env,
                             stdout=subprocess.PIPE)
        return json.loads(out.stdout)
    run('small')
    rates = run('pandas')
    run('big')
    import polars, pandas
    log = dict(cores=os.cpu_count(), polars=polars.__version__, pandas=pandas.__version__,
               filter_select_join=[run('parquet'), run('csv')], rows_per_second=rates)
    Path(__file__).with_suffix('.json').write_text(json.dumps(log, indent=1) + '\n')
    print(json.dumps(log, indent=1))
