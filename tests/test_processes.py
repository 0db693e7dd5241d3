"""Guards for several processes (gloo, on this machine): the same training, resumed runs and tables."""
import json, os, socket, subprocess, sys, time
from pathlib import Path

import pytest, torch

from barcodemae.compute import Compute, probe_compute
from barcodemae.core import InputError
from barcodemae.settings import find_dataset
from barcodemae.evaluation.knn import untrained_encoder
from barcodemae.model.mae import BarcodeEncoder, BarcodeMAEConfig
from barcodemae.training.config import make_config
from barcodemae.embedding.shards import embed_table
from barcodemae.data.store import BarcodeStore, prepare
from barcodemae.training.pretrain import train


@pytest.fixture(scope='module')
def store(tmp_path_factory): return prepare(find_dataset('demo'), tmp_path_factory.mktemp('data')/'store')


def learn(store, run, variant, dropout, steps):
    config = make_config('demo', variant=variant, steps=int(steps), dropout=float(dropout), batch_size=9,
                         hidden_size=16, decoder_hidden_size=16, random_offset=True, aligned=True,
                         validations=2, log_steps=2, checkpoint_steps=7)
    train(config, BarcodeStore(store), run, Compute(torch.device('cpu'), torch.float32))


def vectors(store, out, dtype):
    torch.manual_seed(0)
    shape = dict(k=4, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2)
    encoder, store = BarcodeEncoder(BarcodeMAEConfig(**shape)).eval(), BarcodeStore(store)
    compute = Compute(torch.device('cpu'), getattr(torch, dtype))
    rows = store.rows('test_unseen', 'train')
    embed_table(encoder, store, out, rows=rows, shard=100, batch_size=32, compute=compute)


def one_process(rank, work, args):
    "The work of one process; `rank` says which of them it is, in the variables that torchrun sets."
    os.environ.update(rank)
    torch.set_num_threads(1)
    work(*args)
    torch.distributed.is_initialized() and torch.distributed.destroy_process_group()


@pytest.fixture
def start(processes):
    "`start(n, work, ...)` -> n processes that share the work."
    def start(n, work, *args):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            where = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free.getsockname()[1]),
                         WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n))
        ranks = [where | dict(RANK=str(i), LOCAL_RANK=str(i)) for i in range(n)] if n > 1 else [{}]
        options = dict(target=one_process, daemon=True)
        several = [processes.Process(args=(rank, work, args), **options) for rank in ranks]
        for process in several: process.start()
        return several
    return start


def finish(several):
    for process in several: process.join(300)
    assert all(p.exitcode == 0 for p in several)


def kill(several, when):
    deadline = time.monotonic() + 300
    while not when():
        assert all(p.is_alive() for p in several) and time.monotonic() < deadline
        time.sleep(.002)
    for process in several: process.kill()
    for process in several: process.join()


def lines(run): # without times
    found = [json.loads(line) for line in (run/'metrics.jsonl').read_text().splitlines()]
    return [{n: v for n, v in line.items() if 'second' not in n} for line in found]


def same_losses(one, two):
    one, two = ([l['loss'] for l in lines(run) if 'loss' in l] for run in (one, two))
    return len(one) == len(two) == 10 and max(abs(a - b) for a, b in zip(one, two)) < 1e-4


@pytest.mark.parametrize('variant', ['mae', 'encoder_only'])
def test_two_processes_learn_what_one_learns(store, start, tmp_path, variant):
    both = [start(n, learn, store.path, tmp_path/f'{n}', variant, 0, 20) for n in (1, 2)]
    for several in both: finish(several)
    assert same_losses(tmp_path/'1', tmp_path/'2')
    assert json.loads((tmp_path/'2/record.json').read_text())['barcodes_seen'] == 180


def test_by_torchrun(store, start, tmp_path):
    finish(start(1, learn, store.path, tmp_path/'1', 'mae', 0, 20))
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    environment = os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(sys.path))
    command = [*launch, __file__, store.path, tmp_path/'2', 'mae', '0', '20']
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert same_losses(tmp_path/'1', tmp_path/'2')


def test_two_processes_killed_and_continued(store, start, tmp_path):
    whole, broken = tmp_path/'whole', tmp_path/'broken'
    finish(start(2, learn, store.path, whole, 'mae', .1, 40))
    first = start(2, learn, store.path, broken, 'mae', .1, 40)
    kill(first, lambda: list((broken/'checkpoints').glob('step-*')))
    assert not (broken/'record.json').exists()
    finish(start(2, learn, store.path, broken, 'mae', .1, 40))
    assert lines(whole) == lines(broken)
    for file in ('best/model.safetensors', 'last/model.safetensors'):
        assert (whole/file).read_bytes() == (broken/file).read_bytes()


def shards(folder): return {p.name: p.read_bytes() for p in folder.iterdir()}


SLOW = probe_compute('cpu').dtype == torch.float32 # bfloat16 without matrix units takes a minute

skip = pytest.mark.skipif(SLOW, reason='this CPU is not faster in bfloat16')
BFLOAT16 = pytest.param('bfloat16', marks=skip)

@pytest.mark.parametrize('dtype', ['float32', BFLOAT16])
def test_table_is_the_same_by_any_number_of_processes(store, start, tmp_path, dtype):
    one, two = tmp_path/'one', tmp_path/'two'
    finish(start(1, vectors, store.path, one, dtype))
    first = start(2, vectors, store.path, two, dtype)
    kill(first, lambda: len(list(two.glob('part-*'))) >= 3) # in the middle
    there = {p.name: p.stat().st_mtime_ns for p in two.glob('part-*')}
    assert 3 <= len(there) < len(shards(one)) - 1
    finish(start(2, vectors, store.path, two, dtype))
    assert {n: b for n, b in shards(two).items() if not n.startswith('.')} == shards(one)
    assert all((two/n).stat().st_mtime_ns == t for n, t in there.items()) # what was there was not done again


def test_tables_are_not_mixed(store, tmp_path):
    some = store.sequences(range(60))
    def other(barcodes): # each time by the same name
        (tmp_path/'my.fasta').write_text(''.join(f'>{i}\n{b}\n' for i, b in enumerate(barcodes)))
        return prepare(tmp_path/'my.fasta', tmp_path/'store').path
    shape = dict(k=4, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1)
    encoder = untrained_encoder(BarcodeMAEConfig(**shape))
    compute = Compute(torch.device('cpu'), torch.float32)
    def vectors_of(barcodes):
        return embed_table(encoder, BarcodeStore(other(barcodes)), tmp_path/'out', compute=compute)
    vectors_of(some)
    with pytest.raises(InputError, match='another bases'): vectors_of([b[::-1] for b in some])
    (tmp_path/'out/manifest.json').unlink()
    with pytest.raises(InputError, match='without a manifest'): vectors_of(some)


def test_cluster_script_is_a_script():
    script = Path(__file__).parent.parent/'tools/slurm.sh'
    assert subprocess.run(['bash', '-n', script]).returncode == 0
    assert 'barcodemae batch' in script.read_text()


if __name__ == '__main__': one_process({}, learn, sys.argv[1:])
