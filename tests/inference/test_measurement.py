"""Measured levels: groups, reference values, unusable tables."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from paraclap.audio.reading import read_audio
from paraclap.captions.edges import parse_edges
from paraclap.captions.templates import FIVE_LEVELS, LEVELS, default_descriptors
from paraclap.cli import template_creation
from paraclap.inference.api import ParaCLAP
from paraclap.inference.description import Description, descriptor_prompts
from paraclap.inference.measurement import (
    MeasurementError,
    groups_of_edges,
    measured_levels,
    reference_values,
)


@pytest.fixture(scope="session")
def by_gender(captions, tmp_path_factory):
    """Captions of the same features whose edges are by gender; read only."""
    folder = tmp_path_factory.mktemp("by_gender")
    table = captions.with_name("features.parquet")
    arguments = [str(table), "-o", str(folder / "captions.parquet"), "--edges-by", "gender"]
    assert template_creation.main(arguments) == 0
    return folder / "captions.parquet"


def edges_of(captions):
    return captions.with_name("captions.edges.json")


def test_levels_and_phrases_within_a_group_are_those_of_the_captions_table(by_gender, corpus):
    stored = pd.read_parquet(by_gender)
    rows = [stored["gender"].eq(gender).argmax() for gender in ("female", "male")]
    for row, gender in zip(rows, ("f", "male"), strict=True):  # two words for one group
        waveform = read_audio(corpus / stored.index[row][0])
        table = measured_levels(waveform, edges_of(by_gender), {"gender": gender})
        for name in ("pitch", "intensity", "duration"):
            assert table.loc[name, "level"] == stored[f"{name}_level"].iloc[row]
            assert table.loc[name, "phrase"] in stored["captions"].iloc[row]
        assert table.loc["pitch", "phrase"].endswith({"f": "woman", "male": "man"}[gender])
        assert table.loc["duration", "phrase"].startswith("duration is")  # compared with all


@pytest.mark.parametrize(
    ("labels", "message"),
    [({}, "the gender of the clip is required"), ({"gender": "robot"}, "expected woman; man")],
)
def test_missing_and_unknown_groups_are_refused(by_gender, labels, message):
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    with pytest.raises(MeasurementError, match=message):
        measured_levels(noise, edges_of(by_gender), labels)


def test_groups_of_edges_are_listed(by_gender, captions):
    assert groups_of_edges(edges_of(by_gender)) == {"gender": ("woman", "man")}
    assert groups_of_edges(edges_of(captions)) == {}


def test_description_uses_the_group(by_gender, corpus, tiny):
    file = corpus / pd.read_parquet(by_gender).index[0][0]
    description = ParaCLAP(*tiny).describe(file, edges_of(by_gender), {"gender": "female"})
    assert "for a woman" in description.caption


def test_edges_of_five_levels_give_five_levels(captions, corpus, tmp_path, tiny):
    features, output = captions.with_name("features.parquet"), tmp_path / "captions.parquet"
    arguments = [features, "-o", output, "--templates", "paraclap", "five_levels"]
    assert template_creation.main([*map(str, arguments)]) == 0
    stored, seen = pd.read_parquet(output), set()
    for row in range(0, len(stored), 3):
        table = measured_levels(read_audio(corpus / stored.index[row][0]), edges_of(output))
        seen.add(level := table.loc["pitch", "level"])
        assert level == stored["pitch_level"].iloc[row]
        assert table.loc["pitch", "phrase"] in stored["captions"].iloc[row]
    assert {"very low", "very high"} & seen
    assert (table[["below", "above"]] - 0.3).abs().lt(1e-9).all(axis=None)
    description = ParaCLAP(*tiny).describe(corpus / stored.index[0][0], edges_of(output))
    assert set(description.table["prediction"]).isdisjoint({"very low", "very high"})
    five = {"pitch": dict.fromkeys(FIVE_LEVELS), "jitter": dict.fromkeys(LEVELS)}
    prompts = descriptor_prompts(five)
    assert (*prompts["pitch"],) == FIVE_LEVELS and (*prompts["jitter"],) == LEVELS


def test_without_edges_only_values_are_returned(captions, corpus):
    waveform = read_audio(corpus / pd.read_parquet(captions).index[3][0])
    alone = measured_levels(waveform)
    full = measured_levels(waveform, edges_of(captions))
    assert alone["value"].to_dict() == full["value"].to_dict()
    assert alone[["low", "level", "phrase"]].isna().all(axis=None)
    assert (full[["below", "above"]] - 0.3).abs().lt(1e-9).all(axis=None)


def test_reference_values_are_those_the_edges_were_fitted_to(captions):
    features = captions.with_name("features.parquet")
    found = reference_values(features, edges_of(captions))
    stored = pd.read_parquet(features)
    stored = stored[stored["split"] == "train"]
    pitch = np.sort(stored["F0semitoneFrom27.5Hz_sma3nz_amean"].dropna())
    np.testing.assert_array_equal(found["pitch"], pitch)
    fitted = parse_edges(edges_of(captions).read_text(), default_descriptors())
    for name, values in found.items():  # the quantiles of the reference are the edges
        bounds = fitted[name].groups[()]
        assert (len(values), np.quantile(values, 0.3)) == (bounds.n, pytest.approx(bounds.low))


def test_reference_values_are_of_the_group(by_gender, captions):
    features = captions.with_name("features.parquet")
    found = reference_values(features, edges_of(by_gender), {"gender": "female"})
    stored = pd.read_parquet(features)
    women = stored[(stored["split"] == "train") & (stored["gender"] == "female")]
    assert len(found["pitch"]) == len(women) < len(found["duration"])


def test_table_without_features_is_refused(captions):
    with pytest.raises(MeasurementError, match=r"captions.parquet has no column .*features table"):
        reference_values(captions, edges_of(captions))


def test_table_without_training_clips_is_refused(captions, tmp_path):
    table = pq.read_table(captions.with_name("features.parquet"))
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(MeasurementError, match="no training clips"):
        reference_values(tmp_path / "empty.parquet", edges_of(captions))


@pytest.mark.parametrize(
    ("value", "text"), [(33.10001, "high 33.10001 (normal 20 to 33.1 Hz)"), (np.nan, " undefined")]
)
def test_rounding_of_a_description_does_not_contradict_the_level(value, text):
    row = {"value": value, "low": 20.0, "high": 33.1, "unit": "Hz", "level": "high"}
    row |= {"prediction": "high", "confidence": 0.5, "trained": True}
    if np.isnan(value):
        row["level"] = None
    table = pd.DataFrame([row], index=["pitch"])
    assert text.strip() in str(Description(table, "pitch is high"))
