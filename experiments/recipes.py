"""Recipes of the comparison in RESULTS.md: configuration files and what overrides them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

EGEMAPS = "egemaps"
FOLDER = Path(__file__).parent
BASE, SENTENCES = FOLDER / "egemaps.yaml", FOLDER / "sentences.yaml"
MEL, WAV2VEC2 = FOLDER / "mel.yaml", FOLDER / "wav2vec2.yaml"


@dataclass(frozen=True)
class Recipe:
    """A configuration file and `key=value` arguments that override it.

    Attributes:
        overrides: arguments of train.py.
        config: the file.
    """

    overrides: Sequence[str] = ()
    config: Path = BASE

    def arguments(self) -> list[str]:
        """Return the arguments of `read_settings`."""
        return [str(self.config), *self.overrides]


PUBLISHED, CHOSEN = "published", "chosen"
EMOTION = "chosen, emotion in every caption"
PUBLISHED_SENTENCES = f"{PUBLISHED}, sentence encoder"
CHOSEN_SENTENCES = f"{CHOSEN}, sentence encoder"
EMOTION_SENTENCES = f"{EMOTION}, sentence encoder"

PUBLISHED_LOSS = (
    # configs/paper.yaml without encoders, data and hardware
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
)
PUBLISHED_PROMPTS = "train.prompts=caption"
"""The published recipe never trains on bare labels, so its prompts are worded like its captions."""
PUBLISHED_ALL = (
    *PUBLISHED_LOSS,
    PUBLISHED_PROMPTS,
    "train.epochs=10",
    "train.batch_size=32",
    "train.validate_every=25",
    "text_pretraining.batch_size=32",
)
NO_LEVEL = (
    "model.audio.config.exclude=[loudness,equivalentSoundLevel,spectralFlux]",
    "model.audio.config.limit=2.0",
)
CLASS_PROMPTS = "loss.class_prompts=1.0"
ALWAYS_EMOTION = "captions.label_probs={emotion: 1.0, gender: 0.4}"

TOWERS: Mapping[str, Mapping[str, Recipe]] = {
    EGEMAPS: {
        PUBLISHED: Recipe(PUBLISHED_ALL),
        "base": Recipe(),
        "base, class prompts": Recipe((CLASS_PROMPTS,)),
        "base, without level": Recipe(NO_LEVEL),
        CHOSEN: Recipe((CLASS_PROMPTS, *NO_LEVEL)),
        EMOTION: Recipe((CLASS_PROMPTS, ALWAYS_EMOTION, *NO_LEVEL)),
        PUBLISHED_SENTENCES: Recipe(PUBLISHED_ALL, SENTENCES),
        CHOSEN_SENTENCES: Recipe((CLASS_PROMPTS, *NO_LEVEL), SENTENCES),
        EMOTION_SENTENCES: Recipe((CLASS_PROMPTS, ALWAYS_EMOTION, *NO_LEVEL), SENTENCES),
    },
    # for as many steps as the chosen recipe, beside a frozen sentence encoder
    "mel": {
        PUBLISHED: Recipe((*PUBLISHED_LOSS, PUBLISHED_PROMPTS, "loss.class_prompts=0.0"), MEL),
        EMOTION: Recipe((), MEL),
        f"{EMOTION}, attention pooling": Recipe(("model.audio_pooling=attention",), MEL),
    },
    "wav2vec2": {
        PUBLISHED: Recipe((*PUBLISHED_LOSS, PUBLISHED_PROMPTS, "loss.class_prompts=0.0"), WAV2VEC2),
        EMOTION: Recipe((), WAV2VEC2),
    },
}
"""Audio tower -> its recipes."""

REFERENCES: Mapping[str, str] = {
    CHOSEN_SENTENCES: PUBLISHED_SENTENCES,
    EMOTION_SENTENCES: PUBLISHED_SENTENCES,
}
"""Recipe -> the published recipe with the same text tower, where that is not `PUBLISHED`."""
