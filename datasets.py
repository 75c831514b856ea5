"""Datasets of captioned speech: public names; the code is in paraclap/data/.

Hugging Face's package has the same name. Nothing in `paraclap` imports this file, and the scripts
move this folder to the end of the search path, so that third-party code finds that package.
"""

from paraclap.data.captions import Caption, ClipPhrases, caption_texts, draw_caption
from paraclap.data.dataset import CaptionDataset, ClipDataset, Collate
from paraclap.settings import CaptionSettings

__all__ = [
    "Caption",
    "CaptionDataset",
    "CaptionSettings",
    "ClipDataset",
    "ClipPhrases",
    "Collate",
    "caption_texts",
    "draw_caption",
]
