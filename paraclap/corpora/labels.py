"""Normalisation of labels, the same wherever a table is read.

    table = normalise_labels(table)  # warns of changes in one line
    normal_label("gender", "F")  # "female"
    table[in_split(table, "validation")]

Texts are in Unicode form NFC, without zero-width characters and surrounding or repeated blanks;
those in lower case are in form NFKC.
Words for missing labels, such as "N/A", are missing values. Then, by column:

- emotion: lower case; usual words of other languages ("Wut") become English nouns; of several
  spellings or synonyms within a table ("Anger", "angry"), the most frequent one. Synonyms are words
  with the same forms in the caption templates.
- gender: "female" and "male" for their words in many languages; other labels in lower case.
- split: "train", "dev" and "test"; other names in lower case. If there are names of parts, such as
  "test1" and "test2", the original names are kept in the column `original_split`.
- speaker: of spellings that differ in case, the most frequent one.
- language: lower case.
"""

import functools
import math
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping

import pandas as pd

from paraclap.captions.templates import emotion_noun, label_key

LABEL_COLUMNS = ("emotion", "gender", "speaker", "split", "fold", "language")
NUMBER_COLUMNS = ("arousal", "valence", "dominance", "age")
ORIGINAL_SPLIT = "original_split"
CHANGES_SHOWN = 3
"""Changes shown of each column, the most frequent ones."""

Mapped = dict[str, str | None]
"""Label -> normalised label, None if it means that there is none."""
Changes = Counter[tuple[str, str | None]]
"""Label, normalised label -> number of rows."""

NO_LABEL = frozenset(
    ("", "n/a", "n.a", "#n/a", "na", "nan", "nat", "nil", "none", "null", "unk", "unknown")
    + ("undefined", "unlabelled", "unlabeled", "unannotated", "missing", "not available")
    + ("not annotated", "not labelled", "not labeled", "no label", "unbekannt", "inconnu")
    + ("inconnue", "desconocido", "desconocida", "desconhecido", "desconhecida", "sconosciuto")
    + ("sconosciuta", "неизвестно", "未知", "不明")
)
"""Words for a missing label, in lower case, without the characters of AROUND."""
AROUND = " .?-–—…<>[](){}"
NO_EMOTION = NO_LABEL | {"no agreement", "no consensus", "x", "xxx"}

EMOTIONS = {
    "anger": "ärger aerger wut wütend wuetend zorn rabbia collera colère ira enojo enfado rabia"
    " gniew złość gussa ghussa",
    "boredom": "langeweile gelangweilt noia ennui aburrimiento",
    "calm": "ruhig calma calme tranquillità tranquilidad spokój",
    "contempt": "verachtung disprezzo mépris desprecio pogarda",
    "disgust": "ekel angeekelt disgusto dégoût asco wstręt obrzydzenie",
    "fear": "angst furcht paura peur miedo strach khauf khof",
    "happiness": "freude fröhlich froehlich gioia felicità joie alegría felicidad radość szczęście"
    " khushi",
    "neutral": "neutrale neutralità neutro neutra neutre neutralidad neutralny neutralna"
    " neutralność",
    "sadness": "trauer traurig traurigkeit tristezza tristesse tristeza triste smutek udasi udaasi",
    "surprise": "überraschung ueberraschung überrascht ueberrascht sorpresa zaskoczenie zdziwienie"
    " hairat",
}
"""Emotion -> its German, Italian, French, Spanish, Polish and Urdu words, as in labels of corpora.

Words for several emotions, such as "lęk" (fear, anxiety), are no synonyms."""
GENDERS = {
    "female": "f ♀ fem female woman women w weibl weiblich frau feminin féminin femme femenino"
    " femenina mujer feminino feminina mulher femminile femmina donna vrouw vrouwelijk kvinna"
    " kvinde kvinne k kobieta żeńska žena женский женщина ж kadın kadin γυναίκα 女 女性 女声 女聲"
    " 여 여성 여자 महिला أنثى امرأة نساء خاتون عورت زن",
    "male": "m ♂ masc male man men männl männlich maennlich mann maskulin masculin homme masculino"
    " hombre homem maschile maschio uomo mannelijk manlig mand mężczyzna męska muž мужской"
    " мужчина м erkek άνδρας 男 男性 男声 남 남성 남자 पुरुष ذكر رجل رجال مرد",
}
"""Gender -> its words, as compared by `label_form`, without a final dot."""
SPANISH_GENDERS = {"h": "male", "m": "female"}  # hombre, mujer; used where "f" is absent
FRENCH_GENDERS = {"h": "male"}  # homme, femme

SPLITS = {
    "train": "train training trn tr",
    "dev": "dev devel development dv val valid validation validate validierung cv crossvalidation"
    " tune tuning",
    "test": "test testing tst te tt",
}
"""Split -> first word of its names."""
EVALUATION = ("eval", "evaluation", "heldout")
"""Names of the development part if there is also a test part, otherwise of the test part."""

ZERO_WIDTH = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u200e\u200f\u2060\ufe0e\ufe0f\ufeff"))


# --- Single values -------------------------------------------------------------------------------


def tidy(text: object) -> str:
    """Return a text in Unicode form NFC, without surplus blanks and zero-width characters."""
    return " ".join(unicodedata.normalize("NFC", str(text)).translate(ZERO_WIDTH).split())


def label_form(text: object) -> str:
    """Return a tidy text in lower case and form NFKC, with blanks for underscores."""
    return label_key(unicodedata.normalize("NFKC", tidy(text)))


def is_no_label(label: object, words: frozenset[str] = NO_LABEL) -> bool:
    """Return whether a text means that there is no label."""
    return label_form(label).strip(AROUND) in words


def normal_label(column: str, label: object) -> str | None:
    """Return a normalised label, or None if it means that there is none."""
    return label_mapping(column, {str(label): 1})[str(label)]


def emotion_key(label: object) -> str:
    """Return the same text for all synonyms and spellings of an emotion: its noun, or itself."""
    return emotion_noun(emotion_form(label))


def emotion_form(label: object) -> str:
    """Return the `label_form` of an emotion, or the English noun of a word in `EMOTIONS`."""
    form = label_form(label)
    return _emotion_words().get(without_accents(form), form)


def without_accents(text: str) -> str:
    """Return a text in lower case without diacritics: "złość" as "zlosc"."""
    letters = unicodedata.normalize("NFD", text.replace("ł", "l"))
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


@functools.cache
def _emotion_words() -> dict[str, str]:
    return {without_accents(w): noun for noun, words in EMOTIONS.items() for w in words.split()}


def comparable(column: str, label: object) -> str:
    """Return the same text for all spellings and synonyms of a label of a column."""
    if column == "emotion":
        return emotion_key(label)
    return (normal_label(column, label) if column == "gender" else None) or label_form(label)


def split_name(name: object, others: Iterable[object] = ()) -> str:
    """Return train, dev or test; other names of splits are only written in lower case.

    Args:
        name: of a split, e.g. "Validation" or "test_1".
        others: names of the other splits of the table, for "evaluation".
    """
    key = label_form(name)
    kind = _split_kind(key)
    if kind != EVALUATION[0]:
        return kind or key
    has_test = "test" in {_split_kind(label_form(other)) for other in others}
    return "dev" if has_test else "test"


def _split_kind(key: str) -> str | None:
    """Return the kind of a split: train, dev, test or eval; None for other names."""
    words = re.split(r"[ ./-]+", key)
    if whole := _split_words().get(re.sub(r"\W|\d", "", key)):  # "held-out"
        return whole
    kinds = [_split_words().get(re.sub(r"\d+$", "", word)) for word in words]
    return kinds[0] if not any(kinds[1:]) else None


@functools.cache
def _split_words() -> dict[str, str]:
    kinds = {word: kind for kind, words in SPLITS.items() for word in words.split()}
    return kinds | dict.fromkeys(EVALUATION, EVALUATION[0])


# --- Columns -------------------------------------------------------------------------------------


def label_mapping(column: str, counts: Mapping[str, int]) -> Mapped:
    """Return the normalised form of every label of a column.

    Args:
        column: one of LABEL_COLUMNS; labels of other columns are only tidied, and the most frequent
            of several spellings is used.
        counts: label -> number of rows.
    """
    no_label = NO_EMOTION if column == "emotion" else NO_LABEL
    known = {label: tidy(label) for label in counts if not is_no_label(label, no_label)}
    if column == "split":
        mapped = {label: split_name(label, known) for label in known}
    elif column == "gender":
        words = _gender_words({label_form(label) for label in known})
        keys = {label: label_form(label) for label in known}
        mapped = {label: words.get(key.rstrip("."), key) for label, key in keys.items()}
    elif column in ("fold", "language"):
        mapped = {label: label_form(label) for label in known}
    else:
        mapped = _most_frequent(column, known, counts)
    return {**dict.fromkeys(counts), **mapped}


def _gender_words(keys: set[str]) -> dict[str, str]:
    """Return word -> gender, as used in a column with these words."""
    words = {word: gender for gender, texts in GENDERS.items() for word in texts.split()}
    if "h" in keys:
        words |= FRENCH_GENDERS if "f" in keys else SPANISH_GENDERS
    return words


def _most_frequent(column: str, known: Mapping[str, str], counts: Mapping[str, int]) -> Mapped:
    """Return the most frequent of the spellings and synonyms of each label."""
    spelled = {
        label: emotion_form(text) if column == "emotion" else text for label, text in known.items()
    }
    group = emotion_key if column == "emotion" else str.casefold
    found: dict[str, dict[str, int]] = {}
    for label, text in spelled.items():
        spellings = found.setdefault(group(text), {})
        spellings[text] = spellings.get(text, 0) + counts[label]
    chosen = {
        key: min(spellings, key=lambda text: (-spellings[text], text))
        for key, spellings in found.items()
    }
    return {label: chosen[group(text)] for label, text in spelled.items()}


def normalise_labels(table: pd.DataFrame, name: str = "table", report: bool = True) -> pd.DataFrame:
    """Return a table with normalised labels, and without infinite numbers in NUMBER_COLUMNS.

    Args:
        table: any table. With a column `corpus`, each corpus keeps its own words for an emotion.
        name: of the table, for the report.
        report: warn, in one line, of what was changed.
    """
    rows = [slice(None)]
    if "corpus" in table:
        rows = list(table.groupby("corpus", sort=False, dropna=False).indices.values())
    table, changes = table.copy(deep=False), {}
    for column in table.columns.intersection(NUMBER_COLUMNS):
        infinite = table[column].isin([math.inf, -math.inf])
        if infinite.any():
            table[column] = table[column].mask(infinite)
            changes[column] = Counter({("inf", None): int(infinite.sum())})
    for column in table.columns.intersection(LABEL_COLUMNS):
        old = table[column]
        parts = [normalise_column(old.iloc[part]) for part in rows]
        values = old.astype("object")
        for part, (new, _) in zip(rows, parts, strict=True):
            values.iloc[part] = new.to_numpy()
        table[column] = values.astype("str")
        changes[column] = sum((changed for _, changed in parts), Counter())
        if column == "split" and has_parts(changes[column]) and ORIGINAL_SPLIT not in table:
            table[ORIGINAL_SPLIT] = old.map(label_form, na_action="ignore").astype("str")
    if report and (text := describe_changes(changes)):
        warnings.warn(f"{name}: {text}", stacklevel=2)
    return table


def normalise_column(values: pd.Series) -> tuple[pd.Series, Changes]:
    """Return a column with normalised labels, and what was changed in how many rows."""
    texts = values.astype("str")
    counts = {str(label): int(count) for label, count in texts.value_counts().items()}
    mapping = label_mapping(str(values.name), counts)
    changes = Counter(
        {(label, new): counts[label] for label, new in mapping.items() if new != label}
    )
    return texts.map(mapping).astype("str"), changes


def has_parts(changes: Changes) -> bool:
    """Return whether names such as "test1", "dev-other" or "evaluation" became those of a split."""
    keys = [(label_form(old), new) for old, new in changes if new]
    return any(
        re.search(r"[ \d./-]", key) or (new == "test" and _split_kind(key) in EVALUATION)
        for key, new in keys
    )


def describe_changes(changes: Mapping[str, Changes], shown: int = CHANGES_SHOWN) -> str:
    """Return changes of columns in one line, with the number of rows; "" if there are none."""
    parts = []
    for column, changed in changes.items():
        parts += [
            f"{column} {old!r} -> {new or 'missing'} ({count})"
            for (old, new), count in changed.most_common(shown)
        ]
        if len(changed) > shown:
            parts.append(f"{len(changed) - shown} more of {column}")
    return f"labels normalised: {', '.join(parts)}" if parts else ""


# --- Splits --------------------------------------------------------------------------------------


def in_split(table: pd.DataFrame, name: str) -> pd.Series:
    """Return which rows of a normalised table with a column `split` are in a split.

    Original names are recognised: "test1" are the rows of that name, "test" also those of "test2".
    """
    key = label_form(name)
    if ORIGINAL_SPLIT in table and (table[ORIGINAL_SPLIT] == key).any():
        return table[ORIGINAL_SPLIT] == key
    is_part = re.search(r"\d", key) is not None  # "test1" is not "test"
    return table["split"] == (key if is_part else split_name(key, table["split"].dropna().unique()))


def split_names(table: pd.DataFrame) -> list[str]:
    """Return the names of the splits of a normalised table, also the original ones."""
    columns = [column for column in ("split", ORIGINAL_SPLIT) if column in table]
    return sorted({str(name) for column in columns for name in table[column].dropna().unique()})
