"""Guards for barcodemae.training.finetune: interrupted runs end with the same bits, frozen encoders stay."""
import json

import numpy as np, pytest, torch

from barcodemae.compute import Compute
from barcodemae.core import InputError
from barcodemae.settings import find_dataset
from barcodemae.training.finetune import FinetuneConfig, Finetuning, finetune, label_codes
from barcodemae.model.sequence import load_encoder
from barcodemae.training.config import make_config
from barcodemae.data.store import prepare
from barcodemae.training.pretrain import train
from barcodemae.training.trainer import Trainer

CPU = Compute(torch.device('cpu'), torch.float32)


@pytest.fixture(scope='module')
def store(tmp_path_factory): return prepare(find_dataset('demo'), tmp_path_factory.mktemp('data')/'store')


@pytest.fixture(scope='module')
def start(store, tmp_path_factory):
    run = tmp_path_factory.mktemp('start')
    train(make_config('demo', steps=0, variant='encoder_only', hidden_size=16), store, run, CPU)
    return run


def config(start, **changes):
    return FinetuneConfig(**dict(start=str(start), epochs=3, batch_size=128, checkpoint_steps=7) | changes)


def trainer_of(config, store): return Trainer(Finetuning(config, store), CPU, 10)


def accuracy(record): # of genera, by the heads
    rows = [r for r in record['classifier'] if (r['rank'], r['query']) == ('genus', 'test')]
    return rows[0]['accuracy']


def test_an_interrupted_run_ends_with_the_same_bits(store, start, tmp_path, monkeypatch):
    record = finetune(config(start), store, tmp_path/'whole', CPU)
    assert record['supervised'] and record['pretraining']['steps'] == 0
    assert record['steps'] == 3 * (954 // 128)
    steps, plain = [], Trainer.step
    def counted(self, number, *args):
        steps.append(number)
        return plain(self, number, *args)
    def break_off(self, number, *args):
        if number == 10: raise KeyboardInterrupt
        return counted(self, number, *args)
    monkeypatch.setattr(Trainer, 'step', break_off)
    with pytest.raises(KeyboardInterrupt): finetune(config(start), store, tmp_path/'broken', CPU)
    monkeypatch.setattr(Trainer, 'step', counted)
    again = finetune(config(start), store, tmp_path/'broken', CPU)
    assert steps == [*range(10), *range(7, 21)]                                   # from the last checkpoint
    for file in ('best/model.safetensors', 'heads.safetensors'):
        assert (tmp_path/'whole'/file).read_bytes() == (tmp_path/'broken'/file).read_bytes()
    assert again['classifier'] == record['classifier']
    lines = [[json.loads(line) for line in (tmp_path/run/'metrics.jsonl').read_text().splitlines()]
             for run in ('whole', 'broken')]
    assert [line['step'] for line in lines[0]] == [line['step'] for line in lines[1]]
    assert finetune(config(start), store, tmp_path/'broken', CPU) == again # a finished run is not done again


def test_labels_are_learnt(store, start, tmp_path):
    changes = dict(epochs=8, batch_size=32, learning_rate=5e-3)
    assert accuracy(finetune(config(start, **changes), store, tmp_path/'a', CPU)) > 20 # by chance about 2


def test_labels_and_masked_kmers_at_once(store, start, tmp_path):
    "Both losses fall, [CLS] decides, nothing is masked in evaluation, and the encoder opens as any other."
    changes = dict(epochs=8, batch_size=32, learning_rate=5e-3, masked=.2, ranks=['genus'])
    record = finetune(config(start, **changes), store, tmp_path/'a', CPU)
    assert record['supervised'] and accuracy(record) > 8 # by chance about 2
    assert isinstance(load_encoder(tmp_path/'a'/'best'), type(load_encoder(start/'best')))
    trainer = trainer_of(config(start, masked=1., ranks=['genus']), store)
    model, objective = trainer.bare_model, trainer.objective
    ids, mask = objective.tokens(objective.labelled[:4], 'cpu')
    model.eval()
    a, b = (model(ids, mask)['genus'] for _ in range(2))
    assert torch.equal(a, b)
    model.train()
    logits, masked = model(ids, mask)
    (logits['genus'].sum() + masked).backward()
    unused = model.encoder.embeddings.token_type_embeddings.weight
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad and p is not unused)
    assert 5 < float(masked.detach()) < 12                          # ln 4096 is 8.3: nothing is known yet


def test_a_frozen_encoder_stays(store, start, tmp_path):
    finetune(config(start, frozen=True, epochs=1), store, tmp_path/'a', CPU)
    before, after = (load_encoder(folder/'best').state_dict() for folder in (start, tmp_path/'a'))
    assert all(torch.equal(before[n], after[n]) for n in before)
    model = trainer_of(config(start, frozen=True), store).bare_model
    assert model.training and model.heads.training and not model.encoder.training


def test_labels_as_numbers(store):
    rows = store.rows('train')
    names, codes = label_codes(store, rows, ['genus'])
    genus = store.labels('genus', rows)
    assert (names['genus'][codes['genus'][genus != '']] == genus[genus != '']).all()
    assert (codes['genus'][genus == ''] == -100).all()


def test_a_barcode_without_a_label_moves_nothing_at_that_rank(store, start):
    trainer = trainer_of(config(start), store)
    codes = trainer.objective.codes
    codes['species'] = np.full_like(codes['species'], -100)
    before = trainer.bare_model.heads['species'].weight.detach().clone()
    assert torch.isfinite(trainer.step(0).loss)
    assert torch.equal(before, trainer.bare_model.heads['species'].weight)


def test_faults(store, start, tmp_path):
    with pytest.raises(InputError, match='no encoder here'):
        finetune(config(tmp_path/'nothing'), store, tmp_path/'a', CPU)
    unlabelled = prepare(find_dataset('demo'), tmp_path/'store')
    unlabelled.splits.pop('train')
    with pytest.raises(InputError, match='no barcodes with a known genus or species in train'):
        finetune(config(start), unlabelled, tmp_path/'b', CPU)
    finetune(config(start, epochs=1), store, tmp_path/'c', CPU)
    with pytest.raises(InputError, match='other settings'):
        finetune(config(start, epochs=2), store, tmp_path/'c', CPU)


@pytest.mark.parametrize('change', [
    dict(optimizer='sgd'), dict(steps=-1), dict(ranks='genus'), dict(ranks=[]), dict(validations=0),
    dict(masked=-1), dict(learning_rate=float('nan')), dict(frozen='no'), dict(epochs=0)], ids=str)
def test_settings_that_make_no_sense_are_refused_when_they_are_made(change):
    with pytest.raises(InputError, match=f'{next(iter(change))}.*Fix'): FinetuneConfig(start='nowhere', **change)


def test_settings_that_are_spoilt_later_leave_no_folder(tmp_path):
    spoilt = FinetuneConfig(start='nowhere')
    spoilt.learning_rate = float('nan')
    with pytest.raises(InputError, match='learning_rate nan'): finetune(spoilt, None, tmp_path/'run')
    assert not (tmp_path/'run').exists()
