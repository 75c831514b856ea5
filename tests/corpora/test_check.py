from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from corpus_files import touch, write
from paraclap.corpora import __main__ as corpora_main
from paraclap.corpora import check
from paraclap.corpora.catalogue import CORPORA

pytestmark = pytest.mark.filterwarnings("ignore:.*expected ")


def write_sound(path: Path, seconds: float, rate: int = 16_000, channels: int = 1, **kind: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    samples = 0.1 * rng.standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate, format=kind.pop("format", "WAV"), **kind)
    return path


@pytest.fixture
def tess(tmp_path):
    """Eight files named as in TESS: AIFF with suffix .wav, several rates, stereo; all readable."""
    write_sound(tmp_path / "OAF_back_angry.wav", 1.5, 24_414)
    write_sound(tmp_path / "OA_bite_neutral.wav", 2.0, 24_414)
    write_sound(tmp_path / "YAF_germ_angry.wav", 1.0, 96_000, 2, subtype="PCM_24")
    write_sound(tmp_path / "YAF_neat_fear.wav", 2.5, 44_100, format="AIFF")
    write_sound(tmp_path / "YAF_tip_ps.wav", 0.05, 24_414)
    twin = write_sound(tmp_path / "YAF_said_sad.wav", 3.0, 24_414)
    (tmp_path / "YAF_told_sad.wav").write_bytes(twin.read_bytes())
    write_sound(tmp_path / "sub" / "YAF_raid_happy.wav", 2.0, 24_414)
    return tmp_path


def lines_of(capsys) -> dict[str, list[str]]:
    """Return first word -> rest of the printed lines that begin with it."""
    lines: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        word, _, rest = line.strip().partition(" ")
        lines.setdefault(word, []).append(rest.strip())
    return lines


def test_report_counts_clips_hours_labels_and_formats(tess, capsys):
    assert corpora_main.main([f"tess={tess}"]) == 0
    lines = lines_of(capsys)
    assert lines["clips"] == ["8 of 2800 published"]
    seconds = 1.5 + 2 + 1 + 2.5 + 0.05 + 3 + 3 + 2
    assert lines["speech"] == [
        f"{seconds / 3600:.2f} h; a clip lasts 0.05 to 3.00 s, median 2.00 s"
    ]
    assert lines["emotion"] == [
        "angry 2, fear 1, happy 1, neutral 1, pleasant surprise 1, sadness 2"
    ]
    assert lines["speaker"] == ["2 of 2 published: OAF 2, YAF 6"]
    assert lines["gender"] == ["female 8"] and lines["language"] == ["en 8"]
    assert sorted(lines["audio"][0].split(", ")) == [
        "1 AIFF PCM_16 44.1 kHz 1 ch",
        "1 WAV PCM_24 96 kHz 2 ch",
        "6 WAV PCM_16 24.414 kHz 1 ch",
    ]
    assert lines["licence"] == ["CC BY-NC-ND 4.0"]
    assert "ParaCLAP 0.170" in lines["paper"][0]
    problems = lines["problem"]
    assert len(problems) == 3 and "8 clips of Toronto" in problems[0]
    assert problems[1] == "clips below 0.1 s: 1, e.g. YAF_tip_ps.wav"
    assert problems[2] == (
        "recordings with several names: 1, e.g. YAF_said_sad.wav and YAF_told_sad.wav"
    )


def test_report_fails_with_the_reasons_of_unreadable_files(tess, capsys):
    (tess / "OAF_page_sad.wav").write_text("<!DOCTYPE html><title>404</title>")
    (tess / "OAF_half_sad.wav").write_bytes((tess / "OAF_back_angry.wav").read_bytes()[:9000])
    (tess / "OAF_none_sad.wav").symlink_to("nowhere.wav")
    assert corpora_main.main([f"tess={tess}"]) == 1
    lines = lines_of(capsys)
    assert lines["clips"] == ["11 of 2800 published"]
    problems = " | ".join(lines["problem"])
    expected = {"html": "page", "truncated": "half", "dangling_link": "none"}
    for reason, file in expected.items():
        assert f"unreadable files ({reason}): 1, e.g. {tess}/OAF_{file}_sad.wav" in problems


def test_report_of_a_corpus_without_any_readable_file(tmp_path, capsys):
    touch(tmp_path, "YAF_food_ps.wav")
    assert corpora_main.main([f"tess={tmp_path}"]) == 1
    lines = lines_of(capsys)
    assert "speech" not in lines and "(empty): 1" in lines["problem"][1]


def test_report_continues_after_an_unreadable_source(tess, tmp_path, capsys):
    text = "file,start,end,emotion\nOAF_back_angry.wav,0.5,1,anger\nOAF_back_angry.wav,1,,\n"
    path = write(tess, "labels.csv", text)
    assert corpora_main.main([str(tess / "none"), str(path), str(tess)]) == 1
    captured = capsys.readouterr()
    assert "none does not exist" in captured.err
    assert "labels: not a known corpus" in captured.out
    assert "emotion      anger 1, missing 1" in captured.out
    assert "a clip lasts 0.50 to 0.50 s" in captured.out
    assert corpora_main.main([str(path)]) == 0
    write(tess, "labels.csv", "file,start,end\nOAF_back_angry.wav,1,4\nOAF_back_angry.wav,2,\n")
    capsys.readouterr()
    assert corpora_main.main([str(path)]) == 1
    assert "segments that end after their file: 2" in capsys.readouterr().out


def test_labels_are_reported_with_their_classes():
    corpus = CORPORA["iemocap"]
    labels = pd.Series(["excitement", "neutral", "frustration", "excitement", np.nan])
    assert check.describe_values(labels, corpus.classes) == (
        "excitement -> happy 2, frustration (not scored) 1, neutral 1, missing 1"
    )
    assert check.describe_values(pd.Series(range(100)), {}) == "100 values"
    assert check.scored_part(corpus).startswith("all clips, mean over sessions; UAR CLAP 0.353")


def test_equal_files_are_found_by_content_alone(tmp_path):
    contents = {"a": b"1" * 70_000, "b": b"1" * 69_999 + b"2", "c": b"1" * 70_000, "d": b"1"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert check.equal_files(tmp_path, contents) == [["a", "c"]]
    assert check.equal_files(tmp_path, ["a", "b", "d"]) == []


def test_every_known_corpus_is_listed(capsys):
    assert corpora_main.main([]) == 0
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert [row.split("`")[1] for row in rows] == list(CORPORA)
    assert len({line.count("|") for line in (header, rule, *rows)}) == 1
