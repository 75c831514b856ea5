"""Recordings in shards are read like the files that they were made of; bad shards are refused."""

import io
import json
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest
from audio_files import babble, write

from paraclap.audio import AudioError, shards
from paraclap.audio.paths import hash_audio, mark_of, resolve_inside
from paraclap.audio.reading import read_audio
from paraclap.audio.recordings import Files
from paraclap.audio.waveform_cache import cache_waveforms
from paraclap.inference.index import file_mark

FILES = ("a.wav", "b/c.flac", "d.mp3", "stereo.ogg")


def pack(path, members):
    """Write a tar file of names and contents."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def both(tmp_path):
    """Folders of the same recordings, as files and in two shards."""
    root, packed = tmp_path / "files", tmp_path / "packed"
    packed.mkdir()
    for number, file in enumerate(FILES):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        sound = babble(2.0, 44_100, number)
        write(
            root / file, np.stack([sound, -0.3 * sound], 1) if "stereo" in file else sound, 44_100
        )
    contents = {file: (root / file).read_bytes() for file in FILES}
    pack(packed / "0.tar", {"./b/c.json": b"{}", **dict(list(contents.items())[:2])})
    pack(packed / "1.tar", dict(list(contents.items())[2:]))
    return root, packed


@pytest.mark.parametrize("file", FILES)
def test_recording_in_a_shard_is_read_like_a_file(both, file):
    files, packed = map(Files, both)
    assert packed.seconds(file) == files.seconds(file)
    np.testing.assert_array_equal(packed.read(file), files.read(file))
    crops = [r.crop(file, 0.2, None, 0.5, 0.3) for r in (files, packed)]
    np.testing.assert_array_equal(*crops)
    assert packed.hash(file) == files.hash(file)
    paths = [resolve_inside(root, file) for root in both]
    assert mark_of(paths[0])[0] == mark_of(paths[1])[0]
    assert str(paths[1]).endswith(f".tar/{file}")
    pickle.loads(pickle.dumps(packed)).read(file)


def test_recordings_in_shards_are_cached_like_files(both, tmp_path):
    caches = [cache_waveforms(tmp_path / f"cache{n}", root, FILES) for n, root in enumerate(both)]
    for file in FILES:
        np.testing.assert_array_equal(*(cache.read(file) for cache in caches))
    again = cache_waveforms(tmp_path / "cache1", both[1], FILES)
    assert again.hash("a.wav") == hash_audio(both[0] / "a.wav")


def test_index_is_written_once_and_again_after_a_change(both, monkeypatch):
    _, packed = both
    calls = []
    original = shards._recordings
    monkeypatch.setattr(shards, "_recordings", lambda path: calls.append(path) or original(path))
    assert shards.read_index(packed)["file"].to_pylist() == sorted(FILES)
    shards.read_index(packed)
    assert len(calls) == 2
    (packed / shards.INDEX).write_bytes((packed / shards.INDEX).read_bytes()[:-50])
    shards.read_index(packed)
    assert len(calls) == 4


@pytest.mark.torture(70, "index of shards older than a shard")
def test_an_older_index_is_not_used(both, happened):
    root, packed = both
    before = Files(packed).read("a.wav")
    state = os.stat(packed / "0.tar")
    other = write(root / "a.wav", babble(1.0, seed=9))
    pack(packed / "new", {"first.wav": before.tobytes(), "a.wav": other.read_bytes()})
    (packed / "new").replace(packed / "0.tar")
    os.utime(packed / "0.tar", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    np.testing.assert_array_equal(Files(packed).read("a.wav"), read_audio(other))
    happened("indexed again")


@pytest.mark.torture(70, "shard written to while it is read")
def test_a_shard_that_changes_in_place_is_refused(both, happened):
    _, packed = both
    Files(packed).read("a.wav")
    with open(packed / "0.tar", "r+b") as handle:
        handle.write(b"x")
    with pytest.raises(AudioError, match="was written to while it was read") as error:
        Files(packed).read("a.wav")
    assert file_mark(resolve_inside(packed, "a.wav")) == ("", -1)
    happened(str(error.value.reason))


def test_folder_that_may_not_be_written_is_indexed_in_memory(both, monkeypatch):
    _, packed = both
    monkeypatch.setattr(shards.os, "access", lambda *_: False)
    with pytest.warns(UserWarning, match="its index is not kept"):
        assert Files(packed).seconds("a.wav") == 2.0
    assert not (packed / shards.INDEX).exists()


def test_tar_files_beside_audio_are_no_shards(both):
    root, packed = both
    shutil.copy(packed / "0.tar", root)
    assert not shards.shards_of(root)
    with pytest.raises(AudioError, match="does not exist"):
        Files(root).read("e.wav")
    assert not (root / shards.INDEX).exists()


def test_recording_has_the_name_in_its_json(tmp_path):
    (tmp_path / "x").mkdir()
    content = write(tmp_path / "x" / "a.wav", babble(1.0)).read_bytes()
    labels = json.dumps({"file": "v1.0/a.b.wav"}).encode()
    pack(tmp_path / "0.tar", {"a_b.wav": content, "a_b.json": labels, "notes.md": b"#"})
    shutil.rmtree(tmp_path / "x")
    assert Files(tmp_path).seconds("v1.0/a.b.wav") == 1.0


# --- Bad shards ----------------------------------------------------------------------------------

WAV = b"RIFF" + bytes(600)


def link(path, kind, name="a.wav", target="/etc/passwd"):
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        tar.addfile(member)


FAULTS = {
    "truncated in a member": (lambda f: cut(f, 700), "0.tar is truncated"),
    "truncated at a member": (lambda f: cut(f, 1536), "0.tar is truncated or damaged after 1536"),
    "truncated header": (lambda f: cut(f, 1800), "0.tar is truncated"),
    "no tar file": (lambda f: (f / "0.tar").write_bytes(b"<html>" * 999), "0.tar is truncated, or"),
    "compressed": (lambda f: gz(f), "0.tar is truncated, or no tar file"),
    "damaged header": (lambda f: flip(f), "0.tar is truncated or damaged after 1536 bytes"),
    "parent folder": (lambda f: pack(f / "0.tar", {"../a.wav": WAV}), r"'../a.wav' leaves"),
    "inner parent": (lambda f: pack(f / "0.tar", {"b/../../a.wav": WAV}), "a.wav' leaves"),
    "absolute": (lambda f: pack(f / "0.tar", {"/etc/a.wav": WAV}), r"'/etc/a.wav' leaves"),
    "absolute name": (
        lambda f: pack(f / "0.tar", {"a.wav": WAV, "a.json": b'{"file": "/etc/a"}'}),
        "'/etc/a' leaves",
    ),
    "symbolic link": (lambda f: link(f / "0.tar", tarfile.SYMTYPE), "'a.wav' is a link"),
    "hard link": (lambda f: link(f / "0.tar", tarfile.LNKTYPE), "'a.wav' is a link"),
    "device": (lambda f: link(f / "0.tar", tarfile.CHRTYPE), "'a.wav' is a link or device"),
    "key in two shards": (
        lambda f: pack(f / "1.tar", {"a.wav": WAV}),
        r"1.tar and .*0.tar both contain a.wav",
    ),
    "two recordings of a key": (
        lambda f: pack(f / "0.tar", {"a.wav": WAV, "a.flac": WAV}),
        "0.tar has two members a with audio",
    ),
    "no audio": (lambda f: pack(f / "0.tar", {"a.jpg": WAV}), "contain no audio"),
    "JSON of another kind": (
        lambda f: pack(f / "0.tar", {"a.wav": WAV, "a.json": b"[1]"}),
        "the JSON of a.wav is no object",
    ),
    "broken JSON": (
        lambda f: pack(f / "0.tar", {"a.wav": WAV, "a.json": b"{"}),
        "the JSON of a.wav cannot be read",
    ),
    "text that is not UTF-8": (
        lambda f: pack(f / "0.tar", {"a.wav": WAV, "a.txt": b"\xff"}),
        "a.txt is not UTF-8",
    ),
}


def cut(folder, size):
    content = (folder / "0.tar").read_bytes()
    (folder / "0.tar").write_bytes(content[:size])


def gz(folder):
    with tarfile.open(folder / "0.tar", "w:gz"):
        pass


def flip(folder):
    content = bytearray((folder / "0.tar").read_bytes())
    content[1540] ^= 1
    (folder / "0.tar").write_bytes(content)


@pytest.mark.torture(70, "bad shards")
@pytest.mark.parametrize("fault", FAULTS)
def test_bad_shards_are_refused_in_one_sentence(tmp_path, fault, happened):
    pack(tmp_path / "0.tar", {"a.wav": WAV, "b.wav": WAV})
    damage, message = FAULTS[fault]
    damage(tmp_path)
    with pytest.raises(AudioError, match=message) as error:
        shards.read_index(tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / shards.INDEX).exists()
    happened(str(error.value).replace(str(tmp_path), ""))


@pytest.mark.torture(70, "member of a shard that is no audio")
def test_member_that_is_no_audio_is_unreadable_like_a_file(tmp_path, happened):
    pack(tmp_path / "0.tar", {"a.wav": b"not found\n" * 100})
    with pytest.raises(AudioError) as error:
        Files(tmp_path).read("a.wav")
    assert error.value.reason == "text"
    happened(error.value.reason)


def test_bad_shards_are_read_once_for_all_recordings(tmp_path, monkeypatch):
    calls = []
    original = shards._recordings
    monkeypatch.setattr(shards, "_recordings", lambda path: calls.append(path) or original(path))
    pack(tmp_path / "0.tar", {"../a.wav": WAV})
    for file in ("a.wav", "b.wav", "c.wav"):
        with pytest.raises(AudioError, match="leaves"):
            shards.find_member(tmp_path, file)
    assert len(calls) == 1
