"""Guards for several processes (gloo, on this machine): the same training, the same continuation, the same tables."""
import json, os, subprocess, sys, time
from pathlib import Path

import psutil, pytest, torch

from barcodemae.core import find_dataset, probe_compute
from barcodemae.store import prepare


@pytest.fixture(scope='module')
def store(tmp_path_factory): return prepare(find_dataset('demo'), tmp_path_factory.mktemp('data')/'store')


TRAIN = '''
import sys, torch
from barcodemae.core import Compute
from barcodemae.store import BarcodeStore
from barcodemae.presets import make_config
from barcodemae.train import train
torch.set_num_threads(1)
store, run, variant, dropout, steps = sys.argv[1:]
config = make_config('demo', variant=variant, steps=int(steps), checkpoint_steps=7, dropout=float(dropout), hidden_size=16, decoder_hidden_size=16, batch_size=9,
                     random_offset=True, registered=True, validations=2, log_steps=2)
train(config, BarcodeStore.open(store), run, Compute(torch.device('cpu'), torch.float32))
torch.distributed.is_initialized() and torch.distributed.destroy_process_group()
'''


def start(program, processes, *args):
    many = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}'] if processes > 1 else []
    return subprocess.Popen([sys.executable, *many, program, *map(str, args)], stderr=subprocess.PIPE, text=True,
                            env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join(sys.path)})


def finish(process):
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said


@pytest.fixture(scope='module')
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp('program')/'program.py'
    path.write_text(TRAIN)
    return path


def lines(run): return [{n: v for n, v in json.loads(l).items() if 'second' not in n} for l in (run/'metrics.jsonl').read_text().splitlines()]


@pytest.mark.parametrize('variant', ['mae', 'encoder_only'])
def test_two_processes_learn_what_one_learns(store, program, tmp_path, variant):
    runs = [start(program, n, store.path, tmp_path/f'{n}', variant, 0, 20) for n in (1, 2)]
    for run in runs: finish(run)
    one, two = ([l['loss'] for l in lines(tmp_path/n) if 'loss' in l] for n in '12')
    assert len(one) == len(two) == 10 and max(abs(a - b) for a, b in zip(one, two)) < 1e-4
    assert json.loads((tmp_path/'2/record.json').read_text())['barcodes_seen'] == 180


def test_two_processes_killed_and_continued(store, program, tmp_path):
    whole, broken = tmp_path/'whole', tmp_path/'broken'
    finish(start(program, 2, store.path, whole, 'mae', .1, 40))
    process = start(program, 2, store.path, broken, 'mae', .1, 40)
    while not list((broken/'checkpoints').glob('step-*')):
        assert process.poll() is None, process.stderr.read()
        time.sleep(.005)
    for child in [*psutil.Process(process.pid).children(recursive=True), process]: child.kill()
    process.wait(); process.stderr.close()
    assert not (broken/'record.json').exists()
    finish(start(program, 2, store.path, broken, 'mae', .1, 40))
    assert lines(whole) == lines(broken)
    for encoder in ('best', 'last'): assert (whole/encoder/'model.safetensors').read_bytes() == (broken/encoder/'model.safetensors').read_bytes()


EMBED = '''
import sys, torch
from barcodemae.core import Compute
from barcodemae.model import BarcodeEncoder, BarcodeMAEConfig
from barcodemae.shards import embed_table
from barcodemae.store import BarcodeStore
store, out, dtype = sys.argv[1:]
torch.manual_seed(0)
encoder = BarcodeEncoder(BarcodeMAEConfig(k=4, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2)).eval()
store = BarcodeStore.open(store)
embed_table(encoder, store, out, rows=store.rows('test_unseen', 'train'), shard=100, batch_size=32, compute=Compute(torch.device('cpu'), getattr(torch, dtype)))
torch.distributed.is_initialized() and torch.distributed.destroy_process_group()
'''


def shards(folder): return {p.name: p.read_bytes() for p in folder.iterdir()}


SLOW = probe_compute('cpu').dtype == torch.float32 # bfloat16 without matrix units takes a minute

@pytest.mark.parametrize('dtype', ['float32', pytest.param('bfloat16', marks=pytest.mark.skipif(SLOW, reason='this processor is not quicker in bfloat16'))])
def test_table_is_the_same_by_any_number_of_processes(store, tmp_path, dtype):
    (tmp_path/'embed.py').write_text(EMBED)
    one, two = tmp_path/'one', tmp_path/'two'
    finish(start(tmp_path/'embed.py', 1, store.path, one, dtype))
    process = start(tmp_path/'embed.py', 2, store.path, two, dtype)
    while len(list(two.glob('part-*'))) < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(.002)
    for child in [*psutil.Process(process.pid).children(recursive=True), process]: child.kill()      # killed in the middle
    process.wait(); process.stderr.close()
    there = {p.name: p.stat().st_mtime_ns for p in two.glob('part-*')}
    assert 3 <= len(there) < len(shards(one)) - 1
    finish(start(tmp_path/'embed.py', 2, store.path, two, dtype))
    assert {n: b for n, b in shards(two).items() if not n.startswith('.')} == shards(one)
    assert all((two/n).stat().st_mtime_ns == t for n, t in there.items())                            # what was there was not done again


def test_cluster_script_is_a_script():
    script = Path(__file__).parent.parent/'tools/slurm.sh'
    assert subprocess.run(['bash', '-n', script]).returncode == 0 and 'barcodemae.batch' in script.read_text()
