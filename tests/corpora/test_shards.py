"""Labels of shards, and shards from corpora of any kind."""

import io
import json
import tarfile

import pandas as pd
import pytest
from audio_files import babble, write

from paraclap import shards as command
from paraclap.corpora import CorpusError
from paraclap.corpora.shards import write_shards
from paraclap.corpora.table import read_corpus

LABELS = """file,start,end,emotion,speaker,arousal,note
a/1.wav,0,0.5,anger,01,0.1234567891,x
a/1.wav,0.5,,joy,01,,
a/2.v2.wav,,,anger,02,3,"é, q"
b/3.WAV,,,,02,4,
"""


@pytest.fixture
def source(tmp_path):
    """A table with segments, missing values and a name with dots."""
    root = tmp_path / "mine"
    for number, file in enumerate(("a/1.wav", "a/2.v2.wav", "b/3.WAV")):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        write(root / file, babble(1.0, seed=number), format="WAV")
    (root / "labels.csv").write_text(LABELS)
    return root / "labels.csv"


def test_shards_have_the_table_that_they_were_made_of(source, tmp_path, capsys):
    assert command.main([str(source), "-o", str(tmp_path / "x"), "--megabytes", "0.03"]) == 0
    assert capsys.readouterr().out == f"3 recordings in 3 shards in {tmp_path / 'x'}\n"
    expected, found = read_corpus(source), read_corpus(f"mine={tmp_path / 'x'}")
    assert found.attrs["name"] == "mine"
    pd.testing.assert_frame_equal(found[expected.columns], expected)
    again = tmp_path / "again"
    assert command.main([str(tmp_path / "x"), "-o", str(again)]) == 0
    pd.testing.assert_frame_equal(read_corpus(again), found)


def test_the_same_table_gives_the_same_shards(source, tmp_path):
    contents = []
    for name in "xy":
        write_shards(read_corpus(source), tmp_path / name, 1)
        contents.append([path.read_bytes() for path in sorted((tmp_path / name).glob("*.tar"))])
    assert contents[0] == contents[1] and len(contents[0]) == 3


@pytest.fixture
def wds():
    return pytest.importorskip("webdataset")


def test_webdataset_reads_our_shards(source, tmp_path, wds):
    source.write_text("file,emotion,caption\na/1.wav,anger,She is angry.\na/2.v2.wav,joy,\n")
    write_shards(read_corpus(source), tmp_path / "x", 10**9)
    (path,) = (tmp_path / "x").glob("*.tar")
    samples = {s["__key__"]: s for s in wds.WebDataset(str(path), shardshuffle=False).decode()}
    assert set(samples) == {"a/1", "a/2_v2"}
    assert samples["a/1"]["wav"] == (source.parent / "a/1.wav").read_bytes()
    assert samples["a/1"]["txt"] == "She is angry."
    assert samples["a/1"]["json"] == {"emotion": "anger", "caption": "She is angry."}
    assert samples["a/2_v2"]["json"] == {"emotion": "joy", "file": "a/2.v2.wav"}


def test_we_read_shards_of_webdataset(source, tmp_path, wds):
    (tmp_path / "x").mkdir()
    with wds.ShardWriter(str(tmp_path / "x" / "%03d.tar"), maxcount=1, verbose=0) as sink:
        for number, name in enumerate(("a/1.wav", "a/2.v2.wav")):
            content = (source.parent / name).read_bytes()
            labels = {"Emotion": ["Angry", "sad"][number], "text": f"said {number}"}
            sink.write({"__key__": f"s{number}", "wav": content, "json": labels, "txt": "A voice."})
    table = read_corpus(tmp_path / "x")
    assert [file for file, _, _ in table.index] == ["s0.wav", "s1.wav"]
    assert list(table["emotion"]) == ["angry", "sad"]
    assert list(table["caption"]) == ["A voice."] * 2
    renamed = read_corpus(tmp_path / "x", columns={"transcript": "text"})
    assert list(renamed["transcript"]) == ["said 0", "said 1"]


def test_unreadable_recordings_are_left_out_and_named(source, tmp_path, capsys):
    (source.parent / "a/1.wav").write_bytes(b"<html>")
    assert command.main([str(source), "-o", str(tmp_path / "x")]) == 1
    assert "a/1.wav is left out: " in capsys.readouterr().err
    assert len(read_corpus(tmp_path / "x")) == 2


def test_a_writer_that_stops_leaves_no_folder(source, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tarfile.TarFile, "addfile", fail)
    with pytest.raises(KeyboardInterrupt):
        write_shards(read_corpus(source), tmp_path / "x", 1)
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


@pytest.mark.parametrize(
    "table, message",
    [
        ("file\na/1.wav\na/1.flac\n", "a/1.flac and a/1.wav would be one sample|one sample"),
        ("file\nb/3.WAV\n", "x exists already"),
    ],
)
def test_what_cannot_be_written_is_refused(source, tmp_path, table, message):
    (source.parent / "a/1.flac").write_bytes((source.parent / "a/1.wav").read_bytes())
    source.write_text(table)
    if "exists" in message:
        (tmp_path / "x").mkdir()
    with pytest.raises(Exception, match=message):
        command.main([str(source), "-o", str(tmp_path / "x")])


def test_segments_must_be_objects(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, content in (("a.wav", b"x"), ("a.json", json.dumps({"segments": [1]}).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(CorpusError, match="segments of a.wav is no list of objects"):
        read_corpus(tmp_path)
