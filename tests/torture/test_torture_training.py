"""Faults of training that no other file tests, and whether every row of the list has a test.

    PARACLAP_TORTURE=torture.md python -m pytest -m torture tests

writes what became of every fault as a table, see conftest.py.
"""

import os
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import torture_table

from paraclap.audio import AudioError
from paraclap.cli import evaluate
from paraclap.corpora import CorpusError
from paraclap.errors import ParaCLAPError
from paraclap.training import loop
from paraclap.training.checkpoint import list_checkpoints
from paraclap.training.config import SettingsError, read_settings

ROWS = {26, 27, 28, 29, 30, 31, 32, 33, 34, 39, 42, 46, 47, 48, 49, 50, 51, 53}
MARKED = re.compile(r"pytest\.mark\.torture\(\s*(\d+),")


def test_every_row_has_a_test():
    sources = Path(__file__).parents[1].rglob("test_*.py")
    marked = {int(row) for path in sources for row in MARKED.findall(path.read_text())}
    assert marked >= ROWS


def test_table_has_a_line_per_case_in_the_order_of_the_list():
    table = torture_table(
        [(31, "disk full", "stopped | named"), (0, "nothing", "ok"), (4, "x", "y")]
    )
    assert table.splitlines()[2:] == [
        "|  | nothing | ok |",
        "| 4 | x | y |",
        r"| 31 | disk full | stopped \| named |",
    ]


@pytest.mark.torture(49, "_target_ in a configuration")
@pytest.mark.parametrize("place", ["top", "free"])
def test_objects_named_in_a_configuration_are_not_made(config, tmp_path, place, happened):
    marker = tmp_path / "made"
    settings = yaml.safe_load(Path(config).read_text())
    call = {"_target_": "os.mkdir", "path": str(marker)}
    if place == "top":
        settings |= call
        Path(config).write_text(yaml.safe_dump(settings))
        with pytest.raises(SettingsError, match="_target_"):
            read_settings([config])
        happened("refused, the key is named")
    else:  # in the configuration of an encoder, which is not checked by its type
        settings["model"]["audio"]["config"] |= call
        Path(config).write_text(yaml.safe_dump(settings))
        with pytest.raises(ParaCLAPError, match="_target_"):
            loop.Trainer(read_settings([config]))
        happened("refused, the key is named")
    assert not marker.exists()
    os.mkdir(marker)  # it could have been made


@pytest.mark.torture(50, "name of a clip that leads out of the root")
@pytest.mark.parametrize("name", ["../x.wav", "/etc/passwd", "a\0b.wav", "link.wav"])
def test_names_that_lead_out_of_the_root_stop_a_run_before_its_first_step(
    config, captions, tmp_path, name, happened
):
    table = pd.read_parquet(captions)
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    (root / "link.wav").symlink_to(tmp_path / "x.wav")
    clips = [(name, start, end) for _, start, end in table.index[:1]] + list(table.index[1:])
    table.index = pd.MultiIndex.from_tuples(clips, names=table.index.names)
    for file in table.index.get_level_values("file")[1:]:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"RIFF")
    table.to_parquet(tmp_path / "captions.parquet")
    arguments = [config, f"data.root={root}", f"data.captions={tmp_path / 'captions.parquet'}"]
    with pytest.raises((AudioError, CorpusError, ValueError)) as refused:
        loop.train(read_settings(arguments))
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")
    message = str(refused.value).replace(str(tmp_path), "")
    assert name.split("\0")[0] in message
    happened(message.replace("\0", r"\0"))


@pytest.mark.torture(48, "evaluation of a run whose weights are gone")
def test_evaluation_without_weights_is_refused(tiny, corpus, tmp_path, happened):
    model, processor = tiny
    folder = tmp_path / "run" / "best"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ParaCLAPError, match=r"model\.safetensors") as refused:
        evaluate.main([str(tmp_path / "run"), str(corpus), "-o", str(tmp_path / "results")])
    assert not (tmp_path / "results" / "scores.yaml").exists()
    happened(str(refused.value).splitlines()[0].replace(str(tmp_path), "")[:100])
