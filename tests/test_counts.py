"""Guards for barcodemae.data.counts: tables of abundances in all their forms, and answers beside the right rows."""
import gzip, json, random, sys, types

import numpy as np, polars as pl, pytest
from hypothesis import given, settings, strategies as st

from barcodemae.core import InputError
from barcodemae.data.counts import count_format, read_counts, read_query, with_answers
from barcodemae.data.faults import Faults
from barcodemae.data.query import read_sequences

rng = random.Random(0)
SEQUENCES = [''.join(rng.choices('ACGT', k=80)) for _ in range(4)]
NUMBERS = [[5, 0, 3], [1, 17, 0], [0, 0, 2], [9, 9, 9]] # ASVs x samples
SAMPLES = ['lake', 'river', 'sea']


def lines(rows, sep='\t'): return ''.join(sep.join(map(str, row)) + '\n' for row in rows)

def asv(names=('ASV_ID', 'sequence'), sep='\t', last=False):
    head = [names[0], *SAMPLES, names[1]] if last else [*names, *SAMPLES]
    row = lambda i: [f'A{i}', *NUMBERS[i], SEQUENCES[i]] if last else [f'A{i}', SEQUENCES[i], *NUMBERS[i]]
    return lines([head, *map(row, range(4))], sep)

BIOM = dict(id=None, format='Biological Observation Matrix 1.0.0', type='OTU table', matrix_type='sparse',
    rows=[dict(id=s, metadata=None) for s in SEQUENCES], columns=[dict(id=s, metadata=None) for s in SAMPLES],
    shape=[4, 3], data=[[i, j, n] for i, row in enumerate(NUMBERS) for j, n in enumerate(row) if n])
SEQTAB = [['', *SEQUENCES]] + [[s, *(row[j] for row in NUMBERS)] for j, s in enumerate(SAMPLES)]
ROWS = [['', *SAMPLES], *([s, *row] for s, row in zip(SEQUENCES, NUMBERS))]
FORMS = {
    'ASV table': (asv(), 'table'),
    'sequences last': (asv(('#OTU ID', 'Sequence'), last=True), 'table'),
    'after a comment': ('# Constructed from biom file\n' + asv(('#OTU ID', 'seq')), 'table'),
    'semicolons': (asv(('id', 'Sequence'), ';'), 'table'),
    'a name that nobody knows': (asv(('id', 'ASV')), 'rows'),
    'seqtab of write.csv': (lines(SEQTAB, ','), 'seqtab'),
    'seqtab of write.table': (lines([SEQUENCES, *SEQTAB[1:]]), 'seqtab'),
    'seqtab of one sample': (lines(SEQTAB[:2], ','), 'seqtab'),
    'transposed': (lines(ROWS, ','), 'rows'),
    'transposed, of write.table': (lines([SAMPLES, *ROWS[1:]]), 'rows'),
    'BIOM': (json.dumps(BIOM), 'biom'),
    'dense BIOM': (json.dumps(BIOM | dict(matrix_type='dense', data=NUMBERS)), 'biom'),
}

@pytest.mark.parametrize('form', FORMS)
def test_forms(tmp_path, form):
    text, kind = FORMS[form]
    for path, content in ((tmp_path/'t.txt', text.encode()), (tmp_path/'t.gz', gzip.compress(text.encode()))):
        path.write_bytes(content)
        counts = read_counts(path)
        assert count_format(path) == counts.kind == kind and counts.sequences == SEQUENCES
        assert counts.ids == [f'A{i}' if '\tASV' in text or kind == 'table' else f'ASV{i + 1}' for i in range(4)]
        here = [s for s in SAMPLES if s in counts.table.columns]
        assert here == SAMPLES[:1] if 'one sample' in form else here == SAMPLES
        assert counts.table.select(here).cast(pl.Float64).rows() == [tuple(r[:len(here)]) for r in NUMBERS]
        (ids, barcodes), = counts.batches(faults := Faults())
        assert (ids, barcodes, faults.counts) == (counts.ids, SEQUENCES, {})
        read = lambda **how: [p for batch in read_query(path, Faults(), **how) for p in zip(*batch)]
        pairs = list(zip(ids, barcodes))
        assert read() == read(batch=3) == pairs and read(skip=1, batch=2) == pairs[1:] and read(skip=9) == []


OTHERS = {'FASTA': '>A\nACGT\n', 'FASTQ': '@A\nACGT\n+\nIIII\n', 'nothing': '', 'a text': 'one\ntwo\n',
    'no sequences': lines([['id', *SAMPLES], ['A1', 1, 2, 3]]), 'JSON': '{"a": [1, 2]}'}

@pytest.mark.parametrize('form', OTHERS)
def test_what_is_none(tmp_path, form):
    (tmp_path/'t').write_text(OTHERS[form])
    assert read_counts(tmp_path/'t') is None and count_format(tmp_path/'t') is None


def test_biom_with_sequences_and_lineages_as_metadata(tmp_path):
    about = [dict(sequence=s, taxonomy=['k__Animalia', f'g__G{i}']) for i, s in enumerate(SEQUENCES)]
    rows = [dict(id=f'otu{i}', metadata=m) for i, m in enumerate(about)]
    (tmp_path/'t.biom').write_text(json.dumps(BIOM | dict(rows=rows)))
    counts = read_counts(tmp_path/'t.biom')
    assert counts.ids == [f'otu{i}' for i in range(4)] and counts.sequences == SEQUENCES
    assert counts.table.columns == ['id', *SAMPLES, 'taxonomy']
    assert counts.table['taxonomy'][1] == 'k__Animalia; g__G1'
    (tmp_path/'t.biom').write_text(json.dumps(BIOM | dict(rows=[dict(id=f'otu{i}') for i in range(4)])))
    with pytest.raises(InputError, match='without sequences'): read_counts(tmp_path/'t.biom')
    (tmp_path/'t.biom').write_text(json.dumps(BIOM)[:-50])
    with pytest.raises(InputError) as e: read_counts(tmp_path/'t.biom')
    assert e.value.file == tmp_path/'t.biom'


def test_biom_2(tmp_path, monkeypatch):
    import h5py
    matrix, text = np.array(NUMBERS, float), h5py.string_dtype()
    with h5py.File(path := tmp_path/'t.biom', 'w') as f:
        f.attrs['format-version'] = (2, 1)
        for name, values in {'observation/ids': SEQUENCES, 'sample/ids': SAMPLES}.items():
            f.create_dataset(name, data=np.array(values, text))
        for name, values in dict(data=matrix[matrix > 0], indices=np.nonzero(matrix)[1],
                                 indptr=np.r_[0, np.cumsum((matrix > 0).sum(1))]).items():
            f[f'observation/matrix/{name}'] = values
        f.create_group('observation/metadata')
    assert count_format(path) == 'biom'
    counts = read_counts(path)
    assert counts.sequences == SEQUENCES
    assert counts.table.select(SAMPLES).rows() == [tuple(row) for row in NUMBERS]
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(InputError, match='pip install h5py'): read_counts(path)


# answers beside the right rows

FIELDS = [st.sampled_from(['A', 'B', '']), st.sampled_from([*SEQUENCES, 'ACGT', 'MFIL', '']),
    st.sampled_from(['x', 'a "b"', 'y,z', '"', ''])]

@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(*FIELDS), min_size=1, max_size=9))
def test_answers_stay_with_their_rows(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp('t')/'t.tsv'
    rows = [(a, b, c, i) for i, (a, b, c) in enumerate([('A', SEQUENCES[0], 'x'), *rows])]
    path.write_text(lines([['processid', 'dna_barcode', 'note', 'n'], *rows]))
    counts = read_counts(path)
    read = [pair for ids, barcodes in counts.batches(Faults(), 2) for pair in zip(ids, barcodes)]
    direct = [pair for batch in read_sequences(path, Faults()) for pair in zip(*batch)]
    assert read == direct # as the reader of queries has it
    answers = pl.DataFrame({'query': [i for i, _ in read], 'note': [f'of {s}' for _, s in read]})
    joined = with_answers(counts, answers)
    assert joined['n'].to_list() == [str(i) for i in range(len(rows))]
    for _, sequence, note, _, query, answer in joined.rows():
        assert answer == (f'of {sequence}' if query else None)
    with pytest.raises(ValueError): with_answers(counts, answers.head(len(answers) - 1))


def test_rows_that_cannot_be_read_stay(tmp_path):
    text = lines([['id', 'sequence', 'n'], ['A', SEQUENCES[0], 1], ['B', SEQUENCES[1]], ['C', SEQUENCES[2], 3]])
    (tmp_path/'t.tsv').write_text(text)
    counts = read_counts(tmp_path/'t.tsv')
    (ids, _), = counts.batches(faults := Faults())
    assert ids == ['A', 'C'] and faults.counts == {'ragged row': 1}
    joined = with_answers(counts, pl.DataFrame({'id': ids}))
    assert joined['id'].to_list() == ['A', 'B', 'C'] and joined['id_barcodemae'].to_list() == ['A', None, 'C']
    with pytest.raises(InputError, match=r'record 2 \(B\)'): list(counts.batches(Faults(strict=True)))


def test_a_damaged_table_gives_what_is_left(tmp_path):
    rows = [[f'A{i}', ''.join(rng.choices('ACGT', k=300))] for i in range(3000)]
    packed = gzip.compress(lines([['id', 'sequence'], *rows]).encode())
    (tmp_path/'t.tsv.gz').write_bytes(packed[:len(packed)//2])
    counts = read_counts(tmp_path/'t.tsv.gz')
    faults = Faults()
    read = sum(len(ids) for ids, _ in counts.batches(faults))
    assert 0 < read == faults.given < 3000 and faults.counts == {'truncated file': 1}


@pytest.mark.parametrize('head', [False, True])
@pytest.mark.parametrize('n', [2, 3])
def test_queries_without_names_are_no_seqtab(tmp_path, n, head):
    rows = [[f'q{i}', s, 'moth'][:n] for i, s in enumerate(SEQUENCES)]
    (tmp_path/'t.tsv').write_text(lines([['id', 'sequence', 'note'][:n], *rows] if head else rows))
    assert count_format(tmp_path/'t.tsv') == ('table' if head else None)
    read = [p for batch in read_query(tmp_path/'t.tsv', Faults()) for p in zip(*batch)]
    assert read == [(f'q{i}', s) for i, s in enumerate(SEQUENCES)]


def test_biom_too_large_or_of_hashes(tmp_path, monkeypatch):
    (tmp_path/'t.biom').write_text(json.dumps(BIOM))
    monkeypatch.setattr('barcodemae.data.biom.CELLS', 11)
    with pytest.raises(InputError, match='more than 11 cells'): read_counts(tmp_path/'t.biom')
    monkeypatch.setattr('barcodemae.data.biom.CELLS', 12)
    assert len(read_counts(tmp_path/'t.biom').table) == 4
    (tmp_path/'t.biom').write_text(json.dumps(BIOM | dict(rows=[dict(id=f'{i:032x}') for i in range(4)])))
    with pytest.raises(InputError, match='FASTA file of the representative'): read_counts(tmp_path/'t.biom')
