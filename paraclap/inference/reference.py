"""Reference clips of `ParaCLAP.adapt`, cut into windows, and their mean embedding."""

import pandas as pd

from paraclap.data.dataset import ClipDataset
from paraclap.evaluation.adaptation import Reference, reference_of
from paraclap.evaluation.embed import embed_clips
from paraclap.evaluation.encoded import open_cache
from paraclap.files import default_cache
from paraclap.inference.embeddings import cut_into_windows
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.model.onnx import OnnxModel


def embed_reference(
    model: ParaCLAPModel | OnnxModel,
    processor: ParaCLAPProcessor,
    table: pd.DataFrame,
    window: float | None,
    batch_seconds: float,
) -> Reference:
    """Return the mean embedding of the clips of a corpus table, read from the embedding cache.

    Clips longer than the window [s] are cut into windows; None = all are embedded as a whole.

    Raises:
        AudioError: naming the first clip that cannot be read.
    """
    root, name = table.attrs["root"], table.attrs["name"]
    if window is not None:
        table = cut_into_windows(table, window)
    clips = ClipDataset(table, root, examine=True)
    folder = default_cache()
    cache = None if folder is None else open_cache(folder, model, processor)
    embeddings = embed_clips(
        model, processor, clips, batch_seconds, progress="reference clips", cache=cache
    )
    return reference_of(embeddings.numpy(), name)
