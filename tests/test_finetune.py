"""Guards for barcodemae.training.finetune: an interrupted run ends with the same bits, frozen encoders stay, faults."""
import json

import numpy as np, pytest, torch

from barcodemae.training import finetune as module
from barcodemae.compute import Compute
from barcodemae.core import InputError
from barcodemae.settings import find_dataset
from barcodemae.training.finetune import Classifier, FinetuneConfig, Tuner, finetune, label_codes
from barcodemae.model.sequence import load_encoder
from barcodemae.training.config import make_config
from barcodemae.data.store import prepare
from barcodemae.training.pretrain import train

CPU = Compute(torch.device('cpu'), torch.float32)


@pytest.fixture(scope='module')
def store(tmp_path_factory): return prepare(find_dataset('demo'), tmp_path_factory.mktemp('data')/'store')


@pytest.fixture(scope='module')
def start(store, tmp_path_factory):
    run = tmp_path_factory.mktemp('start')
    train(make_config('demo', steps=0, variant='encoder_only', hidden_size=16), store, run, CPU)
    return run


def config(start, **changes): return FinetuneConfig(**(dict(start=str(start), epochs=3, batch_size=128) | changes))


def test_an_interrupted_run_ends_with_the_same_bits(store, start, tmp_path, monkeypatch):
    record = finetune(config(start), store, tmp_path/'whole', CPU)
    assert record['supervised'] and record['pretraining']['steps'] == 0 and record['steps'] == 3 * (954 // 128)
    steps, plain = [], Tuner.step
    def break_off(self, number):
        if number == 10: raise KeyboardInterrupt
        steps.append(number); return plain(self, number)
    monkeypatch.setattr(Tuner, 'step', break_off)
    with pytest.raises(KeyboardInterrupt): finetune(config(start), store, tmp_path/'broken', CPU)
    monkeypatch.setattr(Tuner, 'step', lambda self, number: (steps.append(number), plain(self, number))[1])
    again = finetune(config(start), store, tmp_path/'broken', CPU)
    assert steps == [*range(10), *range(7, 21)]                                   # from the last whole epoch
    for file in ('best/model.safetensors', 'heads.safetensors'): assert (tmp_path/'whole'/file).read_bytes() == (tmp_path/'broken'/file).read_bytes()
    assert again['classifier'] == record['classifier'] and len((tmp_path/'broken/metrics.jsonl').read_text().splitlines()) == 3
    assert finetune(config(start), store, tmp_path/'broken', CPU) == again        # a finished run is not done again


def test_labels_are_learnt(store, start, tmp_path):
    accuracy = lambda record: next(r['accuracy'] for r in record['classifier'] if (r['rank'], r['query']) == ('genus', 'test'))
    assert accuracy(finetune(config(start, epochs=8, batch_size=32, learning_rate=5e-3), store, tmp_path/'a', CPU)) > 20       # by chance about 2


def test_labels_and_hidden_words_at_once(store, start, tmp_path):
    "Both losses fall, [CLS] decides, nothing is hidden in evaluation, and the encoder opens as any other."
    record = finetune(config(start, epochs=4, batch_size=32, learning_rate=5e-3, masked=.2, ranks=['genus']), store, tmp_path/'a', CPU)
    assert record['supervised'] and next(r['accuracy'] for r in record['classifier'] if (r['rank'], r['query']) == ('genus', 'test')) > 8            # by chance about 2
    assert isinstance(load_encoder(tmp_path/'a'/'best'), type(load_encoder(start/'best')))
    tuner = Tuner(config(start, masked=1., ranks=['genus']), store, CPU)
    ids, mask = tuner.tokens(tuner.rows[:4])
    tuner.classifier.eval(); a, b = (tuner.classifier(ids, mask)['genus'] for _ in range(2))
    assert torch.equal(a, b)
    tuner.classifier.train(); logits, hidden = tuner.classifier(ids, mask)
    (logits['genus'].sum() + hidden).backward()
    assert all(p.grad is not None for p in tuner.classifier.parameters() if p.requires_grad and p is not tuner.classifier.encoder.embeddings.token_type_embeddings.weight)
    assert 5 < float(hidden.detach()) < 12                                        # ln 4096 is 8.3: no word is known yet


def test_a_frozen_encoder_stays(store, start, tmp_path):
    finetune(config(start, frozen=True, epochs=1), store, tmp_path/'a', CPU)
    before, after = (load_encoder(folder/'best').state_dict() for folder in (start, tmp_path/'a'))
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_labels_as_numbers(store):
    rows = store.rows('train')
    names, codes = label_codes(store, rows, ['genus'])
    genus = store.labels('genus', rows)
    assert (names['genus'][codes['genus'][genus != '']] == genus[genus != '']).all() and (codes['genus'][genus == ''] == -100).all()


def test_a_barcode_without_a_label_moves_nothing_at_that_rank(store, start):
    tuner = Tuner(config(start), store, CPU)
    tuner.codes['species'] = np.full_like(tuner.codes['species'], -100)
    assert torch.isfinite(tuner.step(0))
    assert tuner.classifier.heads['species'].weight.grad is None


def test_faults(store, start, tmp_path):
    with pytest.raises(InputError, match='no encoder here'): finetune(config(tmp_path/'nothing'), store, tmp_path/'a', CPU)
    unlabelled = prepare(find_dataset('demo'), tmp_path/'store')
    unlabelled.splits.pop('train')
    with pytest.raises(InputError, match='no barcodes with a known genus or species in train'): finetune(config(start), unlabelled, tmp_path/'b', CPU)
    finetune(config(start, epochs=1), store, tmp_path/'c', CPU)
    with pytest.raises(InputError, match='other settings'): finetune(config(start, epochs=2), store, tmp_path/'c', CPU)
