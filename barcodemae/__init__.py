"""BarcodeMAE: masked autoencoders for DNA barcodes, as notebooks that make a library."""

__version__ = "0.1.0"
