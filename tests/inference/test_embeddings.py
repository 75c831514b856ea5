"""Tables of embeddings: audformat's index, chunks, restart, faulty clips, windows."""

import shutil

import audformat
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile

from paraclap import progress
from paraclap.cli import embed
from paraclap.corpora import table as corpora
from paraclap.data.dataset import ClipDataset
from paraclap.evaluation.embed import embed_clips
from paraclap.files import OutputError
from paraclap.inference import embeddings
from paraclap.inference.api import ParaCLAP
from paraclap.model.build import load_model


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(embeddings, "CHUNK_CLIPS", 8)
    monkeypatch.setattr(embeddings, "GROUP_ROWS", 20)


@pytest.fixture
def recordings(tmp_path):
    """Nine recordings of noise of 0.5 to 2.5 s."""
    rng = np.random.default_rng(5)
    (tmp_path / "room").mkdir()
    for number in range(9):
        signal = rng.uniform(-0.3, 0.3, 8_000 + 4_000 * number)
        soundfile.write(tmp_path / "room" / f"{number}.wav", signal, 16_000)
    return tmp_path / "room"


@pytest.fixture
def encoded(monkeypatch):
    """Number of clips that were embedded, call by call."""
    counts, plain = [], embeddings.embed_clips
    monkeypatch.setattr(
        embeddings, "embed_clips", lambda *a, **k: counts.append(len(a[2])) or plain(*a, **k)
    )
    return counts


def run(model, source, output, *options):
    return embed.main([str(model), str(source), "-o", str(output), "--no-cache", *options])


def test_table_has_the_index_of_audformat_and_the_embeddings_of_evaluation(
    model_folder, corpus, tmp_path
):
    assert run(model_folder, corpus, tmp_path / "e.parquet") == 0
    found = pd.read_parquet(tmp_path / "e.parquet")
    assert audformat.is_segmented_index(found)
    audformat.assert_index(found.index)
    table = corpora.read_corpus(corpus)
    assert found.index.equals(table.index)
    assert list(found) == [str(n) for n in range(24)] and (found.dtypes == np.float32).all()
    expected = embed_clips(*load_model(model_folder, "cpu"), ClipDataset(table, corpus)).numpy()
    assert np.allclose(found, expected, atol=1e-6)
    assert pq.read_metadata(tmp_path / "e.parquet").num_row_groups > 1


def test_audformat_resolves_files_and_ends_for_nkululeko(model_folder, recordings, tmp_path):
    run(model_folder, recordings, tmp_path / "e.parquet")
    table = pd.read_parquet(tmp_path / "e.parquet")
    table.index = audformat.utils.expand_file_path(table.index, str(recordings))
    audformat.utils.to_segmented_index(table, allow_nat=False).to_csv(tmp_path / "e.csv")
    read = audformat.utils.read_csv(tmp_path / "e.csv")
    ends = read.index.get_level_values("end").total_seconds()
    assert ends.tolist() == [0.5 + 0.25 * n for n in range(9)]
    assert np.array_equal(read.to_numpy(np.float32), table.to_numpy())


def test_interrupted_run_continues_with_the_same_bytes(
    model_folder, corpus, tmp_path, monkeypatch, encoded
):
    run(model_folder, corpus, tmp_path / "whole.parquet")
    chunks = len(encoded)
    assert chunks > 4 and sum(encoded) == 72
    write, written = embeddings.write_chunk, []

    def interrupted(*arguments):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(write(*arguments))

    monkeypatch.setattr(embeddings, "write_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(model_folder, corpus, tmp_path / "e.parquet")
    assert not (tmp_path / "e.parquet").exists()
    monkeypatch.setattr(embeddings, "write_chunk", write)
    encoded.clear()
    assert run(model_folder, corpus, tmp_path / "e.parquet", "--workers", "1") == 0
    assert len(encoded) == chunks - 3
    assert (tmp_path / "e.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    encoded.clear()
    assert run(model_folder, corpus, tmp_path / "e.parquet") == 0
    assert not encoded


def test_changed_file_and_other_settings_are_embedded_again(
    model_folder, recordings, tmp_path, encoded
):
    output = tmp_path / "e.parquet"
    run(model_folder, recordings, output)
    before = pd.read_parquet(output)
    shutil.copy(recordings / "1.wav", recordings / "0.wav")
    run(model_folder, recordings, output)
    after = pd.read_parquet(output)
    assert np.allclose(after.iloc[0], before.iloc[1], atol=1e-6)
    encoded.clear()
    run(model_folder, recordings, output, "--precision", "bf16")
    assert sum(encoded) == 9
    assert len(list((tmp_path / "e.parts").glob("*.parquet"))) == len(encoded), "others are removed"


def test_faulty_clips_are_listed_and_the_others_embedded(
    model_folder, recordings, tmp_path, capsys
):
    whole = tmp_path / "whole.parquet"
    run(model_folder, recordings, whole)
    (recordings / "3.wav").write_bytes((recordings / "3.wav").read_bytes()[:2000])
    (recordings / "5.wav").write_bytes(b"")
    soundfile.write(recordings / "7.wav", np.zeros(16_000), 16_000)
    assert run(model_folder, recordings, tmp_path / "e.parquet") == 1
    found = pd.read_parquet(tmp_path / "e.parquet")
    files = found.index.get_level_values("file")
    assert files.tolist() == [f"{n}.wav" for n in (0, 1, 2, 4, 6, 7, 8)]
    same = [n for n in range(9) if n not in (3, 5, 7)]
    expected = pd.read_parquet(whole).iloc[same]
    assert np.allclose(found[files != "7.wav"], expected, atol=1e-6)
    errors = pd.read_csv(tmp_path / "e.errors.csv")
    assert errors["file"].tolist() == ["3.wav", "5.wav"]
    assert not errors["error"].str.contains(str(recordings)).any()
    quality = pd.read_csv(tmp_path / "e.quality.csv").set_index("file")["quality"]
    assert "silent" in quality["7.wav"]
    assert "2 clips were skipped" in capsys.readouterr().err


def test_windows_of_long_recordings_are_rows(model_folder, recordings, tmp_path):
    run(model_folder, recordings, tmp_path / "e.parquet", "--windows", "1", "--hop", "0.5")
    table = pd.read_parquet(tmp_path / "e.parquet")
    audformat.assert_index(table.index)
    last = table.loc["8.wav"].index
    starts = last.get_level_values("start").total_seconds()
    assert starts.tolist() == [0.0, 0.5, 1.0, 1.5]
    one = ParaCLAP(*load_model(model_folder, "cpu"))
    samples, rate = soundfile.read(recordings / "8.wav")
    assert np.allclose(
        table.loc["8.wav"].iloc[2], one.embed_audio(samples[16_000:32_000], rate), atol=1e-5
    )


def test_windows_are_rounded_and_those_of_overlapping_clips_are_rows_once(recordings):
    rows = pd.DataFrame({"file": "8.wav", "start": [0.0, 0.3], "end": [1.5, 1.2]})
    rows.to_csv(recordings / "clips.csv", index=False)
    cut = embeddings.cut_into_windows(corpora.read_corpus(recordings / "clips.csv"), 0.6, 0.3)
    limits = [cut.index.get_level_values(name) for name in ("start", "end")]
    found = [[time.value for time in times] for times in limits]
    assert found[0] == [0, 300_000_000, 600_000_000, 900_000_000]
    assert found[1] == [600_000_000, 900_000_000, 1_200_000_000, 1_500_000_000]


def test_listing_that_is_read_is_not_replaced(model_folder, recordings):
    listing = recordings / "e.errors.csv"
    listing.write_text("file,start,end,error\n3.wav,0 days,,why\n")
    for source in (listing, f"mine={listing}"):
        with pytest.raises(OutputError, match="e.errors.csv would replace an input"):
            run(model_folder, source, recordings / "e.parquet")
    assert "why" in listing.read_text() and not (recordings / "e.parquet").exists()


def test_another_table_is_not_replaced(model_folder, recordings, captions):
    before = captions.read_bytes()
    with pytest.raises(OutputError, match="is no table of embeddings"):
        run(model_folder, recordings, captions)
    assert captions.read_bytes() == before


def test_hop_requires_windows(model_folder, recordings, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(model_folder, recordings, tmp_path / "e.parquet", "--hop", "1")
    assert "--hop requires --windows" in capsys.readouterr().err


def test_embed_of_the_interface_returns_the_same_table(model_folder, recordings, tmp_path):
    run(model_folder, recordings, tmp_path / "e.parquet")
    table = ParaCLAP(*load_model(model_folder, "cpu")).embed(recordings)
    assert table.index.equals(pd.read_parquet(tmp_path / "e.parquet").index)
    assert np.allclose(table, pd.read_parquet(tmp_path / "e.parquet"), atol=1e-6)


def test_progress_without_a_terminal_is_one_line_at_a_time(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.progress_bar(3, "embedding", "clip") as bar:
        for _ in range(3):
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2 and lines[-1].startswith("embedding: 3 of 3 clips in ")
    monkeypatch.undo()
    with progress.progress_bar(3, "embedding", "clip") as bar:
        bar.update(3)
    assert capsys.readouterr().err == "", "shorter than a minute"
