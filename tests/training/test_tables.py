"""Tables of a run: splits by speaker and provenance."""

import json

import audformat
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paraclap.settings import DataSettings, Settings
from paraclap.training import loop, tables
from paraclap.training.config import SettingsError, read_settings


def table_of(speakers, splits=None):
    columns = {"speaker": speakers} | ({"split": splits} if splits else {})
    return pd.DataFrame(columns, index=range(len(speakers)))


def settings_with(**data):
    return Settings(data=DataSettings(**data))


def test_validation_uses_the_split_column():
    table = table_of(list("aabbcc"), ["train", "train", "dev", "dev", "test", "test"])
    training, validation = tables.split_table(table, settings_with())
    assert training.index.tolist() == [0, 1] and validation.index.tolist() == [2, 3]


def test_validation_holds_out_speakers_without_a_split_column():
    table = table_of(list("aabbccdd"))
    training, validation = tables.split_table(table, settings_with(validation_speakers=2))
    assert len(training) == len(validation) == 4
    assert not set(training["speaker"]) & set(validation["speaker"])
    again = tables.split_table(table, settings_with(validation_speakers=2))[1]
    assert again.index.equals(validation.index)


@pytest.mark.parametrize(
    "table, data, message",
    [
        (table_of(list("aab"), ["train", "dev", "dev"]), {}, "speakers a are in both"),
        (table_of(list("aab"), ["x", "x", "x"]), {}, "no row has split 'train'"),
        (table_of(list("aab")), {}, "2 training speakers"),
    ],
)
def test_impossible_splits_are_refused(table, data, message):
    with pytest.raises(SettingsError, match=message):
        tables.split_table(table, settings_with(**data))


def files_of(names, **columns):
    index = audformat.segmented_index(names, [0] * len(names), [pd.NaT] * len(names))
    return pd.DataFrame(columns, index)


def test_files_are_held_out_if_speakers_are_unknown():
    table = files_of([f"{n % 20}.wav" for n in range(40)], note=range(40))
    table.index = table.index.set_levels(table.index.levels[1], level=1)
    with pytest.warns(UserWarning, match="speakers are unknown: .* a column speaker prevents"):
        training, validation = tables.split_table(table, settings_with())
    held_out = set(validation.index.get_level_values("file"))
    assert len(held_out) == 2 and len(validation) == 4 and len(training) == 36
    assert not held_out & set(training.index.get_level_values("file"))
    with pytest.raises(SettingsError, match="too few files to hold out"):
        tables.split_table(table[:1], settings_with())
    assert len(tables.split_table(table, settings_with(validation_speakers=0))[0]) == 40


def test_splits_of_unknown_speakers_and_files_in_both_are_stated():
    table = files_of(["a.wav", "b.wav", "b.wav"], split=["train", "train", "dev"])
    with pytest.warns(UserWarning, match=r"those of the training, and 1 files are, such as b"):
        tables.split_table(table, settings_with())


def test_provenance_has_no_paths_and_no_unrecorded_corpus(captions, tmp_path):
    pd.read_parquet(captions).to_parquet(tmp_path / "bare.parquet")
    (tmp_path / "encoder").mkdir()
    settings = Settings()
    settings.data.captions = str(tmp_path / "bare.parquet")
    settings.model.audio.name = str(tmp_path / "encoder")
    settings.model.text.name = "bert-base-uncased"
    facts = tables.provenance(settings, tables.read_captions(captions)[:7], 1)
    assert facts["audio_encoder"] == "encoder"
    assert facts["text_encoder"] == "bert-base-uncased"
    assert facts["clips"] == 7 and "corpora" not in facts


def test_provenance_has_the_epochs_that_were_trained(captions):
    settings = Settings()
    settings.data.captions = str(captions)
    settings.train.batch_size = 4
    table = tables.read_captions(captions)[:48]
    for max_steps, epochs in ((0, 50), (6, 0.5), (5000, 50)):
        settings.train.max_steps = max_steps
        assert tables.provenance(settings, table, 50)["epochs"] == epochs


def test_provenance_has_every_corpus_of_joined_captions(tmp_path):
    about = {"corpora": {"ravdess": {"root": "/secret"}, "emodb": {}}}
    table = pa.table({"file": ["a"], "captions": [["x"]], "caption_descriptors": [["emotion"]]})
    metadata = {b"paraclap": json.dumps(about).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "joined.parquet")
    settings = Settings()
    settings.data.captions = str(tmp_path / "joined.parquet")
    facts = tables.provenance(settings, tables.read_captions(settings.data.captions), 1)
    assert facts["corpora"] == ["ravdess", "emodb"]


def test_missing_captions_table_is_named(config):
    with pytest.raises(SettingsError, match="template_creation"):
        loop.train(read_settings([config, "data.captions=nowhere.parquet"]))


@pytest.mark.parametrize(
    "options, reason",
    [
        (["data.augment.gain=0.5", "data.crop=centre"], "augment.gain requires data.crop=random"),
        (
            ["data.augment.noise=0.5", "data.features=x.parquet"],
            "noise requires an audio encoder",
        ),
    ],
)
def test_augmentation_of_fixed_crops_and_functionals_is_refused(config, options, reason):
    with pytest.raises(SettingsError, match=reason):
        loop.train(read_settings([config, *options]))
