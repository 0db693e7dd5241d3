"""A file of many gigabytes through `identify`: time, the time left as told, memory; stopped once and resumed.

    python tools/large.py 10 REFERENCE -o nbs/experiments/large_now.json

The reads are simulated: samples of `READS` reads, each of `HAPLOTYPES` real barcodes of coi_mini in very
different numbers (log-normal, sigma 2), none of them in the reference (its partition train), one base in
2,000 drawn at random and one in 20,000 lost. REFERENCE is a folder made by barcodemae index.
"""
import argparse, re, signal, subprocess, sys, tempfile, threading, time
from pathlib import Path

import numpy as np, psutil
from many import drawn

READS, HAPLOTYPES, DRAWN, LOST = 50_000, 200, 1 / 2_000, 1 / 20_000
BAR = re.compile(r'([\d.]+)([kMG]?)/[\d.]+[kMG]? \[[\d:]+<([\d:]+)') # done, and the time left


def sample(barcodes, rng):
    "Reads of one sample."
    of, share = rng.choice(len(barcodes), HAPLOTYPES), rng.lognormal(0, 2, HAPLOTYPES)
    reads = [barcodes[i] for i in of[rng.choice(HAPLOTYPES, READS, p=share / share.sum())]]
    bases, ends = drawn(reads, DRAWN, rng)
    kept = rng.random(len(bases)) >= LOST
    text, end = bases[kept].tobytes().decode(), np.cumsum(kept)[ends - 1]
    return [text[a:b] for a, b in zip(np.r_[0, end[:-1]], end)]


def write_reads(file, size):
    "FASTA of at least so many bytes; returns how many reads, and how many of 4,096 differ (the mean)."
    from barcodemae.data.store import load_dataset
    store, rng, n, written, different = load_dataset('coi_mini'), np.random.default_rng(0), 0, 0, []
    barcodes = store.sequences(store.rows('pretrain', 'test', 'test_unseen'))
    with open(file, 'w') as out:
        while written < size:
            reads = sample(barcodes, rng)
            written += out.write(''.join(f'>r{n + i}\n{read}\n' for i, read in enumerate(reads)))
            different.append(len(set(reads[:4096])))
            n += len(reads)
    return n, float(np.mean(different))


def told(line): # of the bar -> bytes that are answered, seconds left; None where it tells neither
    if not (found := BAR.search(line)): return None
    number, unit, left = found.groups()
    seconds = sum(60**i * int(x) for i, x in enumerate(left.split(':')[::-1]))
    return float(number) * dict(k=1e3, M=1e6, G=1e9).get(unit, 1), seconds


def follow(process, last): # the newest line of its bar
    text = ''
    while block := process.stderr.read1(4096).decode(errors='replace'):
        *lines, text = re.split('[\r\n]', text + block)
        last += [x for x in map(told, lines) if x][-1:]


def run(command, stop_at, every):
    "Samples (seconds, bytes answered, seconds left, own GB) of a command, interrupted at so many bytes."
    start, samples, last = time.perf_counter(), [], []
    process = subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE)
    threading.Thread(target=follow, args=(process, last), daemon=True).start()
    while process.poll() is None:
        time.sleep(every)
        try: memory = psutil.Process(process.pid).memory_info()
        except psutil.Error: break
        if last: samples.append([time.perf_counter() - start, *last[-1], (memory.rss - memory.shared) / 1e9])
        if last and stop_at and last[-1][0] >= stop_at:
            process.send_signal(signal.SIGINT)
            break
    return dict(status=process.wait(), seconds=time.perf_counter() - start, samples=samples)


def main():
    from barcodemae.compute import machine_record
    from barcodemae.core import write_json
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('gigabytes', type=float)
    p.add_argument('reference', type=Path, help='folder made by barcodemae index')
    p.add_argument('--stop-at', type=float, default=1 / 3, help='share at which it is interrupted; 0: never')
    p.add_argument('--every', type=float, default=10, help='seconds between two looks')
    p.add_argument('-o', '--out', default='large_now.json')
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        query, hits = Path(folder)/'reads.fasta', Path(folder)/'hits.tsv'
        n, different = write_reads(query, a.gigabytes * 1e9)
        program = Path(sys.executable).with_name('barcodemae')
        command = [program, 'identify', query, '--reference', a.reference, '-o', hits]
        size = query.stat().st_size
        found = dict(machine=machine_record(), reads=n, bytes=size, different=different, runs=[])
        for stop in ([a.stop_at * size] if a.stop_at else []) + [0]:
            found['runs'].append(run(command, stop, a.every))
            write_json(a.out, found)
        with open(hits, 'rb') as lines: found['rows'] = sum(1 for _ in lines) - 1
        write_json(a.out, found)


if __name__ == '__main__': main()
