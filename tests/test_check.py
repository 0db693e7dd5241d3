"What a check of a reference finds, and what it does not."
import numpy as np, polars as pl, pytest
from barcodemae import cli
from barcodemae.data.noise import reverse_complement
from barcodemae.data.labelled import Labelling
from barcodemae.data.store import load_dataset
from barcodemae.identification.audit import Near, exchange_names, find_near, find_suspects, species_table
from barcodemae.identification.check import FINDINGS, SCHEMA, check
from barcodemae.identification.check_page import SHOWN, draw_gap
from barcodemae.identification.model import Model
from barcodemae.identification.reference import Adding, make_reference

@pytest.fixture(scope='module')
def frame(): # 200 barcodes of the demo
    store = load_dataset('demo')
    rows = store.rows('train')[:200]
    names = {c: store.labels(c, rows) for c in ('processid', 'family', 'genus', 'species', 'dna_bin')}
    return pl.DataFrame(names | dict(dna_barcode=store.sequences(rows)))

def checked(frame, folder): # the table of findings
    frame.write_csv(folder/'t.csv')
    make_reference(folder/'t.csv', folder/'r', Model())
    return check(folder/'r', quiet=True)

def of(found, what): return found.filter(pl.col('finding') == what)

def test_sound_barcodes_are_not_accused(frame, tmp_path):
    found = checked(frame, tmp_path)
    assert found.schema == pl.Schema(SCHEMA)
    assert not len(of(found, 'label unlike its neighbours')) and not len(of(found, 'reversed'))
    grades = found.filter(pl.col('finding').str.starts_with('grade'))
    assert sorted(grades['species']) == sorted(frame['species'].unique())

def test_exchanged_names_are_found(frame, tmp_path):
    a, b = 0, int((frame['family'] != frame['family'][0]).arg_max())
    order = np.arange(len(frame)); order[[a, b]] = b, a
    names = ['family', 'genus', 'species']
    wrong = frame.with_columns(frame[order].select(names))
    found = of(checked(wrong, tmp_path), 'label unlike its neighbours')
    assert set(found['record']) == {frame['processid'][a], frame['processid'][b]}
    assert any(frame['species'][a] in d for d in found['detail'])

def test_bins_against_species(frame, tmp_path):
    names = frame['species'].unique(maintain_order=True)
    bins = pl.col('species').replace_strict({n: f'BOLD:{i:07d}' for i, n in enumerate(names)})
    one = frame.with_columns(dna_bin=bins)
    assert not len(of(checked(one, tmp_path), 'several species in one BIN'))
    first, second = one.filter(pl.col('species').is_in(names[:2].to_list()))['dna_bin'].unique(maintain_order=True)
    rows = (one['species'] == names[0]).arg_true()
    split = one.with_row_index().with_columns(dna_bin=pl.when(pl.col('index') == rows[0]).then(pl.lit(second)).otherwise('dna_bin'))
    (tmp_path/'2').mkdir()
    found = checked(split.drop('index'), tmp_path/'2')
    shared, several = of(found, 'several species in one BIN'), of(found, 'one species in several BINs')
    assert len(shared) == 1 and second in shared['detail'][0] and several['species'].to_list() == [names[0]]
    assert of(found, 'grade E')['species'].to_list() == sorted(names[:2])

@pytest.mark.parametrize('n, bins, shared, grade', [(11, 1, False, 'A'), (10, 1, False, 'B'), (3, 1, False, 'B'),
    (2, 1, False, 'D'), (12, 2, False, 'C'), (2, 2, False, 'C'), (12, 1, True, 'E')])
def test_grades(n, bins, shared, grade):
    species = pl.Series(['S'] * n + ['T'])
    codes = [f'B{i % bins}' for i in range(n)] + ['B0' if shared else 'X']
    labels = pl.DataFrame(dict(species=species, copies=[1] * (n + 1)))
    class Few:
        number = dict(species=np.r_[np.zeros(n, int), 1])
        bits = np.zeros((n + 1, 3, 3, 4), np.uint64)
    Few.labels = labels
    nothing = np.full((n + 1, 1), np.inf, np.float32)
    near = Near(np.zeros((n + 1, 1), int), nothing, np.zeros(n + 1, int), nothing[:, 0])
    table = species_table(Few, near, pl.Series(codes), quiet=True)
    assert table.filter(pl.col('species') == 'S')['grade'][0] == grade

def test_odd_sequences_are_told(frame, tmp_path):
    barcodes = frame['dna_barcode'].to_list()
    barcodes[0] = reverse_complement(barcodes[0])
    barcodes[1] = barcodes[1][:300]
    barcodes[2] = barcodes[2][:200] + 'N' * 20 + barcodes[2][220:]
    barcodes[3] = barcodes[3][:300] + barcodes[3][301:]
    frame = frame.with_columns(dna_barcode=pl.Series(barcodes))
    twice = pl.concat([frame, frame[4:5].with_columns(processid=frame['processid'][5:6])])
    extra = twice.with_columns(dna_barcode=pl.when(pl.int_range(pl.len()) == len(frame)).then(
        pl.col('dna_barcode').str.slice(0, 520)).otherwise('dna_barcode'))
    found, ids = checked(extra, tmp_path), frame['processid']
    for what, i in {'reversed': 0, 'short': 1, 'unknown bases': 2, 'frame shift': 3, 'same id, other barcode': 5}.items():
        assert ids[i] in of(found, what)['record'].to_list(), what

def test_one_barcode_of_two_species(frame, tmp_path):
    other = int((frame['species'] != frame['species'][0]).arg_max())
    same = frame[:1].with_columns(processid=pl.lit('X1'), species=pl.lit(frame['species'][other]))
    found = of(checked(pl.concat([frame, same]), tmp_path), 'same barcode, several species')
    assert len(found) == 1 and frame['processid'][0] in found['record'][0] + found['other'][0]

def test_without_bins_clusters_serve(frame, tmp_path):
    found = checked(frame.drop('dna_bin'), tmp_path)
    assert found.filter(pl.col('finding').str.starts_with('grade'))['detail'].str.contains('cluster').all()

def test_one_barcode_and_names_without_species(frame, tmp_path):
    assert len(checked(frame[:1], tmp_path))
    (tmp_path/'2').mkdir()
    found = checked(frame.with_columns(species=pl.lit(None, pl.String)), tmp_path/'2')
    assert not found['finding'].str.starts_with('grade').any()

def test_the_command_writes_a_table_and_a_page(frame, tmp_path, capsys):
    odd = frame.with_columns(species=pl.when(pl.int_range(pl.len()) == 0).then(pl.lit('<script>x</script>')).otherwise('species'))
    odd.write_csv(tmp_path/'t.csv')
    make_reference(tmp_path/'t.csv', tmp_path/'r', Model(), adding=Adding(Labelling(keep_names=True)))
    run = lambda *a: cli.main(['check', str(tmp_path/'r'), '--quiet', *map(str, a)])
    assert run('-o', tmp_path/'c.tsv') == 0 and run('-o', tmp_path/'c.html') == 0
    table = pl.read_csv(tmp_path/'c.tsv', separator='\t', infer_schema=False)
    assert table.columns == list(SCHEMA)
    page = (tmp_path/'c.html').read_text()
    assert '<svg' in page and '<script>x' not in page and 'src=' not in page and '&lt;script&gt;x' in page
    assert run() == 0 and capsys.readouterr().out.startswith('finding\trecord')
    assert run('--format', 'html') == 1 and 'name one with -o' in capsys.readouterr().err

def test_a_simulation_gives_names_of_another_genus(rng=np.random.default_rng(0)):
    number = dict(genus=np.repeat(np.arange(10), 10), species=np.repeat(np.arange(50), 2), family=np.repeat([0, 1], 50))
    new, wrong = exchange_names(number, .1, rng, 'family')
    assert wrong.sum() == 10 and (new['genus'][wrong] != number['genus'][wrong]).all()
    assert (new['family'] == number['family']).all() and (new['genus'][~wrong] == number['genus'][~wrong]).all()

def test_neighbours_are_not_oneself_nor_of_the_own_species(frame, tmp_path):
    frame.write_csv(tmp_path/'t.csv')
    r, _ = make_reference(tmp_path/'t.csv', tmp_path/'r', Model())
    near, one = find_near(r, quiet=True), np.arange(len(r))
    assert not (np.isfinite(near.different) & (near.rows == one[:, None])).any()
    far = np.isfinite(near.other_different)
    assert far.all() and (r.number['species'][near.other] != r.number['species']).all()
    assert not len(find_suspects(r.number, near).row)
