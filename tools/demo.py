"""The end of `make demo`: what the encoder learned, and what the library says of the same barcodes.

    python tools/demo.py runs/demo        after its training run
"""
import sys, time, warnings
from pathlib import Path
import numpy as np
import barcodemae
from barcodemae.evaluation.report import accuracy_row, with_interval
from barcodemae.training.commands import report

SHOWN = 3 # barcodes of seen species, and of unseen ones
WIDTHS = (13, 10, 9, 18, 18, 28, 7)


def title(text): print(f'\n{text}\n{"-" * len(text)}')


def learned(run):
    "The trained encoder beside its controls, and who wins."
    r = report(run)
    title('1. What was trained')
    print(r)
    rows = {m: accuracy_row(r, m) for m in dict.fromkeys(row['method'] for row in r['knn'])}
    ahead = [m for m in rows if rows[m]['accuracy'] > rows['model']['accuracy']]
    if ahead: print('Ahead of it all the same: ' + ', '.join(f'{m} {with_interval(rows[m])}' for m in ahead)
                    + '. The paper pretrains on millions of barcodes.')


def named(run):
    "Barcodes of seen and unseen species identified by the library; accuracy, and some lines of the answer."
    store, start = barcodemae.load_dataset('demo'), time.time()
    reference = barcodemae.index('demo', run/'reference', ('train',), quiet=True)
    title('2. The same barcodes, identified by the library with `train` as reference')
    for split, rank in dict(test='species', test_unseen='genus').items():
        rows = store.rows(split)
        query = dict(zip(store.labels('processid', rows), store.sequences(rows)))
        hits = barcodemae.identify(query, reference, quiet=True)
        right = 100 * (hits[rank].to_numpy() == store.labels(rank, rows)).mean()
        new = 100 * (hits['novel'].fill_null('') != '').mean()
        kind = 'whose species is in the reference' if split == 'test' else 'of species that it lacks'
        print(f'{len(rows)} barcodes {kind}: {rank} {right:.1f} % right, {new:.1f} % called new')
        columns = ('query', 'identity', 'novel', 'genus', 'genus_confidence', 'taxon', 'rank')
        for row in [columns, *hits.select(columns)[np.linspace(0, len(hits) - 1, SHOWN).astype(int)].rows()]:
            cells = ('' if value is None else str(value) for value in row)
            print('  ' + ''.join(f'{cell:<{width}}' for cell, width in zip(cells, WIDTHS)))
    print(f'({time.time() - start:.0f} s; the confidence was fitted on these references)')
    return query, reference


def main(run):
    run = Path(run)
    warnings.filterwarnings('ignore', module='openTSNE')
    learned(run)
    query, reference = named(run)
    barcodemae.plot(query, run/'map.html', reference, quiet=True)
    title('3. What lies where, and what comes next')
    print(f"""{run}/map.html           the barcodes of unseen species as a map: open it in a browser
{run}/04_train.ipynb     the executed notebook, with its loss curves
{run}/best               the trained encoder; {run}/results.json all numbers

your own barcodes:       source .venv/bin/activate
                         barcodemae index reference.fasta -o my_reference
                         barcodemae identify mine.fasta --reference my_reference -o hits.tsv
read on:                 make lab, then start_biologist, start_researcher or start_engineer""")


if __name__ == '__main__': main(*sys.argv[1:])
