"""search.py: results as tables and pages."""

import re
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import soundfile

from paraclap.cli import search
from paraclap.inference.api import ParaCLAP


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(9)
    (tmp_path / "audio").mkdir()
    for number, name in enumerate(("a.wav", "b <i>&\"'#?%20.wav", "c.wav")):
        signal = rng.uniform(-0.1, 0.1, 6_000 + 900 * number) * (number + 1)
        soundfile.write(tmp_path / "audio" / name, signal, 16_000)
    return tmp_path / "audio"


@pytest.fixture
def run(tiny, monkeypatch):
    model = ParaCLAP(*tiny)
    monkeypatch.setattr(ParaCLAP, "from_pretrained", lambda *arguments: model)
    monkeypatch.setattr(search, "find_model", str)
    monkeypatch.setattr(search, "with_default_model", lambda _, *given: given)
    return lambda *arguments: search.main([*map(str, arguments)])


def test_results_of_descriptions_and_examples(run, folder, tmp_path, capsys):
    assert run("index", tmp_path, folder, "-o", tmp_path / "i") == 0
    assert "3 clips, 3 newly embedded" in capsys.readouterr().out
    table = tmp_path / "hits.csv"
    run("query", tmp_path / "i", "a calm voice", "--like", folder / "c.wav", "-o", table)
    hits = pd.read_csv(table)
    assert hits["rank"].tolist() == [1, 2, 3] * 2
    liked = hits[hits["query"] == f"like {folder / 'c.wav'}"]
    assert liked["name"].iloc[0] == str(folder / "c.wav")
    assert liked["cosine"].iloc[0] == pytest.approx(1, abs=1e-3)
    assert (hits.groupby("query")["cosine"].diff().dropna() <= 0).all()
    assert "a calm voice\n   1" in capsys.readouterr().out


def test_page_links_recordings_and_escapes_names(run, folder, tmp_path):
    run("index", tmp_path, folder, "-o", tmp_path / "i")
    page = tmp_path / "pages" / "p.html"
    page.parent.mkdir()
    assert run("query", tmp_path / "i", "<script>x</script> & more", "--page", page) == 0
    text = page.read_text()
    assert "<script>" not in text and "&lt;script&gt;" in text and "<i>" not in text
    links = re.findall(r'src="([^"]*)"', text)
    assert len(links) == 3 and not any(c in link for link in links for c in "<>#? ")
    found = {(page.parent / unquote(link)).resolve() for link in links}
    assert found == {path.resolve() for path in folder.iterdir()}


def test_page_links_segments_by_time(run, folder, tmp_path):
    (folder / "t.csv").write_text("file,start,end\nc.wav,0.1,0.3\n")
    run("index", tmp_path, folder / "t.csv", "-o", tmp_path / "i")
    run("query", tmp_path / "i", "x", "--page", tmp_path / "p.html")
    assert 'src="audio/c.wav#t=0.100,0.300"' in (tmp_path / "p.html").read_text()


def test_unreadable_clip_sets_the_exit_code(run, folder, tmp_path, capsys):
    (folder / "d.wav").write_bytes(b"nothing")
    assert run("index", tmp_path, folder, "-o", tmp_path / "i") == 1
    assert "d.wav" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"d\.wav"):
        run("query", tmp_path / "i", "--like", folder / "d.wav")


@pytest.mark.parametrize("options", [[], ["x", "--count", "0"]])
def test_query_requires_a_description_or_example(run, tmp_path, options):
    with pytest.raises(SystemExit):
        run("query", tmp_path, *options)
