"""Guards for barcodemae.model.sequence: training by configuration, batches, both strands, wrong folders."""
import json, subprocess, sys
import numpy as np, pytest, torch
from transformers import AutoModelForPreTraining, BertConfig, BertModel

import barcodemae.model
from barcodemae.model import load_encoder
from barcodemae.model.sequence import ARCHITECTURES, SequenceConfig, SequenceEncoder, reverse_complement_ids
from barcodemae.compute import Compute
from barcodemae.core import InputError
from barcodemae.embedding.embed import embed
from barcodemae.training.optim import make_optimizers
from barcodemae.training.config import make_config, model_config
from barcodemae.data.store import load_dataset
from barcodemae.model.tokenizer import kmer_ids, vocabulary
from barcodemae.training.pretrain import train

CPU = Compute(torch.device('cpu'), torch.float32)
SMALL = dict(hidden_size=32, heads=2, batch_size=8, log_steps=2, validations=2, k=4)


@pytest.fixture(scope='module')
def store(): return load_dataset('demo')


@pytest.mark.parametrize('variant', ARCHITECTURES)
def test_trains_by_configuration_and_embeds_alone_as_in_a_batch(variant, store, tmp_path):
    record = train(make_config('demo', variant=variant, steps=4, **SMALL), store, tmp_path/'run', CPU)
    metrics = map(json.loads, (tmp_path/'run/metrics.jsonl').read_text().splitlines())
    assert record['barcodes_seen'] == 32
    assert all(np.isfinite(m.get('loss', m.get('val_loss'))) for m in metrics)
    encoder, bases = load_encoder(tmp_path/'run/best'), np.array(store.bases[:12])
    bases[0, 300:], bases[1, 101:] = 5, 5 # short ones among long ones
    together = embed(encoder, bases, compute=CPU)
    assert together.shape == (12, 32)
    alone = [embed(encoder, b[None], compute=CPU) for b in bases[:4]]
    np.testing.assert_allclose(np.concatenate(alone), together[:4], atol=1e-4)
    np.testing.assert_array_equal(embed(encoder, bases, all_layers=True, compute=CPU)[:, -1], together)


@pytest.mark.parametrize('variant', ARCHITECTURES)
def test_every_parameter_learns(variant, store):
    torch.manual_seed(0)
    net = AutoModelForPreTraining.from_config(model_config(make_config('demo', variant=variant, **SMALL)))
    net(*kmer_ids(torch.from_numpy(np.array(store.bases[:8])), 4)).loss.backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    optimizers = make_optimizers(net, 'muon', 1e-3, 0.)
    for optimizer in optimizers: optimizer.step()
    muon = {id(p) for o in optimizers[1:] for g in o.param_groups for p in g['params']}
    by_muon = [n for n, p in net.named_parameters() if id(p) in muon]
    not_for_muon = ('A_log', 'freq', 'bias')
    assert by_muon
    assert not [n for n in by_muon if n.endswith(not_for_muon) or 'embedding' in n or n.startswith('head')]


@pytest.mark.parametrize('k', [3, 4, 6])
def test_reverse_complements(k):
    kmers = list(vocabulary(k)) # in the order of their ids
    other = str.maketrans('ACGT', 'TGCA')
    expected = [t if t.startswith('[') else t[::-1].translate(other) for t in kmers]
    assert [kmers[i] for i in reverse_complement_ids(k).tolist()] == expected


def test_caduceus_reads_both_strands_alike():
    torch.manual_seed(0)
    config = SequenceConfig(k=4, variant='caduceus', hidden_size=32, num_hidden_layers=2)
    encoder = SequenceEncoder(config).eval()
    ids = torch.randint(2, 4**4 + 2, (2, 165)) # as long as a barcode can be: no padding
    strands = ids, reverse_complement_ids(4)[ids].flip(1)
    with torch.no_grad(): here, there = (encoder(i).last_hidden_state for i in strands)
    assert torch.allclose(there, here.flip(1, 2), atol=1e-5)


def test_what_is_no_encoder_is_refused(tmp_path):
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    config = BertConfig(vocab_size=8, **sizes)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match='no encoder of this library'): load_encoder(tmp_path)


@pytest.mark.parametrize('change, told', [(dict(variant='lstm'), 'hyena'), (dict(k=2), 'k = 2'),
                                          (dict(variant='mamba2', heads=3), 'heads'),
                                          (dict(variant='caduceus', hidden_size=9), 'even')])
def test_impossible_settings(change, told):
    with pytest.raises(InputError, match=told): make_config('demo', **{**SMALL, **change})


def test_load_encoder_at_the_package_costs_nothing_until_it_is_asked_for():
    code = """import sys, barcodemae.model
print('torch' in sys.modules, callable(barcodemae.model.load_encoder), 'torch' in sys.modules)"""
    said = subprocess.check_output([sys.executable, '-c', code], text=True)
    assert said.split() == ['False', 'True', 'True']
    with pytest.raises(AttributeError, match='no attribute'): barcodemae.model.load_decoder
