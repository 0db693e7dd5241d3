"""Files that were damaged on their way: no traceback, and no record gets another's name or sequence.

10,000 damaged references and 10,000 damaged queries: BARCODEMAE_FUZZ=10000 pytest tests/test_fuzz.py"""
import bz2, gzip, io, lzma, os, random, warnings, zipfile

import polars as pl
import pytest

from barcodemae.core import InputError
from barcodemae.data.faults import Faults
from barcodemae.data.labelled import LabelReport, Labelling, read_labelled
from barcodemae.data.query import read_sequences

TRIES = int(os.environ.get('BARCODEMAE_FUZZ', 240)) # damaged files of each kind
RANKS = ('kingdom', 'phylum', 'class', 'order', 'family', 'genus', 'species')
RECORDS = 12


def some_records(rng, n=RECORDS):
    "Records of which no two share a name below the order, or a stretch of their sequences."
    def syllables(k): return ''.join(rng.choice('bdfglmnprst') + rng.choice('aeiou') for _ in range(k))
    found = []
    for i in range(n):
        genus = f'{syllables(3)}{"bdfglmnprst"[i % 11]}us'.capitalize()
        names = ('Animalia', 'Arthropoda', 'Insecta', syllables(3).capitalize() + 'ptera',
                 syllables(3).capitalize() + 'idae', genus, f'{genus} {syllables(3)}tus')
        about = dict(id=f'QX{i:03d}-{rng.randrange(90) + 10}', bin=f'BOLD:ACE{1000 + 7*i}', taxid=1000 + 10*i)
        barcode = ''.join(rng.choice('ACGT') for _ in range(rng.randrange(150, 400)))
        found.append(about | dict(zip(RANKS, names)) | dict(barcode=barcode))
    return found


def wrapped(barcode, width=60):
    return '\n'.join(barcode[i:i + width] for i in range(0, len(barcode), width))


def fasta(header): # a style whose record is a header line
    return lambda records: ''.join(f'>{header(r)}\n{wrapped(r["barcode"])}\n' for r in records)


def table(sep, columns, head=True): # a style of rows; columns: name -> value of a record
    def write(records):
        lines = [sep.join(columns)] * head
        return '\n'.join(lines + [sep.join(str(f(r)) for f in columns.values()) for r in records]) + '\n'
    return write


def of(name): return lambda r: r[name]
def lineage(r, sep, pattern): return sep.join(pattern.format(x[0], r[x], x) for x in RANKS)


OWN = dict(processid=of('id'), **{x: of(x) for x in RANKS[1:]}, dna_bin=of('bin'), dna_barcode=of('barcode'))
BCDM = dict(processid=of('id'), sampleid=of('id'), bin_uri=of('bin'), **{x: of(x) for x in RANKS},
            identified_by=lambda r: 'Some "nick" Body', nuc=of('barcode'), marker_code=lambda r: 'COI-5P',
            country=lambda r: 'None')
BOLD4 = dict(processid=of('id'), bin_uri=of('bin'), **{f'{x}_name': of(x) for x in RANKS[1:]},
             collectors=lambda r: "O'Hara", markercode=lambda r: 'COI-5P', nucleotides=of('barcode'))
CRABS = dict(id=of('id'), name=of('species'), taxid=of('taxid'), **{x: of(x) for x in RANKS},
             barcode=of('barcode'))
UNNAMED = {'crabs'}
STYLES = { # name -> records to text
    'sintax': fasta(lambda r: f'{r["id"]};tax=' + lineage(r, ',', '{0}:{1}').replace('k:', 'd:') + ';'),
    'sintax with size': fasta(lambda r: f'{r["id"]};size=12;tax=' + lineage(r, ',', '{0}:{1}')),
    'bold pipes': fasta(lambda r: f'{r["id"]}|{r["species"]}|COI-5P|HQ{r["taxid"]}33'),
    'bold lineage': fasta(lambda r: f'{r["id"]}|COI-5P|Chile|' + lineage(r, ',', '{1}')),
    'midori': fasta(lambda r: f'{r["id"]}.1.<1.>690\troot_1;Eukaryota_2759;' + lineage(r, ';', '{1}_77')),
    'rdp': fasta(lambda r: f'{r["id"]} cellularOrganisms;Eukaryota_2759;' + lineage(r, ';', '{1}_77')),
    'qiime in header': fasta(lambda r: f'{r["id"]}|' + lineage(r, ';', '{0}__{1}')),
    'dada2 species': fasta(lambda r: f'{r["id"]} {r["species"]}'),
    'genbank': fasta(lambda r: f'{r["id"]}.1 {r["species"]} voucher X cytochrome c oxidase subunit I (COI) gene'),
    'own csv': table(',', OWN), 'own tsv': table('\t', OWN), 'semicolons': table(';', OWN),
    'bcdm': table('\t', BCDM), 'bold 4': table('\t', BOLD4), 'crabs': table('\t', CRABS, head=False)}


def fastq(records):
    return ''.join(f'@{r["id"]}\n{r["barcode"]}\n+\n{"I" * len(r["barcode"])}\n' for r in records)


QUERIES = {
    'fasta': fasta(of('id')), 'fasta size': fasta(lambda r: f'{r["id"]};size=3;'), 'fastq': fastq,
    'csv': table(',', dict(id=of('id'), note=lambda r: 'a "b" c', sequence=of('barcode'))),
    'tsv': table('\t', dict(sequence=of('barcode'), note=lambda r: '2" long', processid=of('id'))),
    'asv': table('\t', dict(ASV_ID=of('id'), sequence=of('barcode'), s1=lambda r: 3, s2=lambda r: 0))}
ODD = ['"', "'", '\n', '\r', '\t', ',', ';', '|', '>', '@', '+', '\x00', '\ufeff', '\u00a0', '\u00e9', ' ', '#', '=',
       '\\', '""', '\n\n', '>\n', 'NA', '-', '*', '?', '\x1a', '\u2028', '\U0001f41b']


def damage(rng, data):
    "The same bytes with one to three accidents."
    for _ in range(rng.randrange(1, 4)):
        i = rng.randrange(len(data) + 1)
        lines = data.splitlines(keepends=True) or [b'']
        one = rng.randrange(len(lines))
        what = rng.randrange(10)
        if what == 0:
            data = data[:i] + rng.choice(ODD).encode() + data[i:]
        elif what == 1:
            data = data[:i] + data[i + rng.randrange(1, 4):]
        elif what == 2:
            data = data[:i] + bytes([rng.randrange(256)]) + data[i + 1:]
        elif what == 3:
            data = data[:i] if rng.random() < .5 else data[i:] # cut short
        elif what == 4 and b'>' not in lines[one][:3]: # without its header a sequence is the record's before
            data = b''.join(lines[:one] + lines[one + 1:])
        elif what == 5:
            data = b''.join(lines[:one] + [lines[one]] * 2 + lines[one + 1:])
        elif what == 6:
            data = data.replace(b'\n', rng.choice([b'\r\n', b'\r', b'\n\n']))
        elif what == 7:
            data = data.decode('utf-8', 'replace').encode(rng.choice(['utf-16', 'utf-8-sig', 'utf-16-le']))
        elif what == 8:
            data = data[:i] + data[i:i + 40][::-1] + data[i + 40:]
        else:
            data = data[:i].rstrip(b'\n') + data[i:].lstrip(b'\n') + b'\x00' * rng.randrange(3)
    return data


def packed(rng, data):
    how = rng.randrange(12)
    if how == 0:
        data = gzip.compress(data)
    elif how == 1:
        data = bz2.compress(data)
    elif how == 2:
        data = lzma.compress(data)
    elif how == 3:
        out = io.BytesIO()
        with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z:
            z.writestr('data/some.txt', data)
        data = out.getvalue()
    else:
        return data
    return damage(rng, data) if rng.random() < .2 else data


def foreign(barcode, name, records):
    "Does a sequence that is called `name` hold 25 bases of somebody else's?"
    pieces = {barcode[i:i + 25] for i in range(len(barcode) - 24)}
    return [r['id'] for r in records if r['id'] != name and any(p in r['barcode'] for p in pieces)]


def owner(text, records): # the record whose id is in a text
    found = [r for r in records if r['id'] in text]
    return found[0] if len(found) == 1 else None


def damaged(seed, styles, path):
    rng = random.Random(seed)
    records, style = some_records(rng), rng.choice(list(styles))
    path.write_bytes(packed(rng, damage(rng, styles[style](records).encode())))
    return records, style


@pytest.mark.parametrize('part', range(4))
def test_no_damaged_query_gets_the_sequence_of_another(part, tmp_path):
    read = 0
    for seed in range(part, TRIES, 4):
        records, style = damaged(seed, QUERIES, path := tmp_path/'query')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                pairs = [p for names, barcodes in read_sequences(path, Faults()) for p in zip(names, barcodes)]
            except InputError as e:
                assert e.fix and str(path) in str(e), (seed, style, str(e))
                continue
        for name, barcode in pairs:
            one = owner(name, records)
            assert not one or not foreign(barcode, one['id'], records), (seed, style, name)
            read += one is not None
    assert read > TRIES/4 * RECORDS * .5 # most records survive


@pytest.mark.parametrize('part', range(4))
def test_no_damaged_reference_gets_the_name_of_another(part, tmp_path):
    read = named = 0
    for seed in range(part, TRIES, 4):
        records, style = damaged(seed + 10**6, STYLES, path := tmp_path/'reference')
        how, frames = Labelling(), []
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                frames = list(read_labelled(path, how, LabelReport(Faults())))
            except InputError as e:
                assert e.fix and str(path) in str(e), (seed, style, str(e))
        for row in pl.concat(frames).iter_rows(named=True) if frames else ():
            one = owner(row['processid'] or '', records)
            if not one or not row['dna_barcode']:
                continue
            assert not foreign(row['dna_barcode'].upper(), one['id'], records), (seed, style, row['processid'])
            read += 1
            for rank in ('family', 'genus', 'species'):
                others = {r[rank] for r in records} - {one[rank]}
                assert row[rank] not in others, (seed, style, row['processid'], rank, row[rank])
            named += row['genus'] == one['genus']
    assert named > read * .7 and read > TRIES/4 * RECORDS * .5
