"""Exported towers give the embeddings of torch for any batch, or nothing is written."""

import json

import numpy as np
import pytest
import soundfile
import torch

from paraclap.cli import models, predict
from paraclap.errors import MissingPackageError
from paraclap.inference.api import ParaCLAP
from paraclap.model import onnx
from paraclap.model.build import build_model
from paraclap.model.onnx import OnnxModel, export_onnx
from paraclap.model.sources import ModelError, ModelNotFoundError

NEEDED = ("onnx", "onnxscript", "onnxruntime")


@pytest.fixture(scope="module")
def needed():
    for name in NEEDED:
        pytest.importorskip(name)


INT8_OF_TINY = 0.1  # eight bits are coarse for 32 channels of random weights


@pytest.fixture
def exported(needed, tiny, tmp_path, monkeypatch):
    """A tiny model, and the folder of its export."""
    monkeypatch.setattr(onnx, "INT8_TOLERANCE", INT8_OF_TINY)
    for part in tiny:
        part.save_pretrained(tmp_path / "model")
    assert models.main(["export", str(tmp_path / "model"), str(tmp_path / "o"), "--int8"]) == 0
    return tiny, tmp_path / "o"


def test_embeddings_equal_those_of_torch_for_any_batch(exported, waveforms, capsys):
    (model, processor), folder = exported
    torch_side, onnx_side = ParaCLAP(model, processor), ParaCLAP.from_onnx(folder)
    assert (
        np.abs(torch_side.embed_waveforms(waveforms) - onnx_side.embed_waveforms(waveforms)).max()
        < 1e-5
    )
    for waveform in (*waveforms, waveforms[0][:100]):
        single = torch_side.embed_audio(waveform, 16_000)
        assert onnx_side.embed_audio(waveform, 16_000) == pytest.approx(single, abs=1e-5)
    texts = ["a", "the speaker sounds sad and the voice is loud", "pitch is high " * 60]
    assert onnx_side.embed_text(texts) == pytest.approx(torch_side.embed_text(texts), abs=1e-5)
    first, second = (
        side.score((waveforms[0], 16_000), texts[:2]) for side in (torch_side, onnx_side)
    )
    assert first.iloc[0, 1:].to_numpy(float) == pytest.approx(
        second.iloc[0, 1:].to_numpy(float), abs=1e-4
    )

    about = json.loads((folder / "onnx.json").read_text())
    assert max(about["differences"].values()) <= 1e-4 and about["opset"] == onnx.OPSET
    int8 = ParaCLAP.from_onnx(folder, int8=True)
    cosines = (int8.embed_waveforms(waveforms) * torch_side.embed_waveforms(waveforms)).sum(axis=1)
    assert 1e-7 < (1 - cosines).max() < INT8_OF_TINY

    clip = folder.parent / "a.wav"
    soundfile.write(clip, waveforms[0], 16_000)
    options = ["--prompts", "sad", "--format", "json"]
    assert predict.main(["--onnx", str(folder), str(clip), *options]) == 0
    assert '"cosine"' in capsys.readouterr().out


def test_export_with_a_large_difference_writes_nothing(needed, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "TOLERANCE", 0.0)
    before = {name: tensor.clone() for name, tensor in tiny[0].state_dict().items()}
    with pytest.raises(ModelError, match="differs from torch"):
        export_onnx(*tiny, tmp_path / "o")
    assert not list(tmp_path.iterdir())
    after = tiny[0].state_dict()
    assert before.keys() == after.keys(), "the model keeps its weight norm"
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_encoder_without_padding_is_refused(needed, settings, tmp_path):
    settings.audio.config |= {"feat_extract_norm": "group", "do_stable_layer_norm": False}
    model, processor = build_model(settings, ["a"])
    with pytest.raises(ModelError, match="normalises over time"):
        export_onnx(model.eval(), processor, tmp_path / "o")


def test_missing_packages_are_named(tiny, tmp_path, monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(onnx, "import_module", absent)
    with pytest.raises(MissingPackageError, match=r'pip install "paraclap\[onnx\]"'):
        export_onnx(*tiny, tmp_path / "o")


def test_nan_counts_as_a_difference():
    values = {"audio": [torch.tensor([[1.0]])]}, {"audio": [torch.tensor([[float("nan")]])]}
    with pytest.raises(ModelError, match="audio tower"):
        onnx._differences(*values, onnx._largest_difference, 1.0)


def test_folder_without_an_export_is_refused(needed, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"onnx\.json"):
        OnnxModel(tmp_path)


@pytest.mark.parametrize("options", [["--int8"], ["--onnx", "o", "--device", "cpu"]])
def test_options_of_onnx_are_checked(options, capsys):
    with pytest.raises(SystemExit):
        predict.main(["a", "b.wav", "--prompts", "x", *options])
    assert "--onnx" in capsys.readouterr().err
