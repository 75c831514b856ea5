"""What is compared: corpora and their speakers, recipes as settings, all as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from queries import WORDS

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
    """

    source: str
    root: str
    validation: tuple[str, ...]
    test: tuple[str, ...]


CORPORA_COMPARED: dict[str, Corpus] = {
    "ravdess": Corpus(
        "ravdess={data}/ravdess", "{data}/ravdess", ("19", "20"), ("21", "22", "23", "24")
    ),
    "emodb": Corpus("emodb={data}/emodb", "{data}/emodb", ("11", "14"), ("15", "16")),
}
"""Odd actors of RAVDESS are men; of EmoDB 11 and 15 are men, 14 and 16 women."""

DIRECTIONS: dict[str, tuple[str, bool]] = {"ravdess": ("emodb", False), "emodb": ("ravdess", True)}
"""Trained on -> what else is asked about, and whether about classes alone that training had."""


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
CHOSEN = "both, without level, limit 2"

NO_LEVEL = "model.audio.config.left_out=[loudness,equivalentSoundLevel,spectralFlux]"
NEAR = "model.audio.config.limit=2.0"
PROTOTYPES = "loss.prototypes=1.0"
TOLD = "captions.shares={emotion: 1.0, gender: 0.4}"
ACOUSTICS = "captions.counts=[0.5,0.3,0.2]"
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
    "text_stage.batch_size=32",
)

IDEAS: Mapping[str, Recipe] = {
    PUBLISHED: Recipe((*PAPER, "train.queries=caption")),
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
    "prototypes": Recipe((PROTOTYPES,)),
    "every caption tells the emotion": Recipe((TOLD,)),
    "both": Recipe((PROTOTYPES, TOLD)),
    CHOSEN: Recipe((PROTOTYPES, TOLD, NO_LEVEL, NEAR)),
    "classes in equal shares": Recipe(("data.class_temperature=0",)),
    PRETRAINED: Recipe((*PAPER, "train.queries=caption"), SENTENCES, on_request=True),
    "both, sentence encoder": Recipe((PROTOTYPES, TOLD), SENTENCES, on_request=True),
    "both, without level, limit 2, sentence encoder": Recipe(
        (PROTOTYPES, TOLD, NO_LEVEL, NEAR), SENTENCES, on_request=True
    ),
    "chosen, acoustics in half of the captions": Recipe(
        (PROTOTYPES, TOLD, NO_LEVEL, NEAR, ACOUSTICS)
    ),
}

HEARD_PUBLISHED = "published recipe, heard"
HEARD_CHOSEN = "prototypes, every caption tells the emotion"
HEARD_PAPER = tuple(  # for as many steps as the others; the encoder starts from random weights
    told for told in PAPER if not told.startswith(("train.", "text_stage."))
)


def _heard(config: Path) -> dict[str, Recipe]:
    """Recipes of a tower that hears clips; text is read by a frozen sentence encoder."""
    overrides: dict[str, tuple[str, ...]] = {
        HEARD_PUBLISHED: (*HEARD_PAPER, "loss.prototypes=0.0", "train.queries=caption"),
        HEARD_CHOSEN: (),
        "mean_std": ("model.audio_pooling=mean_std",),
        "attention": ("model.audio_pooling=attention",),
        "weighted": ("model.audio_layers=weighted",),
        "mean_std, weighted": ("model.audio_pooling=mean_std", "model.audio_layers=weighted"),
    }
    if config == MEL:
        overrides["normalised clips"] = ("model.mel.normalisation=clip",)
    return {idea: Recipe(told, config) for idea, told in overrides.items()}


TOWERS: Mapping[str, Mapping[str, Recipe]] = {
    TOWER: IDEAS,
    "wav2vec2": _heard(WAV2VEC2),
    "mel": _heard(MEL),
}
"""Audio tower -> its recipes."""


NEW_WORDS = "test, in words never used"
PARTS: dict[str, tuple[bool, bool]] = {
    "validation": (False, False),
    "cross validation": (True, False),
    "test": (False, True),
    NEW_WORDS: (False, True),
    "cross": (True, True),
}
"""Part -> whether it is of the other corpus, and whether it is looked at with --final alone."""

UNUSED_WORDS: Mapping[str, tuple[str, str]] = {
    # class, see `same_class` -> an adjective for the speaker, and what the voice is
    "angry": ("furious", "an enraged voice"),
    "bored": ("weary", "a listless voice"),
    "calm": ("relaxed", "a serene voice"),
    "disgusted": ("revolted", "a voice full of loathing"),
    "fearful": ("terrified", "a frightened voice"),
    "happy": ("cheerful", "a merry voice"),
    "neutral": ("indifferent", "an impassive voice"),
    "sad": ("gloomy", "a sorrowful voice"),
    "surprised": ("astonished", "an amazed voice"),
}


def speakers_of(corpus: Corpus, part: str, everyone: Sequence[str]) -> list[str]:
    """Speakers of a part of a corpus; "cross": all whom no idea was chosen on."""
    chosen = {
        "train": lambda s: s not in (*corpus.validation, *corpus.test),
        "validation": lambda s: s in corpus.validation,
        "cross validation": lambda s: s in corpus.validation,
        "test": lambda s: s in corpus.test,
        NEW_WORDS: lambda s: s in corpus.test,
        "cross": lambda s: s not in corpus.validation,
    }
    return [speaker for speaker in everyone if chosen[part](speaker)]


def same_class(label: str) -> str:
    """One name for a class, whatever form of the word a corpus takes ("anger", "angry")."""
    return WORDS["emotion"][label]["adjective"]
