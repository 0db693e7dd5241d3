"""Guards for barcodemae.model.mae: masking, leaks, batch mates, saving and loading."""
import pytest, torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer

from barcodemae.core import InputError
from barcodemae.model import load_encoder
from barcodemae.model.mae import VARIANTS, BarcodeEncoder, BarcodeMAEConfig, BarcodeMAEForPreTraining
from barcodemae.model.mae import masked_kmer_loss, random_masking
from barcodemae.data.store import pack
from barcodemae.model.tokenizer import FIRST_KMER, KmerTokenizer, kmer_ids

SMALL = dict(k=4, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
             decoder_num_hidden_layers=1, decoder_num_attention_heads=2)


def model(variant='mae', seed=0, **changes):
    torch.manual_seed(seed)
    return BarcodeMAEForPreTraining(BarcodeMAEConfig(**{**SMALL, 'variant': variant, **changes})).eval()


def tokens(*barcodes, k=4): return kmer_ids(torch.from_numpy(pack(list(barcodes))), k)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(1, 50), st.integers(0, 1000), st.floats(0, 1))
def test_loss_in_blocks_is_cross_entropy(n, block, seed, absent):
    torch.manual_seed(seed)
    head, states = torch.nn.Linear(8, 64), torch.randn(n, 8, requires_grad=True)
    labels = torch.randint(0, 64, (n,))
    labels[torch.rand(n) < absent] = -100
    def gradients(loss): return loss.detach(), *torch.autograd.grad(3 * loss, (states, *head.parameters()))
    blocks = gradients(masked_kmer_loss(states, head, labels, block))
    if (labels >= 0).any():
        expected = gradients(torch.nn.functional.cross_entropy(head(states), labels))
        for a, b in zip(blocks, expected): assert torch.allclose(a, b, atol=1e-5)
    else: assert all((part == 0).all() for part in blocks)


@pytest.mark.parametrize('variant', VARIANTS)
def test_loss_in_blocks_with_autocast(variant):
    ids, mask = tokens(*BATCH)
    net, m = model(variant), random_masking(ids, mask, .5)
    with torch.autocast('cpu', torch.bfloat16):
        a, b = net(ids, mask, m, with_logits=True), net(ids, mask, m, with_logits=False)
    assert b.logits is None and torch.equal(a.labels, b.labels) and torch.allclose(a.loss, b.loss, atol=2e-3)
    for loss in (a.loss, b.loss): loss.backward(retain_graph=True)
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


BATCH = ('ACGTTTGACCATGGGTACCA' * 30, 'ACGTNNNNCCATGGGTACCA' * 7, 'ACG', 'N' * 40 + 'ACGT' * 3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text('ACGTN', max_size=300), min_size=1, max_size=4), st.floats(.05, .95))
def test_masking_covers_what_it_should(barcodes, ratio):
    ids, mask = tokens(*barcodes)
    m = random_masking(ids, mask, ratio)
    T, M = ids.shape[1], int(ratio * ids.shape[1])
    assert m.masked.shape[1] == M and m.kept.shape[1] == T - M                      # shapes depend on T alone
    for i in range(len(ids)):
        masked = set(m.masked[i][m.masked_valid[i]].tolist())
        kept = set(m.kept[i][m.kept_valid[i]].tolist())
        kmers = set(torch.where(mask[i] & (ids[i] >= FIRST_KMER))[0].tolist())
        attended = set(torch.where(mask[i])[0].tolist())
        assert len(masked) == int(torch.tensor(ratio) * len(kmers)) or len(masked) == int(ratio * len(kmers))
        assert masked <= kmers and not masked & kept and kept <= attended
        assert kmers <= masked | kept # only [UNK] may find no slot


@pytest.mark.parametrize('variant', VARIANTS)
def test_no_leak_and_all_weights_learn(variant):
    ids, mask = tokens(*BATCH)
    net = model(variant, hidden_dropout_prob=0., attention_probs_dropout_prob=0.)
    m = random_masking(ids, mask, .5)
    other = ids.scatter(1, m.masked, torch.where(m.masked_valid, FIRST_KMER + 11, ids.gather(1, m.masked)))
    a, b = net(ids, mask, m), net(other, mask, m)
    assert torch.equal(a.logits[m.masked_valid], b.logits[m.masked_valid])
    a.loss.backward()
    still = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@pytest.mark.parametrize('widths', [(32, 24), (24, 32), (32, 32)])
def test_any_widths(widths):
    net = model(hidden_size=widths[0], decoder_hidden_size=widths[1], intermediate_size=4 * widths[0])
    out = net(*tokens(*BATCH))
    assert out.loss.isfinite() and out.logits.shape[-1] == 4**4
    assert isinstance(net.projection, torch.nn.Identity) == (widths[0] == widths[1])


def test_embedding_knows_neither_batch_mates_nor_padding():
    encoder = BarcodeEncoder(BarcodeMAEConfig(**SMALL)).eval()
    with torch.no_grad():
        together = encoder(*tokens(*BATCH)).pooler_output
        for i, barcode in enumerate(BATCH):
            bases = torch.from_numpy(pack([barcode]))[:, :max(4, len(barcode))]
            assert torch.allclose(encoder(*kmer_ids(bases, 4)).pooler_output, together[i:i + 1], atol=1e-5)


def test_unknown_kmers_in_the_mean():
    ids, mask = tokens('ACGTNNNNACGG')
    encoder = BarcodeEncoder(BarcodeMAEConfig(**SMALL)).eval()
    with torch.no_grad():
        paper, hidden = encoder(ids, mask).pooler_output, encoder(ids, attention_mask=mask).last_hidden_state
        encoder.config.pool_unknown = True
        code = encoder(ids, mask).pooler_output
    assert torch.allclose(paper[0], hidden[0, [0, 2]].mean(0), atol=1e-6)
    assert torch.allclose(code[0], hidden[0, :3].mean(0), atol=1e-6)


def test_auto_classes(tmp_path):
    net = model()
    net.save_pretrained(tmp_path/'whole')
    for part in (net.encoder, KmerTokenizer(k=4)): part.save_pretrained(tmp_path/'encoder')
    assert isinstance(AutoModelForPreTraining.from_pretrained(tmp_path/'whole'), BarcodeMAEForPreTraining)
    encoder = AutoModel.from_pretrained(tmp_path/'encoder')
    assert isinstance(encoder, BarcodeEncoder) and AutoTokenizer.from_pretrained(tmp_path/'encoder').k == 4
    saved = net.encoder.state_dict()
    assert all(torch.equal(w, saved[name]) for name, w in encoder.state_dict().items())
    assert not [p.name for p in (tmp_path/'encoder').iterdir() if p.suffix in ('.bin', '.pt', '.pkl')]


@pytest.mark.parametrize('key, value', [
    ('variant', 'bert'), ('k', 2), ('mask_ratio', 0.), ('mask_ratio', 1.)])
def test_impossible_configurations(key, value):
    with pytest.raises(ValueError): BarcodeMAEConfig(**{key: value})


def test_checkpoint_of_another_shape(tmp_path):
    encoder = BarcodeEncoder(BarcodeMAEConfig(**SMALL))
    encoder.save_pretrained(tmp_path)
    BarcodeMAEConfig(**{**SMALL, 'hidden_size': 48}).save_pretrained(tmp_path)
    with pytest.raises(InputError, match='Fix'): load_encoder(tmp_path)
    encoder.save_pretrained(tmp_path)
    weights = {n: w for n, w in load_file(tmp_path/'model.safetensors').items() if 'layer.1' not in n}
    save_file(weights, tmp_path/'model.safetensors', metadata={'format': 'pt'})
    with pytest.raises(InputError, match='missing'): load_encoder(tmp_path)
    (tmp_path/'model.safetensors').write_bytes(b'no weights')
    with pytest.raises(InputError, match='Fix'): load_encoder(tmp_path)
