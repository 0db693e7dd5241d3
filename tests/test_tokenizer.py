"""Guards for barcodemae.model.tokenizer: strings and packed bases give the same ids at every length."""
import pytest, torch
from hypothesis import given, settings, strategies as st

from barcodemae.data.noise import reverse_complement
from barcodemae.data.store import pack
from barcodemae.identification.model import Model
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


# -- aligned to the gene ---------------------------------------------------------------------------------

MODEL = Model()
GENE = MODEL.consensus.replace('N', 'A')
ALIGNED = {k: KmerTokenizer(k=k, reference=MODEL.consensus) for k in (1, 3, 6)}


@st.composite
def texts(draw): # what people have: cut, turned, with bases lost, gained, changed and unknown
    first, last = sorted(draw(st.tuples(st.integers(0, 660), st.integers(0, 660))))
    text, at = GENE[first:last], draw(st.integers(0, 660))
    text = draw(st.sampled_from(['', 'ACGTTGCA', 'ACG', 'NNN'])) + text[:at] + draw(
        st.sampled_from(['', 'A', 'NN', 'TGT', 'ACGTGTGACCA'])) + text[at + draw(st.integers(0, 4)):]
    return reverse_complement(text) if draw(st.booleans()) else text


@settings(max_examples=40, deadline=None)
@given(st.lists(texts(), min_size=1, max_size=4), st.sampled_from(sorted(ALIGNED)))
def test_an_aligned_barcode_has_the_kmers_of_its_columns(barcodes, k):
    ids, mask = kmer_ids(torch.from_numpy(MODEL.align([b.strip('N') for b in barcodes])), k)
    for options in ({}, dict(padding=True), dict(padding='longest', truncation=True, max_length=660)):
        batch = ALIGNED[k](barcodes, return_tensors='pt', **options)
        assert torch.equal(batch['input_ids'], ids) and torch.equal(batch['attention_mask'], mask.long())
    assert ids.shape == (len(barcodes), 660 // k)
    for text, row in zip(barcodes, ids.tolist()): # one text alone
        assert ALIGNED[k](text)['input_ids'] == ALIGNED[k].encode(text) == row
        assert ALIGNED[k].tokenize(text) == ALIGNED[k].convert_ids_to_tokens(row)


def test_an_aligned_barcode_may_begin_late_and_keeps_its_positions():
    whole, part = ALIGNED[6]([GENE, GENE[120:420]], return_tensors='pt')['input_ids']
    mask = ALIGNED[6](GENE[120:420])['attention_mask']
    assert mask == [0] * 20 + [1] * 50 + [0] * 40
    assert torch.equal(part[20:70], whole[20:70]) and (part[[0, 19, 70, -1]] == pad_id(6)).all()


def test_aligned_texts_are_made_uniform():
    plain = GENE[:300] + 'N' + GENE[301:500]
    spaced = 'NN' + '\n'.join(plain[i:i + 60].lower().replace('t', 'u') for i in range(0, 500, 60)) + 'n-'
    for odd in (spaced, plain[:300] + '-' + plain[301:], plain[:300] + '\N{SNOWMAN}' + plain[301:]):
        assert ALIGNED[6](odd)['input_ids'] == ALIGNED[6](plain)['input_ids']
    for nothing in ('', 'NNN'):
        assert set(ALIGNED[6](nothing)['input_ids']) == {pad_id(6)} and not any(ALIGNED[6](nothing)['attention_mask'])


def test_padding_and_truncation_of_aligned_barcodes():
    batch = ALIGNED[6]([GENE, GENE[:400]], padding='max_length', max_length=115)
    assert [len(row) for name in batch for row in batch[name]] == [115] * 4
    assert batch['input_ids'][0][110:] == [pad_id(6)] * 5 and batch['attention_mask'][0][109:] == [1] + [0] * 5
    short = ALIGNED[6](GENE, truncation=True, max_length=20)
    assert short['input_ids'] == ALIGNED[6](GENE)['input_ids'][:20] and len(short['attention_mask']) == 20
    assert 'attention_mask' not in ALIGNED[6](GENE, return_attention_mask=False)
    assert ALIGNED[6](GENE, return_tensors='np', padding=True, pad_to_multiple_of=8)['input_ids'].shape == (1, 112)


@pytest.mark.parametrize('ask', [
    lambda t: t(GENE, GENE), lambda t: t([GENE], [GENE]), lambda t: t.tokenize(GENE, GENE)])
def test_pairs_are_refused(ask):
    for tokenizer in (ALIGNED[6], TOKENIZERS[6]):
        with pytest.raises(ValueError, match='a barcode has no pair'): ask(tokenizer)


@pytest.mark.parametrize('ask, match', [
    (lambda t: t([[GENE]]), 'no text'), (lambda t: t([(GENE, GENE)]), 'no text'), (lambda t: t([None]), 'no text'),
    (lambda t: t([GENE], return_offsets_mapping=True), 'return_offsets_mapping'),
    (lambda t: t([GENE], is_split_into_words=True), 'is_split_into_words')])
def test_what_cannot_be_aligned_is_refused(ask, match):
    with pytest.raises(ValueError, match=match): ask(ALIGNED[6])


@pytest.mark.parametrize('reference', ['', 'ACGU', 'acgt', 'A' * 661, 7])
def test_a_reference_that_is_none(reference):
    with pytest.raises(ValueError, match='at most 660'): KmerTokenizer(k=6, reference=reference)


@pytest.mark.parametrize('k', sorted(ALIGNED))
def test_the_reference_is_saved_and_comes_back(k, tmp_path):
    ALIGNED[k].save_pretrained(tmp_path/'a')
    again = KmerTokenizer.from_pretrained(tmp_path/'a')
    again.save_pretrained(tmp_path/'b')
    for tokenizer in (again, KmerTokenizer.from_pretrained(tmp_path/'b')):
        assert tokenizer.reference == MODEL.consensus and tokenizer.k == k
        assert tokenizer(GENE[100:400])['input_ids'] == ALIGNED[k](GENE[100:400])['input_ids']
