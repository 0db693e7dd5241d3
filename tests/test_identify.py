"Comparing sites, references that grow and refuse, answers, and the command `barcodemae`."
import base64, gzip, io, json, os, re, shutil, subprocess, sys
from pathlib import Path
import numpy as np, polars as pl, pytest
from barcodemae import cli
from barcodemae.identification import commands as tool
from barcodemae.core import InputError, read_json, write_json
from barcodemae.identification.candidates import ShortList
from barcodemae.embedding.neighbours import nearest
from barcodemae.identification.confidence import fit_calibration, probability
from barcodemae.identification.taxa import TAXA, assign_taxa
from barcodemae.identification.classifier import Identifier
from barcodemae.identification.cluster import single_linkage
from barcodemae.evaluation.knn import untrained_encoder
from barcodemae.model.mae import BarcodeMAEConfig
from barcodemae.identification.model import DEFAULT_MODEL, Model
from barcodemae.identification.reference import Reference, Rows, make_reference
from barcodemae.data.align import consensus
from barcodemae.data.noise import reverse_complement
from barcodemae.identification.sites import bit_planes, differences
from barcodemae.data.store import load_dataset

def write_fasta(path, barcodes, header, *labels): # header: a format of the number and the labels
    records = enumerate(zip(barcodes, *labels))
    path.write_text(''.join(f'>{header.format(i, *of)}\n{b}\n' for i, (b, *of) in records))


@pytest.fixture(scope='module')
def world(tmp_path_factory): # a model, a reference and query files of the demo
    place, store = tmp_path_factory.mktemp('identify'), load_dataset('demo')
    some = np.array(store.bases[store.rows('pretrain')[:800]])
    shape = dict(k=4, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    untrained_encoder(BarcodeMAEConfig(**shape, reference=consensus(some))).save_pretrained(place/'run')
    model = tool.fit(place/'run', 'demo', place/'model', quiet=True)
    tool.index('demo', place/'reference', model=place/'model', splits=('train',), quiet=True)
    rows = store.rows('test')[:40]
    write_fasta(place/'q.fasta', store.sequences(rows), 'q{}')
    return dict(place=place, store=store, model=model, rows=rows, barcodes=store.sequences(rows))

HOW = ('--model', 'model', '--quiet')
ASK = ('identify', 'q.fasta', '--reference', 'reference', *HOW)
PROGRAM = os.environ.get('BARCODEMAE_PROGRAM') # run the installed program instead (minutes)

def run(world, *arguments): # status; paths are relative to the world's folder
    if PROGRAM:
        how = dict(cwd=world['place'], capture_output=True, text=True)
        done = subprocess.run([PROGRAM, *map(str, arguments)], **how)
        sys.stdout.write(done.stdout); sys.stderr.write(done.stderr)
        return done.returncode
    here = os.getcwd(); os.chdir(world['place'])
    try: return cli.main([str(a) for a in arguments])
    finally: os.chdir(here)

# sites

@pytest.mark.parametrize('phase', [0, 1, 2])
def test_differences_are_those_of_the_bases(phase):
    a, b = (np.random.default_rng(i).integers(0, 6, (20, 660)).astype(np.uint8) for i in range(2))
    found = differences(bit_planes(a, phase), bit_planes(b, phase))
    known, x = (a < 4) & (b < 4), a ^ b
    for p in range(3):
        at = np.arange(660) % 3 == (phase + 1 + p) % 3
        assert (found[0][:, p] == (known & (x == 2))[:, at].sum(1)).all()
        assert (found[1][:, p] == (known & ((x == 1) | (x == 3)))[:, at].sum(1)).all()
        assert (found[2][:, p] == known[:, at].sum(1)).all()

# reference

def test_rows_are_like_one_array():
    x = np.random.default_rng(0).normal(size=(50, 3))
    rows = Rows([x[:7], x[7:7], x[7:30], x[30:]])
    picked = np.random.default_rng(1).integers(0, 50, (4, 5))
    assert (rows[picked] == x[picked]).all() and (rows[3:40] == x[3:40]).all() and len(rows) == 50

def test_reference_grows_and_is_the_same_after_an_interruption(world, tmp_path, monkeypatch):
    source, model = world['store'].meta['source'], world['model']
    whole, _ = make_reference(source, tmp_path/'whole', model, ('train',), block=200)
    import barcodemae.identification.reference as module
    real, calls = module._write_part, []
    def dies(*a):
        calls.append(1)
        if len(calls) == 3: raise KeyboardInterrupt
        return real(*a)
    monkeypatch.setattr(module, '_write_part', dies)
    with pytest.raises(KeyboardInterrupt):
        make_reference(source, tmp_path/'part', model, ('train',), block=200)
    monkeypatch.setattr(module, '_write_part', real)
    with pytest.raises(InputError, match='unfinished'): Reference(tmp_path/'part', model)
    again, counts = make_reference(source, tmp_path/'part', model, ('train',), block=200)
    assert counts['there'] and again.labels.equals(whole.labels)
    assert (again.vectors[:] == whole.vectors[:]).mean() > .999 and (again.bits[:] == whole.bits[:]).all()

def test_reference_refuses(world, tmp_path):
    place, model = world['place'], world['model']
    shutil.copytree(place/'reference', tmp_path/'r')
    meta = read_json(tmp_path/'r'/'reference.json')
    for change, said in ((dict(format=0), 'format'), (dict(model='0' * 16), 'made by model')):
        write_json(tmp_path/'r'/'reference.json', meta | change)
        with pytest.raises(InputError, match=said): Reference(tmp_path/'r', model)
    write_json(tmp_path/'r'/'reference.json', meta)
    (next((tmp_path/'r').glob('part-*'))/'bits.npy').write_bytes(b'nothing')
    with pytest.raises(InputError, match='damaged'): Reference(tmp_path/'r', model)
    with pytest.raises(InputError, match='no reference here'): Reference(tmp_path, model)
    (tmp_path/'full').mkdir(); (tmp_path/'full'/'thesis.docx').touch()
    for folder, said in (('full', 'something else'), ('unlabelled', 'no barcode with a name')):
        with pytest.raises(InputError, match=said): make_reference(place/'q.fasta', tmp_path/folder, model)

def test_search_is_exact_over_parts(world, tmp_path):
    r, _ = make_reference(world['store'].meta['source'], tmp_path/'r', world['model'], ('train',), block=150)
    q = np.random.default_rng(0).normal(size=(9, r.matrix.shape[1])).astype(np.float32)
    rows, cosine = nearest(q, r.matrix, 7, normalised=True, block=64)
    all_of = q @ r.matrix.T
    assert np.allclose(cosine, -np.sort(-all_of, 1)[:, :7], atol=1e-4)
    assert np.allclose(np.take_along_axis(all_of, rows, 1), cosine, atol=1e-4)
    own = rows[:, 0].copy()
    own[3] = -1                                                 # this one may see itself
    again = nearest(q, r.matrix, 7, (np.arange(len(r)), own), normalised=True, block=64)[0]
    assert ((again == own[:, None]).sum(1) == 0).all() and (again[3] == rows[3]).all()


# identify

def test_names_of_the_best_reference_and_of_the_next_where_it_has_none():
    score = np.array([[3., 2, 1], [3, 2, 1]], np.float32)
    found = ShortList(np.array([[0, 1, 2], [2, 0, 1]]), np.zeros((2, 3, 9), np.float32), score)
    number = dict(family=np.array([0, 0, 1]), genus=np.array([-1, 4, 5]), species=np.array([-1, -1, -1]))
    answer = assign_taxa(found, number)
    assert answer['family'].name.tolist() == [0, 1] and answer['genus'].name.tolist() == [4, 5]
    assert answer['species'].name.tolist() == [-1, -1]
    assert answer['family'].agree[0].tolist() == [True, True, False]


def test_probabilities_are_frequencies():
    g = np.random.default_rng(0)
    x = g.normal(size=(4000, 7))
    y = g.random(4000) < 1 / (1 + np.exp(-2 * x[:, 0]))
    fit = fit_calibration(x, y, np.ones(4000))
    p = probability(fit, x)
    for low in (0, .3, .7):
        some = (p > low) & (p < low + .3)
        assert abs(p[some].mean() - y[some].mean()) < .04
    few = fit_calibration(x[:5], ~y[:5], np.ones(5), prior=fit) # a handful does not turn a fit
    assert np.abs(probability(few, x) - p).mean() < .2


def test_answers_do_not_depend_on_company(world):
    identifier = Identifier(Reference(world['place']/'reference', world['model']))
    names, barcodes = [f'q{i}' for i in range(40)], world['barcodes']
    together = identifier(names, barcodes)
    alone = pl.concat([identifier(names[i:i + 1], barcodes[i:i + 1]) for i in range(8)])
    longer = identifier(names[:8], ['ACGT' * 60 + b + 'GGCC' * 20 for b in barcodes[:8]]) # the gene is found
    assert (longer['species'] == alone['species']).all() and longer['identity'].min() > 95
    for c in ('query', 'best_hit', 'identity', 'novel', 'genus'): assert (together[c][:8] == alone[c]).all()
    assert np.allclose(together['genus_confidence'][:8], alone['genus_confidence'], atol=1e-3)
    truth = world['store'].labels('species', world['rows'])
    assert (together['species'] == truth).mean() > .9 and together['identity'].min() > 90
    assert len(identifier([], [])) == 0 and identifier([], []).columns == together.columns

def test_a_reference_without_species_and_a_barcode_that_begins_late(world, tmp_path):
    s, rows = world['store'], world['store'].rows('train')
    write_fasta(tmp_path/'g.fasta', s.sequences(rows), '{};tax=g:{}', s.labels('genus', rows))
    r, _ = make_reference(tmp_path/'g.fasta', tmp_path/'r', world['model'])
    hits = Identifier(r)(['a'], world['barcodes'][:1])
    assert 'species' not in hits.columns and 'species_novelty' not in hits.columns
    assert hits['genus'][0] == s.labels('genus', world['rows'][:1])[0]
    late = world['model'].align(world['barcodes'][:1])
    late[0, :300] = 5                                           # what lies behind must count whole
    cut = late.copy()
    cut[0, -60:] = 5
    a, b = world['model'].vectors(late), world['model'].vectors(cut)
    assert np.abs(a - b).max() > 1e-3


def test_a_model_that_was_never_fitted_is_refused(world, tmp_path):
    shutil.copytree(world['place']/'model', tmp_path/'m')
    write_json(tmp_path/'m'/'identify.json', dict(phase=world['model'].settings['phase']))
    r, _ = make_reference(world['store'].meta['source'], tmp_path/'r', Model(tmp_path/'m'), ('train',))
    with pytest.raises(InputError, match='never fitted'): Identifier(r)

# the command

NEEDED = ['query', 'best_hit', 'identity', 'novel', 'phylum', 'phylum_confidence', 'genus',
          'genus_confidence', 'species', 'species_confidence']

def test_formats_agree(world, capsys):
    for form in ('tsv', 'json', 'parquet'):
        assert run(world, *ASK, '-o', f'hits.{form}', '--format', form) == 0
    tsv = pl.read_csv(world['place']/'hits.tsv', separator='\t', infer_schema_length=None)
    parquet = pl.read_parquet(world['place']/'hits.parquet')
    js = pl.DataFrame(json.loads((world['place']/'hits.json').read_text()), schema=parquet.schema)
    tsv, js, parquet = (x.with_columns(pl.col(pl.String).fill_null('')) for x in (tsv, js, parquet))
    assert tsv.equals(parquet) and js.equals(parquet) and len(tsv) == 40 and set(NEEDED) <= set(tsv.columns)
    capsys.readouterr()
    assert run(world, *ASK) == 0 and capsys.readouterr().out == (world['place']/'hits.tsv').read_text()
    assert run(world, *ASK, '--format', 'parquet') == 1                        # not to a terminal
    assert not list(world['place'].glob('.*pieces'))

def test_forms_of_other_programs_say_what_the_table_says(world):
    for form in ('tsv', 'qiime2', 'sintax', 'dwc'):
        assert run(world, *ASK, '-o', f'named.{form}', '--format', form) == 0
    lines = {form: [line.split('\t') for line in (world['place']/f'named.{form}').read_text().splitlines()]
             for form in ('tsv', 'qiime2', 'sintax', 'dwc')}
    header, *rows = lines['tsv']
    hits = [dict(zip(header, row)) for row in rows]
    core = [dict(zip(lines['dwc'][0], row)) for row in lines['dwc'][1:]]
    assert len(hits) == len(core) == len(lines['qiime2'][1:]) == len(lines['sintax']) == 40
    for hit, occurrence, (name, taxon, sure), (id, every, strand, best) in zip(hits, core, lines['qiime2'][1:], lines['sintax']):
        assert hit['query'] == occurrence['occurrenceID'] == name == id and hit['strand'] == strand
        lowest = hit['taxon'].replace(' ', '_')
        assert taxon.endswith(f"{hit['rank'][0]}__{lowest}") and best.endswith(f"{hit['rank'][0]}:{lowest}")
        assert occurrence['scientificName'] == hit['taxon'] and sure == hit[f"{hit['rank']}_confidence"]
        assert f"p:{hit['phylum']}(" in every
    assert [o['DNA_sequence'] for o in core] == world['barcodes']
    assert run(world, *ASK, '--format', 'sintax', '--hits', 3) == run(world, *ASK, '--keep-columns', '--hits', 3) == 1

def test_compressed_standard_input_and_both_strands(world, monkeypatch):
    turned = ''.join(f'>q{i}\n{reverse_complement(b)}\n' for i, b in enumerate(world['barcodes']))
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(gzip.compress(turned.encode()))))
    ask = ('identify', '-', '--reference', 'reference', *HOW, '--strand', 'both')
    assert run(world, *ask, '-o', 'turned.parquet', '--threads', 1, '--device', 'cpu') == 0
    assert run(world, *ASK, '-o', 'plain.parquet') == 0
    turned, plain = (pl.read_parquet(world['place']/f'{n}.parquet') for n in ('turned', 'plain'))
    assert (turned['strand'] == '-').all() and (turned['best_hit'] == plain['best_hit']).mean() > .95

def test_killed_run_resumes_and_another_question_does_not(world, monkeypatch):
    base = (*ASK, '-o', 'long.tsv')
    real, asked = tool.write_answers, []
    monkeypatch.setattr(tool, 'write_answers', lambda *a, **k: real(*a, **k, batch=10))
    one = Identifier.block
    def dies(self, names, bases):
        asked.append(len(names))
        if len(asked) == 3: raise KeyboardInterrupt
        return one(self, names, bases)
    monkeypatch.setattr(Identifier, 'block', dies)
    assert run(world, *base) == 130 and not (world['place']/'long.tsv').exists()
    assert run(world, *base) == 0 and sum(asked) == 50                          # ten of them twice
    whole = (world['place']/'long.tsv').read_text()
    assert whole.count('\n') == 41
    asked[:] = [0]
    assert run(world, *base) == 130
    (world['place']/'q.fasta').touch()                          # a file written since is another question
    before = sum(asked)
    assert run(world, *base) == 0 and sum(asked) - before == 40
    assert (world['place']/'long.tsv').read_text() == whole

def test_reference_from_a_file(world):
    rows, s = world['store'].rows('train'), world['store']
    labels = (s.labels(rank, rows) for rank in ('family', 'genus', 'species'))
    write_fasta(world['place']/'named.fasta', s.sequences(rows), '{};tax=p:X,f:{},g:{},s:{}', *labels)
    assert run(world, 'identify', 'q.fasta', '--reference', 'named.fasta', *HOW, '-o', 'file.tsv') == 0
    hits = pl.read_csv(world['place']/'file.tsv', separator='\t')
    assert (hits['genus'] == s.labels('genus', world['rows'])).mean() > .9

def test_many_copies_and_short_barcodes_are_grouped(world):
    genus = world['store'].labels('genus', world['rows'])
    other = next(b for b, g in zip(world['barcodes'], genus) if g != genus[0])
    a, far = world['model'].align([world['barcodes'][0], other])
    b = a.copy(); b[300] = (a[300] + 1) % 4
    linked = lambda rows: single_linkage(world['model'], np.array(rows)).tolist()
    assert set(linked([a] * 100 + [b] * 100)) == {0}
    def cut(x, n): short = np.full_like(x, 5); short[200:200 + n] = x[200:200 + n]; return short
    assert linked([cut(a, 130), cut(b, 130), cut(a, 120), cut(far, 130)]) == [0, 0, 0, 1]
    chimera = far.copy(); chimera[200:330] = a[200:330]         # a short barcode fits both, but ties none
    groups = linked([a, chimera, cut(a, 130)])
    assert groups[0] != groups[1]

def test_json_is_json_and_a_folder_is_no_file(world, capsys):
    s = world['store']; rows = s.rows('train')[:300]
    write_fasta(world['place']/'genera.fasta', s.sequences(rows), '{};tax=g:{}', s.labels('genus', rows))
    assert run(world, 'identify', 'q.fasta', '--reference', 'genera.fasta', *HOW, '-o', 'genera.json') == 0
    def refuse(constant): raise AssertionError(constant)
    assert len(json.loads((world['place']/'genera.json').read_text(), parse_constant=refuse)) == 40
    (world['place']/'folder').mkdir()
    assert run(world, *ASK, '-o', 'folder') == 1 and 'folder' in capsys.readouterr().err

def test_embed_cluster_plot(world):
    place, store = world['place'], world['store']
    for form in ('tsv', 'json', 'parquet'):
        assert run(world, 'embed', 'q.fasta', '-o', f'v.{form}', *HOW) == 0
    v = pl.read_parquet(place/'v.parquet')['embedding'].to_numpy()
    assert v.shape == (40, 32)
    assert np.allclose(pl.read_csv(place/'v.tsv', separator='\t')[:, 2:].to_numpy(), v, atol=1e-4)
    assert np.allclose([r['embedding'] for r in json.loads((place/'v.json').read_text())], v, atol=1e-4)
    for k, more in {0: (), 7: ('--number', 7), 100: ('--distance', 100)}.items():
        assert run(world, 'cluster', 'q.fasta', '-o', f'c{k}.tsv', *HOW, *more) == 0
    n = {k: pl.read_csv(place/f'c{k}.tsv', separator='\t')['cluster'].n_unique() for k in (0, 7, 100)}
    assert n[7] == 7 and n[100] == 1 and n[0] == len(np.unique(store.labels('species', world['rows'])))
    assert run(world, 'cluster', 'q.fasta', '--number', 41, '--model', 'model', '--quiet') == 1
    pytest.importorskip('openTSNE'); pytest.importorskip('plotly')
    assert run(world, 'plot', 'q.fasta', '-o', 'map.html', '--reference', 'reference', *HOW, '--strict') == 0
    data = re.search('id="data">([^<]*)<', (place/'map.html').read_text())[1]
    assert store.labels('genus', world['rows'])[0] in gzip.decompress(base64.b64decode(data)).decode()

def test_train_and_fit(world):
    "The whole way from barcodes to a model that identifies, as commands."
    source = world['store'].meta['source']
    settings = ('-p', 'steps', 2, '-p', 'registered', 'true', '-p', 'hidden_size', 16)
    assert run(world, 'train', '-o', 'trained', '--preset', 'demo', '--dataset', source, *settings) == 0
    trained, fitted = world['place']/'trained', world['place']/'fitted'
    assert (trained/'results.json').exists() and read_json(trained/'record.json')['steps'] == 2
    fit = ('fit', 'trained', '--dataset', source, '-o', 'fitted', '--device', 'cpu', '--quiet')
    assert run(world, *fit) == 0
    assert 'simulated' in (fitted/'README.md').read_text() and 'ranking' in Model(fitted).settings

def test_bad_records_are_named_and_strict_stops(world, capsys):
    good = f">good\n{world['barcodes'][0]}\n"
    (world['place']/'bad.fasta').write_text(good + '>protein\nMKVLAAGIEVMKVLAAGIEV\n>short\nACGT\n' + good)
    base = ('identify', 'bad.fasta', '--reference', 'reference', '-o', 'bad.tsv', *HOW)
    assert run(world, *base) == 0
    said = capsys.readouterr().err
    assert 'protein' in said and 'short' in said and 'repeated id' in said and 'Traceback' not in said
    assert pl.read_csv(world['place']/'bad.tsv', separator='\t')['query'].to_list() == ['good', 'good']
    (world['place']/'bad.tsv').unlink()
    assert run(world, *base, '--strict') == 1 and not (world['place']/'bad.tsv').exists()
    assert 'protein' in capsys.readouterr().err

@pytest.mark.parametrize('arguments, said', [
    (('identify', 'nothing.fasta', '--reference', 'reference', '--model', 'model'), 'no such file'),
    (('identify', 'q.fasta', '--reference', 'nothing', '--model', 'model'), 'nothing'),
    (('identify', 'q.fasta', '--reference', 'reference', '--model', 'run'), 'identify.json'),
    (('identify', 'q.fasta', '--reference', 'reference'), 'made by model'),
    (('index', 'nothing.csv', '-o', 'x'), 'nothing.csv'),
    (('index', 'q.fasta', '-o', 'q.fasta'), 'this is a file'),
    (('embed', 'q.fasta', '--device', 'banana'), 'banana')])
def test_bad_input_ends_in_one_line(world, arguments, said, capsys):
    if 'made by model' in said and not DEFAULT_MODEL.exists():
        pytest.skip('no model comes with this copy of the library')
    assert run(world, *arguments, '--quiet') == 1
    err = capsys.readouterr().err
    assert said in err and 'Fix:' in err and 'Traceback' not in err

def test_the_model_of_the_library_opens_everywhere(world):
    "As a `Model`, and by transformers' own classes; small, with its card and licence."
    from transformers import AutoModel, AutoTokenizer
    model = Model()
    assert model.settings['fitted_on'] == 'coi_mini' and not model.settings['simulated']
    assert set(model.settings['confidence']) == set(TAXA)
    vectors = model.vectors(model.align(world['barcodes'][:3]))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    tokenizer, encoder = (auto.from_pretrained(DEFAULT_MODEL) for auto in (AutoTokenizer, AutoModel))
    assert tokenizer.k == encoder.config.k == model.encoder.config.k
    card = (DEFAULT_MODEL/'README.md').read_text()
    assert 'cc-by-nc-sa-4.0' in card and '## Identification' in card
    assert sum(f.stat().st_size for f in DEFAULT_MODEL.iterdir()) < 5_000_000


def test_installed_command(world, capsys):
    "The program that pip makes; the model of the library where none is named."
    program = Path(sys.executable).parent/'barcodemae'
    if not program.exists(): pytest.skip('barcodemae is not installed as a program beside this Python')
    def ask(*words, stdin=None):
        options = dict(cwd=world['place'], input=stdin, capture_output=True, text=True, check=True)
        return subprocess.run([program, *words], **options)
    source, how = world['store'].meta['source'], (*HOW, '--device', 'cpu', '--threads', '1')
    assert 'barcodemae' in ask('--version').stdout
    said = ask('doctor').stdout
    assert 'torch' in said and 'Model encoder' in said
    assert run(world, 'index', source, '-o', 'made', '--splits', 'val', 'train', *how) == 0
    words = ('identify', '-', '--reference', 'made', '--format', 'json', '--strand', 'both', '--strict', *how)
    hits = ask(*words, stdin=(world['place']/'q.fasta').read_text()).stdout
    assert len(json.loads(hits)) == 40
    assert run(world, 'index', source, '-o', 'made', '--splits', 'test', '--model', 'model') == 0 # it grows
    assert 'added' in capsys.readouterr().err
    assert run(world, 'cluster', 'q.fasta', '--number', '3', '--format', 'tsv', '--strict', *how) == 0
    assert capsys.readouterr().out.startswith('query\tcluster\tsize\tstrand\n')
