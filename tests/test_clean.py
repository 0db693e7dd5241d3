"""Guards for barcodemae.data.clean: against a plain Python account of the same rules, and its errors."""
import re

import polars as pl, pytest
from hypothesis import given, settings, strategies as st
from polars.testing import assert_frame_equal

from barcodemae.data.clean import Cleaner, CleanConfig, clean, count_partitions, unlike_published
from barcodemae.core import InputError
from barcodemae.data.published import PUBLISHED
from barcodemae.data.read import COLUMNS, SCHEMA

SMALL = CleanConfig(max_length=12, min_length=3)


def frame(barcodes, **columns):
    n = len(barcodes)
    columns = {'processid': [f'P{i}' for i in range(n)], 'dna_barcode': barcodes, **columns}
    return pl.DataFrame({c: columns.get(c, [None]*n) for c in COLUMNS}, schema=SCHEMA)


def by_hand(barcodes, config):
    "The rules in plain Python: kept sequences and what happened to each row."
    kept, fate = [], []
    for b in barcodes:
        if b is not None:
            bases = b.upper().replace('-', '').replace('.', '').replace('U', 'T')
            b = re.sub('[^ACGT]', 'N', bases)[:config.max_length].strip('N')
        long = b is not None and len(b) >= config.min_length
        fate.append('missing' if b is None else 'short' if not long else 'repeats' if b in kept else 'kept')
        if fate[-1] == 'kept': kept.append(b)
    return kept, fate


messy = st.lists(st.none() | st.text('ACGTacgtuNnRY-.', max_size=16) | st.sampled_from(['ACGTA', 'acgta',
    'NACGUAN']), min_size=1, max_size=20)

@settings(max_examples=80, deadline=None)
@given(messy)
def test_as_by_hand_and_only_once(barcodes):
    kept, fate = by_hand(barcodes, SMALL)
    if not kept:
        with pytest.raises(InputError, match='no barcode is left'): clean(frame(barcodes).lazy(), SMALL)
        return
    table, report = clean(frame(barcodes).lazy(), SMALL)
    rows = table.collect()
    assert rows['dna_barcode'].to_list() == kept
    assert rows['processid'].to_list() == [f'P{i}' for i, f in enumerate(fate)
        if f == 'kept'] # first row wins
    for reason in ('missing', 'short', 'repeats', 'kept'):
        assert getattr(report, reason) == fate.count(reason)
    again, nothing = clean(table, SMALL)
    assert_frame_equal(again.collect(), rows)
    assert nothing.kept == nothing.rows == len(rows) and not any(nothing.changed.values())


@settings(max_examples=30, deadline=None)
@given(messy, st.integers(1, 5))
def test_frames_make_no_difference(barcodes, size):
    kept, _ = by_hand(barcodes, SMALL)
    cleaner, table = Cleaner(SMALL), frame(barcodes)
    out = pl.concat(cleaner(table[i:i+size]) for i in range(0, len(table), size))
    assert out['dna_barcode'].to_list() == kept


def test_repeats_may_stay():
    table, report = clean(frame(['ACGT', 'acgt']).lazy(), CleanConfig(min_length=1, drop_repeats=False))
    assert table.collect()['dna_barcode'].to_list() == ['ACGT', 'ACGT'] and report.repeats == 0


def test_order_of_the_rules():
    "Gaps go before the cut, N after it."
    table, _ = clean(frame(['A-C-G-T-A-C-G-T-A-C-G-T-T', 'NN' + 'ACGT'*4]).lazy(), SMALL)
    assert table.collect()['dna_barcode'].to_list() == ['ACGTACGTACGT', 'ACGTACGTAC']


def test_changed_letters_are_counted():
    _, report = clean(frame(['acgta', 'AC-GTT', 'ACGUU', 'ACRGT', 'NACGG', 'ACGC' + 'A'*20, 'ACGAAA']).lazy(),
        SMALL)
    assert report.changed == dict(lower_case=1, gaps=1, u_to_t=1, iupac_to_n=1, n_at_ends=1, truncated=1)


def test_conflicting_names():
    barcodes = ['ACGTA', 'ACGTA', 'ACGTA', 'CCCCC', 'CCCCC', 'GGGGG', 'GGGGG', 'TTT']
    genus = ['Aedes', None, 'Culex', 'Aedes', 'Aedes', None, 'Culex', 'Aedes']
    species = ['Aedes a', None, 'Culex c', 'Aedes a', 'Aedes b', None, 'Culex c', 'Aedes a']
    _, report = clean(frame(barcodes, genus=genus, species=species).lazy(), SMALL)
    assert report.conflicts == {'genus': 1, 'species': 2}
    assert report.examples[0] == dict(rank='genus', names=['Aedes', 'Culex'], processids=['P0', 'P2'])


def test_two_records_with_one_id():
    with pytest.raises(InputError) as e: clean(frame(['ACGT', 'CCCC', 'GGGG', 'TTTT'],
        processid=['P1', 'P2', 'P2', 'P2']).lazy(), SMALL)
    assert e.value.record == 'P2' and '3 times' in e.value.message and e.value.fix


def test_impossible_lengths():
    with pytest.raises(InputError, match='leave no barcode'): CleanConfig(max_length=50)


def test_partitions_beside_the_published_ones():
    split = ['train', 'train', 'test', None, 'odd']
    table = frame(['ACGT']*5, split=split, species=['a', 'b', 'a', None, None])
    assert count_partitions(table).rows() == [('train', 2, 2), ('test', 1, 1), ('(none)', 1, 0),
        ('odd', 1, 0)]
    counts = count_partitions(table, 'BIOSCAN-5M')
    assert counts['published_barcodes'].sum() == sum(b for b, _ in PUBLISHED['BIOSCAN-5M']['splits'].values())
    said = unlike_published(counts, 'BIOSCAN-5M')
    assert 'not the partitions of BIOSCAN-5M' in said
    assert 'train: 2 barcodes, 2 species (published 118,051, 11,846)' in said
    assert unlike_published(counts.with_columns(barcodes='published_barcodes',
        species=pl.col('published_species').fill_null(7)), 'BIOSCAN-5M') is None
