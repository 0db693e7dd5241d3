"""Guards for barcodemae.data.tables: the same rows however they are written, and no row ever vanishes or swaps."""
import csv, io, tempfile, warnings
from pathlib import Path

import polars as pl, pytest
from hypothesis import given, settings, strategies as st

from barcodemae.core import InputError
from barcodemae.data import tables
from barcodemae.data.faults import Faults
from barcodemae.data.read import MISSING, read_batches
from barcodemae.data.tables import open_table, split_line

COLUMNS = ('processid', 'species', 'dna_barcode')
barcodes = st.text('ACGTN-', min_size=20, max_size=40)
value = lambda s: None if s.strip() in MISSING else s.strip()


def written(rows, columns, **how):
    out = io.StringIO()
    csv.writer(out, **how).writerows([columns, *([row[c] for c in columns] for row in rows)])
    return out.getvalue()


def read(content, block=2**24, **how):
    "(id, species, barcode) of each row, and the faults."
    with tempfile.TemporaryDirectory() as d, pytest.MonkeyPatch.context() as m:
        m.setattr(tables, 'BLOCK', block)
        (path := Path(d)/'t.csv').write_bytes(content)
        frames = list(read_batches(path, columns=COLUMNS, faults=(faults := Faults()), **how))
    return pl.concat(frames).rows() if frames else [], faults


# any way to write it

notes = st.text('ab,;|\t\n" \xe9', max_size=8)
table = st.lists(st.fixed_dictionaries({'species': notes, 'dna_barcode': barcodes, 'note': notes}), min_size=1,
    max_size=6)

@settings(max_examples=150, deadline=None)
@given(table, st.sampled_from(',;\t|'), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(['\n', '\r\n', '\r']), st.sampled_from(['utf-8', 'utf-8-sig', 'latin-1']),
    st.permutations(['processid', 'note', 'species', 'dna_barcode']), st.data())
def test_the_same_rows_however_written(rows, sep, quoting, end, encoding, columns, data):
    if sep == '\t': # in TSV, what is a row by its number of fields is one
        rows = [{k: v.replace('\t', ' ') for k, v in row.items()} for row in rows]
    rows = [{'processid': f'P{i}', **row} for i, row in enumerate(rows)]
    columns = list(columns) + data.draw(st.lists(st.sampled_from(columns), max_size=1)) # one of them twice
    text = written(rows, columns, delimiter=sep, quoting=quoting, lineterminator='\n')
    text = data.draw(st.sampled_from(['', '\n \n', '# made by hand\n', f'sep={sep}\n'])) + text
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        got, faults = read(text.replace('\n', end).encode(encoding), data.draw(st.integers(60, 400)))
    assert got == [(r['processid'], value(r['species']), r['dna_barcode']) for r in rows] and not faults.counts


# marks that stand anywhere

marked = st.text('ab "\'', max_size=8)

@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(marked, barcodes, marked, marked), min_size=1, max_size=12), st.sampled_from(',;\t'),
    st.integers(60, 400))
def test_stray_marks_lose_and_swap_nothing(rows, sep, block):
    lines = [sep.join(['processid', 'note', 'dna_barcode', 'place', 'remark'])]
    lines += [sep.join([f'P{i}', *row]) for i, row in enumerate(rows)]
    got, faults = read('\n'.join(lines).encode(), block)
    assert [(i, s) for i, _, s in got] == [(f'P{i}', row[1]) for i, row in enumerate(rows)] and not faults.counts


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(barcodes, st.text('ab"\t\n', max_size=8)), min_size=1, max_size=12), st.integers(60, 400))
def test_what_is_not_read_is_counted(rows, block):
    "Marks, tabs and line breaks that nobody quoted: a row is read, with its own barcode, or it is counted."
    lines = ['processid\tdna_barcode\tnote\tplace']
    lines += [f'P{i}\t{barcode}\t{note}\t.' for i, (barcode, note) in enumerate(rows)]
    got, faults = read('\n'.join(lines).encode(), block)
    own = {f'P{i}': barcode for i, (barcode, _) in enumerate(rows)}
    assert all(own.get(name, barcode) == barcode for name, _, barcode in got)
    assert len(got) + sum(faults.counts.values()) >= len(rows)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(marked, st.sampled_from(['ACGT'*6, 'ACGT', 'MFINRW', '']), marked), min_size=1, max_size=12),
    st.integers(60, 400))
def test_rows_of_tsv_are_read_or_counted(rows, block):
    "Whatever is wrong with their sequences, too."
    lines = ['processid\tnote\tdna_barcode\tplace']
    lines += ['\t'.join([f'P{i}', *row]) for i, row in enumerate(rows)]
    got, faults = read('\n'.join(lines).encode(), block)
    assert [(name, s) for name, _, s in got] == [(f'P{i}', r[1]) for i, r in enumerate(rows)
        if not set(r[1]) - set('ACGT') and r[1]]
    assert len(got) + sum(faults.counts.values()) == len(rows)


def test_marks_of_bold():
    bases = 'ACATTATATTTTATTTTTGG'
    lines = ['processid\tnotes\tspecies\tnucleotides', f'P1\t"Salty river, border" box 3\tA a\t{bases}A',
        f'P2\t"left bank\tA b\t{bases}C', f'P3\tx\tA c\t{bases}G', f'P4\tright bank"\tA d\t{bases}T',
        f'P5\ta\ttab"\tA e\t{bases}A', f'P6\t"two\nlines"\tA f\t{bases}C', f'P7\t5" pot, 6" pot\tA g\t{bases}G']
    got, faults = read('\n'.join(lines).encode())
    assert [(name, species, barcode[-1]) for name, species, barcode in got] == [('P1', 'A a', 'A'),
        ('P2', 'A b', 'C'), ('P3', 'A c', 'G'), ('P4', 'A d', 'T'), ('P6', 'A f', 'C'), ('P7', 'A g', 'G')]
    assert faults.counts == {'ragged row': 1} and faults.first['ragged row'][0][1:] == ('row 5 (P5)',
        'the row has 5 fields, the header 4')


def test_a_row_of_many_lines():
    note = '\n'.join(f'line {i}, of many' for i in range(50))
    rows = [{'processid': f'P{i}', 'species': note, 'dna_barcode': 'ACGT'*6} for i in range(30)]
    got, faults = read(written(rows, COLUMNS).encode(), 500)
    assert got == [tuple(row.values()) for row in rows] and not faults.counts


# fields too many, too few

@pytest.mark.parametrize('row, detail', [('P3,ACGT,x,y', 'the row has 4 fields, the header 3'),
    ('P3,ACGT', 'the row has 2 fields, the header 3'), ('P3', 'the row has 1 fields, the header 3')])
def test_ragged_rows(row, detail):
    text = f'processid,dna_barcode,note\nP1,ACGT,x\n\nP2,ACGT,\n{row}\nP4,ACGT,x,\nP5,ACGT,x,,,\n'.encode()
    got, faults = read(text)
    assert [r[0] for r in got] == ['P1', 'P2', 'P4', 'P5'] and faults.counts == {'ragged row': 1}
    assert faults.first['ragged row'][0][1:] == ('row 3 (P3)', detail)
    with tempfile.TemporaryDirectory() as d:
        (path := Path(d)/'t.csv').write_bytes(text)
        with pytest.raises(InputError, match=r'row 3 \(P3\)'): list(read_batches(path))


HEADS = {
    'separators at the end': ('processid,dna_barcode,,\nP1,ACGT,,\nP2,ACGA\n', ['P1', 'P2']),
    'separators at the end of rows': ('processid,dna_barcode\nP1,ACGT,,\nP2,ACGA,\n', ['P1', 'P2']),
    'quoted names': ('"processid";"dna_barcode";"a;b"\nP1;ACGT;"x;y"\nP2;ACGA;\n', ['P1', 'P2']),
    'commas in a TSV': ('processid\tdna_barcode\ta,b,c,d\nP1\tACGT\tx\nP2\tACGA\tx,y\n', ['P1', 'P2']),
    'sep= in quotes': ('"sep=;"\nprocessid;dna_barcode\nP1;ACGT\n', ['P1']),
    'comments': ('# made, by hand\n#\n#processid,dna_barcode\nP1,ACGT\n', ['P1']),
    'a line break in a name': ('processid,"the\nnote",dna_barcode\nP1,x,ACGT\n', ['P1']),
    'no line end': ('processid\tdna_barcode\nP1\tACGT', ['P1']),
    'rows of R': ('processid\tdna_barcode\n1\tP1\tACGT\n2\tP2\tACGA\n', ['P1', 'P2']),
}

@pytest.mark.parametrize('case', HEADS)
def test_heads(case):
    text, ids = HEADS[case]
    got, faults = read(text.encode())
    assert [r[0] for r in got] == ids and [r[2] for r in got] == ['ACGT', 'ACGA'][:len(ids)] and not faults.counts


def test_a_column_twice_is_told():
    with pytest.warns(UserWarning, match='the column processid is there 2 times; column 1 is read'):
        got, _ = read(b'processid,dna_barcode,processid\nP1,ACGT,P1\n')
    assert got == [('P1', None, 'ACGT')]
    with pytest.warns(UserWarning, match='not with the same values; column 1'):
        got, _ = read(b'processid,dna_barcode,ProcessID\nP1,ACGT,Q1\n')
    assert got == [('P1', None, 'ACGT')]


def test_no_table():
    with pytest.raises(InputError, match='neither FASTA nor FASTQ nor a table'): open_table([b'one\ntwo\n'])
    assert open_table([b'\n# nothing\n\n']) is None


def test_fields_of_a_line():
    assert split_line('a, "b, c" ,"d', ',') == (['a', 'b, c', '"d'], True)
    assert split_line('a\nb,c', ',') == (None, False)
    assert split_line('"a\n""b""",c', ',') == (['a\n"b"', 'c'], False)


# Parquet of any type

def test_parquet_of_any_type(tmp_path):
    frame = pl.DataFrame({'processid': [1, 2], 'species': ['Aedes a', None], 'dna_barcode': ['ACGT', 'ACGA'],
        'sampleid': [1.0, None], 'chunk': [[1], []], 'taxon': [True, False]})
    frame = frame.with_columns(pl.col('species').cast(pl.Categorical))
    frame.drop('chunk').write_parquet(tmp_path/'t.pq')
    got = pl.concat(read_batches(tmp_path/'t.pq', columns=(*COLUMNS, 'sampleid', 'taxon'))).rows()
    assert got == [('1', 'Aedes a', 'ACGT', '1', 'true'), ('2', None, 'ACGA', None, 'false')]
    frame.write_parquet(tmp_path/'t.pq')
    assert len(pl.concat(read_batches(tmp_path/'t.pq', columns=COLUMNS))) == 2 # a column that is not read
    with pytest.raises(InputError, match='chunk holds List'):
        list(read_batches(tmp_path/'t.pq', columns=(*COLUMNS, 'chunk')))
