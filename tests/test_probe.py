"""Guards for barcodemae.evaluation.linear_probe: as logistic regression, same bits by the same seed."""
from types import SimpleNamespace

import numpy as np, pytest, torch
from sklearn.linear_model import LogisticRegression

from barcodemae.core import InputError, TrainingDiverged
from barcodemae.data.store import load_dataset
from barcodemae.embedding.kmers import kmer_counts
from barcodemae.evaluation.linear_probe import LinearProbe, fit_one_cycle, probe_rows


@pytest.fixture(scope='module')
def groups(): # vectors of twenty groups that overlap, one axis a thousand times as long as the others
    random = np.random.default_rng(0)
    y = random.integers(20, size=800)
    x = random.normal(size=(20, 10))[y] * 1.5 + random.normal(size=(800, 10))
    return x * np.where(np.arange(10) == 3, 1000., 1.), np.array([f'group {i:02}' for i in y])


def test_as_right_as_logistic_regression(groups):
    x, y = groups
    standard = (x - x[:400].mean(0)) / x[:400].std(0)
    theirs = LogisticRegression(max_iter=1000).fit(standard[:400], y[:400]).score(standard[400:], y[400:])
    ours = (LinearProbe().fit(x[:400], y[:400]).predict(x[400:]) == y[400:]).mean()
    assert theirs > .5 and abs(ours - theirs) < .03


def test_the_seed_decides_and_other_random_numbers_are_left_alone(groups):
    x, y = groups
    def weights(seed): return LinearProbe(steps=50, seed=seed).fit(x, y).linear.weight.detach()
    before = torch.random.get_rng_state()
    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_loss_that_is_no_number_is_told(groups):
    x, y = groups
    with pytest.raises(TrainingDiverged, match='diverged.*linear probe.*|linear probe.*diverged'):
        LinearProbe(steps=30).fit(np.where(np.arange(10) == 5, np.inf, x), y)


def test_every_example_once_an_epoch():
    model, seen = torch.nn.Linear(1, 1), []
    def loss(rows):
        seen.append(rows.tolist())
        return model(torch.ones(len(rows), 1)).square().mean()
    options = SimpleNamespace(epochs=2, batch_size=4, learning_rate=.1, weight_decay=0.)
    fit_one_cycle(model, loss, 10, options)
    assert [len(rows) for rows in seen] == [4, 4, 2] * 2
    first, second = sum(seen[:3], []), sum(seen[3:], [])
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_train_without_labels(monkeypatch):
    store = load_dataset('demo')
    def vectors(rows): return kmer_counts(store.bases[rows], 3).toarray()
    row, = probe_rows(vectors, store, [('genus', 'test')])
    assert (row['rank'], row['query']) == ('genus', 'test')
    labels = type(store).labels
    train = set(store.rows('train').tolist())
    def hidden(self, rank, rows=None):
        found = labels(self, rank, rows)
        return np.where(np.isin(rows, list(train)), '', found) if rows is not None else found
    monkeypatch.setattr(type(store), 'labels', hidden)
    with pytest.raises(InputError, match='no barcodes with a known genus in train.*Fix'):
        probe_rows(vectors, store, [('genus', 'test')])
