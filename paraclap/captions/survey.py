"""One look at every row, before edges can be fitted: splits, groups, and rows that stand twice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from paraclap.captions.columns import Numbering, is_number, value_type
from paraclap.captions.feature_tables import INDEX, Features, shown
from paraclap.captions.hashing import hash_rows
from paraclap.captions.input_errors import InputError
from paraclap.captions.phrases import Comparison
from paraclap.captions.templates import LEVELS, Descriptor

# openSMILE writes 0.0 here when no frame of the clip is voiced
VOICING_COLUMN = "F0semitoneFrom27.5Hz_sma3nz_amean"


@dataclass(frozen=True)
class Survey:
    """What has to be known of all rows before edges can be fitted.

    Attributes:
        rows: their number.
        training: (rows,) which ones edges are fitted on; None if there are splits, but no "train".
        splits: names of the splits.
        groups: column -> (codes (rows,), -1 where missing; names of the groups).
        given: columns of levels that hold low/normal/high themselves.
        unvoiced: (rows,) which ones have no voice; None if nothing tells, or nobody asks.
    """

    rows: int
    training: np.ndarray | None
    splits: tuple[str, ...]
    groups: dict[str, tuple[np.ndarray, list[str]]]
    given: frozenset[str]
    unvoiced: np.ndarray | None

    def unvoiced_in(self, rows: slice) -> np.ndarray | None:
        """Which of some rows have no voice, as far as that is known."""
        return None if self.unvoiced is None else self.unvoiced[rows]


def survey(
    features: Features, descriptors: Sequence[Descriptor], comparisons: Sequence[Comparison] = ()
) -> Survey:
    """Look once at index, splits, groups and ready-made levels of every row.

    Raises:
        InputError: if a row stands twice, or if levels are neither numbers nor low/normal/high
    """
    names = features.schema.names
    texts = {
        d.column: Numbering()
        for d in descriptors
        if d.kind == "level" and not is_number(value_type(features.schema.field(d.column).type))
    }
    splits, groups = Numbering(), {c.column: Numbering(c.group) for c in comparisons}
    counted = {"split": splits} if "split" in names else {}
    numberings = {**counted, **groups}
    codes = {name: np.empty(features.rows, np.int32) for name in numberings}
    hashes = np.empty(features.rows, np.uint64)
    voicing = [VOICING_COLUMN] if any(d.voiced for d in descriptors) else []
    voicing = [name for name in voicing if name in names]
    unvoiced = np.empty(features.rows, bool) if voicing else None
    identity = [*INDEX, *(["corpus"] if "corpus" in names else [])]
    done = 0
    for batch in shown(features, [*identity, *numberings, *texts, *voicing], "survey"):
        rows = slice(done, done + len(batch))
        hashes[rows] = hash_rows(batch, identity)
        for name, numbering in numberings.items():
            codes[name][rows] = numbering.of(batch.column(name))
        for name, numbering in texts.items():
            numbering.of(batch.column(name))
        if unvoiced is not None:
            unvoiced[rows] = unvoiced_rows(batch.column(VOICING_COLUMN))
        done = rows.stop
    _check_unique(features, identity, hashes[:done])
    training = np.ones(done, bool)
    if splits.values:
        code = splits.values.index("train") if "train" in splits.values else None
        training = None if code is None else codes["split"][:done] == code
    return Survey(
        done,
        training,
        tuple(map(str, splits.values)),
        {name: (codes[name][:done], numbering.values) for name, numbering in groups.items()},
        frozenset(name for name, numbering in texts.items() if _are_levels(name, numbering.values)),
        None if unvoiced is None else unvoiced[:done],
    )


def unvoiced_rows(column: pa.Array) -> np.ndarray:
    """Where a measure of the voice is undefined (rows,)."""
    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return (values == 0) | np.isnan(values)


def _are_levels(column: str, values: list) -> bool:
    """Whether a column that holds no numbers holds levels; False if it holds nothing."""
    odd = [value for value in values if value not in LEVELS]
    if odd:
        expected = f"numbers or only {'/'.join(LEVELS)}"
        raise InputError(f"column {column!r} holds {odd[0]!r}, expected {expected}")
    return bool(values)


def _check_unique(features: Features, identity: Sequence[str], hashes: np.ndarray) -> None:
    """Refuse rows that stand twice; equal hashes are looked at again, so that none is missed.

    Raises:
        InputError: naming the first row that was seen before
    """
    hashes.sort()
    suspects = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    seen: set[tuple] = set()
    for batch in features.batches(identity) if len(suspects) else ():
        found = np.isin(hash_rows(batch, identity), suspects)
        for row in batch.filter(pa.array(found)).to_pylist():
            key = tuple(row.values())
            if key in seen:
                told = ", ".join(f"{name} {value}" for name, value in row.items())
                raise InputError(f"a row stands twice in the features: {told}")
            seen.add(key)
