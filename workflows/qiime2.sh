#!/usr/bin/env bash
# Names for the ASVs of a QIIME 2 artifact, back as an artifact that taxa barplot, collapse and filter-table take:
#
#     bash workflows/qiime2.sh rep-seqs.qza my_reference taxonomy.qza
#
# `my_reference` is a folder made by `barcodemae index`, or a labelled file. Needs `qiime` and `barcodemae` on PATH.
set -euo pipefail
artifact=$1 reference=$2 taxonomy=$3
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

# FeatureData[Sequence] -> dna-sequences.fasta
qiime tools export --input-path "$artifact" --output-path "$place"

# columns Feature ID, Taxon and Confidence; each lineage ends where the confidence falls below the cut-off
barcodemae identify "$place/dna-sequences.fasta" --reference "$reference" -o "$place/taxonomy.tsv" \
    --format qiime2 --cutoff 0.9

qiime tools import --type 'FeatureData[Taxonomy]' --input-format TSVTaxonomyFormat \
    --input-path "$place/taxonomy.tsv" --output-path "$taxonomy"
