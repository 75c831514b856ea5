"""Index of clips: exact search, updates, interruptions, damage, other models."""

import itertools
import os
import signal

import numpy as np
import pytest
import soundfile
import torch

from paraclap import progress
from paraclap.audio.reading import read_audio
from paraclap.corpora.table import read_clips
from paraclap.inference import index as clip_index
from paraclap.inference import index_update
from paraclap.inference.api import ParaCLAP
from paraclap.inference.index import ClipIndex, ClipIndexError, check_model
from paraclap.inference.index_update import update_index
from paraclap.signals import Stopped


@pytest.fixture
def paraclap(tiny):
    return ParaCLAP(*tiny)


@pytest.fixture
def folder(tmp_path):
    """Nine short recordings."""
    rng = np.random.default_rng(8)
    (tmp_path / "audio").mkdir()
    for number in range(9):
        level = 0.05 * (number + 1)
        signal = rng.uniform(-level, level, 3_000 + 500 * number)
        soundfile.write(tmp_path / "audio" / f"{number}.wav", signal, 16_000)
    return tmp_path / "audio"


@pytest.fixture
def update(paraclap, folder, tmp_path):
    return lambda: update_index(tmp_path / "index", paraclap, "MODEL", read_clips([str(folder)]))


def audio_of(paraclap, index):
    """Embeddings of the clips of an index, one by one in float64."""
    paths = index.clips["root"] + "/" + index.clips["file"]
    return np.array([paraclap.embed_waveforms([read_audio(p)])[0] for p in paths], np.float64)


def chunk_files(tmp_path):
    return sorted(path.name for path in (tmp_path / "index" / "chunks").iterdir())


def test_search_is_exact_within_half_precision(paraclap, update, tmp_path, monkeypatch):
    monkeypatch.setattr(clip_index, "BLOCK_ROWS", 2)
    monkeypatch.setattr(index_update, "WRITTEN_ROWS", 4)
    monkeypatch.setattr(index_update, "CHUNK_ROWS", 4)
    assert update().embedded == 9
    index = ClipIndex(tmp_path / "index")
    assert len(index._chunks) > 1
    texts = paraclap.embed_text(["a calm voice", "anger", "the voice is loud"])
    expected = texts.astype(np.float64) @ audio_of(paraclap, index).T
    rows, cosines = index.search(texts, 4)
    for query in range(3):
        assert cosines[query] == pytest.approx(np.sort(expected[query])[::-1][:4], abs=1e-3)
        assert cosines[query] == pytest.approx(expected[query][rows[query]], abs=1e-3)


def test_equal_clips_keep_their_order_and_count_is_bounded(update, folder, tmp_path, paraclap):
    (folder / "copy.wav").write_bytes((folder / "4.wav").read_bytes())
    assert update().embedded == 9, "a copy is not embedded again"
    index = ClipIndex(tmp_path / "index")
    example = audio_of(paraclap, index)[list(index.clips["file"]).index("4.wav")]
    rows, cosines = index.search(example[None], 100)
    assert rows.shape == (1, 10) and sorted(rows[0]) == list(range(10))
    assert list(index.clips["file"].iloc[rows[0][:2]]) == ["4.wav", "copy.wav"]
    assert cosines[0][0] == cosines[0][1] == pytest.approx(1, abs=1e-3)


def test_update_embeds_new_and_changed_clips_and_removes_missing_ones(
    update, folder, tmp_path, paraclap
):
    update()
    assert update() == index_update.Update(clips=9)
    (folder / "0.wav").unlink()
    (folder / "1.wav").rename(folder / "renamed.wav")
    soundfile.write(folder / "2.wav", np.full(5000, 0.3), 16_000)
    soundfile.write(folder / "new.wav", np.full(6000, -0.2), 16_000)
    changed = update()
    assert (changed.clips, changed.embedded, changed.removed) == (9, 2, 2)
    index = ClipIndex(tmp_path / "index")
    rows, cosines = index.search(audio_of(paraclap, index), 1)
    assert cosines[:, 0] == pytest.approx(1, abs=1e-3), "each clip finds itself"
    assert len(chunk_files(tmp_path)) == 2, "small files are merged, obsolete ones removed"
    assert len(index._chunks[0]) == 9


def test_files_are_merged_until_full(update, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(index_update, "CHUNK_ROWS", 4)
    for number in range(10, 16):
        soundfile.write(folder / f"{number}.wav", np.full(4000, 0.01 * number), 16_000)
        update()
    lengths = [len(chunk) for chunk in ClipIndex(tmp_path / "index")._chunks]
    assert sum(lengths) == 15 and sum(2 * length < 4 for length in lengths) <= 1


def test_interrupted_update_continues(update, tmp_path, paraclap, monkeypatch):
    monkeypatch.setattr(index_update, "WRITTEN_ROWS", 4)
    plain, calls = index_update.write_chunk, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(index_update, "write_chunk", failing)
    with pytest.raises(KeyboardInterrupt):
        update()
    with pytest.raises(ClipIndexError, match="unfinished"):
        ClipIndex(tmp_path / "index")
    (tmp_path / "index" / "chunks" / f"{'0' * 32}.clips.parquet").write_bytes(b"torn")
    assert update().embedded == 5
    assert len(ClipIndex(tmp_path / "index")) == 9


def test_an_interruption_keeps_what_was_embedded(update, tmp_path, paraclap, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    plain = paraclap.embed_clips

    def interrupted(places):
        yield from itertools.islice(plain(places), 6)
        raise Stopped(signal.SIGTERM, "stopped")

    monkeypatch.setattr(paraclap, "embed_clips", interrupted)
    with pytest.raises(Stopped):
        update()
    assert "embedding: 6 of 9 clips in" in capsys.readouterr().err
    monkeypatch.setattr(paraclap, "embed_clips", plain)
    assert update().embedded == 3
    assert len(chunk_files(tmp_path)) == 2 and len(ClipIndex(tmp_path / "index")) == 9


def test_damaged_embeddings_are_computed_again(update, tmp_path):
    update()
    (path,) = (p for p in (tmp_path / "index" / "chunks").iterdir() if p.suffix == ".npy")
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        assert update().embedded == 9


def test_key_that_ends_with_zeros_is_not_lost(update, tmp_path, monkeypatch):
    plain = index_update.clip_key
    monkeypatch.setattr(index_update, "clip_key", lambda *a: plain(*a)[:30] + b"\0\0")
    assert update().clips == 9
    assert update().embedded == 0


def test_unreadable_clip_is_reported_and_tried_again(update, folder, tmp_path):
    good = (folder / "3.wav").read_bytes()
    (folder / "3.wav").write_bytes(good[:600])
    os.symlink(folder.parent / "elsewhere.wav", folder / "link.wav")
    first = update()
    assert first.clips == 8 and len(first.failures) == 2
    (folder / "3.wav").write_bytes(good)
    (folder / "link.wav").unlink()
    second = update()
    assert (second.clips, second.embedded, second.failures) == (9, 1, {})


def test_segments_of_a_file_are_separate_clips(paraclap, folder, tmp_path):
    (folder / "t.csv").write_text("file,start,end\n8.wav,0,0.2\n8.wav,0.2,0.4\n")
    update_index(tmp_path / "index", paraclap, "MODEL", read_clips([str(folder / "t.csv")]))
    index = ClipIndex(tmp_path / "index")
    assert [index.clips.loc[row, "start"] for row in range(2)] == [0, 0.2]
    alone = paraclap.embed_waveforms([read_audio(folder / "8.wav", 0.2, 0.4)])
    rows, cosines = index.search(alone, 2)
    assert rows[0][0] == 1 and cosines[0][0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("side", ["audio", "text"])
def test_another_model_is_refused_by_either_side(update, paraclap, tmp_path, side):
    update()
    index = ClipIndex(tmp_path / "index")
    check_model(index.folder, paraclap.fingerprints())
    with torch.no_grad():
        getattr(paraclap.model, f"{side}_projection").linear1.weight[0, 0] += 1e-3
    with pytest.raises(ClipIndexError, match=f"its {side} side"):
        check_model(index.folder, paraclap.fingerprints())
    with pytest.raises(ClipIndexError, match="another model"):
        update()


def test_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(ClipIndexError, match="not an index"):
        ClipIndex(tmp_path)
