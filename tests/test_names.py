"Names in one normal form: decorations come off, what is no name becomes none, homonyms stay two."
import string
import numpy as np, polars as pl, pytest
from hypothesis import given, settings, strategies as st
from barcodemae.data import names as module
from barcodemae.data.homonyms import number_taxa
from barcodemae.data.names import CHANGES, LINEAGE, NameReport, normal_names


def species(*names, genus=None, report=None, **above): # -> normal names; one genus for all
    frame = pl.DataFrame(dict(genus=[genus] * len(names), species=names) | above,
                         schema_overrides=dict(genus=pl.String, species=pl.String))
    return normal_names(frame, report or NameReport())['species'].to_list()

def rank(which, *names):
    frame = pl.DataFrame({which: names}, schema_overrides={which: pl.String})
    return normal_names(frame, NameReport())[which].to_list()

# species

SAME = [
    'Aedes_aegypti', 'Aedes  aegypti', ' Aedes aegypti ', 'Aedes\u00a0aegypti', 'Aedes\u2009aegypti',
    'Aedes\taegypti', 'Ae\u00addes aegy\u200bpti', '\ufeffAedes aegypti', 'Ａｅｄｅｓ aegypti', 'Aedes__aegypti',
    'AEDES AEGYPTI', 'aedes aegypti', 'Aedes Aegypti', 'AEDES aegypti', 'S__AEDES_AEGYPTI',
    "'Aedes aegypti'", '"Aedes" aegypti', '“Aedes aegypti”', '‘Aedes’ aegypti', '<i>Aedes aegypti</i>',
    's__Aedes_aegypti', 's:Aedes aegypti', 's_Aedes_aegypti', 'species:Aedes aegypti', 'species_Aedes_aegypti',
    'D_6__Aedes aegypti', 'Species: Aedes aegypti', 'Aedes aegypti_7159', 'Aedes_aegypti_7159',
    'Aedes aegypti [7159]', 'Aedes aegypti (taxid 7159)', 'Aedes aegypti [taxid:7159]', 's__Aedes_aegypti_7159',
    'species_Aedes_aegypti_7159', 'Aedes aegypti|7159', '[Aedes] aegypti',
    'Aedes aegypti (Linnaeus, 1762)', 'Aedes aegypti (Linnaeus,1762)', 'Aedes_aegypti_(Linnaeus_1762)',
    'Aedes aegypti Linnaeus in Hasselquist, 1762', 'Aedes aegypti L.', 'Aedes aegypti (L.)', 'Aedes aegypti L',
    'Aedes aegypti de Meijere', "Aedes aegypti d'Orbigny", 'Aedes aegypti d’Orbigny, 1840',
    'Aedes aegypti Müller & Henle', 'Aedes aegypti von Heyden, 1890', 'Aedes aegypti Smith et al., 1990',
    'Aedes aegypti Smith et Jones', "Aedes aegypti O'Neill, 1900", 'Aedes aegypti (O. F. Müller, 1776)',
    'Aedes aegypti LINNAEUS, 1762', 'AEDES AEGYPTI (LINNAEUS, 1762)', 'Aedes aegypti Theobald 1901b',
    'Aedes aegypti McLachlan', 'Aedes aegypti (L., 1762) Theobald', 'Aedes aegypti (Latreille [1802])',
    'Aedes aegypti sensu lato', 'Aedes aegypti s.l.', 'Aedes aegypti s. str.', 'Aedes aegypti s. lat.',
    'Aedes aegypti auct.', 'Aedes aegypti auct. nec Meigen', 'Aedes aegypti sensu Smith',
    'Aedes (Stegomyia) aegypti', 'aedes (stegomyia) aegypti', 'AEDES (STEGOMYIA) AEGYPTI',
    'Aedes (Stegomyia) aegypti (Linnaeus, 1762)', 'Aedes subgen. Stegomyia aegypti',
    'Aedes aegypti formosus', 'Aedes aegypti subsp. formosus', 'Aedes aegypti ssp. formosus',
    'Aedes aegypti var. alba', 'Aedes aegypti f. alba', 'Aedes aegypti formosus Walker, 1848',
    "Aedes aegypti 'Rockefeller'", 'Aedes aegypti isolate X12', 'Aedes aegypti voucher BIOUG123',
    'Aedes aegypti strain Liverpool', 'Aedes aegypti sp. nov.', 'Aedes aegypti n. sp.', 'Aedes aegypti.',
    'Aedes aegypti;', '†Aedes aegypti', 'Aedes aegypti*']

@pytest.mark.parametrize('genus', [None, 'Aedes'])
def test_one_species_in_any_dress(genus):
    assert dict(zip(SAME, species(*SAME, genus=genus))) == dict.fromkeys(SAME, 'Aedes aegypti')

def test_names_that_look_odd_and_are_right():
    right = ['Aus decem-punctata', 'Aus 10-punctatus', 'Aus mülleri', 'Scinax x-signatus', 'Sus scrofa', 'Io io',
             'Aus × bus', '× Aus bus', 'Aus bus × Aus cus', 'species-15221', 'Candidatus Aus bus', 'Nana nana',
             'Aus missingi', 'Aus speciosus', 'Aus affinis', 'Aus confusus', 'Aus grandis', 'Aus unknowni',
             'Gorilla gorilla', 'Aus spinosa', 'Aus aggregatus', 'Aus typica', 'Aus nova', 'Aus larvatus']
    assert species(*right) == right

def test_hybrids_keep_their_sign():
    assert species('Aus x bus', 'Aus X bus', '×Aus bus', 'x Aus bus', 'Aus ×bus') == \
        ['Aus × bus', 'Aus × bus', '× Aus bus', '× Aus bus', 'Aus × bus']
    crossed = ['Aus bus x Aus cus', 'Aus bus (L.) × Aus cus L.', 'AUS BUS X AUS CUS', 'Aus bus × cus',
               'Aus_bus_x_Aus_cus']
    assert set(species(*crossed)) == {'Aus bus × Aus cus'}

OPEN = [
    'Aus sp.', 'Aus sp', 'Aus spp.', 'Aus sp. 2ES', 'Aus sp. nov.', 'Aus n. sp.', 'Aus cf. bus', 'Aus cf bus',
    'Aus aff. bus', 'Aus nr. bus', 'Aus near bus', 'Aus prope bus', 'Aus gr. bus', 'Aus bus group',
    'Aus bus species group', 'Aus bus complex', 'Aus bus agg.', 'Aus bus-group', 'Aus bus?', 'Aus ?bus',
    'Aus bus cf.', 'Aus bus nr. cus', 'BOLD:AAF7702', 'Aus BOLD-AAF7702', 'Aus BOLD:AAF7702',
    'Aus sp. BOLD:AAA1234', 'Aus DHJ01', 'Aus janzen12', 'Aus 12Janzen', 'Aus sp1', 'Aus BioLep45', 'OTU12',
    'Aus OTU 12', 'ASV_7', 'Aus malaise', 'Aus larva', 'Aus_sp._3', 'Aus_cf_bus', 'AUS SP.', 'aus cf. bus',
    'Aus bus DHJ01', 'Aus bus-DHJ01', 'Aus busDHJ02', 'Aus bus A', 'Aus bus 2', 'Aus bus L1', 'Aus bus II',
    'Aus species 3', 'Aus sp.3', 'Aus bus/cus', 'cf. Aus bus', 'Aus (Bus) sp. 3', 'Aus bus lineage 3', 'sp. 1',
    'Aus JS-2019', 'Aus sp_7159', 'Aus indet.', 'Aus nov. sp.', 'Aus', 'AUS', 's__Aus']

@pytest.mark.parametrize('genus', [None, 'Aus'])
def test_open_names_are_no_species(genus):
    assert dict(zip(OPEN, species(*OPEN, genus=genus))) == dict.fromkeys(OPEN)

NO_NAME = [
    '', ' ', 'None', 'NULL', 'null', 'NA', 'N/A', 'n/a', 'nan', 'NaN', 'no_data', 'not_classified',
    'unclassified', 'Unclassified', 'unclassified Diptera', 'Diptera_unclassified', 'unidentified', 'unknown',
    'undetermined', 'undef', 'uncultured organism', 'environmental sample', 'environmental samples',
    'Incertae sedis', 'Incertae_sedis', 'Diptera incertae sedis', 'f__Diptera_fam_Incertae_sedis', '-', '?', '.',
    '_', '--', 'others', 'no match', 'No_hit', 'metagenome', 'not available', 'Aus_X', 'Aus_XX', 'Aus_XXX',
    '#N/A', '12', 'uncultured_Diptera_123', '\u00a0', '\u200b']

@pytest.mark.parametrize('which', LINEAGE)
def test_placeholders_are_none_at_every_rank(which):
    found = rank(which, *NO_NAME, *(f'{letter}__' for letter in 'kpcofgs'), f'{which}:', f'{which}__NA')
    assert set(found) == {None}, [n for n, f in zip(NO_NAME, found) if f]

# ranks above

def test_ranks_above_the_species():
    some = ['Culicidae', 'CULICIDAE', 'culicidae', 'f__Culicidae', 'f:Culicidae', 'family:Culicidae',
            'Culicidae_7157', 'Culicidae [7157]', 'Culicidae Meigen, 1818', 'Culicidae (Meigen, 1818)', 'Culicidae ',
            '"Culicidae"', 'f__Culicidae_7157', 'D_4__Culicidae', 'family_Culicidae', 'family_Culicidae_7157']
    assert set(rank('family', *some)) == {'Culicidae'}
    some = ['Aedes', 'AEDES', 'g__Aedes', 'Aedes Meigen, 1818', 'Aedes aegypti', 'Aedes (Stegomyia)', 'Aedes sp.',
            'Aedes_7158', 'Aedes aegypti (Linnaeus, 1762)', 'Aedes cf. aegypti']
    assert set(rank('genus', *some)) == {'Aedes'}
    assert rank('genus', 'cf. Aedes', 'Aedes?', 'nr. Aedes') == [None] * 3
    for which in LINEAGE:
        assert rank(which, f'{which}-8689') == [f'{which}-8689'] # as FinPROTAX has them

def test_a_rank_that_was_filled_from_another_is_none():
    assert rank('order', 'order_Vannellidae_95227', 'o__order_Vannellidae_95227', 'p__Arthropoda',
                'Lepidoptera_XX') == [None] * 4
    assert rank('genus', 'f__Culicidae', 'Culicidae_X') == [None] * 2
    frame = pl.DataFrame(dict(family=['Culicidae'], genus=['Culicidae'], species=['Culicidae sp.']))
    assert normal_names(frame, NameReport()).row(0) == ('Culicidae', None, None)

# genus and species

def pairs(*rows):
    frame = pl.DataFrame(rows, schema=dict(genus=pl.String, species=pl.String), orient='row')
    report = NameReport()
    return normal_names(frame, report).rows(), report

def test_an_epithet_needs_its_genus():
    found, report = pairs(('Motacilla', 'alba'), (None, 'alba'), ('Aus', 'alba'), ('Motacilla', 'M. alba'),
        ('Motacilla', 'alba (Linnaeus, 1758)'), ('Aus', 'M. alba'), ('Gorilla', 'gorilla'), ('Motacilla', 'M_alba'))
    assert found == [('Motacilla', 'Motacilla alba'), (None, None), ('Aus', 'Aus alba'),
        ('Motacilla', 'Motacilla alba'), ('Motacilla', 'Motacilla alba'), ('Aus', None),
        ('Gorilla', 'Gorilla gorilla'), ('Motacilla', 'Motacilla alba')]
    assert report.counts['epithet joined to its genus'] == 6
    assert report.counts['epithet without its genus, no name'] == 2

def test_a_species_tells_its_genus():
    found, report = pairs((None, 'Aedes aegypti'), ('unclassified', 'Aedes_aegypti'), (None, 'Aedes sp. 2'),
                          (None, 'Aedes DHJ01'), (None, 'Culicidae sp.'), (None, 'unknown sp.'))
    assert found == [('Aedes', 'Aedes aegypti')] * 2 + [('Aedes', None)] * 2 + [(None, None)] * 2
    assert report.counts['genus taken from the species'] == 4

def test_species_and_genus_that_differ_are_kept_and_told():
    found, report = pairs(('Aedes', 'Culex pipiens'), ('Culex', 'Culex pipiens'))
    assert found == [('Aedes', 'Culex pipiens'), ('Culex', 'Culex pipiens')]
    assert report.counts == {'species and genus differ (both kept)': 1}
    assert report.text() == ['1 species and genus differ (both kept) (Aedes -> Culex pipiens)']

# the report

def test_the_report_counts_records_and_keeps_three_examples():
    report = NameReport()
    frame = pl.DataFrame(dict(genus=['Aus_1234'] * 4 + ['Aus'], species=['Aus_bus', 'Aus_bus', 'Aus_cus', 'Aus_dus',
                                                                      'Aus_eus']))
    for part in (frame[:2], frame[2:]):
        normal_names(part, report)
    assert report.counts == {'underscores': 5, 'taxonomy number removed': 4}
    assert report.examples['underscores'] == [('Aus_bus', 'Aus bus'), ('Aus_cus', 'Aus cus'), ('Aus_dus', 'Aus dus')]
    assert report.text()[0] == '5 underscores (Aus_bus -> Aus bus)'
    assert set(report.counts) <= set(CHANGES)

def test_a_name_that_became_none_counts_for_that_alone():
    report = NameReport()
    species('s__unclassified', 's__Aus_sp.', None, '', report=report)
    none = {'placeholder, no name': 1, 'open name, no species': 1, 'genus taken from the species': 1}
    assert report.counts == none

def test_the_report_prints_in_one_line_each():
    report = NameReport()
    species('Aus\nbus', 'Aus\x1b[31m cus', report=report)
    assert all(line.isprintable() for line in report.text())

def test_other_columns_rows_and_order_stay():
    frame = pl.DataFrame(dict(processid=['a', 'b', 'c'], done=[1, 2, 3], raw=['x', 'y', 'z'],
                              species=['Aus_bus', None, 'Aus cus']))
    found = normal_names(frame, NameReport())
    assert found.columns == frame.columns and found.drop('species').equals(frame.drop('species'))
    assert found['species'].to_list() == ['Aus bus', None, 'Aus cus']
    for few in (frame[:0], frame.drop('species'), frame.select(pl.lit(None, pl.String).alias('species'))):
        assert normal_names(few, NameReport()).equals(few)

# properties

stems = st.text(string.ascii_lowercase, min_size=2, max_size=10)
binomials = st.builds(lambda g, e, end: f'{g.capitalize()}us {e}{end}', stems, stems,
                      st.sampled_from(['us', 'ensis', 'ata', 'orum', '-album', 'ii']))
DRESS = [
    lambda n: n, lambda n: n.replace(' ', '_'), lambda n: n.replace(' ', '\u00a0'), lambda n: f' {n}\t',
    lambda n: n.upper(), lambda n: n.lower(), lambda n: f's__{n}', lambda n: f'species:{n}', lambda n: f'"{n}"',
    lambda n: f'{n}_1068818', lambda n: f'{n} (taxid 12)', lambda n: f'{n} (Linnaeus, 1758)',
    lambda n: f"{n} d'Orbigny, 1840", lambda n: f'{n} s. l.', lambda n: n.replace(' ', ' (Stegomyia) '),
    lambda n: f'{n} subsp. minor', lambda n: f'{n} voucher ABC-12', lambda n: f'<i>{n}</i> L.']

@settings(max_examples=25, deadline=None)
@given(st.lists(binomials, min_size=1, max_size=8), st.sampled_from(DRESS))
def test_what_was_put_around_a_name_comes_off(names, dress):
    assert species(*map(dress, names)) == names

texts = st.text(st.sampled_from('AaBbXx sp.cf×_-?:;,()[]"\'0129éßİŉﬁ\u0301\u200b\u00a0\t\n/|&') | st.characters(),
                max_size=24)
parts = st.sampled_from(['Aus', 'bus', 'sp.', 'cf.', 'x', '×', 'Aus_bus', 's__', 'g:', '(Cus)', 'L.', '1758', '_X',
    'BOLD:AAA1234', 'var.', 'd', 'unclassified', 'A.', '10-', 'de', 'Ms', "d'Or", '[12]', 'DHJ01', 'AUS', 'BUS', '?'])
odd = texts | st.lists(parts, max_size=5).map(' '.join) | st.lists(parts, max_size=4).map('_'.join)

@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(odd, odd, odd), min_size=1, max_size=12))
def test_twice_is_once_and_nothing_raises(rows):
    frame = pl.DataFrame(rows, schema=dict(family=pl.String, genus=pl.String, species=pl.String), orient='row')
    once = normal_names(frame, NameReport())
    twice = normal_names(once, NameReport())
    assert once.rows() == twice.rows()
    for name in once['species'].drop_nulls():
        assert name and name == ' '.join(name.split()) and name.isprintable()

@settings(max_examples=25, deadline=None)
@given(st.lists(binomials | st.lists(parts, min_size=2, max_size=2).map(' '.join), min_size=1, max_size=20))
def test_names_taken_as_right_are_those_that_no_step_changes(names):
    names = pl.Series(names).unique()
    for which in ('genus', 'species'):
        column = names if which == 'species' else names.str.split(' ').list.first().unique()
        right = column.filter(column.to_frame('x').select(
            module._as_it_should_be(pl.col('x'), which).fill_null(False))['x'])
        stepped = right.to_frame('x')
        for _, step in module._steps(which):
            stepped = stepped.select(step(pl.col('x')).alias('x'))
        assert stepped['x'].to_list() == right.to_list()

# homonyms

def numbers(**labels):
    schema = {c: pl.String for c in labels}
    found, names = number_taxa(pl.DataFrame(labels, schema=schema), 'genus')
    assert all(names[n] == g for n, g in zip(found, labels['genus']) if n >= 0)
    return found.tolist()

def test_one_genus_name_in_three_families_is_three_genera():
    found = numbers(family=['A', 'A', 'B', 'C', 'A', None], genus=['H', 'H', 'H', 'H', 'G', None],
                    species=['H a', 'H a', 'H b', 'H c', 'G a', None])
    assert found[0] == found[1] and len(set(found[:5])) == 4 and found[5] == -1

def test_a_gap_in_a_label_splits_no_genus():
    assert numbers(family=['A', None], genus=['H', 'H']) == [0, 0]
    assert numbers(family=['A', 'A', 'B', None], genus=['H'] * 4) == [0, 0, 1, 0]
    found = numbers(family=['A', 'A', 'B', None, None], order=['O', 'O', 'P', 'P', 'Q'], genus=['H'] * 5)
    assert found[3] == found[2] and len(set(found)) == 3
    assert numbers(family=['A', None], order=[None, 'O'], genus=['H'] * 2) == [0, 0]
    assert numbers(order=['O', 'P', None, 'P'], genus=['H'] * 4) == [0, 1, 1, 1]
    assert numbers(genus=['H', 'H', 'G']) == [1, 1, 0]

def test_one_genus_that_sources_place_in_two_families_is_one():
    found = numbers(phylum=['P'] * 5, family=['A', 'A', 'B', 'B', 'C'], genus=['H'] * 5,
                    species=['H a', 'H b', 'H b', 'H c', 'H d'])
    assert len(set(found[:4])) == 1 and found[4] != found[0]
    assert len(set(numbers(phylum=['P', 'Q'], family=['A', 'B'], genus=['H'] * 2, species=['H a'] * 2))) == 2

def test_a_binomial_is_one_species_but_for_two_phyla():
    labels = pl.DataFrame(dict(phylum=['P', 'P', None, 'Q'], family=['A', 'B', 'A', 'C'], species=['H a'] * 4))
    assert number_taxa(labels, 'species')[0].tolist() == [0, 0, 0, 1]

@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from(['A', 'B', 'C', None])] * 4), max_size=12))
def test_numbers_are_those_of_the_names_without_homonyms(rows):
    labels = pl.DataFrame(rows, schema=dict.fromkeys(('order', 'family', 'genus', 'species'), pl.String), orient='row')
    for which in labels.columns:
        found, names = number_taxa(labels, which)
        assert found.dtype == np.int64 and sorted(names) == names.tolist()
        assert [names[n] if n >= 0 else None for n in found] == labels[which].to_list()
        assert which == 'genus' or len(set(names)) == len(names)
        assert set(found.tolist()) - {-1} == set(range(len(names)))
