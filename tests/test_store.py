"""Guards for barcodemae.data.store: packing, whole or nothing, several processes at once."""
import errno, os, shutil, signal, subprocess, sys, time

import numpy as np, pytest
from hypothesis import given, settings, strategies as st

from barcodemae.data import store as store_module
from barcodemae.data.clean import CleanConfig
from barcodemae.core import InputError
from barcodemae.settings import load_settings
from barcodemae.data.store import PAD, WIDTH, BarcodeStore, load_dataset, need_splits, pack, prepare, unpack


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    for key in [k for k in os.environ if k.startswith('BARCODEMAE_')]: monkeypatch.delenv(key)
    monkeypatch.setenv('BARCODEMAE_CACHE', str(tmp_path/'cache'))


def barcode(i, n=200): return ''.join(np.random.default_rng(i).choice(list('ACGT'), n))

@pytest.fixture
def source(tmp_path):
    "A table with a repeat, a missing barcode and partitions."
    rows = [(f'P{i}', 'Aedes' if i % 2 else '', 'train' if i < 6 else 'test_unseen', f'BOLD:A{i}',
        barcode(i % 9)) for i in range(10)]
    rows.append(('P10', 'Culex', 'train', '', 'no_data'))
    path = tmp_path/'moths.csv'
    path.write_text('processid,genus,split,dna_bin,dna_barcode\n' + ''.join(','.join(r) + '\n' for r in rows))
    return path


# packing

@settings(max_examples=50, deadline=None)
@given(st.lists(st.text('ACGTN', max_size=WIDTH), max_size=6))
def test_pack_round_trips(barcodes):
    bases = pack(barcodes)
    assert bases.shape == (len(barcodes), WIDTH) and bases.dtype == np.uint8
    assert ((bases != PAD).sum(1) == [len(b) for b in barcodes]).all()
    assert unpack(bases) == barcodes


def test_pack_takes_numpy_text(): assert unpack(pack(np.array(['ACGT', 'A']))) == ['ACGT', 'A']


@pytest.mark.parametrize('bad', ['acgt', 'ACG-T', 'AC.', 'ACGTR', 'A'*(WIDTH + 1), 'AÄ'])
def test_pack_refuses(bad):
    with pytest.raises(InputError, match='can be packed') as e: pack(['ACGT', bad])
    assert e.value.record == bad[:40]


# a store

def test_store_holds_what_was_read(source, tmp_path):
    s = prepare(source, tmp_path/'s')
    assert len(s) == 9 and s.name == 'moths' and not s.simulated
    assert s.splits == {'train': 6, 'test_unseen': 3}
    assert s.report['missing'] == 1 and s.report['repeats'] == 1 and s.report['rows'] == 11
    assert s.sequences(range(9)) == [barcode(i) for i in range(9)]
    assert (s.lengths == 200).all() and s.bases.shape == (9, WIDTH) and isinstance(s.bases, np.memmap)
    assert s.rows('test_unseen').tolist() == [6, 7, 8] and s.rows('test_unseen').dtype == np.int64
    assert s.rows().tolist() == s.rows('train', 'test_unseen').tolist() == list(range(9))
    assert s.labels('genus', [0, 1]).tolist() == ['', 'Aedes'] and s.labels('genus').shape == (9,)
    assert s.labels('family', [0]).tolist() == ['']
    assert s.labels('dna_bin', s.rows('train')).tolist()[0] == 'BOLD:A0'
    assert s.table['processid'].to_list() == [f'P{i}' for i in range(9)]
    assert 'dna_barcode' not in s.table.columns
    assert s.labels('genus', []).shape == (0,) and s.sequences([]) == []


def test_missing_partition_and_column(source, tmp_path):
    s = prepare(source, tmp_path/'s')
    with pytest.raises(InputError) as e: s.rows('val_unseen')
    assert e.value.file == str(source) and 'val_unseen' in e.value.message and e.value.fix
    with pytest.raises(InputError, match="no column 'tribe'"): s.labels('tribe')


def test_missing_partition():
    need_splits(['train', 'test'], ['train'])
    with pytest.raises(InputError) as e: need_splits({'train': 3}, ['train', 'test_unseen'], file='moths.csv')
    assert e.value.file == 'moths.csv' and 'test_unseen' in e.value.message and 'train' in e.value.message
    assert e.value.fix


def test_simulated_is_told_by_the_bin(tmp_path):
    (tmp_path/'t.csv').write_text(f'processid,dna_bin,dna_barcode\nP1,SIM:AAA0001,{barcode(1)}\n')
    assert prepare(tmp_path/'t.csv', tmp_path/'s').simulated


def test_many_frames_are_one(tmp_path, monkeypatch):
    monkeypatch.setattr('barcodemae.data.tables.BLOCK', 1000)
    (tmp_path/'t.csv').write_text('processid,genus,dna_barcode\n' + ''.join(f'P{i},G{i},{barcode(i)}\n'
        for i in range(50)))
    s = prepare(tmp_path/'t.csv', tmp_path/'s')
    assert s.sequences(range(50)) == [barcode(i) for i in range(50)]
    assert s.labels('genus').tolist() == [f'G{i}' for i in range(50)]


def test_opens_at_once(source, tmp_path):
    prepare(source, tmp_path/'s')
    def seconds():
        start = time.perf_counter()
        BarcodeStore(tmp_path/'s').rows('train')
        return time.perf_counter() - start
    assert min(seconds() for _ in range(5)) < 0.1


def test_load_dataset_prepares_once_and_notices_changes(source, monkeypatch):
    made = []
    write = store_module._write
    monkeypatch.setattr(store_module, '_write', lambda *a: (made.append(a[1]), write(*a)))
    assert load_dataset(source).path == load_dataset(str(source)).path and len(made) == 1
    load_dataset(source, CleanConfig(min_length=150))
    source.write_text(source.read_text() + f'P99,Aedes,train,,{barcode(99)}\n')
    assert len(load_dataset(source)) == 10 and len(made) == 3


# whole or nothing

def broken(source, text):
    source.write_text(source.read_text() + text)
    return source

@pytest.mark.parametrize('text, record', [('P1,Aedes,train,,' + barcode(50) + '\n', 'P1'),
    ('COX1,,train,,MFINRWLFSTNHKDIG\n', 'row 12 (COX1)')])
def test_bad_data_leaves_nothing(source, tmp_path, text, record):
    with pytest.raises(InputError) as e: prepare(broken(source, text), tmp_path/'out'/'s')
    assert e.value.file == source and e.value.record == record and e.value.fix
    assert [p.name for p in (tmp_path/'out').iterdir() if not p.name.startswith('.lock')] == []


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device'), KeyboardInterrupt()])
def test_old_store_survives(source, tmp_path, monkeypatch, error):
    old = prepare(source, tmp_path/'s')
    def fails(bases): raise error
    monkeypatch.setattr(store_module, 'pack', fails)
    with pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt) as e: prepare(source,
        tmp_path/'s')
    if isinstance(error, OSError): assert 'no space left' in str(e.value) and e.value.fix
    assert BarcodeStore(tmp_path/'s').sequences([3]) == old.sequences([3])


def test_damaged_store_is_told(source, tmp_path):
    s = prepare(source, tmp_path/'s')
    content = (s.path/'bases.npy').read_bytes()
    (s.path/'bases.npy').write_bytes(content[:-700])
    with pytest.raises(InputError, match='damaged') as e: BarcodeStore(s.path)
    assert e.value.file == s.path and e.value.fix


def test_unlike_the_published_counts_warns_every_time(source, tmp_path):
    path = source.rename(tmp_path/'BIOSCAN_5M_Insect_Dataset_metadata.csv')
    with pytest.warns(UserWarning, match='not the partitions of BIOSCAN-5M'): prepare(path, tmp_path/'s')
    with pytest.warns(UserWarning, match='not the partitions of BIOSCAN-5M'): BarcodeStore(tmp_path/'s')


SLOW = """
import sys, time
from barcodemae.data import store
write = store.pack
def slow(barcodes):
    print('writing', flush=True)
    time.sleep(float(sys.argv[2]))
    return write(barcodes)
store.pack = slow
print(len(store.load_dataset(sys.argv[1])), flush=True)
"""

def start(source, seconds):
    return subprocess.Popen([sys.executable, '-c', SLOW, str(source), str(seconds)], stdout=subprocess.PIPE,
        text=True)

def test_killed_then_two_at_once(source, tmp_path):
    "kill -9 while writing leaves no store; two processes that want the same store write it once."
    killed = start(source, 60)
    others = []
    try:
        assert killed.stdout.readline() == 'writing\n'
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        stores = tmp_path/'cache'/'stores'
        assert not [p for p in stores.iterdir() if not p.name.startswith('.')]
        others = [start(source, 1) for _ in range(2)]
        said = [p.communicate(timeout=120)[0] for p in others]
    finally:
        for p in [killed, *others]: p.kill()
    assert sorted(said) == ['9\n', 'writing\n9\n']
    assert len([p for p in stores.iterdir() if not p.name.startswith('.')]) == 1
    assert len(load_dataset(source)) == 9


def test_too_wide(source):
    with pytest.raises(InputError, match='660'): prepare(source, config=CleanConfig(max_length=700))


LIGHT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('polars', 'xopen', 'fastcluster', 'edlib', 'nbdev', 'IPython',
                'papermill', 'matplotlib', 'seaborn'):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import numpy as np, torch
from barcodemae.compute import Compute
from barcodemae.evaluation.knn import GenusMonitor
from barcodemae.embedding.embed import embed
from barcodemae.embedding.neighbours import nearest
from barcodemae.training.config import make_config
from barcodemae.data.store import load_dataset
from barcodemae.training.pretrain import Pretraining
from barcodemae.training.trainer import Trainer
store, compute = load_dataset(sys.argv[1]), Compute(torch.device('cpu'), torch.float32)
config = make_config('demo', steps=2, aligned=True, hidden_size=32)
trainer = Trainer(Pretraining(config, store), compute, 2)
trainer.step(0)
trainer.objective.validate(trainer)
x = embed(trainer.encoder, store.bases[:50], compute=compute)
assert (nearest(x, x)[0][:, 0] == np.arange(50)).mean() > .9 and set(store.labels('genus', store.rows('train'))) and store.rows('pretrain').size
assert GenusMonitor(store, compute, references=50, whiten=40)(trainer.encoder)
"""

def test_training_and_neighbours_need_no_reader_of_tables(tmp_path):
    "A store, once made, is used where there is PyTorch and scikit-learn but no reader of tables."
    store = prepare(load_settings().datasets['demo'], tmp_path/'s', name='copied')
    assert BarcodeStore(tmp_path/'s').name == 'copied' and store.meta['published'] is None
    done = subprocess.run([sys.executable, '-c', LIGHT, str(tmp_path/'s')], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_store_of_an_older_version(source, tmp_path):
    "Without the folder of labels, which came later, everything comes from the table."
    s = prepare(source, tmp_path/'s')
    before = {c: s.labels(c).tolist() for c in ('genus', 'split', 'processid', 'coord-lat')}
    shutil.rmtree(tmp_path/'s'/'labels')
    old = BarcodeStore(tmp_path/'s')
    assert {c: old.labels(c).tolist() for c in before} == before
    assert old.rows('test_unseen').tolist() == s.rows('test_unseen').tolist()


def cut(path): path.write_bytes(path.read_bytes()[:-4])
def short(path): np.save(path, np.load(path)[:-1])
def large(path): np.save(path, np.load(path) + np.uint32(99))
def floats(path): np.save(path, np.load(path).astype(float))
def emptied(path): path.write_bytes(b'')

@pytest.mark.parametrize('spoil', [cut, short, large, floats, emptied], ids=lambda f: f.__name__)
def test_damaged_labels_are_told_and_the_table_serves(source, tmp_path, spoil):
    right = prepare(source, tmp_path/'s').labels('genus').tolist()
    spoil(tmp_path/'s'/'labels'/'genus.npy')
    with pytest.raises(InputError, match='damaged') as e: BarcodeStore(tmp_path/'s').labels('genus')
    assert e.value.file == tmp_path/'s'/'labels'/'genus.npy' and e.value.fix
    shutil.rmtree(tmp_path/'s'/'labels')
    assert BarcodeStore(tmp_path/'s').labels('genus').tolist() == right


def test_store_without_its_table(source, tmp_path):
    s = prepare(source, tmp_path/'s')
    (s.path/'table.arrow').unlink()
    assert s.labels('genus', [1]).tolist() == ['Aedes']
    for ask in (lambda: s.labels('country'), lambda: s.column('genus'), lambda: s.table):
        with pytest.raises(InputError, match='without its table'): ask()


def test_labels_of_a_mask(source, tmp_path):
    s = prepare(source, tmp_path/'s')
    assert s.labels('genus', s.labels('genus') == 'Aedes').tolist() == ['Aedes'] * 4


def test_a_folder_with_something_else_is_not_replaced(source, tmp_path):
    for arguments in (dict(out=tmp_path), dict(name='x')):
        with pytest.raises(InputError): prepare(source, **arguments)
    assert source.exists()
