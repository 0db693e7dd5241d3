"""Guards for the ladder: the same questions for all, hits that can be paired, and what is asked without labels."""
import re, zlib
import numpy as np, polars as pl, pytest
from barcodemae import cli
from barcodemae.compute import probe_compute
from barcodemae.core import InputError
from barcodemae.data.noise import NOISE, reverse_complement
from barcodemae.data.place import place
from barcodemae.data.align import consensus_of
from barcodemae.data.store import load_dataset, prepare
from barcodemae.embedding.embedder import Embedder
from barcodemae.embedding.rungs import KINDS, encoder_embedder, fit_linear
from barcodemae.evaluation.knn import untrained_encoder
from barcodemae.evaluation.ladder import (READINGS, cluster_ami, difference, ladder_line, ladder_row, named_row,
                                          pack_hits, row_hits, text_table, unpack_hits)
from barcodemae.evaluation.own import NEAR, OwnQuestions, identities, own_rows, parted
from barcodemae.evaluation.questions import CHOICE, CLEAN, DAMAGE, STRAND, Questions, read_part
from barcodemae.model.mae import BarcodeMAEConfig
from barcodemae.training import commands, compare

SHAPE = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)


@pytest.fixture(scope='module')
def questions(): return Questions('demo', elsewhere=(), fit=300)


@pytest.fixture(scope='module')
def gene(): return consensus_of(load_dataset('demo'), np.arange(len(load_dataset('demo'))), 0)


@pytest.fixture(scope='module')
def linear(questions, gene): return fit_linear('components', questions.unlabelled, gene, 32)


class Knowing(Embedder):
    "Knows the genus of each barcode by heart, and nothing of damaged ones."
    name, width, parameters = 'knowing', 40, 0
    def __init__(self, questions, right=1.):
        self.questions, self.genus, rng = questions, {}, np.random.default_rng(0)
        for part in (questions.query, questions.reference):
            for barcode, genus in zip(part.barcodes, part.labels('genus')):
                self.genus[barcode] = genus if rng.random() < right or part is questions.reference else 'lost'
    def encode(self, barcodes):
        def vector(genus): return np.random.default_rng(zlib.crc32(genus.encode())).normal(size=self.width)
        return np.array([vector(self.genus.get(b, 'lost')) for b in barcodes], np.float32)


def test_damage_is_of_the_kinds_there_are_and_the_same_for_all(questions):
    assert {CLEAN, STRAND, *DAMAGE} <= set(NOISE)
    first, again = (questions.conditions(True) for _ in range(2))
    assert [a.key for a in first] == [CLEAN, *DAMAGE, STRAND]
    for a, b in zip(first, again): assert a.barcodes == b.barcodes
    by_key = {a.key: a.barcodes for a in first}
    clean = by_key[CLEAN]
    assert all(len(d) == len(c) - 1 for c, d in zip(clean, by_key['one base deleted']))
    assert {len(b) for b in by_key['130 bases']} == {130}
    assert by_key[STRAND] == [reverse_complement(b) for b in clean]
    other = Questions('demo', elsewhere=(), seed=1).conditions()[1].barcodes
    assert other != by_key['one base deleted']


def test_barcodes_are_asked_as_their_file_has_them(tmp_path):
    table = pl.DataFrame(dict(processid=['a', 'b', 'c'], dna_barcode=['nnACG-TRacgtN', 'ACGT' * 200, 'ACGT'],
                              genus=['G', 'H', None], species=[None, 'H h', None], split=['train'] * 3))
    table.write_csv(tmp_path/'few.csv')
    part = read_part(tmp_path/'few.csv', ('train',))
    assert part.barcodes == ['ACGNTNACGT', 'ACGT' * 200] # not cut, - is unknown, no genus: not there
    assert part.labels('species').tolist() == ['', 'H h']
    with pytest.raises(InputError, match='test_unseen'): read_part(tmp_path/'few.csv', ('test_unseen',))


def test_a_row_of_what_knows_everything(questions):
    row = ladder_row(Knowing(questions), questions)
    low, high = row['interval'][CLEAN]
    assert 80 < low <= row['plain'][CLEAN] <= high         # the demo has barcodes with two names
    assert row['plain']['one base deleted'] < 20
    assert STRAND not in row['plain'] # it does not claim to know the strand
    assert set(row['plain']) == set(row['whitened']) == {CLEAN, *DAMAGE}
    assert row['n'][CLEAN] == len(questions.query) and row['supervised'] is False


def test_hits_are_those_of_the_nearest_by_cosine(questions, linear):
    row = ladder_row(linear, questions)
    for asked in questions.conditions(True):
        cosine = linear.encode(asked.barcodes) @ linear.encode(asked.reference.barcodes).T
        near = asked.reference.labels('genus')[cosine.argmax(1)]
        assert (row_hits(row, asked.key, 'plain') != (near == asked.query.labels('genus'))).mean() < .02 # ties
        assert row['plain'][asked.key] == pytest.approx(100 * row_hits(row, asked.key, 'plain').mean(), abs=.01)


def test_differences_are_paired(questions):
    best, worse = (ladder_row(Knowing(questions, right), questions) for right in (1., .7))
    species = questions.species()
    assert difference(best, best, species) == (0, 0, 0)
    mean, low, high = difference(best, worse, species)
    assert mean == pytest.approx(best['plain'][CLEAN] - worse[worse['reading']][CLEAN], abs=.02)
    assert 18 < low < mean < high < 40
    assert row_hits(best)[row_hits(worse)].all()
    with pytest.raises(InputError, match='different questions'):
        difference(best, worse | dict(query='test_unseen'), species)


def test_hits_survive_their_text():
    for n in (1, 7, 8, 9, 1000):
        hits = np.random.default_rng(n).random(n) < .5
        assert (unpack_hits(pack_hits(hits), n) == hits).all()


def test_test_unseen_is_asked_only_where_final_and_does_not_choose(questions, linear):
    asked = {p for c in questions.conditions(True) for p in c.query.table['split'].unique()}
    assert asked == {'val_unseen', 'key_unseen'} & set(questions.store.splits)
    final = Questions('demo', True, elsewhere=(), fit=300)
    row = ladder_row(linear, final)
    assert row['query'] == 'test_unseen' and {CHOICE, CLEAN} <= set(row['plain'])
    assert row['reading'] == max(READINGS, key=lambda r: row[r][CHOICE])
    validation = ladder_row(linear, questions)
    assert row['plain'][CHOICE] == validation['plain'][CLEAN]


def test_what_has_no_vectors_is_asked_the_same(questions, linear):
    truth = {b: g for p in (questions.query,) for b, g in zip(p.barcodes, p.labels('genus'))}
    row = named_row('knows', lambda reference, barcodes: np.array([truth.get(b, '') for b in barcodes]), questions,
                    supervised=True)
    assert row['plain'][CLEAN] == 100 and not row['whitened'] and row['ami'] == {}
    other = ladder_row(linear, questions)
    mean = difference(row, other, questions.species())[0]
    assert mean == pytest.approx(100 - other[other['reading']][CLEAN], abs=.02)
    lines = text_table([ladder_line(r) for r in (row, other)]).splitlines()
    assert len({len(line) for line in lines}) == 1 and 'knows (supervised)' in lines[1]


@pytest.mark.parametrize('kind', KINDS)
def test_linear_rungs_take_barcodes_as_they_come(questions, gene, kind):
    rung = fit_linear(kind, questions.unlabelled, gene, 32)
    some = questions.query.barcodes[:40]
    clean = rung.encode(some)
    assert clean.shape == (40, rung.width) and np.allclose(np.linalg.norm(clean, axis=1), 1, atol=1e-4)
    assert np.allclose(rung.encode([reverse_complement(b) for b in some]), clean, atol=1e-5)
    lost = rung.encode([b[:300] + b[301:] for b in some])
    assert np.median((lost * clean).sum(1)) > .97 # the rest of the barcode is not shifted
    assert rung.budget['passes'] == len(questions.unlabelled)
    with pytest.raises(InputError, match='no such rung'): fit_linear('nothing', some, gene)


def test_components_are_scikit_learns(questions, gene):
    from sklearn.decomposition import PCA
    from barcodemae.data.gaps import align
    from barcodemae.embedding.columns import column_onehot
    from barcodemae.embedding.rungs import fit_components
    bases = align(questions.unlabelled, gene).bases
    bases = bases[(bases < 4).sum(1) > 600]
    whole = np.where(bases < 4, bases, 0).astype(np.uint8)             # nothing unknown: the textbook's case
    ours = column_onehot(whole) @ fit_components(whole, 4)
    theirs = PCA(4).fit_transform(column_onehot(whole))
    assert np.allclose(np.abs(ours), np.abs(theirs), atol=.05)


def test_an_aligned_encoder_gives_vectors_of_either_strand_and_of_nothing(questions, gene):
    embedder = encoder_embedder(untrained_encoder(BarcodeMAEConfig(**SHAPE, reference=gene)), 'u', probe_compute('cpu'))
    some = questions.query.barcodes[:10]
    both = [embedder.encode(s) for s in (some, [reverse_complement(b) for b in some])]
    assert np.allclose(*both, atol=1e-5) and embedder.strands
    assert not embedder.encode(['N' * 100]).any()                      # no k-mer
    plain = encoder_embedder(untrained_encoder(BarcodeMAEConfig(**SHAPE)), 'u', probe_compute('cpu'))
    assert not getattr(plain, 'strands', False)


def test_clusters_of_labels_themselves_agree():
    labels = np.repeat(['a', 'b', 'c'], 5)
    vectors = np.eye(3)[np.repeat(range(3), 5)] + np.random.default_rng(0).normal(0, .01, (15, 3))
    assert cluster_ami(vectors, dict(species=labels, genus=labels)) == dict(species=1., genus=1.)


# -- without labels ---------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def mine(tmp_path_factory):
    folder = tmp_path_factory.mktemp('mine')
    records = [f'>{i}\n{b}\n' for i, b in enumerate(load_dataset('demo').sequences(range(600)))]
    (folder/'mine.fasta').write_text(''.join(records))
    return folder/'mine.fasta'


def test_nothing_near_what_is_asked_is_trained_on(mine, tmp_path):
    store = prepare(mine, tmp_path/'store')
    found, again = parted(store), parted(store)
    assert (found.seeds == again.seeds).all() and len(found.seeds)
    train, held = found.rows('pretrain'), found.rows('val')
    assert len(np.intersect1d(train, held)) == 0 and len(train) + len(held) == len(store) == len(found.rows())
    assert len(held) <= .1 * len(store) and np.isin(found.seeds, held).all()
    gene = consensus_of(store, np.arange(len(store)), 0)
    asked, others = (place(store.sequences(r), gene).bases for r in (found.seeds, train))
    assert identities(asked, others).max() < 1 - NEAR
    demo = load_dataset('demo')
    assert parted(demo) is demo                                        # it has partitions


def test_identities_are_counted_where_both_are_known():
    query, reference = np.full((1, 660), 5, np.uint8), np.full((2, 660), 5, np.uint8)
    query[0, :200], reference[0, :200], reference[1, 150:300] = 1, 1, 1
    reference[0, :50] = 2
    assert identities(query, reference).tolist() == [[.75, 0]]         # 50 columns in common are too few


def test_what_is_found_again_without_labels(mine, tmp_path, linear):
    questions = OwnQuestions(parted(prepare(mine, tmp_path/'store')))
    assert not questions.seen and set(questions.query) <= set(questions.reference)
    plain, whitened = own_rows(linear, questions)
    assert (plain['reading'], whitened['reading']) == READINGS
    assert plain['percent'][STRAND][0] == 100                          # it is the same vector
    assert plain['percent']['one base deleted'][0] > plain['percent']['130 bases'][0]
    own = np.eye(len(questions.query), len(questions.reference))
    at = [questions.reference.index(b) for b in questions.query]
    perfect = np.eye(len(questions.reference))[at]
    assert questions.right(perfect).all() and own.shape == perfect.shape
    assert questions.right(questions.identity.copy(), True).all()      # identity itself finds the most similar


def test_one_command_trains_and_compares_with_the_default(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, 'LABELLED', 'no such data set')
    small = [('steps', '2'), ('hidden_size', '32'), ('layers', '1'), ('heads', '2'), ('decoder_hidden_size', '32'),
             ('decoder_layers', '1'), ('decoder_heads', '2'), ('aligned', 'true')]
    command = ['train', '-o', str(tmp_path/'run'), '--preset', 'demo', '--dataset', str(mine)]
    command += [word for pair in small for word in ('-p', *pair)]
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if re.match(r'(run|default|6-mers) +plain', line)]
    assert [line.split()[0] for line in lines] == ['run', 'default', '6-mers'] and 'nearest to itself' in text
    assert cli.main(command) == 0                                       # resumed: what is kept is told again
    assert capsys.readouterr().out == text
    found = commands.train(tmp_path/'run', 'demo', mine, dict((n, commands._value(v)) for n, v in small))
    assert [row['name'] for row in found['ladder'][0]['rows'][::2]][:2] == ['run', 'default']


def test_the_command_compares_on_labels(tmp_path, monkeypatch, capsys, gene):
    untrained_encoder(BarcodeMAEConfig(**SHAPE, reference=gene)).save_pretrained(tmp_path/'mine')
    own = compare.open_embedder
    def quick_open(encoder, compute=None, name=None):
        if encoder == 'default': return own(tmp_path/'mine', compute, 'default')
        return own(encoder, compute, name)
    monkeypatch.setattr(compare, 'open_embedder', quick_open)           # the library's own takes a minute
    monkeypatch.setattr(compare, 'Questions', lambda dataset, final=False: Questions(dataset, final, (), 300))
    quick = compare.cheap_rungs
    monkeypatch.setattr(compare, 'cheap_rungs', lambda *a: {'components': quick(*a)['components']})
    monkeypatch.setattr(compare, 'load_settings', lambda: type('S', (), dict(cache=tmp_path, device='cpu')))
    assert cli.main(['ladder', str(tmp_path/'mine'), '--dataset', 'demo']) == 0
    text = capsys.readouterr().out
    assert 'PCA of aligned bases, 32' in text and 'val_unseen' in text and 'points [' in text
    kept = list((tmp_path/'ladder').glob('*.json'))
    assert len(kept) == 2                                               # they are not measured again
    before = [p.stat().st_mtime_ns for p in kept]
    assert cli.main(['ladder', str(tmp_path/'mine'), '--dataset', 'demo']) == 0
    assert [p.stat().st_mtime_ns for p in kept] == before
    monkeypatch.setattr(compare, 'LABELLED', 'demo')                    # as after training, of very few barcodes
    for _ in range(2):                                                  # measured, then read
        found, = compare.after_training(tmp_path/'mine', range(10))
        assert [row['name'] for row in found['rows']] == ['mine', 'default', 'PCA of aligned bases, 32']
        assert 'mine minus default: +0.0 points' in str(found)


def test_final_needs_labels(mine, tmp_path, gene, capsys):
    untrained_encoder(BarcodeMAEConfig(**SHAPE, reference=gene)).save_pretrained(tmp_path/'mine')
    assert cli.main(['ladder', str(tmp_path/'mine'), '--dataset', str(mine), '--final']) == 1
    assert 'Fix: leave out --final' in capsys.readouterr().err
