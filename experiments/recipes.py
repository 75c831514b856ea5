"""Recipes of the experiments: arguments of train.py without data and seed."""

from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parent
BASE, SENTENCES = str(FOLDER / "egemaps.yaml"), str(FOLDER / "sentences.yaml")
FROZEN = str(FOLDER.parent / "configs" / "whisper.yaml")
MEL, WAV2VEC2 = str(FOLDER / "mel.yaml"), str(FOLDER / "wav2vec2.yaml")

EGEMAPS, WHISPER = "egemaps", "whisper"
PAPER, PUBLISHED, CHOSEN = "paper", "published", "chosen"
WORDED = f"{CHOSEN}, more wordings"
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
    "train.prompts=caption",  # it never trains on bare labels
)
PUBLISHED_ALL = (
    *PUBLISHED_LOSS,
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

QUICK = ("train.save_every=100000", "train.loggers=[]")
WITHOUT_OURS = (
    # what configs/whisper.yaml adds to its encoders
    "model.audio_standardise=false",
    "model.audio_dropout=0.0",
    "model.normalise_waveform=false",
    "model.input_gain=1.0",
    "data.sampling_exponent=1",
    "data.class_sampling_exponent=1",
    "loss.alignment=0.0",
)

TOWERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    EGEMAPS: {
        PUBLISHED: (BASE, *PUBLISHED_ALL),
        "base": (BASE,),
        "base, class prompts": (BASE, CLASS_PROMPTS),
        "base, without level": (BASE, *NO_LEVEL),
        CHOSEN: (BASE, CLASS_PROMPTS, *NO_LEVEL),
        EMOTION: (BASE, CLASS_PROMPTS, ALWAYS_EMOTION, *NO_LEVEL),
        PUBLISHED_SENTENCES: (SENTENCES, *PUBLISHED_ALL),
        CHOSEN_SENTENCES: (SENTENCES, CLASS_PROMPTS, *NO_LEVEL),
        EMOTION_SENTENCES: (SENTENCES, CLASS_PROMPTS, ALWAYS_EMOTION, *NO_LEVEL),
    },
    # for as many steps as the chosen recipe, beside a frozen sentence encoder
    "mel": {
        PUBLISHED: (MEL, *PUBLISHED_LOSS, "loss.class_prompts=0.0"),
        EMOTION: (MEL,),
        f"{EMOTION}, attention pooling": (MEL, "model.audio_pooling=attention"),
    },
    "wav2vec2": {
        PUBLISHED: (WAV2VEC2, *PUBLISHED_LOSS, "loss.class_prompts=0.0"),
        EMOTION: (WAV2VEC2,),
    },
    # python -m experiments.transfer
    WHISPER: {
        PAPER: (FROZEN, *QUICK, *PUBLISHED_LOSS, *WITHOUT_OURS, "loss.class_prompts=0.0"),
        CHOSEN: (FROZEN, *QUICK),
        WORDED: (FROZEN, *QUICK, "data.templates=[paraclap,wordings]"),
    },
}
"""Audio tower -> recipe -> arguments."""


def reference_of(recipe: str) -> str:
    """Return the published recipe with the same text encoder."""
    return PUBLISHED_SENTENCES if recipe.endswith("sentence encoder") else PUBLISHED
