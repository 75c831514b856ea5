"""Settings of a training run: documented dataclasses with their defaults, and nothing else.

`paraclap.training.config` merges them with a YAML file and `key=value` arguments.
"""

from dataclasses import dataclass, field
from typing import Any

BATCH_SECONDS = 60.0  # padded audio per batch [s] where whole clips are embedded


@dataclass
class AugmentSettings:
    """How waveforms are changed in training; of every clip that is read some of the following.

    Captions are drawn as ever. A clip whose caption speaks of what a change unsettles is not
    changed so: speed unsettles pitch, duration and tempo; gain levels; noise and reverberation all
    that is measured but pitch, intensity and duration; all of them jitter and shimmer. Labels, as
    emotion and gender, hold throughout.

    Attributes:
        speed: share of the crops played faster or slower, which moves pitch as well.
        speed_range: by which factor.
        reverb: share of the crops heard in a room.
        reverb_range: time until the sound of the room has fallen by 60 dB [s].
        noise: share of the crops with noise between white and pink.
        noise_range: ratio of speech to noise [dB].
        gain: share of the crops made louder or softer, as far as they are not clipped by it.
        gain_range: by how much [dB].
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


EMOTION = "emotion"  # the descriptor that every caption tells unless settings say otherwise


@dataclass
class CaptionSettings:
    """How the phrases of a row become one caption.

    Attributes:
        style: "sampled" (some phrases in random order, then the emotion), "published" ("speaker"
            and all phrases, as the published code does) or "emotion" (that phrase alone).
        label_probs: for "sampled": descriptor -> share of captions that speak of it.
        phrase_count_probs: for "sampled": probability of 0, 1, 2, ... phrases about other
            descriptors; a caption that would be empty gets one.
        paraphrases: whether any wording of a phrase may be drawn, or always the first.
    """

    style: str = "sampled"
    label_probs: dict[str, float] = field(default_factory=lambda: {EMOTION: 1.0})
    phrase_count_probs: list[float] = field(default_factory=lambda: [0.0, 0.4, 0.3, 0.2, 0.1])
    paraphrases: bool = True


@dataclass
class CorpusSettings:
    """One of several corpora; see `DataSettings` for its fields."""

    root: str | None = None
    captions: str | None = None
    features: str | None = None


@dataclass
class DataSettings:
    """What is read.

    Attributes:
        corpora: name -> `root` and `captions` of each of several corpora, instead of those below;
            of a captions table of several, those rows are taken whose `corpus` is that name. A
            voice is loud or high by the edges of its table: by those of its corpus, unless one
            table of several was made without --edges-by corpus.
        sampling_exponent: share of a corpus among the clips of an epoch: its size to the power of
            this; 1 takes each clip once, 0 takes as many of each corpus.
        class_sampling_exponent: the same for the classes of `train.target` in each corpus; 0 takes
            as many of each.
        root: folder that the audio files of the captions table are relative to; None = the folder
            of the table, if that is one of labels.
        captions: table of preprocessing/template_creation.py, or a table of labels (.csv or .tsv:
            `file`, `emotion`, ...), for which captions are written into the run folder.
        templates: phrase tables for a table of labels, see --templates of template_creation.py.
        features: table of features.py, for an audio tower that reads functionals.
        train_split: value of the column `split` that is trained on; without such a column, all.
        validation_split: value of the column `split` that checkpoints are chosen on.
        validation_speakers: if no row is in that split: number of training speakers held out
            instead, drawn by the seed; 0 trains without validation.
        waveform_cache: the corpus as 16 kHz samples in memory-mapped files in this folder,
            made before the first step and used again by later runs; None reads the files.
        crop_seconds: longest training crop [s].
        augment: changes of the crops, with "random" crops alone.
        crop: "random", or "centre": the same in every epoch. A frozen speech encoder then hears
            each clip once, before the first step.
        embeddings: folder where what it says of the clips is kept for other runs; null = nowhere.
        workers: processes that read audio.
        timeout: longest wait for a worker [s]; one that hangs longer stops the run.
    """

    corpora: dict[str, CorpusSettings] = field(default_factory=dict)
    sampling_exponent: float = 1.0
    class_sampling_exponent: float = 1.0
    root: str | None = None
    captions: str = "captions.parquet"
    templates: list[str] = field(default_factory=lambda: ["paraclap"])
    features: str | None = None
    train_split: str = "train"
    validation_split: str = "dev"
    validation_speakers: int = 2
    waveform_cache: str | None = None
    crop_seconds: float = 5.0
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    crop: str = "random"
    embeddings: str | None = None
    workers: int = 0
    timeout: float = 300.0


@dataclass
class LossSettings:
    """What is learned.

    Attributes:
        name: "contrastive" (symmetric cross entropy over the batch) or "sigmoid" (each pair alone
            is true or not).
        positives: captions of the batch that match a clip: "matching" (every one that holds for it;
            one about something that is not known of the clip is neither right nor wrong) or "own"
            (the one that was drawn for it; the others count as wrong, true or not).
        class_prompts: weight of a second loss, which tells each clip from all classes of
            `train.target`, each the mean embedding of its phrases; 0 = none.
        graded: for "contrastive": share of the target of a clip that is spread over all captions of
            the batch, by how many of their attributes hold for it (the same for a caption and all
            clips); 0 = captions that hold in every attribute share it alone.
        graded_temperature: of the softmax that spreads this share; the smaller, the less goes to
            captions that hold in part.
        hard_negatives: for "contrastive": captions that do not match count the more, the more
            similar they are: by the exponential of this times the cosine; 0 = all alike.
    """

    name: str = "contrastive"
    positives: str = "matching"
    class_prompts: float = 0.0
    graded: float = 0.0
    graded_temperature: float = 0.2
    hard_negatives: float = 0.0


@dataclass
class OptimSettings:
    """How it is learned.

    Attributes:
        name: "adamw" or "adam".
        lr: learning rate of the projections and the scale.
        audio_lr: of the speech encoder.
        text_lr: of the text encoder.
        text_projection_lr: of the text projection; None = `lr`. After a text stage it should be
            small, like `text_lr`, or captions are merged again before clips can be told apart.
        layer_decay: factor on `audio_lr` and `text_lr` for each layer below the last of an encoder;
            what comes before its layers has that of one layer more. 1 = all learn alike.
        weight_decay: of matrices; vectors and the scale have none.
        schedule: "cosine" (to zero) or "constant", both after the warm-up.
        warmup_steps: steps of linear warm-up.
        clip_norm: largest norm of the gradient; 0 = no limit.
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
    """A first stage without audio, for text encoders from random weights.

    Such an encoder gives all captions nearly one embedding, and the contrastive loss keeps it so:
    as long as clips cannot be told apart, equal captions are its best answer, and as long as
    captions cannot be told apart, clips need not be. Here captions that say different things are
    pushed apart, and those that say the same in other words are drawn together. With
    `model.freeze=[text]` such an encoder learns in this stage alone, and what it says of a caption
    is remembered afterwards.

    Attributes:
        steps: length of the stage; 0 for pretrained text encoders.
        lr: learning rate of the text encoder and its projection, falling to zero.
        batch_size: captions per step.
    """

    steps: int = 0
    lr: float = 1e-3
    batch_size: int = 64


@dataclass
class TrainSettings:
    """How long, how often, where.

    Attributes:
        epochs: passes over the training clips.
        unfreeze: when parts of `model.freeze` begin to learn: part -> share of the steps (below 1),
            or number of steps (1 and more) that it stays frozen, `"train.unfreeze={audio: 0.3}"`.
            Its learning rate is warmed up from there, over `optim.warmup_steps`.
        batch_size: clips per step.
        bucket: whether the clips of a batch are of similar duration, and padded to the longest of
            them instead of `data.crop_seconds`; saves the more, the longer crops may be.
        seed: decides initial weights, order, crops, captions and dropout.
        validate_every: steps between validations; the last step always has one.
        target: label that validation asks for.
        prompts: prompt set of the validation, see prompts.py.
        save_every: steps between checkpoints.
        save_minutes: minutes between checkpoints, beside `save_every`; 0 = by steps alone.
        keep: number of checkpoints kept; the best model has a folder of its own.
        log_every: steps between rows of metrics.jsonl.
        loggers: what shows a run beside metrics.jsonl, see tracking.py: some of "tensorboard",
            "wandb" and "mlflow", or none.
        dry_run: check everything, take one step and one validation, tell memory and time, and keep
            nothing.
        resume: "auto" (newest checkpoint of the run folder, if any), "never" or a checkpoint.
        force: resume although settings or data were changed since the checkpoint.
        max_skipped: steps in a row that may be skipped because their loss or gradient is not
            finite; one more stops the run.
        micro_batch: clips and captions that an encoder which learns sees at a time; memory then
            bounds these and not `batch_size`, for one forward pass more; 0 = the whole batch.
        checkpoint_activations: keep less of the forward pass, compute it again in the backward
            pass.
        compile: translate the transformers by torch.compile; takes minutes at the start.
        text_cache: memory [MiB] for captions that a frozen text encoder need not read again.
        precision: "auto" (bfloat16 where the hardware has it), "fp32" or "bf16".
        device: "auto", "cpu", "cuda", ...; of several processes each takes a GPU of its own.
        timeout: longest wait of one process for another [s], as for process 0 while it saves.
    """

    epochs: int = 10
    unfreeze: dict[str, float] = field(default_factory=dict)
    batch_size: int = 32
    bucket: bool = False
    seed: int = 3407
    validate_every: int = 200
    target: str = "emotion"
    prompts: str = "sentence"
    save_every: int = 200
    save_minutes: float = 0.0
    keep: int = 2
    log_every: int = 10
    loggers: list[str] = field(default_factory=lambda: ["tensorboard"])
    dry_run: bool = False
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
    """Everything a run is told.

    Attributes:
        output: the run folder.
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
    """Return the corpora of a run by name; a single one, given without a name, has the name ""."""
    return data.corpora or {"": CorpusSettings(data.root, data.captions, data.features)}
