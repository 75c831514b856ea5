"""The model card of a published folder: README.md with the metadata of the Hub.

Its text is in card.md. Facts come from the provenance of the weights (`ParaCLAPConfig.provenance`)
and from the scores of evaluate.py; missing ones are listed as not recorded.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from paraclap.corpora.catalogue import CORPORA
from paraclap.model.sources import ModelError

TEMPLATE = Path(__file__).with_name("card.md")
TASK = "zero-shot-audio-classification"
MARKUP = re.compile(r"[\\`*\[\]<>|&~$]")
"""Characters with a meaning in Markdown or HTML."""


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
_MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_BERT = Encoder("google-bert/bert-base-uncased", "apache-2.0", "Apache 2.0", language="en")
ENCODERS = {
    _DIMENSIONAL: Encoder(_DIMENSIONAL, "cc-by-nc-sa-4.0", "CC BY-NC-SA 4.0", share_alike=True),
    "bert-base-uncased": _BERT,
    _BERT.hub: _BERT,
    _MINILM: Encoder(_MINILM, "apache-2.0", "Apache 2.0", language="en"),
    **{
        name: Encoder(name, "mit", "MIT")
        for name in ("openai/whisper-base", "openai/whisper-small")
    },
}

# Key in scores.yaml -> type of the metric on the Hub, and its name there.
METRICS = {
    "UAR": ("recall", "UAR (unweighted average recall)"),
    "ACC": ("accuracy", "accuracy"),
    "F1": ("f1", "macro F1"),
}


def model_card(
    name: str,
    config: Any,
    parameters: int,
    batches: bool,
    reads_level: bool = True,
    scores: Mapping[str, Any] | None = None,
    licence: str | None = None,
) -> str:
    """Return the text of README.md including the metadata.

    Args:
        name: of the model on the Hub, or of its folder.
        config: a `ParaCLAPConfig`.
        parameters: number of parameters.
        batches: whether clips of different length can share a batch.
        reads_level: whether the recording level is not normalised.
        scores: content of scores.yaml; None = not recorded.
        licence: chosen by the publisher, as an identifier of the Hub; None = the licence that an
            encoder requires, "unknown" if none does.

    Raises:
        ModelError: if an encoder requires another licence.
    """
    provenance, scores = config.provenance or {}, scores or {}
    used = (provenance.get("audio_encoder"), provenance.get("text_encoder"))
    encoders = [ENCODERS[encoder] for encoder in used if encoder in ENCODERS]
    required = next((encoder for encoder in encoders if encoder.share_alike), None)
    if licence and required and licence != required.licence:
        raise ModelError(
            f"the weights cannot be {licence}: {required.hub} is {required.licence}, and models "
            "trained from it inherit that"
        )
    granted = licence or (required.licence if required else "unknown")
    title = name.rsplit("/", 1)[-1]
    prompts = scores.get("prompt_set", "not recorded")
    card = ModelCard.from_template(
        _metadata(title, granted, encoders, scores),
        TEMPLATE,
        name=name,
        title=title,
        version=transformers.__version__,
        parameters=f"{parameters / 1e6:.1f} million",
        dimensions=config.projection_dim,
        batches=batches,
        reads_level=reads_level,
        bases=escaped(config.base_encoders or {}),
        corpora=_corpus_licences(provenance),
        provenance=escaped(provenance),
        encoders=encoders,
        required=required,
        prompts=", ".join(map(escaped, [prompts] if isinstance(prompts, str) else prompts)),
        rows=[_score_row(*entry) for entry in escaped(scores.get("corpora", {})).items()],
    )
    return str(card)


def _corpus_licences(provenance: Mapping[str, Any]) -> list[str]:
    """Return title and licence of the training corpora that the catalogue has."""
    names = provenance.get("corpora")
    known = [CORPORA.get(str(name)) for name in (names if isinstance(names, list) else [])]
    return [f"{corpus.title}: {corpus.licence}" for corpus in known if corpus and corpus.licence]


def _metadata(
    title: str, licence: str, encoders: Sequence[Encoder], scores: Mapping[str, Any]
) -> ModelCardData:
    return ModelCardData(
        license=licence,
        base_model=[encoder.hub for encoder in encoders] or None,
        language=sorted({encoder.language for encoder in encoders if encoder.language}) or None,
        library_name="transformers",
        pipeline_tag=TASK,
        tags=["paraclap", "clap", "speech", "paralinguistics", "sentence-transformers"],
        model_name=title,
        eval_results=_eval_results(scores) or None,
    )


def _eval_results(scores: Mapping[str, Any]) -> list[EvalResult]:
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
        for corpus, figures in scores.get("corpora", {}).items()
        for metric, (kind, label) in METRICS.items()
        if metric in figures
    ]


def _score_row(corpus: str, figures: Mapping[str, Any]) -> list[str]:
    keys = ("target", "clips", "speakers", "classes", "chance", "UAR", "interval", "ACC", "F1")
    seen = figures.get("trained_on", {}).get("text")
    return [corpus, *(_cell(figures.get(key)) for key in keys), _cell(seen)]


def escaped(value: Any) -> Any:
    """Return text for Markdown, on one line and without markup; also inside lists and mappings."""
    if isinstance(value, Mapping):
        return {escaped(key): escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    if not isinstance(value, str):
        return value
    printable = "".join(letter if letter.isprintable() else " " for letter in value)
    return MARKUP.sub(r"\\\g<0>", " ".join(printable.split()))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return f"{value[0]:.3f}-{value[1]:.3f}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
