"""Scores relative to reference clips: ParaCLAP.adapt, predict.py, search.py and the web page."""

import numpy as np
import pandas as pd
import pytest
import soundfile

from paraclap.cli import predict, search
from paraclap.corpora import CorpusError
from paraclap.inference.api import ParaCLAP
from paraclap.inference.page import Analyzer

PROMPTS = ["angry", "calm"]


@pytest.fixture
def paraclap(tiny):
    return ParaCLAP(*tiny)


@pytest.fixture
def folder(tmp_path):
    """Six recordings of noise of 0.5 to 1.75 s."""
    rng = np.random.default_rng(5)
    (tmp_path / "room").mkdir()
    for number in range(6):
        signal = rng.uniform(-0.3, 0.3, 8_000 + 4_000 * number) * (number + 1) / 6
        soundfile.write(tmp_path / "room" / f"{number}.wav", signal, 16_000)
    return tmp_path / "room"


def embeddings_of(paraclap, folder):
    clips = [(folder, path.name, 0.0, None) for path in sorted(folder.iterdir())]
    return np.array([clip.embedding for clip in paraclap.embed_clips(clips)])


def centred(embeddings, reference):
    differences = embeddings - reference.mean(axis=0)
    return differences / np.linalg.norm(differences, axis=1, keepdims=True)


@pytest.mark.filterwarnings("ignore:.*mean embedding of")
def test_scores_are_relative_to_the_mean_of_a_folder(paraclap, folder):
    files, plain = sorted(folder.iterdir()), embeddings_of(paraclap, folder)
    before = paraclap.score(files, PROMPTS)
    scores = paraclap.adapt(folder).score(files, PROMPTS)
    assert paraclap.reference.clips == 6
    expected = centred(plain, plain) @ paraclap.embed_text(PROMPTS).T
    cosines = scores[[f"cosine.{name}" for name in PROMPTS]].to_numpy()
    assert cosines == pytest.approx(expected, abs=1e-4)
    assert embeddings_of(paraclap, folder).tolist() == plain.tolist()
    paraclap.reference = None
    assert paraclap.score(files, PROMPTS).equals(before)


@pytest.mark.filterwarnings("ignore:.*mean embedding of")
def test_long_reference_clips_are_cut_into_windows(paraclap, folder):
    paraclap.adapt(folder, window=1.0)
    plain = [
        clip.embedding
        for path in sorted(folder.iterdir())
        for seconds in [soundfile.info(path).duration]
        for place in ([(0.0, seconds)] if seconds <= 1 else [(0.0, 1.0), (seconds - 1.0, seconds)])
        for clip in paraclap.embed_clips([(folder, path.name, *place)])
    ]
    assert paraclap.reference.clips == len(plain) == 9
    assert paraclap.reference.mean == pytest.approx(np.mean(plain, axis=0), abs=1e-5)


def test_few_clips_are_warned_of_and_a_missing_folder_is_an_error(paraclap, folder, tmp_path):
    with pytest.warns(UserWarning, match="room: the mean embedding of 6 clips .* at least 50"):
        paraclap.adapt(str(folder))
    with pytest.raises(CorpusError, match="nowhere does not exist"):
        paraclap.adapt(tmp_path / "nowhere")


@pytest.mark.filterwarnings("ignore:.*mean embedding of")
def test_description_follows_the_reference(paraclap, folder, corpus, captions):
    edges = captions.with_name("captions.edges.json")
    clip = sorted(corpus.rglob("*.wav"))[3]
    before = paraclap.describe(clip, edges).table["confidence"]
    after = paraclap.adapt(folder).describe(clip, edges).table["confidence"]
    assert np.abs(after - before).max() > 1e-3
    paraclap.reference = None
    assert paraclap.describe(clip, edges).table["confidence"].equals(before)


# --- Command lines and web page ------------------------------------------------------------------


@pytest.fixture
def no_loading(paraclap, monkeypatch):
    monkeypatch.setattr(ParaCLAP, "from_pretrained", lambda *arguments: paraclap)
    monkeypatch.setattr(predict, "with_default_model", lambda program, *given: given)
    monkeypatch.setattr(search, "find_model", str)
    monkeypatch.setattr(search, "with_default_model", lambda _, *given: given)


@pytest.mark.filterwarnings("ignore:.*mean embedding of")
@pytest.mark.parametrize("windows", [[], ["--windows", "1"]])
def test_predict_scores_relative_to_reference_clips(
    no_loading, paraclap, folder, tmp_path, capsys, windows
):
    arguments = ["MODEL", str(folder), "--prompts", *PROMPTS, *windows]
    output = tmp_path / "x.csv"
    assert predict.main([*arguments, "--reference-clips", str(folder), "-o", str(output)]) == 0
    clips = 9 if windows else 6
    assert f"relative to the mean of {clips} reference clips of room" in capsys.readouterr().err
    if not windows:
        expected = paraclap.score(sorted(folder.iterdir()), PROMPTS)["cosine.calm"]
        found = pd.read_csv(output)["cosine.calm"].to_numpy()
        assert found == pytest.approx(expected.to_numpy(), abs=1e-4)


def test_missing_reference_stops_before_the_model_is_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "with_default_model", lambda program, *given: given)
    arguments = ["MODEL", str(folder), "--prompts", "x", "--reference-clips", str(tmp_path / "no")]
    with pytest.raises(CorpusError, match="no does not exist"):
        predict.main(arguments)


@pytest.mark.filterwarnings("ignore:.*mean embedding of")
def test_search_compares_centred_clips(no_loading, paraclap, folder, tmp_path):
    index, table = str(tmp_path / "index"), tmp_path / "hits.csv"
    assert search.main(["index", str(tmp_path), str(folder), "-o", index]) == 0
    example = sorted(folder.iterdir())[2]
    queries = ["a calm voice", "--like", str(example), "-o", str(table)]
    search.main(["query", index, *queries, "--reference-clips", str(folder)])
    hits = pd.read_csv(table).sort_values("name")
    plain = embeddings_of(paraclap, folder)
    clips = centred(plain, plain)
    expected = clips @ paraclap.embed_text(["a calm voice"])[0]
    found = hits.loc[hits["query"] == "a calm voice", "cosine"].to_numpy()
    assert found == pytest.approx(expected, abs=0.02)  # of float16 in the index
    found = hits.loc[hits["query"] == f"like {example}", "cosine"].to_numpy()
    assert found == pytest.approx(clips @ clips[2], abs=0.02)


@pytest.mark.filterwarnings("ignore:.*mean embedding of")
def test_page_scores_relative_to_reference_clips_and_says_so(paraclap, folder, tmp_path, voice):
    results = pytest.importorskip("paraclap.inference.results")
    soundfile.write(tmp_path / "clip.wav", voice(1.5), 16_000)
    analyzer = Analyzer(paraclap.adapt(folder))
    analysis = analyzer.analyze(tmp_path / "clip.wav", "angry\ncalm")
    expected = paraclap.score(tmp_path / "clip.wav", PROMPTS).iloc[0]
    assert analysis.scores["cosine.calm"] == pytest.approx(expected["cosine.calm"], abs=1e-4)
    assert "relative to the mean of 6 reference clips" in results.notes_of(analysis)
