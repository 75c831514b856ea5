"""Nothing stale or damaged is used."""

import os

import pandas as pd
import pytest
import soundfile

from paraclap.cli import features

# --- Segments of MP3 -----------------------------------------------------------------------------

# --- Truncated containers ------------------------------------------------------------------------

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


# --- Resuming on other data ----------------------------------------------------------------------

# --- Damaged models ------------------------------------------------------------------------------

# --- Damaged indexes -----------------------------------------------------------------------------

# --- Older models --------------------------------------------------------------------------------

# --- Doubtful channels ---------------------------------------------------------------------------
