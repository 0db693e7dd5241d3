"""Guards for barcodemae.data.align and place: starts against a plain loop, references found from shuffled
starts, what falls off either end, embedding on a reference."""
import numpy as np, torch
from hypothesis import given, settings, strategies as st

from barcodemae.compute import Compute
from barcodemae.embedding.embed import embed
from barcodemae.model.mae import BarcodeEncoder, BarcodeMAEConfig
from barcodemae.data.align import consensus, align_to_gene, start_positions
from barcodemae.data.noise import reverse_complement
from barcodemae.data.place import base_codes, locate
from barcodemae.data.store import WIDTH, pack, unpack

GENE = ''.join(np.random.default_rng(0).choice(list('ACGT'), 760, p=[.35, .15, .15, .35]))


def mutate(text, rng, share=.15):
    return ''.join(rng.choice(list('ACGT')) if rng.random() < share else c for c in text)


def score(barcode, reference, start):
    pairs = [(c, reference[i + start]) for i, c in enumerate(barcode) if 0 <= i + start < len(reference)]
    return sum(0 if 'N' in pair else 2 if pair[0] == pair[1] else -1 for pair in pairs)


@settings(max_examples=25, deadline=None)
@given(st.text('ACGTN', min_size=1, max_size=30), st.text('ACGTN', min_size=1, max_size=40))
def test_starts_equal_a_plain_loop(barcode, reference):
    reach = 12
    found = int(start_positions(torch.from_numpy(pack([barcode])), reference, reach))
    best = max(score(barcode, reference, s) for s in range(-reach, reach + 1))
    if best > len(barcode.replace('N', '')) / 4: assert score(barcode, reference, found) == best
    else: assert found == 0


def plainly(barcode, reference): # start of the best score, of equal ones the first, negative ones last
    columns, codes = base_codes(reference.ljust(WIDTH, 'N')), base_codes(barcode)
    scores = [(columns < 4) * np.where(columns == base, 2, -1) for base in range(4)]
    total = sum(np.correlate(score, (codes == base).astype(int), 'full') for base, score in enumerate(scores))
    starts = np.roll(np.arange(1 - len(codes), WIDTH), 1 - len(codes))
    total = np.roll(total, 1 - len(codes))
    return int(starts[total.argmax()]), int(total.max())


@settings(max_examples=40, deadline=None)
@given(st.text('ACGTN', min_size=1, max_size=60), st.text('ACGTN', min_size=1, max_size=40), st.booleans(),
       st.sampled_from([0, 0, 100, 660, 900, 1500]))
def test_places_equal_a_plain_loop_in_any_company(barcode, reference, turned, more):
    given = barcode + (2 * GENE)[:more]
    given = reverse_complement(given) if turned else given
    others = [base_codes(GENE[:700]), base_codes('N'), base_codes('')]
    start, minus, each = locate([*others, base_codes(given), *others], reference)
    (plus_start, plus), (minus_start, best) = (plainly(given, r.ljust(WIDTH, 'N')) for r in
                                               (reference, reverse_complement(reference.ljust(WIDTH, 'N'))))
    known = max(1, sum(c in 'ACGT' for c in given))
    assert abs(each[3] * known - max(plus, best, 0)) < 1e-6
    if max(plus, best) > 0: # of equal strands the given one
        assert minus[3] == (best > plus)
        assert start[3] == (WIDTH - len(given) - minus_start if minus[3] else plus_start)
    assert (start[:3] == start[4:]).all() and start[0] == locate(others[:1], reference)[0][0]


def test_a_missing_base_and_a_stranger():
    reference = GENE[:WIDTH]
    missing = GENE[30:200] + GENE[201:WIDTH]                              # the longer half decides
    stranger = ''.join(np.random.default_rng(9).choice(list('ACGT'), 600))
    assert start_positions(torch.from_numpy(pack([missing, stranger])), reference).tolist() == [31, 0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 400), st.integers(80, 300))
def test_a_piece_of_the_gene_goes_where_it_belongs(begin, length):
    reference = GENE[:WIDTH]
    piece = mutate(reference[begin:begin + length], np.random.default_rng(begin))
    moved = align_to_gene(torch.from_numpy(pack([piece])), reference)
    assert unpack(moved.numpy())[0] == '.' * begin + piece[:WIDTH - begin]


def test_ends_are_cut_off():
    reference = GENE[50:50 + WIDTH]
    moved = align_to_gene(torch.from_numpy(pack([GENE[20:680]])), reference)
    assert unpack(moved.numpy()) == [GENE[50:680]]
    assert align_to_gene(moved, None) is moved and len(align_to_gene(moved[:0], reference)) == 0
    short = torch.from_numpy(pack([GENE[100:200]]))[:, :120]
    assert torch.equal(align_to_gene(short, reference), align_to_gene(torch.from_numpy(pack([GENE[100:200]])),
        reference))


def test_consensus_finds_the_gene():
    rng = np.random.default_rng(1)
    begin = rng.integers(0, 50, 600)
    barcodes = [mutate(GENE[b:b + 600], rng) for b in begin]
    reference = consensus(pack(barcodes))
    assert len(reference) == WIDTH
    found = start_positions(torch.from_numpy(pack(barcodes)), reference).numpy()
    assert len(set((found - begin).tolist())) == 1 # all are right with respect to each other
    inside = reference.replace('N', '')
    assert len(inside) > 600 and inside in GENE


def test_an_encoder_with_a_reference_does_not_mind_where_a_barcode_begins():
    shape = dict(k=6, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    compute = Compute(torch.device('cpu'), torch.float32)
    whole, late = pack([GENE[:WIDTH]]), pack([GENE[7:WIDTH]]) # 7: no token in common
    def agreement(reference):
        torch.manual_seed(0)
        encoder = BarcodeEncoder(BarcodeMAEConfig(**shape, reference=reference))
        a, b = (embed(encoder, x, compute=compute)[0] for x in (whole, late))
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert agreement(GENE[:WIDTH]) > 0.999 and agreement(None) < 0.99


def test_the_reference_travels_with_the_encoder(tmp_path):
    encoder = BarcodeEncoder(BarcodeMAEConfig(k=4, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, reference=GENE[:WIDTH]))
    encoder.save_pretrained(tmp_path)
    assert BarcodeEncoder.from_pretrained(tmp_path).config.reference == GENE[:WIDTH]
