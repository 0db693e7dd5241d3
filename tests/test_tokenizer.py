"""Guards for barcodemae.model.tokenizer: strings and packed bases give the same ids at every length."""
import pytest, torch
from hypothesis import given, settings, strategies as st

from barcodemae.data.store import pack
from barcodemae.model.tokenizer import FIRST_KMER, UNK_ID, KmerTokenizer, kmer_ids, pad_id, vocabulary

barcodes = st.text('ACGTN', max_size=660)
TOKENIZERS = {k: KmerTokenizer(k=k) for k in (3, 4, 5, 6)}


def by_hand(barcode, k):
    vocab = vocabulary(k)
    return [vocab.get(barcode[i:i + k], UNK_ID) for i in range(0, len(barcode) - k + 1, k)]


@settings(max_examples=60, deadline=None)
@given(barcodes, st.sampled_from(sorted(TOKENIZERS)), st.data())
def test_strings_packed_bases_and_a_plain_loop_agree(barcode, k, data):
    offset = data.draw(st.integers(0, k - 1))
    packed = torch.from_numpy(pack([barcode]))
    ids, mask = kmer_ids(packed, k)
    assert ids[0][mask[0]].tolist() == by_hand(barcode, k) == TOKENIZERS[k](barcode)['input_ids']
    ids, mask = kmer_ids(packed, k, torch.tensor([offset]))
    assert ids[0][mask[0]].tolist() == by_hand(barcode[offset:], k)[:660 // k]
    assert (ids[0][~mask[0]] == pad_id(k)).all() and ids.max() <= pad_id(k)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text('acgtunACGTUN-.RYK', max_size=60), min_size=1, max_size=5))
def test_strings_are_made_uniform(texts):
    def tidy(text):
        upper = text.upper().replace('U', 'T').replace('-', '').replace('.', '')
        return ''.join(c if c in 'ACGT' else 'N' for c in upper)
    clean = [tidy(text) for text in texts]
    batch = TOKENIZERS[4](texts, padding=True, return_tensors='pt')
    for row, mask, barcode in zip(batch['input_ids'], batch['attention_mask'], clean):
        assert row[mask.bool()].tolist() == by_hand(barcode, 4)


@pytest.mark.parametrize('k', [7, 8])
def test_large_k(k):
    assert kmer_ids(torch.from_numpy(pack(['T' * 660])), k)[0].max() == 4**k - 1 + FIRST_KMER
    assert kmer_ids(torch.from_numpy(pack(['T' * 660])), k)[0].min() == 4**k - 1 + FIRST_KMER


def test_longer_than_660_is_cut():
    assert TOKENIZERS[6]('A' * 900)['input_ids'] == [FIRST_KMER] * 110


@pytest.mark.parametrize('k', [2, 9, 0, 4.5])
def test_other_k_is_refused(k):
    with pytest.raises(ValueError, match='3 to 8'): kmer_ids(torch.zeros(1, 660, dtype=torch.uint8), k)


def test_save_and_load(tmp_path):
    TOKENIZERS[5].save_pretrained(tmp_path)
    again, barcode = KmerTokenizer.from_pretrained(tmp_path), 'ACGTACGTAC'
    assert again(barcode)['input_ids'] == TOKENIZERS[5](barcode)['input_ids']
