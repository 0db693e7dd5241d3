"""Training: from a preset to an encoder on the Hub."""
