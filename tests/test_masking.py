"""Guards for barcodemae.evaluation.masking: what is hidden, the same for all; nothing hidden is the plain evaluation; removed is gone."""
import numpy as np, pytest, torch
from hypothesis import given, strategies as st

from barcodemae.compute import Compute
from barcodemae.core import InputError
from barcodemae.embedding.embed import embed
from barcodemae.evaluation.masking import drop_tokens, dropper, masking_claims
from barcodemae.model.mae import BarcodeEncoder, BarcodeMAEConfig
from barcodemae.data.store import pack
from barcodemae.model.tokenizer import FIRST_KMER, MASK_ID, kmer_ids

CPU = Compute(torch.device('cpu'), torch.float32)
BARCODES = pack([''.join(np.random.default_rng(i).choice(list('ACGTN'), n, p=[.24, .24, .24, .24, .04])) for i, n in enumerate((660, 300, 31, 4))])


@pytest.fixture(scope='module')
def encoder():
    torch.manual_seed(0)
    return BarcodeEncoder(BarcodeMAEConfig(k=4, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)).eval()


@given(st.integers(0, 99), st.sampled_from(('masked', 'removed')), st.integers(0, 99))
def test_the_share_that_is_hidden(percent, mode, seed):
    ids, mask = kmer_ids(torch.from_numpy(BARCODES), 4)
    noise = torch.from_numpy(np.random.default_rng(seed).random(ids.shape, np.float32))
    new, there = drop_tokens(ids, mask, percent / 100, mode, noise)
    n = (mask & (ids >= FIRST_KMER)).sum(1)
    hidden = (new == MASK_ID).sum(1) if mode == 'masked' else (mask & ~there).sum(1)
    assert hidden.tolist() == (n * percent // 100).tolist()
    more = drop_tokens(ids, mask, min(99, percent + 10) / 100, mode, noise)
    assert not ((new == MASK_ID) & (more[0] != MASK_ID)).any() and not (~there & more[1]).any()      # what is hidden stays hidden


def test_nothing_hidden_changes_no_bit(encoder):
    plain = embed(encoder, BARCODES, compute=CPU)
    for mode in ('masked', 'removed'): assert np.array_equal(plain, embed(encoder, BARCODES, compute=CPU, change=dropper(np.arange(4), 0., mode, 0, 4)))


def test_removed_words_are_gone_and_the_others_keep_their_places(encoder):
    ids, mask = kmer_ids(torch.from_numpy(BARCODES[:1]), 4)
    noise = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0))
    _, there = drop_tokens(ids, mask, .4, 'removed', noise)
    places = there[0].nonzero().T                                                  # (1, kept)
    with torch.no_grad():
        short = encoder(ids[:, places[0]], attention_mask=torch.ones_like(places), position_ids=places).last_hidden_state
        weight = (ids[:, places[0]] >= FIRST_KMER).float()[..., None]
        assert torch.allclose((short * weight).sum(1) / weight.sum(1), encoder.embed(ids, there), atol=1e-5)


def test_the_same_words_for_every_model_and_any_order():
    ids, mask = kmer_ids(torch.from_numpy(BARCODES), 4)
    one = dropper(np.array([7, 3, 9, 1]), .5, 'removed', 2, 4)(ids, mask, np.arange(4))[1]
    other = dropper(np.array([1, 9, 3, 7]), .5, 'removed', 2, 4)(ids.flip(0), mask.flip(0), np.arange(4))[1]
    assert torch.equal(one, other.flip(0))


def test_faults():
    ids, mask = kmer_ids(torch.from_numpy(BARCODES), 4)
    with pytest.raises(InputError, match='masked or removed'): drop_tokens(ids, mask, .5, 'deleted', torch.rand(ids.shape))


def test_claims():
    def rows(mode, values): return [dict(mode=mode, setting='query', ratio=i / 10, draw=0, accuracy=v) for i, v in enumerate(values)]
    linear = masking_claims(rows('removed', [60 - 6 * i for i in range(10)]))
    assert linear['linear decline when removed'][0] and linear['best with nothing hidden'][0] and not linear['shallow decline to 50 %, steep after'][0]
    bent = masking_claims(rows('removed', [60, 59, 58, 57, 56, 55, 45, 35, 25, 10]) + rows('masked', [60, 64, 63, 62, 60, 58, 50, 45, 35, 20]))
    assert bent['shallow decline to 50 %, steep after'][0] and not bent['linear decline when removed'][0] and bent['masked 4 points above removed at 10 %'][0]
    assert masking_claims(rows('removed', [60])) == {}
