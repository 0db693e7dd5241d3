"""Guards for the prepared GPU run: a part that fails or hangs costs the others nothing, encoders come back
whole, older timings stay."""
import importlib.util, json, re, shutil, subprocess, sys, tarfile
from importlib.metadata import requires
from pathlib import Path

import pytest, torch

from barcodemae.core import InputError
from barcodemae.evaluation.knn import untrained_encoder
from barcodemae.model.sequence import load_encoder
from barcodemae.training.config import make_config, model_config

TOOLS = Path(__file__).resolve().parent.parent/'tools'
spec = importlib.util.spec_from_file_location('gpu_kit', TOOLS/'gpu_kit.py')
kit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)

FAKE = """
import json, sys, time
from pathlib import Path
part, work, out, seconds = sys.argv[1:]
Path(out, f'{part}.json').write_text(json.dumps(dict(part=part, seconds=float(seconds))))
if part == 'smoke': raise ValueError('broken')
if part == 'speed': time.sleep(600)
"""


def run(folder, *arguments):
    command = [sys.executable, folder/'gpu_kit.py', 'run', folder/'out', '--device', 'cpu', *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_part_that_fails_or_hangs_leaves_the_others_their_time(tmp_path):
    shutil.copy(TOOLS/'gpu_kit.py', tmp_path)
    assert 'store.tar.xz is not there' in run(tmp_path).stderr
    (tmp_path/'gpu_parts.py').write_text(FAKE)
    with tarfile.open(tmp_path/'store.tar.xz', 'w:xz'): pass
    done = run(tmp_path, '--parts', 'smoke=20', 'speed=2', 'train=30', 'long')
    assert done.returncode == 1 and 'gpu-kit: not whole: smoke, speed' in done.stderr
    seconds = lambda part: json.loads((tmp_path/'out'/f'{part}.json').read_text())['seconds']
    found = {p: seconds(p) for p in kit.USUAL} # all wrote what they had
    spare = 'what smoke left over went to speed, and no further'
    assert found['train'] > 24 and found['long'] > kit.PARTS['long'] - 6, spare
    again = run(tmp_path, '--parts', 'train=5')
    assert again.returncode == 1 and 'has results of train' in again.stderr
    shutil.rmtree(tmp_path/'out')
    assert run(tmp_path, '--parts', 'train=7').returncode == 0


WITHOUT = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {absent}: raise ModuleNotFoundError(f'no {{name}}', name=name)
sys.meta_path.insert(0, Absent())
sys.path[:0] = [{tools!r}]
import gpu_checks, gpu_order, gpu_training
from barcodemae.model.tokenizer import tokenizer_of
"""


def needs(package):
    "Distributions that a package needs without its extras."
    found = [r for r in requires(package) or () if 'extra ==' not in r]
    return {re.match(r'[\w.-]+', r)[0].lower() for r in found}


def test_a_run_needs_no_package_that_its_machine_may_lack():
    there = {name.replace('sklearn', 'scikit-learn') for name in (*kit.NEEDED, *kit.WHEELS)}
    brought = set().union(*map(needs, there))
    absent = needs('barcodemae') - there - {name.replace('_', '-') for name in brought} - brought
    assert {'parasail', 'polars'} <= absent
    program = WITHOUT.format(absent=absent, tools=str(TOOLS))
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_unknown_part_is_told(tmp_path):
    shutil.copy(TOOLS/'gpu_kit.py', tmp_path)
    done = run(tmp_path, '--parts', 'trian')
    told = 'no such part: trian; there are smoke, speed, train, long, order'
    assert done.returncode == 2 and told in done.stderr


@pytest.mark.parametrize('limit', [10**9, 20_000])
def test_encoders_come_back_whole(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(kit, 'SHARD', limit)
    config = make_config('demo', k=4, hidden_size=32, layers=2, random_offset=True)
    encoder = untrained_encoder(model_config(config, reference='ACGT' * 165))
    kit.save_shards(encoder, tmp_path, 'mae')
    files = sorted(tmp_path.glob('mae-*'))
    if limit > 10**6: assert len(files) == 1
    else: assert len(files) > 3 and max(f.stat().st_size for f in files) < 2 * limit
    back = load_encoder(kit.join_shards(tmp_path/'mae-0.safetensors', tmp_path/'back'))
    assert back.config.reference == encoder.config.reference and back.config.num_hidden_layers == 2
    for name, w in encoder.state_dict().items():
        assert torch.equal(back.state_dict()[name], w.to(torch.bfloat16).float()), name
    if len(files) > 1:
        files[-1].unlink()
        with pytest.raises(InputError, match='shards is missing'):
            kit.join_shards(tmp_path/'mae-0.safetensors', tmp_path/'again')
        assert not (tmp_path/'again').exists()


def test_timings_that_were_not_taken_again_stay():
    def row(batch, pace, **more):
        return dict(shape='paper', gflop=44., batch=batch, compiled=True, barcodes_per_second=pace, **more)
    old = dict(steps=[row(128, 1.), row(512, 2.)], paper_hours=5.)
    new = dict(steps=[row(512, 3.)], paper_hours=4.)
    assert kit.joined(old, new) == dict(steps=[row(128, 1., earlier=True), row(512, 3.)], paper_hours=4.)
    assert kit.joined(dict(steps=7), dict(steps=9)) == dict(steps=9) # a number of steps, in another part


def test_results_of_two_machines_are_not_mixed(tmp_path):
    for gpu in ('A', 'B'):
        (tmp_path/gpu).mkdir()
        (tmp_path/gpu/'smoke.json').write_text(json.dumps(dict(machine=dict(gpu=gpu), whole=True)))
    kit.collect([tmp_path/'A'], tmp_path/'kept.json')
    with pytest.raises(SystemExit, match='kept.json is of A.*Fix: --to'):
        kit.collect([tmp_path/'B'], tmp_path/'kept.json')
    assert json.loads((tmp_path/'kept.json').read_text())['smoke']['machine']['gpu'] == 'A'
    with pytest.raises(SystemExit, match='no results in'): kit.collect([tmp_path], tmp_path/'kept.json')


def test_of_the_order_the_last_layer_is_kept(tmp_path):
    rows = [dict(layer=i, whitened=w, query='val_unseen', hits='01') for i in range(4) for w in (False, True)]
    run = dict(name='1M-mae-0', curve=[dict(step=0), dict(step=9)], last=rows, untrained=rows)
    found = dict(machine=dict(gpu='A'), whole=True, rates=dict(mae=3e-3), runs={'1M-mae-0': run})
    (tmp_path/'order.json').write_text(json.dumps(found))
    kit.collect([tmp_path], tmp_path/'kept.json')
    order = json.loads((tmp_path/'kept.json').read_text())['order']
    assert order == found | dict(runs={'1M-mae-0': run | dict(last=rows[-2:], untrained=rows[-2:])})


def test_packing_tells_what_does_not_come_with_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv('BARCODEMAE_COI_MINI', str(tmp_path/'nowhere.csv'))
    with pytest.raises(InputError, match='do not come with the project.*--data mine.csv'):
        kit.pack(tmp_path/'kit')
    (tmp_path/'mine').mkdir()
    with pytest.raises(InputError, match='holds something else'): kit.pack(tmp_path/'mine', ['demo'])
    assert sorted(p.name for p in tmp_path.iterdir()) == ['mine']


@pytest.fixture
def orders(monkeypatch):
    "The module gpu_order, without processes."
    monkeypatch.syspath_prepend(TOOLS)
    module = importlib.import_module('gpu_order')
    class Worker:
        def __init__(self, part): self.job, self.process = None, type('', (), dict(poll=lambda self: None))()
        def give(self, job): self.job = job
    monkeypatch.setattr(module, 'Worker', Worker)
    return module


def scheduled(orders, tmp_path, seconds, pace, before=None):
    "Runs that a schedule lets take place, in order, each done at once; searches find the middle rate best."
    import time
    part = type('', (), {})()
    part.work, part.end, part.size, part.found = tmp_path, time.time() + seconds, lambda full, small: full, {}
    part.config = lambda preset, full, small, **both: make_config(preset, dataset='demo', **full | both)
    schedule, order = orders.Schedule(part, before or {}), []
    schedule.write, schedule.pace = lambda: None, pace
    for _ in range(60):
        for worker in (w for w in schedule.workers if w.job):
            job = worker.job
            rows = [dict(layer=3, accuracy=50. + (job['rate'] == 3e-3))]
            found = dict(job, last=rows, lowest_loss=rows, seconds=1.)
            (schedule.place/f"{job['name']}.json").write_text(json.dumps(found))
            order.append(job)
        schedule.tend()
    return schedule, order


def test_runs_of_a_group_are_equally_long_and_their_rates_searched(orders, tmp_path):
    schedule, order = scheduled(orders, tmp_path, 10**6, 1e5)
    assert len(order) == len({j['name'] for j in order}) == sum(map(len, orders.groups_of(schedule.part)))
    assert [j['group'] for j in order[:9]] == ['search'] * 9 and not schedule.skipped
    assert {j['rate'] for j in order[9:]} == {3e-3} and {j['rate'] for j in order[:9]} == set(orders.RATES)
    for group in {j['group'] for j in order}:
        runs = [j for j in order if j['group'] == group]
        assert len({j['passes'] for j in runs}) == 1 and len({json.dumps(j['changes']) for j in runs}) == 1
        assert {v: sum(j['variant'] == v for j in runs) for v in orders.VARIANTS} == dict.fromkeys(
            orders.VARIANTS, len(runs) // 3)


def test_what_does_not_fit_is_left_out_whole(orders, tmp_path):
    schedule, order = scheduled(orders, tmp_path, 300, 3e4)
    groups = [j['group'] for j in order]
    assert groups.count('1M') == 9 and len(schedule.skipped) > 0
    assert all(groups.count(g) % 3 == 0 for g in groups)
    kept = dict(runs=schedule.runs, rates=schedule.rates)
    (tmp_path/'again').mkdir()
    second, more = scheduled(orders, tmp_path/'again', 10**6, 1e5, kept)
    assert not {j['name'] for j in more} & set(schedule.runs) and not second.skipped
    assert len(second.runs) == len(order) + len(more)
