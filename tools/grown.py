"""A large labelled reference that is simulated: real barcodes, and descendants of them along a tree.

    python tools/grown.py barcodes.csv.gz 1000000 reference.csv.gz

Every real barcode founds species of its genus, and a species has individuals; sites change as often as they
differ between the real barcodes, so that most changes are silent ones."""
import sys
import numpy as np, polars as pl
from barcodemae.core import atomic_path

APART, WITHIN = .08, .004 # share of sites that differ from the founder, and between individuals of a species
INDIVIDUALS = 8           # of a species
BASES = np.frombuffer(b'ACGTN', np.uint8)


def variability(bases):
    "How often each site differs from its commonest base: (660,) from 0 to 1, of (N, 660) codes."
    counts = np.stack([(bases == code).sum(0) for code in range(4)])
    return 1 - counts.max(0) / np.maximum(counts.sum(0), 1)


def changed(bases, share, rng):
    "Copies of (N, L) codes in which about this share of the sites is another base, variable ones more often."
    weight = variability(bases)
    hit = (rng.random(bases.shape, np.float32) < share * weight / max(weight.mean(), 1e-6)) & (bases < 4)
    out = bases.copy()
    out[hit] = (out[hit] + rng.integers(1, 4, hit.sum(), dtype=np.uint8)) % 4
    return out


def grown(founders, n, seed=0, apart=APART, block=50_000):
    "Frames of `n` records in all, from a frame with processid, dna_barcode and names of ranks."
    rng, made = np.random.default_rng(seed), 0
    code = np.full(256, 4, np.uint8)
    code[BASES[:4]] = range(4)
    texts = [t[:658].ljust(658, 'N') for t in founders['dna_barcode']]
    bases = code[np.frombuffer(''.join(texts).encode(), np.uint8)].reshape(len(texts), -1)
    while made < n:
        species = -(-min(block, n - made) // INDIVIDUALS)
        of = rng.integers(0, len(founders), species)
        rows = np.repeat(changed(bases[of], apart, rng), INDIVIDUALS, 0)[:min(block, n - made)]
        text = BASES[changed(rows, WITHIN, rng)]
        number = made + np.arange(len(rows))
        names = founders[np.repeat(of, INDIVIDUALS)[:len(rows)]].drop('processid', 'dna_barcode', 'species')
        yield names.with_columns(
            processid=pl.format('S{}', pl.Series(number)),
            species=pl.format('species-{}', pl.Series(10**6 + number // INDIVIDUALS)),
            dna_barcode=pl.Series([row.tobytes().decode().strip('N') for row in text]))
        made += len(rows)


def write(founders, n, out):
    "A table of `n` records."
    with atomic_path(out) as temp, open(temp, 'wb') as file:
        for i, frame in enumerate(grown(founders, n)):
            frame.write_csv(file, include_header=not i)


if __name__ == '__main__':
    if len(sys.argv) != 4: sys.exit(__doc__)
    table = pl.read_csv(sys.argv[1], infer_schema_length=0)
    ranks = ('processid', 'phylum', 'class', 'order', 'family', 'genus', 'species', 'dna_barcode')
    table = table.filter(pl.col('split') == 'train') if 'split' in table.columns else table
    write(table.select(ranks), int(sys.argv[2]), sys.argv[3])
