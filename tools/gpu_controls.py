"""What the encoders of gpu_kit.py are compared with: representations without an encoder, same barcodes."""
import numpy as np, torch
from gpu_training import hit_row
from barcodemae.embedding.kmers import kmer_counts
from barcodemae.embedding.neighbours import nearest
from barcodemae.embedding.embed import whitening
from barcodemae.data.align import consensus, align_to_gene
from barcodemae.data.store import load_dataset


def one_hot(bases, mean=None):
    "Aligned bases (N, 660) as 2,640 numbers; with `mean`, minus that and 0 where a base is unknown."
    x = (bases[:, :, None] == np.arange(4)).reshape(len(bases), -1).astype(np.float32)
    return x if mean is None else (x - mean) * np.repeat(bases < 4, 4, 1)


def controls(dataset='coi_mini', fit=8000, seed=0):
    """Genus 1-NN of unseen species against `train`: rows as `judge` makes them, and species as numbers.

    Means, axes and whitening are fitted on `fit` pretraining barcodes, without labels."""
    store = load_dataset(dataset)
    def known(split): return (r := store.rows(split))[store.labels('genus', r) != '']
    rows = {s: known(s) for s in ('train', 'val_unseen', 'test_unseen')}
    genus = {s: store.labels('genus', r) for s, r in rows.items()}
    def numbers(labels): return np.unique(labels, return_inverse=True)[1].tolist()
    species = {s: numbers(store.labels('species', rows[s])) for s in ('val_unseen', 'test_unseen')}
    rows['fit'] = np.sort(np.random.default_rng(seed).permutation(store.rows('pretrain'))[:fit])
    plain = {s: np.array(store.bases[r]) for s, r in rows.items()}
    reference = consensus(plain['fit'][:4000])
    aligned = {s: align_to_gene(torch.from_numpy(b), reference).numpy() for s, b in plain.items()}
    mean = one_hot(aligned['fit']).sum(0) / np.repeat((aligned['fit'] < 4).sum(0).clip(1), 4)
    bases = {s: one_hot(b, mean) for s, b in aligned.items()}
    axes = np.linalg.svd(bases['fit'], full_matrices=False)[2] # (2640, 2640), the largest first
    kmers = {s: kmer_counts(b, 6) for s, b in plain.items()}
    centre, matrix = whitening(kmers['fit'].toarray())
    white = {s: (x.toarray() - centre) @ matrix for s, x in kmers.items()}
    found = {'6-mers': kmers, '6-mers, whitened': white, 'aligned bases': bases}
    for n in (128, 256, 384):
        found[f'aligned bases, PCA to {n}'] = {s: x @ axes[:n].T for s, x in bases.items()}
    judged = []
    for method, x in found.items():
        for query in ('val_unseen', 'test_unseen'):
            near = nearest(x[query], x['train'])[0][:, 0]
            judged.append(dict(method=method) | hit_row(query, genus['train'][near] == genus[query]))
    return dict(dataset=store.name, fit=fit, seed=seed, rows=judged, species=species)
