"""Settings of a training run: documented dataclasses and their defaults.

`paraclap.training.config` merges them with a YAML file and `key=value` arguments. This module
imports no heavy package, so that settings are checked within a second.
"""

from dataclasses import dataclass, field
from typing import Any

from paraclap.errors import ParaCLAPError

BATCH_SECONDS = 60.0  # padded audio per batch [s] where whole clips are embedded

EMOTION = "emotion"  # the label that every sampled caption contains by default

SMALL_BERT: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 128,
    "initializer_range": 0.09,
}
"""Text encoder with random weights where neither a name nor a `model_type` is set."""


class SettingsError(ParaCLAPError, ValueError):
    """The settings are wrong, or do not go together with each other or with the data."""


@dataclass
class AugmentSettings:
    """Waveform augmentation, in training only.

    Each transform is applied to its share of the training crops. A transform is skipped for a clip
    whose caption describes a quality that it changes: speed changes pitch, duration and tempo; gain
    changes levels; noise and reverberation change all measured qualities except pitch, intensity
    and duration; all of them change jitter and shimmer. Labels such as emotion and gender are never
    affected.

    Attributes:
        speed: probability of a change of speed, which also moves pitch.
        speed_range: range of the speed factor.
        reverb: probability of added reverberation.
        reverb_range: range of the reverberation time RT60 [s].
        noise: probability of added noise, with a spectrum between white and pink.
        noise_range: range of the signal-to-noise ratio [dB].
        gain: probability of a change of level; amplification stops at full scale.
        gain_range: range of the gain [dB].
    """

    speed: float = 0.0
    speed_range: list[float] = field(default_factory=lambda: [0.95, 1.05])
    reverb: float = 0.0
    reverb_range: list[float] = field(default_factory=lambda: [0.2, 0.6])
    noise: float = 0.0
    noise_range: list[float] = field(default_factory=lambda: [10.0, 30.0])
    gain: float = 0.0
    gain_range: list[float] = field(default_factory=lambda: [-6.0, 6.0])


@dataclass
class TowerSettings:
    """Source of one encoder.

    Attributes:
        name: Hub name or folder of pretrained weights; None = random weights.
        config: with a name, changes to the pretrained configuration; without one, the Hugging Face
            configuration including `model_type`. A text encoder without name and `model_type` is a
            BERT of two layers with 128 dimensions.
    """

    name: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class MelSettings:
    """Log-mel front end of an audio encoder of type wav2vec2-bert.

    With default values, the one that a pretrained encoder states is used.

    Attributes:
        bins: number of mel bands.
        stride: number of windows, 10 ms apart, that are stacked into one frame.
        normalisation: "fixed" (constant scaling, which preserves loudness) or "clip" (mean 0 and
            standard deviation 1 in each band of each clip, which removes recording level and
            loudness; expected by pretrained encoders).
    """

    bins: int = 80
    stride: int = 2
    normalisation: str = "fixed"

    @property
    def size(self) -> int:
        """M, number of values of a frame."""
        return self.bins * self.stride + (self.normalisation == "fixed")


@dataclass
class LoraSettings:
    """LoRA: pretrained encoders are frozen, except for low-rank adapters in linear layers.

    Adapters have the learning rates of their encoders, `optim.audio_lr` and `optim.text_lr`, about
    ten times or more those of whole encoders. Saved models are merged ones, which need neither peft
    nor these settings; the adapters are in the folder `adapter` beside their weights. Requires
    `pip install "paraclap[lora]"`.

    Attributes:
        towers: any of "audio" and "text", which are not listed in `model.freeze`; [] = no LoRA.
        rank: of the adapters.
        alpha: adapters are multiplied by alpha / rank.
        targets: linear layers with an adapter, by the last part of their name ("query" and "value"
            in BERT); if there are none, the error lists those that the encoder has.
        dropout: dropout probability of the input of an adapter.
    """

    towers: list[str] = field(default_factory=list)
    rank: int = 8
    alpha: float = 16.0
    targets: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    dropout: float = 0.0


@dataclass
class ModelSettings:
    """Model settings.

    Attributes:
        start: trained model to continue from: a run folder, its `best` or `last`, another model
            folder, a Hub name, or "installed", the model that is installed with the package. It
            defines the whole model: as an argument, it replaces the model and the text pretraining
            of the configuration file, except `model.freeze` and `model.lora`; beside it, no other
            `model.*` keys may be set. Convolutions that the model lacks are skipped. Without a
            file, configs/finetune.yaml is used.
        audio: audio encoder: one of the wav2vec2 family on raw waveforms, one on log-mel frames
            (`config: {model_type: wav2vec2-bert}`), or a network on eGeMAPSv02 functionals
            (`config: {model_type: egemaps}`, with `data.features`).
        mel: front end of an audio encoder on log-mel frames.
        text: text encoder.
        audio_pooling: pooling over frames: "mean" (as published), "mean_std" (mean and standard
            deviation) or "attention" (mean with learned weights).
        audio_layers: output of the audio encoder: "last" (last layer), "weighted" (mean of all
            layers with learned weights, which also learn if the encoder is frozen), or a list of
            layers that are concatenated, such as [1, 2, 3] (0 = the input of the first layer). With
            other layers than the last, `layerdrop` of the encoder is 0 unless set.
        audio_standardise: whether the pooled output of a pretrained audio encoder is standardised
            with mean and standard deviation of the centre crops of the training clips, as they are
            before the first step, also if the encoder is trained.
        audio_dropout: dropout probability of this output.
        text_pooling: pooling over tokens: "cls" (first token, as in BERT) or "mean" (as in sentence
            encoders).
        projection_dim: D, dimension of the shared embedding space.
        projection_dropout: dropout probability in the projections.
        input_gain: constant factor on the waveform. 1 for pretrained encoders; encoders with random
            weights learn faster if speech is scaled to about unit level.
        normalise_waveform: whether waveforms are normalised to mean 0 and variance 1, which removes
            the recording level; None = as set by the pretrained encoder (`do_normalize`), else no.
        vocabulary_size: size of the WordPiece vocabulary that is fitted to the captions if the text
            encoder has random weights.
        freeze: parts of the model that are not trained: any of "audio", "audio_convolutions",
            "text", "audio_projection" and "text_projection".
        lora: adapters of encoders that are not trained as a whole.
    """

    start: str | None = None
    audio: TowerSettings = field(default_factory=TowerSettings)
    mel: MelSettings = field(default_factory=MelSettings)
    text: TowerSettings = field(default_factory=TowerSettings)
    audio_pooling: str = "mean"
    audio_layers: Any = "last"
    audio_standardise: bool = False
    audio_dropout: float = 0.0
    text_pooling: str = "cls"
    projection_dim: int = 768
    projection_dropout: float = 0.5
    input_gain: float = 1.0
    normalise_waveform: bool | None = None
    vocabulary_size: int = 2000
    freeze: list[str] = field(default_factory=list)
    lora: LoraSettings = field(default_factory=LoraSettings)


@dataclass
class CaptionSettings:
    """Caption settings: how the phrases of a clip become one caption.

    Attributes:
        style: "sampled" (a random number of phrases in random order, then the labels), "published"
            ("speaker" and all phrases, as in the published code) or "emotion" (the emotion phrase
            only).
        label_probs: for "sampled": probability of each label in a caption, by descriptor.
        phrase_count_probs: for "sampled": probabilities of 0, 1, 2, ... phrases about other
            descriptors. A caption is never empty.
        paraphrases: sample among the wordings of a phrase; False = always the first.
        mix: for clips that have free captions and phrases: probability of a caption composed of
            phrases. The style concerns these captions alone.
    """

    style: str = "sampled"
    label_probs: dict[str, float] = field(default_factory=lambda: {EMOTION: 1.0})
    phrase_count_probs: list[float] = field(default_factory=lambda: [0.0, 0.4, 0.3, 0.2, 0.1])
    paraphrases: bool = True
    mix: float = 0.5


@dataclass
class CorpusSettings:
    """One of several corpora; see `DataSettings` for its fields."""

    root: str | None = None
    captions: str | None = None
    features: str | None = None
    weight: float = 1.0


@dataclass
class DataSettings:
    """Data settings.

    Attributes:
        corpora: several corpora, by name: `root`, `captions` and, for functionals, `features` of
            each, and `weight`, a factor on the number of clips that are sampled from it, instead of
            the keys below. Each may have a table of another kind. In a captions
            table with a column `corpus`, the rows of that name are used. Level words are relative
            to the table, or to each corpus if the table was written with `--edges-by corpus`.
        sampling_exponent: a corpus of n clips is sampled in proportion to n to the power of this: 1
            samples by corpus size, 0 samples corpora equally.
        class_sampling_exponent: the same for the classes of `train.target` within each corpus.
        root: folder that the audio paths in the captions table are relative to, or of the shards
            that contain them. None = the folder of the table, unless that is a .parquet file.
        captions: captions table of preprocessing/template_creation.py, or a table of one's own
            (.csv, .tsv, .jsonl, .parquet, an audformat database, or a folder of shards, by
            default that of `root`) with the column `file` and
            captions (`caption`, a text, in one or several rows of a clip, or `captions`, a list),
            labels (`emotion`, ...), or both. The captions of such a table, with phrases about its
            labels, are written into the run folder.
        templates: phrase tables for the labels of such a table, see `--templates` of
            template_creation.py.
        features: table of features.py, for an audio encoder on functionals. If it is not set,
            functionals for a model in `model.start` are measured before the first step.
        train_split: value of the column `split` of the training clips. A table without this column
            is used whole, unless another value than the default is set.
        validation_split: value of the column `split` of the validation clips; a value that no clip
            has is an error. None = "dev", and if no clip has it, `validation_speakers`.
        validation_speakers: number of training speakers held out for validation if there is no
            validation split, sampled with `train.seed`; 0 = no validation. Of a table without
            speakers, a tenth of the files is held out, at most 1000.
        waveform_cache: folder for memory-mapped 16 kHz waveforms of the corpus, written before the
            first step and reused by later runs. None = read the audio files.
        shuffled_shards: number of shards whose clips are shuffled together if `root` is a folder of
            shards; the shards are shuffled as well. Few are read nearly in order; 0 = all.
        crop_seconds: longest training crop [s].
        augment: waveform augmentation; requires `crop=random`.
        crop: position of the training crops: "random" or "centre" (the same in every epoch). With
            "centre", the outputs of a frozen audio encoder are computed once, before the first
            step.
        embeddings: folder that keeps the outputs of a frozen audio encoder for later runs: mean and
            standard deviation of all layers. "auto" = the embedding cache of evaluate.py if the
            encoder has pretrained weights, None = not kept.
        workers: number of processes that read audio, or of threads with `waveform_cache`; 0 = read
            between the steps, "auto" = as many as the process has cores, at most 8.
        timeout: longest wait for a worker [s]; the run stops after it.
    """

    corpora: dict[str, CorpusSettings] = field(default_factory=dict)
    sampling_exponent: float = 1.0
    class_sampling_exponent: float = 1.0
    root: str | None = None
    captions: str = "captions.parquet"
    templates: list[str] = field(default_factory=lambda: ["paraclap"])
    features: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    validation_speakers: int = 2
    waveform_cache: str | None = None
    shuffled_shards: int = 8
    crop_seconds: float = 5.0
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    crop: str = "random"
    embeddings: str | None = "auto"
    workers: int | str = 0
    timeout: float = 300.0


@dataclass
class LossSettings:
    """Loss settings.

    Attributes:
        name: "contrastive" (symmetric cross entropy over the batch, as in CLIP) or "sigmoid"
            (binary cross entropy of each pair, as in SigLIP).
        positives: positive pairs: "matching" (each caption of the batch that is true of the clip;
            pairs with missing labels are ignored by the loss) or "own" (only the caption sampled
            for the clip).
        class_prompts: weight of the class-prompt loss, a cross entropy over all classes of
            `train.target`, each represented by the mean embedding of its phrases; 0 = off. Not used
            if all captions are texts of one's own.
        alignment: weight of a loss that aligns mean and covariance of the audio embeddings of the
            corpora within each batch, if there are several in `data.corpora`; 0 = off.
    """

    name: str = "contrastive"
    positives: str = "matching"
    class_prompts: float = 0.0
    alignment: float = 0.0


@dataclass
class OptimSettings:
    """Optimiser settings.

    Attributes:
        name: "adamw" or "adam".
        lr: learning rate of the projections and the logit scale.
        audio_lr: learning rate of the audio encoder.
        text_lr: learning rate of the text encoder.
        text_projection_lr: learning rate of the text projection; None = `lr`. After text
            pretraining it should be as small as `text_lr`, or the embeddings of different captions
            collapse again.
        layer_decay: factor on `audio_lr` and `text_lr` per layer below the top layer of an encoder;
            1 = the same rate in all layers.
        weight_decay: weight decay of matrices; biases, norms and the logit scale have none.
        schedule: learning rate after the warm-up: "cosine" (to zero) or "constant".
        warmup_steps: number of steps of linear warm-up.
        clip_norm: largest norm of the gradient; 0 = no clipping.
    """

    name: str = "adamw"
    lr: float = 1e-3
    audio_lr: float = 1e-5
    text_lr: float = 1e-5
    text_projection_lr: float | None = None
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    schedule: str = "cosine"
    warmup_steps: int = 100
    clip_norm: float = 1.0


@dataclass
class TextPretrainingSettings:
    """Text pretraining: a first stage without audio, for text encoders with random weights.

    Such an encoder maps all captions to nearly the same embedding, and the contrastive loss alone
    does not change that. This stage separates captions of different meaning and aligns captions of
    the same meaning. With `model.freeze=[text]` an encoder with random weights is trained in this
    stage only.

    Attributes:
        steps: number of steps; 0 for pretrained text encoders.
        lr: learning rate of the text encoder and its projection, with a cosine schedule to zero.
        batch_size: captions per step.
    """

    steps: int = 0
    lr: float = 1e-3
    batch_size: int = 64


@dataclass
class TrainSettings:
    """Training settings: duration, validation, checkpoints and hardware.

    Attributes:
        epochs: passes over the training clips.
        min_steps: fewest steps of a run, for which small corpora are passed more often; 0 = none.
        max_steps: stop after this number of steps, with a validation and a checkpoint as at the end
            of a run; 0 = no limit. The learning-rate schedule is that of the whole run, and the
            same command without this key continues the run. `train.max_steps=2` is a dry run:
            memory use and the expected duration of the whole run are printed at the end.
        unfreeze: when parts of `model.freeze` start to be trained, by part: a fraction of all steps
            (below 1) or a number of steps, as in `"train.unfreeze={audio: 0.3}"`. Their learning
            rates are warmed up from there, over `optim.warmup_steps`.
        batch_size: clips per step, over all processes.
        bucket: batches of clips of similar duration, padded to the longest clip of the batch
            instead of `data.crop_seconds`.
        keep_old: share of the start model in the weights that are validated and saved, which are
            interpolated between those of `model.start` and the trained ones. It limits forgetting
            of what the new clips lack: other corpora, attributes and classes. 0 = none.
        seed: seed of weights, order, crops, captions and dropout.
        validate_every: steps between validations; the last step is always validated.
        criterion: score that chooses the best model: "UAR" (zero-shot classification of `target`),
            "R@1" (retrieval between clips and captions, mean of both directions) or "loss". "auto"
            is "UAR" if validation clips have labels of two classes, else "R@1".
        target: label column that validation predicts.
        prompts: prompt set of the validation, see `--prompts` of evaluate.py.
        save_every: steps between checkpoints.
        save_minutes: minutes between checkpoints, in addition to `save_every`; 0 = off.
        keep: number of checkpoints kept; the best model is kept separately.
        log_every: steps between rows of metrics.jsonl.
        loggers: any of "tensorboard" and "wandb", in addition to metrics.jsonl.
        resume: "auto" (newest checkpoint of the run folder, if any), "never" (start again and
            remove what an earlier run left in the folder) or the path of a checkpoint.
        force: resume even if settings or data have changed since the checkpoint; the new settings
            apply from the next step on.
        max_skipped: largest number of consecutive steps that are skipped because the loss or the
            gradient is not finite; one more stops the run.
        micro_batch: rows that a trained encoder processes at a time, which limits memory at the
            cost of a second forward pass; 0 = the whole batch.
        checkpoint_activations: recompute activations in the backward pass to save memory.
        compile: compile the encoders with torch.compile, which takes minutes at the start.
        text_cache: size of the cache of caption embeddings of a frozen text encoder [MiB].
        precision: "auto" (bfloat16 if the hardware supports it), "fp32" or "bf16".
        device: "auto", "cpu", "cuda", ...; with several processes, each uses its own GPU.
        timeout: longest wait for another process [s].
    """

    epochs: int = 10
    min_steps: int = 0
    max_steps: int = 0
    unfreeze: dict[str, float] = field(default_factory=dict)
    batch_size: int = 32
    bucket: bool = False
    keep_old: float = 0.0
    seed: int = 3407
    validate_every: int = 200
    criterion: str = "auto"
    target: str = "emotion"
    prompts: str = "sentence"
    save_every: int = 200
    save_minutes: float = 0.0
    keep: int = 2
    log_every: int = 10
    loggers: list[str] = field(default_factory=lambda: ["tensorboard"])
    resume: str = "auto"
    force: bool = False
    max_skipped: int = 3
    micro_batch: int = 0
    checkpoint_activations: bool = False
    compile: bool = False
    text_cache: int = 256
    precision: str = "auto"
    device: str = "auto"
    timeout: float = 1800.0


@dataclass
class Settings:
    """Settings of a training run.

    Attributes:
        output: run folder.
    """

    output: str = "runs/paraclap"
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    captions: CaptionSettings = field(default_factory=CaptionSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    text_pretraining: TextPretrainingSettings = field(default_factory=TextPretrainingSettings)
    train: TrainSettings = field(default_factory=TrainSettings)


def corpora_of(data: DataSettings) -> dict[str, CorpusSettings]:
    """Return the corpora of a run by name; a single corpus has the name ""."""
    return data.corpora or {"": CorpusSettings(data.root, data.captions, data.features)}
