"""Data cannot run code, write elsewhere or exhaust the machine."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from types import SimpleNamespace

import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile
from huggingface_hub import ModelCard
from transformers import AutoModel, Wav2Vec2Config, Wav2Vec2Model

import corpus_files
from paraclap.audio.waveform_cache import cache_waveforms
from paraclap.captions.edges import read_edges
from paraclap.captions.templates import read_templates
from paraclap.cli import evaluate, features, search
from paraclap.cli.models import _read_scores
from paraclap.corpora.databases import read_database
from paraclap.errors import ParaCLAPError
from paraclap.evaluation import tasks
from paraclap.evaluation.prompts import load_prompts
from paraclap.files import YAML_BYTES, ForeignFolderError, file_sha256, parse_yaml, safe_name
from paraclap.inference import guards
from paraclap.inference.guards import RequestGuard
from paraclap.inference.index import ClipIndex, ClipIndexError, read_about
from paraclap.inference.index_update import write_clips
from paraclap.model.build import load_model
from paraclap.model.card import model_card
from paraclap.model.towers import build_encoder, encoder_config, load_tokenizer
from paraclap.settings import TowerSettings
from paraclap.training.config import read_settings
from paraclap.training.loop import train
from tiny_models import TINY_AUDIO

# --- Model folders -------------------------------------------------------------------------------

CODE = """
import pathlib
pathlib.Path({marker!r}).touch()
class EvilModel: pass
class EvilConfig: pass
class EvilTokenizer: pass
class EvilExtractor: pass
"""
AUTO_MAPS = {
    "config.json": {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"},
    "tokenizer_config.json": {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]},
    "processor_config.json": {"AutoProcessor": "evil.EvilExtractor"},
    "preprocessor_config.json": {"AutoFeatureExtractor": "evil.EvilExtractor"},
}


def plant(folder, marker, *files, **entries):
    """Add code to a model folder, and entries of its files that name it."""
    (folder / "evil.py").write_text(CODE.format(marker=str(marker)))
    for file in files:
        path = folder / file
        content = json.loads(path.read_text()) if path.exists() else {}
        content |= {"auto_map": AUTO_MAPS[file], **entries}
        path.write_text(json.dumps(content))


@pytest.fixture
def no_prompt(monkeypatch):
    """Fail if there is a prompt at the terminal, and answer yes."""
    questions = []
    monkeypatch.setattr("builtins.input", lambda text="": questions.append(text) or "y")
    yield
    assert not questions


@pytest.mark.torture(46, "settings that make transformers run the code of an encoder's folder")
@pytest.mark.parametrize(
    "key",
    ["trust_remote_code", "auto_map", "code_revision", "revision", "cache_dir", "adapter_kwargs",
     "output_loading_info", "config", "state_dict", "quantization_config", "_name_or_path"],
)  # fmt: skip
def test_settings_cannot_run_the_code_of_an_encoder(tmp_path, no_prompt, key, happened):
    Wav2Vec2Model(Wav2Vec2Config(**TINY_AUDIO)).save_pretrained(tmp_path / "encoder")
    planted = {"trust_remote_code": True, "output_loading_info": False, "config": "other"}
    plant(tmp_path / "encoder", tmp_path / "executed", "config.json", **planted)
    for value in (True, AUTO_MAPS["config.json"]):
        tower = TowerSettings(str(tmp_path / "encoder"), {key: value})
        with pytest.raises(ParaCLAPError, match=f"model.audio.config.{key} is unknown"):
            encoder_config("audio", tower)
    name = str(tmp_path / "encoder")
    build_encoder("audio", name, encoder_config("audio", TowerSettings(name)))
    assert not (tmp_path / "executed").exists()
    happened("refused by name; the encoder is loaded without the code in its folder")


@pytest.mark.torture(46, "auto_map in each file of a model folder")
@pytest.mark.parametrize("unknown", [False, True], ids=["known type", "unknown type"])
@pytest.mark.parametrize("file", AUTO_MAPS)
def test_no_file_of_a_model_runs_code_or_prompts(
    model_folder, tmp_path, no_prompt, file, unknown, happened
):
    shutil.copytree(model_folder, tmp_path / "model")
    types = {"model_type": "evil", "tokenizer_class": "Evil", "feature_extractor_type": "Evil"}
    types |= {"processor_class": "EvilExtractor"}
    entries = {"trust_remote_code": True} | (types if unknown else {})
    plant(tmp_path / "model", tmp_path / "executed", file, **entries)
    for load in (
        load_model,
        load_tokenizer,
        lambda path: build_encoder("text", path, encoder_config("text", TowerSettings(path))),
    ):
        with contextlib.suppress(ParaCLAPError):
            load(str(tmp_path / "model"))
    assert not (tmp_path / "executed").exists()
    happened("nothing is executed, without a prompt")


@pytest.mark.torture(46, "auto_map of an encoder inside config.json")
@pytest.mark.parametrize("tower", ["audio_config", "text_config"])
@pytest.mark.parametrize("kind", ["align_text_model", "aimv2_text_model"])
def test_encoders_inside_a_model_run_no_code(model_folder, tmp_path, no_prompt, tower, kind):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    plant(folder, tmp_path / "executed")
    content = json.loads((folder / "config.json").read_text())
    entries = {"auto_map": AUTO_MAPS["config.json"], "_name_or_path": str(folder)}
    content[tower] = {"model_type": kind, **entries}
    (folder / "config.json").write_text(json.dumps(content))
    for load in (load_model, AutoModel.from_pretrained):
        with pytest.raises((ParaCLAPError, ValueError, RuntimeError)):
            load(folder)
    with pytest.raises((ValueError, RuntimeError)):  # the trust is in the code of ParaCLAP alone
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert not (tmp_path / "executed").exists()


@pytest.mark.torture(46, "config.json that demands a package")
@pytest.mark.parametrize(
    "entries",
    [{"attn_implementation": "evil/kernel"}, {"quantization_config": {"quant_method": "hqq"}}],
)
def test_packages_that_a_model_demands_are_named(model_folder, tmp_path, entries):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | entries))
    with pytest.raises(ParaCLAPError, match="cannot be loaded: .*(kernel|hqq|package|install)"):
        load_model(folder)


HOSTILE = """x | y\n## Pwned\n<script>alert(1)</script> [a](javascript:b) `c` ![d](//e) \u202egpj"""


@pytest.mark.torture(46, "markup in provenance and scores of a model card")
def test_text_from_data_is_escaped_in_model_cards(happened):
    figures = {"target": HOSTILE, "UAR": 0.5, "trained_on": {"text": HOSTILE}}
    provenance = {"audio_encoder": HOSTILE, "corpora": [HOSTILE], HOSTILE: HOSTILE}
    provenance |= {"attributes": {HOSTILE: {HOSTILE: []}}, "before": {"start": HOSTILE}}
    bases = {"audio": {"name": HOSTILE, "revision": HOSTILE, "sha256": HOSTILE, "stored": False}}
    config = SimpleNamespace(provenance=provenance, projection_dim=24, base_encoders=bases)
    scores = {"prompt_set": [HOSTILE], "corpora": {HOSTILE: figures}}
    text = model_card("USER/name", config, 1, True, scores=scores)
    card = ModelCard(text)
    assert card.data.to_dict()["model-index"][0]["results"][0]["dataset"]["name"] == HOSTILE
    body = text.split("---", 2)[2]
    assert "Pwned" in body and "\u202e" not in body
    for markup in ("\n## Pwned", "<script", "](j", "`c`", "![d](", "x | y"):
        assert markup not in body.replace(rf"\{markup}", "")
    happened("escaped, on one line")


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


@pytest.mark.torture(50, "index that names a file of embeddings outside of its folder")
@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "", "x" * 32, "0" * 31 + "\0"])
def test_index_names_its_own_files_alone(tmp_path, model_folder, voice, name):
    soundfile.write(tmp_path / "a.wav", voice(0.3), 16_000)
    index = tmp_path / "index"
    search.main(["index", str(model_folder), str(tmp_path / "a.wav"), "-o", str(index)])
    (rows,) = (index / "chunks").glob("*.npy")
    (tmp_path / "outside.npy").write_bytes(rows.read_bytes())
    table, about = pd.read_parquet(index / "clips.parquet"), read_about(index)
    write_clips(index, table.assign(chunk=name), about)
    with pytest.raises(ClipIndexError, match="is no name of a file of embeddings"):
        ClipIndex(index)


@pytest.mark.torture(50, "index that names a model elsewhere")
@pytest.mark.parametrize("model", ["attacker/model", "../model", "//host/share", "s3://a/b"])
def test_model_named_by_an_index_is_not_downloaded(
    tmp_path, model_folder, voice, monkeypatch, model
):
    soundfile.write(tmp_path / "a.wav", voice(0.3), 16_000)
    index = tmp_path / "index"
    search.main(["index", str(model_folder), str(tmp_path / "a.wav"), "-o", str(index)])
    about = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps(about | {"model": model}))
    monkeypatch.setattr(search, "find_model", lambda source: pytest.fail(f"looked for {source}"))
    with pytest.raises(ParaCLAPError, match="give the model with --model"):
        search.main(["query", str(index), "angry"])


@pytest.mark.torture(50, "name of a database that is a path")
@pytest.mark.parametrize("name", ["/tmp/elsewhere/own", "../own", "a/b", "..", "own\0x"])
def test_names_of_corpora_do_not_choose_where_evaluation_writes(
    model_folder, corpus, tmp_path, monkeypatch, name
):
    read = tasks.read_corpus

    def named(*arguments, **options):
        table = read(*arguments, **options)
        table.attrs["name"] = name
        return table

    monkeypatch.setattr(tasks, "read_corpus", named)
    (tmp_path / "own.csv").write_text("a table of others")
    output = tmp_path / "results"
    command = [str(model_folder), str(corpus), "-o", str(output), "--split", "dev"]
    assert evaluate.main([*command, "--targets", "gender"]) == 0
    stem = safe_name(f"{name}.gender")
    written = {f"{stem}.csv", "scores.yaml", "scores.md"}
    written |= {f"{stem}.{kind}.png" for kind in ("confusion", "calibration")}
    assert {path.name for path in output.iterdir()} == written
    assert {path.name for path in tmp_path.iterdir()} == {"own.csv", "results"}
    assert (tmp_path / "own.csv").read_text() == "a table of others"


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


@pytest.mark.torture(50, "run in a folder with files of others")
@pytest.mark.parametrize("name", ["config.yaml", "best/notes.txt", "last/a", "checkpoints/a"])
def test_a_run_replaces_no_files_of_others(config, tmp_path, name):
    path = corpus_files.write(tmp_path / "run", name, b"name: theirs\n")
    for resume in ("auto", "never"):
        with pytest.raises(
            ForeignFolderError, match=f"its {name.split('/')[0]} is not of train.py"
        ):
            train(read_settings([config, f"train.resume={resume}"]))
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert files == [path] and path.read_bytes() == b"name: theirs\n"


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
    "a long hexadecimal number": f"a: 0x{'f' * 900_000}",
    "a long octal number": f"a: 0{'7' * 900_000}",
    "a long binary number": f"a: 0b{'1' * 900_000}",
    "a long number with underscores": f"a: 1_{'1_' * 400_000}",
    "a long fraction": f"a: 1.{'1' * 900_000}",
    "a long negative number": f"a: -{'1' * 900_000}",
    "more than a float": f"a: {'9' * 400}",
    "size": "# " + "x" * YAML_BYTES,
    "bytes": b"\xff\xfea",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("reader", READERS)
def test_hostile_yaml_is_refused_in_one_sentence_and_soon(tmp_path, reader, fault):
    path, content = tmp_path / "db.yaml", FAULTS[fault]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.process_time()
    with pytest.raises(ParaCLAPError) as error:
        READERS[reader](path)
    assert time.process_time() - start < 10
    message = str(error.value)
    assert ("digits" in message) == ("number" in fault or "fraction" in fault or "float" in fault)
    assert "cannot be read" in message and "\n" not in message and len(message) < 500


@pytest.mark.parametrize(
    "text, content",
    [
        ("rate: 1e-3", {"rate": 1e-3}),
        (f"a: '{'1' * 101}'\nb: {'f' * 101}", {"a": "1" * 101, "b": "f" * 101}),
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


def answer(guard, path="/gradio_api/upload", **headers):
    """Status of a request to a guarded application."""
    sent = []

    async def send(message):
        sent.append(message)

    fields = {"host": "127.0.0.1:7860", **headers}
    scope = {"type": "http", "method": "POST", "path": path}
    scope["headers"] = [(n.replace("_", "-").encode(), v.encode()) for n, v in fields.items()]
    asyncio.run(guard(scope, None, send))
    return sent[0]["status"]


def guarded(folder, total, store=0):
    """A guard before an application that stores so many bytes for each request."""

    async def application(scope, receive, send):
        (folder / f"{len(list(folder.iterdir()))}.wav").write_bytes(bytes(store))
        await send({"type": "http.response.start", "status": 200})

    return RequestGuard(application, folder, total)


def test_uploads_are_limited_in_total(tmp_path):
    guard = guarded(tmp_path, total=1000, store=300)
    found = [answer(guard, content_length="300") for _ in range(5)]
    assert found == [200, 200, 200, 413, 413] and len(list(tmp_path.iterdir())) == 3
    assert answer(guard, path="/gradio_api/queue/join") == 200
    (tmp_path / "0.wav").unlink()
    assert answer(guard, content_length="100") == 200


def test_uploads_in_progress_count(tmp_path):
    async def application(scope, receive, send):
        inner = [200]
        if len(running) < 5:
            running.append(scope)
            inner = await nested()
        await send({"type": "http.response.start", "status": inner[0]})

    async def nested():
        statuses = []

        async def send(message):
            statuses.append(message.get("status"))

        await guard(scope, None, send)
        return statuses

    scope = {"type": "http", "path": "/upload", "headers": [(b"content-length", b"400")]}
    running, guard = [], RequestGuard(application, tmp_path, 1000)
    assert asyncio.run(nested())[0] == 413 and len(running) == 2


@pytest.mark.parametrize("length", [{}, {"content_length": "x"}, {"content_length": "-5"}])
def test_uploads_of_unknown_size_are_refused(tmp_path, length):
    assert answer(guarded(tmp_path, 1000), **length) == 411


@pytest.mark.parametrize(
    "origin, foreign",
    [
        ("http://127.0.0.1:7860", False),
        ("http://127.0.0.1:7861", True),
        ("http://localhost:7860", True),
        ("https://elsewhere.example", True),
        ("http://127.0.0.1:7860.elsewhere.example", True),
        ("http://elsewhere@127.0.0.1:7860", True),
        ("null", True),
        ("http://[", True),
        ("", True),
    ],
)
def test_requests_of_pages_of_other_sites_are_refused(tmp_path, origin, foreign):
    status = answer(guarded(tmp_path, 1000), origin=origin, content_length="1")
    assert status == (403 if foreign else 200)


def test_uploads_of_a_killed_page_are_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    reading, writing = os.pipe()
    children = []
    for ends in (False, True):  # one that still runs, and one that was killed
        if not (child := os.fork()):
            with guards.page_folder() as folder:
                (folder / "upload.wav").write_bytes(b"voice")
                os.write(writing, b".")
                time.sleep(0 if ends else 60)
                os.kill(os.getpid(), signal.SIGKILL)
        children.append(child)
        os.read(reading, 1)
    os.waitpid(children[1], 0)
    (tmp_path / "paraclap-page-link").symlink_to(tmp_path)
    (tmp_path / "paraclap-paper").mkdir()
    assert len(list(tmp_path.glob("paraclap-page-*/upload.wav"))) == 2
    with guards.page_folder() as own:
        kept = set(tmp_path.glob("paraclap-page-*/upload.wav"))
        assert len(kept) == 1 and own.stat().st_mode & 0o777 == 0o700
    os.kill(children[0], signal.SIGKILL)
    os.waitpid(children[0], 0)
    with guards.page_folder():
        assert not list(tmp_path.glob("paraclap-page-*/upload.wav"))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"paraclap-page-link", "paraclap-paper"}
