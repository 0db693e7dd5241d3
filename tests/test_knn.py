"""Guards for evaluation.knn and what it builds on: brute force, any order, scikit-learn's scores, faults."""
from dataclasses import fields
from itertools import product

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from sklearn.neighbors import NearestNeighbors

from barcodemae.compute import Compute
from barcodemae.core import InputError
from barcodemae.settings import find_dataset
from barcodemae.evaluation.knn import AccuracyRow, GenusMonitor, accuracy_fields
from barcodemae.evaluation.run import Evaluation, with_controls
from barcodemae.embedding.embed import embed
from barcodemae.embedding.embedder import EncoderEmbedder
from barcodemae.embedding.kmers import kmer_counts
from barcodemae.embedding.neighbours import nearest, vote
from barcodemae.metrics import score
from barcodemae.model.mae import BarcodeEncoder, BarcodeMAEConfig
from barcodemae.evaluation.report import verdict
from barcodemae.data.store import pack, prepare

CPU = Compute(torch.device('cpu'), torch.float32)
SHAPE = dict(k=4, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
ENCODER = BarcodeEncoder(BarcodeMAEConfig(**SHAPE))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 17), st.integers(0, 5), st.booleans())
def test_blocks_equal_brute_force(Q, R, block, seed, as_sparse):
    rng = np.random.default_rng(seed)
    query, reference = rng.normal(size=(Q, 8)), rng.normal(size=(R, 8))
    n = min(3, R)
    pack_as = sparse.csr_matrix if as_sparse else np.asarray
    rows, sims = nearest(pack_as(query), pack_as(reference), n, block=block)
    theirs = NearestNeighbors(n_neighbors=n, metric='cosine', algorithm='brute')
    distance, expected = theirs.fit(reference).kneighbors(query)
    assert (rows == expected).all() and np.allclose(1 - distance, sims, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 400), st.integers(1, 90), st.sampled_from([0, 1e-3, .05, 1]),
       st.booleans(), st.integers(0, 5))
def test_a_search_in_sixteen_bits_is_exact(Q, R, block, spread, apart, seed): # from all alike to all apart
    rng = np.random.default_rng(seed)
    query, reference = (rng.normal(size=16) + spread * rng.normal(size=(m, 16)) for m in (Q, R))
    reference[R // 2:] = reference[:R - R // 2] # twins
    n, labels = min(3, R), tuple(rng.integers(0, 9, m) for m in (R, Q)) if apart else None
    rows, cosine = nearest(query, reference, n, labels, block=block)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('barcodemae.embedding.neighbours._pays', lambda *search: True)
        found, near = nearest(query, reference, n, labels, block=block)
    assert np.allclose(cosine, near, atol=1e-6)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, reference)]
    true = np.einsum('qd,qnd->qn', unit[0], unit[1][found])
    if apart: true[labels[0][found] == labels[1][:, None]] = -2
    assert np.allclose(near, true, atol=1e-6)
    assert all(len(set(f)) == n for f in found)


def test_counts_are_scikit_learns():
    rng = np.random.default_rng(0)
    share = [.3, .2, .15, .34, .01]
    barcodes = [''.join(rng.choice(list('ACGTN'), n, p=share)) for n in (3, 6, 100, 658, 660)]
    kmers = [''.join(bases) for bases in product('ACGT', repeat=4)]
    vectorizer = CountVectorizer(analyzer='char', lowercase=False, ngram_range=(4, 4), vocabulary=kmers)
    assert (kmer_counts(pack(barcodes), 4) != vectorizer.transform(barcodes).astype(np.float32)).nnz == 0


def test_embedding_keeps_the_order_of_its_barcodes():
    rng = np.random.default_rng(0)
    bases = pack([''.join(rng.choice(list('ACGT'), n)) for n in rng.integers(4, 660, 50)])
    together = embed(ENCODER, bases, batch_size=7, compute=CPU)
    alone = np.concatenate([embed(ENCODER, bases[i:i + 1], compute=CPU) for i in range(50)])
    assert np.allclose(together, alone, atol=1e-5)
    assert embed(ENCODER, bases[:0], compute=CPU).shape == (0, 16)


def test_barcode_without_kmer_is_named():
    with pytest.raises(InputError, match="barcode 1: 'ACG'.*no 4-mer.*Fix"):
        embed(ENCODER, pack(['ACGTACGT', 'ACG']), compute=CPU)


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(0)
    true, predicted = rng.choice(list('abcd'), 300), rng.choice(list('abcde'), 300)
    s = score(true, predicted)
    assert abs(s['accuracy'] - 100 * accuracy_score(true, predicted)) < .01
    assert s['low'] < s['accuracy'] < s['high']
    assert abs(s['macro_f1'] - 100 * f1_score(true, predicted, labels=list('abcd'), average='macro')) < .01
    recall = np.mean([(predicted[true == c] == c).mean() for c in 'abcd'])
    assert abs(s['balanced_accuracy'] - 100 * recall) < .01
    half = (s['high'] - s['low']) / 2
    assert abs(half - 1.96 * 100 * np.sqrt(.01 * s['accuracy'] * (1 - .01 * s['accuracy']) / 300)) < .7


def test_vote():
    labels = np.array([['a', 'b', 'b'], ['a', 'b', 'c'], ['c', 'a', 'a']])
    assert vote(labels).tolist() == ['b', 'a', 'a'] and vote(labels[:, :1]).tolist() == ['a', 'a', 'c']


def test_rows_leave_out_what_does_not_apply():
    true = np.array(list('aab'))
    row = accuracy_fields(true, true, method='m', query='test', whitened=False)
    assert row['accuracy'] == 100 and row['n'] == 3 and row['whitened'] is False and 'mode' not in row
    assert set(row) <= {f.name for f in fields(AccuracyRow)}
    with pytest.raises(TypeError): accuracy_fields(true, true, colour='red')


def test_a_query_does_not_see_its_own_number():
    rng = np.random.default_rng(0)
    vectors, number = rng.normal(size=(60, 8)), rng.integers(0, 9, 60)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = np.where(number[:, None] == number, -2, unit @ unit.T)
    for block in (7, 16_384):
        rows, cosine = nearest(vectors, vectors, 5, (number, number), block=block)
        assert (rows == np.argsort(-expected, 1)[:, :5]).all() and (number[rows] != number[:, None]).all()
        assert np.allclose(cosine, -np.sort(-expected, 1)[:, :5], atol=1e-5)
    rows, cosine = nearest(vectors[:2], vectors[:3], 3, (np.array([4, 4, 5]), np.array([4, 5])))
    assert rows[0, 0] == 2 and (cosine[0, 1:] == -2).all() and (cosine[1] == -2).sum() == 1


def test_equal_references_come_by_row():
    rows, cosine = nearest(np.eye(3)[:1], np.repeat(np.eye(3)[::-1], 4, 0), 6, block=5)
    assert rows[0, :4].tolist() == [8, 9, 10, 11] and (cosine[0, :4] == 1).all()


@pytest.mark.parametrize('n', [0, 6])
def test_more_neighbours_than_references(n):
    with pytest.raises(ValueError): nearest(np.ones((2, 3)), np.ones((5, 3)), n)


def test_missing_splits(tmp_path):
    lines = [f'p{i},G{i % 2},{"ACGT" * 60}{"ACGT"[i % 4] * (i + 1)},train\n' for i in range(6)]
    (tmp_path/'few.csv').write_text('processid,genus,dna_barcode,split\n' + ''.join(lines))
    store = prepare(tmp_path/'few.csv', tmp_path/'store')
    model = Evaluation('model', EncoderEmbedder(ENCODER, CPU), store)
    with pytest.raises(InputError, match='Fix'): with_controls(model)
    with pytest.raises(InputError, match='Fix'): GenusMonitor(store, CPU)


@pytest.mark.parametrize('model, said', [((50, 60), 'above'), ((10, 20), 'below'), ((25, 35), 'overlap')])
def test_verdict(model, said):
    row = dict(rank='genus', k=1, query='test_unseen')
    control = dict(row, method='untrained', low=30, high=40)
    model = dict(row, method='model', low=model[0], high=model[1])
    results = dict(barcodes_seen=9, knn=[model, control])
    assert said in verdict(results)
