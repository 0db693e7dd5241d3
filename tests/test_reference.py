"What a reference takes, keeps, replaces, gives back and refuses, whoever writes to it and however it ends."
import os, shlex, shutil, subprocess, sys, threading
from pathlib import Path
import numpy as np, polars as pl, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from barcodemae import cli
from barcodemae.core import InputError, read_json, write_json
from barcodemae.data.align import consensus
from barcodemae.data.names import LINEAGE
from barcodemae.data.store import load_dataset
from barcodemae.evaluation.knn import untrained_encoder
from barcodemae.data import relatives
from barcodemae.identification import candidates, reference as module
from barcodemae.identification.indexing import _ids, index
from barcodemae.identification.intake import Intake
from barcodemae.identification.model import save_model
from barcodemae.identification.parts import LABELS, locked
from barcodemae.identification.reference import Adding, Reference, make_reference, remove_records
from barcodemae.model.mae import BarcodeMAEConfig

SOME = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

@pytest.fixture(scope='module')
def world(tmp_path_factory): # a small model, 60 labelled barcodes
    place, store = tmp_path_factory.mktemp('reference'), load_dataset('demo')
    some = np.array(store.bases[store.rows('pretrain')[:800]])
    shape = dict(k=4, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    model = save_model(place/'model', untrained_encoder(BarcodeMAEConfig(**shape, reference=consensus(some))), some)
    rows = store.rows('train')[:60]
    names = {c: store.labels(c, rows) for c in ('processid', 'family', 'genus', 'species')}
    frame = pl.DataFrame(names | dict(dna_barcode=store.sequences(rows)))
    frame.write_csv(place/'all.csv')
    return dict(place=place, store=store, model=model, frame=frame, source=place/'all.csv')

def write(world, path, **columns): # the world's barcodes, some columns changed
    world['frame'].with_columns(**columns).write_csv(path)
    return path

def fasta(frame, path):
    lines = (f'>{r["processid"]};tax=f:{r["family"]},g:{r["genus"]},s:{r["species"]}\n{r["dna_barcode"]}\n'
             for r in frame.iter_rows(named=True))
    path.write_text(''.join(lines))
    return path

def run(world, *arguments, stdin=None): # the command in a process of its own
    done = subprocess.run([sys.executable, '-c',
        'import sys; from barcodemae.cli import main; sys.exit(main())', *map(str, arguments), '--model',
        str(world['place']/'model')], input=stdin, capture_output=True, text=True, cwd=world['place'])
    return done.returncode, done.stderr

# state of the folder

def dies_after(n, real=module.write_part):
    made = []
    def write_part(*a):
        if len(made) == n: raise KeyboardInterrupt
        made.append(1)
        return real(*a)
    return write_part

def test_an_unfinished_reference_is_refused_with_the_command_that_finishes_it(world, tmp_path, monkeypatch):
    whole, _ = make_reference(world['source'], tmp_path/'whole', world['model'], block=20)
    how = dict(model=world['model'], block=20, adding=Adding(command='barcodemae index all.csv -o part'))
    monkeypatch.setattr(module, 'write_part', dies_after(1))
    with pytest.raises(KeyboardInterrupt): make_reference(world['source'], tmp_path/'part', **how)
    with pytest.raises(InputError, match='unfinished.*barcodemae index all.csv -o part'):
        Reference(tmp_path/'part', world['model'])
    monkeypatch.undo()
    again, counts = make_reference(world['source'], tmp_path/'part', **how)
    assert counts['there'] == 20 and counts['added'] == 40 and again.labels.equals(whole.labels)
    assert again.content == whole.content and len(Reference(tmp_path/'part', world['model'])) == 60

def test_an_addition_that_was_stopped_leaves_what_was_there(world, tmp_path, monkeypatch):
    world['frame'][:20].write_csv(tmp_path/'some.csv')
    first, _ = make_reference(tmp_path/'some.csv', tmp_path/'r', world['model'], block=20)
    monkeypatch.setattr(module, 'write_part', dies_after(1))
    with pytest.raises(KeyboardInterrupt): make_reference(world['source'], tmp_path/'r', world['model'], block=20)
    with pytest.warns(UserWarning, match='stopped.*Finish it with'): now = Reference(tmp_path/'r', world['model'])
    assert now.content == first.content
    with pytest.raises(InputError, match='unfinished'): remove_records(tmp_path/'r', ['x'], world['model'])
    monkeypatch.undo()
    assert len(make_reference(world['source'], tmp_path/'r', world['model'], block=20)[0]) == 60

def test_the_command_that_is_told_finishes_it(world, tmp_path, monkeypatch):
    folder = tmp_path/'with blank'/'r'
    monkeypatch.setattr(module, 'write_part', dies_after(0))
    with pytest.raises(KeyboardInterrupt):
        index([world['source']], folder, splits=(), model=str(world['place']/'model'), quiet=True)
    with pytest.raises(InputError) as e: Reference(folder, world['model'])
    monkeypatch.undo()
    words = shlex.split(e.value.fix.partition(': ')[2])
    assert words[:2] == ['barcodemae', 'index'] and cli.main(words[1:] + ['--quiet']) == 0
    assert len(Reference(folder, world['model'])) == 60

def test_two_writers_wait_for_each_other(world, tmp_path, capsys):
    world['frame'][:40].write_csv(tmp_path/'a.csv')
    world['frame'][20:].write_csv(tmp_path/'b.csv')
    failed = []
    def add(name):
        try: make_reference(tmp_path/name, tmp_path/'r', world['model'])
        except Exception as e: failed.append(e)
    with locked(tmp_path/'r'):
        writers = [threading.Thread(target=add, args=[name]) for name in ('a.csv', 'b.csv')]
        for w in writers: w.start()
        for w in writers: w.join(.5)
        assert not (tmp_path/'r'/'reference.json').exists()
    for w in writers: w.join()
    made = Reference(tmp_path/'r', world['model'])
    assert not failed and sorted(made.labels['processid']) == sorted(world['frame']['processid'])
    assert capsys.readouterr().err.count('waiting') == 2

def test_what_cannot_be_used_leaves_no_trace(world, tmp_path):
    model = world['model']
    write(world, tmp_path/'unlabelled.csv', family=pl.lit(''), genus=pl.lit(''), species=pl.lit(''))
    with pytest.raises(InputError, match='no barcode with a name'):
        make_reference(tmp_path/'unlabelled.csv', tmp_path/'r', model)
    assert not (tmp_path/'r').exists()
    (tmp_path/'full').mkdir(); (tmp_path/'full'/'thesis.docx').touch()
    with pytest.raises(InputError, match='something else'): make_reference(world['source'], tmp_path/'full', model)
    assert [p.name for p in (tmp_path/'full').iterdir()] == ['thesis.docx']
    made, _ = make_reference(world['source'], tmp_path/'r', model)
    before = read_json(tmp_path/'r'/'reference.json')
    with pytest.raises(InputError): make_reference(tmp_path/'nothing.csv', tmp_path/'r', model)
    with pytest.raises(InputError, match='partition nope; there are'):
        make_reference(world['source'], tmp_path/'r', model, ('nope',))
    assert read_json(tmp_path/'r'/'reference.json') == before
    assert Reference(tmp_path/'r', model).content == made.content

def test_a_reference_of_the_format_before_opens_and_is_not_written(world, tmp_path):
    made, _ = make_reference(world['source'], tmp_path/'r', world['model'])
    meta = read_json(tmp_path/'r'/'reference.json')
    write_json(tmp_path/'r'/'reference.json', {k: v for k, v in meta.items() if k not in ('parts', 'unfinished')} | dict(format=2))
    for part in made.parts:
        old = [c for c in LABELS if c not in ('kingdom', 'key', 'flags', 'copies', 'length')]
        pl.read_ipc(part/'labels.arrow').select(old).write_ipc(part/'new')
        os.replace(part/'new', part/'labels.arrow')
    now = Reference(tmp_path/'r', world['model'])
    assert now.content == made.content and now.labels['kingdom'].null_count() == 60
    with pytest.raises(InputError, match='not be added to'):
        make_reference(world['source'], tmp_path/'r', world['model'])

# records

def test_ids_that_repeat_keep_all_barcodes(world, tmp_path):
    write(world, tmp_path/'species.csv', processid=pl.col('species'))
    made, counts = make_reference(tmp_path/'species.csv', tmp_path/'r', world['model'])
    assert len(made) == 60 == counts['added']
    assert counts['repeated ids'] == 60 - world['frame']['species'].n_unique() and made.examples['repeated ids']
    assert make_reference(tmp_path/'species.csv', tmp_path/'r', world['model'])[1]['there'] == 60

def test_corrected_names_replace_those_that_are_there(world, tmp_path):
    first, _ = make_reference(world['source'], tmp_path/'r', world['model'], block=25)
    name = world['frame']['species'][0]
    write(world, tmp_path/'c.csv', species=pl.col('species').replace(name, 'Aedes aegypti'))
    now, counts = make_reference(tmp_path/'c.csv', tmp_path/'r', world['model'])
    n = int((world['frame']['species'] == name).sum())
    assert counts['replaced'] == n and counts['there'] == 60 - n and counts['added'] == 0
    assert f"{world['frame']['processid'][0]}: {name} -> Aedes aegypti" in now.examples['replaced']
    assert name not in now.names['species'] and 'Aedes aegypti' in now.names['species']
    assert now.content != first.content and (now.bases[:] == first.bases[:]).all()
    whole, _ = make_reference(tmp_path/'c.csv', tmp_path/'w', world['model'], block=25)
    assert now.content == whole.content

def test_equal_records_are_counted_and_indexing_again_changes_nothing(world, tmp_path):
    double = pl.concat([world['frame'], world['frame'][:10].with_columns(processid=pl.col('processid') + 'b')])
    double.write_csv(tmp_path/'d.csv')
    made, counts = make_reference(tmp_path/'d.csv', tmp_path/'r', world['model'])
    assert counts['repeats'] == 10 and made.labels['copies'].sum() == 70 and len(made) == 60
    again, counts = make_reference(tmp_path/'d.csv', tmp_path/'r', world['model'])
    assert counts['there'] == 60 and again.labels.equals(made.labels) and again.content == made.content

@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 8), st.sampled_from('abc'), st.sampled_from(['x', 'y', None])), min_size=1, max_size=40),
       st.sampled_from([('a',), ('b',), ('a', 'c')]))
def test_partitions_are_those_of_the_store(tmp_path_factory, rows, splits):
    bases = [''.join(np.random.default_rng(i).choice(list('ACGT'), 700 if i % 2 else 130)) for i in range(9)]
    frame = pl.DataFrame(dict(processid=[f'P{i}' for i in range(len(rows))], genus=['G'] * len(rows),
        species=[s for _, _, s in rows], dna_barcode=[bases[b] for b, *_ in rows], split=[s for _, s, _ in rows]),
        schema_overrides=dict(species=pl.String))
    file = tmp_path_factory.mktemp('p')/'t.csv'
    frame.write_csv(file)
    store = load_dataset(file)
    lacking = {c: pl.lit(None, pl.String) for c in (*LINEAGE, 'dna_bin') if c not in frame.columns}
    intake = Intake(pl.DataFrame(schema=LABELS), splits)
    found = pl.concat([intake(frame.with_columns(**lacking)[i:i + 7]) for i in range(0, len(rows), 7)])
    have = [s for s in splits if s in store.splits]
    assert dict(intake.partitions) == store.splits
    expected = store.labels('processid', store.rows(*have)).tolist() if have else []
    assert found['processid'].to_list() == expected

def test_no_barcode_of_another_partition_enters(world, tmp_path):
    split = ['test', 'train'] * 30
    frame = world['frame'].with_columns(split=pl.Series(split))
    again = frame.with_columns(processid=pl.col('processid') + '-2', split=pl.col('split').replace_strict(
        dict(test='train', train='test')))
    pl.concat([frame, again]).write_csv(tmp_path/'t.csv')
    made, _ = make_reference(tmp_path/'t.csv', tmp_path/'r', world['model'], ('train',))
    store = load_dataset(tmp_path/'t.csv')
    assert made.labels['processid'].to_list() == store.labels('processid', store.rows('train')).tolist()

# removal

def test_records_are_removed_and_the_rest_is_what_it_was(world, tmp_path):
    first, _ = make_reference(world['source'], tmp_path/'r', world['model'], block=20)
    ids = world['frame']['processid'][5:30].to_list()
    now, gone, lacking = remove_records(tmp_path/'r', [*ids, 'X1'], world['model'])
    keep = ~first.labels['processid'].is_in(ids).to_numpy()
    assert gone['processid'].to_list() == ids and lacking == ['X1'] and len(now) == 35 == now.labels['key'].n_unique()
    order = [first.labels['processid'].to_list().index(i) for i in now.labels['processid']]
    assert sorted(order) == np.flatnonzero(keep).tolist()
    for name in ('bases', 'vectors', 'bits'): assert (getattr(now, name)[:] == getattr(first, name)[order]).all()
    for p in now.parts:
        rows = np.load(p/'kmer_rows.npy')
        assert len(rows) == np.load(p/'kmer_starts.npy')[-1] and rows.max() < len(np.load(p/'bases.npy'))
    with pytest.raises(InputError, match='nothing would be left'):
        remove_records(tmp_path/'r', world['frame']['processid'].to_list(), world['model'])
    assert len(make_reference(world['source'], tmp_path/'r', world['model'])[0]) == 60

@pytest.mark.parametrize('form', ['ids', 'table', 'report', 'fasta', 'pipe'])
def test_ids_to_remove_come_in_any_form(world, tmp_path, form, capsys):
    make_reference(world['source'], tmp_path/'r', world['model'])
    some, file = world['frame'][:3], tmp_path/'wrong.txt'
    if form == 'ids': file.write_text('# wrong\n' + '\n'.join(some['processid']) + '\nX1\n')
    if form == 'table': some.select('species', 'processid').write_csv(file)
    if form == 'report': some.select(pl.lit('short').alias('finding'), pl.col('processid').alias('record')).write_csv(file, separator='\t')
    if form == 'fasta': fasta(some, file)
    if form == 'pipe':
        os.mkfifo(file)
        threading.Thread(target=lambda: file.write_text('\n'.join(some['processid'])), daemon=True).start()
    how = ('--model', world['place']/'model')
    assert cli.main([str(a) for a in ('index', '--remove', file, '-o', tmp_path/'r', *how)]) == 0
    assert len(Reference(tmp_path/'r', world['model'])) == 57
    said = capsys.readouterr().err
    assert '3 records removed' in said and ('1 ids are not in' in said) == (form == 'ids')

def test_a_reference_of_which_nothing_would_be_left_stays_whole(world, tmp_path, recwarn):
    made, _ = make_reference(world['source'], tmp_path/'r', world['model'], block=20)
    with pytest.raises(InputError, match='nothing would be left'):
        remove_records(tmp_path/'r', made.labels['processid'], world['model'])
    again = Reference(tmp_path/'r', world['model'])
    assert again.content == made.content and not again.meta['unfinished'] and not recwarn.list

@pytest.mark.parametrize('text,ids', {'species;Sample ID;seqid\nA "x;9;FX1\nB;8;FX2\n': ['FX1', 'FX2'],
    'Feature ID\tTaxon\nFX1\t"a\nFX2\tb\n': ['FX1', 'FX2'], '>FX1 a\n\n>\nACGT\n>FX2|x;tax=g:A\n???!\n': None,
    '# wrong\nFX1\n\n"FX2"\n': ['FX1', 'FX2'], 'FX1\twrong\nFX2\twrong\n': ['FX1', 'FX2']}.items())
def test_ids_are_read_by_the_readers_of_barcodes(tmp_path, text, ids):
    (tmp_path/'t').write_text(text)
    found = list(_ids(tmp_path/'t'))
    assert found == ids if ids else found[0] == 'FX1' and len(found) == 2

# the command

def test_a_reference_comes_through_pipes_and_in_several_files(world, tmp_path):
    fasta(world['frame'], tmp_path/'all.fasta')
    os.mkfifo(tmp_path/'pipe')
    text = (tmp_path/'all.fasta').read_text()
    threading.Thread(target=lambda: (tmp_path/'pipe').write_text(text), daemon=True).start()
    rc, said = run(world, 'index', tmp_path/'pipe', '-o', tmp_path/'piped')
    assert rc == 0, said
    assert len(Reference(tmp_path/'piped', world['model'])) == 60
    world['frame'][:30].write_csv(tmp_path/'a.csv')
    fasta(world['frame'][20:], tmp_path/'b.fasta')
    rc, said = run(world, 'index', tmp_path/'a.csv', tmp_path/'b.fasta', '-o', tmp_path/'two')
    assert rc == 0 and '60 added' in said, said
    two = Reference(tmp_path/'two', world['model'])
    assert sorted(two.labels['processid']) == sorted(world['frame']['processid'])

def test_corrections_are_told(world, tmp_path, capsys):
    make_reference(world['source'], tmp_path/'r', world['model'])
    write(world, tmp_path/'c.csv', species=pl.lit('Aedes aegypti'))
    assert cli.main([str(a) for a in ('index', tmp_path/'c.csv', '-o', tmp_path/'r', '--model', world['place']/'model')]) == 0
    said = capsys.readouterr().err
    assert 'labels of 60 records replaced (such as ' in said and '-> Aedes aegypti' in said
    assert '60 barcodes of 1 species are too few' in said

def test_bin_and_kingdom_are_kept(world, tmp_path):
    write(world, tmp_path/'b.csv', dna_bin=pl.lit('BOLD:AAA1234'), split=pl.lit('train'))
    made, _ = make_reference(tmp_path/'b.csv', tmp_path/'r', world['model'])
    assert made.labels['dna_bin'].unique().to_list() == ['BOLD:AAA1234'] and 'kingdom' in made.labels.columns


def indexed(world, frame, path, folder):
    frame.write_csv(path)
    return index(path, folder, model=world['model'].folder, quiet=True)

@pytest.mark.filterwarnings('ignore:.*too few')
def test_a_correction_keeps_what_it_does_not_tell(world, tmp_path):
    "Higher ranks and BIN, where the genus stays; a name that is taken back goes."
    one = world['frame'][:1].with_columns(order=pl.lit('Diptera'), dna_bin=pl.lit('BOLD:AAA1234'))
    indexed(world, one, tmp_path/'a.csv', tmp_path/'r')
    told = one.select('processid', 'dna_barcode', 'genus', species=pl.format('{} novella', 'genus'))
    labels = indexed(world, told, tmp_path/'b.csv', tmp_path/'r').labels
    assert len(labels) == 1 and labels['species'][0].endswith(' novella')
    kept = ('order', 'family', 'dna_bin')
    assert labels.select(kept).rows() == one.select(kept).rows()
    labels = indexed(world, told.drop('species'), tmp_path/'c.csv', tmp_path/'r').labels
    assert labels['species'][0] is None and labels['family'][0] == one['family'][0]
    other = told.with_columns(genus=pl.lit('Aedes'), species=pl.lit('Aedes vexans'))
    assert indexed(world, other, tmp_path/'d.csv', tmp_path/'r').labels['family'][0] is None

def test_a_file_of_other_markers_says_so(world, tmp_path):
    with pytest.raises(InputError, match=r'no record of COI, only of 16S \(3\)'):
        indexed(world, world['frame'][:3].with_columns(marker_code=pl.lit('16S')), tmp_path/'a.csv', tmp_path/'r')


# -- what is kept beside the parts -----------------------------------------------------------------------

def everything(reference): # that an answer depends on
    return (reference.content, reference.groups.tolist(), {r: n.tolist() for r, n in reference.number.items()},
            {r: n.tolist() for r, n in reference.names.items()})


def test_taxa_that_are_kept_are_those_that_labels_give(world, tmp_path):
    made, _ = make_reference(world['source'], tmp_path/'r', world['model'], block=20)
    assert read_json(tmp_path/'r'/'reference.json')['taxa'] and everything(Reference(tmp_path/'r', world['model'])) == everything(made)
    table = write(world, tmp_path/'named.csv', genus=pl.lit('Nova'), species=pl.lit('Nova nova'))
    corrected, _ = make_reference(table, tmp_path/'r', world['model'])
    assert corrected.names['genus'].tolist() == ['Nova']
    for folder in (tmp_path/'r').glob('taxa-*'): shutil.rmtree(folder)     # worked out again
    assert everything(Reference(tmp_path/'r', world['model'])) == everything(corrected)


def test_a_correction_that_is_killed_leaves_no_taxa_of_other_labels(world, tmp_path, monkeypatch):
    make_reference(world['source'], tmp_path/'r', world['model'])
    table = write(world, tmp_path/'named.csv', genus=pl.lit('Nova'), species=pl.lit('Nova nova'))
    monkeypatch.setattr(module, '_finished', lambda *_: 1 / 0)             # after the labels are written
    with pytest.raises(ZeroDivisionError): make_reference(table, tmp_path/'r', world['model'])
    with pytest.warns(UserWarning, match='was stopped'):
        assert Reference(tmp_path/'r', world['model']).names['genus'].tolist() == ['Nova']


def test_a_part_of_the_format_before_is_read_and_added_to(world, tmp_path):
    made, _ = make_reference(world['source'], tmp_path/'r', world['model'], block=40)
    codes = [b[b < 4] for b in made.bases[:5]]
    found = list(made.pool.shared_kmers(codes))
    for part in made.parts: # as format 3 had it: a k-mer for each row
        kmers, starts = np.load(part/'kmers.npy'), np.load(part/'kmer_starts.npy')
        np.save(part/'kmers.npy', np.repeat(kmers, np.diff(starts)))
        (part/'kmer_starts.npy').unlink()
    meta = read_json(tmp_path/'r'/'reference.json')
    write_json(tmp_path/'r'/'reference.json', {k: v for k, v in meta.items() if k != 'taxa'} | dict(format=3))
    old = Reference(tmp_path/'r', world['model'])
    assert everything(old) == everything(made)
    for one, other in zip(found, old.pool.shared_kmers(codes), strict=True):
        assert all((a == b).all() for a, b in zip(one, other))
    ids = world['frame']['processid'][:3].to_list()
    assert len(remove_records(tmp_path/'r', ids, world['model'])[0]) == 57
    assert len(make_reference(world['source'], tmp_path/'r', world['model'])[0]) == 60


def test_a_large_reference_is_searched_by_cells_until_it_changes(world, tmp_path, monkeypatch):
    pytest.importorskip('faiss')
    for place in (module, candidates): monkeypatch.setattr(place, 'EXACT', 20)
    exact, _ = make_reference(world['source'], tmp_path/'r', world['model'])
    query = exact.matrix[:7]
    before = exact.search(query, 5)
    assert not exact.cells
    candidates.sort_into_cells(exact, quiet=True)
    made = Reference(tmp_path/'r', world['model'])
    assert made.cells and read_json(tmp_path/'r'/'cells.json')['recall'] >= .99
    np.testing.assert_allclose(made.search(query, 5)[1], before[1], atol=1e-3)
    without = (np.arange(60), np.arange(7))
    assert (made.search(query, 5, without)[0] != np.arange(7)[:, None]).all()
    now, *_ = remove_records(tmp_path/'r', world['frame']['processid'][:1].to_list(), world['model'])
    assert not now.cells


@SOME
@given(st.integers(0, 59), st.integers(1, 5000))
def test_a_barcode_shares_most_kmers_with_itself_however_few_are_looked_up(world, i, most):
    rows = [r[r < 4] for r in world['model'].align(world['frame']['dna_barcode'].to_list())]
    pool = relatives.Pool(rows, [(relatives.kmer_index(rows[:25]), 0), (relatives.kmer_index(rows[25:]), 25)], None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relatives, 'MOST_HITS', most)
        [(found, shared)] = pool.shared_kmers([rows[i]])
    assert shared[found == i].tolist() == [shared.max()]
