import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import opensmile
import pytest
import yaml

from paraclap.acoustics import egemaps
from paraclap.acoustics.feature_sets import FEATURE_SETS, FeatureSet
from paraclap.audio import reading

DATA = Path(os.environ.get("PARACLAP_DATA", "../shared/data"))
RATE = 16_000
SETS = sorted(FEATURE_SETS)
PITCH = "F0semitoneFrom27.5Hz_sma3nz_amean"


@pytest.fixture(scope="module")
def reference():
    """openSMILE as run by its own package: one instance per clip, all outputs."""
    levels = opensmile.FeatureLevel.Functionals
    return opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, levels)


@pytest.fixture(scope="module", params=SETS)
def extractor(request):
    return egemaps.Extractor(request.param)


def edge_cases(voice):
    """Clips at the limits of openSMILE's components."""
    rng = np.random.default_rng(0)
    noise, sung = rng.normal(0, 0.1, 2 * RATE), voice(2.0)
    glide = np.sin(2 * np.pi * np.cumsum(np.linspace(80, 400, 2 * RATE)) / RATE)
    gated = voice(3.0) * np.repeat(rng.integers(0, 2, 30), RATE // 10)
    yield from (
        sung[:samples]
        for samples in (1, 319, 320, 479, 480, 959, 960, 961, 1_119, 1_120, 1_600, 4_000, 8_001)
    )
    yield from (noise, noise * 1e-4, sung, sung * 1e-3, sung + noise * 0.3, glide * 0.3, gated)
    yield np.concatenate([np.zeros(RATE), sung, np.zeros(RATE)])  # silence around
    yield np.clip(sung * 8, -1, 32767 / 32768)  # clipped
    yield sung + 0.4  # offset
    yield np.full(RATE, 0.5)
    yield np.zeros(RATE)
    yield np.eye(1, RATE, RATE // 2)[0] * 0.9  # one click
    yield voice(1.0, f0=55.0)
    yield voice(1.0, f0=990.0)
    yield voice(6.0) * np.tile([1.0, 0.01], 3 * RATE)


def plain(reference, waveform):
    """Values of openSMILE's own package by name."""
    values = reference.process_signal(waveform, RATE).to_numpy()[0]
    return dict(zip(reference.feature_names, values, strict=True))


def assert_bits_equal(found, names, expected, what):
    wanted = np.array([expected[name] for name in names], dtype=np.float32)
    different = found.view(np.int32) != wanted.view(np.int32)
    both_nan = np.isnan(found) & np.isnan(wanted)
    wrong = np.flatnonzero(different & ~both_nan)
    assert not len(wrong), f"{what}: {[(names[i], found[i], wanted[i]) for i in wrong[:3]]}"


@pytest.fixture(scope="module")
def edges(reference, voice):
    """The edge cases, and the values of openSMILE's own package."""
    clips = [clip.astype(np.float32) for clip in edge_cases(voice)]
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # too short
        return clips, [plain(reference, clip) for clip in clips]


def test_values_equal_opensmile_on_edge_cases_in_any_order(extractor, edges):
    clips, expected = edges
    order = np.random.default_rng(1).permutation(len(clips)).tolist()
    for place in [*order, *reversed(order)]:  # the previous clip must not matter
        assert_bits_equal(extractor(clips[place]), extractor.names, expected[place], place)


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["ravdess", "emodb"])
def test_values_equal_opensmile_on_real_speech(corpus, reference):
    files = sorted((DATA / corpus).rglob("*.flac"))[::5]
    if not files:
        pytest.skip(f"no {DATA / corpus}")
    extractors = [egemaps.Extractor(name) for name in FEATURE_SETS]
    for file in files:
        waveform = reading.read_audio(file)
        expected = plain(reference, waveform)
        for extractor in extractors:
            assert_bits_equal(extractor(waveform), extractor.names, expected, file)


def columns_read(*templates):
    """Functionals named by caption templates."""
    folder = Path(egemaps.__file__).parents[1] / "captions" / "templates"
    texts = [(folder / f"{name}.yaml").read_text(encoding="utf-8") for name in templates]
    entries = [entry for text in texts for entry in yaml.safe_load(text).values()]
    return {entry["column"] for entry in entries if entry["kind"] == "level"} - {"Duration"}


SETS_FOR = {"captions": ["paraclap"], "captions-extended": ["paraclap", "extended"]}


def test_egemaps_has_all_functionals_and_unknown_sets_are_an_error(reference):
    assert egemaps.Extractor("egemaps").names == reference.feature_names
    with pytest.raises(ValueError, match="compare is not in"):
        egemaps.Extractor("compare")


@pytest.mark.parametrize("feature_set", SETS_FOR)
def test_caption_sets_have_exactly_the_columns_of_their_templates(reference, feature_set):
    names = egemaps.Extractor(feature_set).names
    assert set(names) == columns_read(*SETS_FOR[feature_set]) & set(reference.feature_names)
    assert names == [name for name in reference.feature_names if name in names]


def test_captions_omit_the_most_expensive_components():
    costly = {"cHarmonics", "cLpc", "cFormantLpc", "cMfcc", "cSpectral", "cSpecResample"}
    kinds = {name: re.findall(r"type=(\w+)", egemaps.component_graph(name)) for name in SETS}
    assert costly < set(kinds["egemaps"]) and not costly & set(kinds["captions"])
    assert "cMfcc" not in kinds["captions-extended"]


def test_extractor_does_not_import_pandas():
    code = (
        "import sys; from paraclap.acoustics.egemaps import Extractor; Extractor('captions');"
        "sys.exit('pandas' in sys.modules)"
    )
    folder = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=folder).returncode == 0


def test_change_of_a_missing_key_is_an_error(monkeypatch):
    broken = FeatureSet("broken", {"funcconcat": {"reader.dmLevl": "x"}})
    monkeypatch.setitem(FEATURE_SETS, "broken", broken)
    with pytest.raises(ValueError, match=r"cVectorConcat has 0 keys reader.dmLevl"):
        egemaps.component_graph("broken")


# --- Undefined values ----------------------------------------------------------------------------


def test_voiced_functionals_of_an_unvoiced_clip_are_undefined(extractor):
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    raw = extractor(noise)
    found = dict(zip(extractor.names, extractor.defined(raw), strict=True))
    assert raw[extractor.names.index(PITCH)] == 0, "openSMILE must show the fault"
    voiced = {name for name in found if "_sma3nz_" in name and "UV" not in name}
    lengths = {"MeanVoicedSegmentLengthSec", "StddevVoicedSegmentLengthSec"}
    undefined = {name for name, value in found.items() if np.isnan(value)}
    assert undefined == (voiced | lengths) & set(found)
    assert found.get("VoicedSegmentsPerSec", 0) == 0, "a rate of 0 is a measurement"


def test_unvoiced_functionals_of_a_fully_voiced_clip_are_undefined(voice):
    extractor = egemaps.Extractor("egemaps")
    raw = extractor(voice(2.0).astype(np.float32))
    found = dict(zip(extractor.names, extractor.defined(raw), strict=True))
    unvoiced = {name for name in found if "UV" in name}
    assert len(unvoiced) == 5 and all(np.isnan(found[name]) for name in unvoiced)
    assert np.isnan(found["MeanUnvoicedSegmentLength"]) and found["VoicedSegmentsPerSec"] > 0
    assert not np.isnan(found[PITCH])


def test_only_zeros_and_floors_become_undefined(extractor, edges):
    for expected in edges[1]:
        raw = np.array([expected[name] for name in extractor.names], dtype=np.float32)
        values = extractor.defined(raw)
        changed = values.view(np.int32) != raw.view(np.int32)
        assert np.isnan(values[changed]).all()
        spread = [i for i, n in enumerate(extractor.names) if re.search("stddev|pctl|perc", n)]
        means = np.setdiff1d(np.flatnonzero(changed), spread)
        floor = ["amplitudeLogRelF0" in extractor.names[place] for place in means]
        assert (raw[means] == np.where(floor, -201, 0)).all(), [extractor.names[i] for i in means]


# --- What opensmile does with samples ------------------------------------------------------------


def test_full_scale_samples_do_not_wrap(voice):
    loud = np.clip(voice() * 8, -1, 1).astype(np.float32)
    limited = np.minimum(loud, np.float32(32767 / 32768))
    extractor = egemaps.Extractor("captions")
    place = extractor.names.index("loudness_sma3_amean")
    assert extractor(loud)[place] > 1.2 * extractor(limited)[place], "openSMILE must show the fault"
    assert (egemaps.as_integers(limited) >= 0).sum() == (loud >= 0).sum()


def test_values_are_defined_from_60_ms_on(extractor, voice):
    assert np.isfinite(extractor(voice(0.06).astype(np.float32))).all()
    assert np.isnan(extractor(voice(0.059).astype(np.float32))).all()
