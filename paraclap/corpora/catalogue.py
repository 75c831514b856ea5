"""Corpora that are known by name, e.g. ``ravdess=/data/RAVDESS`` on the command line.

To add a corpus, describe it in `other_corpora.py`. Usually its reader is `read_files`: named groups
of a pattern for the file names become columns, codes are replaced by labels, and `read_label_files`
adds labels from files. ``classes`` maps labels to scored classes, and ``published`` maps classes to
the prompts of the paper; for other corpora, the prompt is the label itself, like the paper's on
MSP-Podcast. Clips without agreement of the raters are kept, with a missing label.
"""

from paraclap.corpora.other_corpora import OTHER_CORPORA
from paraclap.corpora.paper_corpora import PAPER_CORPORA

CORPORA = {corpus.name: corpus for corpus in (*PAPER_CORPORA, *OTHER_CORPORA)}
"""Name on the command line -> corpus."""
