"""Nothing is lost, and nothing stops the rest."""

import importlib
import os
import signal

import pandas as pd
import pytest

from paraclap import cli
from paraclap.acoustics import worker_pool
from paraclap.cli import features
from paraclap.locks import InUseError, lock

# --- Single clips --------------------------------------------------------------------------------

# --- Folders -------------------------------------------------------------------------------------

# --- Locks ---------------------------------------------------------------------------------------


def test_features_that_another_process_writes_are_left_to_it(toy, tmp_path, capsys):
    arguments = [str(toy), "-o", str(tmp_path / "f.parquet"), "--feature-set", "captions"]
    arguments += ["--workers", "1", "--chunk", "16"]
    (tmp_path / "f.parts").mkdir()
    with lock(tmp_path / "f.parts"):
        for shard in ([], ["--shard", "1/2"]):
            code = cli.run(lambda shard=shard: features.main([*arguments, *shard]), "features.py")
            message = capsys.readouterr().err
            assert code == 1 and f"f.parts is in use by process {os.getpid()} on" in message
    assert not list((tmp_path / "f.parts").iterdir()) and not (tmp_path / "f.parquet").exists()
    with lock(tmp_path / "f.parts", shared=True):  # by another shard
        assert features.main([*arguments, "--shard", "1/2"]) == 0
        with pytest.raises(InUseError):
            features.main(arguments)
    assert features.main(arguments) == 0


# --- Checkpoints ---------------------------------------------------------------------------------

# --- Streams -------------------------------------------------------------------------------------

# --- Caches --------------------------------------------------------------------------------------

# --- Signals -------------------------------------------------------------------------------------


@pytest.mark.torture(28, "signal to features.py while it starts, measures and merges")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(
    "place",
    [
        "paraclap.corpora.table.read_corpus",
        "paraclap.acoustics.features.claim_folder",
        "paraclap.acoustics.backends.Outcome",
        "paraclap.acoustics.merge._with_labels",
    ],
)
def test_signal_stops_features_with_exit_code_75(toy, tmp_path, monkeypatch, capsys, number, place):
    arguments = [str(toy), "-o", str(tmp_path / "f.parquet"), "--feature-set", "captions"]
    arguments += ["--chunk", "16", "--workers", "1"]
    module, _, function = place.rpartition(".")
    original = getattr(importlib.import_module(module), function)

    def received(*inputs, **options):
        os.kill(os.getpid(), number)
        return original(*inputs, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, received)
        assert cli.run(lambda: features.main(arguments), "features.py") == 75
    expected = f"features.py: {number.name}: stopped, repeat the same command to continue"
    assert capsys.readouterr().err.splitlines()[-1] == expected
    assert not (tmp_path / "f.parquet").exists() and not any(worker_pool._IDLE.values())
    assert signal.getsignal(number) == signal.SIG_DFL
    assert features.main(arguments) == 0 and len(pd.read_parquet(tmp_path / "f.parquet")) == 40


# --- Tables --------------------------------------------------------------------------------------
