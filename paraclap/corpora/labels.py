"""Normalisation of labels, genders, speakers and splits, once, when a corpus is read.

values = decode(fields["gender"], GENDERS)     # "F", "female", "f" -> "female"
values = typed(table["speaker"], "my-corpus")  # text columns as text, numbers as float64
"""

from collections.abc import Mapping

import pandas as pd

from paraclap.corpora import CorpusError

TEXT_COLUMNS = ("emotion", "speaker", "gender", "split", "fold", "language")
NUMBER_COLUMNS = ("arousal", "valence", "dominance", "age")
DECIMAL_COMMA = r"^\s*(-?\d+),(\d+)\s*$"

Codes = Mapping[str, str | None]
"""Code -> label; None for a missing label."""


class OpenCodes(dict):
    """Codes that may be incomplete: other codes are kept as they are, or are missing labels."""

    def __init__(self, codes: Codes, keep: bool) -> None:
        super().__init__(codes)
        self.keep = keep

    def __contains__(self, code: object) -> bool:
        """Accept every code."""
        return True

    def __missing__(self, code: str) -> str | None:
        """Return the label of a code that is not listed."""
        return code if self.keep else None


def codes(text: str) -> dict[str, str | None]:
    """Return the codes of a text like ``W anger, L boredom, X -``; a dash is a missing label."""
    pairs = (pair.split(maxsplit=1) for pair in text.split(", "))
    return {code: None if label == "-" else label for code, label in pairs}


GENDERS = codes(
    "F female, Female female, f female, female female, M male, Male male, m male, male male,"
    " Unknown -, unknown -"
)
SPLITS = OpenCodes(
    codes(
        "Train train, TR train, Development dev, development dev, devel dev, validation dev,"
        " evaluation dev, Test1 test1, Test2 test2, Test3 test3, TE test"
    ),
    keep=True,
)


def decode(values: pd.Series, known: Codes) -> pd.Series:
    """Return the labels of codes; missing codes stay missing.

    Raises:
        KeyError: if a code is unknown; its arguments are the code and its row.
    """
    for row, code in values.dropna().items():
        if code not in known:
            raise KeyError(code, row)
    return values.map(lambda code: known[code], na_action="ignore")


def typed(values: pd.Series, name: str) -> pd.Series:
    """Return a column as text or float64 if its name requires it, otherwise unchanged.

    Args:
        values: column of a table
        name: of the table, for error messages

    Raises:
        CorpusError: if a column of `NUMBER_COLUMNS` does not hold numbers
    """
    try:
        if values.name in NUMBER_COLUMNS:
            if pd.api.types.is_string_dtype(values):
                values = values.str.replace(DECIMAL_COMMA, r"\1.\2", regex=True)
            return pd.to_numeric(values).astype("float64")
    except ValueError as error:
        raise CorpusError(f"{name}: {values.name} must hold numbers: {error}") from error
    if values.name in TEXT_COLUMNS or isinstance(values.dtype, pd.CategoricalDtype):
        if pd.api.types.is_float_dtype(values):  # integers with missing values: 7, not 7.0
            values = values.convert_dtypes()
        return values.astype("str")
    return values
