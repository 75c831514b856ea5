"""What `score` and `embed` accept: files, signals, corpora, and data frames in their order."""

import audformat
import numpy as np
import pandas as pd
import pytest
import soundfile

from paraclap.audio import AudioError
from paraclap.corpora import CorpusError
from paraclap.corpora.table import read_corpus
from paraclap.inference import clips
from paraclap.inference.api import ParaCLAP

PROMPTS = ["angry", "calm"]


@pytest.fixture
def paraclap(tiny):
    return ParaCLAP(*tiny)


@pytest.fixture
def folder(tmp_path, voice):
    """Three recordings with labels, and the folder in which the tests run."""
    for number, seconds in enumerate((1.0, 2.5, 1.5)):
        path = tmp_path / "corpus" / "abc"[number] / "clip.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, voice(seconds, f0=100 + 20 * number), 16_000)
    rows = ["file,speaker", *(f"{name}/clip.wav,{name}" for name in "abc")]
    (tmp_path / "corpus" / "labels.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "corpus"


def close(table, expected):
    """Whether the scores of two tables are equal, in their order."""
    for name in PROMPTS:
        assert table[f"cosine.{name}"].to_numpy() == pytest.approx(
            expected[f"cosine.{name}"].to_numpy(), abs=1e-5
        )
    assert table["prediction"].tolist() == expected["prediction"].tolist()
    assert table["quality"].tolist() == expected["quality"].tolist()


def test_files_and_signals_of_a_list_are_scored_alike(paraclap, folder):
    paths = [folder / name / "clip.wav" for name in "cab"]
    expected = paraclap.score(paths, PROMPTS)
    signals = [soundfile.read(path) for path in paths]
    close(paraclap.score(signals, PROMPTS), expected)
    close(paraclap.score([str(paths[0]), *signals[1:]], PROMPTS), expected)
    close(paraclap.score(signals[0], PROMPTS), expected[:1])
    assert expected.index.tolist() == [0, 1, 2] and len(paraclap.score([], PROMPTS)) == 0


def test_corpus_is_scored_on_its_index_with_its_labels(paraclap, folder):
    expected = paraclap.score([folder / name / "clip.wav" for name in "abc"], PROMPTS)
    for source in (folder / "labels.csv", folder, str(folder), f"mine={folder / 'labels.csv'}"):
        scores = paraclap.score(source, PROMPTS)
        assert audformat.is_segmented_index(scores)
        assert scores.index.equals(read_corpus(source).index)
        close(scores, expected)
    assert scores["speaker"].tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("has_root", [True, False])
def test_data_frame_keeps_its_index_and_columns(paraclap, folder, monkeypatch, has_root):
    frame = pd.DataFrame(
        {
            "label": ["x", "y", "z"],
            "file": ["b/clip.wav", "a/clip.wav", "b/clip.wav"],
            "start": [0.5, None, 1],
            "end": ["1.5", "", "00:00:02"],
        },
        index=["same", "same", "other"],
    )
    if has_root:
        frame.attrs["root"] = str(folder)
    else:
        monkeypatch.chdir(folder)
    before = frame.copy()
    scores = paraclap.score(frame, PROMPTS)
    assert frame.equals(before)
    assert scores.index.tolist() == frame.index.tolist()
    assert scores[frame.columns].equals(frame)
    path = folder / "b" / "clip.wav"
    signal, rate = soundfile.read(path)
    alone = [(signal[8000:24000], rate), folder / "a" / "clip.wav", (signal[16000:32000], rate)]
    close(scores, paraclap.score(alone, PROMPTS))


def test_indices_of_audformat_are_honoured(paraclap, folder):
    files = [str(folder / name / "clip.wav") for name in "ba"]
    whole = pd.DataFrame({"age": [3, 4]}, audformat.filewise_index(files))
    expected = paraclap.score(files, PROMPTS)
    scores = paraclap.score(whole, PROMPTS)
    assert scores.index.equals(whole.index) and scores["age"].tolist() == [3, 4]
    close(scores, expected)
    index = audformat.segmented_index(files, ["0.5s", 0], ["1.5s", pd.NaT])
    scores = paraclap.score(pd.DataFrame(index=index), PROMPTS)
    assert scores.index.equals(index)
    signal, rate = soundfile.read(files[0])
    close(scores, paraclap.score([(signal[8000:24000], rate), files[1]], PROMPTS))
    table = read_corpus(folder / "labels.csv")
    part = paraclap.score(table[table["speaker"] != "b"], PROMPTS)
    assert part["speaker"].tolist() == ["a", "c"] and part.attrs == table.attrs


def test_embeddings_of_the_same_inputs_are_on_a_segmented_index(
    paraclap, folder, tmp_path, monkeypatch
):
    expected = paraclap.embed(folder)
    paths = [folder / name / "clip.wav" for name in "abc"]
    for given in (paths, pd.DataFrame({"file": paths}, index=[3, 1, 2])):
        table = paraclap.embed(given)
        assert audformat.is_segmented_index(table)
        assert table.index.get_level_values("file").tolist() == [str(path) for path in paths]
        np.testing.assert_allclose(table, expected, atol=1e-5)
    monkeypatch.chdir(folder)
    whole = pd.DataFrame(index=audformat.filewise_index(["c/clip.wav"]))
    np.testing.assert_allclose(paraclap.embed(whole), expected[2:], atol=1e-5)
    np.testing.assert_allclose(paraclap.embed("c/clip.wav"), expected[2:], atol=1e-5)
    expected.to_parquet(tmp_path / "e.parquet")
    assert pd.read_parquet(tmp_path / "e.parquet").equals(expected)
    assert expected.to_numpy().dtype == np.float32


def test_clips_are_embedded_in_batches(paraclap, folder, monkeypatch):
    read, sizes = clips.read_audio_with_report, []
    embed, held = clips.embed_waveforms, []
    monkeypatch.setattr(
        clips, "read_audio_with_report", lambda *place: (held.append(0), read(*place))[1]
    )

    def embedded(model, processor, waveforms, batch_seconds):
        sizes.append((len(waveforms), len(held)))
        return embed(model, processor, waveforms, batch_seconds)

    monkeypatch.setattr(clips, "embed_waveforms", embedded)
    paraclap.batch_seconds = 1.0
    frame = pd.DataFrame({"file": [folder / "abc"[n % 3] / "clip.wav" for n in range(9)]})
    paraclap.score(frame, PROMPTS)
    assert sizes[:3] == [(3, 3), (3, 6), (3, 9)], "all were read before the first was embedded"


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        ({"path": ["a.wav"]}, CorpusError, "neither a column file .* its columns are path"),
        ({"file": ["a.wav"], "quality": [""]}, CorpusError, "has the columns quality, which"),
        ({"file": [None]}, CorpusError, "rows without a file"),
        ({"file": ["a.wav"], "start": ["x"]}, CorpusError, "start is neither seconds"),
        ({"file": ["gone.wav"]}, AudioError, "gone.wav does not exist"),
    ],
)
def test_invalid_data_frames_are_refused(paraclap, frame, error, message):
    with pytest.raises(error, match=message):
        paraclap.score(pd.DataFrame(frame), PROMPTS)


def test_array_without_a_rate_is_refused(paraclap):
    with pytest.raises(TypeError, match="with its rate"):
        paraclap.score(np.zeros(16_000), PROMPTS)
    with pytest.raises(TypeError, match="with its rate"):
        paraclap.score([np.zeros(16_000)], PROMPTS)
