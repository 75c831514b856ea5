"""The loading benchmark at toy size: all ways read the same samples."""

import numpy as np
import pytest

from benchmarks import loading


def test_all_ways_are_in_the_table(capsys):
    loading.main(["--clips", "2", "--seconds", "1", "--repeat", "1", "--workers", "0"])
    printed = capsys.readouterr().out
    lines = [line.split("|")[1:-1] for line in printed.strip().splitlines()]
    kinds = {line[0].strip() for line in lines[2:]}
    assert kinds == {"wav 16 kHz", "flac 16 kHz", "wav 44.1 kHz", "flac 44.1 kHz"}
    for kind in kinds:
        ways = [line[2].strip() for line in lines if line[0].strip() == kind]
        assert {"soundfile whole", "seek", "waveform cache"} <= set(ways)


def load_late(path):
    waveform, duration = loading.load_soundfile(path)
    return np.roll(waveform, 1), duration


def test_different_samples_are_an_error(tmp_path):
    names = loading.write_clips(tmp_path, "wav", 16_000, 2)
    plain = loading.WholeFiles(tmp_path, loading.load_soundfile)
    late = loading.WholeFiles(tmp_path, load_late)
    crops = {
        way: loading.Crops(source, names, 0.5)
        for way, source in ((loading.PLAIN, plain), ("late", late))
    }
    with pytest.raises(RuntimeError, match="late: crop of clip00000.wav differs"):
        loading.check_equal(crops)
    loading.check_equal({loading.PLAIN: crops[loading.PLAIN]})


def test_table_has_times_and_ratios():
    results = [
        loading.Result("wav 16 kHz", 0, "soundfile whole", 1234.4, 1.0),
        loading.Result("wav 16 kHz", 0, "waveform cache", 25.6, 48.2),
    ]
    assert loading.markdown_table(results).splitlines() == [
        "| files | workers | way | us per clip | times as fast |",
        "|---|---|---|---|---|",
        "| wav 16 kHz | 0 | soundfile whole | 1,234 | 1.0 |",
        "| wav 16 kHz | 0 | waveform cache | 26 | 48.2 |",
    ]
