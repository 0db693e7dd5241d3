"""Guards for barcodemae.embedding.approximate: exact where every cell is compared, blocks, files, faults."""
import sys

import numpy as np, pytest
from hypothesis import given, settings, strategies as st

pytest.importorskip('faiss', reason='faiss is not installed: pip install "barcodemae[faiss]"')
from barcodemae.embedding.approximate import approximate_nearest, build_index, read_index, recall
from barcodemae.embedding.approximate import save_index
from barcodemae.core import InputError
from barcodemae.embedding.neighbours import nearest

RNG = np.random.default_rng(0)
REFERENCE, QUERY = (RNG.normal(size=(n, 24)).astype(np.float32) for n in (3000, 50))


@pytest.mark.parametrize('n', [1, 4])
def test_all_cells_and_full_precision_are_exact(n):
    full = dict(reference=REFERENCE, candidates=50)
    rows, sims = approximate_nearest(build_index(REFERENCE), QUERY, n, nprobe=10**6, **full)
    exact_rows, exact_sims = nearest(QUERY, REFERENCE, n)
    assert (rows == exact_rows).all() and np.allclose(sims, exact_sims, atol=1e-5)
    sims = approximate_nearest(build_index(REFERENCE), QUERY, n, nprobe=10**6)[1]
    assert abs(sims - exact_sims).max() < .03


def test_blocks_and_memory_maps_give_the_same(tmp_path):
    np.save(tmp_path/'r.npy', REFERENCE)
    a, b = build_index(REFERENCE), build_index(np.load(tmp_path/'r.npy', mmap_mode='r'), block=700)
    for x, y in zip(*(approximate_nearest(index, QUERY, 5) for index in (a, b))): assert np.array_equal(x, y)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 999), max_size=6))
def test_blocks_of_any_size_give_the_same(cuts):
    def blocks(): yield from np.split(REFERENCE, sorted(set(cuts)))
    a, b = build_index(REFERENCE), build_index(blocks)
    for x, y in zip(*(approximate_nearest(index, QUERY, 5) for index in (a, b))): assert np.array_equal(x, y)


def test_recall():
    exact = nearest(QUERY, REFERENCE, 3)[0]
    wrong = exact.copy(); wrong[:, 2] = -1
    assert recall(exact, QUERY, REFERENCE) == 1 and recall(wrong, QUERY, REFERENCE) == pytest.approx(2 / 3)
    assert recall(exact[:, ::-1], QUERY, REFERENCE) == 1                        # the order does not matter
    twice = np.concatenate([REFERENCE, REFERENCE])
    assert recall(exact[:, :1] + len(REFERENCE), QUERY, twice) == 1             # equal references count
    index = build_index(REFERENCE)
    found = [approximate_nearest(index, QUERY, nprobe=p, reference=REFERENCE)[0] for p in (1, 8, 10**6)]
    recalls = [recall(rows, QUERY, REFERENCE) for rows in found]
    assert recalls == sorted(recalls) and recalls[-1] == 1


def test_too_few_met():
    index = build_index(REFERENCE, cells=300)
    for reference in (None, REFERENCE):
        rows, sims = approximate_nearest(index, QUERY, 500, nprobe=1, reference=reference)
        assert ((rows == -1) == (sims == -2)).all() and (rows[:, -1] == -1).all() and (rows[:, 0] >= 0).all()


def test_file(tmp_path):
    index = build_index(REFERENCE)
    save_index(index, tmp_path/'i.faiss')
    again = read_index(tmp_path/'i.faiss')
    assert np.array_equal(approximate_nearest(again, QUERY)[0], approximate_nearest(index, QUERY)[0])
    (tmp_path/'broken').write_bytes(b'nothing')
    for name in ('broken', 'absent'):
        with pytest.raises(InputError, match='Fix'): read_index(tmp_path/name)


def test_few_references():
    rows, sims = approximate_nearest(build_index(REFERENCE[:5]), QUERY, 5, reference=REFERENCE[:5])
    assert (np.sort(rows, 1) == range(5)).all()
    with pytest.raises(ValueError): approximate_nearest(build_index(REFERENCE[:5]), QUERY, 6)
    with pytest.raises(ValueError): build_index(REFERENCE[:1])
    with pytest.raises(ValueError): build_index(lambda: iter([]))


def test_without_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, 'faiss', None)
    with pytest.raises(InputError, match=r'pip install "barcodemae\[faiss\]"'): build_index(REFERENCE)
    with pytest.raises(InputError, match='faiss'): read_index('any')
