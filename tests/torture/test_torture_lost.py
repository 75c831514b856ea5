"""Nothing is lost, and nothing stops the rest."""

import errno
import hashlib
import importlib
import io
import json
import os
import pickle
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from fault_injection import run
from safetensors.numpy import save
from training_runs import REPOSITORY, StoppedError, damage, train_until

from corpus_files import touch, warnings_of
from paraclap import cli
from paraclap.acoustics import egemaps, worker_pool
from paraclap.audio import AudioError
from paraclap.audio.paths import check_regular, hash_audio, resolve_inside
from paraclap.cli import evaluate, features, predict, search, train
from paraclap.corpora.table import read_clips, read_corpus
from paraclap.data.functionals import standards
from paraclap.evaluation import embedding_cache
from paraclap.evaluation.embedding_cache import DIGEST_BYTES, DiskEmbeddingCache
from paraclap.files import OutputError
from paraclap.inference import index_update
from paraclap.inference.api import ParaCLAP
from paraclap.inference.clips import EmbeddedClip
from paraclap.inference.index import ClipIndex
from paraclap.locks import InUseError, lock
from paraclap.model.build import build_model, load_model
from paraclap.settings import ModelSettings, TowerSettings
from paraclap.training import checkpoint, loop
from paraclap.training.checkpoint import (
    checkpoint_path,
    list_checkpoints,
    load_newest,
    save_checkpoint,
)
from paraclap.training.config import read_settings
from paraclap.training.loggers import Log
from paraclap.training.trainer import Trainer
from small_corpora import make_corpus
from small_corpora import run as run_captions
from small_corpora import write as write_table
from tiny_models import TEXTS, TINY_TEXT

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


@pytest.fixture(scope="module")
def functionals_folder(tmp_path_factory):
    """Folder of a tiny model that reads functionals."""
    settings = ModelSettings(
        audio=TowerSettings(config={"model_type": "egemaps", "hidden_size": 16}),
        text=TowerSettings(config=TINY_TEXT),
    )
    folder = tmp_path_factory.mktemp("functionals")
    names = egemaps.Extractor("egemaps").names
    rows = np.random.default_rng(0).standard_normal((9, len(names)))
    torch.manual_seed(0)
    for part in build_model(settings, TEXTS, standards(pd.DataFrame(rows, columns=names))):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def odd_names(tmp_path, voice):
    """Clips with names that text, matplotlib, tables or file systems may not take."""
    (tmp_path / "audio").mkdir()
    names = ["2_$_$.wav", "$x^{.wav", "a,b\n.wav", "NA", "x" * 240 + ".wav", "日本 %s.wav", "-o"]
    names += [os.fsdecode(b"\xff\xfe.wav")]
    for number, name in enumerate(names):
        samples = voice(0.4, f0=100 + 20 * number)
        with open(tmp_path / "audio" / name, "wb") as stream:
            soundfile.write(stream, samples, 16_000, format="WAV")
    return [str(tmp_path / "audio" / name) for name in names]


@pytest.mark.torture(7, "one clip of 50 ms among others, with a model on functionals")
@pytest.mark.parametrize("options", [[], ["--windows", "0.5"]])
def test_predict_continues_after_a_clip_that_the_model_refuses(
    functionals_folder, tmp_path, voice, capsys, happened, options
):
    for name, seconds in (("a", 0.5), ("b", 0.05), ("c", 0.6)):
        soundfile.write(tmp_path / f"{name}.wav", voice(seconds), 16_000)
    files = [str(tmp_path / f"{name}.wav") for name in "abc"]
    arguments = [str(functionals_folder), *files, "--prompts", "angry", "calm", *options]
    assert predict.main([*arguments, "-o", str(tmp_path / "x.csv")]) == 1
    table = pd.read_csv(tmp_path / "x.csv").groupby("file").first()
    assert table["error"].notna().tolist() == [False, True, False]
    assert "b.wav" in table.loc[files[1], "error"] and "60 ms" in table.loc[files[1], "error"]
    assert table["probability.angry"].notna().tolist() == [True, False, True]
    assert "1 unreadable clips" in capsys.readouterr().err
    happened("reported; the others are scored")


@pytest.mark.torture(7, "one clip of 50 ms among others, indexed with a model on functionals")
def test_search_continues_after_a_clip_that_the_model_refuses(
    functionals_folder, tmp_path, voice, capsys, happened
):
    for name, seconds in (("a", 0.5), ("b", 0.05), ("c", 0.6)):
        soundfile.write(tmp_path / f"{name}.wav", voice(seconds), 16_000)
    index = str(tmp_path / "index")
    files = [str(tmp_path / f"{name}.wav") for name in "abc"]
    assert search.main(["index", str(functionals_folder), *files, "-o", index]) == 1
    assert "b.wav: " in capsys.readouterr().err and len(ClipIndex(index)) == 2
    assert search.main(["query", index, "--like", *files]) == 1
    printed = capsys.readouterr()
    assert printed.out.count("like ") == 2 and "60 ms" in printed.err
    happened("reported; the others are indexed and searched")


@pytest.mark.torture(17, "names that tables, figures or UTF-8 do not take, scored and drawn")
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "txt"])
def test_predict_and_its_figures_take_any_name(model_folder, odd_names, tmp_path, happened, suffix):
    output, plots = tmp_path / f"x.{suffix}", tmp_path / "plots"
    options = ["--windows", "0.3", "--plot", str(plots), "-o", str(output)]
    arguments = [str(model_folder), *odd_names, "--prompts", "$a$", "b_{", *options]
    assert cli.run(lambda: predict.main(arguments), "predict.py") == 0
    text = output.read_bytes().decode()
    if suffix == "jsonl":
        files = [json.loads(line)["file"] for line in text.splitlines()]
        assert list(dict.fromkeys(files)) == odd_names
    assert len(list(plots.iterdir())) == len(odd_names)
    happened("all are scored and drawn")


@pytest.mark.torture(17, "names that tables or UTF-8 do not take, indexed")
def test_search_takes_all_names_of_utf_8(model_folder, odd_names, tmp_path, capsys, happened):
    index, hits, page = (str(tmp_path / name) for name in ("i", "hits.csv", "hits.html"))
    command = ["index", str(model_folder), *odd_names, "-o", index]
    assert cli.run(lambda: search.main(command), "search.py") == 1
    assert "the name is not UTF-8, rename the file" in capsys.readouterr().err
    arguments = ["query", index, "x", "--like", odd_names[-1], "-o", hits, "--page", page]
    assert cli.run(lambda: search.main(arguments), "search.py") == 0
    names = pd.read_csv(hits, keep_default_na=False)["name"]
    assert set(names) == set(odd_names[:-1])
    happened("all but one that is not UTF-8 are indexed")


def test_listed_names_need_not_be_utf_8(model_folder, odd_names, tmp_path, monkeypatch):
    listed = b"".join(os.fsencode(name) + b"\n" for name in odd_names if "\n" not in name)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed), encoding="utf-8"))
    output = tmp_path / "x.jsonl"
    arguments = [str(model_folder), "-", "--prompts", "a", "b", "-o", str(output)]
    assert cli.run(lambda: predict.main(arguments), "predict.py") == 0
    files = [json.loads(line)["file"] for line in output.read_text().splitlines()]
    assert files == [name for name in odd_names if "\n" not in name]


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


def test_index_that_another_process_writes_is_left_to_it(model_folder, toy, tmp_path, capsys):
    index = tmp_path / "index"
    command = ["index", str(model_folder), str(toy), "-o", str(index)]
    index.mkdir()
    with lock(index):
        assert cli.run(lambda: search.main(command), "search.py") == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"{index} is in use by process {os.getpid()} on" in message
    assert not list(index.iterdir())
    assert search.main(command) == 0


def test_folder_of_other_files_does_not_become_an_index(model_folder, toy, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "faiss.index").write_text("precious")
    command = ["index", str(model_folder), str(toy), "-o", str(tmp_path / "mine")]
    assert cli.run(lambda: search.main(command), "search.py") == 1
    assert "is no index" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["faiss.index"]


class HashEmbedder:
    """Embeddings that depend on the content of files alone, without a model."""

    def fingerprints(self):
        return {"audio": "a", "text": "b"}

    def embed_clips(self, clips):
        for root, file, _, _ in clips:
            row = np.random.default_rng(int(hash_audio(Path(root, file))[:12], 16)).normal(size=16)
            yield EmbeddedClip((row / np.linalg.norm(row)).astype(np.float32), "unvoiced")


def content_of(index):
    """Table and embeddings of an index, in the order of the names of its clips."""
    found = ClipIndex(index)
    order = found.clips["file"].argsort().to_numpy()
    table = found.clips.drop(columns=["chunk", "row"]).iloc[order].reset_index(drop=True)
    return table, found.embeddings(order), len(list((index / "chunks").iterdir()))


@pytest.mark.torture(31, "kill and full disk at the changes of files of one update of an index")
@pytest.mark.parametrize("fault", ["kill", "full"])
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_interrupted_update_of_an_index_loses_nothing(tmp_path, monkeypatch, happened, fault, step):
    monkeypatch.setattr(ParaCLAP, "from_pretrained", lambda *arguments: HashEmbedder())
    monkeypatch.setattr(search, "find_model", Path)
    monkeypatch.setattr(index_update, "WRITTEN_ROWS", 3)
    monkeypatch.setattr(index_update, "CHUNK_ROWS", 5)
    audio, index, start = (tmp_path / name for name in ("audio", "index", "start"))
    audio.mkdir()
    command = ["index", tmp_path, audio, "-o", index]
    for number in range(8):
        soundfile.write(audio / f"{number}.wav", np.full(900 + number, 0.1), 16_000)
    assert run(search.main, command, index).code == 0
    (audio / "1.wav").unlink()
    (audio / "2.wav").rename(audio / "renamed.wav")
    for number in (3, 8, 9):
        soundfile.write(audio / f"{number}.wav", np.full(700 + number, 0.1), 16_000)
    shutil.copytree(index, start)
    before = content_of(index)
    whole = run(search.main, command, index)
    after = content_of(index)
    places = range(0, len(whole.changes), step)
    for at in places:
        shutil.rmtree(index)
        shutil.copytree(start, index)
        ended = run(search.main, command, index, fault, at)
        is_killed = ended.code == -signal.SIGKILL
        assert is_killed == (fault == "kill") and "Traceback" not in ended.errors
        assert is_killed or (ended.code == 0) == ("No space left" not in ended.errors)
        meanwhile = content_of(index)[:2]  # the old index or the new one
        assert any(pickle.dumps(meanwhile) == pickle.dumps(x[:2]) for x in (before, after))
        assert run(search.main, command, index).code == 0
        assert pickle.dumps(content_of(index)) == pickle.dumps(after)
    happened(f"{len(places)} times: the same command completes the index")


def test_run_folder_in_which_another_process_trains_is_left_to_it(config, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with lock(tmp_path / "run"):
        assert cli.run(lambda: train.main([config]), "train.py") == 1
    message = capsys.readouterr().err
    assert f"run is in use by process {os.getpid()} on" in message
    assert not list((tmp_path / "run").iterdir())


def test_leftovers_of_killed_writes_are_removed(config, tmp_path):
    run = tmp_path / "run"
    loop.train(read_settings([config, "train.epochs=1"]))
    for name in (".best.tmp", ".last.tmp", "checkpoints/.step_00000009.tmp"):
        (run / name).mkdir(parents=True)
    (run / f".config.yaml.{'0' * 32}.tmp").touch()
    loop.train(read_settings([config, "train.epochs=1"]))
    assert not [path for path in run.rglob(".*")]


# --- Checkpoints ---------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(tmp_path):
    """Checkpoints of steps 1 and 2."""
    for step in (1, 2):
        save_checkpoint(tmp_path / "checkpoints", step, {"step": step}, keep=2)
    return tmp_path / "checkpoints"


def fail_to_read(path):
    raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


@pytest.mark.parametrize("bit", [0, 5, 7])
def test_a_flipped_bit_in_the_hash_of_a_checkpoint_falls_back(checkpoints, bit):
    path = checkpoints / "step_00000002" / "state.pt.sha256"
    for place in (0, 63):
        content = bytearray(path.read_bytes())
        content[place] ^= 1 << bit
        path.write_bytes(content)
        with pytest.warns(UserWarning, match="step_00000002"):
            assert load_newest(checkpoints)["step"] == 1


@pytest.mark.parametrize("file", ["state.pt", "state.pt.sha256"])
def test_unreadable_checkpoint_falls_back(checkpoints, monkeypatch, file):
    unreadable = checkpoints / "step_00000002" / file
    for place, name in ((checkpoint, "file_sha256"), (Path, "read_bytes")):
        original = getattr(place, name)

        def read(path, original=original):
            return fail_to_read(path) if path == unreadable else original(path)

        monkeypatch.setattr(place, name, read)
    with pytest.warns(UserWarning, match="step_00000002 cannot be read: Input/output error"):
        assert load_newest(checkpoints)["step"] == 1


@pytest.mark.parametrize("keep", [1, 2])
def test_checkpoints_after_the_resumed_one_do_not_displace_new_ones(
    config, tmp_path, monkeypatch, keep
):
    folder = tmp_path / "run" / "checkpoints"
    arguments = [config, "train.save_every=1", "train.keep=9", "train.validate_every=100"]
    train_until(monkeypatch, 6, arguments)
    damage(checkpoint_path(folder, 6), "flipped")
    with pytest.warns(UserWarning, match="step_00000006"), monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", stop)
        with pytest.raises(StoppedError):
            loop.train(read_settings(arguments))
    assert [path.name[-1] for path in list_checkpoints(folder)] == list("12345")
    train_until(
        monkeypatch,
        3,
        [*arguments, f"train.keep={keep}", "train.resume=" + str(checkpoint_path(folder, 2))],
    )
    names = [path.name[-1] for path in list_checkpoints(folder)]
    assert names == list("23")[-keep:]


def stop(self, batch):
    raise StoppedError


@pytest.mark.parametrize(
    "damaged, warned",
    [
        (b"\xff\xfe{}\n", True),
        (b'{"step": 1\n', True),
        (b"[1]\n{}\n", True),
        (b"", False),
    ],
)
def test_damaged_rows_of_the_log_are_dropped_and_counted(tmp_path, damaged, warned, recwarn):
    path = tmp_path / "metrics.jsonl"
    good, late = b'{"step": 1, "loss": 2.5}\n', b'{"step": 3}\n'
    path.write_bytes(damaged + good + late + b'{"step": 2, "lo')  # the last row is cut off
    Log(tmp_path, 2, []).close()
    assert path.read_bytes() == good
    assert [str(w.message) for w in recwarn if "cannot be read" in str(w.message)] or not warned


def test_log_is_replaced_as_a_whole_on_resuming(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')

    def die(self, target):
        raise StoppedError

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(StoppedError):
        Log(tmp_path, 1, [])
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


# --- Streams -------------------------------------------------------------------------------------


class Microphone:
    """A stream that ends by Ctrl-C after so many samples."""

    def __init__(self, samples, output=None):
        self.left, self.output, self.seen = samples, output, []

    def read(self, size):
        if self.output and self.output.exists():
            self.seen.append(self.output.read_text().count("\n"))
        if self.left <= 0:
            raise KeyboardInterrupt
        self.left -= size // 2
        return np.random.default_rng(0).integers(-900, 900, size // 2).astype("<i2").tobytes()


@pytest.mark.torture(31, "Ctrl-C of a stream whose scores are written")
@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "txt"])
def test_scores_of_a_stream_that_is_ended_are_kept(
    model_folder, tmp_path, monkeypatch, happened, suffix
):
    output = tmp_path / f"x.{suffix}"
    microphone = Microphone(16_000 * 3, output)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=microphone))
    options = ["--stdin-pcm", "16000", "--windows", "0.5", "--prompts", "angry", "calm"]
    arguments = [str(model_folder), *options, "-o", str(output)]
    assert cli.run(lambda: predict.main(arguments), "predict.py") == 0
    text = output.read_text()
    rows = {
        "csv": lambda: len(pd.read_csv(output)),
        "json": lambda: len(json.loads(text)),
        "jsonl": lambda: len([json.loads(line) for line in text.splitlines()]),
        "txt": lambda: len(text.splitlines()) - 2,
    }[suffix]()
    assert rows == 6 and microphone.seen[-1] >= 5, "each row is written before the next is read"
    happened("every window is written")


RUN = "import sys, paraclap.cli; sys.exit(paraclap.cli.run(lambda: {}, 'x.py'))"
PRINTING = {
    "long": ["-c", RUN.format("print('x' * 10**6) or 0")],
    "--help": ["evaluate.py", "--help"],
    "templates": ["preprocessing/template_creation.py", "--dump-templates"],
    "corpora": ["-m", "paraclap.corpora"],
    "error": ["predict.py", "absent", "a.wav", "--prompts", "x"],
}


@pytest.mark.torture(31, "standard output that is closed, full, or that nobody reads")
@pytest.mark.parametrize("printing", PRINTING)
@pytest.mark.parametrize("output", ["pipe", "full", "closed"])
def test_output_that_cannot_be_written_ends_a_command_without_a_traceback(printing, output):
    command = [sys.executable, *PRINTING[printing]]
    if output == "closed":
        command = ["sh", "-c", 'exec "$@" >&- <&-', "sh", *command]
    with open("/dev/full", "w") as full:
        stdout = full if output == "full" else subprocess.PIPE
        process = subprocess.Popen(
            command, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        if output == "pipe":
            process.stdout.close()
        message = process.communicate()[1]
    assert "Traceback" not in message and "Exception ignored" not in message, message
    if printing == "error":
        assert process.returncode == 1 and "absent does not exist" in message
    elif printing == "--help":
        assert process.returncode == 0  # argparse ignores errors of writing
    else:
        assert process.returncode == {"pipe": 141, "full": 1, "closed": 0}[output]
        assert ("cannot be written: No space" in message) == (output == "full")


def test_both_outputs_may_be_closed():
    code = RUN.format("[print('x' * 10**6, file=f) for f in (sys.stderr, sys.stdout)]")
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=REPOSITORY,
    )
    process.stdout.close()
    assert process.wait() == 141


def test_errors_of_other_files_keep_their_traceback():
    def main():
        raise BrokenPipeError("of a worker")

    with pytest.raises(BrokenPipeError, match="of a worker"):
        cli.run(main, "x.py")


@pytest.mark.torture(31, "disk full while the scores of a stream are written")
def test_full_disk_ends_a_stream_in_one_sentence(
    model_folder, tmp_path, monkeypatch, capsys, happened
):
    (tmp_path / "x.csv").symlink_to("/dev/full")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=Microphone(16_000 * 3)))
    options = ["--stdin-pcm", "16000", "--windows", "0.5", "--prompts", "angry", "calm"]
    arguments = [str(model_folder), *options, "-o", str(tmp_path / "x.csv")]
    assert cli.run(lambda: predict.main(arguments), "predict.py") == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.endswith("x.csv cannot be written: No space left on device")
    happened(message.rpartition("/")[2])


# --- Caches --------------------------------------------------------------------------------------


def full_disk(monkeypatch):
    def write(*_):
        raise OutputError("cache cannot be written: No space left on device")

    monkeypatch.setattr(embedding_cache, "write_bytes", write)


def odd_files(folder):
    (folder / "folder.safetensors").mkdir(parents=True)
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "text.safetensors").write_text("not ours")
    for tensors in ({"x": np.ones(3)}, {"keys": np.zeros((2, 32)), "embeddings": np.ones(2)}):
        content = save(tensors)
        (folder / f"{hashlib.sha256(content).hexdigest()}.safetensors").write_bytes(content)


@pytest.mark.torture(31, "cache of embeddings that cannot be written or read")
@pytest.mark.parametrize("fault", ["a file", "full disk", "odd files", "no home"])
def test_evaluation_goes_on_without_an_embedding_cache(
    fault, model_folder, corpus, tmp_path, monkeypatch
):
    cache, results = tmp_path / "cache", tmp_path / "results"
    options = ["--cache", str(cache)]
    parts = load_model(model_folder)
    match fault:
        case "a file":
            cache.write_text("")
        case "full disk":
            full_disk(monkeypatch)
        case "odd files":
            odd_files(cache / embedding_cache.audio_fingerprint(*parts)[:32])
        case "no home":
            options = []
            for name in ("HOME", "XDG_CACHE_HOME", "PARACLAP_CACHE"):
                monkeypatch.delenv(name, raising=False)
            monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    command = [str(model_folder), str(corpus), "--split", "dev", "-o", str(results), *options]
    with pytest.warns(UserWarning, match="embedding cache: ") as caught:
        assert evaluate.main(command) == 0
    assert len(caught) == (5 if fault == "odd files" else 1)
    assert (results / "scores.yaml").is_file()


def test_leftovers_in_a_cache_of_embeddings_are_removed_unless_it_is_written_to(tmp_path):
    DiskEmbeddingCache(tmp_path, "model").add([bytes(DIGEST_BYTES)], torch.ones(1, 3))
    leftover = tmp_path / "model" / f".x.safetensors.{'0' * 32}.tmp"
    leftover.touch()
    with lock(tmp_path / "model", shared=True):
        assert len(DiskEmbeddingCache(tmp_path, "model")) == 1 and leftover.exists()
    assert len(DiskEmbeddingCache(tmp_path, "model")) == 1
    assert [path.suffix for path in (tmp_path / "model").iterdir()] == [".safetensors"]


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(
    "place",
    [
        *("paraclap.training.config.read_settings", "paraclap.distributed.device_named"),
        *("paraclap.training.loop.load_state", "paraclap.training.data.cache_waveforms"),
        *("paraclap.training.learner.build_model", "paraclap.training.loop.pretrain_text"),
        *("paraclap.training.loop._log", "paraclap.training.loop._description"),
    ],
)
def test_signal_before_the_first_step_asks_for_a_requeue(
    config, tmp_path, monkeypatch, capsys, place, number
):
    module, _, name = place.rpartition(".")
    original = getattr(importlib.import_module(module), name)

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), number)
        return original(*arguments, **options)

    arguments = [config, f"data.waveform_cache={tmp_path / 'cache'}", "text_pretraining.steps=2"]
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{name}", interrupted)
        assert cli.run(lambda: train.main(arguments), "train.py") == 75
    assert f"train.py: {number.name}: " in capsys.readouterr().err
    if place.endswith("build_model"):
        assert cli.run(lambda: train.main([*arguments, "train.max_steps=1"]), "train.py") == 0


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


@pytest.mark.parametrize(
    "column, values, message",
    [
        ("file", pa.array(range(20)), "file holds int64, expected texts"),
        ("file", pa.array([["a"]] * 20), "file holds list.*expected texts"),
        ("start", pa.array(["0"] * 20), "start holds string, expected durations"),
        ("end", pa.array([1.0] * 20), "end holds double, expected durations"),
        ("note", pa.array(["a"] * 20, pa.string_view()), "note holds string_view, expected texts"),
        ("corpus", pa.array([float("nan")] * 20), None),
        ("Duration", pa.array([2**63 + row for row in range(20)], pa.uint64()), None),
        ("emotion", pa.array([1.5] * 20), None),
        ("quality", pa.array([1.5] * 20), None),
    ],
)
def test_columns_of_other_types_are_used_or_named(tmp_path, capsys, column, values, message):
    table = pa.Table.from_pandas(make_corpus(20)).replace_schema_metadata(None)
    place = table.schema.get_field_index(column)
    table = (
        table.append_column(column, values)
        if place < 0
        else table.set_column(place, column, values)
    )
    pq.write_table(table, tmp_path / "f.parquet")
    code = run_captions(tmp_path / "f.parquet", "-o", tmp_path / "c.parquet")
    assert code == (message is not None)
    assert message is None or re.search(message, capsys.readouterr().err.splitlines()[-1])


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


# --- Rewrites of captions ------------------------------------------------------------------------

ECHO = "import sys\nfor line in sys.stdin: print('indeed', line, end='', flush=True)"
COUNTED = """
import pathlib, sys
runs = pathlib.Path({runs!r})
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
if len(runs.read_text()) == {fault}:
    {action}
for line in sys.stdin: print("indeed", line, end="")
"""


def rewriting(folder, text, *options, name="program.py"):
    """Run template_creation.py with a program; return its code and the file of answers."""
    features = write_table(make_corpus(20), folder / "f.parquet")
    (folder / name).write_text(text)
    command = f"{sys.executable} {folder / name}"
    code = run_captions(features, "-o", folder / "c.parquet", "--rewrite", command, *options)
    return code, folder / "c.rewrites.jsonl"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os; os._exit(3)", "ended with code 3"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9"),
        ("raise SystemExit", "returned no lines for 64, expected one for each"),
        ("import sys; sys.stdin.read(); print('one')", "returned 1 lines for 64"),
        (ECHO + "\nprint('more')", "returned 65 lines for 64"),
        ("import os; os.write(1, b'\\xff\\n' * 64)", "returned text that is not UTF-8"),
        ("while True: print('y' * 1000)", "returned more than 1 MiB"),
        ("import time; time.sleep(60)", "took longer than 1 s"),
        (ECHO + "\nimport time; time.sleep(60)", "took longer than 1 s"),
        ("import os, time\nif os.fork() == 0: time.sleep(60)", "took longer than 1 s"),
        ("import os, time; os.close(1); time.sleep(60)", "took longer than 1 s"),
    ],
)
def test_a_program_that_fails_ends_in_one_sentence(tmp_path, capsys, text, message):
    start = time.monotonic()
    code, cache = rewriting(tmp_path, text, "--rewrite-timeout", 1)
    assert code == 1 and time.monotonic() - start < 30
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("template_creation.py: --rewrite: ") and message in error
    assert "no answers are kept; the same command goes on from there" in error
    assert not cache.exists() and not (tmp_path / "c.parquet").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("/no/such/program", "'/no/such/program' cannot be run: No such file or directory"),
        ("/", "'/' cannot be run: Permission denied"),
        ("'a", "No closing quotation"),
        ("  ", "--rewrite is empty"),
        ("a\0b", "cannot be run: embedded null byte"),
    ],
)
def test_a_program_that_cannot_be_started_is_named(tmp_path, capsys, command, message):
    features = write_table(make_corpus(20), tmp_path / "f.parquet")
    assert run_captions(features, "-o", tmp_path / "c.parquet", "--rewrite", command) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert run_captions(features, "--rewrite", "cat", "--preview", 1) == 1
    assert "--rewrite requires -o" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["raise SystemExit(1)", "import os; os.kill(os.getppid(), 9)"])
def test_rewriting_goes_on_where_it_stopped(tmp_path, action):
    runs = tmp_path / "runs"
    text = COUNTED.format(runs=str(runs), fault=2, action=action)
    (tmp_path / "program.py").write_text(text)
    features = write_table(make_corpus(20), tmp_path / "f.parquet")
    script = [sys.executable, REPOSITORY / "preprocessing" / "template_creation.py", features]
    script += ["-o", tmp_path / "c.parquet", "--rewrite"]
    command = f"{sys.executable} {tmp_path / 'program.py'}"
    first = subprocess.run([*script, command], capture_output=True, check=False, timeout=100)
    assert first.returncode == (1 if "Exit" in action else -9), first.stderr.decode()
    cache = tmp_path / "c.rewrites.jsonl"
    kept = cache.read_text().splitlines()
    assert len(kept) == 64 and not (tmp_path / "c.parquet").exists()
    if "Exit" in action:
        assert f"ended with code 1; 64 answers are kept in {cache}" in first.stderr.decode()
    code, _ = rewriting(tmp_path, text)
    lines = cache.read_text().splitlines()
    assert code == 0 and lines[:64] == kept and len(runs.read_text()) == 3
    whole = (tmp_path / "c.parquet").read_bytes()
    (tmp_path / "c.parquet").unlink()
    cache.unlink()
    assert rewriting(tmp_path, text)[0] == 0 and (tmp_path / "c.parquet").read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]\n", b"\xff", b'{"command": "a", "seed": 0, "phrase": "b", "rewrite": 3}\n',
     b'{"command": "a", "seed": "x", "phrase": "b", "rewrite": ""}\n', b"[" * 100_000],
)  # fmt: skip
def test_a_damaged_file_of_rewrites_is_named_and_kept(tmp_path, capsys, content):
    cache = tmp_path / "c.rewrites.jsonl"
    cache.write_bytes(content)
    assert rewriting(tmp_path, ECHO)[0] == 1
    assert str(cache) in capsys.readouterr().err.splitlines()[-1]
    assert cache.read_bytes() == content


def test_two_runs_do_not_write_one_file_of_rewrites(tmp_path, capsys):
    with lock(tmp_path / "c.rewrites.jsonl"):
        assert rewriting(tmp_path, ECHO)[0] == 1
    assert "c.rewrites.jsonl" in capsys.readouterr().err.splitlines()[-1]
