"""Benchmarks at toy size: all variants compute the same, and the table has a row for each."""

import numpy as np
import pytest
import torch

from benchmarks import captions, evaluate, features, loading, lora, report, search, train_step
from benchmarks.timing import Run, ratios, timed
from paraclap.inference import approximate
from tiny_models import TINY_AUDIO, TINY_TEXT, TINY_WHISPER

PUBLISHED = {
    **train_step.PUBLISHED_CONFIG,
    "audio_config": TINY_AUDIO,
    "text_config": {**TINY_TEXT, "vocab_size": 30_522},
    "projection_dim": 24,
}


def table(capsys):
    """Return the printed rows by their first cell."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row for row in cells[2:]}


def test_ratio_is_the_median_of_rounds():
    slow, fast = ([Run(seconds, 1.0, 0.0, None) for seconds in of] for of in ((2, 4, 3), (1, 1, 3)))
    assert ratios(slow, fast) == "2.00 (1.00 to 4.00)"
    assert ratios(slow, fast, "cpu") == "1.00 (1.00 to 1.00)"


def test_time_and_memory_of_a_call_are_measured():
    run = timed(lambda: np.ones(2**24).sum())
    assert run.result == 2**24 and 0 < run.wall and 0 < run.cpu
    assert 0.12 < run.memory < 0.2  # 128 MiB


@pytest.mark.parametrize(
    ("options", "count"), [((), 3), (("--recipe", "audio", "--micro-batch", "2"), 4)]
)
def test_training_steps_give_the_same_gradients(options, count, monkeypatch, capsys):
    monkeypatch.setattr(train_step, "PUBLISHED_CONFIG", PUBLISHED)
    monkeypatch.setattr(train_step, "SECONDS", 0.5)
    train_step.main(["--batch", "3", "--rounds", "1", *options])
    rows = table(capsys)
    assert len(rows) == count
    assert all(float(row[-1]) < 1e-4 for row in rows.values())


def test_whisper_step_gives_the_gradients_of_the_plain_one(monkeypatch, capsys):
    text = {**TINY_TEXT, "vocab_size": 30_522}
    audio = {**TINY_WHISPER, "encoder_layers": 5}
    encoders = {"audio_config": audio, "text_config": text}
    monkeypatch.setattr(train_step, "WHISPER_ENCODERS", encoders)
    monkeypatch.setattr(train_step, "STEPS", 2)
    train_step.main(["--recipe", "whisper", "--rounds", "1", "--batch", "8"])
    rows = table(capsys)
    assert set(rows) == {"plain", "ours"} and float(rows["ours"][-1]) < 1e-5


def test_lora_trains_adapters_and_heads(monkeypatch, capsys):
    pytest.importorskip("peft")
    text = {**TINY_TEXT, "vocab_size": 30_522}
    tiny = {"audio_config": TINY_WHISPER, "text_config": text, "audio_layers": [1, 2]}
    monkeypatch.setattr(lora, "CONFIG", lora.CONFIG | tiny)
    lora.main(["--batch", "2", "--seconds", "0.2", "--steps", "1", "--rounds", "1"])
    trained = [float(row[-1]) for row in table(capsys).values()]
    assert len(trained) == 3 and trained[0] > trained[1] > trained[2]


def test_evaluation_gives_the_same_cosines(monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "PUBLISHED_CONFIG", PUBLISHED)
    options = ["--variants", "eager", "--rounds", "1", "--batch-seconds", "9", "--seconds", "1"]
    evaluate.main([*options, "1.2", "--clips", "3"])
    rows = table(capsys)
    assert set(rows) == {"plain", "eager"} and float(rows["eager"][-1]) < 1e-6


def test_evaluation_with_whisper_equals_transformers_on_clips_of_30_s(monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "WHISPER_BASE", TINY_WHISPER)
    monkeypatch.setattr(evaluate, "LAYERS", [1, 2])
    options = ["--variants", "eager", "--rounds", "1", "--encoder", "whisper", "--clips", "2"]
    evaluate.main([*options, "--seconds", "30", "30"])
    assert float(table(capsys)["eager"][-1]) < 1e-5


def test_ways_of_loading_give_the_same_batches(monkeypatch, capsys):
    monkeypatch.setattr(loading, "SECONDS", 1.0)
    options = ["--clips", "4", "--batch", "2", "--rounds", "1", "--step", "1"]
    loading.main([*options, "--kinds", "wav-16000", "flac-44100", "--workers", "0", "1"])
    assert set(table(capsys)) == {"wav 16 kHz", "flac 44.1 kHz"}
    batch = {"input_values": torch.zeros(1, 3), "input_ids": torch.ones(1, 2)}
    other = batch | {"input_values": torch.full((1, 3), 0.01)}
    with pytest.raises(RuntimeError, match="input_values of crop differ"):
        loading.check_equal([[batch]], [[other]], "crop")


def test_time_of_loading_is_divided(monkeypatch, capsys):
    monkeypatch.setattr(loading, "SECONDS", 1.0)
    loading.main(["--profile", "--clips", "8", "--batch", "2", "--rounds", "1"])
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    parts = {
        name: [c[2].strip() for c in lines if c[1].strip() == name]
        for name in ("WAV", "waveform cache")
    }
    assert parts["WAV"] == ["reading", "collating", "2 processes of torch", "2 processes"]
    assert parts["waveform cache"] == [*parts["WAV"], "2 threads"]
    assert all(int(cells[3].replace(",", "")) > 0 for cells in lines)


def test_plain_loop_writes_the_same_captions(tmp_path, capsys):
    captions.main(["--rows", "400", "--plain-rows", "60", "--rounds", "1"])
    assert set(table(capsys)) == {captions.FILES, captions.LINES}
    paths = (tmp_path / name for name in ("f.parquet", "plain.jsonl", "plain", "c.parquet"))
    features, lines, files, output = paths
    captions.write_features(features, 50)
    loop = captions.plain_rows(features, 50)
    captions.write_lines(loop, lines)
    captions.write_files(loop, files)
    assert captions.template_creation.main([str(features), "-o", str(output)]) == 0
    assert captions.check_equal(lines, files, output) == 50
    for changed in (lines, sorted(files.iterdir())[7]):
        text = changed.read_text()
        rows = text.splitlines()
        place = 7 if changed == lines else 1
        rows[place] = rows[place].replace("pitch", "height").replace("loud", "quiet")
        changed.write_text("\n".join(rows))
        with pytest.raises(RuntimeError, match="row 7 of"):
            captions.check_equal(lines, files, output)
        changed.write_text(text)


@pytest.mark.slow
def test_growth_of_features_is_measured_on_short_clips(capsys):
    features.main(["--growth", "12", "--workers", "1"])
    assert set(table(capsys)) == {"egemaps", "captions"}


@pytest.mark.slow
def test_approximate_search_is_compared_with_exact_search(tmp_path, monkeypatch, capsys):
    pytest.importorskip("faiss")
    monkeypatch.setattr(approximate, "FEWEST", 5_000)
    search.main(["--clips", "6000", "--dimensions", "64", "--queries", "3"])
    rows = table(capsys)
    assert rows["exact"][-1] == "100.0%" and float(rows["approximate"][-1][:-1]) > 50


def test_search_among_clips_too_few_for_an_approximate_index_is_refused(capsys):
    with pytest.raises(SystemExit):
        search.main(["--clips", "2000", "--queries", "3"])
    assert "--clips 2000, expected at least 20000" in capsys.readouterr().err


def test_record_replaces_the_section_of_the_same_title(tmp_path, monkeypatch, capsys):
    results = tmp_path / "RESULTS.md"
    results.write_text("# Benchmarks\n\n## Old\n\nfirst\n\n## Other\n\nkept\n")
    monkeypatch.setattr(report, "RESULTS", results)
    for title, text, folder in (("Old", "second", "/dev/shm"), ("New", "third", None)):
        monkeypatch.delenv("TMPDIR", raising=False)
        if folder:
            monkeypatch.setenv("TMPDIR", folder)
        options = report.parse(report.command_line("", "benchmarks.x"), ["--record"])
        report.report(title, text, options)
    sections = results.read_text().split("\n## ")
    assert [section.split("\n")[0] for section in sections] == [
        "# Benchmarks",
        "Old",
        "Other",
        "New",
    ]
    assert "first" not in results.read_text() and "second" in sections[1]
    assert "`TMPDIR=/dev/shm python -m benchmarks.x`" in sections[1]
    assert "`python -m benchmarks.x`" in sections[3] and ", load " in sections[3]
    options = report.parse(report.command_line("", "benchmarks.x"), [])
    report.report("Old", "not recorded", options)
    assert "not recorded" not in results.read_text() and "not recorded" in capsys.readouterr().out
