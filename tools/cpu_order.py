"""What order.json of a GPU run lacks, in the same shape on one core: barcodes not aligned, short 4-mers.

    OMP_NUM_THREADS=1 nice python tools/cpu_order.py OUT
    cp OUT/order.json nbs/experiments/order_cpu.json        for the notebook of Table 1

Runs come one after another, the first seed first; OUT/order.json grows with each. A call that was interrupted
is continued by the next one. Learning rates are those that the GPU run chose for each variant."""
import sys
from pathlib import Path
from gpu_checks import Part
from gpu_kit import BOTH, SOURCES, STORE
from gpu_order import run_job
from barcodemae.core import read_json
from barcodemae.data.store import prepare
from barcodemae.model.mae import VARIANTS
from barcodemae.settings import find_dataset, load_settings

PASSES, SEEDS = 10**5, 3
SHAPE = dict(hidden_size=96, layers=2, decoder_hidden_size=96, decoder_layers=2, validations=3,
             checkpoint_minutes=2)
GROUPS = {'0.1M, not aligned': dict(aligned=False, random_offset=True), '0.1M, 4-mers': dict(k=4)}


class FullPart(Part):
    "A part whose models are as large on a CPU as on a GPU."
    def size(self, full, small): return full


def jobs(): # seeds outermost
    return [dict(name=f'{group}-{v}-{seed}', group=group, variant=v, seed=seed, passes=PASSES,
                 changes=SHAPE | changes)
            for seed in range(SEEDS) for group, changes in GROUPS.items() for v in VARIANTS]


def main(out):
    (out/'order').mkdir(parents=True, exist_ok=True)
    folder = find_dataset(SOURCES[0]).parent
    if not (out/STORE).exists():
        prepare([folder/f'{s}.csv.gz' for s in SOURCES], out/STORE, name=BOTH)
    rates = read_json(load_settings().root/'nbs/experiments/order_results.json')['order']['rates']
    before = read_json(out/'order.json') if (out/'order.json').exists() else {}
    part, runs = FullPart('order', out, out, float('inf')), before.get('runs', {})
    part.put(store=repr(part.store), rates=rates, runs=runs)
    for job in jobs():
        if job['name'] in runs: continue
        with part.finding(job['name']):
            runs[job['name']] = run_job(part, job | dict(rate=rates[job['variant']]))
            part.put(runs=runs)


if __name__ == '__main__':
    main(Path(sys.argv[1]).resolve())
