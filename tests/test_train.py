"""Guards for barcodemae.training: trainer, loop, run_folder, pretrain; killed runs resume bit for bit."""
import functools, json, time
from pathlib import Path

import pytest, torch
from safetensors.torch import load_file
from hypothesis import given, settings, strategies as st

from barcodemae.compute import Compute
from barcodemae.core import InputError, TrainingDiverged
from barcodemae.evaluation.run import evaluate_run
from barcodemae.settings import find_dataset
from barcodemae.model.mae import VARIANTS
from barcodemae.data.store import BarcodeStore, prepare
from barcodemae.training.config import make_config
from barcodemae.training.loop import Run, run_or_resume
from barcodemae.training.pretrain import Pretraining, train
from barcodemae.training.run_folder import RunFolder
from barcodemae.training.trainer import Batches, Trainer

CPU = Compute(torch.device('cpu'), torch.float32)
TINY = dict(hidden_size=16, decoder_hidden_size=16, batch_size=8, validations=2, log_steps=1)


@pytest.fixture(scope='module')
def store(tmp_path_factory): return prepare(find_dataset('demo'), tmp_path_factory.mktemp('data')/'store')


def learn(path, run, variant): # in a process of its own
    torch.set_num_threads(1)
    config = make_config('demo', variant=variant, steps=60, checkpoint_steps=7, dropout=.1, aligned=True,
                         **TINY | dict(log_steps=2))
    train(config, BarcodeStore(path), run, CPU)


@pytest.mark.parametrize('variant', ['mae', 'encoder_only'])
def test_killed_run_ends_with_the_same_bits(store, tmp_path, variant, processes):
    whole, broken = tmp_path/'whole', tmp_path/'broken'
    def start(run):
        process = processes.Process(target=learn, args=(store.path, run, variant), daemon=True)
        process.start()
        return process
    straight = start(whole)
    def lines(run): # the whole ones
        if not (run/'metrics.jsonl').exists(): return []
        whole_lines = (run/'metrics.jsonl').read_text().rpartition('\n')[0].splitlines()
        return [json.loads(line) for line in whole_lines]
    for kill_after in (6, 18):                                    # killed twice, between checkpoints
        process, deadline = start(broken), time.monotonic() + 300
        while len(lines(broken)) < kill_after:
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(.005)
        process.kill(); process.join()
        assert not (broken/'record.json').exists()
    for process in (start(broken), straight):
        process.join(300)
        assert process.exitcode == 0
    for file in ('best/model.safetensors', 'last/model.safetensors'):
        assert (whole/file).read_bytes() == (broken/file).read_bytes()
    def untimed(run): return [{n: v for n, v in line.items() if 'second' not in n} for line in lines(run)]
    assert untimed(whole) == untimed(broken)


def test_finished_run_is_not_done_again(store, tmp_path):
    config = make_config('demo', steps=3, **TINY)
    record = train(config, store, tmp_path, CPU)
    written = (tmp_path/'record.json').stat().st_mtime_ns
    assert train(config, store, tmp_path, CPU) == json.loads((tmp_path/'record.json').read_text())
    assert (tmp_path/'record.json').stat().st_mtime_ns == written
    assert record['barcodes_seen'] == 24 and record['simulated']
    assert record['parameters'] > record['encoder_parameters']


def test_folder_of_another_run(store, tmp_path):
    train(make_config('demo', steps=2, **TINY), store, tmp_path, CPU)
    before = (tmp_path/'last/model.safetensors').read_bytes()
    other = make_config('demo', steps=2, seed=1, **TINY)
    with pytest.raises(InputError, match='run_dir'): train(other, store, tmp_path, CPU)
    assert (tmp_path/'last/model.safetensors').read_bytes() == before
    (tmp_path/'config.json').unlink()
    with pytest.raises(InputError, match='without its config'): train(other, store, tmp_path, CPU)


def test_a_run_of_an_earlier_version_opens(store, tmp_path):
    "Settings under their old names, and without those that came later."
    config = make_config('demo', steps=2, aligned=True, **TINY)
    record = train(config, store, tmp_path, CPU)
    for file in ('config.json', 'record.json'):
        old = json.loads((tmp_path/file).read_text())
        old['registered'] = old.pop('aligned')
        if file == 'config.json': del old['compiled']
        (tmp_path/file).write_text(json.dumps(old))
    assert train(config, store, tmp_path, CPU) == record
    assert make_config('demo', registered=True).aligned
    with pytest.raises(InputError, match="'aligned': False"):
        train(make_config('demo', steps=2, **TINY), store, tmp_path, CPU)


def test_barcodes_without_labels_or_partitions(store, tmp_path):
    records = [f'>{i}\n{b}\n' for i, b in enumerate(store.sequences(range(40)))]
    (tmp_path/'mine.fasta').write_text(''.join(records))
    unlabelled = prepare(tmp_path/'mine.fasta', tmp_path/'store')
    record = train(make_config('demo', steps=2, aligned=True, **TINY), unlabelled, tmp_path/'run', CPU)
    assert record['barcodes_seen'] == 16


class Spoilt(Pretraining):
    "Its loss, or a weight after the step, is no number from step `at` on."
    at, what, value = 5, 'loss', float('nan')
    def loss(self, trainer, batch, with_metrics=False):
        out = super().loss(trainer, batch, with_metrics)
        if trainer.schedules[0].last_epoch >= self.at:
            if self.what == 'loss': out.loss = out.loss * self.value
            else: next(trainer.bare_model.parameters()).data.view(-1)[0] = self.value
        return out


def weights_are_finite(folder):
    files = list(folder.rglob('*.safetensors'))
    return files and all(w.isfinite().all() for f in files for w in load_file(f).values())


@pytest.mark.parametrize('what, value, log_steps', [ # each pair of them at least once
    ('loss', float('nan'), 1), ('loss', float('inf'), 4), ('loss', float('nan'), 50),
    ('weight', float('inf'), 1), ('weight', float('nan'), 4), ('weight', float('inf'), 50)])
def test_a_run_that_diverges_stops_and_keeps_its_last_good_encoder(store, tmp_path, what, value, log_steps):
    kind = type('Kind', (Spoilt,), dict(what=what, value=value))
    config = make_config('demo', steps=12, checkpoint_steps=3, **TINY | dict(validations=4, log_steps=log_steps))
    for _ in range(2): # the same call again says the same
        with pytest.raises(TrainingDiverged, match='best has the encoder of step 3.*Fix: .*learning_rate'):
            run_or_resume(kind, config, store, tmp_path, CPU)
    record = json.loads((tmp_path/'record.json').read_text())
    assert record['diverged'] and record['best']['step'] == 3 and 6 <= record['steps'] <= 12
    assert weights_are_finite(tmp_path) and not (tmp_path/'last').exists()
    assert not (tmp_path/'checkpoints').exists() and 'NaN' not in (tmp_path/'metrics.jsonl').read_text()
    assert evaluate_run(tmp_path, store, CPU)['diverged'] == record['diverged'] # the good encoder may be looked at


def test_a_run_that_diverges_before_anything_was_saved(store, tmp_path):
    config = make_config('demo', steps=4, **TINY)
    kind = type('Kind', (Spoilt,), dict(at=0))
    with pytest.raises(TrainingDiverged, match='no encoder was saved'):
        run_or_resume(kind, config, store, tmp_path, CPU)
    assert not list(tmp_path.rglob('*.safetensors'))


def test_a_learning_rate_far_too_high(store, tmp_path):
    "Past the check of the settings: what training makes of it."
    config = make_config('demo', steps=6, **TINY)
    config.learning_rate = 1e30
    with pytest.raises(InputError, match='learning_rate 1e[+]30'): train(config, store, tmp_path/'a', CPU)
    assert not (tmp_path/'a').exists()
    with pytest.raises(TrainingDiverged): Run(Pretraining(config, store), tmp_path/'b', CPU).run()
    assert json.loads((tmp_path/'b/record.json').read_text())['diverged']
    assert not (tmp_path/'b/best').exists() or weights_are_finite(tmp_path/'b/best')


def test_budgets(store, tmp_path):
    def new(name, **budget):
        return Run(Pretraining(make_config('demo', **budget, **TINY), store), tmp_path/name, CPU)
    epochs = new('epochs', epochs=2)
    assert epochs.state['steps'] == 2 * epochs.trainer.batches.per_epoch
    steps = new('minutes', minutes=1).state['steps']
    plan = json.loads((tmp_path/'minutes/schedule.json').read_text())
    assert steps > 10 and plan == dict(steps=steps, precision='torch.float32')
    assert make_config('demo', steps=5).minutes is None and make_config('demo').minutes


@pytest.mark.parametrize('left', [17, 200])
def test_the_rest_of_the_schedule_is_stretched_over_the_steps_left(store, left):
    trainer = Trainer(Pretraining(make_config('demo', steps=50, **TINY), store), CPU, 50)
    rate = lambda: trainer.schedules[0].get_last_lr()[0]
    for step in range(20): trainer.step(step)
    before = rate()
    trainer.stretch_schedule(left)
    rates = [rate()]
    for step in range(20, 20 + left):
        trainer.step(step)
        rates.append(rate())
    assert rates[0] == pytest.approx(before, rel=.1)                 # from where it stood, past its peak
    assert rates[:-1] == sorted(rates[:-1], reverse=True) and rates[-2] < before / 2
    first, second = trainer.schedules
    assert first.last_epoch == second.last_epoch == first.total_steps


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.floats(0, 1), st.integers(0, 39), st.integers(1, 5))
def test_any_schedule_comes_to_its_end(steps, warmup, done, left):
    "Any warm-up and number of steps, also when only a step or two of the time are left after a few."
    trainer = Trainer.__new__(Trainer)
    trainer.config = make_config('demo', warmup=warmup)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], 1.)
    trainer.schedules = [trainer.schedule(optimizer, steps)]
    def go(n):
        for _ in range(n):
            optimizer.step()
            trainer.schedules[0].step()
            assert 0 <= trainer.schedules[0].get_last_lr()[0] <= trainer.config.learning_rate * (1 + 1e-9)
    done = min(done, steps - 1)
    go(done)
    trainer.stretch_schedule(left)
    go(left)


def test_a_budget_in_minutes_is_kept(store, tmp_path, monkeypatch):
    monkeypatch.setattr('barcodemae.training.loop.budget_in_steps', lambda *a, **k: 4000) # far too high
    config = make_config('demo', minutes=.05, **TINY | dict(validations=10))
    record, lines = train(config, store, tmp_path, CPU), RunFolder(tmp_path, config).history()
    assert record['steps'] < 4000 and lines[-1]['step'] == record['steps']
    assert sum('val_loss' in line for line in lines) > 5
    assert record['seconds_training'] < 20


def test_every_barcode_once_an_epoch():
    batches = Batches(range(100, 140), batch_size=8, seed=3)
    epochs = [sorted(r for s in range(e * 5, e * 5 + 5) for r in batches(s)) for e in (0, 1)]
    assert epochs[0] == epochs[1] == list(range(100, 140)) and batches(0).tolist() != batches(5).tolist()


def test_no_such_preset():
    with pytest.raises(InputError, match='Fix: choose one of'): make_config('nothing')


SENSELESS = [dict(layer=2), dict(variant='bert'), dict(steps=-1), dict(batch_size=-1), dict(k=12),
             dict(optimizer='sgd'), dict(minutes='ten'), dict(dropout='none'), dict(warmup=2.)]

@pytest.mark.parametrize('changes', SENSELESS, ids=lambda c: next(iter(c)))
def test_settings_that_make_no_sense(changes):
    with pytest.raises(InputError, match='Fix'): make_config('demo', **changes)


def test_paper_presets_have_its_shape_and_budget():
    c = make_config('bioscan5m')
    assert (c.k, c.layers, c.heads, c.hidden_size, c.decoder_layers, c.mask_ratio) == (6, 6, 6, 768, 6, .5)
    assert (c.epochs, c.steps, c.minutes, c.batch_size) == (35, None, None, 128)
    assert (c.learning_rate, c.weight_decay, c.warmup) == (2e-4, 1e-5, .3)
    assert (c.optimizer, c.random_offset) == ('adamw', True)


def test_torn_last_line_of_metrics(store, tmp_path):
    config = make_config('demo', steps=2, **TINY)
    (tmp_path/'metrics.jsonl').write_text('{"step": 0, "loss": 5.5}\n{"step": 1, "lo')
    assert train(config, store, tmp_path, CPU)['steps'] == 2


@pytest.mark.filterwarnings('error:.*without being compiled')
def test_compiled_training_learns_the_same(store, monkeypatch):
    "Captured in one piece, whatever then makes code of it; with logits or without, and with dropout."
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='aot_eager'))
    def losses(**changes):
        torch._dynamo.reset() # shapes of other tests count too
        trainer = Trainer(Pretraining(make_config('demo', steps=9, **TINY, **changes), store), CPU, 9)
        return [trainer.step(i, with_metrics=i == 2).loss.item() for i in range(4)]
    for variant in VARIANTS:
        assert losses(variant=variant, compiled=True) == pytest.approx(losses(variant=variant), abs=1e-5)
    assert all(loss < 9 for loss in losses(compiled=True, dropout=.3, random_offset=True))
