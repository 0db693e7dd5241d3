"""Guards for barcodemae.bench.run: interrupted and resumed, absent systems, exact sparse search, masking, what runs know already, the command."""
import numpy as np, pytest, torch

from barcodemae.bench import run as bench
from barcodemae.bench.registry import System, load, register, systems
from barcodemae.bench.run import Bench, bench_jobs, bench_state, bench_system, kept_bench, main
from barcodemae.compute import Compute
from barcodemae.core import InputError, read_json, write_json
from barcodemae.embedding.embed import embed
from barcodemae.embedding.kmers import kmer_counts
from barcodemae.embedding.neighbours import nearest
from barcodemae.evaluation.knn import untrained_encoder
from barcodemae.evaluation.masking import mask_bases, word_noise
from barcodemae.model.mae import BarcodeMAEConfig
from barcodemae.data.store import load_dataset, pack
from barcodemae.model.tokenizer import FIRST_KMER, kmer_ids

CPU = Compute(torch.device('cpu'), torch.float32)
SHORT = ('speed', 'knn')


@pytest.fixture(scope='module')
def store(): return load_dataset('demo')


def test_resumed_after_a_kill(store, tmp_path, monkeypatch):
    "What was finished stays and is not asked again; the barcodes are embedded once for all analyses."
    def killed(self): raise KeyboardInterrupt
    monkeypatch.setattr(Bench, 'readings', killed)
    with pytest.raises(KeyboardInterrupt): bench_system('kmer3', store, tmp_path, compute=CPU)
    before = read_json(tmp_path/'results.json')
    assert {'speed', 'knn', 'embedding'} <= set(before) and 'readings' not in before and bench_state(tmp_path, 'kmer3', SHORT + ('probe',)) == 'begun'
    monkeypatch.setattr(Bench, 'knn', killed)
    monkeypatch.setattr(Bench, 'readings', lambda self: [dict(n=len(self.rows))])
    after = bench_system('kmer3', store, tmp_path, compute=CPU, analyses=SHORT + ('readings',))
    assert {n: after[n] for n in before} == before and after['readings'] and bench_state(tmp_path, 'kmer3', SHORT + ('readings',)) == 'done'
    assert after == read_json(tmp_path/'results.json')


def test_embedded_once(store, monkeypatch):
    asked, embedder = [], load('kmer3', compute=CPU)
    monkeypatch.setattr(embedder, 'matrix', lambda barcodes: asked.append(len(barcodes)) or type(embedder).matrix(embedder, barcodes))
    b = Bench('kmer3', embedder, store)
    b.knn(); b.knn(); b.dense(b.rows[:2])
    assert asked == [len(store.rows('train', 'test', 'test_unseen'))]


def test_absent_weights_are_recorded_and_tried_again(store, tmp_path):
    found = bench_system('cnn', store, tmp_path, compute=CPU)
    assert 'train_cnn' in found['absent'] and read_json(tmp_path/'results.json') == found and bench_state(tmp_path, 'cnn', SHORT) == 'absent'
    register(System('late', lambda source, compute: load('kmer3', compute=compute), '', 'here', 'MIT'))
    try:
        write_json(tmp_path/'late/results.json', bench._begin(tmp_path/'none.json', systems()['late'], store, None) | dict(absent='no weights'))
        found = bench_system('late', store, tmp_path/'late', compute=CPU, analyses=SHORT)
        assert 'absent' not in found and found['knn'][0]['method'] == 'late'
    finally: bench.systems.__globals__['SYSTEMS'].pop('late')


def test_absent_program(store, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', '')
    assert 'apt-get install ncbi-blast+' in bench_system('blast', store, tmp_path)['absent']


def test_faults(store, tmp_path):
    with pytest.raises(InputError, match='choose among kmer3'): bench_system('kmer99', store, tmp_path)
    with pytest.raises(InputError, match='no such analysis'): bench_system('kmer3', store, tmp_path, analyses=('colour',))
    with pytest.raises(InputError, match='no such system'): bench_jobs(['kmer3', 'nobody'], [], None, tmp_path)
    with pytest.raises(InputError, match='--runs'): bench_jobs(['run'], [], None, tmp_path)
    write_json(tmp_path/'results.json', dict(system='kmer3', dataset='elsewhere', weights=None))
    with pytest.raises(InputError, match='of dataset elsewhere'): bench_system('kmer3', store, tmp_path)
    with pytest.raises(InputError, match='no system was asked'): kept_bench(tmp_path/'kept.json', tmp_path/'nothing', look=True)


def test_sparse_is_exact(store, monkeypatch):
    bases = store.bases[store.rows('test_unseen')]
    counts = kmer_counts(bases, 4)
    near, cosine = nearest(counts[:200], counts[200:], 3)
    monkeypatch.setattr('barcodemae.embedding.neighbours.WIDEST', 0)
    _, same = nearest(counts[:200], counts[200:], 3, block=77)
    assert np.abs(cosine - same).max() < 1e-5
    dense = counts.toarray() / np.linalg.norm(counts.toarray(), axis=1, keepdims=True)
    rows, _ = nearest(counts[:200], counts[200:])
    assert np.abs((dense[:200] * dense[200:][rows[:, 0]]).sum(1) - cosine[:, 0]).max() < 1e-5        # as near as the nearest


def test_sparse_matrix_is_the_dense_one(store):
    barcodes, embedder = store.sequences(store.rows('test')[:9]), load('kmer5', compute=CPU)
    assert np.array_equal(embedder.matrix(barcodes).toarray(), embedder.encode(barcodes)) and embedder.encode(barcodes).dtype == np.float32
    assert embedder.parameters == 0 and load('untrained', compute=CPU).parameters > 40e6


def test_too_wide_is_left_out_and_said(store):
    b = Bench('kmer7', load('kmer7', compute=CPU), store)
    assert b.probe() == b.readings() == b.clustering() == [] and {*b.notes} == {'probe', 'readings', 'clustering'} and '16,384' in b.notes['probe']


@pytest.mark.parametrize('name', ('kmer4', 'own'))
def test_nothing_hidden_is_the_plain_result(store, name, monkeypatch):
    if name == 'own':
        config = BarcodeMAEConfig(k=4, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
        embedder = bench.systems()['untrained'].make(None, CPU).__class__(untrained_encoder(config), CPU)
    else: embedder = load(name, compute=CPU)
    b = Bench(name, embedder, store)
    rows = b.masking(ratios=(0, .5))
    assert {r['accuracy'] for r in rows if r['ratio'] == 0} == {b.knn()[0]['accuracy']}
    assert {r['mode'] for r in rows} == ({'removed'} if name == 'own' else {'removed', 'masked'}) and all(r['accuracy'] < rows[0]['accuracy'] for r in rows if r['ratio'])


def test_the_words_hidden_in_text_are_those_of_six_letter_tokens():
    from barcodemae.evaluation.masking import drop_tokens
    random = np.random.default_rng(0)
    barcodes = [''.join(random.choice(list('ACGTN'), n, p=[.245, .245, .245, .245, .02])) for n in (660, 401, 30, 5)]
    noise = word_noise(np.array([5, 2, 9, 0]), 1, 6)
    ids, mask = kmer_ids(torch.from_numpy(pack(barcodes)), 6)
    _, there = drop_tokens(ids, mask, .4, 'removed', torch.from_numpy(noise))
    for i, barcode in enumerate(barcodes):
        masked = mask_bases(barcode, .4, 'masked', noise[i])
        hidden = [masked[j:j + 6] == 'N' * 6 != barcode[j:j + 6] for j in range(0, len(barcode) - 5, 6)]
        gone = (mask[i] & (ids[i] >= FIRST_KMER) & ~there[i]).tolist()[:len(hidden)]
        assert hidden == gone and len(masked) == len(barcode)
        assert mask_bases(barcode, .4, 'removed', noise[i]) == ''.join(barcode[6 * j:6 * j + 6] for j, h in enumerate(hidden) if not h) + barcode[6 * len(hidden):]
        assert mask_bases(barcode, 0, 'removed', noise[i]) == barcode
    with pytest.raises(InputError, match='masked or removed'): mask_bases('ACGT', .5, 'deleted', noise[0])


def test_a_run_brings_what_it_knows(store, tmp_path):
    encoder = untrained_encoder(BarcodeMAEConfig(k=4, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2))
    encoder.save_pretrained(tmp_path/'run/best')
    row = lambda method, **more: dict(method=method, k=1, rank='genus', reference='train', query='test_unseen', n=535, accuracy=12.5, low=10., high=15., **more)
    reading = [row('model', layer=l, whitened=w) for l in (0, 1) for w in (False, True)]
    known = dict(variant='mae', steps=7, layers=1, heads=2, k=4, seed=3, dataset=store.name, barcodes_seen=1234, evaluated_on=store.name, harmonic_mean=9.,
                 knn=[row('model'), row('untrained')], readings=reading, probe=[row('x')])
    write_json(tmp_path/'run/results.json', known)
    found = bench_system('run', store, tmp_path/'bench', tmp_path/'run/best', CPU, ('speed', 'knn', 'readings', 'probe'))
    assert found['name'] == 'mae 1-2 k=4' and found['pretrained_on'] == f'{store.name}, 1,234 barcodes' and found['seed'] == 3
    assert found['knn'] == [dict(row('model'), method='mae 1-2 k=4')] and found['harmonic_mean'] == 9. and 'embedding' not in found
    assert [r['layer'] for r in found['readings']] == [1, 1] and found['speed']['barcodes_per_second'] > 0 and found['parameters'] > 1000


def test_the_command(tmp_path, monkeypatch, capsys):
    "A process for each system; one that fails or is absent stops nobody."
    for n, value in dict(BARCODEMAE_RUNS=str(tmp_path), HF_HUB_OFFLINE='1', TQDM_DISABLE='1').items(): monkeypatch.setenv(n, value)
    place, command = tmp_path/'bench/demo', ['barcodemae_reference', 'kmer4', '--dataset', 'demo', '--analyses', *SHORT]
    with monkeypatch.context() as m, pytest.raises(SystemExit) as end: m.setattr(bench.sys, 'executable', '/bin/false'); main(command)
    assert end.value.code and capsys.readouterr().out.count('FAILED') == 2
    with pytest.raises(SystemExit) as end: main(command)
    said = capsys.readouterr().out
    assert not end.value.code and '1 of 2  barcodemae_reference' in said and 'absent (' in said and 'genus' in said
    results = read_json(place/'kmer4/results.json')
    assert results['speed']['threads'] == 1 and .1 < results['speed']['memory_gb'] < 8 and (place/'kmer4/log.txt').exists()
    with pytest.raises(SystemExit) as end: main(command[1:])
    assert not end.value.code and '1 done before' in capsys.readouterr().out
    board = kept_bench(tmp_path/'kept.json', place, look=True)
    assert board['kmer4']['knn'][0]['rank'] == 'genus' and len(board['kmer4']['knn']) == 2 and board == kept_bench(tmp_path/'kept.json', place, look=False)
