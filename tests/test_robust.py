"Barcodes as people have them: any indel, any cut, any strand, any tie, anything that is no barcode."
import os
from pathlib import Path
import numpy as np, polars as pl, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from barcodemae.identification.candidates import within_cap
from barcodemae.identification.confidence import CALIBRATION_FEATURES, probability
from barcodemae.core import InputError
from barcodemae.data import gaps
from barcodemae.data.gaps import CONSENSUS_GAIN, align, align_to_relative, realign
from barcodemae.data.relatives import kmer_index, sampled_kmers
from barcodemae.identification.classifier import Ask, Identifier
from barcodemae.data.names import NameReport, normal_names
from barcodemae.data.noise import NOISE, disturb, reverse_complement
from barcodemae.data.place import locate, base_codes, place
from barcodemae.identification.model import Model
from barcodemae.identification.reference import Reference, make_reference
from barcodemae.data.store import load_dataset
from barcodemae.identification import commands as tool

SOME = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DATA = Path(os.environ.get('BARCODEMAE_DATA') or Path(__file__).parents[2]/'shared'/'data')
bases = st.text('ACGT', min_size=1, max_size=60)


@pytest.fixture(scope='module')
def world(tmp_path_factory): # the library's model, the demo's reference, one barcode of each of its species
    folder, store, model = tmp_path_factory.mktemp('robust'), load_dataset('demo'), Model()
    reference, _ = make_reference(store.meta['source'], folder/'reference', model, ('train',))
    rows = store.rows('test')
    rows = rows[np.unique(store.labels('species', rows), return_index=True)[1]]
    labels = {rank: store.labels(rank, rows) for rank in ('genus', 'species')}
    return dict(folder=folder, store=store, model=model, reference=reference, barcodes=store.sequences(rows),
                identifier=Identifier(reference)) | labels


def asked(world, barcodes, **ask):
    identifier = Identifier(world['reference'], Ask(**ask)) if ask else world['identifier']
    return identifier([str(i) for i in range(len(barcodes))], barcodes)


# -- placing ---------------------------------------------------------------------------------------------

@SOME
@given(st.integers(0, 39), bases, bases, st.booleans())
def test_on_either_strand_whatever_is_around_it_a_barcode_finds_its_columns(world, i, before, after, turned):
    barcode = world['barcodes'][i % len(world['barcodes'])]
    text = before + barcode + after
    plain = place([barcode], world['model'].consensus)
    found = place([reverse_complement(text) if turned else text], world['model'].consensus)
    assert found.minus[0] == turned
    known = plain.bases[0] < 4
    assert (found.bases[0][known] == plain.bases[0][known]).all()


@SOME
@given(st.integers(0, 39), st.integers(0, 600), st.integers(80, 660))
def test_any_cut_finds_its_columns(world, i, begin, size):
    barcode = world['barcodes'][i % len(world['barcodes'])]
    part = barcode[begin:begin + size]
    if len(part) < 80: return
    whole, found = (place([b], world['model'].consensus).bases[0] for b in (barcode, part))
    both = (whole < 4) & (found < 4)
    assert (whole[both] == found[both]).all() and both.sum() >= len(part) - 3


def test_a_forced_strand_is_kept(world):
    turned = [reverse_complement(b) for b in world['barcodes'][:3]]
    assert not place(turned, world['model'].consensus, 'plus').minus.any()
    assert place(turned, world['model'].consensus, 'minus').minus.all()
    with pytest.raises(InputError, match='strand'):
        locate([base_codes('ACGT')], world['model'].consensus, 'up')


INDEL = st.tuples(st.integers(60, 580), st.integers(1, 6), st.booleans()) # where, bases, is it an insertion?

@SOME
@given(st.integers(0, 39), st.lists(INDEL, max_size=3))
def test_any_indel_is_placed_by_relatives(world, i, indels):
    "Away from its ends, with its species there, at most the bases beside an indel are on another column."
    text = world['barcodes'][i % len(world['barcodes'])]
    whole = place([text], world['model'].consensus)
    for at, size, insert in sorted(indels, reverse=True):
        text = text[:at] + 'ACGTCA'[:size] + text[at:] if insert else text[:at] + text[at + size:]
    found = place([text], world['model'].consensus)
    realign(found, world['reference'].pool)
    both = (found.bases[0] < 4) & (whole.bases[0] < 4)
    assert ((found.bases[0] != whole.bases[0]) & both).sum() <= 12 * len(indels) + 6 * bool(indels)
    assert both.sum() >= (whole.bases[0] < 4).sum() - 60 * len(indels)


@SOME
@given(st.text('ACGTN', max_size=80), st.text('ACGTN', max_size=80))
def test_kmers_are_found_wherever_they_stand(before, after):
    core = 'ACGATCGGATTACAGGCATCGATTACGGATC'
    kmers, starts = sampled_kmers([base_codes(text) for text in (before + core + after, core, before)])
    around, held, other = (kmers[a:b].tolist() for a, b in zip(starts, starts[1:]))
    assert set(held) | set(other) <= set(around) and around == sorted(set(around)) and len(kmers) == starts[-1]
    found = kmer_index([base_codes(core), base_codes(before)])
    assert (np.diff(found.kmers.astype(np.int64)) > 0).all() and set(found.rows) <= {0, 1}


def test_what_has_nothing_to_align_is_left_as_it_is(world):
    empty = np.full(660, 5, np.uint8)
    for text in ('ACGT' * 30, ''): assert align_to_relative(base_codes(text), empty)[1] is None
    placed = place(['', 'N' * 80, 'ACGT'], world['model'].consensus)
    before = placed.bases.copy()
    realign(placed, world['reference'].pool)
    assert len(before) == 3
    lone = place([world['barcodes'][0]], world['model'].consensus)
    realign(lone, world['model'].pool_of(lone), own=np.array([0]))
    assert (lone.bases < 4).sum() > 500


READ = st.text('ACGTN', min_size=1, max_size=40)

@SOME
@given(READ, READ, READ, READ)
def test_a_gapped_score_and_its_columns_are_those_of_another_algorithm(shared, before, after, relative):
    query, row = shared + before + shared + after, np.full(660, 5, np.uint8)
    known = base_codes(relative + shared + shared)
    row[50:50 + len(known)] = known
    codes, texts = base_codes(query), (query, relative + shared + shared)
    score, found, extra, _ = align_to_relative(codes, row)
    parasail, scores = gaps._parasail()
    how = gaps.GAP_OPEN, gaps.GAP_EXTEND, scores
    slow, fast = parasail.sg_trace_striped_16(*texts, *how), parasail.sg_trace_scan_16(*texts, *how)
    assert gaps.gapped_score(codes, row) == score == slow.score
    ours, theirs = slow.traceback.query, slow.traceback.ref # the two lines of the alignment
    place = np.cumsum([t != '-' for t in theirs]) - 1
    at = [p if t != '-' else -1 for q, t, p in zip(ours, theirs, place) if q != '-']
    assert gaps._positions(fast.cigar).tolist() == at
    assert found is None or (found < 4).sum() + extra <= len(query)


@SOME
@given(st.integers(0, 39), st.lists(INDEL, max_size=3), st.sampled_from(['both', 'plus', 'minus']), st.data())
def test_alone_a_barcode_is_aligned_as_with_the_consensus_as_a_relative(world, i, indels, strand, data):
    "Whole or cut, turned, with N: every field is that of a pool of one, found by its columns."
    model, text = world['model'], world['barcodes'][i % len(world['barcodes'])]
    for at, size, insert in sorted(indels, reverse=True):
        text = text[:at] + 'ACGTCA'[:size] + text[at:] if insert else text[:at] + text[at + size:]
    first, last = sorted(data.draw(st.tuples(st.integers(0, 660), st.integers(0, 660))))
    texts = [text, reverse_complement(text), text[first:last], text[:300] + 'N' * 40 + text[340:], 'N' * 30, '']
    pool = model.pool_of(place([model.consensus], model.consensus))
    pool.gain, by_columns = CONSENSUS_GAIN, place(texts, model.consensus, strand)
    realign(by_columns, pool, turn=strand == 'both')
    for found in (align(texts, model.consensus, strand), model.align_with_gaps(texts, strand=strand)):
        for name in ('bases', 'minus', 'score', 'extra', 'broken', 'second'):
            assert (getattr(found, name) == getattr(by_columns, name)).all()
        assert all(map(np.array_equal, found.codes, by_columns.codes))
    assert len(align([], model.consensus)) == 0


# -- candidates and confidence ---------------------------------------------------------------------------

SPECIES = st.lists(st.integers(-1, 4), min_size=9, max_size=9) # of nine candidates, -1 unknown

@SOME
@given(st.lists(SPECIES, min_size=1, max_size=5), st.integers(1, 4))
def test_no_species_has_more_candidates_than_its_cap(rows, cap):
    number = np.array(rows)
    good = within_cap(number, cap)
    for line, kept in zip(number, good):
        for species in range(5):
            n = (line == species).sum()
            assert kept[line == species].tolist() == [True] * min(n, cap) + [False] * max(0, n - cap)
        assert kept[line < 0].all()


@SOME
@given(st.lists(st.floats(-4, 4), min_size=7, max_size=7), st.floats(0, 3))
def test_confidence_rises_with_overlap_and_falls_with_distance(world, x, more):
    for fits in world['identifier'].confidence.values():
        for fit in fits.values():
            base = np.array(fit['mean']) + np.array(x) * np.array(fit['scale'])
            for i, (name, sign) in enumerate(CALIBRATION_FEATURES.items()):
                moved = base.copy()
                moved[i] += more * fit['scale'][i]
                change = probability(fit, moved[None])[0] - probability(fit, base[None])[0]
                assert change * sign >= -1e-12, name


@pytest.mark.parametrize('kind', list(NOISE))
def test_names_stay_and_are_bounded_whatever_happens(world, kind):
    answer = asked(world, disturb(world['barcodes'], kind))
    right = (answer['genus'].to_numpy() == world['genus']).mean()
    assert right >= (.75 if kind == '130 bases' else .9), right
    ranks = [c.removesuffix('_confidence') for c in answer.columns if c.endswith('_confidence')]
    sure = answer.select(pl.col(f'{r}_confidence').fill_null(0) for r in ranks).to_numpy()
    assert (np.diff(sure, axis=1) <= 1e-9).all() and sure.min() >= 0 and sure.max() <= 1
    new = answer.select('family_novelty', 'genus_novelty', 'species_novelty').to_numpy()
    assert (np.diff(new, axis=1) >= -1e-9).all()
    assert (answer['strand'] == '-').all() == (kind == 'reverse strand')


def test_a_whole_gene_is_a_query_and_a_mitogenome_a_reference(world, tmp_path):
    rng = np.random.default_rng(0)
    def within(n): return ''.join(rng.choice(list('ACGT'), n))
    genes = ['ATG' + within(30) + b + within(800) for b in world['barcodes'][:10]]
    assert (asked(world, genes)['species'].to_numpy() == world['species'][:10]).mean() >= .9
    whole = [within(3000) + reverse_complement(b) + within(9000) for b in world['barcodes'][:10]]
    labelled = enumerate(zip(world['genus'], world['species'], whole))
    lines = [f'>{i};tax=g:{g},s:{s}\n{b}\n' for i, (g, s, b) in labelled]
    (tmp_path/'m.fasta').write_text(''.join(lines))
    reference, counts = make_reference(tmp_path/'m.fasta', tmp_path/'r', world['model'])
    assert counts['added'] == 10
    answer = Identifier(reference)(list('abcdefghij'), world['barcodes'][:10])
    assert (answer['species'].to_numpy() == world['species'][:10]).all() and answer['identity'].min() > 99


# -- no match, ties, expectations ------------------------------------------------------------------------

@SOME
@given(st.integers(0, 10**6), st.sampled_from([60, 120, 300, 650, 2000]),
       st.sampled_from(['random', 'repeat', 'shuffled']))
def test_what_is_no_barcode_gets_no_name(world, seed, size, kind):
    rng = np.random.default_rng(seed)
    text = ''.join(rng.choice(list('ACGT'), size, p=[.35, .15, .15, .35]))
    if kind == 'repeat': text = (text[:3] * size)[:size]
    if kind == 'shuffled': text = ''.join(rng.permutation(list(world['barcodes'][seed % 40])))
    row = asked(world, [text]).row(0, named=True)
    assert row['taxon'] == '' and (row['genus_confidence'] or 0) < .5
    if size < 650 and kind == 'random': return # one in 1,000 may look like a fragment
    assert row['genus'] == '' and row['genus_confidence'] is None
    assert set(row['flags'].split()) & {'off_target', 'few_common_sites', 'short'}


def test_nothing_to_compare_is_no_evidence(world):
    answer = asked(world, ['', 'N' * 600, 'ACGT', 'GGTCAACAAATCATAAAGATATTGG' + 'TGATTTTTTGGTCACCCTGAAGTTTA'])
    assert (answer['species'] == '').all() and answer['identity'].null_count() == 4
    with pytest.raises(InputError): world['identifier'](['a'], world['barcodes'][:2])
    with pytest.raises(InputError): world['identifier'](['a'], [None])


@SOME
@given(st.integers(0, 39), st.integers(2, 5))
def test_a_tie_gets_its_share(world, tmp_path_factory, i, names):
    barcode, folder = world['barcodes'][i % len(world['barcodes'])], tmp_path_factory.mktemp('tie')
    others = [b for b in world['barcodes'][:30] if b != barcode]
    text = ''.join(f'>t{n};tax=f:F{n},g:G{n},s:G{n} x\n{barcode}\n' for n in range(names))
    text += ''.join(f'>o{n};tax=f:H{n},g:K{n},s:K{n} y\n{b}\n' for n, b in enumerate(others))
    (folder/'r.fasta').write_text(text)
    reference, _ = make_reference(folder/'r.fasta', folder/'r', world['model'])
    row = Identifier(reference)(['q'], [barcode]).row(0, named=True)
    assert row['genus_confidence'] <= 1 / names + 1e-6 and row['ambiguous'].count(';') == names - 1
    assert row['taxon'] == '' and 'ambiguous' in row['flags']


def test_one_barcode_is_a_reference_that_knows_little(world, tmp_path):
    (tmp_path/'one.fasta').write_text(f">a;tax=f:F,g:G,s:G x\n{world['barcodes'][0]}\n")
    reference, _ = make_reference(tmp_path/'one.fasta', tmp_path/'r', world['model'])
    identifier = Identifier(reference)
    same, other = (identifier(['q'], [world['barcodes'][i]]).row(0, named=True) for i in (0, -1))
    assert same['genus'] == 'G' and (other['genus_confidence'] or 0) < .5 < same['genus_confidence']


def test_expectations_move_confidence_and_novelty_together(world):
    few, many = (asked(world, world['barcodes'], expect_new=share) for share in (.05, .95))
    for column, sign in (('species_confidence', 1), ('species_novelty', -1)):
        assert (sign * (few[column] - many[column]) >= -1e-9).all()
    for bad in (dict(expect_new=0), dict(expect_new=1.2), dict(cutoff=2), dict(hits=-1), dict(hits=10**6)):
        with pytest.raises(InputError): Ask(**bad)


def test_hits_are_in_order_and_the_cutoff_decides_the_taxon(world):
    hits = asked(world, world['barcodes'][:5], hits=7)
    assert hits['query'].to_list() == [str(i) for i in range(5) for _ in range(7)]
    assert hits['hit'].to_list() == list(range(1, 8)) * 5 and hits['identity'].is_between(0, 100).all()
    for cutoff in (0, .5, .99):
        for row in asked(world, world['barcodes'], cutoff=cutoff).iter_rows(named=True):
            rank = row['rank']
            if rank: assert row[f'{rank}_confidence'] >= cutoff and row['taxon'] == row[rank]


def test_a_reference_is_calibrated_again_when_it_has_grown(world, tmp_path):
    source, folder = world['store'].meta['source'], tmp_path/'r'
    one = Identifier(make_reference(source, folder, world['model'], ('val',))[0]).confidence
    again = Identifier(Reference(folder, world['model'])).confidence
    grown = Identifier(make_reference(source, folder, world['model'], ('train',))[0]).confidence
    assert one == again and grown != one


def test_cluster_finds_strands_and_indels(world, tmp_path):
    barcode = world['barcodes'][0]
    other = next(b for b, g in zip(world['barcodes'], world['genus']) if g != world['genus'][0])
    some = [barcode, reverse_complement(barcode), barcode[:300] + barcode[301:], 'ACGTTGCA' * 5 + barcode,
            other]
    (tmp_path/'q.fasta').write_text(''.join(f'>{i}\n{b}\n' for i, b in enumerate(some)))
    tool.cluster(tmp_path/'q.fasta', tmp_path/'c.tsv', quiet=True)
    assert pl.read_csv(tmp_path/'c.tsv', separator='\t')['cluster'].to_list() == [1, 1, 1, 1, 2]


# -- real barcodes, where they are ------------------------------------------------------------------------

@pytest.mark.parametrize('name, least', [('coi_mini', (.80, .95)), ('annelida', (.65, .94)),
                                         ('amphibia', (.84, .90))])
def test_real_barcodes_survive(world, tmp_path, name, least):
    "A small stress test; the figures are in nbs/experiments/robust.ipynb."
    path = DATA/f'{name}.csv.gz'
    if not path.exists():
        pytest.skip(f'no {path.name} beside the project (data/README.md); BARCODEMAE_DATA names its folder')
    table = normal_names(pl.read_csv(path, infer_schema=False), NameReport()) # as the reference has them
    table = table.with_columns(pl.all().fill_null(''))
    reference, _ = make_reference(path, tmp_path/'r', world['model'], ('train',))
    identifier = Identifier(reference)
    for split, rank, enough in (('test_unseen', 'genus', least[0]), ('test', 'species', least[1])):
        rows = table.filter((pl.col('split') == split) & (pl.col(rank) != '')).sample(120, seed=0)
        clean = rows['dna_barcode'].str.to_uppercase().str.replace_all('[^ACGT]', 'N').to_list()
        for kind in ('as it is', 'substitutions and indels', 'reverse strand', 'one codon deleted',
                     'primers left on'):
            answer = identifier([str(i) for i in range(len(rows))], disturb(clean, kind))
            right = (answer[rank].to_numpy() == rows[rank].to_numpy())
            assert right.mean() >= enough, (kind, right.mean())
            sure = answer[f'{rank}_confidence'].fill_null(0).to_numpy() >= .9
            assert rank == 'species' or right[sure].mean() >= .88


@pytest.mark.parametrize('damage', ['none', 'substitutions and indels', 'reverse complement', 'fragment'])
def test_answers_are_the_same_on_one_core_and_on_several(world, damage, monkeypatch):
    barcodes = list(world['barcodes'])
    if damage == 'substitutions and indels': barcodes = disturb(barcodes, damage)
    if damage == 'reverse complement': barcodes = [reverse_complement(b) for b in barcodes]
    if damage == 'fragment': barcodes = [b[100:100 + 130] for b in barcodes]
    ids, answers = [str(i) for i in range(len(barcodes))], []
    for n in '13':
        monkeypatch.setenv('OMP_NUM_THREADS', n)
        answers.append(world['identifier'](ids, barcodes, block=7))
    assert answers[0].equals(answers[1])


@given(st.lists(st.integers(0, 40), max_size=9), st.integers(0, 5))
def test_the_kmers_of_a_part_are_the_same_on_one_core_and_on_several(lengths, seed):
    rows = [np.random.default_rng([seed, i]).integers(0, 5, n).astype(np.uint8) for i, n in enumerate(lengths)]
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for n in '13':
            patch.setenv('OMP_NUM_THREADS', n)
            found.append(kmer_index(rows))
    for name in ('kmers', 'starts', 'rows'): assert np.array_equal(*(getattr(f, name) for f in found))
