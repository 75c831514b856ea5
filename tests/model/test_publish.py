"""Converting and publishing: folders that load with transformers alone, in other processes too."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import pipeline

from paraclap.cli import models
from paraclap.evaluation.embed import embed_texts, embed_waveforms
from paraclap.model import publish
from paraclap.model.build import build_model, load_model
from paraclap.model.hashes import weights_hash
from paraclap.model.modeling_paraclap import PUBLISHED_CONFIG
from paraclap.model.sources import ModelError, OutputExistsError
from paraclap.model.towers import train_tokenizer
from paraclap.settings import ModelSettings, TowerSettings
from tiny_models import RATE, TEXTS, TINY_TEXT, TINY_WHISPER, Reference, embed

REPOSITORY = Path(__file__).resolve().parents[2]


# --- Published weights to a folder ---------------------------------------------------------------

FOLDER = {
    "README.md",
    "SHA256SUMS",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modeling_paraclap.py",
    "modules.json",
    "processor_config.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def checkpoint(published, tmp_path):
    """A tiny published checkpoint, arguments that convert it, and its reference."""
    reference, config, path = published
    tokenizer = train_tokenizer(TEXTS, 150)
    assert len(tokenizer) == 150
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config.save_pretrained(tmp_path / "towers")
    options = ["--config", tmp_path / "towers" / "config.json"]
    options += ["--tokenizer", tmp_path / "tokenizer"]
    return path, [str(option) for option in options], reference


def test_converted_folder_embeds_like_the_reference(checkpoint, tmp_path, waveforms):
    path, options, reference = checkpoint
    assert models.main(["convert", str(path), str(tmp_path / "out"), *options]) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == FOLDER
    model, processor = load_model(tmp_path / "out")
    assert processor.feature_extractor.gain == 1.0
    assert processor.feature_extractor.min_samples == 660
    differences = [
        embed(model, processor, waveform) - reference.embed_clip(waveform) for waveform in waveforms
    ]
    tokens = processor.tokenizer(TEXTS[0]).input_ids
    with torch.no_grad():
        text = model.get_text_features(torch.tensor([tokens])).pooler_output
    differences.append(text - reference.embed_text(tokens))
    assert max(difference.abs().max() for difference in differences) < 1e-5


@pytest.mark.parametrize(
    "change, message",
    [
        ({"--tokenizer": "no/tokenizer-of-this-name"}, "download tokenizer.json"),
        ({"--sha256": "0" * 64}, "has SHA-256"),
        ({"--scores": "README.md"}, "no `corpora`"),
        ({"--scores": "broken.yaml"}, "cannot be read"),
        ({"--scores": "none.yaml"}, "cannot be read"),
        ({"--config": "none.json"}, "cannot be read"),
        ({"--config": "list.json"}, "holds a list, expected a JSON object"),
        ({"--config": "wrong.json"}, "its configuration is malformed"),
        ({"--license": "mit"}, "cannot be mit"),
    ],
)
def test_conversion_that_fails_leaves_nothing(checkpoint, tmp_path, monkeypatch, change, message):
    path, options, _ = checkpoint
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    towers = json.loads(Path(options[1]).read_text())
    towers["provenance"] = PUBLISHED_CONFIG["provenance"]
    Path(options[1]).write_text(json.dumps(towers))
    (tmp_path / "README.md").write_text("no scores")
    (tmp_path / "broken.yaml").write_text("corpora: [")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "wrong.json").write_text('{"audio_config": 3}')
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "results" / "out"
    options += [part for pair in change.items() for part in pair]
    with pytest.raises(ModelError, match=message):
        models.main(["convert", str(path), str(output), *options])
    assert not output.parent.exists()


def test_tokenizer_of_another_size_is_refused(checkpoint, tmp_path):
    path, options, _ = checkpoint
    train_tokenizer(["other words"], 140).save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ModelError, match="has 141 entries, the weights expect 150"):
        models.main(["convert", str(path), str(tmp_path / "out"), *options])


def test_only_empty_folders_are_written_to(model_folder, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="exists already"):
        publish.publish(model_folder, output)
    assert (output / "thesis.txt").read_text() == "years of work"
    (output / "thesis.txt").unlink()
    assert publish.publish(model_folder, output) == output  # an empty one is


MEASURED_MAIN = """
import re, sys
from pathlib import Path
import models
from paraclap.cli.models import main

def peak():  # kB; getrusage would include the memory of the parent process
    return re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]

before = peak()
main(sys.argv[1:])
print("MEASURED", before, peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory needs Linux")
def test_full_size_checkpoint_converts_with_little_more_memory_than_its_weights(tmp_path):
    towers = (PUBLISHED_CONFIG["audio_config"], PUBLISHED_CONFIG["text_config"])
    reference = Reference(*towers, dimensions=768)
    weights = tmp_path / "best.pth.tar"
    torch.save(reference.state_dict(), weights)
    train_tokenizer([f"word {number:05d}" for number in range(40_000)], 30_522).save_pretrained(
        tmp_path / "tokenizer"
    )
    given = ("convert", weights, tmp_path / "out", "--tokenizer", tmp_path / "tokenizer")
    printed = script("-c", MEASURED_MAIN, *given).stdout
    before, peak = map(int, re.search(r"MEASURED (\d+) (\d+)", printed).groups())
    assert (peak - before) * 1024 < 1.5 * weights.stat().st_size
    model, processor = load_model(tmp_path / "out")
    clip = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    assert (embed(model, processor, clip) - reference.embed_clip(clip)).abs().max() < 1e-5


# --- A folder for the Hub ------------------------------------------------------------------------


def script(*arguments, cwd=None, **environment):
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd or REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return result


PROMPTS = {"sadness": "the speaker sounds sad", "anger": "pitch is high and emotion is anger"}


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory):
    """Folder of a tiny model with Whisper's encoder, of listed layers; read only."""
    towers = {"audio": TowerSettings(config=TINY_WHISPER), "text": TowerSettings(config=TINY_TEXT)}
    pooled = {"audio_pooling": "mean_std", "audio_layers": [1, 2]}
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("whisper")
    for part in build_model(ModelSettings(**towers, **pooled, projection_dim=24), TEXTS):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(request, tmp_path):
    """A published folder of a tiny model; the parameter is the fixture of the model."""
    source = request.getfixturevalue(getattr(request, "param", "model_folder"))
    return publish.publish(source, tmp_path / "hub" / "tiny", name="USER/tiny")


TOWERS = pytest.mark.parametrize("folder", ["model_folder", "whisper_folder"], indirect=True)


@TOWERS
@pytest.mark.parametrize("given", ["folder", "parts"])
def test_pipeline_forward_and_evaluation_agree(folder, waveforms, given):
    model, processor = load_model(folder)
    sources = {
        "folder": {"model": str(folder)},
        "parts": {
            "model": model,
            "feature_extractor": processor.feature_extractor,
            "tokenizer": processor.tokenizer,
        },
    }
    clips = waveforms + [0.2 * waveforms[1][: 7000 * n] for n in range(1, 7)]
    texts = list(PROMPTS.values())
    classifier = pipeline("zero-shot-audio-classification", **sources[given])
    outputs = classifier(clips, candidate_labels=texts, hypothesis_template="{}", batch_size=8)
    piped = torch.tensor(
        [[{a["label"]: a["score"] for a in one}[text] for text in texts] for one in outputs]
    )
    options = {"sampling_rate": RATE, "padding": True, "return_tensors": "pt"}
    with torch.no_grad():
        forward = model(**processor(text=texts, audio=clips, **options)).logits_per_audio
    cosines = embed_waveforms(model, processor, clips) @ embed_texts(model, processor, texts).T
    assert (piped - forward.softmax(-1)).abs().max() < 1e-5
    assert (forward / model.logit_scale.exp() - cosines).abs().max() < 1e-5
    assert (cosines[0] - cosines[1]).abs().max() > 1e-4  # clips differ


def test_published_folder_is_complete_and_contains_no_local_path(model_folder, folder):
    assert {file.name for file in folder.iterdir()} == FOLDER
    for file in folder.iterdir():
        for place in (model_folder, folder.parent):
            assert str(place).encode() not in file.read_bytes(), file
    unhashed = {"README.md", "SHA256SUMS", "modeling_paraclap.py", "modules.json"}
    listed = {line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert listed == FOLDER - unhashed - {"config_sentence_transformers.json"}
    auto = json.loads((folder / "config.json").read_text())["auto_map"]
    assert auto["AutoModel"] == "modeling_paraclap.ParaCLAPModel"


def test_scores_of_evaluation_are_in_the_card(model_folder, tmp_path):
    figures = {"UAR": 0.5, "ACC": 0.25, "F1": 0.125, "chance": 0.5, "clips": 4, "classes": 2}
    figures |= {"speakers": None, "interval": None, "target": "emotion", "recall": {"a": 1.0}}
    document = {"model": "runs/a", "weights": weights_hash(model_folder)}
    document |= {"prompt_set": "sentence", "corpora": {"mine": figures}}
    scores = tmp_path / "scores.yaml"
    scores.write_text(yaml.safe_dump(document))
    output = tmp_path / "out"
    assert models.main(["publish", str(model_folder), str(output), "--scores", str(scores)]) == 0
    card = ModelCard.load(output / "README.md")
    assert [result.metric_value for result in card.data.eval_results] == [0.5, 0.25, 0.125]
    assert "prompts: sentence" in card.text


# A process with the folder alone: any import of the package fails, installed or not.
ALONE = """
import sys
from pathlib import Path
from transformers import AutoModel

sys.modules["paraclap"] = None
folder, marker = Path(sys.argv[1]), Path(sys.argv[1], "executed")
try:
    AutoModel.from_pretrained(folder, trust_remote_code=False)
except ValueError as error:
    assert "contains custom code" in str(error)
assert not marker.exists()
AutoModel.from_pretrained(folder, trust_remote_code=True)
assert marker.exists()
"""
BESIDE = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import models\n"
FRESH = """
import sys
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor, pipeline

trust = {"trust_remote_code": True}
folder, batch, output = sys.argv[1:]
model = AutoModel.from_pretrained(folder, **trust)
processor = AutoProcessor.from_pretrained(folder, **trust)
waveforms, texts = torch.load(batch)
waveforms = [waveform.numpy() for waveform in waveforms]
inputs = processor(
    text=texts, audio=waveforms, sampling_rate=16_000, padding=True, return_tensors="pt"
)
with torch.no_grad():
    logits = model(**inputs).logits_per_audio
classifier = pipeline("zero-shot-audio-classification", model=folder, **trust)
answers = classifier(
    waveforms, candidate_labels=texts, hypothesis_template="{}", batch_size=8
)
scores = [[{a["label"]: a["score"] for a in one}[text] for text in texts] for one in answers]
model.save_pretrained("again")
processor.save_pretrained("again")
parts = [
    model, processor, processor.feature_extractor, classifier.model,
    AutoConfig.from_pretrained(folder, **trust),
    AutoFeatureExtractor.from_pretrained(folder, **trust),
    AutoModel.from_pretrained("again", **trust), AutoProcessor.from_pretrained("again", **trust),
]
print(*{type(part).__module__.split(".")[0] for part in parts})
torch.save((logits, torch.tensor(scores)), output)
"""


@pytest.mark.parametrize(
    "folder, start, home",
    [
        ("whisper_folder", ALONE, "transformers_modules"),
        ("model_folder", BESIDE, "paraclap"),
        pytest.param("model_folder", ALONE, "transformers_modules", marks=pytest.mark.slow),
    ],
    ids=["Whisper alone", "beside our package", "alone"],
    indirect=["folder"],
)
def test_code_of_a_folder_runs_only_if_trusted_and_gives_our_logits(
    folder, waveforms, tmp_path, start, home
):
    with (folder / "modeling_paraclap.py").open("a") as stream:
        stream.write(f"\nopen({str(folder / 'executed')!r}, 'w')\n")
    model, processor = load_model(folder)
    assert not (folder / "executed").exists()
    texts = list(PROMPTS.values())
    inputs = processor(
        text=texts, audio=waveforms, sampling_rate=RATE, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(**inputs).logits_per_audio
    torch.save(([torch.from_numpy(waveform) for waveform in waveforms], texts), tmp_path / "in.pt")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    arguments = (folder, tmp_path / "in.pt", tmp_path / "out.pt")
    cache = {"HF_HOME": str(tmp_path / "cache")}
    result = script("-P", "-I", "-c", start + FRESH, *arguments, cwd=elsewhere, **cache)
    assert result.stdout.split() == [home]
    logits, scores = torch.load(tmp_path / "out.pt", weights_only=True)
    assert (logits - expected).abs().max() < 1e-5
    assert (scores - expected.softmax(-1)).abs().max() < 1e-5


@TOWERS
def test_code_of_the_model_card_runs(folder, waveforms, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    soundfile.write("clip.wav", waveforms[0].clip(-0.9, 0.9), RATE)
    snippets = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 3
    for code in snippets[: 3 if importlib.util.find_spec("sentence_transformers") else 2]:
        exec(code.replace("USER/tiny", str(folder)), {})
    printed = capsys.readouterr().out
    first = re.search(r"tensor\(\[\[(\S+), (\S+)\]\]\)", printed)
    scores = {float(score) for score in re.findall(r"'score': ([\d.]+)", printed)}
    assert len(scores) == 2
    assert sum(scores) == pytest.approx(1)
    assert {round(float(number), 4) for number in first.groups()} == {round(s, 4) for s in scores}


SENTENCES = """
import sys
import torch
from sentence_transformers import SentenceTransformer

folder, batch, output = sys.argv[1:]
waveforms, texts = torch.load(batch)
clips = [{"array": waveform.numpy(), "sampling_rate": 16_000} for waveform in waveforms]
model = SentenceTransformer(folder, trust_remote_code=True)
embedded = [model.encode(texts), model.encode(clips), model.encode(clips, batch_size=1)]
torch.save([torch.from_numpy(part) for part in embedded], output)
for wrong in (clips[0]["array"], clips[0] | {"sampling_rate": 8000}):
    try:
        model.encode([wrong])
    except ValueError as error:
        print(error)
"""


@pytest.mark.parametrize(
    "folder",
    ["whisper_folder", pytest.param("model_folder", marks=pytest.mark.slow)],
    indirect=True,
)
def test_sentence_transformers_gives_our_embeddings(folder, waveforms, tmp_path):
    pytest.importorskip("sentence_transformers")
    model, processor = load_model(folder)
    texts = ["an angry voice", *PROMPTS.values()]
    tokens = processor.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        embedded = model.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output
    torch.save(([torch.from_numpy(waveform) for waveform in waveforms], texts), tmp_path / "in.pt")
    arguments = (folder, tmp_path / "in.pt", tmp_path / "out.pt")
    cache = {"HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": ""}
    printed = script("-c", SENTENCES, *arguments, cwd=tmp_path, **cache).stdout
    theirs = torch.load(tmp_path / "out.pt", weights_only=True)
    assert (theirs[0] - embedded).abs().max() < 1e-5
    expected = embed(model, processor, waveforms)
    assert max((part - expected).abs().max() for part in theirs[1:]) < 1e-5
    assert printed.splitlines() == [
        "no sampling_rate given, expected 16000 Hz",
        "8000 Hz given, expected 16000 Hz",
    ]
