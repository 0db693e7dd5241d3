"""Guards for barcodemae.training.pretrain: a killed run continues to the same bits, budgets, faults."""
import functools, json, time
from pathlib import Path

import pytest, torch
from hypothesis import given, settings, strategies as st

from barcodemae.compute import Compute
from barcodemae.core import InputError
from barcodemae.settings import find_dataset
from barcodemae.model.mae import VARIANTS
from barcodemae.data.store import BarcodeStore, prepare
from barcodemae.training.config import make_config
from barcodemae.training.pretrain import Batches, Run, Trainer, train

CPU = Compute(torch.device('cpu'), torch.float32)
TINY = dict(hidden_size=16, decoder_hidden_size=16, batch_size=8, validations=2, log_steps=1)


@pytest.fixture(scope='module')
def store(tmp_path_factory): return prepare(find_dataset('demo'), tmp_path_factory.mktemp('data')/'store')


def learn(path, run, variant): # in a process of its own
    torch.set_num_threads(1)
    train(make_config('demo', variant=variant, steps=60, checkpoint_steps=7, dropout=.1, registered=True, **{**TINY, 'log_steps': 2}), BarcodeStore(path), run, CPU)


@pytest.mark.parametrize('variant', ['mae', 'encoder_only'])
def test_killed_run_ends_with_the_same_bits(store, tmp_path, variant, processes):
    whole, broken = tmp_path/'whole', tmp_path/'broken'
    def start(run):
        process = processes.Process(target=learn, args=(store.path, run, variant), daemon=True)
        process.start()
        return process
    straight = start(whole)
    for kill_after in (6, 18):                                    # killed twice, between checkpoints
        process, deadline = start(broken), time.monotonic() + 300
        while not (broken/'metrics.jsonl').exists() or len((broken/'metrics.jsonl').read_text().splitlines()) < kill_after:
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(.005)
        process.kill(); process.join()
        assert not (broken/'record.json').exists()
    for process in (start(broken), straight):
        process.join(300)
        assert process.exitcode == 0
    for encoder in ('best', 'last'):
        assert (whole/encoder/'model.safetensors').read_bytes() == (broken/encoder/'model.safetensors').read_bytes()
    lines = [[{n: v for n, v in json.loads(l).items() if 'second' not in n} for l in (run/'metrics.jsonl').read_text().splitlines()] for run in (whole, broken)]
    assert lines[0] == lines[1]


def test_finished_run_is_not_done_again(store, tmp_path):
    config = make_config('demo', steps=3, **TINY)
    record = train(config, store, tmp_path, CPU)
    written = (tmp_path/'record.json').stat().st_mtime_ns
    assert train(config, store, tmp_path, CPU) == json.loads((tmp_path/'record.json').read_text())
    assert (tmp_path/'record.json').stat().st_mtime_ns == written
    assert record['barcodes_seen'] == 24 and record['simulated'] and record['parameters'] > record['encoder_parameters']


def test_folder_of_another_run(store, tmp_path):
    train(make_config('demo', steps=2, **TINY), store, tmp_path, CPU)
    before = (tmp_path/'last/model.safetensors').read_bytes()
    with pytest.raises(InputError, match='run_dir'): train(make_config('demo', steps=2, seed=1, **TINY), store, tmp_path, CPU)
    assert (tmp_path/'last/model.safetensors').read_bytes() == before
    (tmp_path/'config.json').unlink()
    with pytest.raises(InputError, match='without its config'): train(make_config('demo', steps=2, seed=1, **TINY), store, tmp_path, CPU)


def test_barcodes_without_names_or_partitions(store, tmp_path):
    (tmp_path/'mine.fasta').write_text(''.join(f'>{i}\n{b}\n' for i, b in enumerate(store.sequences(range(40)))))
    nameless = prepare(tmp_path/'mine.fasta', tmp_path/'store')
    assert train(make_config('demo', steps=2, **{**TINY, 'registered': True}), nameless, tmp_path/'run', CPU)['barcodes_seen'] == 16


def test_budgets(store, tmp_path):
    epochs = Run(make_config('demo', epochs=2, **TINY), store, tmp_path/'epochs', CPU)
    assert epochs.state["steps"] == 2 * epochs.trainer.batches.per_epoch
    minutes = Run(make_config('demo', minutes=1, **TINY), store, tmp_path/'minutes', CPU)
    assert minutes.state["steps"] > 10 and json.loads((tmp_path/'minutes/schedule.json').read_text()) == {"steps": minutes.state["steps"], 'precision': 'torch.float32'}
    assert make_config('demo', steps=5).minutes is None and make_config('demo').minutes


@pytest.mark.parametrize('left', [17, 200])
def test_the_rest_of_the_schedule_is_spread_over_the_steps_left(store, left):
    trainer = Trainer(make_config('demo', steps=50, **TINY), store, CPU, 50)
    rate = lambda: trainer.schedules[0].get_last_lr()[0]
    for step in range(20): trainer.step(step)
    before = rate()
    trainer.spread(left)
    rates = [rate()]
    for step in range(20, 20 + left): trainer.step(step); rates.append(rate())
    assert rates[0] == pytest.approx(before, rel=.1) and rates[:-1] == sorted(rates[:-1], reverse=True) # goes on where it stood, past its peak
    assert rates[-2] < before / 2
    assert len(trainer.schedules) == 2 and trainer.schedules[0].last_epoch == trainer.schedules[1].last_epoch == trainer.schedules[0].total_steps


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
    trainer.spread(left)
    go(left)


def test_a_budget_in_minutes_is_kept(store, tmp_path, monkeypatch):
    monkeypatch.setattr('barcodemae.training.pretrain.budget_in_steps', lambda *a, **k: 4000)                 # a guess that is far too high
    record = train(make_config('demo', minutes=.05, **{**TINY, 'validations': 10}), store, tmp_path, CPU)
    assert record['steps'] < 4000 and json.loads((tmp_path/'metrics.jsonl').read_text().splitlines()[-1])['step'] == record['steps']
    assert sum('val_loss' in json.loads(l) for l in (tmp_path/'metrics.jsonl').read_text().splitlines()) > 5
    assert record['seconds_training'] < 20


def test_every_barcode_once_an_epoch():
    batches = Batches(range(100, 140), batch_size=8, seed=3)
    epochs = [sorted(r for s in range(e * 5, e * 5 + 5) for r in batches(s)) for e in (0, 1)]
    assert epochs[0] == epochs[1] == list(range(100, 140)) and batches(0).tolist() != batches(5).tolist()


@pytest.mark.parametrize('preset, changes', [('nothing', {}), ('demo', dict(layer=2)), ('demo', dict(variant='bert')), ('demo', dict(steps=-1)),
                                             ('demo', dict(batch_size=-1)), ('demo', dict(k=12)), ('demo', dict(optimizer='sgd')), ('demo', dict(minutes='ten')), ('demo', dict(dropout='none'))])
def test_settings_that_make_no_sense(preset, changes):
    with pytest.raises(InputError, match='Fix'): make_config(preset, **changes)


def test_paper_presets_are_the_papers():
    c = make_config('bioscan5m')
    assert (c.k, c.layers, c.heads, c.hidden_size, c.decoder_layers, c.mask_ratio) == (6, 6, 6, 768, 6, .5)
    assert (c.epochs, c.steps, c.minutes, c.batch_size, c.learning_rate, c.weight_decay, c.warmup) == (35, None, None, 128, 2e-4, 1e-5, .3)
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
        torch._dynamo.reset()                                                                        # shapes of other tests count too
        trainer = Trainer(make_config('demo', steps=9, **TINY, **changes), store, CPU, 9)
        return [trainer.step(i, with_logits=i == 2).loss.item() for i in range(4)]
    for variant in VARIANTS: assert losses(variant=variant, compiled=True) == pytest.approx(losses(variant=variant), abs=1e-5)
    assert all(loss < 9 for loss in losses(compiled=True, dropout=.3, random_offset=True))
