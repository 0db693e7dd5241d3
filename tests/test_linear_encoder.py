"The linear encoder: fitted on little, on damaged barcodes, as transformers opens it."
import numpy as np, pytest, torch
from hypothesis import given, settings as hypothesis_settings, strategies as st
from transformers import AutoModel, AutoTokenizer
from barcodemae.core import InputError
from barcodemae.data.store import WIDTH, load_dataset
from barcodemae.embedding.columns import column_vectors
from barcodemae.embedding.evolution import anchors_and_relatives, changes, fit_table, signal_and_noise
from barcodemae.embedding.evolution import site_table, site_weights
from barcodemae.identification.model import DEFAULT_MODEL, Model
from barcodemae.model.columns import ColumnConfig, ColumnEncoder
from barcodemae.model.tokenizer import kmer_ids
from barcodemae.training import compare
from barcodemae.training.commands import train
from barcodemae.training.config import make_config

BASES = np.random.default_rng(0).integers(0, 4, (400, WIDTH)).astype(np.uint8)


@pytest.fixture(scope='module')
def model(): return Model()


@pytest.fixture(scope='module')
def barcodes():
    store = load_dataset('demo')
    return store.sequences(store.rows('test')[:60])


@pytest.mark.parametrize('n', (1, 2, 7, 150))
def test_any_number_of_barcodes_gives_a_table(n):
    table = fit_table(BASES[:n], size=32)
    assert table.shape == (4 * WIDTH, 32) and table.dtype == np.float32 and np.isfinite(table).all()


@pytest.mark.parametrize('code', (0, 4, 5))
def test_equal_or_unknown_barcodes_give_a_finite_table(code):
    assert np.isfinite(fit_table(np.full((120, WIDTH), code, np.uint8), size=8)).all()


def test_without_relatives_there_are_no_pairs():
    first, second, sizes = anchors_and_relatives(BASES, column_vectors(fit_table(BASES, 16), BASES))
    assert len(first) == len(second) == len(sizes) == 0


def test_a_site_that_follows_the_tree_counts_more_than_one_that_does_not():
    rng, clades, relatives = np.random.default_rng(0), 150, 12
    roots, rows = rng.integers(0, 4, (clades, WIDTH)), []
    for root in roots: # relatives of a clade differ at sites 0 to 299 by their distance, at 300 to 599 by chance
        for distance in np.linspace(.02, .2, relatives):
            row = root.copy()
            for part, share in ((slice(0, 300), distance), (slice(300, 600), .1)):
                at = np.arange(WIDTH)[part][rng.random(300) < share]
                row[at] = (row[at] + rng.integers(1, 4, len(at))) % 4
            rows.append(row)
    first = np.repeat(roots, relatives, 0).astype(np.uint8)
    found = signal_and_noise(*changes(first, np.array(rows, np.uint8)), np.full(clades, relatives))
    weight = site_weights(*found)
    assert weight[:, :300].mean() > 2 * weight[:, 300:600].mean()


def test_rows_of_a_site_are_apart_by_its_weights():
    weight = np.random.default_rng(1).uniform(.1, 3, (2, WIDTH))
    weight[1] = np.maximum(weight[1], weight[0] / 2)
    rows = site_table(weight).reshape(4, WIDTH, -1)
    apart = lambda a, b: ((rows[a] - rows[b])**2).sum(1)
    assert np.allclose(apart(0, 2), weight[0], atol=1e-4) and np.allclose(apart(3, 0), weight[1], atol=1e-4)


@hypothesis_settings(max_examples=20, deadline=None)
@given(at=st.integers(60, 500), size=st.integers(1, 4), number=st.integers(0, 59))
def test_a_deletion_hardly_moves_a_vector(model, barcodes, at, size, number):
    whole = barcodes[number]
    a, b = model.vectors(model.align([whole, whole[:at] + whole[at + size:]]))
    assert a @ b > .9


@hypothesis_settings(max_examples=20, deadline=None)
@given(begin=st.integers(0, 300), size=st.integers(200, 400), number=st.integers(0, 59))
def test_a_fragment_is_near_its_barcode_on_either_strand(model, barcodes, begin, size, number):
    part = barcodes[number][begin:begin + size]
    minus = part[::-1].translate(str.maketrans('ACGT', 'TGCA'))
    plus, turned = model.vectors(model.align([part, minus]))
    cosine = model.vectors(model.align(barcodes)) @ plus
    assert np.allclose(plus, turned, atol=1e-5) and cosine[number] > cosine.max() - .1


@pytest.mark.parametrize('dtype', (torch.float16, torch.bfloat16, torch.float32))
def test_transformers_gives_the_vectors_of_the_command(model, barcodes, dtype):
    damaged = [*barcodes[:5], barcodes[5][30:300], barcodes[6][:200] + barcodes[6][201:], 'N' * 50]
    tokenizer = AutoTokenizer.from_pretrained(DEFAULT_MODEL)
    encoder = AutoModel.from_pretrained(DEFAULT_MODEL, dtype=dtype).eval()
    with torch.no_grad():
        found = encoder(**tokenizer(damaged, return_tensors='pt')).pooler_output
    here = model.vectors(model.align(damaged))
    assert found.dtype == torch.float32 and np.abs(found.numpy() - here).max() < (2e-2 if dtype ==
                                                                                  torch.bfloat16 else 1e-4)


def test_barcodes_may_be_cut_at_the_right():
    encoder = ColumnEncoder(ColumnConfig(hidden_size=8)).eval()
    bases = BASES[:3].copy()
    bases[:, 400:] = 5
    whole, cut = (encoder(*kmer_ids(torch.from_numpy(b), 1)).pooler_output for b in (bases, bases[:, :400]))
    assert torch.allclose(whole, cut, atol=1e-6)


@pytest.mark.parametrize('shape', (dict(k=4), dict(variant='mae'), dict(hidden_size=0)))
def test_a_shape_that_cannot_be_is_refused(shape):
    with pytest.raises(Exception, match='columns|hidden_size|variant'): ColumnConfig(**shape)


def test_settings_that_it_has_not_are_refused(tmp_path):
    with pytest.raises(InputError, match='aligned'): make_config('columns', aligned=False)
    with pytest.raises(InputError, match='no steps'):
        train(tmp_path/'run', preset='columns', dataset='demo', settings=dict(steps=5))


def test_barcodes_of_a_user_become_an_encoder_in_one_command(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, 'LABELLED', 'no such data set')        # with labels: test_ladder.py
    store = load_dataset('demo')
    some = store.sequences(store.rows('pretrain')[:300])
    (tmp_path/'mine.fasta').write_text(''.join(f'>r{i}\n{b}\n' for i, b in enumerate(some)))
    found = train(tmp_path/'run', preset='columns', dataset=tmp_path/'mine.fasta', settings=dict(hidden_size=32))
    assert found['encoder_parameters'] == 32 * 4 * WIDTH and 0 < found['barcodes_seen'] <= 300
    assert 'default' in str(found) and 'PCA of aligned bases' in str(found)
