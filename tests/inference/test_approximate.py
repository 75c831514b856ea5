"""Approximate search: recall against exact search, outdated indices, the command line."""

import shutil

import numpy as np
import pytest

from benchmarks import search as benchmark
from benchmarks.search import recall
from paraclap.cli import search as cli_search
from paraclap.errors import MissingPackageError
from paraclap.files import OutputError
from paraclap.inference import approximate, index_update
from paraclap.inference.approximate import ApproximateIndex, build
from paraclap.inference.index import ClipIndex, ClipIndexError


def test_recall_is_the_share_of_exact_results():
    assert recall(np.array([[1, 2, 3], [4, 5, 6]]), np.array([[3, 2, 9], [7, 8, 6]])) == 0.5


def test_missing_package_is_named(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(approximate, "import_module", absent)
    with pytest.raises(MissingPackageError, match=r"faiss .*paraclap\[search\]"):
        build(None)


def test_embeddings_of_rows_are_those_of_their_places(tmp_path, monkeypatch):
    monkeypatch.setattr(index_update, "CHUNK_ROWS", 7)
    benchmark.write_index(tmp_path / "i", 20, 16, "voices")
    index = ClipIndex(tmp_path / "i")
    parts = [benchmark.generate(n, 16, "voices", [1, f]) for f, n in ((0, 7), (7, 7), (14, 6))]
    chosen = np.array([19, 0, 7, 6, 13])
    assert index.embeddings(chosen) == pytest.approx(np.concatenate(parts)[chosen], abs=1e-3)


# --- With faiss ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Folder of 6,000 generated clips in several files, with an approximate index."""
    pytest.importorskip("faiss")
    folder = tmp_path_factory.mktemp("index") / "i"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_update, "CHUNK_ROWS", 2_500)
        patch.setattr(approximate, "FEWEST", 5_000)
        benchmark.write_index(folder, 6_000, 64, "voices")
        assert "approximate index in" in build(ClipIndex(folder))
    return folder


@pytest.fixture(scope="module")
def queries():
    return benchmark.generate(40, 64, "voices", [2])


def test_most_exact_results_are_found_with_exact_cosines(prepared, queries):
    index = ClipIndex(prepared)
    exact, _ = index.search(queries, 10)
    rows, cosines = ApproximateIndex(index).search(queries, 10)
    assert recall(rows, exact) > 0.9
    every = index.search(queries, len(index))
    for query in range(len(queries)):
        place = {row: value for row, value in zip(*(part[query] for part in every), strict=True)}
        assert cosines[query] == pytest.approx([place[row] for row in rows[query]], abs=1e-6)
        assert (np.diff(cosines[query]) <= 0).all()


def test_recall_depends_on_the_number_of_searched_lists(prepared, queries, monkeypatch):
    monkeypatch.setattr(approximate, "PROBED", 1)
    monkeypatch.setattr(approximate, "FEWEST_CANDIDATES", 6_000)
    index = ClipIndex(prepared)
    all_of_them = ApproximateIndex(index).search(queries, 10)[0]
    assert recall(all_of_them, index.search(queries, 10)[0]) == 1
    monkeypatch.setattr(approximate, "PROBED", 10_000)
    one_list = ApproximateIndex(index).search(queries, 10)[0]
    assert recall(one_list, index.search(queries, 10)[0]) < 1


def test_more_results_than_the_lists_hold_are_searched_exactly(prepared, queries):
    index = ClipIndex(prepared)
    rows, cosines = ApproximateIndex(index).search(queries[:2], 6_000)
    expected = index.search(queries[:2], 6_000)
    assert (rows == expected[0]).all() and (cosines == expected[1]).all()


def test_outdated_index_is_not_used(prepared, tmp_path):
    folder = tmp_path / "i"
    benchmark.write_index(folder, 100, 64, "voices")
    stale = next(prepared.glob("approximate-*.faiss"))
    (folder / stale.name).write_bytes(stale.read_bytes())
    with pytest.raises(ClipIndexError, match="--approximate"):
        ApproximateIndex(ClipIndex(folder))
    assert "100 clips are searched exactly" in build(ClipIndex(folder))
    assert not approximate.is_prepared(folder), "outdated ones are removed"


def test_damaged_index_is_refused_and_built_again(prepared, tmp_path, queries, monkeypatch):
    monkeypatch.setattr(approximate, "FEWEST", 5_000)
    folder = tmp_path / "i"
    shutil.copytree(prepared, folder)
    (path,) = folder.glob("approximate-*.faiss")
    whole = path.read_bytes()
    for content in (whole[:-9], whole[:5000] + bytes(99) + whole[5099:], b""):
        path.write_bytes(content)
        with pytest.raises(ClipIndexError, match="is damaged: build it again"):
            ApproximateIndex(ClipIndex(folder))
        build(ClipIndex(folder))
        assert path.read_bytes() == whole
    assert ApproximateIndex(ClipIndex(folder)).search(queries, 5)[0].shape == (40, 5)


def test_damaged_embeddings_of_candidates_are_refused(prepared, tmp_path, queries):
    folder = tmp_path / "i"
    shutil.copytree(prepared, folder)
    for path in (folder / "chunks").glob("*.npy"):
        np.save(path, np.load(path) * np.float16(3))
    with pytest.raises(ClipIndexError, match="damaged: run the index command again"):
        ApproximateIndex(ClipIndex(folder)).search(queries, 5)


def test_full_disk_is_one_sentence(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "FEWEST", 5_000)
    folder = tmp_path / "i"
    shutil.copytree(prepared, folder)
    for path in folder.glob("approximate-*"):
        path.unlink()
    faiss = approximate._faiss()
    monkeypatch.setattr(approximate, "_faiss", lambda: faiss)
    plain = faiss.write_index
    monkeypatch.setattr(faiss, "write_index", lambda found, path: plain(found, "/dev/full"))
    with pytest.raises(OutputError, match="cannot be written"):
        build(ClipIndex(folder))
    assert not approximate.is_prepared(folder)


def test_command_builds_and_uses_the_index(tiny, tmp_path, monkeypatch, capsys):
    pytest.importorskip("faiss")
    import soundfile

    from paraclap.inference.api import ParaCLAP

    (tmp_path / "audio").mkdir()
    rng = np.random.default_rng(3)
    for number in range(300):
        noise = rng.uniform(-1, 1, 1_600) * rng.uniform(0.01, 0.5)
        soundfile.write(tmp_path / "audio" / f"{number}.wav", noise, 16_000)
    monkeypatch.setattr(ParaCLAP, "from_pretrained", lambda *arguments: ParaCLAP(*tiny))
    monkeypatch.setattr(cli_search, "find_model", str)
    monkeypatch.setattr(cli_search, "with_default_model", lambda _, *given: given)
    monkeypatch.setattr(approximate, "FEWEST", 256)
    index, used = tmp_path / "i", []
    plain = ApproximateIndex.search
    monkeypatch.setattr(ApproximateIndex, "search", lambda *given: used.append(1) or plain(*given))
    command = ["index", str(tmp_path), str(tmp_path / "audio"), "-o", str(index)]
    assert cli_search.main([*command, "--approximate"]) == 0
    assert cli_search.main(["query", str(index), "a calm voice", "--count", "3"]) == 0
    found = capsys.readouterr().out
    assert cli_search.main(["query", str(index), "a calm voice", "--count", "3", "--exact"]) == 0
    first = capsys.readouterr().out.splitlines()[1]
    assert first in found and used == [1], "the nearest clip is found, and --exact is exact"
    (tmp_path / "audio" / "0.wav").unlink()
    assert cli_search.main(command) == 0, "an update rebuilds it"
    assert cli_search.main(["query", str(index), "a calm voice"]) == 0 and used == [1, 1]
