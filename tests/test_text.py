"""Guards for barcodemae.data.text, archives and records: one list of records, however a file is written,
saved, compressed and sent; and no record ever gets the sequence of another."""
import bz2, gzip, io, lzma, os, random, sys, tarfile, threading, types, zipfile

import polars as pl, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from xopen import xopen

from barcodemae.core import InputError
from barcodemae.data import files
from barcodemae.data.faults import Faults, NothingRead
from barcodemae.data.query import read_sequences
from barcodemae.data.read import read_batches
from barcodemae.data.records import fasta_records, fastq_records, plain_sequence
from barcodemae.data.text import plain_text

rng = random.Random(1)
N = 8
COI = [''.join(rng.choices('ACGT', k=rng.randrange(90, 160))) for _ in range(N)]
IDS = [c*3 + str(n)*4 for n, c in enumerate('QXJZLPEO')] # far from one another, none of them bases
FASTA = ''.join(f'>{i} moth\n{s}\n' for i, s in zip(IDS, COI))
FASTQ = ''.join(f'@{i} moth\n{s}\n+\n{"@+I>"*(len(s)//4) + "I"*(len(s) % 4)}\n' for i, s in zip(IDS, COI))
TABLE = 'processid\tgenus\tdna_barcode\n' + ''.join(f'{i}\tAedes\t{s}\n' for i, s in zip(IDS, COI))


def query(path, content=None):
    "Ids and barcodes of a file, and its faults."
    if content is not None: path.write_bytes(content)
    faults, names, barcodes = Faults(), [], []
    for n, b in read_sequences(path, faults):
        names += n
        barcodes += b
    return names, barcodes, faults


def reference(path):
    "Ids and bases of a file read as a reference, cleaned as a reference is."
    frame = pl.concat(read_batches(path, columns=('processid', 'dna_barcode')))
    bases = frame['dna_barcode'].str.to_uppercase().str.replace_all('U', 'T').str.replace_all('[^ACGT]', 'N')
    return frame['processid'].to_list(), bases.str.strip_chars('N').to_list()


# any way to write it

def zst(content):
    with xopen(out := io.BytesIO(), 'wb', threads=0, format='zst') as f: f.write(content)
    return out.getvalue()


def zipped(members):
    with zipfile.ZipFile(out := io.BytesIO(), 'w', zipfile.ZIP_DEFLATED) as z:
        for name, content in members.items(): z.writestr(name, content)
    return out.getvalue()


def tarred(members, kind=''):
    with tarfile.open(fileobj=(out := io.BytesIO()), mode=f'w:{kind}') as t:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            t.addfile(info, io.BytesIO(content))
    return out.getvalue()


def several(pack): # members of gzip, xz, bzip2; frames of zstd
    return lambda c: pack(c[:300]) + pack(c[300:301]) + pack(c[301:])
NOISE = {'README.txt': b'read me', 'LICENSE': b'MIT', 'datapackage.json': b'{}',
    '__MACOSX/._q.fasta': b'\0\5',
    '.DS_Store': b'\0\0\0\1Bud1', 'data/.hidden.csv': b'a,b\n'}
CONTAINERS = {'plain': bytes, 'gzip': gzip.compress, 'bzip2': bz2.compress, 'xz': lzma.compress, 'zstd': zst,
    'gzip of members': several(gzip.compress), 'zstd of frames': several(zst),
        'xz of streams': several(lzma.compress),
    'bzip2 of streams': several(bz2.compress), 'gzip twice': lambda c: gzip.compress(gzip.compress(c)),
    'zip': lambda c: zipped(NOISE | {'data/q.txt': c}),
        'zip of gzip': lambda c: zipped({'q.FASTA.gz': gzip.compress(c)}),
    'qza': lambda c: zipped({'5d-2f/VERSION': b'QIIME 2', '5d-2f/provenance/metadata.tsv': b'a\tb\n',
        '5d-2f/data/dna-sequences.fasta': c}),
    'tar': lambda c: tarred(NOISE | {'bold/q.fas': c}), 'tar.gz': lambda c: tarred(NOISE | {'q.fas': c},
        'gz'),
    'tar.xz': lambda c: tarred({'q.fas': c}, 'xz'),
        'tar.zst': lambda c: zst(tarred(NOISE | {'q.fas.bz2': bz2.compress(c)}))}
SAVED = {'UTF-8': str.encode, 'BOM': lambda t: b'\xef\xbb\xbf' + t.encode(),
    'UTF-16': lambda t: t.encode('utf-16'),
    'UTF-16 big': lambda t: b'\xfe\xff' + t.encode('utf-16-be'),
        'UTF-16 bare': lambda t: t.encode('utf-16-le'),
    'UTF-16 big bare': lambda t: t.encode('utf-16-be'), 'UTF-32': lambda t: t.encode('utf-32'),
    'Windows-1252': lambda t: t.encode('cp1252'), 'zero tail': lambda t: t.encode() + b'\0'*1000,
    'DOS': lambda t: t.encode() + b'\x1a'}


def written(draw, ids, barcodes):
    "FASTA with all the liberties that people take."
    pick = lambda *o: draw(st.sampled_from(o))
    text = pick('', '\n\n', '# made by hand\n', '; a comment > with a mark\n\n \n')
    for i, s in zip(ids, barcodes):
        s = pick(str, str.lower, lambda s: s.replace('T', 'U'))(s)
        width = pick(999, 60, 7)
        lines = [s[k:k + width] for k in range(0, len(s), width)]
        match pick('plain', 'blocks', 'GenBank', 'EMBL', 'star', 'unknown'):
            case 'blocks': lines = [' '.join(line[k:k + 10] for k in range(0, len(line),
                10)) for line in lines]
            case 'GenBank': lines = [f'{width*k + 1:>9} {line}' for k, line in enumerate(lines)]
            case 'EMBL': lines = [f'     {line} {min(len(s), width*(k + 1)):>9}' for k,
                line in enumerate(lines)]
            case 'star': lines[-1] += '*'
            case 'unknown': lines = ['??~~-', *lines, '..?']
        text += f'{pick("", " ", chr(9))}>{pick("", " ")}{i}{pick("", " Åland moth", chr(9) + "x;y")}\n'
        text += '\n'.join([*lines, *pick([], [''], ['# checked twice'], ['', '; Åland'])]) + '\n'
    return text


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_way_to_write_fasta(tmp_path, data):
    "Encoding, line ends, container, wrapping, comments: the same records, as query and as reference."
    text = written(data.draw, IDS, COI)
    ends = data.draw(st.lists(st.sampled_from(['\n', '\r\n', '\r']), min_size=1, max_size=3, unique=True))
    text = ''.join(line + ends[n % len(ends)] for n, line in enumerate(text.split('\n')))
    saved = SAVED[data.draw(st.sampled_from(list(SAVED)))](text)
    size, path = files.SIZE, tmp_path/'q'
    path.write_bytes(CONTAINERS[data.draw(st.sampled_from(list(CONTAINERS)))](saved))
    files.SIZE = data.draw(st.sampled_from([size, 1000, 37]))
    try:
        names, barcodes, faults = query(path)
        assert (names, barcodes, faults.report()) == (IDS, COI, '')
        assert reference(path) == (IDS, COI)
    finally: files.SIZE = size


@pytest.mark.parametrize('container', CONTAINERS)
@pytest.mark.parametrize('content', [FASTA, FASTQ, TABLE], ids=['FASTA', 'FASTQ', 'table'])
def test_containers_from_pipes(tmp_path, monkeypatch, container, content):
    "Standard input and named pipes, for queries and references."
    if container in ('qza', 'zip of gzip') and content is TABLE: return
    packed = CONTAINERS[container](content.encode())
    monkeypatch.setattr(sys, 'stdin', types.SimpleNamespace(buffer=io.BytesIO(packed)))
    assert query('-')[:2] == (IDS, COI)
    os.mkfifo(pipe := tmp_path/'pipe')
    for read in (lambda p: query(p)[:2], reference):
        writer = threading.Thread(target=pipe.write_bytes, args=[packed])
        writer.start()
        assert read(pipe) == (IDS, COI)
        writer.join()


@pytest.mark.parametrize('saved', SAVED)
def test_encodings_of_tables(tmp_path, saved):
    content = TABLE.replace('Aedes', 'Aëdes')
    (tmp_path/'q').write_bytes(SAVED[saved](content.replace('\n', '\r\n')))
    assert query(tmp_path/'q')[:2] == reference(tmp_path/'q') == (IDS, COI)
    genera = pl.concat(read_batches(tmp_path/'q', columns=('genus',)))['genus']
    assert genera.unique().to_list() == ['Aëdes']


def test_one_odd_line_does_not_change_the_others():
    lines = ['Bjørn,é', 'Łódź,1', 'x'*50, 'Ærø,“a”']
    mixed = b'\n'.join([lines[0].encode('cp1252'), lines[1].encode(), lines[2].encode(), lines[3].encode('cp1252')])
    for size in (1, 2, 5, 1000):
        cut = [mixed[i:i + size] for i in range(0, len(mixed), size)]
        assert b''.join(plain_text(iter(cut))).decode().split('\n') == lines


@given(st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0\r\x1a\ufeff'), max_size=80), st.integers(1, 9),
    st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16', 'utf-32']))
@settings(max_examples=300)
def test_text_is_the_same_in_every_encoding(text, size, name):
    saved = text.encode(name)
    cut = [saved[i:i + size] for i in range(0, len(saved), size)]
    found = b''.join(plain_text(iter(cut)))
    assert found.decode() == text


# archives

def test_several_files_of_one_kind(tmp_path):
    fa, fb = FASTA[:FASTA.index('>' + IDS[3])], FASTA[FASTA.index('>' + IDS[3]):]
    for n, packed in enumerate((zipped({'a.fasta': fa.rstrip(), 'notes.txt': 'x', 'b.fna': fb}),
            tarred({'a.fa.gz': gzip.compress(fa.encode()), 'b.fas': fb.encode()}, 'xz'))):
        (tmp_path/f'{n}').write_bytes(packed)
        assert query(tmp_path/f'{n}')[:2] == reference(tmp_path/f'{n}') == (IDS, COI)
    head, *rows = TABLE.splitlines()
    half = lambda o: '\n'.join([head, *o])
    (tmp_path/'t.zip').write_bytes(zipped({'1.tsv': half(rows[:3]), '2.txt': half(rows[3:])}))
    assert query(tmp_path/'t.zip')[:2] == reference(tmp_path/'t.zip') == (IDS, COI)


def test_parquet_wherever_it_comes_from(tmp_path, monkeypatch):
    pl.DataFrame({'processid': IDS, 'nucleotides': COI}).write_parquet(tmp_path/'ref.pq')
    raw = (tmp_path/'ref.pq').read_bytes()
    for n, content in enumerate((raw, gzip.compress(raw), zipped({'BOLD.parquet': raw}),
            tarred({'BOLD.parquet': raw, 'datapackage.json': b'{}'}, 'gz'),
            zipped({'a.parquet': raw}))):
        (tmp_path/f'{n}').write_bytes(content)
        assert query(tmp_path/f'{n}')[:2] == reference(tmp_path/f'{n}') == (IDS, COI)
        monkeypatch.setattr(sys, 'stdin', types.SimpleNamespace(buffer=io.BytesIO(content)))
        assert query('-')[:2] == (IDS, COI)
    (tmp_path/'table.parquet').write_text(TABLE) # its name says nothing
    assert query(tmp_path/'table.parquet')[:2] == (IDS, COI)


def test_archives_that_are_refused(tmp_path):
    def told(content):
        (tmp_path/'x').write_bytes(content)
        with pytest.raises(InputError) as e: query(tmp_path/'x')
        assert e.value.file == tmp_path/'x' and e.value.fix
        return str(e.value)
    assert 'FASTA: a.fasta; table: b.csv' in (text := told(zipped({'a.fasta': FASTA, 'b.csv': TABLE})))
    assert 'a.fasta or b.csv' in text
    assert 'holds photo.jpg' in told(tarred({'photo.jpg': b'x'}))
    assert 'Excel' in told(zipped({'[Content_Types].xml': 'x', 'xl/workbook.xml': 'x'}))
    encrypted = bytearray(zipped({'a.fasta': FASTA}))
    for mark, at in ((b'PK\3\4', 6), (b'PK\1\2', 8)): encrypted[encrypted.index(mark) + at] |= 1
    assert 'a.fasta is encrypted' in told(bytes(encrypted))


MANY = [f'M{i}' for i in range(2000)]
LONG, MORE = (''.join(f'>{i}\n{"".join(rng.choices("ACGT", k=150))}\n' for i in MANY).encode() for _ in range(2))


@pytest.mark.parametrize('pack', ['zip', 'tar', 'tar.gz', 'tar.xz', 'tar.zst'])
def test_archives_that_are_cut_off(tmp_path, pack):
    "What came before the end is read; the end is told once."
    members = {'README.md': b'read me', 'a.fasta': LONG, 'b.fasta': MORE.replace(b'>M', b'>L')}
    packed = {'zip': zipped, 'tar': tarred, 'tar.gz': lambda m: tarred(m, 'gz'), 'tar.xz': lambda m: tarred(m, 'xz'),
        'tar.zst': lambda m: zst(tarred(m))}[pack](members)
    whole = MANY + [i.replace('M', 'L') for i in MANY]
    seen = 0
    for share in (.3, .45, .7, .95):
        names, _, faults = query(tmp_path/'q', packed[:int(len(packed)*share)])
        assert faults.counts == {'truncated file': 1} and names == whole[:len(names)]
        assert seen <= len(names) < len(whole)
        seen = len(names)
    assert seen > 2000


def test_a_damaged_zip_is_told(tmp_path):
    packed = bytearray(zipped({'a.fasta': LONG}))
    packed[len(packed)//2] ^= 255
    names, _, faults = query(tmp_path/'q', bytes(packed))
    assert set(faults.counts) & {'damaged file', 'truncated file'} and 100 < len(names) < 2000
    with pytest.raises(InputError): list(read_sequences(tmp_path/'q', Faults(strict=True)))


# records

def test_joined_files():
    "Both records are there, or both are named."
    end = lambda s: [(h, s, f and f[0]) for h, s, _, f in fasta_records([s])]
    assert end(b'>A1\nACGT>B2 moth\nGGTT\n>C3\nAA') == [(b'A1', b'ACGT', None), (b'B2 moth', b'GGTT', None),
        (b'C3', b'AA', None)]
    assert end(b'>A1\nAC>B2\nGG>C3\nTT') == [(b'A1', b'AC', None), (b'B2', b'GG', None), (b'C3', b'TT', None)]
    assert end(b'>A1\nACGT>ACT\nGGTT\n') == [(b'A1', b'', 'joined records'), (b'ACT', b'', 'joined records')]
    assert end(b'>A1\nACGT>ACT\n>B2\nAA') == [(b'A1', b'ACGT>ACT', None), (b'B2', b'AA', None)] # a wrong base
    assert end(b'>A1\nAC' + b'x>q\n'*5000)[-1] == (b'q', b'', None)


def test_joined_records_are_counted(tmp_path):
    names, _, faults = query(tmp_path/'q', FASTA.replace('\n>' + IDS[3] + ' moth', '>ACT').encode())
    assert faults.counts == {'joined records': 2} and names == [i for n, i in enumerate(IDS) if n not in (2, 3)]


@pytest.mark.parametrize('raw, bases', {
    'ACGT*': 'ACGT', 'AC?GT~~': 'ACNGTNN', '1 ACGT\n5 AC': 'ACGTAC', '61 ACGT\n65 AC': 'ACGTAC', '1 ACGT': 'ACGT',
    'ACGT 4': 'ACGT', 'ACGT 4\nAC 6\n//': 'ACGTAC', '  1 ac gt\n  5 ac': 'acgtac', '# x\n\nACGT': 'ACGT',
    'ACGT\n;x': 'ACGT', 'A\tC G\vT': 'ACGT', 'ac-g.t': 'ac-g.t'}.items())
def test_plain_sequences(raw, bases): assert plain_sequence(raw.encode()) == bases.encode()


@pytest.mark.parametrize('raw', ['2 ACGT', 'ACGT 5', '1 ACGT\n6 AC', 'ACGT1\nAC', 'AC*GT', 'ACGT\n# x\nACGT',
    'ACGT\n#ACGTACGTACGT', '5 ACGT\nACGT'])
def test_what_may_be_an_error_stays(raw):
    assert plain_sequence(raw.encode()).translate(None, b'ACGTN')


def test_fastq_of_all_kinds(tmp_path):
    wrap = lambda s, n: '\n'.join(s[k:k + n] for k in range(0, len(s), n))
    for n in (7, 60, 80):
        text = ''.join(f'@{i}\n{wrap(s, n)}\n+{i}\n{wrap("@"*len(s), n)}\n' for i, s in zip(IDS, COI))
        names, barcodes, faults = query(tmp_path/'q', text.encode())
        assert (names, barcodes, faults.report()) == (IDS, COI, '')
    pairs = ''.join(f'@{i} {m}:N:0:ACGT\n{s}\n+\n{"I"*len(s)}\n' for i, s in zip(IDS, COI) for m in '12')
    names, barcodes, faults = query(tmp_path/'q', pairs.encode())
    assert names == [f'{i}/{m}' for i in IDS for m in '12'] and not faults.counts
    single = pairs.replace(' 2:N', ' 1:N')
    assert query(tmp_path/'q', single.encode())[2].counts == {'repeated id': N}
    older = pairs.replace(' 1:N:0:ACGT', '/1').replace(' 2:N:0:ACGT', '/2')
    assert query(tmp_path/'q', older.encode())[0] == names


def test_lost_reads_are_counted(tmp_path):
    "Ten reads without their line +: ten are counted."
    names, _, faults = query(tmp_path/'q', (FASTQ.replace('\n+\n', '\n') + FASTQ.replace('moth', 'again')).encode())
    assert faults.counts == {'broken FASTQ': N} and names == IDS


# no record gets what is another's

def owner(barcode, k=16):
    "Numbers of the sequences that share k bases in a row with a barcode."
    parts = {barcode[i:i + k] for i in range(len(barcode) - k + 1)}
    return {n for n, s in enumerate(COI) if any(s[i:i + k] in parts for i in range(len(s) - k + 1))}


def wrapped(text, n=50):
    head, *records = text.split('>')
    return head + ''.join('>' + r.split('\n')[0] + '\n' + '\n'.join(s[k:k + n] for s in r.split('\n')[1:]
        for k in range(0, len(s), n)) + '\n' for r in records)


SEEDS = {'FASTA': FASTA, 'wrapped FASTA': wrapped(FASTA), 'FASTQ': FASTQ,
    'comments': '# x\n' + FASTA.replace('\n>', '\n# next\n>').replace('moth\n', 'moth\n; this one\n')}


@pytest.mark.parametrize('kind', SEEDS)
def test_no_byte_gives_a_record_the_sequence_of_another(tmp_path, kind):
    """A byte that is no mark of a header, changed, removed or put in: each answered id has its own sequence, but
    for the bases that were touched, and all others are there. One byte in three, which take long enough."""
    content, local = SEEDS[kind].encode(), random.Random(2)
    for at in range(local.randrange(3), len(content), 3):
        if content[at:at + 1] in (b'>', b'@'): continue # the header is gone: its record goes to the one before
        for out in (bytes([local.choice(b'AG@>#;+*?5 \t\r\n\0\xe9"x,')]), b'', content[at:at + 1] + local.choice(
                [b'>', b'\n', b'@', b'\0', b'\r', b'#'])):
            path = tmp_path/'q'
            path.write_bytes(content[:at] + out + content[at + 1:])
            try: names, barcodes, faults = query(path)
            except InputError: continue
            lost = sum(n for k, n in faults.counts.items() if k not in ('odd id', 'repeated id'))
            for name, barcode in zip(names, barcodes):
                if name in IDS: assert owner(barcode) <= {IDS.index(name)}, (at, out, name)
            assert len(set(names) & set(IDS)) >= N - 2 and len(names) + lost >= N - 1, (at, out)


@pytest.mark.parametrize('content', [FASTA, FASTQ], ids=['FASTA', 'FASTQ'])
def test_a_wrong_first_character_costs_one_record(tmp_path, content):
    names, _, faults = query(tmp_path/'q', b'x' + content[1:].encode())
    assert names == IDS[1:] and sum(faults.counts.values()) == 1


def test_nothing_read_is_an_input_error():
    assert issubclass(NothingRead, InputError)
