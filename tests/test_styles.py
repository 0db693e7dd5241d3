"""A small file of each format, in tests/formats, and what it holds; what no header may steal."""
import time
from pathlib import Path
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st
from barcodemae.core import InputError
from barcodemae.data.columns import SYNONYMS, map_columns
from barcodemae.data.faults import Faults
from barcodemae.data.genbank import genbank_frames
from barcodemae.data.headers import HEADERS, READ, read_headers
from barcodemae.data.labelled import LABELLED, Labelling, LabelReport, is_coi, read_labelled
from barcodemae.data.lineages import placed_ranks, split_lineages
from barcodemae.data.names import LINEAGE
from barcodemae.data.read import COLUMNS, EXTRA
from barcodemae.data.styles import FORMATS, formats
from barcodemae.data.taxonomy import Taxonomy

FILES = Path(__file__).parent/'formats'


def read(file, **how):
    "(frame, report) of a file, names as they are written in it."
    report = LabelReport(Faults())
    how = Labelling(**(dict(keep_names=True) | how))
    return pl.concat(list(read_labelled(file, how, report))), report


def shown(frame):
    "id/kingdom/phylum/class/order/family/subfamily/genus/species/BIN of each row."
    return ['/'.join(value or '' for value in row) for row in frame.drop('dna_barcode', 'split').iter_rows()]


FLY = 'Arthropoda/Insecta/Diptera/Culicidae'
EXPECTED = { # file -> (style, rows, markers left out, taxonomy)
    'sintax.fasta': ('sintax', [f'FX1//{FLY}//Aedes/Aedes fictus/',
        f'FX2//{FLY}//Culex/Culex fictus (Person, 1801)/',
                                'FX3//Mollusca/Gastropoda//////']),
    'coidb.fasta': ('coidb', [f'FX1-17/Animalia/{FLY}//Aedes/Aedes_fictus/BOLD:AAA0001',
                              f'FX2-17/Animalia/{FLY}//Culicidae_X/Culicidae_X/BOLD:AAA0002']),
    'coinr_sintax.fasta': ('sintax-taxid', [f'FX_1/Metazoa/{FLY}//Aedes/Aedes_fictus/',
        'FX_2/Metazoa/Nemertea///////']),
    'unite.fasta': ('unite', [f'FX000001/Metazoa/{FLY}//Aedes/Aedes_fictus/',
        'FX2/Fungi/Ascomycota/Xus/Xus/Xidae//Zus/Z_fictus/']),
    'qiime.fasta': ('qiime', [f'FX1/Metazoa/{FLY}//Aedes/Aedes_fictus/', 'FX2//Mollusca/Gastropoda//////']),
    'midori2.fasta': ('midori2',
        ['FX1.1.<1.>690//Discosea/Flabellinia//Vannellidae//Clydonella/Clydonella ficta/',
                                  f'FX2.1.<1.>1539//{FLY}//Aedes/Aedes fictus/']),
    'rdp.fasta': ('rdp', [f'FX_1/Metazoa/{FLY}//Aedes/Aedes_fictus/',
        'FX_2/Metazoa/Mollusca/Gastropoda//////']),
    'bold_v3.fasta': ('bold', ['FXA001-06///////Aedes/Aedes fictus/', 'FXA002-12////Lepidoptera/////'],
        {'CYTB': 1}),
    'bold_v5.fasta': ('bold-lineage', [f'FXA001-10/Animalia/{FLY}/Culicinae/Aedes/Aedes fictus/',
                                       'FXA002-10/Animalia/Arthropoda/Insecta/Diptera/////']),
    'lineage.fasta': ('lineage', [f'FX1/Animalia/{FLY}//Aedes/Aedes fictus/',
        f'FX2/Metazoa/{FLY}/Culicinae/Aedes/Aedes fictus/']),
    'dada2.fasta': ('dada2', [f'record_1/Animalia/{FLY}//Aedes//',
        'record_2/Animalia/Arthropoda/Insecta//////',
                              f'record_3/Animalia/{FLY}//Aedes//']),
    'dada2_species.fasta': ('dada2-species', ['FX1///////Aedes/Aedes fictus/',
        'FX2///////Culex/Culex fictus/']),
    'species.fasta': ('species', ['Aedes fictus///////Aedes/Aedes fictus/']*2),
    'ena.fasta': ('ena', ['FX000001.1///////Aedes/Aedes fictus/']),
    'ncbi.fasta': ('ncbi', ['FX000001.1///////Aedes/Aedes fictus/']),
    'genbank.fasta': ('genbank', ['FX000001.1///////Aedes/Aedes fictus/',
        'FX000002.1///////Aedes/Aedes cf. fictus/'],
                      {'cytochrome b': 1}),
    'genbank.gb': ('genbank-file', [f'FX000001.1/Metazoa/{FLY}/Culicinae/Aedes/Aedes fictus/'], {'CYTB': 1}),
    'bcdm.tsv': ('bcdm', [f'FX1/Animalia/{FLY}/Culicinae/Aedes/Aedes fictus/BOLD:AAA0001',
                          'FX2/Animalia/Arthropoda/Insecta/Diptera/////'], {'COI-3P': 1}),
    'bold_v4.tsv': ('bold-table', [f'FX1//{FLY}/Culicinae/Aedes/Aedes fictus/BOLD:AAA0001',
        f'FX2//{FLY}////']),
    'coinr.tsv': ('coinr', [f'FX_1/Metazoa/{FLY}//Aedes/Aedes fictus/', 'FX_2/Metazoa/Arthropoda///////'],
        {}, 'coinr_taxonomy.tsv'),
    'coinr_full.tsv': ('coinr', ['FX_1/Metazoa/Arthropoda/////Aedes/Aedes fictus/']),
    'lineage_table.tsv': ('lineage-table', [f'FX1/Metazoa/{FLY}//Aedes/Aedes_fictus/',
        'FX2/Metazoa/Mollusca///////']),
    'crabs.tsv': ('crabs', [f'FX1//{FLY}//Aedes/Aedes fictus/', f'FX2//{FLY}//Culex/Culex fictus/']),
    'barcodemae.csv': ('barcodemae', [f'FX1//{FLY}/Culicinae/Aedes/Aedes fictus/BOLD:AAA0001']),
    'spreadsheet.csv': ('table', ['FX1////////Aedes fictus/']),
}


@pytest.mark.parametrize('name', EXPECTED)
def test_file(name):
    style, rows, markers, taxonomy = [*EXPECTED[name], *({}, None)[len(EXPECTED[name]) - 2:]]
    frame, report = read(FILES/name, taxonomy=taxonomy and FILES/taxonomy)
    assert shown(frame) == rows and report.markers == markers
    assert report.styles == {style: len(rows) + sum(markers.values())} and not report.faults.counts
    assert not report.unlabelled and frame.columns == list(LABELLED)
    assert frame['dna_barcode'].str.len_chars().min() == 69


def test_every_format_has_a_file():
    assert {style for style, *_ in EXPECTED.values()} == set(FORMATS)
    there = {f.name for f in FILES.iterdir()}
    assert there == {*EXPECTED, 'ids.fasta', 'coinr_taxonomy.tsv', 'qiime2_taxonomy.tsv', 'mothur.tax'}


@pytest.mark.parametrize('taxonomy', ['qiime2_taxonomy.tsv', 'mothur.tax'])
def test_names_in_a_file_of_their_own(taxonomy):
    frame, report = read(FILES/'ids.fasta', taxonomy=FILES/taxonomy)
    assert frame['phylum'].to_list() == ['Arthropoda', 'Mollusca', None] and frame['genus'][0] == 'Aedes'
    assert (report.looked_up, report.not_found, report.examples['not_found']) == (2, 1, ['FX3'])
    assert 'such as FX3' in ' '.join(report.text())


def test_ids_alone_are_told():
    frame, report = read(FILES/'ids.fasta')
    assert report.unlabelled == len(frame) == 3 and not report.styles
    assert 'such as FX1' in report.text()[0] and 'barcodemae formats' in report.text()[0]


def test_parquet_and_table_are_read_alike(tmp_path):
    pl.read_csv(FILES/'bcdm.tsv', separator='\t', infer_schema=False).write_parquet(tmp_path/'bcdm.parquet')
    a, b = read(tmp_path/'bcdm.parquet'), read(FILES/'bcdm.tsv')
    assert a[0].equals(b[0]) and a[1].styles == b[1].styles and a[1].markers == b[1].markers


def test_formats_are_listed_by_example():
    text = formats()
    assert all(f'  {style.name} ' in text and style.about in text for style in FORMATS.values())
    assert max(map(len, text.split('\n'))) < 140


def test_a_format_that_is_none(tmp_path):
    with pytest.raises(InputError, match='no such format.*did you mean sintax'):
        read(FILES/'sintax.fasta', reference_format='sintaks')


# headers

@pytest.mark.parametrize('style', HEADERS)
def test_examples(style):
    frame = read_headers([HEADERS[style].example[1:]])
    assert frame.columns == list(READ) and frame['style'][0] == style
    assert frame.select(pl.any_horizontal(pl.col(LINEAGE).is_not_null())).item()


@pytest.mark.parametrize('head', ['FIN1', 'FIN1;size=12;', 'S1 Forward read of leg', 'S1 Primary sequence',
    'read1 Consensus sequence',
    'OTU_1 size=3', 'A1 Uncultured bacterium', 'c1 Sample from river', 'a|b|c', 'sample=A1;run=3',
        'Contig_12', 'A1 Barcode twelve',
    'FIN1 Norway', 'M00967:43:000000000-A3JHG:1:1101:18327:1699 1:N:0:188', 'A1 len=658 cov=12', '', '|',
        ';', ';;;', 'A;B', '>', 'k__', 'tax='])
def test_no_name_is_stolen(head):
    frame = read_headers([head])
    assert frame.select(pl.all_horizontal(pl.col(LINEAGE).is_null())).item(), frame.rows()


def test_a_mixture_keeps_all():
    heads = [style.example[1:] for style in HEADERS.values()]
    mixed = read_headers(heads*3)
    for i, head in enumerate(heads*3):
        assert mixed.row(i)[1:] == read_headers([head]).row(0)[1:]


name = st.from_regex(r'[A-Z][a-z]{4,9}', fullmatch=True).filter(lambda n: not n.lower().endswith(('inae',
    'ini', 'oideae')))
epithet = st.from_regex(r'[a-z]{4,9}', fullmatch=True)
ident = st.from_regex(r'[A-Z]{3}[0-9]{3,5}', fullmatch=True)
record = st.tuples(ident, name, name, name, name.map(lambda n: n + 'idae'), name, epithet)
PLACED = 'phylum class order family genus'.split()
def numbered(*names): return ';'.join(f'{name}_{k}' for k, name in enumerate(names, 7))


WRITERS = { # style -> how a record is written in it
    'sintax': lambda i, s, *r: f'{i};tax=k:Animalia,' + ','.join(map('{}:{}'.format, 'pcofgs', (*r, s))),
    'qiime': lambda i, s, *r: f'{i} k__Animalia; ' + '; '.join(map('{}__{}'.format, 'pcofgs', (*r, s))),
    'lineage': lambda i, s, *r: f"{i} Animalia;{';'.join(r)};{s}",
    'rdp': lambda i, s, *r: f'{i}\tcellularOrganisms;Eukaryota_2759;Metazoa_33208;{numbered(*r, s)}',
    'midori2': lambda i, s, *r: f'{i}###root_1;Eukaryota_2759;{numbered(*r, s)}',
    'bold-lineage': lambda i, s, *r: f"{i}|COI-5P|Norway|Animalia,{','.join(r)},{s},None",
}


@settings(deadline=None, max_examples=60)
@given(st.lists(record, min_size=1, max_size=8),
    st.lists(st.sampled_from(list(WRITERS)), min_size=8, max_size=8))
def test_round_trip_in_any_mixture(records, styles):
    heads, expected = [], []
    for (i, p, c, o, f, g, e), style in zip(records, styles):
        heads.append(WRITERS[style](i, f'{g} {e}', p, c, o, f, g))
        expected.append((i, p, c, o, f, g, f'{g} {e}', style))
    assert read_headers(heads).select('processid', *PLACED, 'species', 'style').rows() == expected


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(alphabet='AaBb_ ;:,|=.#[]()<>-0159\t', max_size=40), max_size=5))
def test_any_header_is_read(heads):
    frame = read_headers(heads)
    assert frame.columns == list(READ) and len(frame) == len(heads)
    for style in HEADERS:
        assert len(read_headers(heads, style)) == len(heads)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(alphabet='AaBb_ ;:,(1)k', max_size=30) | st.none(), max_size=5))
def test_any_lineage_is_split(texts):
    assert len(split_lineages(pl.Series(texts, dtype=pl.String))) == len(texts)


def test_many_headers_take_a_moment():
    heads = [f"FX{i};tax=k:Animalia,p:Arthropoda,f:Culicidae,g:Aedes,s:Aedes fictus" for i in range(20_000)]
    began = time.perf_counter()
    frame = read_headers(heads)
    assert time.perf_counter() - began < 10 and frame['species'].n_unique() == 1 # 0.2 s on two cores


def test_records_without_ids_are_numbered_throughout():
    heads = ['Animalia;Arthropoda;Insecta;']*2
    assert read_headers(heads, first=20_001)['processid'].to_list() == ['record_20001', 'record_20002']


def test_species_of_genbank():
    names = {'AB123456.1 Aedes aegypti': 'Aedes aegypti',
        'AB123456.1 Aedes sp. BOLD:AAA1234 voucher X': 'Aedes sp. BOLD:AAA1234',
             'NC_012345.1 Aedes aegypti mitochondrion, complete genome': 'Aedes aegypti',
                 'AB123456.1 Aedes voucher X COI gene': None,
             'AB123456.1 Aedes aegypti x Aedes albus isolate 7': 'Aedes aegypti x Aedes albus',
             'AB123456.1 Chironomidae sp. X COI gene, partial cds': None,
                 's1 [organism=Aedes aegypti] [gene=COI] leg': 'Aedes aegypti'}
    found = read_headers(list(names))
    assert found['species'].to_list() == list(names.values())
    assert found['genus'].to_list() == ['Aedes']*5 + [None, 'Aedes'] and found['family'][5] == 'Chironomidae'


@pytest.mark.parametrize('head', ['FX1|Aedes aegypti|COI-5P', 'FX1|Aedes_aegypti|COI-5P',
    'Aedes aegypti|FX1|COI-5P', 'FX1|COI-5P|Aedes aegypti',
    'FX1 | Aedes aegypti | COI-5P', 'Aedes_aegypti|FX1|BOLD:AAA0001',
        'FX1;TAX=p__Arthropoda;g__Aedes;s__Aedes aegypti',
    'FX1;tax=p:Arthropoda|g:Aedes|s:Aedes aegypti', 'FX1;size=2;tax=g:Aedes, s:Aedes aegypti;size=2',
        'FX1 tax=genus:Aedes,species:Aedes aegypti',
    'FX1|Arthropoda;Insecta;Diptera;Culicidae;Aedes;Aedes aegypti',
        'FX1|Arthropoda|Insecta|Diptera|Culicidae|Aedes|Aedes aegypti',
    'FX1;Animalia,Arthropoda,Insecta,Diptera,Culicidae,Aedes,Aedes aegypti',
        'FX1\tAnimalia;Arthropoda;Insecta;Diptera;Culicidae;Aedes;Aedes_aegypti'])
def test_near_relatives_of_a_style(head):
    row = read_headers([head]).row(0, named=True)
    assert (row['processid'], row['genus'], row['species'].replace('_', ' ')) == ('FX1', 'Aedes',
        'Aedes aegypti')


def test_subfamily_and_tribe():
    rows = placed_ranks(pl.Series(['Animalia,A,I,D,Culicidae,Culicinae,Aedini,Aedes,Aedes fictus,None',
        'Animalia,A,I,D,Culicidae,Aedes',
                                   'Animalia,A,I,D,Culicidae,None,None,Aedes,None',
                                       'Animalia,A,I,D,Culicidae,Culicinae,None,None']))
    assert rows['genus'].to_list() == ['Aedes']*3 + [None]
    assert rows['subfamily'].to_list() == ['Culicinae', None, None, 'Culicinae']
    assert rows['species'].to_list() == ['Aedes fictus', None, None, None]


# tables and taxonomies

def test_columns_of_ours_are_known():
    assert set(COLUMNS) | set(EXTRA) - {'style'} <= set(SYNONYMS)
    style, at, headerless = map_columns(list(COLUMNS))
    at['taxon'] = at.pop('taxonomy') # without rows to look at, it may be either
    assert not headerless and at == {c: i for i, c in enumerate(COLUMNS)}


@pytest.mark.parametrize('ident', ['processid', 'SeqID', '#OTU ID', 'Feature ID', 'ASV_ID', 'id',
    'accession', 'sampleid', ''])
@pytest.mark.parametrize('sequence', ['nuc', 'Nucleotides', 'sequence', 'SEQ', 'dna_barcode'])
def test_synonyms(ident, sequence):
    at = map_columns([ident, 'Genus', 'species_name', sequence])[1]
    assert [at[c] for c in ('processid', 'genus', 'species', 'dna_barcode')] == [0, 1, 2, 3]


def test_a_lineage_table_without_column_names(tmp_path):
    rows = (FILES/'lineage_table.tsv').read_text().split('\n', 1)[1]
    (tmp_path/'t.tsv').write_text(rows)
    frame, report = read(tmp_path/'t.tsv')
    assert shown(frame) == EXPECTED['lineage_table.tsv'][1] and report.styles == {'lineage-table': 2}


def test_columns_that_lack():
    with pytest.raises(InputError, match='no column dna_barcode; the columns found are id, length.*Fix'):
        map_columns(['id', 'length'])
    with pytest.raises(InputError, match='not in the format bcdm: no column nuc'):
        map_columns(['processid', 'nucleotides'], style='bcdm')
    assert map_columns(['id', 'seq'], style='sintax')[0] == 'table' # a style of headers


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.randoms())
def test_any_tree_of_taxa(n, random):
    ranks = ['no rank', *LINEAGE]
    parents = [0] + [random.randrange(0, max(i, 1)) for i in range(1, n)]
    taxa = [(i + 1, parents[i] + 1, random.choice(ranks), f'N{i}') for i in range(n)]
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder)/'t.tsv'
        file.write_text('tax_id\tparent_tax_id\trank\tname_txt\n' + ''.join('\t'.join(map(str,
            t)) + '\n' for t in taxa))
        names, known = Taxonomy(file).look_up(pl.Series([str(t[0]) for t in taxa] + ['999']))
    assert known.to_list() == [True]*n + [False]
    for row, (taxon, *_) in zip(names.iter_rows(named=True), taxa):
        expected, here = {}, taxon - 1
        while True: # the nearest ancestor of each rank
            expected.setdefault(taxa[here][2], taxa[here][3])
            if parents[here] == here: break
            here = parents[here]
        assert row == {rank: expected.get(rank) for rank in LINEAGE}


def test_a_taxonomy_that_is_none(tmp_path):
    (tmp_path/'t').write_text('length\n12\n')
    with pytest.raises(InputError, match='Fix'): Taxonomy(tmp_path/'t')
    (tmp_path/'t').write_text('')
    with pytest.raises(InputError, match='no table'): Taxonomy(tmp_path/'t')
    for rows in ('', 'x\ty\tgenus\tAedes\n'): # no taxon with a number
        (tmp_path/'t').write_text('tax_id\tparent_tax_id\trank\tname_txt\n' + rows)
        with pytest.raises(InputError, match='no row'): Taxonomy(tmp_path/'t')
    with pytest.raises(InputError, match='no such file'): Taxonomy(tmp_path/'absent')


# markers and GenBank

@pytest.mark.parametrize('marker,stays', {'COI': 1, 'COI-5P': 1, 'cox1': 1, 'CO1': 1, 'COXI': 1,
    'MT-CO1': 1, 'coi gene': 1, '': 1, None: 1,
    'cytochrome oxidase subunit 1': 1, 'Cytochrome c oxidase subunit I': 1, 'COI-5P;CYTB': 1, 'COI-3P': 0,
        'COI-5PNMT1': 0, 'COII': 0,
    'cox2': 0, 'CYTB': 0, 'cytochrome oxidase subunit II': 0, '16S': 0, 'ITS2': 0, 'rbcL': 0}.items())
def test_marker(marker, stays):
    assert pl.select(is_coi(pl.lit(marker, pl.String)).alias('m')).item() == bool(stays)


@pytest.mark.parametrize('size', [1, 7, 100, 10_000])
def test_genbank_in_any_pieces(size):
    text = (FILES/'genbank.gb').read_bytes()
    whole = pl.concat(list(genbank_frames([text])))
    assert pl.concat(list(genbank_frames(text[i:i + size] for i in range(0, len(text), size)))).equals(whole)


def _long(where, name='COI', kind='CDS'):
    bases = 'a'*2000 + 'ccccaaag' + 't'*90 + 'ggg'
    return (f'LOCUS       QQ1   {len(bases)} bp\nVERSION     QQ1.1\nFEATURES             Location/Qualifiers\n'
        f'     {kind:<15} {where}\n                     /gene="{name}"\nORIGIN\n        1 {bases}\n//\n').encode()


@pytest.mark.parametrize('where,gene', {'2001..2008': 'ccccaaag', 'complement(2001..2008)': 'ctttgggg',
    'join(2001..2004,2099..2101)': 'ccccggg', 'order(<2001..2004,2099..>2101)': 'ccccggg',
    'complement(join(2001..2004,2099..2101))': 'cccgggg',
    'join(complement(2099..2101),2001..2004)': 'ccccccc',
    'join(2001..2004,\n                     2099..2101)': 'ccccggg',
    'join(XX1.1:1..4,2099..2101)': None}.items())
def test_gene_of_a_long_record(where, gene):
    assert next(genbank_frames([_long(where)]))['dna_barcode'].to_list() == [gene]


@pytest.mark.parametrize('name,gene', {'coxI gene': 'ccccaaag', 'cytochrome c oxidase I subunit': 'ccccaaag',
    'MT-CO1': 'ccccaaag', 'COII': None, 'cytochrome c oxidase subunit II': None}.items())
def test_name_of_the_gene(name, gene):
    assert next(genbank_frames([_long('2001..2008', name)]))['dna_barcode'].to_list() == [gene]


def test_a_long_record_without_the_gene_is_counted(tmp_path):
    (tmp_path/'t.gb').write_bytes(_long('XX1.1:1..4') + (FILES/'genbank.gb').read_bytes())
    frame, report = read(tmp_path/'t.gb')
    assert len(frame) == 1 and report.faults.counts == {'no COI gene': 1}


def test_a_genbank_file_in_utf_16(tmp_path):
    (tmp_path/'t.gb').write_text((FILES/'genbank.gb').read_text(), 'utf-16')
    assert read(tmp_path/'t.gb')[0].equals(read(FILES/'genbank.gb')[0])
