"""Write a table of BIOSCAN-5M's size and shape: python tests/big_table.py big.csv 5150000

A name that ends in .gz is gzipped. tools/benchmark.py prepares and measures it. 5,150,000 rows need about 4 GB of disk."""
import gzip, sys
import numpy as np

HEADER = 'processid,sampleid,taxon,phylum,class,order,family,subfamily,genus,species,dna_bin,dna_barcode,country,province_state,coord-lat,' \
    'coord-lon,image_measurement_value,area_fraction,scale_factor,inferred_ranks,split,index_bioscan_1M_insect,chunk\n'


def write(path, n, species=20_000):
    "`n` rows: barcodes of random species, a quarter unchanged, the others with up to three changes; one species in five has a name."
    rng, letters = np.random.default_rng(0), np.frombuffer(b'ACGT', np.uint8)
    ancestors = letters[rng.integers(0, 4, (species, 658))]
    opener = (lambda p: gzip.open(p, 'wt',
                                  compresslevel=1)) if str(path).endswith('.gz') else (lambda p: open(p, 'w'))
    with opener(path) as f:
        f.write(HEADER)
        for start in range(0, n, 50_000):
            s = rng.integers(0, species, min(50_000, n - start))
            bases, changes = ancestors[s], rng.integers(0, 4, len(s))
            for j in range(3):
                rows = np.flatnonzero(changes > j)
                bases[rows, rng.integers(0, 658, len(rows))] = letters[rng.integers(0, 4, len(rows))]
            for i, (t, b) in enumerate(zip(s, bases), start):
                name = '' if t % 5 else f'Genus{t//8}'
                f.write(f'P{i:08},B{i:08}-A01,Family{t%40},Arthropoda,Insecta,Diptera,Family{t%40},,{name},{name and f"{name} sp{t}"},'
                        f'BOLD:AAA{t:05},{b.tobytes().decode()},Costa Rica,Guanacaste,10.7634,-85.3347,{i%999},0.12,1.5,0,'
                        f'{"pretrain" if t % 5 else "train"},,{i%40}\n')


if __name__ == '__main__': write(sys.argv[1], int(sys.argv[2]))
