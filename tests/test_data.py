"""Guards for barcodemae.data.read: every format gives the same table, every broken file is told by name."""
import gzip, io, tempfile, zipfile
from pathlib import Path

import polars as pl, pytest
from hypothesis import given, settings, strategies as st
from polars.testing import assert_frame_equal
from xopen import xopen

from barcodemae.data import read as data, tables as text_tables
from barcodemae.core import InputError
from barcodemae.data.faults import Faults
from barcodemae.data.published import download, known_dataset
from barcodemae.data.read import COLUMNS, MISSING, PARTITION_FILES, SCHEMA, SPLITS
from barcodemae.data.query import read_sequences
from barcodemae.data.read import read_batches, scan_barcodes

known = lambda s: None if s in MISSING else s
characters = st.characters(codec='utf-8', exclude_categories=('Cc', 'Cs'))
names = st.text(characters, max_size=12).map(str.strip).map(known)
plain_names = st.text('abcdefghijklmnopqrstuvwxyzABC-. _', max_size=12).map(str.strip).map(known)
barcodes = st.text('ACGTN', min_size=1, max_size=80)


def tables(names=names, columns=('genus', 'species', 'dna_bin', 'country', 'split'), numbers=('coord-lat',)):
    "Small tables in the layout of `COLUMNS`; columns that are not asked for are null."
    split = st.sampled_from([None, *SPLITS]) # other names of a split are translated by the reader
    text = {c: split if c == 'split' else names for c in columns}
    row = st.fixed_dictionaries({'dna_barcode': barcodes, **text,
        **{c: st.none() | st.floats(-90, 90) for c in numbers}})
    def table(rows):
        rows = [{'processid': f'P{i}', **r} for i, r in enumerate(rows)]
        return pl.DataFrame([{c: r.get(c) for c in COLUMNS} for r in rows], schema=SCHEMA)
    return st.lists(row, min_size=1, max_size=8).map(table)


def write_table(table, path):
    "Write `table` as its file's name says."
    kinds = path.name.split('.')[1:]
    if kinds == ['parquet']: return table.write_parquet(path)
    text = table.write_csv(separator='\t' if 'tsv' in kinds else ',').encode()
    if kinds[-1] == 'zip':
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
            z.writestr(f'metadata/t.{kinds[0]}', text)
            z.writestr('metadata/readme.md', 'nothing to see')
    else:
        with xopen(path, 'wb', threads=0) as f: f.write(text)


# every format gives the same table

@pytest.mark.parametrize('kind', ['csv', 'tsv', 'csv.gz', 'tsv.zst', 'csv.zip', 'tsv.zip', 'parquet'])
@settings(max_examples=15, deadline=None)
@given(table=tables())
def test_tables_round_trip(kind, table):
    with tempfile.TemporaryDirectory() as d:
        write_table(table, path := Path(d)/f't.{kind}')
        assert_frame_equal(scan_barcodes(path).collect(), table)


@pytest.mark.parametrize('kind', ['fasta', 'fa.gz', 'fasta.zst', 'fastq', 'fq.gz'])
@settings(max_examples=15, deadline=None)
@given(table=tables(plain_names, ('phylum', 'class', 'order', 'family', 'genus', 'species'), ()))
def test_sintax_round_trips(kind, table):
    letters = {'phylum': 'p', 'class': 'c', 'order': 'o', 'family': 'f', 'genus': 'g', 'species': 's'}
    lines = []
    for row in table.iter_rows(named=True):
        tax = ','.join(f'{l}:{row[r]}' for r, l in letters.items() if row[r])
        head, s = f"{row['processid']};tax={tax};" if tax else row['processid'], row['dna_barcode']
        lines += [f'@{head}', s, '+', 'I'*len(s)] if 'q' in kind else [f'>{head} ', s[:30],
            *([s[30:]] if s[30:] else [])]
    with tempfile.TemporaryDirectory() as d:
        path = Path(d)/f't.{kind}'
        with xopen(path, 'wb', threads=0) as f: f.write(('\n'.join(lines) + '\n').encode())
        assert_frame_equal(scan_barcodes(path).collect(), table)


@settings(max_examples=25, deadline=None)
@given(table=tables(st.text('ab,"\n\r', max_size=6).map(str.strip).map(lambda s: s or None),
    ('genus', 'country')), block=st.integers(60, 300))
def test_blocks_are_cut_between_rows(table, block):
    "Line breaks, commas and quotation marks inside fields, wherever a block happens to end."
    with tempfile.TemporaryDirectory() as d, pytest.MonkeyPatch.context() as m:
        m.setattr(text_tables, 'BLOCK', block)
        write_table(table, path := Path(d)/'t.csv')
        line_ends = pl.col('genus', 'country').str.replace_all('\r', '\n') # of old, but line ends
        assert_frame_equal(pl.concat(read_batches(path)), table.with_columns(line_ends))


@pytest.mark.parametrize('kind', ['fasta', 'fastq', 'parquet', 'csv'])
def test_many_batches(tmp_path, monkeypatch, kind):
    for module in (data, text_tables): monkeypatch.setattr(module, 'ROWS', 7)
    monkeypatch.setattr(text_tables, 'BLOCK', 256)
    table = pl.DataFrame({'processid': [f'P{i}' for i in range(100)],
        'dna_barcode': ['ACGT'*(i % 5 + 1) for i in range(100)]})
    path = tmp_path/f't.{kind}'
    if kind == 'fasta': path.write_text(''.join(f'>{i}\n{s}\n' for i, s in table.rows()))
    elif kind == 'fastq': path.write_text(''.join(f'@{i}\n{s}\n+\n{"I"*len(s)}\n' for i, s in table.rows()))
    else: write_table(table, path)
    assert len(list(read_batches(path))) > 5
    read = scan_barcodes(path)
    assert_frame_equal(read.select(table.columns).collect(), table)
    assert read.select(pl.len()).collect().item() == 100
    some = read.filter(pl.col('dna_barcode') == 'ACGT').select('processid').head(3).collect()
    assert some['processid'].to_list() == ['P0', 'P5', 'P10']
    assert_frame_equal(read.head(33).collect(engine='streaming').select(table.columns), table.head(33))


def test_what_counts_as_nothing(tmp_path):
    (tmp_path/'t.csv').write_text('processid,genus,dna_barcode,coord-lat\n' + ''.join(f'P{i},{m},ACGT,{m}\n'
        for i, m in enumerate(MISSING)))
    read = scan_barcodes(tmp_path/'t.csv').select('genus', 'coord-lat').collect()
    assert read.null_count().row(0) == (len(MISSING),)*2


def test_windows_files(tmp_path):
    rows = b'\xef\xbb\xbfProcessID,Genus,nucleotides\r\nP1,Aedes,ACGT\r\n\r\nP2,no_data,acgu-\r\n'
    (tmp_path/'t.csv').write_bytes(rows)
    read = scan_barcodes(tmp_path/'t.csv').select('processid', 'genus', 'dna_barcode').collect()
    assert read.rows() == [('P1', 'Aedes', 'ACGT'), ('P2', None, 'acgu-')]


# partitions

def test_canada_partitions_come_from_file_names(tmp_path):
    for i, name in enumerate(PARTITION_FILES):
        head = 'processid,nucleotides,genus_name,species_name,bin_uri,order_name,family_name'
        row = f'P{i},ACGT,Aedes,Aedes cinereus,BOLD:AAA{i},Diptera,Culicidae'
        (tmp_path/f'{name}.csv').write_text(f'{head}\n{row}\n')
    (tmp_path/'CanInv_metadata.csv').write_text('processid,nucleotides\nP9,ACGT\n') # the same: not read twice
    (tmp_path/'notes.md').write_text('notes')
    columns = ['split', 'dna_barcode', 'genus', 'species', 'dna_bin', 'order', 'family']
    expected = [(s, 'ACGT', 'Aedes', 'Aedes cinereus', f'BOLD:AAA{i}', 'Diptera', 'Culicidae')
        for i, s in enumerate(PARTITION_FILES.values())]
    assert scan_barcodes(tmp_path).select(columns).collect().rows() == expected
    files = [tmp_path/f'{n}.csv' for n in PARTITION_FILES]
    assert scan_barcodes(files).select(columns).collect().rows() == expected


def test_own_partition_goes_before_the_argument(tmp_path):
    (tmp_path/'unseen.csv').write_text('processid,dna_barcode,split\nP1,ACGT,validation\nP2,ACGT,\n')
    assert scan_barcodes(tmp_path/'unseen.csv').collect()['split'].to_list() == ['val', 'test_unseen']
    read = scan_barcodes(tmp_path/'unseen.csv', split='train').collect()
    assert read['split'].to_list() == ['val', 'train']


def test_known_by_name():
    for path in ('/data/bioscan5m/metadata.zip', 'BIOSCAN_5M_Insect_Dataset_metadata.csv'):
        assert known_dataset(path) == 'BIOSCAN-5M'
    assert known_dataset('/elsewhere/coi_mini.csv.gz') == 'coi_mini' and known_dataset('moths.fasta') is None


# broken files: file, record and fix

TABLE = b'processid,dna_barcode\n' + b''.join(b'P%d,%s\n' % (i, b'ACGT'*(5 + i)) for i in range(40))

def zipped(**files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, content in files.items(): z.writestr(name.replace('_', '.'), content)
    return out.getvalue()

def zstd(content):
    with tempfile.TemporaryDirectory() as d:
        with xopen(f'{d}/x.zst', 'wb', threads=0) as f: f.write(content)
        return Path(d, 'x.zst').read_bytes()

def parquet(content):
    out = io.BytesIO()
    pl.read_csv(content).write_parquet(out)
    return out.getvalue()

BROKEN = {
    'unknown columns': ('t.csv', b'plot,bases\n1,ACGT\n', None,
        'no column processid and no column dna_barcode; the columns found are plot, bases'),
    'no sequences': ('t.tsv', b'processid\tgenus\nP1\tAedes\n', None,
        'no column dna_barcode; the columns found are processid, genus'),
    'empty': ('t.csv', b'', None, 'empty'),
    'empty inside': ('t.fasta.gz', gzip.compress(b''), None, 'empty'),
    'blank': ('t.csv', b'\n\n', None, 'empty'),
    'header only': ('t.csv', b'processid,dna_barcode\n', None, 'no record'),
    'cut-off gzip': ('t.csv.gz', gzip.compress(TABLE)[:-20], None, 'truncated file'),
    'cut-off zstd': ('t.csv.zst', zstd(TABLE)[:-20], None, 'truncated file'),
    'cut-off zip': ('t.zip', zipped(t_csv=TABLE)[:-30], None, ''),
    'cut-off parquet': ('t.parquet', parquet(TABLE)[:-30], None, 'cannot be read'),
    'no parquet': ('t.parquet', b'something else altogether', None, 'neither FASTA nor FASTQ nor a table'),
    'damaged zip': ('t.zip', (b := zipped(t_csv=TABLE))[:60] + b'????' + b[64:], None, 'damaged file'),
    'no text': ('t.csv', bytes(range(256)), None, 'binary data'),
    'ragged': ('t.csv', TABLE + b'P40,ACGT,Finland\n', 'row 41 (P40)', '3 fields'),
    'open quotation mark': ('t.csv', TABLE + b'P41,"ACGT\n' + TABLE, 'row 41 (P41)', 'not DNA (")'),
    'no id': ('t.csv', TABLE + b',ACGT\n', 'row 41', 'no id'),
    'protein': ('t.csv', TABLE + b'COX1,MFINRWLFSTNHKDIGTLY\n', 'row 41 (COX1)',
        'not DNA (FIL)'),
    'protein FASTA': ('t.fasta', b'>P1\nACGT\n>COX1;tax=g:Aedes;\nMFINRWLFSTNHKDIGTLY\n',
        'record 2 (COX1)', 'not DNA (FIL)'),
    'without sequence': ('t.fasta', b'>P1\nACGT\n>P2\n>P3\nACGT\n', 'record 2 (P2)', 'empty record'),
    'last without sequence': ('t.fasta', b'>P1\nACGT\n>P2', 'record 2 (P2)', 'empty record'),
    'no FASTA id': ('t.fasta', b'>P1\nACGT\n>\nACGT\n', 'record 2', 'no id'),
    'cut-off FASTQ': ('t.fastq', b'@P1\nACGT\n+\nIIII\n@P2\nACGT\n+\nII', 'record 2 (P2)', 'quality length'),
    'cut-off FASTA': ('t.fa.gz', gzip.compress(b'>P1\nACGT\n'*9)[:-9], None, 'truncated file'),
}

@pytest.mark.parametrize('case', BROKEN)
def test_broken_file(tmp_path, case):
    name, content, record, message = BROKEN[case]
    (tmp_path/name).write_bytes(content)
    with pytest.raises(InputError) as e: scan_barcodes(tmp_path/name).collect()
    assert str(e.value.file).startswith(str(tmp_path/name)) and e.value.fix and message in e.value.message
    if record: assert e.value.record == record


def test_broken_later_on(tmp_path, monkeypatch):
    "The first block is fine and is passed on; a fault in a later one is named with its row."
    monkeypatch.setattr(text_tables, 'BLOCK', 256)
    (tmp_path/'t.csv').write_bytes(TABLE + b'P40,ACGT,Finland\n')
    table = scan_barcodes(tmp_path/'t.csv')
    for run in (table.collect, lambda: table.collect(engine='streaming'),
        lambda: table.sink_parquet(tmp_path/'t.parquet')):
        with pytest.raises(InputError, match=r'row 41 \(P40\)'): run()


def test_a_broken_record_is_numbered_over_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(data, 'ROWS', 7)
    records = [f'>P{i} of a moth\n' + 'ACGT'*(i != 17) + '\n' for i in range(30)]
    (tmp_path/'t.fasta').write_text(''.join(records))
    batches = read_batches(tmp_path/'t.fasta')
    assert [len(next(batches)) for _ in range(2)] == [7, 7]
    with pytest.raises(InputError, match=r'record 18 \(P17\): empty record'): next(batches)


def test_an_endless_record_stops(tmp_path):
    (tmp_path/'t.fasta').write_bytes(b'>P1\nACGT\n>chr1\n' + b'ACGT'*200_000)
    with pytest.raises(InputError, match=r'record 2 \(chr1\): too long'):
        list(read_batches(tmp_path/'t.fasta'))


# one reader, two policies

BASES = 'ACGTTGCAAC'*8
FASTA = f'>P1;tax=g:A\xebdes;\n{BASES}\n>P2 a moth\n{BASES[:70]}\n'
CSV = f'processid,dna_barcode\nP1,{BASES}\nP2,{BASES[:70]}\n'
SHARED = {
    'byte-order mark': ('t.fasta', b'\xef\xbb\xbf' + FASTA.encode()),
    'blank lines first': ('t.fasta', b'\n \n' + FASTA.encode()),
    'Latin-1': ('t.fasta', FASTA.encode('latin-1')),
    'carriage returns': ('t.fasta', FASTA.replace('\n', '\r').encode()),
    'table with carriage returns': ('t.csv', CSV.replace('\n', '\r').encode()),
    'FASTA called CSV': ('t.csv', FASTA.encode()),
    'zipped FASTA': ('t.zip', zipped(t_fasta=FASTA)),
    'Latin-1 table': ('t.csv', CSV.replace('\n', ',Qu\xe9bec\n').replace('Qu\xe9bec', 'country', 1)
        .encode('latin-1')),
    'zipped table': ('t.fasta', zipped(t_csv=CSV)),
    'Parquet by another name': ('t.pq', parquet(CSV.encode())),
}

@pytest.mark.parametrize('case', SHARED)
def test_both_policies_read_the_same(tmp_path, case):
    name, content = SHARED[case]
    (tmp_path/name).write_bytes(content)
    table = pl.concat(read_batches(tmp_path/name))
    (ids, sequences), = read_sequences(tmp_path/name, faults := Faults())
    assert table['dna_barcode'].to_list() == sequences == [BASES, BASES[:70]]
    assert set(faults.counts) <= {'odd id'}
    assert table['processid'].to_list() == [i.partition(';')[0] for i in ids] == ['P1', 'P2']
    if name == 't.fasta' and 'table' not in case: assert table['genus'].to_list() == ['A\xebdes', None]


def test_a_pipe_is_read(tmp_path):
    import os, threading
    os.mkfifo(pipe := tmp_path/'pipe')
    writer = threading.Thread(target=pipe.write_bytes, args=(gzip.compress(FASTA.encode()),))
    writer.start()
    assert pl.concat(read_batches(pipe))['processid'].to_list() == ['P1', 'P2']
    writer.join()


def test_not_there(tmp_path):
    with pytest.raises(InputError, match='no such file') as e: scan_barcodes(tmp_path/'moths.csv')
    assert e.value.file == tmp_path/'moths.csv' and e.value.fix
    with pytest.raises(InputError, match='no barcode file'): scan_barcodes(tmp_path)


# fetching

def test_download_says_what_to_do_without_network(tmp_path, monkeypatch):
    def offline(*a, **k): raise ConnectionError('no route to host')
    monkeypatch.setattr('huggingface_hub.list_repo_files', offline)
    with pytest.raises(InputError) as e: download('BIOSCAN-5M', tmp_path)
    assert 'BIOSCAN_5M_Insect_Dataset_metadata' in e.value.fix and e.value.file == tmp_path
    with pytest.raises(InputError, match='unseen.csv'): download('canada', tmp_path)
    with pytest.raises(InputError, match='not a data set'): download('imagenet')


def test_download_takes_the_tables(tmp_path, monkeypatch):
    got = []
    files = ['README.md', 'BIOSCAN_5M_cropped_256.zip', 'BIOSCAN_5M_Insect_Dataset_metadata_MultiTypes.zip',
        'BIOSCAN_5M_Insect_bbox.tsv']
    monkeypatch.setattr('huggingface_hub.list_repo_files', lambda repo, repo_type: files)
    fetch = lambda repo, f, repo_type, local_dir: got.append((f, local_dir))
    monkeypatch.setattr('huggingface_hub.hf_hub_download', fetch)
    assert download('bioscan5m', tmp_path) == tmp_path
    assert got == [(files[2], tmp_path)]
