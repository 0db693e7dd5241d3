"""Measurements of nbs/experiments/benchmark.ipynb that need a process of their own, so that its peak memory
is theirs alone.

    python tools/benchmark.py NAME '{"argument": value}'     a line of JSON, for the notebook
    python tools/benchmark.py table runs/benchmark/results.json     what the notebook measured
    python tools/benchmark.py waiting nbs/experiments/waiting_results.json     the same of waiting.ipynb"""
import json, re, sys, time
from contextlib import suppress
from pathlib import Path
from statistics import median
import numpy as np


# -- time and memory -------------------------------------------------------------------------------

def memory(what):
    """Memory of this process in GB now ('VmRSS') or at its peak ('VmHWM').

    On Linux a process inherits `ru_maxrss` of the one that starts it: only for systems without /proc."""
    try: lines = Path('/proc/self/status').read_text().splitlines()
    except OSError:
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == 'darwin' else 1e6)
    return next(int(l.split()[1]) for l in lines if l.startswith(what)) * 1024 / 1e9


def measure(work):
    "Seconds of `work()`, the peak of memory above what was in use (1 MB at least), and the whole peak."
    with suppress(OSError): Path('/proc/self/clear_refs').write_text('5') # forget the peak so far
    before, start = memory('VmRSS'), time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return dict(seconds=seconds, peak_gb=max(.001, memory('VmHWM') - before), whole_peak_gb=memory('VmHWM'))


def turns(works, warm_up, timed, bar=lambda o: o):
    """Median seconds of each of the functions `works` {name: f}, called `f(turn)` one after the other, again and
    again; the first `warm_up` turns do not count."""
    seconds = {name: [] for name in works}
    for i in bar(range(warm_up + timed)):
        for name, work in works.items():
            start = time.perf_counter()
            work(i)
            seconds[name].append(time.perf_counter() - start)
    return {name: median(taken[warm_up:]) for name, taken in seconds.items()}


def clustered(n, width, seed, noise=.5):
    "Random unlabelled vectors that have neighbours: points around n/50 centres, (n, width) float32."
    centres = np.random.default_rng(width).standard_normal((max(2, n // 50), width), dtype=np.float32)
    rng = np.random.default_rng([seed, n])
    x = rng.standard_normal((n, width), dtype=np.float32) # (n, width)
    x *= noise
    for start in range(0, n, 4096):
        block = x[start:start + 4096]
        block += centres[rng.integers(0, len(centres), len(block))]
    return x


# -- what is measured ------------------------------------------------------------------------------

def prepare(table, out):
    "A table into a store, and the seconds to open that again, alone and with the row numbers of a partition."
    from barcodemae.data.store import BarcodeStore, prepare
    found = measure(lambda: prepare(table, out))
    open_it = lambda i: BarcodeStore(out)
    with_rows = lambda i: open_it(i).rows('train')
    found |= turns(dict(reopen=open_it, reopen_with_rows=with_rows), 0, 3)
    return found | dict(n=len(BarcodeStore(out)), rows=BarcodeStore(out).report['rows'])


def embedding(store, out):
    "All barcodes of a store into Parquet, by an encoder of the shape of the preset mini."
    from barcodemae.compute import probe_compute
    from barcodemae.embedding.embed import embed
    from barcodemae.evaluation.knn import untrained_encoder
    from barcodemae.training.config import make_config, model_config
    from barcodemae.embedding.shards import embed_table
    from barcodemae.data.store import BarcodeStore
    encoder = untrained_encoder(model_config(make_config('mini')))
    store, compute = BarcodeStore(store), probe_compute('cpu')
    embed(encoder, store.bases[:64], compute=compute)
    work = lambda: embed_table(encoder, store, out, batch_size=64, compute=compute)
    return measure(work) | dict(n=len(store))


def neighbours(n, width):
    "The nearest of n references for each of n queries."
    from barcodemae.embedding.neighbours import nearest
    query, reference = clustered(n, width, 1), clustered(n, width, 2)
    nearest(query[:50], reference[:50])
    return measure(lambda: nearest(query, reference)) | dict(n=n)


def ward(n, width, clusters, library='barcodemae', labels=None):
    "Ward's clusters by this library or by scikit-learn; the labels go to the file `labels`."
    if library == 'barcodemae': from barcodemae.evaluation.clustering import ward as run
    else:
        from sklearn.cluster import AgglomerativeClustering
        run = lambda x, n_clusters: AgglomerativeClustering(n_clusters, linkage='ward').fit_predict(x)
    x, found = clustered(n, width, 1), []
    run(x[:50], 5)
    took = measure(lambda: found.append(run(x, clusters)))
    if labels: np.save(labels, found[0])
    return took | dict(n=n)


def umap(ns, width, to):
    """Vectors reduced with UMAP, by cosine, from a fixed seed; neighbours are found as for more than 4,096.
    In one process, smaller numbers first: it is compiled once. Memory that a smaller one left there and a
    larger one takes again does not count."""
    from umap import UMAP
    from functools import partial
    make = partial(UMAP, metric='cosine', random_state=0, n_jobs=1, force_approximation_algorithm=True)
    make(n_components=2).fit(clustered(500, width, 1)) # compiles
    found = []
    for n in ns:
        x = clustered(n, width, 1)
        found.append(measure(lambda: make(n_components=to).fit_transform(x)) | dict(n=n))
    return found


def file_name(kind):
    "A kind of CPU as part of a file's name."
    return re.sub('[^a-z0-9]+', '_', kind.lower())


# -- the table -------------------------------------------------------------------------------------

def number(x):
    if x is None: return '-'
    if abs(x) >= 1000: return f'{x:,.0f}'
    return f'{x:.6f}' if .99 < x < 1 else f'{x:.3g}'


def table(results):
    "Rows of results.json as text."
    lines = [('what', 'this library', 'baseline', 'unit', 'times', 'of peak', 'goal', 'met')]
    for r in results['rows']:
        share = '-' if r['share_of_peak'] is None else f"{100 * r['share_of_peak']:.0f} %"
        ours, baseline, times = (number(r[name]) for name in ('ours', 'baseline', 'ratio'))
        met = 'yes' if r['met'] else 'NO'
        lines.append((r['what'], ours, baseline, r['unit'], times, share, r['goal'], met))
    wide = [max(len(l[i]) for l in lines) for i in range(len(lines[0]))]
    machine = results['machine']
    peaks = ', '.join(f'{dtype} {gflops:,.0f}' for dtype, gflops in results['peak_gflops'].items())
    def padded(line): # numbers to the right
        return [o.rjust(w) if i in (1, 2, 4, 5) else o.ljust(w) for i, (o, w) in enumerate(zip(line, wide))]
    return '\n'.join([f"{machine['cpu']}, {machine['cores']} cores; matrix peak in GFLOP/s: {peaks}",
                      *('  '.join(padded(line)).rstrip() for line in lines)])


FIRST = 'VSEARCH, first hit' # beside VSEARCH for the best of many hits
OTHERS = ('VSEARCH', FIRST, 'BLAST')


def waiting_rows(found):
    "Rows of the table of nbs/experiments/waiting.ipynb, from what was measured on one machine."
    m, queries = found['median'], found['queries']
    def row(what, ours, unit, goal, others=(None,) * len(OTHERS)):
        return dict(what=what, ours=ours, **dict(zip(OTHERS, others)), unit=unit, goal=f'at most {goal:.3g}',
                    met='yes' if ours <= goal else 'NO')
    others = [m.get(name) for name in OTHERS]
    each = lambda s: None if s is None else 1000 * s / queries
    return [row('import barcodemae', m['import barcodemae'], 's', .05),
            row('barcodemae --help', m['barcodemae --help'], 's', .3),
            row('first answer', m['first answer'], 's', 1.5),
            row(f"index of {found['references']:,}", m['index'], 's', 6),
            row(f'identify {queries:,}, a query', each(m['identify']), 'ms', 2.5, map(each, others)),
            row('index and identify together', m['index'] + m['identify'], 's', others[0] or 60, others)]


def waiting(results):
    "What waiting_results.json holds, as text."
    lines = []
    for cpu, found in results.items():
        lines.append(f"{cpu}, {found['machine']['cores']} cores; {found['waiting']['dataset']}")
        for r in waiting_rows(found['waiting']):
            beside = ', '.join(f'{n} {number(r[n])}' for n in OTHERS if r[n])
            lines.append(f"  {r['what']:32} {number(r['ours']):>8} {r['unit']:3} {r['goal']}: {r['met']}"
                         + f' ({beside})' * bool(beside))
        for g in found['growth']:
            each = 1000 * g['ask']['seconds'] / g['queries']
            lines.append(f"  {g['n']:>9,} references: index {g['index']['seconds']:.1f} s, first answer "
                         f"{g['first']['seconds']:.2f} s, {each:.2f} ms per query")
    return '\n'.join(lines)


if __name__ == '__main__':
    if len(sys.argv) != 3: sys.exit(__doc__)
    name, argument = sys.argv[1:]
    if name in ('table', 'waiting'):
        print((table if name == 'table' else waiting)(json.loads(Path(argument).read_text())))
    else:
        work = {f.__name__: f for f in (prepare, embedding, neighbours, ward, umap)}[name]
        print(json.dumps(work(**json.loads(argument))))
