"""Guards for barcodemae.approximate: exact where every cell is looked into, blocks, files, faults."""
import sys

import numpy as np, pytest

pytest.importorskip('faiss', reason='faiss is not installed: pip install "barcodemae[faiss]"')
from barcodemae.approximate import approximate_nearest, build_index, read_index, save_index
from barcodemae.core import InputError
from barcodemae.knn import nearest

RNG = np.random.default_rng(0)
REFERENCE, QUERY = RNG.normal(size=(3000, 24)).astype(np.float32), RNG.normal(size=(50, 24)).astype(np.float32)


@pytest.mark.parametrize('n', [1, 4])
def test_all_cells_and_full_precision_are_exact(n):
    rows, sims = approximate_nearest(build_index(REFERENCE), QUERY, n, probes=10**6, reference=REFERENCE, candidates=50)
    exact_rows, exact_sims = nearest(QUERY, REFERENCE, n)
    assert (rows == exact_rows).all() and np.allclose(sims, exact_sims, atol=1e-5)
    assert abs(approximate_nearest(build_index(REFERENCE), QUERY, n, probes=10**6)[1] - exact_sims).max() < .03


def test_blocks_and_memory_maps_give_the_same(tmp_path):
    np.save(tmp_path/'r.npy', REFERENCE)
    a, b = build_index(REFERENCE), build_index(np.load(tmp_path/'r.npy', mmap_mode='r'), block=700)
    for x, y in zip(approximate_nearest(a, QUERY, 5), approximate_nearest(b, QUERY, 5)): assert np.array_equal(x, y)


def test_file(tmp_path):
    index = build_index(REFERENCE)
    save_index(index, tmp_path/'i.faiss')
    assert np.array_equal(approximate_nearest(read_index(tmp_path/'i.faiss'), QUERY)[0], approximate_nearest(index, QUERY)[0])
    (tmp_path/'broken').write_bytes(b'nothing')
    for name in ('broken', 'absent'):
        with pytest.raises(InputError, match='Mend'): read_index(tmp_path/name)


def test_few_references():
    rows, sims = approximate_nearest(build_index(REFERENCE[:5]), QUERY, 5, reference=REFERENCE[:5])
    assert (np.sort(rows, 1) == range(5)).all()
    with pytest.raises(ValueError): approximate_nearest(build_index(REFERENCE[:5]), QUERY, 6)
    with pytest.raises(ValueError): build_index(REFERENCE[:1])


def test_without_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, 'faiss', None)
    with pytest.raises(InputError, match=r'barcodemae\[faiss\]'): build_index(REFERENCE)
