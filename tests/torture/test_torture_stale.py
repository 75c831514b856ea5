"""Nothing stale or damaged is used."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import yaml
from audio_files import assert_read_alike, babble, reason_of, tone, write
from safetensors.torch import load_file, save_file
from training_runs import train_until

from paraclap import cli
from paraclap.audio import SAMPLING_RATE, reading
from paraclap.audio.conditioning import condition, condition_with_report
from paraclap.audio.containers import read_duration
from paraclap.audio.quality import quality_flags
from paraclap.audio.reading import read_audio, read_audio_with_report, read_crop
from paraclap.audio.waveform_cache import cache_waveforms
from paraclap.captions.quality import DOUBTS
from paraclap.captions.sources import open_file
from paraclap.captions.templates import read_templates
from paraclap.cli import app, evaluate, features, models, predict, search
from paraclap.corpora.table_files import read_table
from paraclap.data.functionals import read_functionals
from paraclap.errors import ParaCLAPError
from paraclap.files import file_sha256
from paraclap.inference.index import ClipIndex
from paraclap.inference.measurement import _read_columns
from paraclap.model.build import load_model
from paraclap.model.hashes import write_hashes
from paraclap.settings import SettingsError
from paraclap.training import loop
from paraclap.training.checkpoint import CheckpointError
from paraclap.training.config import CONFIGS, check_paths, read_settings
from paraclap.training.tables import read_captions
from small_corpora import make_corpus, run

# --- Segments of MP3 -----------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [44_100, 48_000, 22_050])
def test_segments_and_crops_of_variable_bitrate_equal_the_whole(tmp_path, rate):
    samples = babble(12.0, rate)
    path = write(tmp_path / "a.mp3", samples, rate, format="MP3", bitrate_mode="VARIABLE")
    whole = read_audio(path)
    places = np.random.default_rng(0).uniform(0, 1, 60)
    for place in places:
        crop = read_crop(path, None, None, 0.5, place)
        first = round(place * (read_duration(path) - 0.5) * SAMPLING_RATE)
        np.testing.assert_allclose(crop, whole[first : first + len(crop)], atol=1e-5)
    for start in np.round(places * 550) / 50:  # a whole number of samples at each rate
        segment = read_audio(path, start, start + 0.5)[400:-400]
        expected = whole[round(start * SAMPLING_RATE) + 400 :][: len(segment)]
        np.testing.assert_allclose(segment, expected, atol=1e-3)


def test_blocks_of_variable_bitrate_have_no_faults_at_their_borders(tmp_path, monkeypatch):
    samples = babble(6.0, 44_100)
    path = write(tmp_path / "a.mp3", samples, 44_100, format="MP3", bitrate_mode="VARIABLE")
    whole = read_audio(path)
    monkeypatch.setattr(reading, "BLOCK_SECONDS", 0.3)
    np.testing.assert_allclose(read_audio(path), whole, atol=1e-6)


@pytest.mark.parametrize("suffix", ["mp3", "ogg", "wav", "ircam"])
def test_other_files_in_the_current_folder_do_not_matter(tmp_path, monkeypatch, suffix):
    path = write(tmp_path / f"a.{suffix}", babble(2.0), format=suffix.upper())
    expected = read_audio(path)
    monkeypatch.chdir(tmp_path)
    for name in ("._", f"._{path.name}"):
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(5000))
    np.testing.assert_array_equal(read_audio(path), expected)


# --- Truncated containers ------------------------------------------------------------------------


LENGTHS = {  # containers -> whether they state their length
    **dict.fromkeys(("NIST", "VOC", "AVR", "RIFX", "AIFF", "W64", "RF64", "CAF", "SVX"), True),
    **dict.fromkeys(("AU", "WAV", "HTK", "SDS", "FLAC"), True),
    **dict.fromkeys(("PAF", "PVF", "IRCAM", "MAT4", "MAT5"), False),
}


def contained(path: Path, container: str) -> Path:
    """Write an audio file in a container."""
    options = {"format": container}
    if container == "RIFX":
        options = {"format": "WAV", "endian": "BIG"}
    return write(path, babble(2.0), subtype="PCM_16", **options)


@pytest.mark.parametrize("share", [0.3, 0.66, 0.95])
@pytest.mark.parametrize("container, stated", LENGTHS.items())
def test_cut_files_are_refused_or_marked(tmp_path, container, stated, share):
    path = contained(tmp_path / "clip", container)
    waveform, report = read_audio_with_report(path)
    assert len(waveform) >= 2 * SAMPLING_RATE
    assert ("unknown_length" in report.flags()) == (not stated)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    if stated:
        assert reason_of(path) in ("truncated", "decoding", "not_audio")
    else:
        assert "unknown_length" in read_audio_with_report(path)[1].flags()


# --- Feature chunks ------------------------------------------------------------------------------

FEATURES = ["--feature-set", "captions", "--workers", "1", "--max-reject", "0"]
LOUDNESS = "loudness_sma3_amean"


def loudness(root, output):
    """Return the loudness of a corpus of one clip."""
    assert features.main([str(root), "-o", str(output), *FEATURES]) == 0
    return float(pd.read_parquet(output)[LOUDNESS].iloc[0])


@pytest.mark.torture(21, "other audio of the same name, size and modification time")
@pytest.mark.parametrize("place", ["other folder", "same folder"])
def test_chunk_of_other_audio_is_not_reused(tmp_path, voice, happened, place):
    loud, soft = tmp_path / "loud", tmp_path / "soft"
    for root, gain in ((loud, 1.0), (soft, 0.05)):
        root.mkdir()
        soundfile.write(root / "a.wav", gain * voice(0.5), 16_000)
        os.utime(root / "a.wav", ns=(0, 0))
    expected = loudness(soft, tmp_path / "alone.parquet")
    before = loudness(loud, tmp_path / "f.parquet")
    if place == "same folder":
        (soft / "a.wav").rename(loud / "a.wav")
        soft = loud
    assert loudness(soft, tmp_path / "f.parquet") == expected < before / 2
    happened(f"measured again: loudness {expected:.3f}, not {before:.3f}")


@pytest.mark.torture(21, "cached waveform of other audio of the same size and modification time")
def test_cached_waveform_of_other_audio_is_not_reused(tmp_path, voice):
    for gain in (1.0, 0.05):
        soundfile.write(tmp_path / "a.wav", gain * voice(0.5), 16_000)
        os.utime(tmp_path / "a.wav", ns=(0, 0))
        recordings = cache_waveforms(tmp_path / "cache", tmp_path, ["a.wav"])
        np.testing.assert_array_equal(recordings.read("a.wav"), read_audio(tmp_path / "a.wav"))


def all_columns(path):
    """Return a table as template_creation.py reads it."""
    return pa.Table.from_batches(open_file(path).read(pq.read_schema(path).names)).to_pandas()


READERS = {
    "features.parquet": {
        "evaluation": read_table,
        "captions": all_columns,
        "training": read_functionals,
        "page": lambda path: _read_columns(path, {LOUDNESS}, voiced=True).to_pandas(),
    },
    "captions.parquet": {"evaluation": read_table, "training": read_captions},
}


@pytest.mark.torture(21, "flipped bits in each column of features and captions")
@pytest.mark.parametrize(
    "name, reader", [(name, reader) for name, readers in READERS.items() for reader in readers]
)
def test_flipped_bits_of_a_table_change_no_value(captions, tmp_path, happened, name, reader):
    path, read = tmp_path / name, READERS[name][reader]
    whole = (captions.parent / name).read_bytes()
    path.write_bytes(whole)
    expected, refused = read(path), []
    group = pq.ParquetFile(path).metadata.row_group(0)
    for number in range(group.num_columns):
        column = group.column(number)
        start = column.dictionary_page_offset or column.data_page_offset
        for share in (0.5, 0.95):
            changed = bytearray(whole)
            changed[start + int(column.total_compressed_size * share)] ^= 4
            path.write_bytes(changed)
            try:
                pd.testing.assert_frame_equal(read(path), expected, check_exact=True)
            except ParaCLAPError as error:
                assert str(path) in str(error) and "\n" not in str(error)
                refused.append(column.path_in_schema)
    assert len(refused) > (1 if reader == "page" else group.num_columns)
    happened(f"{len(refused)} of {2 * group.num_columns} refused, no value changed")


@pytest.mark.torture(21, "flipped bits in the footers of features and captions")
@pytest.mark.parametrize("name", READERS)
def test_flipped_bits_of_a_footer_rename_no_column(captions, tmp_path, happened, name):
    whole, path = (captions.parent / name).read_bytes(), tmp_path / name
    path.write_bytes(whole)
    expected, refused = read_table(path), 0
    length = int.from_bytes(whole[-8:-4], "little")
    places = [match.start() + 3 for match in re.finditer(rb"emotion|\bduration|speaker", whole)]
    places += np.random.default_rng(0).integers(len(whole) - length, len(whole) - 8, 30).tolist()
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 4
        path.write_bytes(changed)
        try:
            table = read_table(path)
            assert table.columns.equals(expected.columns)
        except ParaCLAPError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 5
    happened(f"{refused} of {len(places)} refused, no column renamed")


# --- Resuming on other data ----------------------------------------------------------------------


def test_other_audio_of_the_same_size_is_refused_on_resuming(config, corpus, tmp_path, monkeypatch):
    root = tmp_path / "corpus"
    shutil.copytree(corpus, root)
    arguments = [config, f"data.root={root}"]
    train_until(monkeypatch, 4, arguments)
    path = root / loop.Trainer(read_settings(arguments)).data.train_table.index[0][0]
    status = path.stat()
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples[::-1], rate)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    with pytest.raises(SettingsError, match="the audio"):
        loop.train(read_settings(arguments))


def test_shuffled_functionals_are_refused_on_resuming(config, captions, tmp_path, monkeypatch):
    settings = yaml.safe_load(Path(config).read_text())
    settings["model"]["audio"]["config"] = {"model_type": "egemaps", "hidden_size": 16}
    settings["data"]["features"] = str(tmp_path / "features.parquet")
    Path(config).write_text(yaml.safe_dump(settings))
    table = pd.read_parquet(captions.parent / "features.parquet")
    table.to_parquet(tmp_path / "features.parquet")
    train_until(monkeypatch, 4, [config])
    table.iloc[::-1].to_parquet(tmp_path / "features.parquet")  # other order, same values
    train_until(monkeypatch, 5, [config])
    table.iloc[::-1].set_axis(table.index).to_parquet(tmp_path / "features.parquet")
    with pytest.raises(SettingsError, match="the features"):
        loop.train(read_settings([config]))


@pytest.mark.parametrize("removed", [None, "checkpoints"])
def test_old_model_is_not_left_beside_a_new_run(config, tmp_path, monkeypatch, removed):
    run = tmp_path / "run"
    loop.train(read_settings([config, "train.epochs=1"]))
    (run / "nonfinite.json").touch()
    if removed is None:
        train_until(monkeypatch, 1, [config, "train.resume=never"])
    else:
        shutil.rmtree(run / "checkpoints")
        with pytest.raises(CheckpointError, match=r"has a finished model .* train\.resume=never"):
            loop.train(read_settings([config, "train.epochs=1"]))
        assert (run / "best").exists()
        shutil.rmtree(run / "last")  # the run was killed before its first checkpoint
        train_until(monkeypatch, 1, [config])
    left = {path.name for path in run.iterdir()}
    assert not left & {"best", "last", "nonfinite.json"}, left


def test_old_model_is_left_if_the_new_run_has_wrong_data(config, tmp_path):
    loop.train(read_settings([config, "train.epochs=1"]))
    with pytest.raises(SettingsError, match="no row has split"):
        loop.train(read_settings([config, "train.resume=never", "data.train_split=none"]))
    assert (tmp_path / "run" / "best").exists() and (tmp_path / "run" / "checkpoints").exists()


def test_fine_tuning_into_the_folder_of_its_start_is_refused(model_folder):
    arguments = [str(CONFIGS / "finetune.yaml"), f"model.start={model_folder}"]
    for output in (model_folder, model_folder.parent):
        with pytest.raises(SettingsError, match="is in the folder of the run, output="):
            check_paths(read_settings([*arguments, f"output={output}"]))


# --- Damaged models ------------------------------------------------------------------------------


def damage_zeros(folder):
    """Zero 2 KiB of the weights, as after a crash of a machine."""
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(bytes(2048))
    return "model.safetensors is damaged or was replaced"


def damage_bit(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-100] ^= 64
    (folder / "model.safetensors").write_bytes(content)
    return "model.safetensors is damaged or was replaced"


def damage_tokenizer(folder):
    content = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(content.replace("a", "b", 1))
    return "tokenizer.json is damaged or was replaced"


def damage_nan(folder):
    weights = load_file(folder / "model.safetensors")
    weights["audio_projection.linear1.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_hashes(folder)
    return "weight 'audio_projection.linear1.weight' is not finite"


def damage_hashes(folder):
    (folder / "SHA256SUMS").write_text("x" * 70)
    return "SHA256SUMS is damaged"


def damage_missing(folder):
    (folder / "tokenizer.json").unlink()
    return "SHA256SUMS names tokenizer.json"


def damage_empty_hashes(folder):
    (folder / "SHA256SUMS").write_text("")
    return "SHA256SUMS is damaged: it lists no weights"


def damage_unlisted(folder):
    lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    kept = [line for line in lines if "model.safetensors" not in line]
    (folder / "SHA256SUMS").write_text("".join(kept))
    return "SHA256SUMS is damaged: it lists no weights"


def damage_added(folder):
    (folder / "preprocessor_config.json").write_text("{}")
    return "preprocessor_config.json is not listed in SHA256SUMS"


def damage_entry(file, old, new):
    def damage(folder):
        content = (folder / file).read_text()
        assert old in content
        (folder / file).write_text(content.replace(old, new, 1))
        return f"{file} is damaged or was replaced"

    damage.__name__ = f"damage {old}"
    return damage


MODEL_DAMAGES = [
    damage_empty_hashes,
    damage_unlisted,
    damage_added,
    damage_entry("config.json", '"layer_norm_eps": 1e-12', '"layer_norm_eps": 1.0'),
    damage_entry("config.json", '"layer_norm_eps": 1e-05', '"layer_norm_eps": 1.0'),
    damage_entry("processor_config.json", '"gain": 10.0', '"gain": 2.0'),
    damage_entry("tokenizer_config.json", "[SEP]", "[PAD]"),
    damage_zeros,
    damage_bit,
    damage_tokenizer,
    damage_nan,
    damage_hashes,
    damage_missing,
]
COMMANDS = {
    "evaluate": lambda model, clip: evaluate.main([model, f"{clip.parent}/labels.csv"]),
    "predict": lambda model, clip: predict.main([model, str(clip), "--prompts", "a", "b"]),
    "search": lambda model, clip: search.main(["index", model, str(clip), "-o", f"{clip}.index"]),
    "publish": lambda model, clip: models.main(["publish", model, f"{clip}.published"]),
    "export": lambda model, clip: models.main(["export", model, f"{clip}.onnx"]),
    "page": lambda model, clip: app.main([model]),
}


@pytest.mark.torture(29, "model folder of a run damaged")
@pytest.mark.parametrize("damage", MODEL_DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_models_are_refused(model_folder, tmp_path, damage, happened):
    shutil.copytree(model_folder, tmp_path / "model")
    write_hashes(tmp_path / "model")
    load_model(tmp_path / "model")
    message = damage(tmp_path / "model")
    with pytest.raises(ParaCLAPError, match=message):
        load_model(tmp_path / "model")
    happened(message)


@pytest.mark.torture(29, "weights damaged, for each command")
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_uses_damaged_weights(model_folder, tmp_path, voice, command, happened):
    shutil.copytree(model_folder, tmp_path / "model")
    write_hashes(tmp_path / "model")
    damage_zeros(tmp_path / "model")
    soundfile.write(tmp_path / "a.wav", voice(0.3), 16_000)
    soundfile.write(tmp_path / "b.wav", voice(0.3, f0=200), 16_000)
    (tmp_path / "labels.csv").write_text("file,emotion\na.wav,angry\nb.wav,sad\n")
    with pytest.raises(ParaCLAPError, match=r"model.safetensors is damaged or was replaced"):
        COMMANDS[command](str(tmp_path / "model"), tmp_path / "a.wav")
    happened("refused")


# --- Damaged indexes -----------------------------------------------------------------------------


@pytest.fixture
def index(model_folder, tmp_path, voice):
    """An index of three clips."""
    (tmp_path / "audio").mkdir()
    for number in range(3):
        path = tmp_path / "audio" / f"{number}.wav"
        soundfile.write(path, voice(0.5, f0=100 + 50 * number), 16_000)
    command = ["index", str(model_folder), str(tmp_path / "audio"), "-o", str(tmp_path / "index")]
    assert search.main(command) == 0
    return tmp_path / "index"


def queried(index, *options):
    """Exit code of a query, and the table of its results."""
    hits = index.with_name("hits.csv")
    hits.unlink(missing_ok=True)
    arguments = ["query", str(index), "angry", "-o", str(hits), *options]
    code = cli.run(lambda: search.main(arguments), "search.py")
    return code, pd.read_csv(hits, keep_default_na=False) if hits.exists() else None


def longer(path):
    """Multiply the stored embeddings."""
    rows = np.load(path)
    np.save(path, rows * np.float16(4))


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


def replaced(path):
    """Replace a recording by another of the same size and modification time."""
    status = path.stat()
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[::-1], rate)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def zeroed(path):
    content = path.read_bytes()
    path.write_bytes(content[:-32] + bytes(32))


def objects(path):
    np.save(path, np.array([object()]), allow_pickle=True)


DAMAGES = {
    "lengths": ("*.npy", longer),
    "bit": ("*.npy", flipped),
    "zeros": ("*.npy", zeroed),
    "shortened": ("*.npy", lambda path: path.write_bytes(path.read_bytes()[:-7])),
    "one row fewer": ("*.npy", lambda path: np.save(path, np.load(path)[:-1])),
    "other type": ("*.npy", lambda path: np.save(path, np.load(path).astype(np.float32))),
    "pickle": ("*.npy", objects),
    "empty": ("*.npy", lambda path: path.write_bytes(b"")),
    "gone": ("*.npy", Path.unlink),
    "keys": ("*.clips.parquet", flipped),
    "no keys": ("*.clips.parquet", Path.unlink),
}


@pytest.mark.torture(21, "embeddings of an index damaged")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.filterwarnings("ignore:.*damaged, its clips are embedded again")
def test_damaged_embeddings_are_not_ranked(index, model_folder, capsys, happened, damage):
    code, expected = queried(index)
    assert code == 0 and expected["cosine"].between(-1, 1).all()
    pattern, fault = DAMAGES[damage]
    (path,) = (index / "chunks").glob(pattern)
    fault(path)
    code, hits = queried(index)
    message = capsys.readouterr().err.splitlines()[-1]
    assert code == 1 and hits is None and "run the index command again" in message
    search.main(["index", str(model_folder), str(index.with_name("audio")), "-o", str(index)])
    code, hits = queried(index)
    assert code == 0 and hits.equals(expected)
    happened("refused, and embedded again by the next update")


@pytest.mark.torture(21, "table of an index damaged")
@pytest.mark.filterwarnings("ignore:.*it is written again")
@pytest.mark.parametrize(
    "fault",
    [
        lambda table: table.drop(columns="row"),
        lambda table: table.assign(chunk="0" * 32),
        lambda table: table.assign(row=7),
        lambda table: table.assign(row=-1),
        lambda table: table.assign(row=table["row"].to_numpy()[::-1]),
        lambda table: table.assign(row=table["row"] + 0.5),
        lambda table: table.assign(row=table["row"].astype("str")),
        lambda table: table.assign(key=table["key"].to_numpy()[::-1]),
        lambda table: table.assign(start=table["start"].astype("str")),
        lambda table: table.assign(name=3, quality=4),
        lambda table: table[:0],
        None,
    ],
)
def test_damaged_table_of_an_index_is_refused_and_written_again(
    index, model_folder, capsys, happened, fault
):
    _, expected = queried(index)
    path = index / "clips.parquet"
    if fault:
        fault(pd.read_parquet(path)).to_parquet(path, index=False)
    else:
        path.write_bytes(path.read_bytes()[:-99])
    capsys.readouterr()
    code, hits = queried(index)
    assert code == 1 and hits is None
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "was changed or is damaged" in message
    search.main(["index", str(model_folder), str(index.with_name("audio")), "-o", str(index)])
    assert queried(index)[1].equals(expected)
    happened("refused, and written again by the next update, which embeds nothing")


def test_index_without_any_clip_is_refused(index, model_folder, capsys):
    audio = index.with_name("audio")
    for path in audio.iterdir():
        path.write_bytes(b"")
    assert search.main(["index", str(model_folder), str(audio), "-o", str(index)]) == 1
    capsys.readouterr()
    assert queried(index) == (1, None)
    assert "holds no clips" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"format": 2}', '{"format": 2, "model": "m", "fingerprints": {}}']
    + ['{"format": 2, "model": 3, "fingerprints": {"audio": "a", "text": "b"}}', "[" * 100_000],
)
def test_index_without_its_keys_is_refused(index, capsys, text):
    (index / "index.json").write_text(text)
    code, hits = queried(index)
    message = capsys.readouterr().err
    assert code == 1 and hits is None and message.count("\n") == 1 and str(index) in message


@pytest.mark.parametrize(
    "change, state",
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: (path.unlink(), path.mkdir()), "missing"),
        (lambda path: flipped(path), "changed"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "changed"),
        (lambda path: replaced(path), "changed"),
        (lambda path: os.utime(path, ns=(5, 5)), ""),
        (lambda path: path.write_bytes(path.read_bytes()), ""),
    ],
)
def test_results_whose_file_is_gone_or_was_replaced_are_marked(index, capsys, change, state):
    change(index.with_name("audio") / "1.wav")
    page = index.with_name("hits.html")
    code, hits = queried(index, "--page", str(page))
    states = hits.set_index("file")["file_state"]
    assert code == 0 and states.to_dict() == {"0.wav": "", "1.wav": state, "2.wav": ""}
    note = {"missing": "no longer exists", "changed": "was changed since"}.get(state)
    for text in (capsys.readouterr().out, page.read_text()):
        assert text.count("the file ") == (note is not None)
        assert note is None or f"the file {note}" in text


def test_replaced_file_is_indexed_again(index, model_folder):
    audio = index.with_name("audio")
    replaced(audio / "1.wav")
    assert search.main(["index", str(model_folder), str(audio), "-o", str(index)]) == 0
    clips = ClipIndex(index).clips
    assert clips["content"].tolist() == [file_sha256(audio / file) for file in clips["file"]]


# --- Older models --------------------------------------------------------------------------------

# --- Doubtful channels ---------------------------------------------------------------------------


def layouts(voice: np.ndarray) -> dict[str, np.ndarray]:
    """Return the same voice on different channels (F, C)."""
    silence, noise = np.zeros_like(voice), np.random.default_rng(1).normal(0, 1e-3, voice.shape)
    click = np.where(np.arange(len(voice)) == len(voice) // 2, 0.5, 0.0)
    return {
        "two equal": np.stack([voice, voice], axis=1),
        "left": np.stack([voice, silence], axis=1),
        "right, the left with an offset": np.stack([silence + 0.1, voice], axis=1),
        "one of six": np.stack([silence] * 4 + [voice, silence], axis=1),
        "one of six with faint noise": np.stack([noise, noise, voice, noise, noise, noise], axis=1),
        "one of four with clicks": np.stack([voice, click, click, click], axis=1),
        "late": np.stack([np.r_[silence, voice], np.r_[silence, silence]], axis=1),
    }


@pytest.mark.parametrize("rate", [SAMPLING_RATE, 44_100])
@pytest.mark.parametrize("layout", layouts(np.zeros(1)))
def test_channel_layout_does_not_change_the_waveform(tmp_path, layout, rate):
    samples = layouts(babble(3.0, rate))[layout]
    mono = samples[:, samples.std(axis=0).argmax()]
    expected = read_audio(write(tmp_path / "mono.wav", mono, rate))
    path = write(tmp_path / "clip.wav", samples, rate)
    np.testing.assert_array_equal(assert_read_alike(path, len(samples) / rate), expected)
    np.testing.assert_allclose(condition(samples, rate), expected, atol=1e-4)


def test_channels_that_sound_only_late_are_part_of_the_mean_everywhere(tmp_path):
    samples = np.zeros((10 * SAMPLING_RATE, 2))
    samples[:, 0] = babble(10.0)
    samples[-SAMPLING_RATE:, 1] = tone()
    path = write(tmp_path / "clip.wav", samples)
    whole = assert_read_alike(path, 10.0)
    np.testing.assert_allclose(whole, samples.mean(axis=1), atol=1e-4)


@pytest.mark.parametrize("gain, found", [(-0.5, True), (-0.3, True), (0.0, False), (0.5, False)])
def test_channels_that_cancel_in_part_are_flagged(tmp_path, gain, found):
    voice = babble(2.0)
    path = write(tmp_path / "clip.wav", np.stack([voice, gain * voice], axis=1))
    assert ("antiphase:1.00" in read_audio_with_report(path)[1].flags()) == found


# --- Descriptors of doubtful recordings -----------------------------------------------------------

VOICE = {"pitch", "pitch_variation", "jitter", "shimmer"}
LEFT_OUT = {
    "": set(),
    "resampled:44100;mixed:2;silent_channels:1": set(),
    "a flag of another program": set(),
    "silent": {*VOICE, "intensity"},
    "unvoiced": VOICE,
    "mixed:2;antiphase:0.50": {*VOICE, "intensity"} - {"pitch"},
    "offset:-0.012": {"intensity", "jitter", "shimmer"},
    "offset:0.030": {"intensity", "jitter", "shimmer", "pitch_variation"},
    "clipped:0.0020": set(),
    "clipped:0.0200": {"shimmer"},
    "clipped:0.0500": {"shimmer", "intensity", "jitter"},
    "truncated": {"duration"},
    "clipped:0.0100;truncated": {"duration", "shimmer"},
}


@pytest.mark.parametrize("flags", LEFT_OUT)
@pytest.mark.parametrize("templates", ["paraclap", "published"])
def test_captions_leave_out_what_the_flags_make_doubtful(tmp_path, capsys, flags, templates):
    table = make_corpus(60)
    flagged = [row % 6 == 0 for row in range(60)]
    table["quality"] = [flags if is_flagged else "" for is_flagged in flagged]
    table.loc[flagged, "equivalentSoundLevel_dBp"] = 99.0  # what the fault makes of it
    output = tmp_path / "captions.parquet"
    table.to_parquet(tmp_path / "f.parquet")
    assert run(tmp_path / "f.parquet", "-o", output, "--templates", templates) == 0
    captions = pd.read_parquet(output)
    levels = {"pitch", "pitch_variation", "intensity", "jitter", "shimmer", "duration"}
    missing = {name for name in levels if captions.loc[flagged, f"{name}_level"].isna().all()}
    assert missing == LEFT_OUT[flags]
    described = set(captions.loc[flagged, "caption_descriptors"].explode())
    assert described & levels == levels - missing and {"emotion", "gender"} <= described
    others = captions.loc[[not is_flagged for is_flagged in flagged]]
    assert others[[f"{name}_level" for name in levels]].notna().all(axis=None)
    printed = capsys.readouterr().out
    stated = re.findall("left out because of quality flags: (.*)", printed)
    assert set(", ".join(stated).split(", ")) == {f"{name} 10" for name in missing} or not missing
    fitted = json.loads(output.with_name("captions.edges.json").read_text())["descriptors"]
    used = {name: entry["groups"][0]["n"] for name, entry in fitted.items() if name in levels}
    assert used == {name: 50 if name in missing else 60 for name in levels}


def test_flags_of_recordings_are_those_that_captions_know():
    seconds = np.arange(16000) / 16000
    voice = (0.5 * np.sin(2 * np.pi * 150 * seconds)).astype(np.float32)
    for change, flag in ((voice + 0.05, "offset"), (np.clip(4 * voice, -1, 1), "clipped")):
        names = {text.partition(":")[0] for text in condition_with_report(change, 16000)[1].flags()}
        assert flag in names and flag in {doubt.flag for doubt in DOUBTS}
    assert quality_flags(np.zeros(16000, np.float32)) == ["silent"]
    assert {"silent", "unvoiced"} <= {doubt.flag for doubt in DOUBTS}


def test_doubtful_columns_are_those_of_descriptors():
    measured = {d.column for d in read_templates(["paraclap", "extended"]) if d.kind == "level"}
    assert {column for doubt in DOUBTS for column in doubt.columns} <= measured
