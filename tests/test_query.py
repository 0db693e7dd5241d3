"""Guards for barcodemae.data.query: what can be read is read, what cannot is named, memory stays small, no
file breaks it."""
import bz2, gzip, io, lzma, random, sys, tracemalloc, types, warnings
import zipfile

import polars as pl, pytest
from hypothesis import given, settings, strategies as st
from xopen import xopen

from barcodemae.data import files, text
from barcodemae.core import InputError
from barcodemae.data.faults import FAULTS, KEPT, LONGEST, Faults
from barcodemae.data.query import clean_sequence, read_sequences

rng = random.Random(0)
COI = [''.join(rng.choices('ACGT', k=120)) for _ in range(12)]
IDS = [f'FIN{i}' for i in range(12)]


def fasta(ids=IDS, barcodes=COI, end='\n'):
    return ''.join(f'>{i} COI{end}{b[:70]}{end}{b[70:]}{end}' for i, b in zip(ids, barcodes)).encode()
def fastq(ids=IDS, barcodes=COI, end='\n'):
    return ''.join(f'@{i} run{end}{b}{end}+{end}{"@I"*(len(b)//2)}{end}'
        for i, b in zip(ids, barcodes)).encode()
def table(sep=',', n=12):
    return '\n'.join([f'processid{sep}genus{sep}dna_barcode'] + [f'{i}{sep}Aedes{sep}{b}'
        for i, b in zip(IDS[:n], COI)]).encode()


def zstd(content):
    with xopen(out := io.BytesIO(), 'wb', threads=0, format='zst') as f: f.write(content)
    return out.getvalue()


def read(path, content=None, **more):
    "Ids, barcodes and faults of a file."
    if content is not None: path.write_bytes(content)
    faults, names, barcodes = Faults(), [], []
    for n, b in read_sequences(path, faults, **more):
        assert len(n) == len(b) > 0
        names += n
        barcodes += b
    return names, barcodes, faults


def check(path, content, kind, record=None, detail=None, names=None):
    "One fault of this kind, told with its record; the other records are given; strict stops there."
    found, barcodes, faults = read(path, content)
    assert faults.counts == {kind: 1}
    file, where, what = faults.first[kind][0]
    assert file == path and (record is None or record in where) and (detail is None or detail in what)
    assert found == (names if names is not None else [i for i in IDS if f'({i})' not in (record or '')])
    assert faults.given == len(found) and all(b in COI for b in barcodes)
    report = faults.report()
    assert kind in report and FAULTS[kind] in report and (record or '') in report
    with pytest.raises(InputError) as e: list(read_sequences(path, Faults(strict=True)))
    assert e.value.file == path and kind in e.value.message and e.value.fix == FAULTS[kind]


# every good file

GOOD = {'fasta': fasta(), 'fastq': fastq(), 'csv': table(), 'tsv': table('\t')}
PACKERS = {'plain': bytes, 'gzip': gzip.compress,
    'bgzip': lambda c: gzip.compress(c[:500]) + gzip.compress(c[500:]), 'zstd': zstd,
    'bzip2': bz2.compress, 'xz': lzma.compress}


@pytest.mark.parametrize('kind', GOOD)
@pytest.mark.parametrize('packer', PACKERS)
@pytest.mark.parametrize('stdin', [False, True])
def test_formats_are_judged_by_content(tmp_path, monkeypatch, kind, packer, stdin):
    content = PACKERS[packer](GOOD[kind])
    monkeypatch.setattr(sys, 'stdin', types.SimpleNamespace(buffer=Slow(content)))
    names, barcodes, faults = read('-') if stdin else read(tmp_path/'query.txt', content)
    assert (names, barcodes, faults.report()) == (IDS, COI, '')


class Slow(io.BytesIO):
    "A pipe that gives less than was asked for."
    def peek(self, n=0): return b''
    def read(self, n=-1): return super().read(min(n, 3) if n > 0 else n)


def test_parquet_and_zip(tmp_path, monkeypatch):
    pl.DataFrame({'processid': IDS, 'nucleotides': COI}).write_parquet(tmp_path/'query')
    assert read(tmp_path/'query')[:2] == (IDS, COI)
    with zipfile.ZipFile(tmp_path/'zipped', 'w') as z: z.writestr('t.csv', table())
    assert read(tmp_path/'zipped')[:2] == (IDS, COI)
    monkeypatch.setattr(sys, 'stdin',
        types.SimpleNamespace(buffer=io.BytesIO((tmp_path/'query').read_bytes())))
    assert read('-')[:2] == (IDS, COI)


# what is no fault

@pytest.mark.parametrize('kind', [fasta, fastq])
@pytest.mark.parametrize('end', ['\r\n', '\r', '\n\n', ' \t\n', '\r\n\n\r'])
def test_line_ends(tmp_path, kind, end):
    assert read(tmp_path/'q', kind(end=end))[:2] == (IDS, COI)
    assert not read(tmp_path/'q', b'\xef\xbb\xbf\n\n' + kind(end=end) + b'\r \n\n')[2].counts


@pytest.mark.parametrize('size', [16, 64, 100, 1000])
@pytest.mark.parametrize('kind', GOOD)
def test_pieces_end_anywhere(tmp_path, monkeypatch, size, kind):
    monkeypatch.setattr(files, 'SIZE', size)
    content = GOOD[kind].replace(b'\n', b'\r\n')
    assert read(tmp_path/'q', content)[:2] == (IDS, COI)
    assert read(tmp_path/'q', gzip.compress(content))[:2] == (IDS, COI)


def test_a_line_end_may_lie_between_pieces(monkeypatch):
    monkeypatch.setattr(files, 'SIZE', 8)
    content = b'a\r\nbc\r\nd\re\n\r\r\nfgh\r\n\nij\r'
    for i in range(9):
        padded = b'x'*i + content
        found = text._plain_ends(files._read(io.BytesIO(padded)))
        assert b''.join(found).decode() == '\n'.join(padded.decode().splitlines()) + '\n'


@given(st.text('ACGTNRYSWKMBDHV', max_size=130), st.integers(1, 12), st.randoms(use_true_random=False),
    st.sampled_from(['', '*', '**\n']))
@settings(max_examples=200)
def test_one_sequence(letters, times, rng, end):
    "Against the rules, letter by letter."
    ways = (str, str.lower, '{}-'.format, '.{}'.format, '{}\r\n'.format, ' {}'.format,
        lambda c: c.replace('T', 'U'), lambda c: c.lower().replace('t', 'u'))
    letters = (letters or 'A')*times
    raw = ''.join(rng.choice(ways)(c) for c in letters) + end
    seen = [c for c in raw.upper().replace('U', 'T') if c not in ' \r\n*'] # a gap is a base that is not known
    plain = ''.join(c if c in 'ACGT' else 'N' for c in seen).strip('N')
    barcode, kind, _ = clean_sequence(raw.encode())
    short = len(plain) - plain.count('N') < 60
    expected = 'too long' if len(plain) > LONGEST else 'too short' if short else None
    assert (barcode, kind) == ('' if expected else plain, expected)


def test_bounds():
    kinds = {n: clean_sequence(b'N'*500 + b'A'*n)[1] for n in (0, 59, 60, 660, 661, 25_000, 25_001)}
    assert kinds == {0: 'too short', 59: 'too short', 60: None, 660: None, 661: None, 25_000: None,
        25_001: 'too long'}
    assert len(clean_sequence(b'A'*900)[0]) == 900
    for c in range(256): # every other letter is told
        kind = clean_sequence(b'A'*80 + bytes([c]) + b'A')[1]
        assert kind == (None if chr(c) in 'ACGTUNRYSWKMBDHVacgtunryswkmbdhv-.?~ \t\n\r\v\f' else 'binary data'
            if c < 32 or c == 127 else
            'not ASCII' if c > 127 else 'not DNA')


# faults

def replaced(old, new, content=None):
    content = fasta() if content is None else content
    return content.replace(old.encode() if isinstance(old, str) else old, new)
def body(i): return f'{COI[i][:70]}\n{COI[i][70:]}\n'

RECORDS = {
    'protein': (replaced(body(3), b'MFINRWLFSTNHKDIGTLYLIFGAWAGMVGTSLSLLIRAELGHPGSLIGDDQIYNVIV*\n'),
        'not DNA', 'record 4 (FIN3)', 'EFILPQ'),
    'stop inside': (replaced(body(3), COI[0].encode() + b'*ACGT\n'), 'not DNA', 'record 4 (FIN3)', '*'),
    'empty': (replaced(body(3), b''), 'empty record', 'record 4 (FIN3)'),
    'only gaps': (replaced(body(3), b'---\n...\n'), 'empty record', 'record 4 (FIN3)'),
    'empty at the end': (replaced(body(11), b''), 'empty record', 'record 12 (FIN11)'),
    'genome': (replaced(body(3), b'ACGT'*7000 + b'\n'), 'too long', 'record 4 (FIN3)', '28,000'),
    'chromosome': (replaced(body(3), b'ACGTACGTAC\n'*200_000), 'too long', 'record 4 (FIN3)', 'about 2,'),
    'fragment': (replaced(body(3), b'ACGTACGTAC'*4 + b'\n'), 'too short', 'record 4 (FIN3)', '40 bases'),
    'mostly N': (replaced(body(3), b'ACGTA' + b'N'*600 + b'ACGTA\n'), 'too short', 'record 4 (FIN3)',
        '10 bases'),
    'no-break space': (replaced(body(3), COI[3].encode() + '\xa0\n'.encode()), 'not ASCII', 'record 4 (FIN3)',
        'xa0'),
    'Latin-1': (replaced(body(3), COI[3].encode() + b'\xe9\n'), 'not ASCII', 'record 4 (FIN3)', 'xe9'),
    'junk': (replaced(body(3), COI[3].encode() + bytes(range(256)).replace(b'>', b'') + b'\n'), 'binary data',
        'record 4 (FIN3)'),
    'junk in the id': (replaced('>FIN3 ', b'>FIN3\0\1 '), 'odd id', 'record 4 (FIN3^@^A)', None,
        [*IDS[:3], 'FIN3^@^A', *IDS[4:]]),
    'no-break space in the id': (replaced('>FIN3 ', '>FIN\xa03 '.encode()), 'odd id', 'record 4 (FIN_3)', None,
        [*IDS[:3], 'FIN_3', *IDS[4:]]),
    'no id': (replaced('>FIN3 COI', b'>'), 'no id', 'record 4', None, [*IDS[:3], *IDS[4:]]),
    'repeated': (replaced('>FIN3 ', b'>FIN1 '), 'repeated id', 'FIN1', None, [*IDS[:3], 'FIN1', *IDS[4:]]),
    'umlaut': (replaced('>FIN3 ', '>Fü3 '.encode()), 'odd id', 'record 4 (Fü3)', None,
        [*IDS[:3], 'Fü3', *IDS[4:]]),
    'Latin-1 umlaut': (replaced('>FIN3 ', b'>F\xfc3 '), 'odd id', 'record 4 (Fü3)', None,
        [*IDS[:3], 'Fü3', *IDS[4:]]),
    'endless id': (replaced('>FIN3 ', b'>' + b'F'*5000 + b' '), 'odd id', 'record 4 (FFFF', None,
        [*IDS[:3], 'F'*1000, *IDS[4:]]),
    'text before': (b'Dear all,\nhere they are:\n' + fasta(), 'text before the first record', 'Dear all'),
    'quality length': (replaced(fastq(IDS[3:4], COI[3:4]), f'@FIN3\n{COI[3]}\n+\nIII\n'.encode(), fastq()),
        'quality length', 'record 4 (FIN3)', '3 qualities, 120 bases'),
    'quality begins with @': (replaced(fastq(IDS[3:4], COI[3:4]), f'@FIN3\n{COI[3]}\n+\n@II\n'.encode(),
        fastq()), 'quality length', 'record 4 (FIN3)'),
    'no quality line': (replaced(fastq(IDS[3:4], COI[3:4]), f'@FIN3\n{COI[3]}\n+\n'.encode(), fastq()),
        'quality length', 'record 4 (FIN3)'),
    'last quality': (fastq()[:-10], 'quality length', 'record 12 (FIN11)'),
    'wrapped FASTQ': (replaced(fastq(IDS[3:4], COI[3:4]),
        f'@FIN3\n{COI[3][:60]}\n{COI[3][60:]}\n+\n{"I"*60}\n{"I"*59}\n'.encode(), fastq()), 'broken FASTQ',
        'record 4 (FIN3)'),
    'a comment that may be a header': (replaced(body(3), COI[3].encode() + b'\n#FIN99 COI\n' + COI[0].encode()
        + b'\n'), 'not DNA', 'record 4 (FIN3)', '#'),
    'wrong position': (replaced(body(3), f'1 {COI[3][:60]}\n62 {COI[3][60:]}\n'.encode()), 'not DNA',
        'record 4 (FIN3)', '126'),
    'empty FASTQ record': (replaced(fastq(IDS[3:4], COI[3:4]), b'@FIN3\n\n+\n\n', fastq()), 'empty record',
        'record 4 (FIN3)'),
    'FASTQ without id': (replaced('@FIN3 run', b'@', fastq()), 'no id', 'record 4', None,
        [*IDS[:3], *IDS[4:]]),
    'protein in a table': (replaced(COI[3], b'MFINRWLFSTNHKDIG', table()), 'not DNA', 'record 4 (FIN3)'),
    'row without id': (replaced('FIN3,', b',', table()), 'no id', 'record 4', None, [*IDS[:3], *IDS[4:]]),
    'row with a stray comma': (replaced('FIN3,Aedes', b'FIN3,Oulu, Finland', table()), 'ragged row',
        'record 4 (FIN3)'),
    'row without barcode': (replaced(COI[3], b'None', table()), 'empty record', 'record 4 (FIN3)'),
    'empty file': (b'', 'empty file', None, None, []),
    'blank file': (b'\xef\xbb\xbf \r\n\r\n', 'empty file', None, None, []),
    'packed nothing': (gzip.compress(b''), 'empty file', None, None, []),
    'only a header': (b'processid,dna_barcode\n', 'empty file', None, None, []),
    'picture': (b'\x89PNG\r\n\x1a\n' + bytes(range(256))*9, 'binary data', None, None, []),
    'packed junk': (gzip.compress(bytes(range(256))*9), 'binary data', None, None, []),
    'gzip of two bytes': (b'\x1f\x8b', 'truncated file', 'beginning', None, []),
}


@pytest.mark.parametrize('case', RECORDS)
def test_faults(tmp_path, case):
    content, kind, record, detail, names = (*RECORDS[case], *[None]*3)[:5]
    if case == 'text before': record, detail = None, record
    check(tmp_path/'q', content, kind, record, detail, names=names)


def test_every_kind_is_tried(): # the last of them in test_styles.py
    assert {case[1] for case in RECORDS.values()} | {'damaged file', 'joined records', 'no COI gene'} == set(FAULTS)
    assert set(KEPT) < set(FAULTS)


def test_gaps_in_a_table_are_no_fault(tmp_path):
    content = table().replace(b'\nFIN3,Aedes', b'\n\n,,\n FIN3 ,\xc5land')
    assert read(tmp_path/'q.csv', content)[:2] == (IDS, COI) and not read(tmp_path/'q.csv')[2].counts


# packed files that end too early

@pytest.mark.parametrize('packer', ['gzip', 'zstd', 'xz'])
@pytest.mark.parametrize('kind', ['fasta', 'fastq', 'csv'])
def test_all_before_the_cut(tmp_path, packer, kind):
    "What an unpacker in smallest steps has of the file, whole records of it; and not one more."
    ids, barcodes = [f'M{i}' for i in range(3000)], [''.join(rng.choices('ACGT', k=300)) for _ in range(3000)]
    content = {'fasta': fasta(ids, barcodes), 'fastq': fastq(ids, barcodes),
        'csv': b'processid,dna_barcode\n' + b''.join(f'{i},{b}\n'.encode()
        for i, b in zip(ids, barcodes))}[kind]
    packed = PACKERS[packer](content)
    for cut in (len(packed)//3, len(packed)//2, len(packed) - 5):
        names, found, faults = read(tmp_path/'q', packed[:cut])
        assert faults.counts == {'truncated file': 1}
        assert (names, found) == (ids[:len(names)], barcodes[:len(names)])
        assert f'after record {len(names)} ({names[-1]})' == faults.first['truncated file'][0][1]
        if packer == 'gzip':
            unpacked = content[:unpacked_by_hand(packed[:cut])]
            whole = {'fasta': unpacked.count(b'>') - 1, 'fastq': unpacked.count(b'\n')//4,
                'csv': unpacked.count(b'\n') - 1}[kind]
            assert len(names) == whole > 500


def unpacked_by_hand(packed):
    import zlib
    unpacker = zlib.decompressobj(31)
    return len(unpacker.decompress(packed))


def test_damaged_in_the_middle(tmp_path):
    content = gzip.compress(fasta([f'M{i}' for i in range(3000)], COI*250), 1)
    middle = len(content)//2
    names, _, faults = read(tmp_path/'q', content[:middle] + b'\xff'*64 + content[middle:])
    assert set(faults.counts) & {'damaged file', 'truncated file'}
    assert names[:100] == [f'M{i}' for i in range(100)]
    names, _, faults = read(tmp_path/'q', gzip.compress(fasta()) + b'not packed')
    assert faults.counts == {'damaged file': 1} and names == IDS[:-1]


# what cannot go on

def test_errors_name_file_and_fix(tmp_path, monkeypatch):
    def told(path, content=None):
        with pytest.raises(InputError) as e: read(path, content)
        assert e.value.file and e.value.fix
        return str(e.value)
    assert 'no such file' in told(tmp_path/'absent.fasta') and 'folder' in told(tmp_path)
    assert 'no such file' in told(tmp_path/'absent/x')
    assert 'cannot be opened' in told('a\0b') and 'cannot be opened' in told('~nobody-here/x.fasta')
    assert 'columns found are plot, bases' in told(tmp_path/'q', b'plot,bases\nFIN1,ACGT\n')
    assert 'neither FASTA nor FASTQ nor a table' in told(tmp_path/'q', COI[0].encode())
    assert 'cannot be read' in told(tmp_path/'q', b'PAR1 no parquet')
    def denied(*_): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr('builtins.open', denied)
    assert 'may not be read' in told(tmp_path/'q')


def test_a_failing_disk_is_no_fault_of_the_file(monkeypatch):
    class Failing(io.BytesIO):
        def read(self, n=-1): return super().read(1000) or self.fail()
        def fail(self): raise OSError(5, 'Input/output error')
    for content in (fasta(), gzip.compress(fasta()*20)):
        monkeypatch.setattr(sys, 'stdin', types.SimpleNamespace(buffer=Failing(content)))
        with pytest.raises(InputError, match='standard input.*Input/output error'): read('-')


# batches, progress, going on

@pytest.mark.parametrize('batch', [1, 5, 12, 100])
@pytest.mark.parametrize('skip', [0, 1, 7, 12, 99])
def test_batches_and_skip(tmp_path, batch, skip):
    content = fasta().replace(COI[3].encode()[:70], b'').replace(b'>FIN9', b'>FIN1') # FIN3: only 50 bases
    ids = [*IDS[:3], *IDS[4:9], 'FIN1', *IDS[10:]]
    (tmp_path/'q').write_bytes(content)
    batches = [n for n, _ in read_sequences(tmp_path/'q', Faults(), batch=batch, skip=skip)]
    assert [i for n in batches for i in n] == ids[skip:] and all(len(n) == batch for n in batches[:-1])
    names, _, faults = read(tmp_path/'q', batch=batch, skip=skip)
    assert faults.counts == {'too short': 1, 'repeated id': 1} and faults.given == 11


def test_repeats_far_apart(tmp_path):
    ids = [f'M{i}' for i in range(9000)]
    names, _, faults = read(tmp_path/'q', fasta([*ids, 'M5', 'M8999', 'M9000'], COI*751), batch=64)
    assert faults.counts == {'repeated id': 2}
    assert [r for _, r, _ in faults.first['repeated id']] == ['M5', 'M8999'] and len(names) == 9003
    assert read(tmp_path/'q', batch=64, skip=8990)[0] == names[8990:]


def test_progress_in_packed_bytes(tmp_path):
    for name, content in dict(a=fasta(), b=gzip.compress(fasta()*30), c=table()).items():
        told = []
        read(tmp_path/name, content, done=told.append)
        assert told == sorted(told) and told[-1] == len(content)
    pl.DataFrame({'processid': IDS, 'dna_barcode': COI}).write_parquet(tmp_path/'p')
    read(tmp_path/'p', done=told.append)
    assert told[-1] == (tmp_path/'p').stat().st_size


def test_without_faults_there_is_a_warning(tmp_path):
    (tmp_path/'q').write_bytes(b'hello\n' + fasta())
    with pytest.warns(UserWarning, match='text before the first record'): list(read_sequences(tmp_path/'q'))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        (tmp_path/'q').write_bytes(fasta())
        list(read_sequences(tmp_path/'q'))


def test_one_report_for_several_files(tmp_path):
    faults = Faults()
    for name in 'ab':
        (tmp_path/name).write_bytes(b''.join(b'>F%d\nACGT\n' % i for i in range(5)))
        list(read_sequences(tmp_path/name, faults))
    assert faults.counts == {'too short': 10} and len(faults.first['too short']) == 3
    report = faults.report()
    assert f'{tmp_path/"a"}: record 1 (F0): 4 bases' in report or report.count('record 1 (F0)') == 1


# memory

class Stream(io.RawIOBase):
    "Standard input made as it is read: `head`, then `n` times `piece`."
    def __init__(self, head, piece, n): self.head, self.piece, self.n, self.given = head, piece, n, 0
    def read(self, size=-1):
        if self.head: out, self.head = self.head, b''
        elif self.n: out, self.n = self.piece, self.n - 1
        else: return b''
        self.given += len(out)
        return out


LINE = b'ACGT'*16 + b'\n'
STREAMS = {
    'one line': (b'>chr1\n', LINE[:-1]*4000, 800, 'too long'),
    'wrapped': (b'>chr1\n', LINE*4000, 800, 'too long'),
    'no line end in the header': (b'>chr1', b'x'*256_000, 800, 'too long'),
    'FASTQ': (b'@read1\n', LINE[:-1]*4000, 800, 'broken FASTQ'),
    'FASTQ of stray lines': (b'@read1\n', LINE*1000 + LINE[:-1]*3000 + b'\n', 100, 'broken FASTQ'),
    'records': (b'', b''.join(b'>F%d\n%s\n' % (i, b'ACGTAACCGT'*65) for i in range(400)), 160, 'repeated id'),
    'text before': (b'>', b'>'[:0] + b'no mark here '*20_000 + b'\n', 800, 'too long'),
}


@pytest.mark.parametrize('case', STREAMS)
def test_memory_stays_small(monkeypatch, case):
    "200 MB through a pipe, or 25 to 45 MB of many small pieces, in less than 16 MB."
    head, piece, n, kind = STREAMS[case]
    monkeypatch.setattr(sys, 'stdin', types.SimpleNamespace(buffer=(stream := Stream(head, piece, n))))
    faults = Faults()
    tracemalloc.start()
    try:
        given = sum(len(names) for names, _ in read_sequences('-', faults))
        peak = tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()
    assert stream.given == len(head) + n*len(piece) > 25e6 and set(faults.counts) == {kind} and peak < 16e6
    assert given == (64_000 if kind == 'repeated id' else 0)


# any file at all

def mutated(content, rng):
    "`content` with a few bytes changed, cut out, put in or doubled."
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not out: break
        i, n = rng.randrange(len(out)), rng.choice((1, 1, 2, 8, 100))
        match rng.randrange(7):
            case 0: out[i] ^= 1 << rng.randrange(8)
            case 1: out[i] = rng.randrange(256)
            case 2: del out[i:i + n]
            case 3: del out[i:]
            case 4: out[i:i] = rng.randbytes(n)
            case 5: out[i:i] = out[i:i + n]
            case 6: out[i:i] = rng.choice((b'>', b'@', b'\n', b'\r', b'\n>', b'+', b'"', b',', b'\0',
                b'\xef\xbb\xbf', b'*', b'\n@x\nACGT\n+\n', b'\xff'*4))
    return bytes(out)


def test_no_file_breaks_it(tmp_path, monkeypatch):
    "10,000 mutated files give barcodes, faults or `InputError`, and nothing else."
    monkeypatch.setattr(files, 'SIZE', 1024) # several pieces a file
    rng, path = random.Random(0), tmp_path/'q'
    seeds = [p(c) for p in (bytes, gzip.compress, zstd) for c in (fasta(IDS[:6]), fastq(IDS[:6]), table(n=6))]
    seeds += [fasta(), fastq(), gzip.compress(fasta()), zstd(fastq()), bz2.compress(fasta()),
        lzma.compress(fastq())]*2 # fewer tables: they take longest
    outcomes = {'clean': 0, 'faults': 0, 'InputError': 0}
    kinds, barcodes = set(), 0
    for i in range(10_000):
        path.write_bytes(content := mutated(seeds[i % len(seeds)], rng))
        faults = Faults(strict=i % 10 == 9)
        try:
            for names, found in read_sequences(path, faults):
                assert all(n and n.isprintable() for n in names)
                assert all(60 <= len(b) <= LONGEST and not b.strip('ACGTN') and b == b.strip('N')
                    for b in found)
                barcodes += len(found)
            outcomes['faults' if faults.counts else 'clean'] += 1
        except InputError as e:
            assert e.file == path and e.fix, content
            outcomes['InputError'] += 1
        kinds |= set(faults.counts)
        faults.report()
    assert min(outcomes.values()) > 200 and barcodes > 20_000 and len(kinds) > 10, (outcomes, barcodes, kinds)
