"""The trial of engines for very many barcodes: time, memory, the same bytes, a worker killed in the middle.

    python tools/many.py embed    --queries 20000 100000 -o nbs/identification/many_results.json
    python tools/many.py identify --queries 16384 --reference FOLDER --engines one threads dask -o ...
    python tools/many.py embed    --queries 10000000 --engines dask tasks --kill always -o ...  hours, 40 GB
    python tools/many.py weight   -o nbs/identification/many_results.json

Queries are simulated: real barcodes of coi_mini, 1 % of their bases drawn at random; 11,632 others are the
reference. Engines: `one` process with one thread, with two `threads`, `dask` (as `--workers 2`), Ray's
`tasks` in its place, and Ray `data`, which reads files of its own (pip install "ray[data]"). The largest file
is asked twice by all but the first two: the second time a busy worker is killed (--kill always: only this
run; never: only the other).
"""
import argparse, hashlib, json, os, pickle, subprocess, sys, tempfile, time
from collections import deque
from contextlib import contextmanager
from pathlib import Path

import numpy as np

BATCH, WORKERS = 4096, 2


def drawn(reads, share, rng):
    "Bases of all reads in one array, this share of them drawn at random, and where each read ends."
    bases = np.frombuffer(''.join(reads).encode(), np.uint8).copy()
    changed = np.flatnonzero(rng.random(len(bases)) < share)
    bases[changed] = rng.choice(np.frombuffer(b'ACGT', np.uint8), len(changed))
    return bases, np.cumsum([len(r) for r in reads])


def simulate(file, n):
    from barcodemae.data.store import load_dataset
    store, rng = load_dataset('coi_mini'), np.random.default_rng(0)
    barcodes = store.sequences(store.rows('pretrain', 'test', 'test_unseen'))
    with open(file, 'w') as out:
        for first in range(0, n, BATCH):
            some = [barcodes[i] for i in rng.integers(len(barcodes), size=min(BATCH, n - first))]
            bases, ends = drawn(some, .01, rng)
            out.writelines(f'>s{first + i}\n{bases[end - len(b):end].tobytes().decode()}\n'
                           for i, (b, end) in enumerate(zip(some, ends)))


# engines, each in a process of its own

@contextmanager
def ray_tasks():
    "`answering` by Ray's tasks: the same few lines as for Dask."
    import ray
    from barcodemae.identification.many import AHEAD, answer_batch, pack_job
    ray.init(num_cpus=WORKERS, include_dashboard=False, object_store_memory=2 ** 30)
    def frames(answer, batches):
        task, job, waiting = ray.remote(max_retries=3)(answer_batch), ray.put(pack_job(answer)), deque()
        for batch in batches:
            waiting.append(task.remote(job, pickle.dumps(batch)))
            if len(waiting) >= AHEAD * WORKERS: yield ray.get(waiting.popleft())
        while waiting: yield ray.get(waiting.popleft())
    yield frames
    ray.shutdown()


class RayWorker: # of Ray Data: opens the job once
    def __init__(self, job):
        from barcodemae.identification.many import open_job
        self.answer = open_job(job)

    def __call__(self, table):
        return self.answer(table['name'].to_pylist(), table['barcode'].to_pylist()).to_arrow()


@contextmanager
def ray_data():
    "`answering` by Ray Data, which reads no iterator: batches become a folder of Parquet files first."
    import polars as pl, ray
    from barcodemae.identification.many import pack_job
    ray.init(num_cpus=WORKERS + 1, include_dashboard=False, object_store_memory=2 ** 30)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    context.target_max_block_size = 4_000_000 # bytes: else all of it is one block, for one worker
    def frames(answer, batches):
        with tempfile.TemporaryDirectory() as folder:
            for n, (names, barcodes) in enumerate(batches):
                pl.DataFrame(dict(name=names, barcode=barcodes)).write_parquet(f'{folder}/{n:08d}.parquet')
            data = ray.data.read_parquet(folder)
            cut = dict(batch_format='pyarrow', batch_size=BATCH)
            again = dict(max_restarts=-1, max_task_retries=-1)
            job = (pack_job(answer),)
            data = data.map_batches(RayWorker, fn_constructor_args=job, concurrency=WORKERS, **cut, **again)
            for table in data.iter_batches(**cut): yield pl.from_arrow(table)
    yield frames
    ray.shutdown()


def work(engine, what, query, reference, out):
    from barcodemae.identification import commands
    options = dict(one=dict(threads=1), threads=dict(threads=WORKERS), dask=dict(workers=WORKERS))
    options = options.get(engine, {})
    if engine in ('tasks', 'data'):
        other = dict(tasks=ray_tasks, data=ray_data)[engine]
        commands.answering = lambda *_: other() # in place of `many.answering`
    if what == 'embed': return commands.embed(query, out, quiet=True, **options)
    commands.identify(query, reference, out, quiet=True, **options)


# watched from outside

def watch(command, pieces, n, kill):
    "Seconds, CPU seconds, peak memory (GB) of a command and all its processes; a worker killed on the way."
    import psutil
    start, cpu, peak, first, killed = time.time(), {}, {}, 0, None
    process = subprocess.Popen([str(c) for c in command], stderr=subprocess.DEVNULL)
    top = psutil.Process(process.pid)
    while process.poll() is None:
        memory = {}
        try:
            for p in [top, *top.children(recursive=True)]:
                with p.oneshot():
                    cpu[p.pid], memory[p.pid] = sum(p.cpu_times()[:2]), p.memory_full_info().pss / 1e9
        except psutil.Error: continue # it has just ended
        there = len(list(pieces.glob('[0-9]*.parquet')))
        first = first or (there and time.time() - start)
        all_of_it, of_driver = sum(memory.values()), memory[process.pid]
        peak = dict(all=max(peak.get('all', 0), all_of_it), driver=max(peak.get('driver', 0), of_driver))
        if kill and not killed and there >= n / BATCH / 3:
            killed = max((p for p in memory if p != process.pid), key=lambda p: cpu[p])
            os.kill(killed, 9)
        time.sleep(2)
    return dict(seconds=time.time() - start, cpu_seconds=sum(cpu.values()), cpu_driver=cpu[process.pid],
                first_piece=first, memory=peak['all'], memory_driver=peak['driver'], status=process.returncode,
                killed=bool(killed))


def digest(file):
    if not file.exists(): return None
    found = hashlib.sha256()
    with open(file, 'rb') as content:
        for block in iter(lambda: content.read(2**20), b''): found.update(block)
    return found.hexdigest()


def trial(a, folder):
    from barcodemae.compute import machine_record
    from barcodemae.core import read_json, write_json
    known = read_json(a.out) if Path(a.out).exists() else {}
    for n in a.queries:
        query, digests = folder/f'q{n}.fasta', []
        simulate(query, n)
        for engine in a.engines:
            may = n == max(a.queries) and engine not in ('one', 'threads') and a.kill != 'never'
            for kill in ([True] if may and a.kill == 'always' else [False, True][:1 + may]):
                out = folder/f'{engine}.parquet'
                command = [sys.executable, __file__, a.what, '--work', engine, query, a.reference, out]
                found = watch(command, folder/f'.{engine}.parquet.pieces', n, kill)
                digests.append(digest(out))
                out.unlink(missing_ok=True)
                same = bool(digests[0]) and digests[-1] == digests[0]
                found |= dict(what=a.what, engine=engine, n=n, same=same, load=os.getloadavg()[0],
                              cpu=machine_record()['cpu'])
                known[f'{a.what} | {n} | {engine}{" | a worker killed" * kill}'] = found
                known['machine'], known['date'] = machine_record(), time.strftime('%Y-%m-%d')
                write_json(a.out, known)
                print(json.dumps(found), flush=True)


def weight(package):
    "What has to be downloaded for it, with all that it needs."
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, '-m', 'pip', 'download', '-q', '-d', folder, package], check=True,
                       stderr=subprocess.DEVNULL)
        files = [f.stat().st_size for f in Path(folder).iterdir()]
    return dict(packages=len(files), megabytes=sum(files) / 1e6)


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('what', choices=['embed', 'identify', 'weight'])
    p.add_argument('--queries', type=int, nargs='+', default=[20_000, 100_000])
    p.add_argument('--engines', nargs='+', default=['one', 'threads', 'dask', 'tasks', 'data'])
    p.add_argument('--kill', choices=['both', 'always', 'never'], default='both', help='a worker, see above')
    p.add_argument('--reference', default='-', help='folder made by barcodemae index')
    p.add_argument('-o', '--out', default='many_results.json')
    p.add_argument('--work', nargs=4, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.work: return work(a.work[0], a.what, *a.work[1:])
    if a.what == 'weight':
        from barcodemae.core import read_json, write_json
        weights = {name: weight(name) for name in ('distributed', 'ray[data]')}
        return write_json(a.out, read_json(a.out) | dict(weight=weights))
    with tempfile.TemporaryDirectory() as folder: trial(a, Path(folder))


if __name__ == '__main__': main()
