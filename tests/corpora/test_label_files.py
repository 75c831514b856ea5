from pathlib import Path

import pandas as pd
import pytest

from paraclap.corpora import CorpusError
from paraclap.corpora.label_files import read_label_files


def write(root: Path, file: str, text: str | bytes) -> Path:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root / file


COLUMNS = {"File": "clip", "Class": "emotion", "Age": "age"}


def labels_of(root: Path, text: str | bytes, **options) -> pd.DataFrame:
    write(root, "labels.csv", text)
    return read_label_files(root, ["none/*.csv", "*.csv"], **{"columns": COLUMNS, **options})


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_label_file_of_any_separator_encoding_and_newline(tmp_path, separator, encoding, newline):
    lines = [
        ["Age", "File ", "Class"],
        ["7", " a.wav", "freudig, müde" if separator == ";" else "ä"],
    ]
    text = newline.join(map(separator.join, lines)) + newline
    (row,) = labels_of(tmp_path, text.encode(encoding)).to_dict("records")
    assert row == {"clip": "a.wav", "emotion": lines[1][2], "age": "7"}


def test_encoding_can_depend_on_the_path(tmp_path):
    text = "a\t我没事\n"
    write(tmp_path, "zh/1.txt", text.encode("gb18030"))
    write(tmp_path, "en/2.txt", "b\tIt’s\n".encode("cp1252"))
    rows = read_label_files(
        tmp_path,
        ["*/*.txt"],
        line=r"(?P<clip>\w)\t(?P<text>.*)",
        path_fields=r"(?P<language>..)/\d\.txt",
        encodings={"zh/*": "gb18030"},
    )
    assert rows.to_dict("records") == [
        {"clip": "b", "text": "It’s", "language": "en"},
        {"clip": "a", "text": "我没事", "language": "zh"},
    ]


def test_missing_column_of_a_label_file_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match=r"columns \['File', 'Klasse'\], expected also .*Class"):
        labels_of(tmp_path, "File,Klasse\na,b\n")
    rows = labels_of(tmp_path, "File,Class\na,b\n", optional=["Age"])
    assert rows["age"].isna().all() and rows["emotion"].tolist() == ["b"]


@pytest.mark.parametrize(
    "text", ["", 'File,Class\na,"b\n', "File,Class\na,b,c,d\nb,c\na,b,c,d,e\n"]
)
def test_label_file_that_is_not_a_table_is_an_error(tmp_path, text):
    with pytest.raises(CorpusError, match=r"labels\.csv cannot be read as a table"):
        labels_of(tmp_path, text)
