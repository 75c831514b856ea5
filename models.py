r"""Build, load, convert and publish ParaCLAP models; the model itself is in modeling_paraclap.py.

    python models.py convert best.pth.tar out/paraclap --tokenizer bert-base-uncased
    python models.py publish runs/small out/small --scores results/scores.yaml --name USER/NAME
    python models.py export runs/small out/small-onnx --int8

    model, processor = load_model("runs/small")
    inputs = processor(text=["an angry voice"], audio=[waveform], sampling_rate=16_000,
                       padding=True, return_tensors="pt")
    outputs = model(**inputs)                     # outputs.logits_per_audio: (B, K)

`convert` reads weights in the form in which the authors published theirs (a bare state dict, on the
Hub as KeiKinn/paraclap), without downloading the base encoders; `publish` reads a run folder or a
model folder. Both write a folder that train.py, evaluate.py, transformers (`AutoModel`,
`AutoProcessor`, `pipeline`) and sentence-transformers load, with a model card: ready for
`hf upload USER/NAME out/small`. `export` writes both towers as ONNX, see onnx_towers.py. A folder
is written as a whole or not at all.
"""

import argparse
import dataclasses
import json
import string
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from checkpoints import whole_folder
from model_card import check_licence, model_card
from modeling_paraclap import (
    LOG_MEL,
    MAX_LOGIT_SCALE,
    MEL_HOP,
    MEL_WINDOW,
    PUBLISHED_CONFIG,
    FunctionalsConfig,
    FunctionalsFeatureExtractor,
    ParaCLAPConfig,
    ParaCLAPFeatureExtractor,
    ParaCLAPModel,
    ParaCLAPProcessor,
    clip_loss,
    receptive_field,
    scaled_cosines,
)
from onnx_towers import export_onnx

__all__ = [
    "MAX_LOGIT_SCALE",
    "Functionals",
    "FunctionalsFeatureExtractor",
    "MelSettings",
    "ModelSettings",
    "ParaCLAPConfig",
    "ParaCLAPFeatureExtractor",
    "ParaCLAPModel",
    "ParaCLAPProcessor",
    "TowerSettings",
    "build_model",
    "clip_loss",
    "convert",
    "load_model",
    "publish",
    "receptive_field",
    "scaled_cosines",
    "train_tokenizer",
]

# Weights that a published encoder may lack without harm: none of them takes part in an embedding.
UNUSED_WEIGHTS = ("pooler.", "masked_spec_embed")

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ALPHABET = string.ascii_lowercase + string.digits + string.punctuation

PUBLISHED_TOKENIZER: str = PUBLISHED_CONFIG["provenance"]["text_encoder"]

# Files that tell sentence-transformers (6 or newer) which method embeds texts and which clips.
SENTENCE_TRANSFORMERS: dict[str, Any] = {
    "modules.json": [
        {
            "idx": 0,
            "name": "0",
            "path": "",
            "type": "sentence_transformers.base.modules.transformer.Transformer",
        }
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            name: {"method": f"get_{name}_features", "method_output_name": "pooler_output"}
            for name in ("text", "audio")
        },
        "module_output_name": "sentence_embedding",
    },
    "config_sentence_transformers.json": {
        "model_type": "SentenceTransformer",
        "requirements": {"sentence_transformers": ">=6.0"},
        "similarity_fn_name": "cosine",
    },
}


@dataclass
class TowerSettings:
    """Where one encoder comes from.

    Attributes:
        name: Hub name or folder of pretrained weights; None starts from random weights.
        config: with a name, overrides of the pretrained configuration; without one, the whole
            Hugging Face configuration, `model_type` included.
    """

    name: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class MelSettings:
    """Front end of a speech encoder that reads a log-mel spectrogram (model_type wav2vec2-bert).

    Attributes:
        bins: bands of the mel scale.
        stride: windows, one every 10 ms, that the encoder reads as one frame.
        normalisation: "fixed" (by a constant: captions speak of loudness, so it can be heard) or
            "clip" (every band has mean 0 and deviation 1 in every clip: recordings of other levels
            and microphones sound alike, and loudness is lost; pretrained encoders expect it).
    """

    bins: int = 80
    stride: int = 2
    normalisation: str = "fixed"

    @property
    def size(self) -> int:
        """M, values of a frame."""
        return self.bins * self.stride + (self.normalisation == "fixed")


@dataclass
class Functionals:
    """What a tower on acoustic functionals has to know of the training clips.

    Attributes:
        names: of the functionals (F).
        mean: over the clips (F,).
        deviation: standard deviation over the clips (F,).
        undefined: see `FunctionalsFeatureExtractor`.
    """

    names: list[str]
    mean: torch.Tensor
    deviation: torch.Tensor
    undefined: list[tuple[int, float, list[int]]]


@dataclass
class ModelSettings:
    """What is built before training.

    Attributes:
        start: whole model to go on from: a run or model folder, or a Hub name. Weights, processor
            and tokenizer are taken over, and of what follows only `freeze` has a say.
        audio: speech encoder of the wav2vec2 family, reading raw waveforms, one that reads a
            log-mel spectrogram (`config: {model_type: wav2vec2-bert}`), or a network on the
            functionals of eGeMAPSv02 (`config: {model_type: egemaps}`, with `data.features`).
        mel: front end of an encoder that reads a log-mel spectrogram.
        text: text encoder.
        audio_pooling: what stands for a clip: "mean" (of its frames, as published), "mean_std"
            (beside it their standard deviation) or "attention" (a mean whose weights are learned).
        audio_layers: "last" (layer of the speech encoder) or "weighted" (a mean of all of them,
            whose weights are learned, also where the encoder is frozen).
        text_pooling: what stands for a sentence: "cls" (its first token, as BERT has it) or "mean"
            (of its tokens, as sentence encoders have it).
        projection_dim: D, size of the shared space.
        projection_dropout: dropout probability inside the projections.
        input_gain: constant factor on the waveform. Pretrained encoders read it as it is (1);
            encoders that start from random weights learn faster when speech is near unit level.
        vocabulary_size: WordPiece entries when the text encoder starts from random weights.
        freeze: parts that keep their weights: any of "audio",
            "audio_convolutions", "text", "audio_projection" and "text_projection".
    """

    start: str | None = None
    audio: TowerSettings = field(default_factory=TowerSettings)
    mel: MelSettings = field(default_factory=MelSettings)
    text: TowerSettings = field(default_factory=TowerSettings)
    audio_pooling: str = "mean"
    audio_layers: str = "last"
    text_pooling: str = "cls"
    projection_dim: int = 768
    projection_dropout: float = 0.5
    input_gain: float = 1.0
    vocabulary_size: int = 2000
    freeze: list[str] = field(default_factory=list)


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Fit an uncased WordPiece tokenizer to `texts`, for text encoders without pretrained weights.

    Single letters and digits are in the vocabulary, so any later query in them can be read. The
    same texts give the same vocabulary in any order.
    """
    tokenizer = _wordpiece(None)
    special = list(SPECIAL_TOKENS.values())
    # The trainer numbers unknown characters in the order of a randomly seeded hash table, and
    # breaks ties by these numbers. It numbers "special" tokens in the order given.
    pieces = [f"{prefix}{letter}" for prefix in ("", "##") for letter in ALPHABET]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size, special_tokens=special + pieces, show_progress=False
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    tokenizer = _wordpiece(tokenizer.get_vocab())
    cls, sep = (
        (SPECIAL_TOKENS[name], tokenizer.token_to_id(SPECIAL_TOKENS[name]))
        for name in ("cls", "sep")
    )
    tokenizer.post_processor = processors.BertProcessing(sep, cls)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in SPECIAL_TOKENS.items()},
    )


def _wordpiece(vocabulary: dict[str, int] | None) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL_TOKENS["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def build_model(
    settings: ModelSettings, texts: Iterable[str], functionals: Functionals | None = None
) -> tuple[ParaCLAPModel, ParaCLAPProcessor]:
    """Build what `settings` describe, with pretrained weights where they are named.

    Args:
        settings: the model part of a configuration.
        texts: captions of the training part; a tokenizer is fitted to them when the text
            encoder has no name.
        functionals: of the training part, for an audio tower that reads them.

    Raises:
        FileNotFoundError: if the folder of `start` holds no model.
        OSError: if there is neither such a folder nor such a name.
        ValueError: if a pretrained encoder lacks weights, a tower has neither name nor config, or
            has one beside `start`, or functionals are wanted and not given, or the other way round.
    """
    if settings.start:
        model, processor = _started(settings)
        _refuse_apart(model.audio_branch.reads_functionals, functionals)
        return model, processor
    tokenizer = (
        AutoTokenizer.from_pretrained(settings.text.name)
        if settings.text.name
        else train_tokenizer(texts, settings.vocabulary_size)
    )
    kind = settings.audio.config.get("model_type")
    _refuse_apart(kind == FunctionalsConfig.model_type, functionals)
    known = {} if functionals is None else {"names": functionals.names}
    if kind == LOG_MEL:
        known = {"feature_projection_input_dim": settings.mel.size}
    audio = _encoder("audio", settings.audio, **known)
    if functionals is not None:
        audio.standardise_by(functionals.mean, functionals.deviation)
    text = _encoder("text", settings.text, vocab_size=len(tokenizer))
    config = ParaCLAPConfig(
        audio_config=audio.config.to_dict(),
        text_config=text.config.to_dict(),
        text_pooling=settings.text_pooling,
        audio_pooling=settings.audio_pooling,
        audio_layers=settings.audio_layers,
        projection_dim=settings.projection_dim,
        projection_dropout=settings.projection_dropout,
    )
    model = ParaCLAPModel(config)
    model.audio_branch.base.load_state_dict(audio.state_dict())
    model.text_branch.base.load_state_dict(text.state_dict())
    extractor = (
        _waveform_extractor(config, settings)
        if functionals is None
        else FunctionalsFeatureExtractor(names=functionals.names, undefined=functionals.undefined)
    )
    return model.freeze(settings.freeze), _processor(config, tokenizer, extractor)


def _waveform_extractor(
    config: ParaCLAPConfig, settings: ModelSettings
) -> ParaCLAPFeatureExtractor:
    """Extractor that gives the encoder no clip too short for it.

    Raises:
        ValueError: if log-mel frames are not what the encoder reads.
    """
    audio, mel, gain = config.audio_config, settings.mel, settings.input_gain
    if audio.model_type != LOG_MEL:
        return ParaCLAPFeatureExtractor(gain=gain, min_samples=receptive_field(audio))
    if audio.feature_projection_input_dim != mel.size:
        raise ValueError(
            f"the audio encoder reads frames of {audio.feature_projection_input_dim} values, "
            f"{mel} gives {mel.size}; pretrained ones read bins=80, stride=2, normalisation=clip"
        )
    windows = max(mel.stride, 2)  # a single one has no deviation
    shortest = MEL_WINDOW + (windows - 1) * MEL_HOP
    return ParaCLAPFeatureExtractor(gain=gain, min_samples=shortest, mel=dataclasses.asdict(mel))


def _refuse_apart(reads_functionals: bool, functionals: Functionals | None) -> None:
    if reads_functionals != (functionals is not None):
        raise ValueError(
            "data.features is for an audio tower with model_type egemaps, and such a tower needs it"
        )


def _started(settings: ModelSettings) -> tuple[ParaCLAPModel, ParaCLAPProcessor]:
    """Take over a whole model; its provenance stays in its configuration."""
    for branch in ("audio", "text"):
        if getattr(settings, branch) != TowerSettings():
            raise ValueError(
                f"model.start and model.{branch} both say where the {branch} encoder comes from, "
                "expected one of them; configs/finetune.yaml names no encoders"
            )
    model, processor = load_model(settings.start)
    words, expected = len(processor.tokenizer), model.config.text_config.vocab_size
    if words > expected:
        raise ValueError(
            f"the tokenizer of {settings.start} has {words} entries, its weights expect {expected}"
        )
    return model.float().freeze(settings.freeze), processor


def _processor(
    config: ParaCLAPConfig,
    tokenizer: PreTrainedTokenizerBase,
    extractor: ParaCLAPFeatureExtractor | FunctionalsFeatureExtractor,
) -> ParaCLAPProcessor:
    """Processor that gives the encoder no text too long for it."""
    longest = getattr(config.text_config, "max_position_embeddings", tokenizer.model_max_length)
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    return ParaCLAPProcessor(extractor, tokenizer)


def _encoder(branch: str, tower: TowerSettings, **defaults: Any) -> PreTrainedModel:
    if tower.name:
        encoder, report = AutoModel.from_pretrained(
            tower.name, output_loading_info=True, **tower.config
        )
        _refuse_missing(tower.name, report["missing_keys"])
        return encoder
    if "model_type" not in tower.config:
        raise ValueError(
            f"model.{branch} needs the name of pretrained weights or a config with a model_type, "
            "unless model.start gives a whole model"
        )
    return AutoModel.from_config(AutoConfig.for_model(**(defaults | tower.config)))


def _refuse_missing(source: str | Path, keys: Iterable[str]) -> None:
    """Weights that are not in the file would stay random, and nobody would notice."""
    missing = sorted(key for key in keys if not any(name in key for name in UNUSED_WEIGHTS))
    if missing:
        raise ValueError(f"{source} lacks {len(missing)} weights, the first is {missing[0]!r}")


def load_model(
    source: str | Path, device: torch.device | str = "cpu"
) -> tuple[ParaCLAPModel, ParaCLAPProcessor]:
    """Load a trained model and its processor from a folder or a Hub name.

    A run folder stands for its `best/`.

    Raises:
        FileNotFoundError: if the folder holds no model.
        OSError: if there is neither such a folder nor such a name.
        ValueError: if weights are missing, unknown or have other shapes.
    """
    folder = Path(source)
    if (folder / "best" / "config.json").is_file():
        folder = folder / "best"
    if folder.exists() and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no model: neither config.json nor best/config.json"
        )
    source = folder if folder.exists() else source
    model, report = ParaCLAPModel.from_pretrained(source, output_loading_info=True)
    _refuse_missing(source, report["missing_keys"])
    if report["unexpected_keys"]:
        stray = sorted(report["unexpected_keys"])
        raise ValueError(f"{source} has {len(stray)} unknown weights, the first is {stray[0]!r}")
    return model.to(device).eval(), ParaCLAPProcessor.from_pretrained(source)


def convert(
    source: str | Path,
    output: str | Path,
    tokenizer: str | Path = PUBLISHED_TOKENIZER,
    config: ParaCLAPConfig | None = None,
    sha256: str | None = None,
    **card: Any,
) -> Path:
    """Turn weights in their published form into a model folder, see `ParaCLAPModel.from_published`.

    Args:
        source: `best.pth.tar`, a folder that holds it, or a name on the Hub.
        output: folder to write; may exist if it is empty.
        tokenizer: Hub name or folder of the text encoder's tokenizer, which is not in the file.
        config: of a checkpoint with other towers; None = the published one.
        sha256: hash that the file has to have.
        card: `scores`, `name` and `licence` of the model card.

    Raises:
        FileExistsError: if `output` holds something.
        OSError: if a file is neither here nor to be had from the Hub.
        ValueError: if weights or tokenizer are not what was expected.
    """
    output = _free_folder(output)
    words = _tokenizer(tokenizer)
    model = ParaCLAPModel.from_published(source, config, sha256)
    expected = model.config.text_config.vocab_size
    if len(words) != expected:
        raise ValueError(
            f"tokenizer {tokenizer} has {len(words)} entries, the weights expect {expected}"
        )
    extractor = _waveform_extractor(model.config, ModelSettings())
    return _write_folder(output, model, _processor(model.config, words, extractor), **card)


def _tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except OSError as error:
        raise OSError(
            f"tokenizer {name} is neither a folder here nor to be had from the Hugging Face Hub; "
            "its words are not part of the weights: download tokenizer.json and "
            "tokenizer_config.json of that name, and give their folder with --tokenizer"
        ) from error


def publish(source: str | Path, output: str | Path, **card: Any) -> Path:
    """Write a folder that is ready for the Hub from a run, a model folder or a Hub name.

    Args:
        source: see `load_model`.
        output: folder to write; may exist if it is empty.
        card: `scores`, `name` and `licence` of the model card.

    Raises:
        FileExistsError: if `output` holds something.
        FileNotFoundError: if there is no model.
    """
    output = _free_folder(output)
    return _write_folder(output, *load_model(source), **card)


def _free_folder(path: str | Path) -> Path:
    path = Path(path).resolve()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists already; take another name, or remove it first")
    return path


def _write_folder(
    output: Path,
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    scores: Mapping[str, Any] | None = None,
    name: str | None = None,
    licence: str | None = None,
) -> Path:
    """Write model, code, processor, tokenizer, card and what sentence-transformers reads."""
    check_licence(model.config.provenance, licence)
    card = model_card(
        name or output.name,
        model.config,
        parameters=model.num_parameters(),
        batches=model.audio_branch.supports_padding,
        scores=scores,
        licence=licence,
    )
    with whole_folder(output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        for file, content in SENTENCE_TRANSFORMERS.items():
            (folder / file).write_text(json.dumps(content, indent=2) + "\n")
        (folder / "README.md").write_text(card)
    return output


def _read_scores(path: str | None) -> dict[str, Any] | None:
    """Document that evaluate.py wrote.

    Raises:
        ValueError: if it is none.
    """
    if path is None:
        return None
    try:
        document = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("corpora"), dict):
        raise ValueError(f"{path} has no `corpora`, expected the scores.yaml of evaluate.py")
    print(f"scores in {path} are those of {document.get('model')}")
    return document


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    if options.command == "export":
        return _export(options)
    card = {
        "scores": _read_scores(options.scores),
        "name": options.name,
        "licence": options.license,
    }
    if options.command == "convert":
        config = ParaCLAPConfig.from_json_file(options.config) if options.config else None
        output = convert(
            options.source, options.output, options.tokenizer, config, options.sha256, **card
        )
    else:
        output = publish(options.source, options.output, **card)
    print(f"written to {output}; `hf upload USER/NAME {output}` puts it on the Hub")
    return 0


def _export(options: argparse.Namespace) -> int:
    """Export a model, and tell how far it is from torch."""
    output = _free_folder(options.output)
    about = export_onnx(*load_model(options.source), output, options.int8)
    print(f"written to {output}, opset {about['opset']}; largest differences from torch:")
    for tower, value in about["differences"].items():
        print(f"  {tower:<6}{value:.1e} in a component of an embedding")
    for tower, value in about.get("int8_distances", {}).items():
        print(f"  {tower:<6}{value:.1e} between embeddings (1 - cosine), int8")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    reads = {
        "convert": "best.pth.tar, a folder that holds it, or a Hub name (KeiKinn/paraclap)",
        "publish": "run folder, its best/ or last/, a model folder, or a Hub name",
    }
    parsers = {name: commands.add_parser(name, help=f"from {text}") for name, text in reads.items()}
    for name, command in parsers.items():
        command.add_argument("source", help=reads[name])
        command.add_argument("output", help="folder to write; must not exist, or be empty")
        command.add_argument("--scores", help="scores.yaml of evaluate.py, for the model card")
        command.add_argument("--name", help="name on the Hub in the model card, USER/NAME")
        command.add_argument("--license", help="of the weights, as the Hub writes it, e.g. mit")
    export = commands.add_parser("export", help="to ONNX (requirements-onnx.txt)")
    export.add_argument("source", help=reads["publish"])
    export.add_argument("output", help="folder to write; must not exist, or be empty")
    export.add_argument("--int8", action="store_true", help="also with weights in 8 bits")
    add = parsers["convert"].add_argument
    add(
        "--tokenizer", default=PUBLISHED_CONFIG["provenance"]["text_encoder"], help="name or folder"
    )
    add("--sha256", help="hash that the file has to have")
    add("--config", help="config.json of a checkpoint with other towers")
    return parser.parse_args(arguments)


AutoConfig.register(ParaCLAPConfig.model_type, ParaCLAPConfig)
AutoModel.register(ParaCLAPConfig, ParaCLAPModel)
AutoFeatureExtractor.register(ParaCLAPConfig, ParaCLAPFeatureExtractor)
AutoProcessor.register(ParaCLAPConfig, ParaCLAPProcessor)
for travelling in (
    ParaCLAPConfig,
    ParaCLAPModel,
    ParaCLAPFeatureExtractor,
    FunctionalsFeatureExtractor,
    ParaCLAPProcessor,
):
    travelling.register_for_auto_class()  # a copy of modeling_paraclap.py goes with saved weights

if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"models.py: {error}")
