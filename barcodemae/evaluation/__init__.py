"""Evaluation: what an encoder knows, with intervals and figures."""
