"""The parts of gpu_kit.py that pretrain: three variants equally long, and one encoder for longer."""
from dataclasses import asdict, replace
import numpy as np
from gpu_kit import save_shards
from gpu_checks import metrics, seconds_of
from barcodemae.model.sequence import load_encoder
from barcodemae.evaluation.knn import GenusMonitor, untrained_encoder
from barcodemae.embedding.embed import embed, whitening
from barcodemae.embedding.neighbours import nearest
from barcodemae.model.mae import VARIANTS
from barcodemae.training.pretrain import Pretraining, pretraining_rows, train
from barcodemae.training.trainer import Trainer

KEPT = ('mae', 'long') # runs whose encoders come back
QUERIES = ('val_unseen', 'test_unseen')


# -- train: the paper's three variants, equally long ----------------------------------------------------

def judge(encoder, store, compute, most=None, fit=4000, queries=QUERIES):
    """Genus 1-NN of unseen species: accuracy and each barcode's hit, by layer, plain and whitened.

    The reference is `train`; whitening is fitted on `fit` pretraining barcodes; `most` of a partition serve
    to try it out."""
    def known(split): return (r := store.rows(split))[store.labels('genus', r) != ''][:most]
    rows = {s: known(s) for s in ('train', *queries) if s in store.splits}
    genus = {s: store.labels('genus', r) for s, r in rows.items()}
    rows['fit'] = np.sort(np.random.default_rng(0).permutation(pretraining_rows(store))[:fit])
    def layers(some): return embed(encoder, np.array(store.bases[some]), all_layers=True, compute=compute)
    states = {s: layers(r) for s, r in rows.items()}
    found = []
    for layer in range(states['fit'].shape[1]):
        plain = {s: x[:, layer] for s, x in states.items()}
        mean, matrix = whitening(plain['fit'])
        white = {s: (x - mean) @ matrix for s, x in plain.items()}
        for whitened, x in ((False, plain), (True, white)):
            for query in (q for q in queries if q in rows):
                near = nearest(x[query], x['train'], device=compute.device)[0][:, 0]
                row = hit_row(query, genus['train'][near] == genus[query])
                found.append(dict(layer=layer, whitened=whitened) | row)
    return found


def hit_row(query, hit): # (Q,) bool
    hits = ''.join('01'[int(h)] for h in hit)
    return dict(query=query, n=len(hit), accuracy=100 * float(hit.mean()), hits=hits)


def pace_of(part, config):
    "Steps per second once compiled."
    trainer = Trainer(Pretraining(config, part.store), part.compute, 100)
    for i in range(3): trainer.step(i)
    return 1 / seconds_of(lambda i: trainer.step(3 + i), part.size(30, 3), part.compute.device)


def variant_config(part, variant, **changes):
    small = dict(hidden_size=48, decoder_hidden_size=48, layers=2, decoder_layers=2, batch_size=32)
    return part.config('gpu', small=small | dict(log_steps=2), variant=variant, **changes)


def full_run(part, name, config):
    "A run to its end: curve, record, how its last encoder does and (where kept) the same one untrained."
    folder, few = part.work/name, part.size((), (300, 100))
    labelled = {'train', 'val_unseen'} <= set(part.store.splits) # else the loss alone is followed
    sizes = dict(references=part.size(4000, 300), whiten=part.size(2000, 100))
    probe = GenusMonitor(part.store, part.compute, **sizes) if labelled else None
    record = train(config, part.store, folder, part.compute, probe)
    encoder, curve = load_encoder(folder/'last'), metrics(folder)
    if name in KEPT: save_shards(encoder, part.out, name)
    print(name, [(c['barcodes'], round(c['genus_1nn'], 1)) for c in curve if 'genus_1nn' in c], flush=True)
    found = dict(config=asdict(config), record=record, curve=curve)
    if labelled: found['last'] = judge(encoder, part.store, part.compute, *few)
    if labelled and name in KEPT:
        found['untrained'] = judge(untrained_encoder(encoder.config), part.store, part.compute, *few)
    return found


def train_variants(part):
    runs, judging = {}, part.size(13, 8) # seconds beside the training of a run
    paces = {v: pace_of(part, variant_config(part, v, steps=1)) for v in VARIANTS}
    # for all of them, which take the same number of steps
    seconds = part.size(.92, .7) * max(6, part.left - 3 * judging)
    steps = max(2, int(seconds / sum(1 / p for p in paces.values())))
    part.put(paces=paces, steps=steps, store=repr(part.store), runs=runs)
    for variant in VARIANTS:
        with part.finding(variant):
            config = variant_config(part, variant, steps=steps, validations=part.size(10, 3))
            runs[variant] = full_run(part, variant, config)
            part.put(runs=runs)


# -- long: what is left of the time, for a small encoder ------------------------------------------------

def long(part):
    shape = dict(hidden_size=384, layers=2, heads=6, decoder_hidden_size=192, decoder_heads=3)
    small = dict(hidden_size=32, heads=2, batch_size=32, log_steps=2)
    config = part.config('mini', shape | dict(batch_size=1024), small, learning_rate=4e-3, steps=1)
    pace = pace_of(part, config)
    steps = max(2, int(pace * max(1, part.left - part.size(12, 14)) * part.size(.88, .6)))
    part.put(pace=pace, store=repr(part.store))
    part.put(run=full_run(part, 'long', replace(config, steps=steps, validations=part.size(16, 3))))
