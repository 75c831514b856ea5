"""The GPU benchmark at toy size, on the CPU: every section, errors, and its time limit."""

import time

import pytest
import torch

from benchmarks import gpu, gpu_runs, gpu_steps
from benchmarks.gpu_bench import FAILED, LONGEST, SHORTEST, durations
from paraclap.model.fast_on_cpu import fast_on_cpu


def run(*options):
    return gpu.main(["--small", "--device", "cpu", *options])


def table(text, title):
    """Rows of a section of a file, by their first cell."""
    lines = text.split(f"## GPU: {title}\n")[1].split("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return {row[0]: row for row in cells[2:]}


def test_durations_are_those_of_msp_podcast():
    seconds = durations(20_000)
    assert SHORTEST <= seconds.min() and seconds.max() <= LONGEST
    assert abs(seconds.mean() - 5.8) < 0.05


def test_sections_in_this_process_give_whole_tables(tmp_path, monkeypatch):
    output = tmp_path / "gpu.md"
    some = ("paper (frozen encoders)", "audio trained", "Whisper base, cached layers")
    monkeypatch.setattr(gpu_steps, "RECIPES", {name: gpu_steps.RECIPES[name] for name in some})
    sections = ("environment", "loss", "training step", "evaluation")
    assert run("--output", str(output), "--sections", *sections) == 0
    text = output.read_text()
    assert FAILED not in text
    losses = table(text, "loss")
    assert losses["ours, fp32"][-1] == "ok" and float(losses["ours, fp32"][3]) < 1e-5
    steps = table(text, "training step")
    assert len(steps) == 2 * (2 + len(some))
    flops = {name: float(row[5]) * float(row[2]) for name, row in steps.items()}
    assert flops["audio trained, fp32"] > flops["paper (frozen encoders), fp32"] > 0
    assert float(table(text, "evaluation")["batches of 60 s, fp32"][-1]) < 1e-6


def test_an_error_is_a_row_and_other_rows_follow(tmp_path, monkeypatch, capsys):
    def rows(bench):
        yield "first", lambda: ("1",)
        yield "second", lambda: 1 / 0
        yield "third", lambda: ("3",)
        raise OSError("no more | rows")

    section = gpu.Section(("what", "value"), rows, 1.0)
    monkeypatch.setattr(gpu, "SECTIONS", {"one": section, "two": section})
    assert run("--sections", "one", "two", "--output", str(tmp_path / "gpu.md")) == 1
    for title in ("one", "two"):
        found = table((tmp_path / "gpu.md").read_text(), title)
        assert found["first"][1] == "1" and found["third"][1] == "3"
        assert found["second"][1] == f"{FAILED}: ZeroDivisionError: division by zero"
        assert found["error"][1] == f"{FAILED}: OSError: no more / rows"


def test_a_section_ends_in_time_and_keeps_its_rows(monkeypatch, tmp_path):
    def rows(bench):
        yield "quick", lambda: ("1",)
        yield "slow", lambda: time.sleep(60)

    monkeypatch.setattr(gpu, "SECTIONS", {"one": gpu.Section(("what", "value"), rows, 1.0)})
    start = time.monotonic()
    code = run("--sections", "one", "--minutes", "0.1", "--output", str(tmp_path / "gpu.md"))
    assert code == 1 and time.monotonic() - start < 55
    found = table((tmp_path / "gpu.md").read_text(), "one")
    assert found["quick"][1] == "1" and "OutOfTimeError" in found["slow"][1]


def test_a_full_memory_ends_the_doubling_of_batches(monkeypatch, tmp_path):
    original = gpu_steps.step_of

    def step_of(bench, name, recipe, precision, size, compiled=False):
        if size > 4:
            raise gpu_steps.torch.OutOfMemoryError
        return original(bench, name, recipe, precision, size, compiled)

    monkeypatch.setattr(gpu_steps, "step_of", step_of)
    assert run("--sections", "batch size", "--output", str(tmp_path / "gpu.md")) == 0
    assert table((tmp_path / "gpu.md").read_text(), "batch size")["plain, fp32"][2] == (
        "out of memory"
    )


@pytest.mark.slow
def test_training_runs_resume_and_report_the_wait_for_data(tmp_path):
    output = tmp_path / "gpu.md"
    assert run("--output", str(output), "--sections", "resume", "training run") == 0
    text = output.read_text()
    assert "tensors are equal" in table(text, "resume")["resumed run"][1]
    assert "%" in table(text, "training run")["files"][-1]


def test_wait_is_weighted_by_time(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    lines = ['{"clips_per_second": 1, "waiting": 0.9}'] * gpu_runs.FIRST
    lines += ['{"clips_per_second": 4, "waiting": 0.0}', '{"clips_per_second": 2, "waiting": 0.5}']
    metrics.write_text("\n".join(lines))
    assert gpu_runs.rates(metrics, 8) == (16 / 6, 2 / 6)


def test_flops_of_faster_layers_are_those_of_torch():
    def flops(layer):
        inputs = torch.ones(64, 48, requires_grad=True)
        return gpu_steps.count_flops(lambda: layer(inputs).sum().backward())

    layer = torch.nn.Linear(48, 32)
    expected = flops(layer)
    assert flops(fast_on_cpu(layer)) == expected == 3 * 2 * 64 * 48 * 32
