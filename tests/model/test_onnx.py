"""Exported towers give the embeddings of torch for any batch, or nothing is written."""

import copy
import json

import numpy as np
import pytest
import soundfile
import torch
import yaml

from paraclap.cli import evaluate, models, predict
from paraclap.errors import MissingPackageError
from paraclap.evaluation.embedding_cache import audio_fingerprint
from paraclap.inference.api import ParaCLAP
from paraclap.model import onnx
from paraclap.model.build import build_model, load_model
from paraclap.model.onnx import OnnxModel, export_onnx
from paraclap.model.sources import ModelError, ModelNotFoundError

INT8_OF_TINY = 0.1  # eight bits are coarse for 32 channels of random weights


@pytest.fixture(scope="module")
def needed():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def exported(needed, model_folder, tmp_path_factory):
    """Folder of the exported tiny model; read only."""
    output = tmp_path_factory.mktemp("export") / "o"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "INT8_TOLERANCE", INT8_OF_TINY)
        assert models.main(["export", str(model_folder), str(output), "--int8"]) == 0
    return output


def test_embeddings_equal_those_of_torch_for_any_batch(exported, model_folder, waveforms):
    torch_side, onnx_side = ParaCLAP(*load_model(model_folder)), ParaCLAP.from_onnx(exported)
    assert (
        np.abs(torch_side.embed_waveforms(waveforms) - onnx_side.embed_waveforms(waveforms)).max()
        < 1e-5
    )
    for waveform in (*waveforms, waveforms[0][:100]):
        single = torch_side.embed_audio(waveform, 16_000)
        assert onnx_side.embed_audio(waveform, 16_000) == pytest.approx(single, abs=1e-5)
    texts = ["a", "the speaker sounds sad and the voice is loud", "pitch is high " * 60]
    assert onnx_side.embed_text(texts) == pytest.approx(torch_side.embed_text(texts), abs=1e-5)
    about = json.loads((exported / "onnx.json").read_text())
    assert max(about["differences"].values()) <= 1e-4 and about["opset"] == onnx.OPSET
    int8 = ParaCLAP.from_onnx(exported, int8=True)
    cosines = (int8.embed_waveforms(waveforms) * torch_side.embed_waveforms(waveforms)).sum(axis=1)
    assert 1e-7 < (1 - cosines).max() < INT8_OF_TINY


def test_export_is_computed_by_at_most_as_many_threads_as_cores(exported, monkeypatch):
    monkeypatch.setattr(onnx, "usable_cores", lambda: 1)
    for session in OnnxModel(exported)._sessions.values():
        assert session.get_session_options().intra_op_num_threads == 1


def test_predict_computes_with_an_export(exported, waveforms, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", waveforms[0], 16_000)
    options = ["--prompts", "sad", "--format", "json"]
    assert predict.main(["--onnx", str(exported), str(tmp_path / "a.wav"), *options]) == 0
    assert '"cosine"' in capsys.readouterr().out


def test_scores_equal_those_of_the_model(exported, model_folder, corpus, tmp_path):
    found = []
    for engine, source in (("eager", model_folder), ("onnx", exported)):
        output = tmp_path / engine
        arguments = [str(source), str(corpus), "-o", str(output), "--engine", engine, "--no-cache"]
        assert evaluate.main([*arguments, "--device", "cpu", "--split", "test"]) == 0
        (scores,) = yaml.safe_load((output / "scores.yaml").read_text())["corpora"].values()
        found.append((scores["UAR"], scores["recall"]))
    assert found[0] == found[1]


def test_export_and_model_do_not_share_a_cache(exported, model_folder):
    assert audio_fingerprint(*onnx.load_onnx(exported)) != audio_fingerprint(
        *load_model(model_folder)
    )


def test_export_with_a_large_difference_writes_nothing(needed, tiny, tmp_path, monkeypatch):
    model, processor = tiny
    other = onnx.without_weight_norm(copy.deepcopy(model))
    other.text_projection.linear1.weight[0, 0] += 0.1
    monkeypatch.setattr(onnx, "_export", lambda tower, example, path: path.write_bytes(b"graph"))
    monkeypatch.setattr(onnx, "OnnxModel", lambda folder: other)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match="text tower in ONNX differs from torch"):
        export_onnx(model, processor, tmp_path / "o")
    assert not list(tmp_path.iterdir())
    after = model.state_dict()
    assert before.keys() == after.keys(), "the model keeps its weight norm"
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_encoder_without_padding_is_refused(needed, settings, tmp_path):
    settings.audio.config |= {"feat_extract_norm": "group", "do_stable_layer_norm": False}
    model, processor = build_model(settings, ["a"])
    with pytest.raises(ModelError, match="padding would change"):
        export_onnx(model.eval(), processor, tmp_path / "o")


def test_missing_packages_are_named(tiny, tmp_path, monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(onnx, "import_module", absent)
    with pytest.raises(MissingPackageError, match=r'pip install "paraclap\[onnx\]"'):
        export_onnx(*tiny, tmp_path / "o")


def test_nan_counts_as_a_difference():
    exact = {"audio": torch.ones(2, 1), "text": torch.ones(1, 1)}
    with pytest.raises(ModelError, match="audio tower"):
        broken = exact | {"audio": torch.tensor([[1.0], [torch.nan]])}
        onnx._largest(onnx._difference, exact, broken, tolerance=1.0)


def test_folder_without_an_export_is_refused(needed, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"onnx\.json"):
        OnnxModel(tmp_path)


@pytest.mark.parametrize("options", [["--int8"], ["--onnx", "o", "--device", "cpu"]])
def test_options_of_onnx_are_checked(options, capsys):
    with pytest.raises(SystemExit):
        predict.main(["nobody/model", "b.wav", "--prompts", "x", *options])
    assert "--onnx" in capsys.readouterr().err
