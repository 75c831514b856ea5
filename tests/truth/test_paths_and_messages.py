"""Paths, tables and messages name what is wrong."""

import pandas as pd
import pytest
import soundfile

from paraclap import cli
from paraclap.cli import features

# --- Paths ---------------------------------------------------------------------------------------

# --- Tables --------------------------------------------------------------------------------------

# --- Settings ------------------------------------------------------------------------------------

# --- Arguments of evaluate.py --------------------------------------------------------------------

# --- Messages of inference -----------------------------------------------------------------------

# --- Messages of captions and features -----------------------------------------------------------

# --- Outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "database", "captions", "damaged", "folder"])
def test_features_replace_no_other_table(tmp_path, voice, kind):
    soundfile.write(tmp_path / "a.wav", voice(0.3), 16_000)
    output = tmp_path / "table.parquet"
    if kind == "folder":
        output.mkdir()
    elif kind == "damaged":
        output.write_bytes(b"PAR1")
    else:
        table = pd.DataFrame({"file": ["a.wav"], "emotion": "joy"})
        table["captions" if kind == "captions" else "quality"] = ""
        table.to_parquet(output)
    content = output.is_file() and output.read_bytes()
    source = output if kind == "labels" else tmp_path
    code = cli.run(lambda: features.main([str(source), "-o", str(output)]), "features.py")
    assert code == 1 and (output.is_dir() or output.read_bytes() == content)
    assert not (tmp_path / "table.parts").exists()
