"Forms of tables, where they go, and what is left when a run ends: each form is read back as its reader would."
import csv, io, itertools, json, os, subprocess, sys, threading, time, warnings, weakref
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st
from tqdm import tqdm
from xopen import xopen

from barcodemae import cli
from barcodemae.core import InputError
from barcodemae.data.faults import NothingRead
from barcodemae.data.noise import reverse_complement
from barcodemae.identification import commands, output
from barcodemae.identification.cluster import check_grouping, group_barcodes
from barcodemae.identification.exchange import spart
from barcodemae.identification.formats import COMPRESSED, FORMS, output_format
from barcodemae.identification.model import Model
from barcodemae.identification.output import Job, Reading, write_answers
from barcodemae.identification.pieces import open_pieces, piece_files, pieces_folder, write_piece
from barcodemae.identification.sink import check_output, is_stream, write_table

ANY = dict(query=['=1+1', '+', 'a\tb\r\nc', 'q"u"', '-5', 'ü  ,', '@x', "it's"], identity=[99.5, None, 1., 2., 3., 4., 5., 6.],
           species=['', 'A b', '', '-c', '', '', '', ''], strand=['+', '-'] * 4)
TABLE = pl.DataFrame(ANY)


def written(path, format=None, table=TABLE, about=None):
    format = output_format(path, format, 'names')
    write_table([table[:3].lazy(), table[3:3].lazy(), table[3:].lazy()], path, format, about)
    return path


def lengths(names, barcodes): return pl.DataFrame(dict(query=names, barcode=barcodes, bases=list(map(len, barcodes))))

SCHEMA = dict(query=pl.String, barcode=pl.String, bases=pl.Int64)

def measuring(answer=lengths, **more): return Job('measuring', answer, SCHEMA, key={}, **more)

def dna(seed, n=100): return ''.join(np.random.default_rng(seed).choice(list('ACGT'), n))


# forms

def cells(path, separator):
    with xopen(path, 'rt', newline='') as file: return list(csv.reader(file, delimiter=separator))


@pytest.mark.parametrize('packed', ['', *COMPRESSED, '.GZ'])
def test_tables_are_what_their_names_say(tmp_path, packed):
    header, *rows = cells(written(tmp_path/f'hits.tsv{packed}'), '\t')
    assert header == list(ANY) and [r[0] for r in rows] == [q.translate({9: 32, 10: 32, 13: 32}) for q in ANY['query']]
    assert rows[0][1:] == ['99.5', '', '+'] and rows[1] == ['+', '', 'A b', '-'] and all(len(r) == 4 for r in rows)
    header, *rows = cells(written(tmp_path/f'hits.csv{packed}'), ',')
    assert [r[0] for r in rows] == ["'=1+1", '+', 'a b  c', 'q"u"', '-5', 'ü  ,', "'@x", "it's"]
    assert rows[3][2] == "'-c" and {r[3] for r in rows} == {'+', '-'}      # a sign alone runs nothing
    with xopen(written(tmp_path/f'hits.json{packed}')) as file: found = json.load(file)
    with xopen(written(tmp_path/f'hits.JSONL{packed}')) as file: lines = [json.loads(line) for line in file]
    assert found == lines and [o['query'] for o in found] == ANY['query']
    assert found[0]['species'] is None and found[1]['identity'] is None


def test_parquet_and_excel(tmp_path):
    found = pl.read_parquet(written(tmp_path/'hits.PARQUET'))
    assert found['query'].to_list() == ANY['query'] and found['species'].null_count() == 6
    assert found.schema == TABLE.schema
    for name in ('hits.parquet.gz', 'hits.xlsx.zst'):
        with pytest.raises(InputError, match='compressed in itself'): output_format(name, None)
    for out in ('-', '/dev/stdout'):
        with pytest.raises(InputError, match='goes into a file'): commands.check_format(out, 'parquet')
    if not commands.find_spec('xlsxwriter'):
        with pytest.raises(InputError, match=r'pip install "barcodemae\[excel\]"'): output_format('hits.xlsx', None)


def test_excel_keeps_texts_and_numbers(tmp_path):
    pytest.importorskip('xlsxwriter')
    import zipfile
    book = zipfile.ZipFile(written(tmp_path/'hits.xlsx'))
    sheet, texts = (book.read(f'xl/{name}.xml').decode() for name in ('worksheets/sheet1', 'sharedStrings'))
    assert '<f>' not in sheet and '>=1+1<' in texts and '<v>99.5</v>' in sheet
    write_table([TABLE.lazy()], tmp_path/'few.xlsx', 'xlsx')
    from barcodemae.identification import formats
    formats.MOST_ROWS, most = 8, formats.MOST_ROWS
    try:
        with pytest.raises(InputError, match='but a sheet has'): write_table([TABLE.lazy()], tmp_path/'few.xlsx', 'xlsx')
    finally: formats.MOST_ROWS = most


def test_endings_that_say_nothing_are_refused_and_contradictions_told(tmp_path):
    for name in ('hits.xls', 'hits.html', 'hits.2024', 'hits.png.gz'):
        with pytest.raises(InputError, match='unknown ending .*--format'): output_format(name, None)
        assert output_format(name, 'csv') == 'csv'
    assert [output_format(n, None) for n in ('hits', 'hits.gz', None, '-', '.tsv', 'a.b/hits')] == ['tsv'] * 6
    with pytest.raises(InputError, match='no such format'): output_format('hits', 'pdf')
    with pytest.raises(InputError, match='holds names'): output_format('hits', 'qiime2')
    with pytest.raises(InputError, match='holds clusters'): output_format('hits.spart', None, 'names')
    with pytest.warns(UserWarning, match='the name says csv, the content is json'):
        write_answers([dna(0)], measuring(), tmp_path/'hits.csv', Reading('json'), quiet=True)
    assert json.loads((tmp_path/'hits.csv').read_text())[0]['bases'] == 100


NAMES = pl.DataFrame(dict(query=['a', 'b\t"', 'c'], best_hit=['R1', 'R2', ''], identity=[99.5, 90., None],
    overlap=[658, 600, 0], bin=['BOLD:AAA0001', '', ''], strand=['+', '-', '+'],
    phylum=['Arthropoda', 'Arthropoda', ''], phylum_confidence=[1., .95, None],
    family=['Noctuidae', '', ''], family_confidence=[.999, None, None],
    species=['Nova ficta', 'Alba; (x)', ''], species_confidence=[.994, .2, None],
    taxon=['Nova ficta', 'Arthropoda', ''], rank=['species', 'phylum', ''],
    ambiguous=['', 'Alba; Nova', ''], flags=['', 'short', 'off_target'], sequence=['ACGT', 'AAAA', 'CCCC']))
ANIMALS = dict(kingdoms={'Arthropoda': 'Animalia'})


def test_qiime2(tmp_path):
    header, *rows = cells(written(tmp_path/'taxonomy.tsv', 'qiime2', NAMES, ANIMALS), '\t')
    assert header == ['Feature ID', 'Taxon', 'Confidence']
    assert rows == [['a', 'k__Animalia; p__Arthropoda; c__; o__; f__Noctuidae; g__; s__Nova_ficta', '0.994'],
                    ['b "', 'k__Animalia; p__Arthropoda', '0.95'], ['c', 'Unassigned', '']]
    untold = cells(written(tmp_path/'untold', 'qiime2', NAMES), '\t') # by a reference without kingdoms
    assert untold[1][1].startswith('k__; p__Arthropoda')


def test_sintax(tmp_path):
    rows = cells(written(tmp_path/'hits.sintax', 'sintax', NAMES, ANIMALS), '\t')
    assert rows[0] == ['a', 'k:Animalia(1.00),p:Arthropoda(1.00),f:Noctuidae(1.00),s:Nova_ficta(0.99)', '+',
                       'k:Animalia,p:Arthropoda,f:Noctuidae,s:Nova_ficta']
    assert rows[1] == ['b "', 'k:Animalia(0.95),p:Arthropoda(0.95),s:Alba_x_(0.20)', '-', 'k:Animalia,p:Arthropoda']
    assert rows[2] == ['c', '', '+', ''] and len(rows) == 3


def test_darwin_core(tmp_path):
    table = written(tmp_path/'occurrence.txt', 'dwc', NAMES, dict(reference='moths', program='barcodemae 1'))
    header, *rows = cells(table, '\t')
    a, b, c = (dict(zip(header, row)) for row in rows)
    assert a['scientificName'] == 'Nova ficta' and a['specificEpithet'] == 'ficta' and a['taxonRank'] == 'species'
    assert 'confidence 0.99 (species); identity 99.5 % in 658 bases; best match R1; BIN BOLD:AAA0001' == a['identificationRemarks']
    assert b['scientificName'] == 'Arthropoda' and b['family'] == b['specificEpithet'] == '' and 'short' in b['identificationRemarks']
    assert c['scientificName'] == 'incertae sedis' and c['kingdom'] == c['taxonRank'] == ''
    assert [o['DNA_sequence'] for o in (a, b, c)] == ['ACGT', 'AAAA', 'CCCC'] and a['otu_db'] == 'moths'


def test_spart_names_individuals_once():
    table = pl.DataFrame(dict(query=['a-1', 'a.1', 'a_1', 'ü', 'a_1_2'], cluster=[2, 1, 1, 3, 1]))
    text = spart(table, dict(project='my data', method='[x]'))
    body = text[text.index('Individual_assignment'):text.index(';\n\nend;')].splitlines()[1:]
    names, groups = zip(*(line.split(' : ') for line in body))
    assert len(set(names)) == 5 and all(n.isascii() and n.replace('_', 'a').isalnum() for n in names)
    assert groups == ('2', '1', '1', '3', '1') and 'N_individuals = 5;' in text and 'N_subsets = 3;' in text
    assert text.startswith('begin spart;') and 'Project_name = my_data;' in text and text.count('[') == text.count(']')


# any id

@settings(max_examples=60)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=9), st.sampled_from(['tsv', 'csv', 'json', 'jsonl', 'parquet']))
def test_every_id_keeps_its_barcode(tmp_path_factory, ids, form):
    out = tmp_path_factory.mktemp('any')/f'hits.{form}'
    asked = {f'{i}{name}': dna(i) for i, name in enumerate(ids)} | {name: dna(100 + i) for i, name in enumerate(ids)}
    write_answers(asked, measuring(), out, quiet=True, batch=4)
    if form in ('tsv', 'csv'):
        lines = out.read_text(encoding='utf-8').split('\n')
        header, *rows = csv.reader(io.StringIO(out.read_text(encoding='utf-8')), delimiter='\t' if form == 'tsv' else ',')
        assert len(lines) == len(asked) + 2 and lines[-1] == ''            # a line is a row
        if form == 'tsv': assert {line.count('\t') for line in lines[:-1]} == {2}
        assert header == list(SCHEMA) and {len(row) for row in rows} == {3}
        assert [row[1] for row in rows] == list(asked.values()) and {row[2] for row in rows} == {'100'}
        if form == 'csv': assert not any(row[0][:1] in '=@' and row[0][1:] for row in rows)
        return
    rows = (json.loads(out.read_text()) if form == 'json' else pl.read_parquet(out).to_dicts() if form == 'parquet'
            else [json.loads(line) for line in out.read_text(encoding='utf-8').strip('\n').split('\n')])
    assert [(o['query'] or '', o['barcode']) for o in rows] == list(asked.items())


# where answers go

def fasta(path, n=30):
    path.write_text(''.join(f'>q{i}\n{dna(i)}\n' for i in range(n)))
    return path


def test_links_stay_and_pipes_are_written_to(tmp_path):
    query = fasta(tmp_path/'q.fasta')
    (tmp_path/'folder').mkdir()
    (tmp_path/'folder/target.tsv').write_text('old')
    (tmp_path/'link.tsv').symlink_to('folder/target.tsv')
    (tmp_path/'new.tsv.gz').symlink_to('folder/new')                       # its target is made
    for name in ('link.tsv', 'new.tsv.gz'):
        write_answers(query, measuring(), tmp_path/name, quiet=True)
        assert (tmp_path/name).is_symlink() and len(cells(tmp_path/name, '\t')) == 31
    assert (tmp_path/'folder/target.tsv').read_text().startswith('query\t')
    os.mkfifo(tmp_path/'fifo')
    got = []
    def reads(): got.append((tmp_path/'fifo').read_text())
    for query in (query, fasta(tmp_path/'empty.fasta', 0)):                # the reader's end comes in both cases
        reader = threading.Thread(target=reads, daemon=True)
        reader.start()
        try: write_answers(query, measuring(), tmp_path/'fifo', quiet=True, batch=10)
        except NothingRead: got.append('nothing')
        reader.join(10)
        assert not reader.is_alive()
    assert got[0].count('\n') == 31 and sorted(got[1:]) == ['', 'nothing'] and is_stream(tmp_path/'fifo')
    assert not [p for p in tmp_path.rglob('.*')]


def test_standard_output_by_its_other_names(tmp_path):
    code = ('from pathlib import Path; from barcodemae.identification.sink import write_table; import polars as pl, sys\n'
            'write_table([pl.LazyFrame(dict(a=[1, 2]))], sys.argv[1], "csv")')
    (tmp_path/'link').symlink_to('/dev/stdout')
    for name in ('/dev/stdout', '/dev/fd/1', '/proc/self/fd/1', str(tmp_path/'link')):
        done = subprocess.run([sys.executable, '-c', code, name], capture_output=True, text=True, check=True)
        assert done.stdout == 'a\n1\n2\n', name
        with open(tmp_path/'out', 'w') as file:                            # a file that is open already goes on
            file.write('before\n'); file.flush()
            subprocess.run([sys.executable, '-c', code, name], stdout=file, check=True)
        assert (tmp_path/'out').read_text() == 'before\na\n1\n2\n', name
    write_table([TABLE.lazy()], '/dev/null', 'tsv')
    assert Path('/dev/null').is_char_device()


def test_the_input_is_no_output(tmp_path, monkeypatch):
    query, folder = fasta(tmp_path/'q.fasta'), tmp_path/'reference'
    folder.mkdir()
    (folder/'labels.arrow').write_text('x')
    (tmp_path/'link.fasta').symlink_to('q.fasta')
    os.link(query, tmp_path/'hard.fasta')
    (tmp_path/'into').symlink_to('reference')
    for out in ('q.fasta', 'link.fasta', 'hard.fasta', 'reference/labels.arrow', 'into/new.tsv', 'reference/a/b.tsv'):
        with pytest.raises(InputError, match='that is read'): check_output(tmp_path/out, query, folder)
    for out in (folder, f'{tmp_path}/nowhere/', '', '.'):
        with pytest.raises(InputError, match='this is a folder'): check_output(out, query)
    with pytest.raises(InputError, match='no folder'): check_output(query/'hits.tsv')
    check_output(tmp_path/'reference2/hits.tsv', query, folder, None, ['ACGT'])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='that is read'): check_output('q.fasta', query)
    monkeypatch.setattr(os, 'access', lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(InputError, match='nothing may be written'): check_output('hits.tsv')
    monkeypatch.setattr(os, 'access', lambda path, mode: Path(path) != query)
    with pytest.raises(InputError, match='read-only'): check_output('q.fasta')


@pytest.mark.parametrize('name', ['y' * 246 + '.tsv', 'ü' * 120 + '.tsv.gz', 'two\nlines', ' b (1).csv'])
def test_names_of_any_length(tmp_path, name):
    write_answers(fasta(tmp_path/'q.fasta'), measuring(), tmp_path/name, quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(['q.fasta', name])
    assert len(cells(tmp_path/name, ',' if 'csv' in name else '\t')) == 31


# what is left

def test_two_runs_do_not_mix(tmp_path):
    query, out = fasta(tmp_path/'q.fasta'), tmp_path/'hits.tsv'
    begun, go = threading.Event(), threading.Event()
    def slow(names, barcodes):
        begun.set()
        assert go.wait(30)
        return lengths(names, barcodes)
    first = threading.Thread(target=write_answers, args=(query, measuring(slow), out), kwargs=dict(quiet=True, batch=10))
    first.start()
    assert begun.wait(30)
    with pytest.raises(InputError, match='another run is writing this file'):
        write_answers(fasta(tmp_path/'other.fasta', 3), measuring(), out, quiet=True)
    write_answers(query, measuring(), tmp_path/'else.tsv', quiet=True)
    go.set()
    first.join(60)
    assert out.read_text() == (tmp_path/'else.tsv').read_text() and len(cells(out, '\t')) == 31
    write_answers(tmp_path/'other.fasta', measuring(), out, quiet=True)
    assert len(cells(out, '\t')) == 4 and not list(tmp_path.glob('.*'))


def ahead(answer, batches): # as several workers ask: six batches are read before the first is answered
    first = list(itertools.islice(batches, 6))
    for batch in itertools.chain(first, batches): yield answer(*batch)


@pytest.mark.parametrize('ask', [itertools.starmap, ahead])
def test_the_bar_counts_what_is_answered_and_the_time_left_what_this_run_did(tmp_path, monkeypatch, ask):
    n, size = 12 * 4096, 111 + 9 # bytes of a record
    query = tmp_path/'many.fasta'
    bases = dna(0, n + 110)
    query.write_text(''.join(f'>q{i:06}\n{bases[i:i + 110]}\n' for i in range(n)))
    bars, answered = [], []
    def progress(**options): return bars.append(tqdm(disable=False, file=io.StringIO(), **options)) or bars[-1]
    monkeypatch.setattr(output, 'progress', lambda quiet, unit, desc, **o: progress(**o))
    def answer(names, barcodes):
        assert bars[-1].n <= len(answered) * 4096 * size + 2**20 # what is read ahead
        if len(answered) == 2 and len(bars) == 1: raise KeyboardInterrupt
        answered.append(len(names))
        return lengths(names, barcodes)
    with pytest.raises(KeyboardInterrupt): write_answers(query, measuring(answer), tmp_path/'out.tsv', ask=ask)
    assert bars[0].initial == 0 and bars[0].n >= 2 * 4096 * size
    read, start = output.read_queries, time.time()
    monkeypatch.setattr(output, 'read_queries', lambda *a, **options: time.sleep(.3) or read(*a, **options))
    write_answers(query, measuring(answer), tmp_path/'out.tsv', ask=ask)
    assert bars[1].format_dict['elapsed'] < time.time() - start - .25 # what was answered before counts for nothing
    assert bars[1].miniters == 0 and bars[1].total == query.stat().st_size
    assert sum(answered) == n and bars[1].n == query.stat().st_size
    assert abs(bars[1].initial - 2 * 4096 * size) < 2**20


def test_pieces_are_opened_one_after_the_other(tmp_path, monkeypatch):
    opened, most, scan = [], [], pl.scan_parquet
    def counted(path):
        opened.append(weakref.ref(frame := scan(path)))
        most.append(sum(ref() is not None for ref in opened))
        return frame
    monkeypatch.setattr(output.pl, 'scan_parquet', counted)
    write_answers(fasta(tmp_path/'q.fasta'), measuring(), tmp_path/'hits.tsv', quiet=True, batch=2)
    assert len(most) == 15 and max(most) <= 2


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 6), max_size=25), st.integers(1, 30))
def test_equal_sequences_of_a_batch_are_asked_once_and_all_answered(seeds, batch):
    asked = []
    def hits(names, barcodes): # as many rows a query as its seed, none for the first
        asked.append(barcodes)
        n = [KNOWN.index(b) for b in barcodes]
        hit = [f'{i}.{j}' for i in n for j in range(i)]
        return pl.DataFrame(dict(query=np.repeat(np.array(names, object), n).tolist(), hit=hit), schema=SCHEMA)
    KNOWN, SCHEMA = [dna(i) for i in range(7)], dict(query=pl.String, hit=pl.String)
    names = [f'q{i}' for i in range(len(seeds))] # a dict: ids in order
    found = write_answers({q: KNOWN[i] for q, i in zip(names, seeds)}, Job('asking', hits, SCHEMA, {}),
                          quiet=True, batch=batch)
    assert found.rows() == [(q, f'{i}.{j}') for q, i in zip(names, seeds) for j in range(i)]
    assert sum(map(len, asked)) == sum(len(set(seeds[i:i + batch])) for i in range(0, len(seeds), batch))


@pytest.mark.parametrize('error, kept', [(KeyboardInterrupt(), True), (OSError(5, 'device'), True),
    (MemoryError(), True), (InputError('bad'), False)])
def test_what_cannot_resume_leaves_nothing(tmp_path, error, kept):
    query, out, calls = fasta(tmp_path/'q.fasta'), tmp_path/'hits.tsv', []
    def fails(names, barcodes):
        calls.append(names)
        if len(calls) == 2: raise error
        return lengths(names, barcodes)
    out.write_text('old')
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        with pytest.raises(type(error)): write_answers(query, measuring(fails), out, quiet=True, batch=10)
    assert any('the same command resumes' in str(w.message) for w in said) == kept
    assert pieces_folder(out).exists() == kept and out.read_text() == 'old'
    write_answers(query, measuring(fails), out, quiet=True, batch=10)
    assert len(calls) == (4 if kept else 5) and len(cells(out, '\t')) == 31 and not list(tmp_path.glob('.*'))


def test_nothing_read_has_its_own_status(tmp_path, capsys, monkeypatch):
    (tmp_path/'bad.fasta').write_text('>a\nMKVLLE\n')
    (tmp_path/'empty.fasta').write_text('')
    old = tmp_path/'hits.tsv'
    old.write_text('old')
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(b'')))
    for query in ('bad.fasta', 'empty.fasta'):
        for command, out in dict(embed='hits.tsv', cluster='hits.tsv', plot='map.html').items():
            if command == 'plot' and not (commands.find_spec('openTSNE') and commands.find_spec('plotly')): continue
            assert cli.main([command, str(tmp_path/query), '-o', str(tmp_path/out), '--quiet']) == 3
            assert 'no record could be read' in capsys.readouterr().err
    assert cli.main(['embed', '-', '--quiet']) == 3 and capsys.readouterr().out == ''
    assert old.read_text() == 'old' and len(list(tmp_path.iterdir())) == 3
    assert issubclass(NothingRead, InputError) and '3 no record could be read' in cli.STATUS
    with pytest.raises(NothingRead): write_answers(tmp_path/'bad.fasta', measuring(), quiet=True)
    assert len(write_answers([], measuring(), quiet=True)) == 0            # a list may be empty


# clusters

@pytest.fixture(scope='module')
def model(): return Model()


def species(model, n): # barcodes that differ from each other at about a tenth of their columns
    rng, out = np.random.default_rng(3), []
    base = np.array(list(model.consensus.replace('N', 'A')[:660]))
    for _ in range(n):
        changed = base.copy()
        where = rng.choice(len(base), 60, replace=False)
        changed[where] = rng.choice(list('ACGT'), 60)
        out.append(''.join(changed))
    return out


def test_copies_with_gaps_and_of_the_other_strand_are_one_group(model):
    asked, groups = {}, {}
    for s, b in enumerate(species(model, 4)):
        copies = dict(same=b, deletion=b[:200] + b[201:], insertion=b[:350] + 'G' + b[350:], codon=b[:300] + b[303:],
                      both=b[:150] + b[151:400] + 'T' + b[400:], late=b[80:])
        copies |= {f'-{name}': reverse_complement(c) for name, c in copies.items()}
        asked |= {f'{s}{name}': c for name, c in copies.items()}
    found = commands.cluster(asked, model=model, quiet=True)
    for name, group in found.select('query', 'cluster').iter_rows(): groups.setdefault(name[0], set()).add(group)
    assert all(len(g) == 1 for g in groups.values()) and len(set.union(*groups.values())) == 4, groups
    minus = found['query'].str.slice(1, 1) == '-'
    assert ((found['strand'] == '-') == minus).all()


def test_copies_are_never_torn_apart(model):
    a, b, c = species(model, 3)
    asked = [a] * 40 + [b] * 20 + [reverse_complement(a)] * 5 + [c]
    for number in (1, 2, 3):
        found = commands.cluster(asked, number=number, model=model, quiet=True)
        assert found['cluster'].n_unique() == number and (found['cluster'][:40] == found['cluster'][0]).all()
        assert (found['cluster'][60:65] == found['cluster'][0]).all()
    with pytest.raises(InputError, match='4 groups of 3 different barcodes'):
        commands.cluster(asked, number=4, model=model, quiet=True)


@pytest.mark.parametrize('options', [('--number', '0'), ('--number=-2',), ('--distance=-1',), ('--distance', 'nan'),
    ('--distance', '250'), ('--distance', 'inf')])
def test_nonsense_is_refused_before_anything_is_read(options, capsys):
    assert cli.main(['cluster', 'no such file', *options, '--quiet']) == 1
    said = capsys.readouterr().err
    assert 'no such file' not in said and options[0][2:8] in said and 'Fix: give' in said


@pytest.mark.parametrize('number, distance', [(2.5, 2), (True, 2), ('3', 2), (None, '2'), (None, None), (None, True)])
def test_nonsense_in_python(number, distance):
    with pytest.raises(InputError): check_grouping(number, distance)


def test_species_partitions_by_ending_and_format(model, tmp_path):
    query = tmp_path/'moths.fasta'
    query.write_text(''.join(f'>m-{i}\n{b}\n' for i, b in enumerate(species(model, 3) * 2)))
    commands.cluster(query, tmp_path/'moths.spart', model=model, quiet=True)
    text = (tmp_path/'moths.spart').read_text()
    assert 'Project_name = moths;' in text and 'single linkage at 2.2 %' in text and text.count(' : ') == 7
    assert 'm_0 : 1\n' in text and 'm_3 : 1\n' in text
    commands.cluster(query, tmp_path/'again', number=2, model=model, format='spart', quiet=True)
    assert "2 groups by Ward's method" in (tmp_path/'again').read_text()
    with pytest.raises(InputError, match='identify'): commands.cluster(query, tmp_path/'x', model=model, format='qiime2')


def test_maps_are_pages(tmp_path):
    pytest.importorskip('openTSNE'); pytest.importorskip('plotly')
    for out in ('hits.png', 'hits', 'map.html.gz', '-', '/dev/stdout'):
        with pytest.raises(InputError, match='ends in .html'): commands.plot('nowhere.fasta', out)


# help

@pytest.mark.parametrize('command', list(cli.EXAMPLES))
def test_help_shows_the_forms_by_an_example(command, capsys):
    with pytest.raises(SystemExit): cli.main([command, '--help'])
    said = capsys.readouterr().out
    assert f'barcodemae {command} ' in said and 'Exit status: 0' in said
    for form, about in FORMS.items():
        if command == 'identify' and form != 'spart': assert form in said
    if command in ('identify', 'cluster', 'embed'): assert all(packed in said for packed in COMPRESSED)


def test_wrong_options_show_the_usage_of_their_command(capsys):
    with pytest.raises(SystemExit) as end: cli.main(['cluster', 'q.fasta', '--cutof', '3'])
    said = capsys.readouterr().err
    assert end.value.code == 2 and 'usage: barcodemae cluster' in said and 'unrecognized arguments: --cutof 3' in said


# the user's own table

def test_the_table_that_was_asked_comes_back_with_answers(tmp_path):
    table = tmp_path/'asv.tsv'
    table.write_text('ASV_ID\tsequence\tlake\tsize\n' + ''.join(f'A{i};size={i}\t{dna(i)}\t{i}\t=x\n' for i in range(20)))
    for out in ('named.tsv', 'named.csv', 'named.parquet'):
        write_answers(table, measuring(), tmp_path/out, Reading(keep_columns=True), quiet=True, batch=7)
    header, *rows = cells(tmp_path/'named.tsv', '\t')
    assert header[:4] == ['ASV_ID', 'sequence', 'lake', 'size'] and header[-1] == 'bases'
    assert [r[0] for r in rows] == [f'A{i};size={i}' for i in range(20)] and all(r[1] == r[5] for r in rows)
    assert {r[3] for r in cells(tmp_path/'named.csv', ',')[1:]} == {"'=x"}
    with pytest.raises(InputError, match='columns of its own'):
        write_answers(table, measuring(holds='names'), tmp_path/'x', Reading('sintax', keep_columns=True), quiet=True)


def test_what_is_no_table_has_no_columns_to_keep(tmp_path):
    for query in (fasta(tmp_path/'q.fasta'), [dna(0)]):
        with pytest.raises(InputError, match='no columns to keep'):
            write_answers(query, measuring(), None, Reading(keep_columns=True), quiet=True)


def test_disks_without_locks_are_written_to(tmp_path, monkeypatch):
    from barcodemae.identification import pieces
    def acquire(self): raise NotImplementedError
    monkeypatch.setattr(pieces.FileLock, 'acquire', acquire)
    write_answers(fasta(tmp_path/'q.fasta'), measuring(), tmp_path/'hits.tsv', quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['hits.tsv', 'q.fasta']


def test_what_a_killed_run_was_writing_is_no_piece(tmp_path):
    with open_pieces(tmp_path/'hits.tsv', {}, True) as folder:
        write_piece(folder, 0, pl.DataFrame(dict(query=['a'])))
        (folder/'.tmp-0123-00000001.parquet').write_bytes(b'half')
        assert [p.name for p in piece_files(folder)] == ['00000000.parquet']
