"""Pseudo-captions: templates, levels, the caption writer."""
