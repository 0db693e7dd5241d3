"""Embedding: vectors of barcodes, and their nearest neighbours."""
