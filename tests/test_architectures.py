"""Guards for barcodemae.model.sequence: training by configuration, batch mates, both strands, folders that are no encoder."""
import json
import numpy as np, pytest, torch
from transformers import AutoModelForPreTraining, BertConfig, BertModel

from barcodemae.model.sequence import ARCHITECTURES, SequenceConfig, SequenceEncoder, load_encoder
from barcodemae.model.sequence import word_partners
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
    lines = [json.loads(l) for l in (tmp_path/'run/metrics.jsonl').read_text().splitlines()]
    assert record['barcodes_seen'] == 32 and all(np.isfinite(l.get('loss', l.get('val_loss'))) for l in lines)
    encoder, bases = load_encoder(tmp_path/'run/best'), np.array(store.bases[:12])
    bases[0, 300:] = 5; bases[1, 101:] = 5                                               # short ones among long ones
    together = embed(encoder, bases, compute=CPU)
    assert together.shape == (12, 32)
    np.testing.assert_allclose(np.concatenate([embed(encoder, b[None], compute=CPU) for b in bases[:4]]), together[:4], atol=1e-4)
    np.testing.assert_array_equal(embed(encoder, bases, all_layers=True, compute=CPU)[:, -1], together)


@pytest.mark.parametrize('variant', ARCHITECTURES)
def test_every_parameter_learns(variant, store):
    torch.manual_seed(0)
    net = AutoModelForPreTraining.from_config(model_config(make_config('demo', variant=variant, **SMALL)))
    net(*kmer_ids(torch.from_numpy(np.array(store.bases[:8])), 4)).loss.backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    for optimizer in make_optimizers(net, 'muon', 1e-3, 0.): optimizer.step()
    muon = {id(p) for o in make_optimizers(net, 'muon', 1e-3, 0.)[1:] for g in o.param_groups for p in g['params']}
    assert muon and not muon & {id(p) for n, p in net.named_parameters() if n.endswith(('A_log', 'freq', 'bias')) or 'embedding' in n or n.startswith('head')}


@pytest.mark.parametrize('k', [3, 4, 6])
def test_partners_are_reverse_complements(k):
    ids = vocabulary(k); words = {i: w for w, i in ids.items()}
    turned = {i: w if w.startswith('[') else w[::-1].translate(str.maketrans('ACGT', 'TGCA')) for i, w in words.items()}
    assert [words[i] for i in word_partners(k).tolist()] == [turned[i] for i in range(len(ids))]


def test_caduceus_reads_both_strands_alike():
    torch.manual_seed(0)
    encoder = SequenceEncoder(SequenceConfig(k=4, variant='caduceus', hidden_size=32, num_hidden_layers=2)).eval()
    ids = torch.randint(2, 4**4 + 2, (2, 165))                                           # as long as a barcode can be: nothing is filled up
    with torch.no_grad(): here, there = (encoder(i).last_hidden_state for i in (ids, word_partners(4)[ids].flip(1)))
    assert torch.allclose(there, here.flip(1, 2), atol=1e-5)


def test_what_is_no_encoder_is_refused(tmp_path):
    BertModel(BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match='no encoder of this library'): load_encoder(tmp_path)


@pytest.mark.parametrize('change, told', [(dict(variant='lstm'), 'hyena'), (dict(variant='mamba2', heads=3), 'heads'), (dict(variant='hyena', k=2), 'k = 2')])
def test_settings_that_make_no_sense(change, told):
    with pytest.raises(InputError, match=told): make_config('demo', **{**SMALL, **change})
