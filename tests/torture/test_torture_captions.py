"""Tables of captions of one's own with every fault: one sentence, or a run that counts them."""

import re
import shutil
import warnings

import pandas as pd
import pytest

from paraclap import cli
from paraclap.cli import train
from paraclap.data.captions import FREE, ClipPhrases

CLIPS = [f"{number}.wav" for number in range(12)]
LONG = "x " * 3000


@pytest.fixture
def folder(corpus, tmp_path):
    """Twelve clips of two emotions."""
    sounds = sorted(corpus.rglob("*.wav"))
    for name, sound in zip(CLIPS, sounds, strict=False):
        shutil.copy(sound, tmp_path / name)
    return tmp_path


def rows(change=None, row=0, header="file,caption"):
    """A table of twelve different captions, of which one row is another one."""
    lines = [f"{name},caption {number}" for number, name in enumerate(CLIPS)]
    if change is not None:
        lines[row] = change
    return "\n".join([header, *lines]) + "\n"


def outcome(config, folder, table, capsys):
    """Exit code of train.py, its error, its warnings, and the captions of the run."""
    path = folder / "my.csv" if isinstance(table, str | bytes) else folder / table[0]
    text = table if isinstance(table, str | bytes) else table[1]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    arguments = [config, f"data.root={folder}", f"data.captions={path}", "train.max_steps=1"]
    arguments += ["data.class_sampling_exponent=0", "train.batch_size=4"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        code = cli.run(lambda: train.main(arguments), "train.py")
    written = folder / "run" / "captions.parquet"
    found = list(ClipPhrases(pd.read_parquet(written))) if code == 0 else []
    return code, capsys.readouterr().err, " | ".join(str(w.message) for w in caught), found


STOPPED = {
    "no rows": ("file,caption\n", "has no rows"),
    "no text at all": (
        "file,caption\n" + "\n".join(f"{name}," for name in CLIPS),
        "no clip of .* has a caption",
    ),
    "no column of captions": (rows(header="file,sentence"), "expected 'caption' or some of"),
    "no column of files": (rows(header="path,caption"), "expected one called file"),
    "two columns of captions": (
        rows(header="file,caption,caption"),
        "the column caption occurs twice",
    ),
    "encoding of another program": (rows("0.wav,café").encode("utf-16-le"), "UTF-8"),
    "file outside of the folder": (rows("../../x.wav,y"), "leaves"),
    "segment that ends before it starts": (
        "file,start,end,caption\n0.wav,2,1,x\n",
        "is negative or empty",
    ),
    "files elsewhere": (rows().replace(".wav", ".mp3"), "contains none of the files"),
    "no JSON": (("my.jsonl", '{"file": "0.wav", "caption": "x"\n'), "cannot be read as a table"),
    "captions that are numbers": (
        ("my.jsonl", '{"file": "0.wav", "caption": 1}\n'),
        "a caption of 0.wav is 1.*expected a text",
    ),
    "lists of Python": (rows("0.wav,\"['a', 'b']\""), "expected a text or a JSON list"),
    "quote without its pair": (rows('3.wav,"x', 3), "EOF inside string starting at row 4"),
    "unpaired surrogate": (
        ("my.jsonl", '{"file": "0.wav", "caption": "\\ud800"}\n'),
        "cannot be read as a table",
    ),
    "a spreadsheet": (("my.xlsx", "PK"), "is a spreadsheet, save it as CSV"),
    "damaged Parquet": (("my.parquet", "PAR1"), "no parquet file, or damaged"),
}


@pytest.mark.parametrize("fault", STOPPED)
def test_faults_of_the_whole_table_stop_in_one_sentence(config, folder, fault, capsys, happened):
    table, sentence = STOPPED[fault]
    code, error, _, _ = outcome(config, folder, table, capsys)
    last = error.strip().splitlines()[-1]
    assert code == 1 and re.search(sentence, last) and "Traceback" not in error, error


COUNTED = {
    "empty": (rows("0.wav,"), "1 clips have no caption, or an empty one, e.g. 0.wav"),
    "blanks alone": (rows('0.wav,"  \t "'), "1 clips have no caption, or an empty one, e.g. 0.wav"),
    "far too long": (rows(f"0.wav,{LONG}"), "1 clips have a caption of over 5000 characters"),
    "rows that two quotes join": (
        rows('3.wav,"x', 3).replace("caption 5", 'y"'),
        r"1 clips have a caption of several lines \(an unpaired quotation mark\?\), e.g. 3.wav",
    ),
    "more tokens than the text encoder reads": (rows("0.wav," + "word " * 200), "truncated to the"),
    "missing recording": (rows("no.wav,x"), "1 files of the table do not exist"),
    "rows of a clip in two parts": (
        "file,caption,split\n"
        + "\n".join(f"{name},caption {name},train" for name in CLIPS)
        + "\n0.wav,y,dev\n1.wav,z,dev\n",
        r"differ in split \(2, such as 0.wav\)",
    ),
    "no speakers": (rows(), "speakers are unknown"),
    "byte order mark": (("my.csv", rows().encode("utf-8-sig")), "speakers are unknown"),
    "one caption for all": (
        "file,caption\n" + "\n".join(f"{name},someone speaks" for name in CLIPS),
        "speakers are unknown",
    ),
}


@pytest.mark.parametrize("fault", COUNTED)
def test_faults_of_rows_are_counted_and_the_rest_is_trained_on(config, folder, fault, capsys):
    table, warned = COUNTED[fault]
    code, error, found, captions = outcome(config, folder, table, capsys)
    if fault == "missing recording":
        assert code == 1 and "no.wav" in error and re.search(warned, found + error)
        return
    assert code == 0, error
    assert re.search(warned, found + error), found
    texts = [text for phrases in captions for text in phrases.get(FREE, ())]
    assert len(texts) >= 10 and all(len(text) <= 5000 and text == text.strip() for text in texts)
