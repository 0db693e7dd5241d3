"""Guards for barcodemae.evaluation.clustering: the clusters of scikit-learn, their numbers, faults."""
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from barcodemae.evaluation.clustering import agreement, cluster_labels, clustering_rows, cut, estimate_clusters
from barcodemae.evaluation.clustering import otu_name, ward, ward_tree


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(1, 60), st.integers(0, 99))
def test_clusters_are_scikit_learns(N, n, seed):
    n, x = min(n, N), np.random.default_rng(seed).normal(size=(N, 5))
    labels = ward(x, n)
    assert adjusted_rand_score(labels, AgglomerativeClustering(n, linkage='ward').fit_predict(x)) == 1
    assert labels.shape == (N,) and [l for i, l in enumerate(labels) if l not in labels[:i]] == list(range(n))


def test_equal_vectors():
    x = np.repeat(np.eye(3), 4, 0)
    assert ward(x, 3).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(set(ward(x, 7).tolist())) == 7 and ward(x[:1], 1).tolist() == [0]


@pytest.mark.parametrize('x, n, message', [
    (np.ones((3, 2)), 4, '4 clusters'), (np.ones((3, 2)), 0, '0 clusters'),
    (np.ones(3), 1, 'shape'), (np.ones((0, 2)), 1, 'shape'),
    (np.array([[1, 2], [np.nan, 0], [1, 1]]), 2, 'vector 1'),
    (np.array([[1, 2], [1, 1], [np.inf, 0]]), 2, 'vector 2')])
def test_faults(x, n, message):
    with pytest.raises(ValueError, match=message): ward(x, n)


def test_agreement_is_scikit_learns_without_the_unlabelled():
    random = np.random.default_rng(0)
    otus, clusters = random.choice(['', 'a', 'b', 'c'], 200), random.integers(0, 5, 200)
    known = otus != ''
    ami = adjusted_mutual_info_score(otus[known], clusters[known])
    assert agreement(otus, clusters) == dict(n=known.sum(), missing=(~known).sum(), ami=ami)
    assert agreement(otus[known], otus[known])['ami'] == 1
    with pytest.raises(ValueError, match='no barcode has a label'):
        agreement(np.array(['', '']), np.arange(2))


def test_onehot_otus_give_the_otus():
    otus = np.random.default_rng(0).permutation(np.repeat([f'OTU:{i}' for i in range(12)], 7))
    vectors = (otus[:, None] == np.unique(otus)).astype(float)
    for row in clustering_rows(vectors, dict(OTU=otus, species=otus), reductions=('none',)):
        assert row['ami'] == 1 and row['clusters'] == 12, row


def test_a_cut_of_equal_heights_has_the_asked_number():
    tree = ward_tree(np.zeros((6, 2)))
    assert [len(set(cut(tree, n))) for n in range(1, 7)] == list(range(1, 7))


@pytest.mark.parametrize('size', [1, 2, 3, 4])
def test_a_handful_of_vectors(size):
    assert 1 <= estimate_clusters(np.eye(4)[:size]) <= size


@pytest.mark.parametrize('start, name', [('BOLD:', 'BIN'), ('OTU:', 'OTU'), ('SIM:', 'OTU')])
def test_labels_are_called_what_the_ids_say(start, name):
    ids = [f'{start}{i}' for i in range(3)] + ['']
    class Store:
        def labels(self, column, rows): return np.array(ids)[rows] if column == 'dna_bin' else np.array(['x'])[rows * 0]
    assert list(cluster_labels(Store(), np.arange(4))) == [name, 'species', 'genus']
    assert otu_name(ids) == name and otu_name([*ids, 'OTU:9']) == otu_name(['']) == 'OTU'
