"""Guards for bench.run and evaluation.run: resumed, absent systems, sparse, masking, runs, the command."""
from dataclasses import replace

import numpy as np, pytest, torch

from barcodemae.bench import run as bench
from barcodemae.bench.registry import System, load, register, systems
from barcodemae.bench.run import bench_jobs, bench_place, bench_protocol, bench_state, bench_system
from barcodemae.bench.run import finished_runs, known_systems, main
from barcodemae.compute import Compute
from barcodemae.core import InputError, read_json, write_json
from barcodemae.embedding.embedder import EncoderEmbedder
from barcodemae.embedding.kmers import kmer_counts
from barcodemae.embedding.neighbours import nearest
from barcodemae.evaluation.knn import untrained_encoder
from barcodemae.evaluation.masking import kmer_noise, mask_bases, mask_tokens
from barcodemae.evaluation.report import kept_bench, shown_name
from barcodemae.evaluation.run import SHORT as PROTOCOL, Evaluation, evaluate_run
from barcodemae.model.mae import BarcodeMAEConfig
from barcodemae.data.store import load_dataset, pack
from barcodemae.model.tokenizer import FIRST_KMER, kmer_ids

CPU = Compute(torch.device('cpu'), torch.float32)
SHORT = ('speed', 'knn')
SHAPE = dict(k=4, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)


@pytest.fixture(scope='module')
def store(): return load_dataset('demo')


def test_resumed_after_a_kill(store, tmp_path, monkeypatch):
    "What was finished stays and is not asked again; the barcodes are embedded once for all analyses."
    def killed(self): raise KeyboardInterrupt
    monkeypatch.setattr(Evaluation, 'readings', killed)
    with pytest.raises(KeyboardInterrupt): bench_system('kmer3', store, tmp_path, compute=CPU)
    before = read_json(tmp_path/'results.json')
    assert {'speed', 'knn', 'embedding'} <= set(before) and 'readings' not in before
    assert bench_state(tmp_path, 'kmer3', SHORT + ('probe',)) == 'begun'
    monkeypatch.setattr(Evaluation, 'knn', killed)
    monkeypatch.setattr(Evaluation, 'readings', lambda self: [dict(n=len(self.rows))])
    after = bench_system('kmer3', store, tmp_path, compute=CPU, analyses=SHORT + ('readings',))
    assert {n: after[n] for n in before} == before and after['readings']
    assert bench_state(tmp_path, 'kmer3', SHORT + ('readings',)) == 'done'
    assert after == read_json(tmp_path/'results.json')


def test_embedded_once(store, monkeypatch):
    asked, embedder = [], load('kmer3', compute=CPU)
    matrix = embedder.matrix
    monkeypatch.setattr(embedder, 'matrix', lambda barcodes: asked.append(len(barcodes)) or matrix(barcodes))
    b = Evaluation('kmer3', embedder, store, protocol=PROTOCOL)
    b.knn()
    b.knn()
    b.dense(b.rows[:2])
    assert asked == [len(store.rows('train', 'test', 'test_unseen'))]


def test_absent_weights_are_recorded_and_tried_again(store, tmp_path):
    found = bench_system('cnn', store, tmp_path, compute=CPU)
    assert 'train_cnn' in found['absent'] and read_json(tmp_path/'results.json') == found
    assert bench_state(tmp_path, 'cnn', SHORT) == 'absent'
    register(System('late', lambda source, compute: load('kmer3', compute=compute), '', 'here', 'MIT'))
    try:
        facts = bench._begin(tmp_path/'none.json', systems()['late'], store, None)
        write_json(tmp_path/'late/results.json', facts | dict(absent='no weights'))
        found = bench_system('late', store, tmp_path/'late', compute=CPU, analyses=SHORT)
        assert 'absent' not in found and found['knn'][0]['method'] == 'late'
    finally: bench.systems.__globals__['SYSTEMS'].pop('late')


def test_absent_program(store, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', '')
    assert 'apt-get install ncbi-blast+' in bench_system('blast', store, tmp_path)['absent']


def test_faults(store, tmp_path):
    with pytest.raises(InputError, match='choose among kmer3'): bench_system('kmer99', store, tmp_path)
    with pytest.raises(InputError, match='no such analysis'):
        bench_system('kmer3', store, tmp_path, analyses=('colour',))
    with pytest.raises(InputError, match='no such system'):
        bench_jobs(['kmer3', 'nobody'], [], None, tmp_path)
    with pytest.raises(InputError, match='--runs'): bench_jobs(['run'], [], None, tmp_path)
    write_json(tmp_path/'results.json', dict(system='kmer3', dataset='elsewhere', weights=None))
    with pytest.raises(InputError, match='of dataset elsewhere'): bench_system('kmer3', store, tmp_path)
    with pytest.raises(InputError, match='no system was asked'):
        kept_bench(tmp_path/'kept.json', tmp_path/'nothing', look=True)


def test_sparse_is_exact(store, monkeypatch):
    bases = store.bases[store.rows('test_unseen')]
    counts = kmer_counts(bases, 4)
    near, cosine = nearest(counts[:200], counts[200:], 3)
    monkeypatch.setattr('barcodemae.embedding.neighbours.WIDEST', 0)
    _, same = nearest(counts[:200], counts[200:], 3, block=77)
    assert np.abs(cosine - same).max() < 1e-5
    dense = counts.toarray() / np.linalg.norm(counts.toarray(), axis=1, keepdims=True)
    rows, _ = nearest(counts[:200], counts[200:])
    expected = (dense[:200] * dense[200:][rows[:, 0]]).sum(1)
    assert np.abs(expected - cosine[:, 0]).max() < 1e-5                          # as near as the nearest


def test_sparse_matrix_is_the_dense_one(store):
    barcodes, embedder = store.sequences(store.rows('test')[:9]), load('kmer5', compute=CPU)
    encoded = embedder.encode(barcodes)
    assert np.array_equal(embedder.matrix(barcodes).toarray(), encoded) and encoded.dtype == np.float32
    assert embedder.parameters == 0 and load('untrained', compute=CPU).parameters > 40e6


def test_too_wide_is_left_out_and_said(store):
    b = Evaluation('kmer7', load('kmer7', compute=CPU), store)
    assert b.probe() == b.readings() == b.clustering() == [] and '16,384' in b.notes['probe']
    assert {*b.notes} == {'probe', 'readings', 'clustering'}


@pytest.mark.parametrize('name', ('kmer4', 'own'))
def test_nothing_taken_is_the_plain_result(store, name):
    if name == 'own': embedder = EncoderEmbedder(untrained_encoder(BarcodeMAEConfig(**SHAPE)), CPU)
    else: embedder = load(name, compute=CPU)
    protocol = bench_protocol(embedder)
    plan = replace(protocol.masking, ratios=(0, .5))
    b = Evaluation(name, embedder, store, protocol=replace(protocol, masking=plan))
    rows = b.masking()
    assert {r['accuracy'] for r in rows if r['ratio'] == 0} == {b.knn()[0]['accuracy']}
    assert {r['mode'] for r in rows} == ({'removed'} if name == 'own' else {'removed', 'masked'})
    assert all(r['accuracy'] < rows[0]['accuracy'] for r in rows if r['ratio'])


def test_a_barcode_without_a_kmer_left_is_noted(store, monkeypatch):
    def nothing_left(*args): raise InputError('no 4-mer')
    monkeypatch.setattr('barcodemae.evaluation.run.masking_rows', nothing_left)
    b = Evaluation('kmer4', load('kmer4', compute=CPU), store, protocol=PROTOCOL)
    assert b.masking() == [] and b.notes == dict(masking='90% removed: no 4-mer')


def test_kmers_taken_from_text_are_those_of_6mer_tokens():
    random = np.random.default_rng(0)
    share = [.245] * 4 + [.02]
    barcodes = [''.join(random.choice(list('ACGTN'), n, p=share)) for n in (660, 401, 30, 5)]
    noise = kmer_noise(np.array([5, 2, 9, 0]), 1, 6)
    ids, mask = kmer_ids(torch.from_numpy(pack(barcodes)), 6)
    _, there = mask_tokens(ids, mask, .4, 'removed', torch.from_numpy(noise))
    for i, barcode in enumerate(barcodes):
        masked = mask_bases(barcode, .4, 'masked', noise[i])
        taken = [masked[j:j + 6] == 'N' * 6 != barcode[j:j + 6] for j in range(0, len(barcode) - 5, 6)]
        gone = (mask[i] & (ids[i] >= FIRST_KMER) & ~there[i]).tolist()[:len(taken)]
        assert taken == gone and len(masked) == len(barcode)
        left = [barcode[6 * j:6 * j + 6] for j, gone in enumerate(taken) if not gone]
        assert mask_bases(barcode, .4, 'removed', noise[i]) == ''.join(left) + barcode[6 * len(taken):]
        assert mask_bases(barcode, 0, 'removed', noise[i]) == barcode
    with pytest.raises(InputError, match='masked or removed'): mask_bases('ACGT', .5, 'deleted', noise[0])


def test_a_run_brings_what_it_knows(store, tmp_path):
    untrained_encoder(BarcodeMAEConfig(**SHAPE)).save_pretrained(tmp_path/'run/best')
    asked = dict(k=1, rank='genus', reference='train', query='test_unseen')
    asked |= dict(n=535, accuracy=12.5, low=10., high=15.)
    def row(method, **more): return dict(asked, method=method, **more)
    reading = [row('model', layer=l, whitened=w) for l in (0, 1) for w in (False, True)]
    known = dict(variant='mae', steps=7, layers=1, heads=2, k=4, seed=3, dataset=store.name,
                 evaluated_on=store.name, barcodes_seen=1234, harmonic_mean=9.,
                 knn=[row('model'), row('untrained')], readings=reading, probe=[row('x')])
    write_json(tmp_path/'run/results.json', known)
    analyses = (*SHORT, 'readings', 'probe')
    found = bench_system('run', store, tmp_path/'bench', tmp_path/'run/best', CPU, analyses)
    assert found['name'] == 'mae 1-2 k=4' and found['pretrained_on'] == f'{store.name}, 1,234 barcodes'
    assert found['seed'] == 3 and found['knn'] == [dict(row('model'), method='mae 1-2 k=4')]
    assert found['harmonic_mean'] == 9. and 'embedding' not in found
    assert [r['layer'] for r in found['readings']] == [1, 1]
    assert found['speed']['barcodes_per_second'] > 0 and found['parameters'] > 1000


def test_a_run_and_a_system_are_asked_the_same(store, tmp_path):
    "The same headline; asked again, nothing is computed; results of another run are not taken."
    encoder = untrained_encoder(BarcodeMAEConfig(**SHAPE))
    encoder.save_pretrained(tmp_path/'best')
    record = dict(variant='mae', steps=7, layers=1, heads=2, k=4, seed=3, dataset=store.name)
    write_json(tmp_path/'record.json', record)
    write_json(tmp_path/'config.json', dict(dataset=store.name))
    (tmp_path/'metrics.jsonl').write_text('{"step": 1, "loss": 2}\n{"step": 7, "val_loss": 2}\n')
    with pytest.raises(InputError, match='no such analysis'): evaluate_run(tmp_path, store, CPU, ['colour'])
    results = evaluate_run(tmp_path, store, CPU)
    assert results['curve'] == [dict(step=7, val_loss=2)] and {r['k'] for r in results['knn']} == {1, 5}
    assert {r['method'] for r in results['knn']} == {'model', 'untrained', 'kmer4', 'kmer6'}
    embedder = EncoderEmbedder(encoder, CPU)
    alone = Evaluation('model', embedder, store, protocol=bench_protocol(embedder)).knn()
    assert all(row in results['knn'] for row in alone) and len(alone) == 2
    write_json(tmp_path/'results.json', results | dict(probe=[]))
    assert evaluate_run(tmp_path, store, CPU, ('probe',)) == results | dict(probe=[])
    write_json(tmp_path/'record.json', record | dict(steps=9))
    assert 'probe' not in evaluate_run(tmp_path, store, CPU)


def test_the_command(tmp_path, monkeypatch, capsys):
    "A process for each system; one that fails or is absent stops nobody."
    for n, value in dict(BARCODEMAE_RUNS=str(tmp_path), HF_HUB_OFFLINE='1', TQDM_DISABLE='1').items():
        monkeypatch.setenv(n, value)
    place = tmp_path/'bench/demo'
    command = ['barcodemae_reference', 'kmer4', '--dataset', 'demo', '--analyses', *SHORT]
    with monkeypatch.context() as m, pytest.raises(SystemExit) as end:
        m.setattr(bench.sys, 'executable', '/bin/false')
        main(command)
    assert end.value.code and capsys.readouterr().out.count('FAILED') == 2
    with pytest.raises(SystemExit) as end: main(command)
    said = capsys.readouterr().out
    assert not end.value.code and '1 of 2  barcodemae_reference' in said
    assert 'absent (' in said and 'genus' in said
    results = read_json(place/'kmer4/results.json')
    assert results['speed']['threads'] == 1 and .1 < results['speed']['memory_gb'] < 8
    assert (place/'kmer4/log.txt').exists()
    with pytest.raises(SystemExit) as end: main(command[1:])
    assert not end.value.code and '1 done before' in capsys.readouterr().out
    board = kept_bench(tmp_path/'kept.json', place, look=True)
    assert board['kmer4']['knn'][0]['rank'] == 'genus' and len(board['kmer4']['knn']) == 2
    assert board == kept_bench(tmp_path/'kept.json', place, look=False)


def test_what_was_fitted_to_labels_is_marked(store, tmp_path):
    marked = {name for name, system in known_systems().items() if system.supervised}
    assert marked == {'cnn', 'sintax'}
    assert shown_name(bench_system('cnn', store, tmp_path/'cnn', compute=CPU)) == 'cnn (supervised)'
    assert shown_name(bench_system('kmer3', store, tmp_path/'kmer3', compute=CPU, analyses=())) == 'kmer3'
    run = dict(variant='mae', steps=7, layers=1, heads=2, k=6, seed=0, dataset='d', barcodes_seen=9)
    tuned = dict(supervised=True, seed=0, dataset='d', pretraining=run)
    assert shown_name(bench._run_facts(tuned)) == 'mae 1-2 fine-tuned (supervised)'
    assert shown_name(bench._run_facts(run)) == 'mae 1-2'


def test_linear_controls_are_fitted_to_the_unlabelled_barcodes_of_a_data_set(store, tmp_path):
    with pytest.raises(InputError, match='give load a store'): load('pca256', compute=CPU)
    for name in ('pca256', 'columns256'):
        found = bench_system(name, store, tmp_path/name, compute=CPU, analyses=('knn',))
        assert found['width'] == 256 and not found['supervised'] and found['pretrained_on'].startswith('pretrain')
        assert found['knn'][0]['accuracy'] > 5                                    # by chance below 1


def test_what_is_finished_of_a_grid(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('BARCODEMAE_RUNS', str(tmp_path))
    grid = tmp_path/'two.ini'
    grid.write_text('[demo]\nmodel = mae 1-2/1-2, hyena 1-2\nsteps = 7\nanalyses = probe\n')
    assert finished_runs([grid], 'demo') == [] and capsys.readouterr().out.count('not on the board') == 2
    name = 'hyena_enc1-2_k6_steps7_seed0'
    write_json(tmp_path/'grids/demo'/name/'results.json', dict(knn=[], readings=[], probe=[]))
    assert finished_runs([grid], 'demo') == [tmp_path/'grids/demo'/name]
    assert 'mae_enc1-2_dec1-2_k6_steps7_seed0 is missing' in capsys.readouterr().out
    assert bench_place('demo') == tmp_path/'bench/demo'
    assert bench_place('/some/where.csv').parent == tmp_path/'bench'
