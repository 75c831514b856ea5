"""Embeddings of a corpus as a table on disk, in chunks, with bounded memory.

    table = read_corpus("recordings/")
    summary = write_embeddings(model, processor, table, Path("embeddings.parquet"))

The table is on audformat's segmented index (file, start, end) and has one float column per
dimension. Each chunk of clips is a Parquet file in `embeddings.parts/`, named by a hash of
everything that its content depends on: the model, how it is computed, the clips, and size,
modification time and content of their files. So an interrupted run continues where it stopped, and
its table has the same bytes as that of an uninterrupted one.

Letters: N clips, D embedding size.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import audformat
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from paraclap.acoustics.chunks import (
    NAME,
    OWN_NAMES,
    clip_rows,
    content_key,
    divide,
    read_chunk,
    remove_others,
    write_chunk,
)
from paraclap.acoustics.merge import beside, write_listing
from paraclap.audio import AudioError
from paraclap.audio.segments import windows
from paraclap.data.dataset import ClipDataset, Collate, clip_limits
from paraclap.errors import ParaCLAPError
from paraclap.evaluation.embed import embed_clips
from paraclap.evaluation.embedding_cache import DiskEmbeddingCache, audio_fingerprint
from paraclap.evaluation.encoded import Progress, check_lengths, has_base_encoder
from paraclap.files import atomic_write, claim_folder, remove_leftovers
from paraclap.locks import lock
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.model.onnx import OnnxModel
from paraclap.parquet import EMBEDDINGS, LISTINGS

FORMAT = 1
"""Part of the hash of chunks; raise it when files of earlier versions must not be reused."""
CHUNK_CLIPS = 256
"""About the number of clips per chunk: the most that an interruption loses."""
GROUP_ROWS = 4_096
"""Rows held in memory while merging, and rows of a row group of the table."""


class Summary(NamedTuple):
    """What was embedded: rows, dimensions, listed failures, and counts of quality flags."""

    rows: int
    dimensions: int
    failures: int
    quality: Counter[str]


def embedding_table(index: pd.MultiIndex, embeddings: np.ndarray) -> pd.DataFrame:
    """Return embeddings (N, D) as a table on the index of their clips; columns are "0" to "D-1"."""
    names = [str(number) for number in range(embeddings.shape[1])]
    return pd.DataFrame(embeddings, index, names)


def cut_into_windows(table: pd.DataFrame, window: float, hop: float | None = None) -> pd.DataFrame:
    """Return a table of the windows of the clips of a corpus table, with its attributes.

    Clips that are not longer than a window are kept, as are those whose file cannot be read. A
    window of several clips that overlap has one row.

    Args:
        table: corpus table.
        window: length [s].
        hop: distance of the starts of windows [s]; None = the window.
    """
    clips = ClipDataset(table, table.attrs["root"])
    rows: list[tuple] = []
    for clip in clips.clips:
        limits = [(0.0, 0.0)]
        with suppress(AudioError):  # the reason is given where the clip is embedded
            limits = clip_limits(clips.recordings, [clip])
        (first, last), *_ = limits
        if last - first <= window:
            rows.append(clip)
            continue
        for start, end in windows(last - first, window, hop or window):
            # rounded to ns, below which pandas cuts off: 0.3 + 0.6 s is 0.9 s
            place = (pd.Timedelta(seconds=round(first + limit, 9)) for limit in (start, end))
            rows.append((clip[0], *place))
    cut = pd.DataFrame(index=audformat.segmented_index(*map(list, zip(*rows, strict=True))))
    cut = cut[~cut.index.duplicated()]
    cut.attrs = dict(table.attrs)
    return cut


def write_embeddings(
    model: ParaCLAPModel | OnnxModel,
    processor: ParaCLAPProcessor,
    table: pd.DataFrame,
    output: Path,
    about: dict[str, Any] | None = None,
    cache: DiskEmbeddingCache | None = None,
    **options: Any,
) -> Summary:
    """Embed the clips of a corpus table and write them to a Parquet file.

    Clips that cannot be embedded are listed with the reason in `NAME.errors.csv`, those with
    quality flags in `NAME.quality.csv`, beside the file.

    Args:
        model: in evaluation mode.
        processor: of the model.
        table: corpus table.
        output: file to write.
        about: how embeddings are computed, for the metadata of the file; part of the hash of
            chunks.
        cache: used if the speech encoder is a base encoder, whose cached rows are exact.
        options: `batch_seconds` and `workers` of `embed_clips`.

    Raises:
        ChunkError: if a chunk is damaged; it was removed, a rerun embeds it again.
        EmbeddingError: if an embedding is not finite.
        OutputError: if a file cannot be written.
        InUseError: if another process writes the same table.
    """
    folder = beside(output, "parts").absolute()
    claim_folder(folder, "folder of paraclap.embed", OWN_NAMES)
    with lock(folder):
        root = str(Path(table.attrs["root"]).absolute())
        about = {"dimensions": model.config.projection_dim, **(about or {})}
        settings = [FORMAT, root, about, audio_fingerprint(model, processor), model.device.type]
        settings.append(options.get("batch_seconds"))
        options["cache"] = cache if has_base_encoder(model) else None
        # By file and start, because the windows of a single recording are divided as well.
        starts = table.index.get_level_values("start")
        names = [f"{file} {start}" for file, start in zip(_files(table), starts, strict=True)]
        chunks, paths = divide(names, CHUNK_CLIPS), []
        progress = Progress("embedding", len(table))
        with progress.bar:
            for chunk in chunks:
                rows = table.iloc[chunk.start : chunk.stop]
                key = content_key(settings, root, clip_rows(table, chunk))
                path = folder / NAME.format(key)
                if path.exists():
                    progress.bar.update(len(rows))
                else:
                    write_chunk(_embed(model, processor, rows, progress, options), path)
                paths.append(str(path))
        progress.report()
        summary = _merge(table, chunks, paths, output, about)
        remove_others(folder, set(paths))
        remove_leftovers(output.parent, output.name)
    return summary


def _files(table: pd.DataFrame) -> pd.Index:
    return table.index.get_level_values("file")


# --- Chunks --------------------------------------------------------------------------------------


def _embed(
    model: ParaCLAPModel | OnnxModel,
    processor: ParaCLAPProcessor,
    table: pd.DataFrame,
    progress: Progress,
    options: dict[str, Any],
) -> pa.Table:
    """Return a chunk: error (or ""), quality and embedding, zero for an error, of each clip."""
    root = table.attrs["root"]
    embeddings = np.zeros((len(table), model.config.projection_dim), np.float32)
    quality, errors = np.full(len(table), "", object), np.full(len(table), "", object)
    before = vars(progress).copy(), progress.bar.n
    try:
        clips = ClipDataset(table, root, examine=True)
        embeddings[:] = embed_clips(model, processor, clips, progress=progress, **options).numpy()
        quality[:] = clips.quality
    except (AudioError, ValueError) as error:  # ValueError: the feature extractor refuses a clip
        errors[:] = [_error(clips, row, processor) for row in range(len(clips))]
        readable = errors == ""
        if readable.all() or isinstance(error, ParaCLAPError) and not isinstance(error, AudioError):
            raise
        vars(progress).update(before[0])
        progress.bar.update(before[1] + (~readable).sum() - progress.bar.n)
        if readable.any():
            clips = ClipDataset(table[readable], root, examine=True)
            found = embed_clips(model, processor, clips, progress=progress, **options)
            embeddings[readable], quality[readable] = found.numpy(), clips.quality
    values = pa.FixedSizeListArray.from_arrays(embeddings.ravel(), embeddings.shape[1])
    return pa.table({"error": errors, "quality": quality, "embedding": values})


def _error(clips: ClipDataset, row: int, processor: ParaCLAPProcessor) -> str:
    """Return why a clip cannot be read by the encoder, or an empty text."""
    try:
        check_lengths(clips, [row], clips.durations([row]), processor)
        Collate(processor)([clips[row]])
    except (AudioError, ValueError) as error:
        return str(error).replace(f"{clips.recordings.root}/", "")
    return ""


# --- The table -----------------------------------------------------------------------------------


def _merge(
    table: pd.DataFrame, chunks: Sequence[range], paths: Sequence[str], output: Path, about: dict
) -> Summary:
    """Write the embeddings in the order of the table, and list failures and quality flags."""
    empty = embedding_table(table.index[:0], np.zeros((0, about["dimensions"]), np.float32))
    schema = pa.Schema.from_pandas(empty)
    schema = schema.with_metadata({**schema.metadata, EMBEDDINGS: json.dumps(about).encode()})
    rows, failures, flagged = 0, [], []
    options = {"write_page_checksum": True, "use_dictionary": ["file"]}
    with atomic_write(output) as temporary, pq.ParquetWriter(temporary, schema, **options) as file:
        for group, embeddings in _groups(table, chunks, paths):
            failures.append(group.loc[group["error"] != "", ["error"]])
            flagged.append(group.loc[group["quality"] != "", ["quality"]])
            is_good = (group["error"] == "").to_numpy()
            frame = embedding_table(group.index[is_good], embeddings[is_good])
            file.write_table(pa.Table.from_pandas(frame, schema=schema), GROUP_ROWS)
            rows += len(frame)
    listed = [pd.concat(parts).reset_index() for parts in (failures, flagged)]
    for ending, listing in zip(LISTINGS, listed, strict=True):
        write_listing(listing, beside(output, ending))
    counts = Counter(flag for flags in listed[1]["quality"] for flag in flags.split())
    return Summary(rows, about["dimensions"], len(listed[0]), counts)


def _groups(
    table: pd.DataFrame, chunks: Sequence[range], paths: Sequence[str]
) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Yield error and quality of consecutive clips, and their embeddings, some chunks at a time."""
    pending: list[pa.Table] = []
    first = chunks[0].start
    for chunk, path in zip(chunks, paths, strict=True):
        pending.append(read_chunk(path))
        if chunk.stop - first >= GROUP_ROWS or chunk is chunks[-1]:
            joined = pa.concat_tables(pending)
            values = joined["embedding"].combine_chunks().flatten().to_numpy()
            notes = joined.select(["error", "quality"]).to_pandas()
            yield notes.set_axis(table.index[first : chunk.stop]), values.reshape(len(notes), -1)
            pending, first = [], chunk.stop
