"""The model card of a published folder: README.md with the metadata of the Hub.

Its facts come from the provenance of the weights (`ParaCLAPConfig.provenance`) and from the scores
of evaluate.py; missing ones are listed as not recorded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

import transformers
from huggingface_hub import EvalResult, ModelCardData

from paraclap.model.sources import ModelError

NOT_RECORDED = "Not recorded."
TASK = "zero-shot-audio-classification"


@dataclass(frozen=True)
class Encoder:
    """Licence and language of a pretrained encoder.

    Attributes:
        hub: name on the Hub.
        licence: of the weights, identifier of the Hub.
        licence_name: of the weights, common name.
        share_alike: whether models trained from it must have the same licence.
        language: of a text encoder; None for speech encoders.
    """

    hub: str
    licence: str
    licence_name: str
    share_alike: bool = False
    language: str | None = None


_DIMENSIONAL = "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim"
_BERT = Encoder("google-bert/bert-base-uncased", "apache-2.0", "Apache 2.0", language="en")
ENCODERS = {
    _DIMENSIONAL: Encoder(_DIMENSIONAL, "cc-by-nc-sa-4.0", "CC BY-NC-SA 4.0", share_alike=True),
    "bert-base-uncased": _BERT,
    _BERT.hub: _BERT,
}
BRANCHES = {"audio_encoder": "Speech", "text_encoder": "Text"}

# Key in scores.yaml -> type of the metric on the Hub, and its name there.
METRICS = {
    "UAR": ("recall", "UAR (unweighted average recall)"),
    "ACC": ("accuracy", "accuracy"),
    "F1": ("f1", "macro F1"),
}

BODY = Template(
    """
# $title

ParaCLAP is a speech encoder and a text encoder with a shared embedding space. It scores how well a
description ("an angry voice", "the speaker is female", "pitch is high") matches a voice, without a
fixed set of labels. $parameters parameters; embeddings have $dimensions dimensions and unit length;
input is mono speech at 16 kHz.

Model of Jing, Triantafyllopoulos and Schuller, *ParaCLAP - Towards a general language-audio model
for computational paralinguistic tasks*, Interspeech 2024.

## Usage

The model code is `modeling_paraclap.py` in this folder; read it before you set `trust_remote_code`.
Saved with transformers $version; older versions may not load it.

```python
import soundfile
import torch
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("$name", trust_remote_code=$trusted)
processor = AutoProcessor.from_pretrained("$name", trust_remote_code=$trusted)
waveform, rate = soundfile.read("clip.wav", dtype="float32")
inputs = processor(
    text=["an angry voice", "a calm voice"],
    audio=[waveform],
    sampling_rate=rate,
    padding=True,
    return_tensors="pt",
)
with torch.no_grad():
    print(model(**inputs).logits_per_audio.softmax(-1))
```

With the pipeline of transformers, which expects waveforms at 16 kHz:

```python
import soundfile
from transformers import pipeline

classifier = pipeline("$task", model="$name", trust_remote_code=$trusted)
waveform, rate = soundfile.read("clip.wav", dtype="float32")
prompts = ["an angry voice", "a calm voice"]
print(classifier(waveform, candidate_labels=prompts, hypothesis_template="{}"))
```

With sentence-transformers 6 or newer:

```python
import soundfile
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("$name", trust_remote_code=$trusted)
waveform, rate = soundfile.read("clip.wav", dtype="float32")
clips = model.encode([{"array": waveform, "sampling_rate": rate}])
texts = model.encode(["an angry voice", "a calm voice"])
print(model.similarity(clips, texts))
```

## Base models

$encoders

## Licences

$licences

## Training data

$training

## Scores

$scores

## Limits

- A score ranks the given prompts against each other. It is neither the probability that a statement
  is true nor a measure of what a person feels.
- Scores differ between acted and spontaneous speech and between languages.
- Not for decisions about people, and not for diagnoses.
- Prompts should be worded like the training captions: short statements about the voice.
- The model depends on the recording level: recordings much louder or softer than the training data
  get different scores.
$batching
"""
)
BATCHING = {
    True: "- A clip has the same embedding alone and in a padded batch, up to rounding.",
    False: "- The speech encoder normalises over time: a batch needs clips of equal length.",
}


def check_licence(provenance: Mapping[str, Any] | None, licence: str | None) -> str:
    """Return the licence of the weights as an identifier of the Hub, "unknown" if there is none.

    Args:
        provenance: origin of the weights.
        licence: chosen by the publisher; None = the licence that encoders require.

    Raises:
        ModelError: if an encoder requires another licence.
    """
    required = {e.licence: e.hub for e in _known_encoders(provenance) if e.share_alike}
    if licence and required and licence not in required:
        ((expected, encoder),) = required.items()
        raise ModelError(
            f"the weights cannot be {licence}: {encoder} is {expected}, and models trained from it "
            "inherit that"
        )
    return licence or next(iter(required), "unknown")


def model_card(
    name: str,
    config: Any,
    parameters: int,
    batches: bool,
    scores: Mapping[str, Any] | None = None,
    licence: str | None = None,
) -> str:
    """Return the text of README.md including the metadata.

    Args:
        name: of the model on the Hub, or of its folder.
        config: a `ParaCLAPConfig`.
        parameters: number of parameters.
        batches: whether clips of different length can share a batch.
        scores: content of scores.yaml; None = not recorded.
        licence: see `check_licence`.

    Raises:
        ModelError: see `check_licence`.
    """
    provenance = config.provenance
    granted = check_licence(provenance, licence)
    body = BODY.substitute(
        title=name.rsplit("/", 1)[-1],
        name=name,
        task=TASK,
        trusted=True,
        version=transformers.__version__,
        parameters=f"{parameters / 1e6:.1f} million",
        dimensions=config.projection_dim,
        encoders=_encoders_text(provenance),
        licences=_licences_text(provenance, granted),
        training=_training_text(provenance),
        scores=_scores_text(scores),
        batching=BATCHING[batches],
    )
    return f"---\n{_metadata(name, provenance, granted, scores).to_yaml()}\n---\n{body}"


def _metadata(
    name: str,
    provenance: Mapping[str, Any] | None,
    licence: str,
    scores: Mapping[str, Any] | None,
) -> ModelCardData:
    encoders = _known_encoders(provenance)
    languages = sorted({encoder.language for encoder in encoders if encoder.language})
    return ModelCardData(
        license=licence,
        base_model=[encoder.hub for encoder in encoders] or None,
        language=languages or None,
        library_name="transformers",
        pipeline_tag=TASK,
        tags=["paraclap", "clap", "speech", "paralinguistics", "sentence-transformers"],
        model_name=name.rsplit("/", 1)[-1],
        eval_results=_eval_results(scores) or None,
    )


def _eval_results(scores: Mapping[str, Any] | None) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=TASK,
            task_name=f"zero-shot {figures.get('target', 'classification')}",
            dataset_type=corpus,
            dataset_name=corpus,
            metric_type=kind,
            metric_name=label,
            metric_value=round(figures[metric], 4),
        )
        for corpus, figures in (scores or {}).get("corpora", {}).items()
        for metric, (kind, label) in METRICS.items()
        if metric in figures
    ]


def _known_encoders(provenance: Mapping[str, Any] | None) -> list[Encoder]:
    names = [(provenance or {}).get(branch) for branch in BRANCHES]
    return [ENCODERS[name] for name in names if name in ENCODERS]


def _encoders_text(provenance: Mapping[str, Any] | None) -> str:
    return "\n".join(
        f"- {title}: {_encoder_text(provenance, branch)}" for branch, title in BRANCHES.items()
    )


def _encoder_text(provenance: Mapping[str, Any] | None, branch: str) -> str:
    if branch not in (provenance or {}):
        return NOT_RECORDED
    name = provenance[branch]
    return "none; trained from random weights." if name is None else f"`{name}`"


def _licences_text(provenance: Mapping[str, Any] | None, granted: str) -> str:
    encoders = _known_encoders(provenance)
    inherited = [encoder for encoder in encoders if encoder.share_alike]
    reason = (
        f", inherited from {inherited[0].hub}: no commercial use, and models trained from these "
        "weights must have the same licence"
        if inherited
        else ""
    )
    stated = f"{granted}{reason}" if granted != "unknown" else "not stated by the publisher"
    lines = [f"- These weights: {stated}."]
    lines += [f"- `{encoder.hub}`: {encoder.licence_name}." for encoder in encoders]
    lines += [
        "- `modeling_paraclap.py`: MIT.",
        "- The training corpora have their own licences.",
    ]
    return "\n".join(lines)


def _training_text(provenance: Mapping[str, Any] | None) -> str:
    facts = {key: value for key, value in (provenance or {}).items() if key not in BRANCHES}
    before = facts.pop("before", None)
    corpora = ", ".join(facts.pop("corpora", None) or []) or NOT_RECORDED.rstrip(".").lower()
    lines = [f"- corpora: {corpora}"]
    lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in facts.items()]
    if before is not None:
        lines += ["- of the model that training started from:"]
        lines += [f"  {line}" for line in _training_text(before).splitlines()]
    return "\n".join(lines)


def _scores_text(scores: Mapping[str, Any] | None) -> str:
    if not (scores or {}).get("corpora"):
        return NOT_RECORDED
    header = ["corpus", "target", "clips", "speakers", "classes", "chance", "UAR", "95 %"]
    header += ["ACC", "F1"]
    rows = [header, ["---"] * len(header)]
    rows += [_score_row(corpus, figures) for corpus, figures in scores["corpora"].items()]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    sets = scores.get("prompt_set", "not recorded")
    prompts = sets if isinstance(sets, str) else ", ".join(sets)
    return (
        "Zero-shot: each clip gets the class of the prompt with the highest cosine. UAR is the mean"
        " recall of the classes, chance the UAR of random guessing, 95 % the confidence interval of"
        f" the UAR over speakers; prompts: {prompts}.\n\n{table}"
    )


def _score_row(corpus: str, figures: Mapping[str, Any]) -> Sequence[str]:
    interval = figures.get("interval")
    return [
        corpus,
        *(_cell(figures.get(key)) for key in ("target", "clips", "speakers", "classes")),
        *(_cell(figures.get(key)) for key in ("chance", "UAR")),
        f"{interval[0]:.3f}-{interval[1]:.3f}" if interval else "-",
        *(_cell(figures.get(key)) for key in ("ACC", "F1")),
    ]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
