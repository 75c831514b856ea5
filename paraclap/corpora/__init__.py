"""Corpora: the catalogue, readers of their layouts, corpus tables."""
