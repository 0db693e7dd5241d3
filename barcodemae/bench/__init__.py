"""Bench: every system on the same questions."""
