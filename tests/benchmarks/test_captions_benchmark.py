"""The benchmark of captions at toy size: it compares like with like and notices a difference."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import captions


def test_both_ways_write_the_same_texts_and_a_ratio_is_printed(capsys):
    captions.main(["--rows", "400", "--plain-rows", "60", "--repeat", "1"])
    printed = capsys.readouterr().out
    assert "texts of 60 of 60 rows are equal" in printed
    assert len(re.findall(r"^rows/s.*, ratio \d+ \(\d+ to \d+\)$", printed, re.M)) == 2


def test_a_differing_text_is_noticed(tmp_path):
    features, output, folder = tmp_path / "f.parquet", tmp_path / "c.parquet", tmp_path / "plain"
    folder.mkdir()
    captions.write_features(features, 50)
    captions.time_plain(features, 50, folder)
    captions.time_ours(features, 50, output)
    assert captions.check_equal(output, folder) == 50
    table = pq.read_table(output)
    rows = table["captions"].to_pylist()
    rows[7][0] += "er"
    changed = table.set_column(table.schema.get_field_index("captions"), "captions", pa.array(rows))
    pq.write_table(changed, output)
    with pytest.raises(RuntimeError, match="000000007.json differs"):
        captions.check_equal(output, folder)
    pq.write_table(table.slice(0, 40), output)
    with pytest.raises(ValueError, match="shorter"):
        captions.check_equal(output, folder)


def test_rows_depend_on_their_place_alone():
    table = captions.generate(100, 50)
    assert table.equals(captions.generate(100, 50))
    assert table["file"].to_pylist() != captions.generate(0, 50)["file"].to_pylist()


def test_help_tells_the_commands(capsys):
    with pytest.raises(SystemExit):
        captions.main(["--help"])
    assert "python -m benchmarks.captions --large" in capsys.readouterr().out
