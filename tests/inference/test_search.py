"""search.py: results as tables and pages."""

import os
import re
import signal
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import soundfile

from paraclap.cli import search
from paraclap.errors import ParaCLAPError
from paraclap.inference.api import ParaCLAP
from paraclap.inference.index import ClipIndex
from paraclap.signals import REQUEUE, Stopped


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


def test_index_ends_at_sigterm_with_the_code_to_requeue(run, folder, tmp_path, monkeypatch):
    plain = ParaCLAP.embed_clips

    def terminated(self, places):
        yield next(embedded := plain(self, places))
        os.kill(os.getpid(), signal.SIGTERM)
        yield from embedded

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with monkeypatch.context() as patch, pytest.raises(Stopped, match="repeat the same") as end:
            patch.setattr(ParaCLAP, "embed_clips", terminated)
            run("index", tmp_path, folder, "-o", tmp_path / "i")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == REQUEUE
    assert len(list((tmp_path / "i" / "chunks").glob("*.npy"))) == 1


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


# --- Labels, joined queries, deleted files -------------------------------------------------------


@pytest.fixture
def labelled(run, folder, tmp_path):
    """An index with labels of a table, and of a file without."""
    rows = ["file,speaker,emotion,gender,score", "a.wav,03,angry,F,1.5", "c.wav,4,sad,m,"]
    (folder / "t.csv").write_text("\n".join(rows))
    other = next(path for path in folder.iterdir() if path.name.startswith("b"))
    assert run("index", tmp_path, folder / "t.csv", other, "-o", tmp_path / "i") == 0
    return tmp_path / "i"


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        (["speaker=03"], "a"),
        (["speaker!=03"], "c"),  # and not b, which has no speaker
        (["emotion=anger"], "a"),  # as read: angry
        (["gender=woman"], "a"),
        (["gender = man", "emotion!=anger"], "c"),
        (["score>=1.5"], "a"),
        (["start=0.0"], "abc"),
        (["quality=unvoiced"], "abc"),
    ],
)
def test_only_clips_that_meet_the_conditions_are_searched(
    run, labelled, tmp_path, conditions, found
):
    options = [word for condition in conditions for word in ("--where", condition)]
    assert run("query", labelled, "x", *options, "-o", tmp_path / "h.csv") == 0
    hits = pd.read_csv(tmp_path / "h.csv", dtype={"label.speaker": str})
    assert sorted(name[0] for name in hits["file"]) == list(found)
    assert set(hits["label.speaker"].dropna()) <= {"03", "4"}


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("speaker", "expected a form like speaker=03"),
        ("spaeker=1", "no column spaeker, expected one of speaker, emotion, gender, score, name"),
        ("speaker=9", "no clip of the index has speaker '9', expected one of 03, 4"),
        ("score>high", "score or 'high' is no number"),
        ("emotion<4", "emotion or '4' is no number"),
        ("score>2", "no clip of the index has score>2"),
    ],
)
def test_condition_that_cannot_be_met_is_refused(run, labelled, condition, message):
    with pytest.raises(ParaCLAPError, match=message):
        run("query", labelled, "x", "--where", condition)


def test_columns_are_named_by_an_index_without_labels(run, folder, tmp_path):
    run("index", tmp_path, folder, "-o", tmp_path / "i")
    with pytest.raises(ParaCLAPError, match="run its index command again"):
        run("query", tmp_path / "i", "x", "--where", "speaker=1")


def test_descriptions_and_examples_are_one_query(run, labelled, folder, tmp_path):
    table = tmp_path / "h.csv"
    run("query", labelled, "x", "--like", folder / "c.wav", "-o", table)
    alone = pd.read_csv(table).pivot(index="file", columns="query", values="cosine")
    run("query", labelled, "x", "--like", folder / "c.wav", "--together", "-o", table)
    joined = pd.read_csv(table).set_index("file")["cosine"]
    assert len(joined) == 3 and pd.read_csv(table)["query"].nunique() == 1
    ratio = joined / alone.sum(axis=1)  # of the mean of the embeddings, up to its length
    assert ratio.to_numpy() == pytest.approx(ratio.iloc[0], abs=1e-4)


def test_deleted_files_are_removed_without_a_model(run, labelled, folder, capsys):
    (folder / "c.wav").unlink()
    (folder / "a.wav").chmod(0)  # not readable, but there
    capsys.readouterr()
    assert run("prune", labelled) == 0
    assert "2 clips, 1 removed" in capsys.readouterr().out
    index = ClipIndex(labelled)
    assert "c.wav" not in set(index.clips["file"]) and len(index) == 2
    index.check_embeddings()
    assert run("prune", labelled) == 0
    assert "2 clips, 0 removed" in capsys.readouterr().out


def test_nothing_is_removed_without_the_folder_of_the_clips(run, labelled, folder):
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(ParaCLAPError, match="nothing is removed"):
        run("prune", labelled)
    assert len(ClipIndex(labelled)) == 3


@pytest.mark.parametrize("options", [[], ["x", "--count", "0"]])
def test_query_requires_a_description_or_example(run, tmp_path, options):
    with pytest.raises(SystemExit):
        run("query", tmp_path, *options)
