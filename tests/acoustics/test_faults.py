"""A kill -9 or a full disk at any change of the file system costs no row and leaves no trace."""

import shutil
import signal

import pytest
import soundfile
from fault_injection import run

from paraclap.cli import features

OPTIONS = ["--feature-set", "captions", "--workers", "1", "--chunk", "1", "--max-reject", "1"]


def folder_content(folder):
    """Return file -> bytes of a folder, without the bytes of chunks."""
    return {
        path.name: b"" if path.name.startswith("part-") else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def corpus(tmp_path, voice):
    """Three clips, two of them equal, and a fourth that cannot be read."""
    root = tmp_path / "clips"
    root.mkdir()
    for number in range(3):
        soundfile.write(root / f"{number}.wav", voice(0.2, f0=100.0 + 50 * (number // 2)), 16_000)
    (root / "page.wav").write_text("<html>")
    return root


@pytest.mark.slow
@pytest.mark.torture(5, "kill -9 or a full disk at each change of a feature merge")
@pytest.mark.parametrize("fault", ["kill", "full"])
@pytest.mark.parametrize("state", ["first run", "later run"])
def test_repeated_command_gives_the_same_files(corpus, tmp_path, happened, fault, state):
    output, before = tmp_path / "out", tmp_path / "before"
    arguments = [corpus, "-o", output / "f.parquet", *OPTIONS]
    output.mkdir()
    if state == "later run":  # other clips, and lists of failures and duplicates that go
        assert run(features.main, arguments, output).code == 0
        for name in ("1.wav", "page.wav"):
            (corpus / name).unlink()
    output.rename(before)

    def start(*fault):
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(before, output)
        return run(features.main, arguments, output, *fault)

    whole = start()
    expected = folder_content(output)
    assert whole.code == 0 and len(expected) == (7 if state == "first run" else 3)
    allowed = {expected["f.parquet"], folder_content(before).get("f.parquet")}
    for at in range(len(whole.changes)):
        ended = start(fault, at)
        assert ended.changes[at].split()[0] == whole.changes[at].split()[0]
        if fault == "kill":
            assert ended.code == -signal.SIGKILL
        else:
            assert ended.code in (0, 1) and "Traceback" not in ended.errors
        assert folder_content(output).get("f.parquet") in allowed
        assert run(features.main, arguments, output).code == 0
        assert folder_content(output) == expected, whole.changes[at]
    happened(f"{state}: {len(whole.changes)} of {len(whole.changes)} repeated with the same files")
