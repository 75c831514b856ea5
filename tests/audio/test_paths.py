"""Names that are not regular files inside their root."""

import os

import pytest
from audio_files import reason_of, tone, write

from paraclap.audio import AudioError
from paraclap.audio.paths import resolve_inside


def test_names_that_are_not_regular_files_have_a_reason_and_never_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "dangling.wav").symlink_to("nowhere.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    reasons = {
        "pipe.wav": "not_regular",
        "folder.wav": "directory",
        "dangling.wav": "dangling_link",
        "loop.wav": "looping_link",
        "missing.wav": "missing",
        "x" * 300: "name",
        "a\0b.wav": "name",
    }
    assert {name: reason_of(f"{tmp_path}/{name}") for name in reasons} == reasons


@pytest.mark.parametrize(
    "file, reason",
    [
        ("../a.wav", "outside_root"),
        ("b/../../a.wav", "outside_root"),
        ("/etc/hosts", "outside_root"),
        ("link.wav", "outside_root"),
        ("a\0.wav", "name"),
        ("", "name"),
    ],
)
def test_names_that_leave_the_root_are_refused(tmp_path, file, reason):
    root = tmp_path / "root"
    root.mkdir()
    write(tmp_path / "a.wav", tone())
    (root / "link.wav").symlink_to(tmp_path / "a.wav")
    with pytest.raises(AudioError) as caught:
        resolve_inside(root, file)
    assert caught.value.reason == reason


def test_names_inside_the_root_are_resolved(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    assert resolve_inside(tmp_path / "link", "b/ü, $(id).wav").parent == tmp_path / "b"
