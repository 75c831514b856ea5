import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import opensmile
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile

from paraclap.acoustics import backends, merge, worker_pool
from paraclap.cli import features
from paraclap.corpora import CorpusError, table
from paraclap.files import OutputError

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("PARACLAP_DATA", "../shared/data"))
PITCH = "F0semitoneFrom27.5Hz_sma3nz_amean"


@pytest.fixture
def folder(tmp_path, voice) -> Path:
    root = tmp_path / "clips"
    root.mkdir()
    for number in range(4):
        signal_ = voice(0.6, f0=100 + 40 * number, seed=number)
        soundfile.write(root / f"good{number}.wav", signal_, 16_000)
    return root


def spoil(root: Path) -> dict[str, str]:
    """Add one bad clip of each kind to a folder and return file -> expected error."""
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
    soundfile.write(root / "bad_nan.wav", np.append(noise, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(root / "bad_short.wav", noise[:959], 16_000)
    soundfile.write(root / "bad_silent.wav", np.zeros(16_000), 16_000)
    (root / "bad_page.wav").write_text("<html>not found</html>")
    os.mkfifo(root / "bad_pipe.wav")
    return {
        "bad_nan.wav": "non_finite",
        "bad_page.wav": "html",
        "bad_pipe.wav": "not_regular",
        "bad_short.wav": "too_short",
        "bad_silent.wav": "silent",
    }


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, REPOSITORY / "features.py", *map(str, arguments)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment)


def measured(source: object, output: Path, *options: object) -> pd.DataFrame:
    arguments = [source, "-o", output, "--workers", 1, "--max-reject", 0.99, *options]
    assert features.main([str(argument) for argument in arguments]) == 0
    return pd.read_parquet(output)


def listed(output: Path, listing: str = "errors") -> pd.DataFrame:
    return pd.read_csv(merge.beside(output, f"{listing}.csv"), dtype=str, keep_default_na=False)


# --- Values --------------------------------------------------------------------------------------


def test_values_are_those_of_opensmile_itself(folder, tmp_path):
    found = measured(folder, tmp_path / "f.parquet")
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    names = [name for name in found if name in smile.feature_names]
    assert len(names) == 88 and (found["Duration"] == 0.6).all()
    for file in ("good0.wav", "good2.wav"):
        expected = smile.process_file(str(folder / file))[names].iloc[0]
        values = found.loc[file, names].iloc[0].astype("float32")
        undefined = values.isna()
        assert undefined.sum() < 44 and (expected[undefined] == 0).all()
        np.testing.assert_array_equal(values[~undefined], expected[~undefined])


def test_bad_clips_are_listed_with_reasons_and_change_no_other_clip(folder, tmp_path):
    alone = measured(folder, tmp_path / "alone.parquet")
    reasons = spoil(folder)
    for workers in (1, 3):
        output = tmp_path / f"{workers}.parquet"
        found = measured(folder, output, "--workers", workers, "--chunk", 2)
        pd.testing.assert_frame_equal(found, alone, check_exact=True)
        assert not any(worker_pool._IDLE.values()), "workers end with the run"
        errors = listed(output)
        assert dict(zip(errors["file"], errors["error"], strict=True)) == reasons
        assert len(found) + len(errors) == len(table.read_corpus(folder))
        assert errors["message"].str.len().gt(0).all() and not found[merge.QUALITY].any()


def test_link_to_a_file_outside_of_the_root_is_rejected(folder, tmp_path, voice):
    soundfile.write(tmp_path / "secret.wav", voice(0.3), 16_000)
    (folder / "link.wav").symlink_to(tmp_path / "secret.wav")
    measured(folder, tmp_path / "f.parquet")
    assert listed(tmp_path / "f.parquet")["error"].tolist() == ["outside_root"]


def test_column_named_like_a_feature_is_rejected_before_measuring(folder, tmp_path):
    rows = pd.DataFrame({"file": ["good0.wav"], "Duration": [1.0]})
    rows.to_csv(folder / "table.csv", index=False)
    with pytest.raises(CorpusError, match=r"\['Duration'\], which are names of features"):
        features.main([str(folder / "table.csv"), "-o", str(tmp_path / "f.parquet")])
    assert not list(tmp_path.glob("f.*"))


def test_labels_and_segments_keep_their_types_and_order(folder, tmp_path):
    rows = pd.DataFrame(
        {
            "file": ["good3.wav", "good1.wav", "good1.wav", "gone.wav"],
            "start": [0.0, 0.1, 0.3, 0.0],
            "end": [None, 0.3, 0.5, None],
            "emotion": ["anger", "NA", "001", None],
            "age": [30, 40, 50, 60],
            "arousal": [0.5, None, -0.5, 0.1],
        }
    )
    rows.to_csv(folder / "table.csv", index=False)
    found = measured(folder / "table.csv", tmp_path / "f.parquet")
    labels = table.read_corpus(folder / "table.csv").iloc[:3]
    pd.testing.assert_frame_equal(found[labels.columns], labels, check_index_type=False)
    assert list(found.columns[:4]) == ["emotion", "age", "arousal", merge.QUALITY]
    assert found["Duration"].tolist() == pytest.approx([0.6, 0.2, 0.2])


def test_changed_labels_need_no_new_measurement(folder, tmp_path, capsys):
    for emotion in ("anger", "joy"):
        rows = pd.DataFrame({"file": ["good0.wav", "good1.wav"], "emotion": emotion})
        rows.to_csv(folder / "table.csv", index=False)
        found = measured(folder / "table.csv", tmp_path / "f.parquet")
        assert found["emotion"].tolist() == [emotion] * 2
    assert capsys.readouterr().out.count("0 chunks measured, 1 reused") == 1


def test_long_files_become_rows_of_equal_length(tmp_path, voice):
    root = tmp_path / "clips"
    root.mkdir()
    with soundfile.SoundFile(root / "long.flac", "w", 16_000, 1) as file:
        file.write(voice(1.0))
        for _ in range(11):
            file.write(np.zeros(60 * 16_000))
        file.write(voice(1.0, f0=200.0))
    (root / "table.csv").write_text("file,emotion\nlong.flac,joy\n")
    refused = ["--feature-set", "captions", "--workers", "1"]
    output = tmp_path / "f.parquet"
    assert features.main([str(root / "table.csv"), "-o", str(output), *refused]) == 1
    assert listed(output)["error"].tolist() == ["too_long"]
    found = measured(root / "table.csv", output, *refused, "--split-long", 15)
    seconds = found.index.get_level_values("end") - found.index.get_level_values("start")
    assert len(found) == 2 and found["emotion"].tolist() == ["joy", "joy"]
    assert found["Duration"].tolist() == pytest.approx([662 / 45] * 2, abs=1e-4)
    assert seconds.total_seconds().tolist() == pytest.approx([662 / 45] * 2, abs=1e-6)
    assert len(listed(output)) == 43 and set(listed(output)["error"]) == {"silent"}


def test_clips_with_equal_samples_are_reported_across_splits(folder, tmp_path, capsys):
    samples, rate = soundfile.read(folder / "good0.wav", dtype="int16")
    soundfile.write(folder / "copy.flac", samples, rate)
    rows = "file,split\ngood0.wav,train\ngood1.wav,train\ncopy.flac,test\n"
    (folder / "table.csv").write_text(rows)
    measured(folder / "table.csv", tmp_path / "f.parquet")
    twins = listed(tmp_path / "f.parquet", "duplicates")
    assert dict(zip(twins["file"], twins["split"], strict=True)) == {
        "good0.wav": "train",
        "copy.flac": "test",
    }
    printed = capsys.readouterr().err
    assert (
        "2 clips have the same samples as another clip, 2 of them as a clip of another" in printed
    )


# --- Files and exit codes ------------------------------------------------------------------------


def test_script_writes_features_errors_and_exit_codes(folder, tmp_path):
    output, listing = tmp_path / "out" / "f.parquet", tmp_path / "out" / "f.errors.csv"
    page = folder / "page.wav"
    page.write_text("<html></html>")
    failed = run(folder, "-o", output, "--workers", 1)
    assert failed.returncode == 1 and "1 html" in failed.stderr and "clip/s" not in failed.stderr
    first = output.read_bytes()
    assert list(listed(output).columns) == merge.ERROR_COLUMNS
    assert listed(output)[["file", "stage", "error"]].to_numpy().tolist() == [
        ["page.wav", "read", "html"]
    ]
    assert run(folder, "-o", output, "--workers", 2, "--max-reject", 0.2).returncode == 0
    assert output.read_bytes() == first, "the number of workers must not change the file"
    assert listing.exists()
    page.unlink()
    assert features.main([str(folder), "-o", str(output), "--workers", "1"]) == 0
    assert not listing.exists(), "an outdated list of failures must be removed"
    assert sorted(path.name for path in output.parent.iterdir()) == ["f.parquet", "f.parts"]


def test_metadata_describes_the_features_and_not_the_run(folder, tmp_path):
    measured(folder, tmp_path / "f.parquet", "--feature-set", "captions", "--workers", 2)
    about = json.loads(pq.read_schema(tmp_path / "f.parquet").metadata[b"paraclap"])
    assert about["feature_set"] == "captions" and about["sampling_rate"] == 16_000
    assert about["opensmile"] == opensmile.__version__ and about["root"] == str(folder)
    assert not {"workers", "backend", "date", "host"} & set(about)


def test_run_without_any_measured_clip_fails(tmp_path):
    (tmp_path / "a.wav").write_text("<html></html>")
    arguments = [str(tmp_path), "-o", str(tmp_path / "f.parquet"), "--workers", "1"]
    assert features.main([*arguments, "--max-reject", "1"]) == 1
    assert len(pd.read_parquet(tmp_path / "f.parquet")) == 0


@pytest.mark.parametrize(
    "options", ["--shard 0/3", "--shard 4/3", "--shard x", "--workers 0", "--max-reject 2"]
)
def test_impossible_options_are_rejected(options, capsys):
    with pytest.raises(SystemExit):
        features.parse_arguments(["x", "-o", "f.parquet", *options.split()])
    assert "must be" in capsys.readouterr().err


def test_output_that_is_not_utf_8_is_rejected(capsys):
    with pytest.raises(SystemExit):
        features.parse_arguments(["x", "-o", "\udcff.parquet"])
    assert "\\xff.parquet' is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["x", "-o", "f.parquet", "--worker"]])
def test_help_and_wrong_options_import_no_slow_library(arguments):
    code = (
        "import sys; from paraclap.cli import features\n"
        "try: features.main(sys.argv[1:])\n"
        "except SystemExit: print(*{'pandas', 'opensmile', 'torch'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, *arguments]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == ""


def test_command_line_offers_every_backend():
    assert tuple(backends.BACKENDS) == features.BACKENDS


def test_output_folder_that_cannot_be_created_is_an_error(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be created: Not a directory"):
        features.main([str(folder), "-o", str(tmp_path / "file" / "f.parquet")])


# --- Shards, interruption, merging ---------------------------------------------------------------


def test_shards_and_small_groups_give_the_same_bytes(toy, tmp_path, capsys, monkeypatch):
    whole, shards = tmp_path / "whole.parquet", tmp_path / "shards.parquet"
    options = ["--feature-set", "captions", "--chunk", 4]
    measured(toy, whole, *options)
    for shard in ("2/3", "1/3", "3/3"):
        arguments = [toy, "-o", shards, *options, "--workers", 1, "--shard", shard]
        assert features.main([str(argument) for argument in arguments]) == 0
        assert not shards.exists(), "shards do not merge"
    capsys.readouterr()
    measured(toy, shards, *options)
    assert ": 0 chunks measured" in capsys.readouterr().out
    assert shards.read_bytes() == whole.read_bytes()
    monkeypatch.setattr(merge, "GROUP_ROWS", 7)
    pd.testing.assert_frame_equal(measured(toy, shards, *options), pd.read_parquet(whole))


def chunk_times(output: Path) -> dict[str, int]:
    folder = merge.beside(output, "parts")
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*.parquet")}


def kill_at(
    command: list[str],
    environment: dict[str, str],
    output: Path,
    enough: int | None = None,
    seconds: float = 120.0,
) -> None:
    """Start a run and kill -9 it after so many chunks, or after a time."""
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if enough is not None and len(chunk_times(output)) >= enough:
            break
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the kill must have hit a running process"


def test_killed_runs_end_in_the_same_bytes_and_measure_no_chunk_twice(
    toy, tmp_path, faulty_decoder
):
    environment = {**os.environ, "PYTHONPATH": faulty_decoder, "SECONDS_A_CLIP": "0.15"}
    whole, killed = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    options = ["--feature-set", "captions", "--chunk", "4", "--workers", "2"]
    measured(toy, whole, *options)
    command = [sys.executable, str(REPOSITORY / "features.py"), str(toy), "-o", str(killed)]
    before: dict[str, int] = {}
    for more in (1, 2):
        kill_at([*command, *options], environment, killed, enough=len(before) + more)
        now = chunk_times(killed)
        assert before.items() <= now.items() and len(now) > len(before)
        before = now
    assert len(before) < len(chunk_times(whole)), "it must have been killed in the middle"
    measured(toy, killed, *options)
    assert killed.read_bytes() == whole.read_bytes()
    assert before.items() <= chunk_times(killed).items(), "finished chunks must not be touched"
    assert chunk_times(killed).keys() == chunk_times(whole).keys()


@pytest.mark.slow
def test_ten_kills_on_real_corpora_change_no_byte(tmp_path):
    if not (DATA / "ravdess").is_dir() or not (DATA / "emodb").is_dir():
        pytest.skip(f"no corpora in {DATA}")
    root = DATA.resolve()
    whole, killed = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    options = ["--feature-set", "captions", "--workers", "2"]
    measured(root, whole, *options)
    command = [sys.executable, str(REPOSITORY / "features.py"), str(root), "-o", str(killed)]
    moments = random.Random(7)
    before: dict[str, int] = {}
    for _ in range(10):
        kill_at([*command, *options], dict(os.environ), killed, seconds=moments.uniform(2, 7))
        now = chunk_times(killed)
        assert before.items() <= now.items()
        before = now
    assert 0 < len(before) < len(chunk_times(whole))
    measured(root, killed, *options)
    assert killed.read_bytes() == whole.read_bytes()
    assert before.items() <= chunk_times(killed).items()
