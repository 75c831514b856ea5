"""What is compared: corpora and their speakers, recipes as settings, all as tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments.wordings import load_wordings
from paraclap.evaluation.prompts import WORDS, Prompts

FOLDER = Path(__file__).parent
CHOSEN_CONFIG = FOLDER.parent / "configs" / "egemaps.yaml"
BASE_CONFIG = FOLDER / "egemaps.yaml"
SENTENCES = FOLDER / "sentences.yaml"
MEL, WAV2VEC2 = FOLDER / "mel.yaml", FOLDER / "wav2vec2.yaml"
TOWER = "egemaps"


@dataclass(frozen=True)
class Corpus:
    """A corpus, and who is in which part; everyone else is trained on.

    Attributes:
        source: as features.py takes it; {data} stands for the folder of the corpora.
        root: folder of its audio files.
        validation: speakers that checkpoints and ideas are chosen on.
        test: speakers that nothing is chosen on.
        folds: how many speakers each fold tests, and how many it is validated on.
    """

    source: str
    root: str
    validation: tuple[str, ...]
    test: tuple[str, ...]
    folds: tuple[int, int] = (2, 2)


CORPORA_COMPARED: dict[str, Corpus] = {
    "ravdess": Corpus(
        "ravdess={data}/ravdess", "{data}/ravdess", ("19", "20"), ("21", "22", "23", "24"), (4, 2)
    ),
    "emodb": Corpus("emodb={data}/emodb", "{data}/emodb", ("11", "14"), ("15", "16")),
}
"""Odd actors of RAVDESS are men; of EmoDB 11 and 15 are men, 14 and 16 women."""

DIRECTIONS: dict[str, tuple[str, bool]] = {"ravdess": ("emodb", False), "emodb": ("ravdess", True)}
"""Trained on -> what else is asked about, and whether about classes alone that training had."""

BOTH = "both"
"""Trained on all of these corpora in one run, and asked about each."""


@dataclass(frozen=True)
class Recipe:
    """A configuration, and what goes over it.

    Attributes:
        overrides: `key=value` arguments of train.py.
        config: the file that they go over.
        on_request: whether it is run only if it is named, as it needs more than the corpora.
    """

    overrides: Sequence[str] = field(default=())
    config: Path = BASE_CONFIG
    on_request: bool = False

    def arguments(self) -> list[str]:
        """As `settings.read_settings` takes them."""
        return [str(self.config), *self.overrides]


PUBLISHED = "published recipe"
PRETRAINED = "published recipe, sentence encoder"
CHOSEN = "class_prompts, without level, limit 2"
CHOSEN_PRETRAINED = f"{CHOSEN}, sentence encoder"
EMOTION_ONLY = "both, without level, limit 2"
EMOTION_ONLY_PRETRAINED = f"{EMOTION_ONLY}, sentence encoder"

NO_LEVEL = "model.audio.config.exclude=[loudness,equivalentSoundLevel,spectralFlux]"
NEAR = "model.audio.config.limit=2.0"
PROTOTYPES = "loss.class_prompts=1.0"
TOLD = "captions.label_probs={emotion: 1.0, gender: 0.4}"
ACOUSTICS = "captions.phrase_count_probs=[0.5,0.3,0.2]"
ROOTS, EQUAL = "data.sampling_exponent=0.5", "data.sampling_exponent=0"
BEST = (PROTOTYPES, TOLD, NO_LEVEL, NEAR)  # what ideas were compared on, until gender was asked for
PAPER = (
    # configs/paper.yaml, as far as it does not speak of encoders, data and hardware; asked as its
    # captions are worded, since it never meets a bare label
    "model.projection_dropout=0.5",
    "captions.style=published",
    "captions.paraphrases=false",
    "loss.positives=own",
    "optim.name=adam",
    "optim.text_projection_lr=null",
    "optim.weight_decay=0.0",
    "optim.schedule=constant",
    "optim.warmup_steps=0",
    "optim.clip_norm=0.0",
    "train.epochs=10",
    "train.batch_size=32",
    "train.validate_every=25",
    "text_pretraining.batch_size=32",
)

IDEAS: Mapping[str, Recipe] = {
    PUBLISHED: Recipe((*PAPER, "train.prompts=caption")),
    "base": Recipe(),
    "without level": Recipe((NO_LEVEL,)),
    "without level, limit 2": Recipe((NO_LEVEL, NEAR)),
    "captions tell the emotion alone": Recipe(("captions.style=emotion",)),
    "acoustics in half of the captions": Recipe((ACOUSTICS,)),
    "own caption alone is right": Recipe(("loss.positives=own",)),
    "sigmoid loss": Recipe(("loss.name=sigmoid",)),
    "text tower goes on learning": Recipe(("model.freeze=[]", "optim.text_lr=1e-4")),
    "text projection learns as fast": Recipe(("optim.text_projection_lr=null",)),
    "batch of 128": Recipe(("train.batch_size=128", "train.epochs=60")),
    "dropout 0.5 in the tower": Recipe(("model.audio.config.hidden_dropout=0.5",)),
    "dropout 0.5 in the projections": Recipe(("model.projection_dropout=0.5",)),
    "tower of 64": Recipe(("model.audio.config.hidden_size=64",)),
    "no residual layer": Recipe(("model.audio.config.num_hidden_layers=0",)),
    "weight decay 0.3": Recipe(("optim.weight_decay=0.3",)),
    "class_prompts": Recipe((PROTOTYPES,)),
    "every caption tells the emotion": Recipe((TOLD,)),
    "both": Recipe((PROTOTYPES, TOLD)),
    EMOTION_ONLY: Recipe(BEST),
    CHOSEN: Recipe((PROTOTYPES, NO_LEVEL, NEAR)),
    "classes in equal shares": Recipe(("data.class_sampling_exponent=0",)),
    PRETRAINED: Recipe((*PAPER, "train.prompts=caption"), SENTENCES, on_request=True),
    "both, sentence encoder": Recipe((PROTOTYPES, TOLD), SENTENCES, on_request=True),
    EMOTION_ONLY_PRETRAINED: Recipe(BEST, SENTENCES, on_request=True),
    CHOSEN_PRETRAINED: Recipe((PROTOTYPES, NO_LEVEL, NEAR), SENTENCES, on_request=True),
    "chosen, acoustics in half of the captions": Recipe((*BEST, ACOUSTICS)),
    # each on top of EMOTION_ONLY, which was the chosen recipe then
    "chosen, graded targets": Recipe((*BEST, "loss.graded=0.3")),
    "chosen, graded targets, softer": Recipe(
        (*BEST, "loss.graded=0.5", "loss.graded_temperature=0.5")
    ),
    "chosen, hard negatives": Recipe((*BEST, "loss.hard_negatives=2.0")),
    "chosen, harder negatives": Recipe((*BEST, "loss.hard_negatives=10.0")),
    "chosen, first wordings alone": Recipe(
        (*BEST, "captions.paraphrases=false", "train.prompts=caption")
    ),
    "chosen, text projection learns as fast": Recipe((*BEST, "optim.text_projection_lr=null")),
    "chosen, no residual layer": Recipe((*BEST, "model.audio.config.num_hidden_layers=0")),
    "chosen, sigmoid loss": Recipe((*BEST, "loss.name=sigmoid")),
    "chosen, graded targets, sentence encoder": Recipe(
        (*BEST, "loss.graded=0.3"), SENTENCES, on_request=True
    ),
    "chosen, hard negatives, sentence encoder": Recipe(
        (*BEST, "loss.hard_negatives=2.0"), SENTENCES, on_request=True
    ),
    # what a batch is made of
    "chosen, classes in equal shares": Recipe((*BEST, "data.class_sampling_exponent=0")),
    "chosen, classes by square roots": Recipe((*BEST, "data.class_sampling_exponent=0.5")),
    # shares of corpora, for the direction "both"
    "chosen, corpora by square roots": Recipe((*BEST, ROOTS), on_request=True),
    "chosen, corpora in equal shares": Recipe((*BEST, EQUAL), on_request=True),
    "sentence encoder, corpora by square roots": Recipe((*BEST, ROOTS), SENTENCES, on_request=True),
    "sentence encoder, corpora in equal shares": Recipe((*BEST, EQUAL), SENTENCES, on_request=True),
}

HEARD_PUBLISHED = "published recipe, heard"
HEARD_CHOSEN = "class_prompts, every caption tells the emotion"
HEARD_PAPER = tuple(  # for as many steps as the others; the encoder starts from random weights
    told for told in PAPER if not told.startswith(("train.", "text_pretraining."))
)


HEARD_CHANGED: Mapping[str, tuple[str, ...]] = {
    "SpecAugment": (
        "model.audio.config.mask_time_prob=0.1",
        "model.audio.config.mask_time_length=4",
        "model.audio.config.mask_feature_prob=0.1",
        "model.audio.config.mask_feature_length=16",
    ),
    "waveforms augmented": tuple(
        f"data.augment.{change}=0.3" for change in ("speed", "reverb", "noise", "gain")
    ),
}
"""What an encoder may hear instead of the clips as they are."""


def _heard(config: Path) -> dict[str, Recipe]:
    """Recipes of a tower that hears clips; text is read by a frozen sentence encoder."""
    overrides: dict[str, tuple[str, ...]] = {
        HEARD_PUBLISHED: (*HEARD_PAPER, "loss.class_prompts=0.0", "train.prompts=caption"),
        HEARD_CHOSEN: (),
        "mean_std": ("model.audio_pooling=mean_std",),
        "attention": ("model.audio_pooling=attention",),
        "weighted": ("model.audio_layers=weighted",),
        "mean_std, weighted": ("model.audio_pooling=mean_std", "model.audio_layers=weighted"),
    }
    overrides |= HEARD_CHANGED
    if config == MEL:
        overrides["normalised clips"] = ("model.mel.normalisation=clip",)
    return {idea: Recipe(told, config) for idea, told in overrides.items()}


TOWERS: Mapping[str, Mapping[str, Recipe]] = {
    TOWER: IDEAS,
    "wav2vec2": _heard(WAV2VEC2),
    "mel": _heard(MEL),
}
"""Audio tower -> its recipes."""


ON_ONE_CORPUS: Mapping[str, str] = {
    EMOTION_ONLY: EMOTION_ONLY,
    "chosen, corpora by square roots": EMOTION_ONLY,
    "chosen, corpora in equal shares": EMOTION_ONLY,
    EMOTION_ONLY_PRETRAINED: EMOTION_ONLY_PRETRAINED,
    "sentence encoder, corpora by square roots": EMOTION_ONLY_PRETRAINED,
    "sentence encoder, corpora in equal shares": EMOTION_ONLY_PRETRAINED,
    "logistic regression": "logistic regression",
    "linear SVM": "linear SVM",
}
"""Trained on both corpora -> what it is where there is one corpus."""


WORDINGS: Mapping[str, Prompts] = load_wordings()


@dataclass(frozen=True)
class Part:
    """Some clips, and in which words they are asked about.

    Attributes:
        speakers: one of `SPEAKERS`.
        crosses: whether the clips are of the corpus that was not trained on.
        is_final: whether it is looked at with --final alone.
        wording: group of `WORDINGS`; None = as the validation of the run asks.
    """

    speakers: str
    crosses: bool = False
    is_final: bool = False
    wording: str | None = None


PARTS: Mapping[str, Part] = {
    "validation": Part("validation"),
    "cross validation": Part("validation", crosses=True),
    **{f"validation, {group}": Part("validation", wording=group) for group in WORDINGS},
    "test": Part("test", is_final=True),
    **{f"test, {group}": Part("test", is_final=True, wording=group) for group in WORDINGS},
    "cross": Part("not validation", crosses=True, is_final=True),
}

FOLD = "folds"
UNCHOSEN = "folds, but for the speakers that ideas were chosen on"
SECTIONS = (*PARTS, FOLD, UNCHOSEN)
"""Parts in the order of the page."""

SPEAKERS: Mapping[str, Callable[[Corpus, str], bool]] = {
    "train": lambda corpus, s: s not in (*corpus.validation, *corpus.test),
    "validation": lambda corpus, s: s in corpus.validation,
    "test": lambda corpus, s: s in corpus.test,
    "not validation": lambda corpus, s: s not in corpus.validation,
}
"""Name -> whether a speaker of a corpus belongs to it; no idea was chosen on the last."""


def speakers_of(corpus: Corpus, which: str, everyone: Sequence[str]) -> list[str]:
    """Those speakers of a corpus that `SPEAKERS` calls by this name."""
    return [speaker for speaker in everyone if SPEAKERS[which](corpus, speaker)]


def folds_of(corpus: Corpus, everyone: Sequence[str]) -> list[Corpus]:
    """Parts of a corpus such that every speaker is tested once; validated is on those after."""
    tested, validated = corpus.folds
    speakers = sorted(everyone)
    around = [*speakers, *speakers]
    return [
        replace(
            corpus,
            test=tuple(speakers[first : first + tested]),
            validation=tuple(around[first + tested : first + tested + validated]),
        )
        for first in range(0, len(speakers), tested)
    ]


def same_class(label: str) -> str:
    """One name for a class, whatever form of the word a corpus takes ("anger", "angry")."""
    return WORDS["emotion"][label]["adjective"]
