"""Identification: from a labelled reference to names, with confidence."""
