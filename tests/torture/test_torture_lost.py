"""Nothing is lost, and nothing stops the rest."""

import importlib
import os
import re
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus_files import touch, warnings_of
from paraclap import cli
from paraclap.acoustics import worker_pool
from paraclap.audio import AudioError
from paraclap.audio.paths import check_regular, resolve_inside
from paraclap.cli import features
from paraclap.corpora.table import read_clips, read_corpus
from paraclap.locks import InUseError, lock
from small_corpora import make_corpus
from small_corpora import run as run_captions
from small_corpora import write as write_table

# --- Single clips --------------------------------------------------------------------------------


@pytest.mark.torture(17, "a name that is not UTF-8 in a folder")
def test_a_name_that_is_not_utf_8_is_one_rejected_clip(tmp_path):
    touch(tmp_path, "good.wav")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav"))).write_bytes(b"")
    table, warned = warnings_of(read_corpus, tmp_path)
    assert [file for file, _, _ in table.index] == ["\\xff.wav", "good.wav"]
    assert "1 names are not UTF-8" in warned[0] and "\\xff.wav" in warned[0]
    with pytest.raises(AudioError, match="does not exist"):
        check_regular(resolve_inside(tmp_path, "\\xff.wav"))


# --- Folders -------------------------------------------------------------------------------------


@pytest.fixture
def closed_folder(monkeypatch):
    """Returns a function that makes a folder one that may not be listed, also for root."""
    folders, scandir, access = set(), os.scandir, os.access

    def guarded(path):
        if os.fspath(path) in folders:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    monkeypatch.setattr(
        os, "access", lambda path, mode: os.fspath(path) not in folders and access(path, mode)
    )
    return lambda path: folders.add(os.path.realpath(path))


@pytest.mark.torture(6, "folder of a corpus that may not be listed")
@pytest.mark.parametrize("known", [False, True])
def test_a_folder_that_may_not_be_listed_is_a_rejected_row(tmp_path, closed_folder, known):
    touch(tmp_path, "wav/03a01Fa.wav", "closed/16b10Wb.wav")
    closed_folder(tmp_path / "closed")
    table, warned = warnings_of(read_corpus, f"emodb={tmp_path}" if known else tmp_path)
    assert sorted(file for file, _, _ in table.index) == ["closed", "wav/03a01Fa.wav"]
    assert any("1 folders may not be listed" in text and "closed" in text for text in warned)
    with pytest.raises(AudioError, match="may not be listed by this user") as caught:
        check_regular(resolve_inside(tmp_path, "closed"))
    assert caught.value.reason == "unreadable"
    clips = read_clips([str(tmp_path)])
    assert clips["file"].tolist() == ["closed", "wav/03a01Fa.wav"]


@pytest.mark.torture(6, "link to a folder outside of the corpus")
def test_a_link_to_a_folder_outside_is_a_rejected_row(tmp_path):
    touch(tmp_path, "root/a.wav", "elsewhere/b.wav")
    (tmp_path / "root/link").symlink_to(tmp_path / "elsewhere")
    table, warned = warnings_of(read_corpus, tmp_path / "root")
    assert [file for file, _, _ in table.index] == ["a.wav", "link"]
    assert "are links out of the root, e.g. link" in warned[0]
    with pytest.raises(AudioError, match="outside of"):
        resolve_inside(tmp_path / "root", "link")


def test_links_to_folders_are_followed_inside_the_root(tmp_path):
    touch(tmp_path, "a/1.wav", ".store/2.wav", "a/b/3.wav")
    (tmp_path / "again").symlink_to("a")  # its files are found below a/
    (tmp_path / "linked").symlink_to(".store")
    (tmp_path / "a/b/loop").symlink_to(tmp_path)
    (tmp_path / "a/b/self").symlink_to("self")
    table, warned = warnings_of(read_corpus, tmp_path)
    assert [file for file, _, _ in table.index] == ["a/1.wav", "a/b/3.wav", "linked/2.wav"]
    assert not warned


@pytest.mark.torture(6, "features of a corpus with a folder that may not be listed")
def test_features_lists_a_closed_folder_among_the_errors(toy, tmp_path, closed_folder):
    touch(toy, "closed/b.wav")
    closed_folder(toy / "closed")
    arguments = [str(toy), "-o", str(tmp_path / "f.parquet"), "--feature-set", "captions"]
    assert features.main([*arguments, "--workers", "1"]) == 1
    errors = pd.read_csv(tmp_path / "f.errors.csv")
    assert errors["file"].tolist() == ["closed"]


# --- Locks ---------------------------------------------------------------------------------------


def test_features_that_another_process_writes_are_left_to_it(toy, tmp_path, capsys):
    arguments = [str(toy), "-o", str(tmp_path / "f.parquet"), "--feature-set", "captions"]
    arguments += ["--workers", "1", "--chunk", "16"]
    (tmp_path / "f.parts").mkdir()
    with lock(tmp_path / "f.parts"):
        for shard in ([], ["--shard", "1/2"]):
            code = cli.run(lambda shard=shard: features.main([*arguments, *shard]), "features.py")
            message = capsys.readouterr().err
            assert code == 1 and f"f.parts is in use by process {os.getpid()} on" in message
    assert not list((tmp_path / "f.parts").iterdir()) and not (tmp_path / "f.parquet").exists()
    with lock(tmp_path / "f.parts", shared=True):  # by another shard
        assert features.main([*arguments, "--shard", "1/2"]) == 0
        with pytest.raises(InUseError):
            features.main(arguments)
    assert features.main(arguments) == 0


# --- Checkpoints ---------------------------------------------------------------------------------

# --- Streams -------------------------------------------------------------------------------------

# --- Caches --------------------------------------------------------------------------------------

# --- Signals -------------------------------------------------------------------------------------


@pytest.mark.torture(28, "signal to features.py while it starts, measures and merges")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(
    "place",
    [
        "paraclap.corpora.table.read_corpus",
        "paraclap.acoustics.features.claim_folder",
        "paraclap.acoustics.backends.Outcome",
        "paraclap.acoustics.merge._with_labels",
    ],
)
def test_signal_stops_features_with_exit_code_75(toy, tmp_path, monkeypatch, capsys, number, place):
    arguments = [str(toy), "-o", str(tmp_path / "f.parquet"), "--feature-set", "captions"]
    arguments += ["--chunk", "16", "--workers", "1"]
    module, _, function = place.rpartition(".")
    original = getattr(importlib.import_module(module), function)

    def received(*inputs, **options):
        os.kill(os.getpid(), number)
        return original(*inputs, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, received)
        assert cli.run(lambda: features.main(arguments), "features.py") == 75
    expected = f"features.py: {number.name}: stopped, repeat the same command to continue"
    assert capsys.readouterr().err.splitlines()[-1] == expected
    assert not (tmp_path / "f.parquet").exists() and not any(worker_pool._IDLE.values())
    assert signal.getsignal(number) == signal.SIG_DFL
    assert features.main(arguments) == 0 and len(pd.read_parquet(tmp_path / "f.parquet")) == 40


# --- Tables --------------------------------------------------------------------------------------


@pytest.mark.torture(19, "impossible columns of features tables")
@pytest.mark.parametrize(
    "kind, message",
    [
        ("list", "a column of labels holds list<.*>, expected one label per row"),
        ("twice", "has the column emotion twice"),
        ("large", "column 'id' of .* cannot be read as double"),
    ],
)
def test_impossible_columns_end_in_one_sentence(tmp_path, capsys, kind, message):
    first, second = make_corpus(20), make_corpus(20, 1)
    second.index = second.index.set_levels([f"b/{f}" for f in second.index.levels[0]], level=0)
    first["id"] = np.arange(20, dtype=np.uint64) + np.uint64(2**63)
    second["id"] = 1.5 if kind == "large" else first["id"].to_numpy()
    if kind == "list":
        first["emotion"] = [["anger"]] * 20
    stored = pa.Table.from_pandas(first)
    if kind == "twice":
        stored = stored.append_column("emotion", pa.array(["fear"] * 20))
    pq.write_table(stored, tmp_path / "one.parquet")
    inputs = tmp_path / "one.parquet", write_table(second, tmp_path / "two.parquet")
    assert run_captions(*inputs, "-o", tmp_path / "captions.parquet") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(rf"template_creation.py: .*{message}.*", last)


@pytest.mark.parametrize("options", [(), ("--edges-by", "emotion,note")])
def test_memory_of_captions_grows_with_the_number_of_labels_not_its_square(tmp_path, options):
    peaks = []
    for labels in (100, 1000):
        table = make_corpus(1000)
        for column, step in (("emotion", 1), ("note", 7)):
            table[column] = [f"label {row * step % labels}" for row in range(1000)]
        table.to_parquet(tmp_path / "f.parquet")
        arguments = [tmp_path / "f.parquet", "--descriptors", "duration,emotion,intensity"]
        tracemalloc.start()
        assert run_captions(*arguments, "-o", tmp_path / "c.parquet", *options) == 0
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    assert peaks[1] < 10 * peaks[0] and peaks[1] < 6  # the square: 8 MiB
