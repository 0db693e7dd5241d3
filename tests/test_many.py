"""Guards for several workers: the bytes of one process, whichever of them is killed, and whatever is resumed."""
import os, signal, subprocess, sys, time
from functools import partial
from pathlib import Path

import pytest

from barcodemae import __version__, cli
from barcodemae.core import InputError
from barcodemae.data.store import load_dataset
from barcodemae.identification import many
from barcodemae.identification.commands import _embedding, _naming
from barcodemae.identification.classifier import Identifier
from barcodemae.identification.indexing import index
from barcodemae.identification.many import Many, answering, open_job, pack_job
from barcodemae.identification.model import Model
from barcodemae.identification.output import write_answers
from barcodemae.identification.pieces import piece_files, pieces_folder

distributed = pytest.importorskip('distributed', reason='Dask is not installed: pip install "barcodemae[many]"')
import dask, psutil

NAMES = 600 # queries
HERE = Path(__file__).parent


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    place, store = tmp_path_factory.mktemp('many'), load_dataset('demo')
    barcodes = store.sequences(store.rows('test_unseen', 'test', 'train')[:NAMES])
    (place/'q.fasta').write_text(''.join(f'>q{i}\n{b}\n' for i, b in enumerate(barcodes)))
    index('demo', place/'reference', splits=('train',), quiet=True)
    return place


@pytest.fixture(scope='module')
def two():
    with answering(Many(workers=2), cores=2) as ask: yield ask


def embedding(wide=True): return _embedding(Model(), wide, 'both')

def naming(place): return _naming(Identifier(many.Reference(place/'reference')), place/'reference')

def slow(answer, names, barcodes): time.sleep(.05); return answer(names, barcodes)

def dies(names, barcodes): os.kill(os.getpid(), signal.SIGKILL)

def refuses(names, barcodes): raise InputError('no such folder on node7', file='moths', fix='index it')

def written(place, job, out, batch=50, **how):
    write_answers(place/'q.fasta', job, place/out, quiet=True, batch=batch, **how)
    return (place/out).read_bytes()

def slowed(job):
    job.answer = partial(slow, job.answer)
    return job

def wait_for(there, seconds=120):
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(.02)

def pieces(place, out): return len(piece_files(pieces_folder(place/out)))


@pytest.mark.parametrize('out', ['vectors.tsv.gz', 'vectors.parquet'])
def test_embeds_as_one_process_does(place, two, out):
    one = written(place, embedding(out.endswith('gz')), f'one-{out}')
    assert written(place, embedding(out.endswith('gz')), out, ask=two) == one and len(one) > 10_000


def test_names_as_one_process_does(place, two):
    one = written(place, naming(place), 'one.tsv')
    assert written(place, naming(place), 'two.tsv', ask=two) == one and one.count(b'\n') == NAMES + 1
    assert b'species' in one


def test_a_worker_that_is_killed_changes_nothing(place, two):
    one, killed = written(place, embedding(), 'one.tsv'), []
    def after_three_batches(answer, batches):
        for n, frame in enumerate(two(answer, batches)):
            if n == 3:
                busy = [w['id'] for w in two.args[0].scheduler_info()['workers'].values()]
                killed.extend(p.pid for p in psutil.Process().children(recursive=True)
                              if 'spawn_main' in ' '.join(p.cmdline()))
                assert len(busy) == len(killed) == 2
                os.kill(killed[0], signal.SIGKILL)
            yield frame
    assert written(place, slowed(embedding()), 'two.tsv', batch=10, ask=after_three_batches) == one
    assert killed and psutil.pid_exists(killed[1]) and killed[0] not in psutil.pids()


def whole(place, out): # in a process of its own
    with answering(Many(workers=2), cores=2) as ask: written(Path(place), slowed(embedding()), out, batch=10, ask=ask)


def test_all_of_it_killed_and_resumed_by_one_process(place):
    one, asked = written(place, embedding(), 'one.tsv'), []
    program = f'import test_many; test_many.whole({str(place)!r}, "killed.tsv")'
    path = os.pathsep.join([str(HERE), *sys.path])
    run = subprocess.Popen([sys.executable, '-c', program], env=os.environ | dict(PYTHONPATH=path))
    wait_for(lambda: pieces(place, 'killed.tsv') >= 4 or run.poll() is not None)
    workers = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    there = pieces(place, 'killed.tsv')
    assert 4 <= there < NAMES / 10 and len(workers) >= 2 and not (place/'killed.tsv').exists()
    psutil.wait_procs(workers, 60)
    assert not [w for w in workers if w.is_running() and w.status() != psutil.STATUS_ZOMBIE] # none is left behind
    def counted(answer, batches):
        for batch in batches: asked.append(batch); yield answer(*batch)
    assert written(place, embedding(), 'killed.tsv', batch=10, ask=counted) == one
    assert len(asked) == NAMES / 10 - there


def test_a_batch_that_kills_its_workers_or_is_refused_ends_the_command_and_keeps_the_rest(place, two):
    with answering(Many(workers=1)) as ask, dask.config.set({'distributed.scheduler.allowed-failures': 0}):
        ask.args[0].run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, 'allowed_failures', 0))
        def last_dies(answer, batches):
            batches = list(batches)
            yield from two(answer, batches[:3])
            yield from ask(dies, batches[3:])
        with pytest.raises(InputError, match='lost again'), pytest.warns(UserWarning, match='is kept'):
            written(place, embedding(), 'dies.tsv', ask=last_dies)
    assert pieces(place, 'dies.tsv') == 3
    def last_refuses(answer, batches): yield from two(refuses, batches)
    with pytest.raises(InputError, match='moths: no such folder on node7. Fix: index it'), pytest.warns(UserWarning, match='is kept'):
        written(place, embedding(), 'dies.tsv', ask=last_refuses)
    assert pieces(place, 'dies.tsv') == 3
    assert written(place, embedding(), 'dies.tsv') == written(place, embedding(), 'one.tsv')


def test_a_cluster_that_is_there(place):
    address, run = place/'cluster.json', [sys.executable, '-m']
    options = ['--scheduler-file', str(address)]
    several = [subprocess.Popen([*run, 'distributed.cli.dask_scheduler', '--port', '0', '--no-dashboard', *options])]
    try:
        wait_for(address.exists)
        worker = [*run, 'distributed.cli.dask_worker', '--nthreads', '1', '--no-dashboard', *options]
        several += [subprocess.Popen(worker) for _ in range(2)]
        ask = ['identify', str(place/'q.fasta'), '--reference', str(place/'reference'), '--quiet']
        assert cli.main([*ask, '-o', str(place/'here.tsv')]) == 0
        assert cli.main([*ask, '-o', str(place/'there.tsv'), '--scheduler', str(address)]) == 0
        assert (place/'there.tsv').read_bytes() == (place/'here.tsv').read_bytes()
    finally:
        for process in reversed(several): process.terminate()
        for process in several: process.wait(60)


def test_what_is_wrong_is_told(place, monkeypatch):
    with pytest.raises(InputError, match='--workers or --scheduler'): Many(2, 'tcp://node0:8786')
    with pytest.raises(InputError, match='workers 0'): Many(0)
    with dask.config.set({'distributed.comm.timeouts.connect': '1s'}):
        with pytest.raises(InputError, match='no Dask scheduler'):
            with answering(Many(scheduler='tcp://127.0.0.1:9')): pass
    monkeypatch.setattr(many, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match=r'barcodemae\[many\]'):
        with answering(Many(2)): pass


def test_workers_refuse_what_is_not_the_same(place, tmp_path, monkeypatch):
    job = pack_job(naming(place).answer)
    assert len(job) < 20_000 and open_job(job).reference.folder == place/'reference'
    (place/'reference').rename(tmp_path/'away')
    open_job.cache_clear()
    with pytest.raises(InputError, match='no such folder'): open_job(job)
    (tmp_path/'away').rename(place/'reference')
    other = type('Other', (), dict(content='another'))
    monkeypatch.setattr(many, 'Reference', lambda folder, model: other)
    open_job.cache_clear()
    with pytest.raises(InputError, match='another content'): open_job(job)
    monkeypatch.undo()
    monkeypatch.setattr(many.barcodemae, '__version__', '0.0.0')
    with pytest.raises(InputError, match=f'barcodemae 0.0.0 on .* but {__version__} here'): open_job(job)


def test_without_the_options_dask_is_not_imported():
    program = 'import sys, barcodemae.identification.commands; print("dask" in sys.modules, "distributed" in sys.modules)'
    said = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True).stdout
    assert said.split() == ['False', 'False']
