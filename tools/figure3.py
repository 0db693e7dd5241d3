"""Encoders with k-mers masked or removed (Figure 3) and their clusters, beside weighted columns.

    OMP_NUM_THREADS=1 nice python tools/figure3.py OUT.json mae=FOLDER encoder_only=FOLDER ...

The whole reference is asked with damaged queries, one draw, each query's answer is kept. `[MASK]` in the gaps
is asked of encoders that were trained with it. What OUT.json has already is not asked again."""
import sys, time
from pathlib import Path
from barcodemae.compute import machine_record, probe_compute
from barcodemae.core import read_json, write_json
from barcodemae.data.store import load_dataset
from barcodemae.embedding.embedder import EncoderEmbedder
from barcodemae.embedding.rungs import fit_linear
from barcodemae.evaluation.clustering import clustering_store_rows
from barcodemae.evaluation.masking import MODES, MaskingPlan, masking_rows
from barcodemae.evaluation.run import KNOW_MASK, Evaluation
from barcodemae.model.sequence import load_encoder

LINEAR, KEPT = 'weighted columns', ('mode', 'setting', 'ratio', 'draw', 'n', 'accuracy', 'hits')


def embedders(folders, store): # name -> embedder, and the modes that it is asked in
    encoders = {name: load_encoder(folder) for name, folder in folders.items()}
    for name, encoder in encoders.items():
        yield name, EncoderEmbedder(encoder, probe_compute('cpu')), MODES if name in KNOW_MASK else MODES[1:]
    reference = next(e.config.reference for e in encoders.values())
    barcodes = store.sequences(store.rows('pretrain'))
    yield LINEAR, fit_linear('columns', barcodes, reference), MODES[1:] # unknown in both modes


def main(out, folders, dataset='coi_mini'):
    store, start = load_dataset(dataset), time.time()
    found = read_json(out) if out.exists() else dict(dataset=dataset, machine=machine_record(), models={})
    def keep(name, what, value):
        found['models'].setdefault(name, {})[what] = value
        write_json(out, found)
        print(f'{time.time() - start:.0f} s: {what} of {name}', flush=True)
    asked = list(embedders(folders, store))
    for name, embedder, modes in asked:
        for mode in (m for m in modes if m not in found['models'].get(name, {})):
            plan = MaskingPlan((mode,), draws=1, settings=('query',))
            rows = masking_rows(embedder, store, plan, hits=True)
            keep(name, mode, [{key: r[key] for key in KEPT} for r in rows])
    for name, embedder, _ in asked:
        if 'clustering' in found['models'][name]: continue
        model = Evaluation(name, embedder, store)
        model.every_layer, model.rows = False, clustering_store_rows(store)
        keep(name, 'clustering', model.clustering())


if __name__ == '__main__':
    out, *folders = sys.argv[1:]
    main(Path(out), dict(f.split('=') for f in folders))
