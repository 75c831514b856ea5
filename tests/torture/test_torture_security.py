"""Data cannot run code, write elsewhere or exhaust the machine."""

import json
import shutil
import time

import pyarrow.parquet as pq
import pytest
import soundfile

import corpus_files
from paraclap.audio.waveform_cache import cache_waveforms
from paraclap.captions.edges import read_edges
from paraclap.captions.templates import read_templates
from paraclap.cli import features
from paraclap.cli.models import _read_scores
from paraclap.corpora.databases import read_database
from paraclap.errors import ParaCLAPError
from paraclap.evaluation.prompts import load_prompts
from paraclap.files import YAML_BYTES, ForeignFolderError, file_sha256, parse_yaml
from paraclap.training.config import read_settings

# --- Model folders -------------------------------------------------------------------------------

# --- Names that become paths ---------------------------------------------------------------------

DATABASE = """\
name: mine
source: internal
usage: unrestricted
languages: [eng]
tables:
  {table}:
    type: filewise
    columns:
      emotion: {{}}
"""


@pytest.mark.torture(50, "table of a database outside of its folder")
@pytest.mark.parametrize("table", ["x/../../secret", "../secret", "/tmp/secret", "a\\\\b"])
def test_tables_of_a_database_are_read_from_its_folder_alone(tmp_path, table):
    corpus_files.touch(tmp_path, "corpus/a.wav", "corpus/db.x/b.wav")
    corpus_files.write(tmp_path, "secret.csv", "file,emotion\na.wav,anger\n")
    content = DATABASE.format(table=f'"{table}"')
    corpus_files.write(tmp_path, "corpus/db.yaml", content)
    message = corpus_files.message_of(tmp_path / "corpus")
    assert "is not part of a file name" in message


# --- Caches --------------------------------------------------------------------------------------

FOREIGN = ["faiss.index", "recording.i16", ".download.tmp", "part-1.parquet", "notes/a.i16", "lock"]
WRITERS = {
    "waveform cache": ("cache", lambda root: cache_waveforms(root / "cache", root, ["a.wav"])),
    "features": (
        "f.parts",
        lambda root: features.main([str(root), "-o", str(root / "f.parquet"), "--workers", "1"]),
    ),
}


@pytest.mark.torture(50, "cache in a folder with files of others")
@pytest.mark.parametrize("folder, write", WRITERS.values(), ids=WRITERS)
def test_files_of_others_in_a_folder_of_ours_are_left_alone(
    tmp_path, voice, happened, folder, write
):
    soundfile.write(tmp_path / "a.wav", voice(0.3), 16_000)
    for name in FOREIGN:
        corpus_files.write(tmp_path / folder, name, b"theirs")
    with pytest.raises(ForeignFolderError, match="use a new or empty folder"):
        write(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / folder).rglob("*") if path.is_file()}
    assert set(before.values()) == {b"theirs"} and len(before) == len(FOREIGN)
    (tmp_path / folder).rename(tmp_path / "theirs")
    write(tmp_path)
    for path in (tmp_path / "theirs").iterdir():
        path.rename(tmp_path / folder / path.name)
    for change in (0.4, 0.5):  # what was stored of the previous file is stale
        soundfile.write(tmp_path / "a.wav", voice(change), 16_000)
        write(tmp_path)
    assert all(path.read_bytes() == b"theirs" for path in before)
    happened("folder refused; among files of ours, theirs are left alone")


@pytest.mark.torture(50, "index of a waveform cache that names samples elsewhere")
def test_waveform_cache_reads_samples_of_its_own_folder_alone(tmp_path, voice):
    soundfile.write(tmp_path / "a.wav", voice(0.3), 16_000)
    expected = cache_waveforms(tmp_path / "cache", tmp_path, ["a.wav"]).read("a.wav")
    (index,) = (tmp_path / "cache").glob("*.index")
    (samples,) = (tmp_path / "cache").glob("*.i16")
    table = pq.read_table(index)
    shutil.copy(samples, tmp_path / samples.name)
    table = table.replace_schema_metadata(
        {**table.schema.metadata, b"samples": f"../{samples.name}".encode()}
    )
    pq.write_table(table, index)
    index.rename(index.with_name(f"{file_sha256(index)}.index"))
    with pytest.warns(UserWarning, match="names '../[0-9a-f]*.i16' as its samples"):
        recordings = cache_waveforms(tmp_path / "cache", tmp_path, ["a.wav"])
    assert (recordings.read("a.wav") == expected).all() and (tmp_path / samples.name).exists()


# --- YAML ----------------------------------------------------------------------------------------

READERS = {
    "settings": lambda path: read_settings([str(path)]),
    "templates": lambda path: read_templates([str(path)]),
    "prompts": load_prompts,
    "scores": lambda path: _read_scores(str(path)),
    "db": lambda path: read_database(path.parent),
}
FAULTS = {
    "aliases": "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 7)),
    "aliased lists in lists": "a0: &a0 [x]\n"
    + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200)),
    "itself": "a: &a [*a]",
    "brackets": "[" * 200_000,
    "mappings": "{a: " * 200_000,
    "a key twice": "happy: joyful\nsad: low\nhappy: sad",
    "a nested key twice": "train: {seed: 1, epochs: 2, seed: 3}",
    "a tag": "a: !!python/object/apply:os.mkdir [/nowhere]",
    "a long number": f"a: {':'.join(['1'] * 500_000)}",
    "size": "# " + "x" * YAML_BYTES,
    "bytes": b"\xff\xfea",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("reader", READERS)
def test_hostile_yaml_is_refused_in_one_sentence_within_a_second(tmp_path, reader, fault):
    path, content = tmp_path / "db.yaml", FAULTS[fault]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.perf_counter()
    with pytest.raises(ParaCLAPError) as error:
        READERS[reader](path)
    assert time.perf_counter() - start < 1
    message = str(error.value)
    assert "cannot be read" in message and "\n" not in message and len(message) < 500


@pytest.mark.parametrize(
    "text, content",
    [
        ("rate: 1e-3", {"rate": 1e-3}),
        ("output: 2024-01-01", {"output": "2024-01-01"}),
        ("a: &a {x: 1}\nb: {<<: *a, x: 2}\nc: *a", {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 1}}),
        ("\ufeffa: [1, 1.5, true, null]", {"a": [1, 1.5, True, None]}),
        ("", None),
    ],
)
def test_ordinary_yaml_is_read(text, content):
    assert parse_yaml(text) == content


@pytest.mark.parametrize(
    "value",
    ["${oc.env:PARACLAP_SECRET}", "${oc.env:PARACLAP_SECRET,x}", "a${oc.${b}:X}", "${output}"],
)
@pytest.mark.parametrize("key", ["output", "model.freeze", "data.corpora.x.root"])
def test_settings_do_not_read_the_environment(tmp_path, monkeypatch, key, value):
    monkeypatch.setenv("PARACLAP_SECRET", "hf_secret")
    nested: object = [value] if key == "model.freeze" else value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    path = tmp_path / "settings.yaml"
    path.write_text(json.dumps(nested))
    argument = f"{key}=['{value}']" if key == "model.freeze" else f"{key}={value}"
    (tmp_path / "empty.yaml").write_text("")
    for arguments in ([str(path)], [str(tmp_path / "empty.yaml"), argument]):
        with pytest.raises(ParaCLAPError, match=f"{key} is .*expected a value without") as error:
            read_settings(arguments)
        assert "hf_secret" not in str(error.value)


def test_deeply_nested_json_is_no_file_of_edges(tmp_path):
    (tmp_path / "edges.json").write_text("[" * 200_000)
    with pytest.raises(ParaCLAPError, match="not a file of edges"):
        read_edges(tmp_path / "edges.json", [])


# --- The page ------------------------------------------------------------------------------------
