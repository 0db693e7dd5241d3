"""What the encoders of gpu_kit.py are compared with: representations without an encoder, asked the same barcodes in the same way."""
import numpy as np, torch
from barcodemae.knn import kmer_counts, nearest, whitening
from barcodemae.register import consensus, register
from barcodemae.store import load_dataset


def one_hot(bases, mean=None):
    "Aligned bases (N, 660) as 2,640 numbers; minus `mean` where it is given, and then 0 where a base is unknown."
    x = (bases[:, :, None] == np.arange(4)).reshape(len(bases), -1).astype(np.float32)
    return x if mean is None else (x - mean) * np.repeat(bases < 4, 4, 1)


def controls(dataset='coi_mini', fit=8000, seed=0):
    "Genus 1-NN of unseen species against `train`: rows like those of gpu_parts.judge, and the species of the queries as numbers."
    store = load_dataset(dataset)
    known = lambda split: (r := store.rows(split))[store.labels('genus', r) != '']
    rows = {s: known(s) for s in ('train', 'val_unseen', 'test_unseen')}
    rows['fit'] = np.sort(np.random.default_rng(seed).permutation(store.rows('pretrain'))[:fit])
    reference = consensus(store.bases[rows['fit'][:4000]])
    aligned = {s: register(torch.from_numpy(np.array(store.bases[r])), reference).numpy() for s, r in rows.items()}
    mean = one_hot(aligned['fit']).sum(0) / np.repeat((aligned['fit'] < 4).sum(0).clip(1), 4)
    bases = {s: one_hot(b, mean) for s, b in aligned.items()}
    axes = np.linalg.svd(bases['fit'], full_matrices=False)[2]                                  # (2640, 2640), the largest first
    kmers = {s: kmer_counts(np.array(store.bases[r]), 6) for s, r in rows.items()}
    centre, matrix = whitening(kmers['fit'].toarray())
    found = {'6-mers': kmers, '6-mers, whitened': {s: (x.toarray() - centre) @ matrix for s, x in kmers.items()}, 'aligned bases': bases,
             **{f'aligned bases, PCA to {n}': {s: x @ axes[:n].T for s, x in bases.items()} for n in (128, 256, 384)}}
    genus, judged = {s: store.labels('genus', r) for s, r in rows.items()}, []
    for method, x in found.items():
        for query in ('val_unseen', 'test_unseen'):
            hit = genus['train'][nearest(x[query], x['train'])[0][:, 0]] == genus[query]
            judged.append(dict(method=method, query=query, n=len(hit), accuracy=100 * hit.mean(), hits=''.join('01'[int(h)] for h in hit)))
    species = {q: np.unique(store.labels('species', rows[q]), return_inverse=True)[1].tolist() for q in ('val_unseen', 'test_unseen')}
    return dict(dataset=store.name, fit=fit, seed=seed, rows=judged, species=species)
