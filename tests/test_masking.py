"""Guards for evaluation.masking: the same k-mers for all; none taken changes nothing; removed is gone."""
import numpy as np, pytest, torch
from hypothesis import given, strategies as st

from barcodemae.compute import Compute
from barcodemae.core import InputError
from barcodemae.embedding.embed import embed
from barcodemae.evaluation.masking import kmer_noise, mask_tokens, masked_tokens, masking_claims
from barcodemae.model.mae import BarcodeEncoder, BarcodeMAEConfig
from barcodemae.data.store import pack
from barcodemae.model.tokenizer import FIRST_KMER, MASK_ID, kmer_ids

CPU = Compute(torch.device('cpu'), torch.float32)
def barcode(seed, n):
    return ''.join(np.random.default_rng(seed).choice(list('ACGTN'), n, p=[.24] * 4 + [.04]))

BARCODES = pack([barcode(i, n) for i, n in enumerate((660, 300, 31, 4))])


@pytest.fixture(scope='module')
def encoder():
    torch.manual_seed(0)
    shape = dict(k=4, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    return BarcodeEncoder(BarcodeMAEConfig(**shape)).eval()


@given(st.integers(0, 99), st.sampled_from(('masked', 'removed')), st.integers(0, 99))
def test_the_share_that_is_taken(percent, mode, seed):
    ids, mask = kmer_ids(torch.from_numpy(BARCODES), 4)
    noise = torch.from_numpy(np.random.default_rng(seed).random(ids.shape, np.float32))
    new, there = mask_tokens(ids, mask, percent / 100, mode, noise)
    n = (mask & (ids >= FIRST_KMER)).sum(1)
    taken = (new == MASK_ID).sum(1) if mode == 'masked' else (mask & ~there).sum(1)
    assert taken.tolist() == (n * percent // 100).tolist()
    more = mask_tokens(ids, mask, min(99, percent + 10) / 100, mode, noise)
    assert not ((new == MASK_ID) & (more[0] != MASK_ID)).any() and not (~there & more[1]).any() # stays taken


def test_nothing_taken_changes_no_bit(encoder):
    plain = embed(encoder, BARCODES, compute=CPU)
    for mode in ('masked', 'removed'):
        tokens = masked_tokens(encoder.config, kmer_noise(np.arange(4), 0, 4), 0., mode)
        assert np.array_equal(plain, embed(encoder, BARCODES, compute=CPU, tokens=tokens))


def test_removed_kmers_are_gone_and_the_others_keep_their_positions(encoder):
    ids, mask = kmer_ids(torch.from_numpy(BARCODES[:1]), 4)
    noise = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0))
    _, there = mask_tokens(ids, mask, .4, 'removed', noise)
    at = there[0].nonzero().T                                                      # (1, kept)
    with torch.no_grad():
        short = encoder(ids[:, at[0]], attention_mask=torch.ones_like(at), position_ids=at).last_hidden_state
        weight = (ids[:, at[0]] >= FIRST_KMER).float()[..., None]
        assert torch.allclose((short * weight).sum(1) / weight.sum(1), encoder(ids, there).pooler_output, atol=1e-5)


def test_the_same_kmers_for_every_model_and_any_order():
    config, bases = BarcodeMAEConfig(k=4), torch.from_numpy(BARCODES)
    def seen(rows, bases):
        return masked_tokens(config, kmer_noise(np.array(rows), 2, 4), .5, 'removed')(bases, np.arange(4))[1]
    assert torch.equal(seen([7, 3, 9, 1], bases), seen([1, 9, 3, 7], bases.flip(0)).flip(0))


def test_faults():
    ids, mask = kmer_ids(torch.from_numpy(BARCODES), 4)
    with pytest.raises(InputError, match='masked or removed'):
        mask_tokens(ids, mask, .5, 'deleted', torch.rand(ids.shape))


def test_claims():
    def rows(mode, values):
        return [dict(mode=mode, setting='query', ratio=i / 10, accuracy=v) for i, v in enumerate(values)]
    steep, linearly = 'shallow decline to 50 %, steep after', 'linear decline when removed'
    linear = masking_claims(rows('removed', [60 - 6 * i for i in range(10)]))
    assert linear[linearly][0] and linear['best with nothing masked'][0] and not linear[steep][0]
    bent = masking_claims(rows('removed', [60, 59, 58, 57, 56, 55, 45, 35, 25, 10])
                          + rows('masked', [60, 64, 63, 62, 60, 58, 50, 45, 35, 20]))
    assert bent[steep][0] and not bent[linearly][0] and bent['masked 4 points above removed at 10 %'][0]
    assert masking_claims(rows('removed', [60])) == {}
