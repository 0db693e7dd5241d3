"""Guards for barcodemae.clustering: the clusters of scikit-learn, their numbers, faults."""
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from barcodemae.clustering import ward


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


@pytest.mark.parametrize('x, n, message', [(np.ones((3, 2)), 4, '4 clusters'), (np.ones((3, 2)), 0, '0 clusters'), (np.ones(3), 1, 'shape'),
    (np.ones((0, 2)), 1, 'shape'), (np.array([[1, 2], [np.nan, 0], [1, 1]]), 2, 'vector 1'), (np.array([[1, 2], [1, 1], [np.inf, 0]]), 2, 'vector 2')])
def test_faults(x, n, message):
    with pytest.raises(ValueError, match=message): ward(x, n)
