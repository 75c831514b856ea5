r"""The corpora known by name, as data: how each is read, what the paper scores and how it asks.

A row of CORPORA says it all. Its reader is `read_files`: the named groups of a pattern for file
names become columns, codes turn them into words, and `read_label_files` adds what is in files of
its own. ``classes`` says which label is scored as which class, and ``published`` how the paper asks
for a class. For a corpus that is not in the paper, ``published`` is the label itself, which is the
noun, because the paper asks so on MSP-Podcast.

``No agreement`` of raters is no label: the clip is kept, its emotion is missing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd

from paraclap.corpora.readers import Codes, Lenient, read_database, read_files, read_label_files


@dataclass(frozen=True)
class Corpus:
    """One corpus as data: how it is read, what the paper scores and how it asks."""

    name: str
    title: str
    reader: Callable[[Path], pd.DataFrame]
    expected: str
    """Layout below the root, for the message about a wrong one."""
    clips: int | None
    """Number of labelled recordings in the published corpus; None: unknown, or by release."""
    classes: Mapping[str, str | None]
    """Native label -> class; two labels may share one, None drops the label."""
    published: Mapping[str, str]
    """Class -> prompt, in the words of the paper."""
    licence: str
    citation: str = field(repr=False)
    language: str = ""
    """ISO 639-1; several are separated by commas, and the reader tells them apart."""
    speakers: int | None = None
    """Number of speakers in the published corpus; None: unknown, or by release."""
    target: str = "emotion"
    """Column that holds the native labels."""
    part: Mapping[str, str] = field(default_factory=dict)
    """Column -> value of the rows that the paper scores; empty: all."""
    averaged_over: str | None = None
    """Column: the paper's UAR is the mean of the UARs of its values; None: one UAR of all rows."""
    printed: Mapping[str, float] = field(default_factory=dict)
    """System -> zero-shot UAR in print; empty: none is."""


SYSTEMS = ("CLAP", "Pengi", "ParaCLAP", "SmoothCLAP")
ANYWHERE = r"(?:.*/)?"
"""Start of a pattern: the folders above do not count, as unpacked archives differ in them."""


def _codes(text: str) -> dict[str, str | None]:
    """Return the codes of a text like ``W anger, L boredom, X -``; a dash is no label."""
    pairs = (pair.split(maxsplit=1) for pair in text.split(", "))
    return {code: None if label == "-" else label for code, label in pairs}


def _asked_by_label(labels: str) -> dict[str, dict[str, str]]:
    """Return the fields of a corpus whose labels are the classes, and asked for as they are."""
    itself = {label: label for label in labels.split(", ")}
    return {"classes": itself, "published": itself}


def _printed(*scores: float) -> dict[str, float]:
    """Return the UARs in print by system, in the order of SYSTEMS."""
    return dict(zip(SYSTEMS, scores, strict=True))


GENDERS = _codes(
    "F female, Female female, f female, female female, M male, Male male, m male, male male,"
    " Unknown -, unknown -"
)

# --- Readers of more than one file layout --------------------------------------------------------

MSP_PODCAST_EMOTIONS = (
    "anger, contempt, disgust, fear, happiness, neutral, other, sadness, surprise"
)


def _msp_podcast_labels(root: Path) -> pd.DataFrame:
    """Return the consensus labels from an audformat database, if there is one, or from the CSV."""
    headers = sorted([*root.glob("db.yaml"), *root.glob("*/db.yaml")])
    if headers:
        rows = read_database(
            headers[0].parent,
            tables=r"^(?:categories|dimensions)\.consensus|^speaker",
            split_pattern=r"\.(train|dev\w*|validation|test\d)$",
        )
        rows = rows.rename(columns={"file": "clip", "activation": "arousal"})
        fields = ["emotion", "speaker", "gender", "split", "arousal", "valence", "dominance"]
        return rows.reindex(columns=["clip", *fields])
    return read_label_files(
        root,
        # Early releases spell it with another c.
        globs=("Labels/labels_con[sc]ensus.csv", "*/Labels/labels_con[sc]ensus.csv"),
        columns={
            "FileName": "clip",
            "EmoClass": "emotion",
            "SpkrID": "speaker",
            "Gender": "gender",
            "Split_Set": "split",
            "EmoAct": "arousal",
            "EmoVal": "valence",
            "EmoDom": "dominance",
        },
        optional=("SpkrID", "Gender", "EmoAct", "EmoVal", "EmoDom"),
    )


def _aibo(classes: str, labels: Codes) -> dict[str, object]:
    """Return what the two classifications of FAU Aibo share; ``classes`` is 2cl or 5cl."""
    file = f"labels/IS2009EmotionChallenge/chunk_labels_{classes}_corpus.txt"
    return {
        "reader": partial(
            read_files,
            pattern=rf"{ANYWHERE}wav/(?:.*/)?(?P<clip>(?P<speaker>(?P<school>Ohm|Mont)_\d+)_[^/]+)",
            columns={"split": "{school}"},
            codes={"emotion": labels, "split": _codes("Ohm train, Mont test")},
            labels=partial(
                read_label_files,
                globs=(file, f"*/{file}"),
                line=r"(?P<clip>\S+)\s+(?P<emotion>[A-Z]+)\s+(?P<confidence>[\d.]+)",
            ),
        ),
        "expected": f"{file} and wav/Ohm_01_000_00.wav",
        "clips": 18216,
        "licence": "not public, by agreement with its owners",
        "citation": "Steidl, PhD thesis, Erlangen, 2009; Schuller et al., Interspeech 2009",
        "language": "de",
        "speakers": 51,
        "part": {"school": "Mont"},
    }


# --- What only one corpus needs ------------------------------------------------------------------

EMODB_GENDERS = _codes(
    "03 male, 08 female, 09 female, 10 male, 11 male, 12 male, 13 female, 14 female, 15 male,"
    " 16 female"
)
EMODB_AGES = _codes("03 31, 08 34, 09 21, 10 32, 11 26, 12 30, 13 32, 14 35, 15 25, 16 31")
ESD_MALE = ("0004", "0005", "0006", "0008", "0010", "0011", "0012", "0013", "0014", "0020")
ESD_SPEAKERS = [f"{number:04}" for number in range(1, 21)]
MELD_GENDERS = _codes(  # of the main characters; of the others only the name is known
    "Chandler male, Joey male, Monica female, Phoebe female, Rachel female, Ross male"
)

# --- The table -----------------------------------------------------------------------------------

_ROWS = (
    Corpus(
        name="msp-podcast",
        title="MSP-Podcast",
        reader=partial(
            read_files,
            pattern=rf"{ANYWHERE}(?P<clip>MSP-PODCAST_[^/]+)",
            codes={
                "emotion": {
                    **_codes("A anger, C contempt, D disgust, F fear, H happiness, N neutral"),
                    **_codes("O other, S sadness, U surprise, X -, unknown -"),
                    **{label: label for label in MSP_PODCAST_EMOTIONS.split(", ")},
                    **dict.fromkeys(("no agreement", "no_agreement")),
                },
                "speaker": Lenient(_codes("Unknown -, unknown -"), keep=True),
                "gender": GENDERS,
                "split": Lenient(
                    _codes(
                        "Train train, Development dev, Test1 test1, Test2 test2, Test3 test3,"
                        " devel dev, development dev, validation dev"
                    ),
                    keep=True,
                ),
            },
            labels=_msp_podcast_labels,
        ),
        expected="Labels/labels_consensus.csv (or converted/db.yaml, audformat) and"
        " Audios/MSP-PODCAST_0001_0008.wav",
        clips=None,
        **_asked_by_label(MSP_PODCAST_EMOTIONS),
        part={"split": "test1"},
        licence="academic or commercial, by agreement with UT Dallas",
        citation="Lotfian and Busso, IEEE Trans. Affective Computing 10(4), 2019",
        language="en",
    ),
    Corpus(
        name="iemocap",
        title="IEMOCAP",
        reader=partial(
            read_files,
            # The letter in front of the number is who speaks, that after Ses0N who wears markers.
            pattern=rf"{ANYWHERE}Session[1-5]/sentences/wav/[^/]+/"
            r"(?P<clip>(?P<dialogue>Ses0(?P<session>[1-5])[FM]_\w+)_(?P<gender>[FM])\w{3})",
            columns={"speaker": "Ses0{session}{gender}", "fold": "{session}"},
            codes={
                "emotion": _codes(
                    "ang anger, dis disgust, exc excitement, fea fear, fru frustration,"
                    " hap happiness, neu neutral, oth other, sad sadness, sur surprise, xxx -"
                ),
                "gender": GENDERS,
            },
            labels=partial(
                read_label_files,
                globs=(
                    "Session[1-5]/dialog/EmoEvaluation/*.txt",
                    "*/Session[1-5]/dialog/EmoEvaluation/*.txt",
                ),
                line=r"\[[\d.]+\s*-\s*[\d.]+\]\s+(?P<clip>\S+)\s+(?P<emotion>[a-z]{3})\s+"
                r"\[(?P<valence>[\d.]+),\s*(?P<arousal>[\d.]+),\s*(?P<dominance>[\d.]+)\]",
            ),
        ),
        expected="Session1/dialog/EmoEvaluation/*.txt and"
        " Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav to Session5/",
        clips=10039,
        classes={
            **_codes("neutral neutral, happiness happy, excitement happy, anger anger"),
            **_codes("sadness sadness, frustration -, disgust -, fear -, surprise -, other -"),
        },
        published={
            label: f"this person is feeling {label}."
            for label in ("neutral", "happy", "anger", "sadness")
        },
        averaged_over="session",
        printed=_printed(0.353, 0.345, 0.600, 0.606),
        licence="by agreement with USC SAIL",
        citation="Busso et al., Language Resources and Evaluation 42, 2008",
        language="en",
        speakers=10,
    ),
    Corpus(
        name="ravdess",
        title="RAVDESS, speech",
        reader=partial(
            read_files,
            pattern=rf"{ANYWHERE}\d\d-01-(?P<emotion>\d\d)-(?P<intensity>\d\d)"
            r"-(?P<text_id>\d\d)-(?P<repetition>\d\d)-(?P<speaker>\d\d)",
            other_part=r"(?:^|/)\d\d-02(?:-\d\d){5}\.\w+$",  # song
            columns={"gender": "{speaker}"},
            codes={
                "emotion": _codes(
                    "01 neutral, 02 calm, 03 happy, 04 sad, 05 angry, 06 fearful, 07 disgust,"
                    " 08 surprised"
                ),
                "gender": {f"{n:02}": "male" if n % 2 else "female" for n in range(1, 25)},
                "intensity": _codes("01 normal, 02 strong"),
                "text_id": _codes("01 1, 02 2"),
                "repetition": _codes("01 1, 02 2"),
            },
        ),
        expected="Actor_01/03-01-01-01-01-01-01.wav (or .flac, ...) to Actor_24/",
        clips=1440,
        **_asked_by_label("neutral, calm, happy, sad, angry, fearful, disgust, surprised"),
        printed=_printed(0.199, 0.148, 0.228, 0.260),
        licence="CC BY-NC-SA 4.0",
        citation="Livingstone and Russo, PLoS ONE 13(5), 2018",
        language="en",
        speakers=24,
    ),
    Corpus(
        name="crema-d",
        title="CREMA-D",
        reader=partial(
            read_files,
            # One file of the corpus is called 1040_ITH_SAD_X.wav.
            pattern=rf"(?!.*AudioMP3/){ANYWHERE}(?P<speaker>1\d{{3}})_(?P<text_id>[A-Z]{{3}})"
            r"_(?P<emotion>[A-Z]{3})_(?P<intensity>LO|MD|HI|XX?)",
            other_part=r"AudioMP3/",  # the same recordings
            codes={
                "emotion": _codes(
                    "ANG angry, DIS disgust, FEA fear, HAP happy, NEU neutral, SAD sad"
                ),
                "gender": GENDERS,
                "intensity": _codes("LO low, MD medium, HI high, XX -, X -"),
            },
            labels=partial(
                read_label_files,
                globs=("VideoDemographics.csv", "*/VideoDemographics.csv"),
                columns={"ActorID": "speaker", "Age": "age", "Sex": "gender"},
            ),
            labels_needed=False,
        ),
        expected="AudioWAV/1001_DFA_ANG_XX.wav; VideoDemographics.csv for age and gender",
        clips=7442,
        **_asked_by_label("sad, angry, disgust, fear, happy, neutral"),
        printed=_printed(0.230, 0.245, 0.177, 0.266),
        licence="ODbL 1.0 and DbCL 1.0",
        citation="Cao et al., IEEE Trans. Affective Computing 5(4), 2014",
        language="en",
        speakers=91,
    ),
    Corpus(
        name="tess",
        title="Toronto Emotional Speech Set",
        reader=partial(
            read_files,
            # One file of the corpus is called OA_bite_neutral.wav.
            pattern=rf"{ANYWHERE}(?P<speaker>OAF?|YAF)_(?P<text_id>[A-Za-z]+)_(?P<emotion>[a-z]+)",
            columns={"gender": "female", "age": "{speaker}"},
            codes={
                "emotion": _codes(
                    "angry angry, disgust disgust, fear fear, happy happy, neutral neutral,"
                    " ps pleasant surprise, sad sadness"
                ),
                "speaker": _codes("OA OAF, OAF OAF, YAF YAF"),
                "age": _codes("OA 64, OAF 64, YAF 26"),
            },
        ),
        expected="OAF_back_angry.wav, in any folders",
        clips=2800,
        **_asked_by_label("neutral, happy, sadness, angry, fear, disgust, pleasant surprise"),
        printed=_printed(0.232, 0.177, 0.170, 0.433),
        licence="CC BY-NC-ND 4.0",
        citation="Pichora-Fuller and Dupuis, Toronto emotional speech set (TESS), 2020",
        language="en",
        speakers=2,
    ),
    Corpus(
        name="aibo-2",
        title="FAU Aibo, 2 classes",
        **_aibo("2cl", _codes("IDL non-negative, NEG negative")),
        **_asked_by_label("non-negative, negative"),
        printed=_printed(0.500, 0.470, 0.526, 0.555),
    ),
    Corpus(
        name="aibo-5",
        title="FAU Aibo, 5 classes",
        # P is "positive" to the corpus, motherese and joyful; the paper asks for motherese.
        **_aibo("5cl", _codes("A angry, E emphatic, N neutral, P motherese, R rest")),
        **_asked_by_label("angry, emphatic, neutral, motherese, rest"),
        printed=_printed(0.211, 0.185, 0.197, 0.204),
    ),
    Corpus(
        name="alc",
        title="Alcohol Language Corpus, Interspeech 2011 challenge",
        reader=partial(
            read_files,
            pattern=rf"{ANYWHERE}DIST/(?:.*/)?(?P<clip>(?P<split>[^/_]+)_[^/]+)",
            codes={
                "intoxication": _codes("AL intoxicated, NAL sober"),
                # Only the name of the test part is certain; others stay as they are.
                "split": Lenient(_codes("TE test, TR train"), keep=True),
            },
            labels=partial(
                read_label_files,
                globs=("ALC.csv", "*/ALC.csv"),
                columns={"file": "clip", "challenge_class": "intoxication"},
            ),
        ),
        expected="ALC.csv (file, challenge_class) and DIST/TEST/TE_*.wav",
        clips=None,
        classes={"intoxicated": "intoxicated", "sober": "sober"},
        published={
            "intoxicated": "intoxicated with alcohol",
            "sober": "not intoxicated with alcohol",
        },
        target="intoxication",
        part={"split": "test"},
        printed=_printed(0.511, 0.473, 0.537, 0.541),
        licence="from the Bavarian Archive for Speech Signals, not to be passed on",
        citation="Schiel et al., LREC 2008; Schuller et al., Interspeech 2011",
        language="de",
        speakers=154,
    ),
    Corpus(
        name="sld",
        title="Speaker Likability Database, Interspeech 2012 challenge",
        reader=partial(
            read_files,
            pattern=rf"{ANYWHERE}wav/(?:.*/)?(?P<clip>(?P<split>[^/_]+)_[^/]+)",
            codes={
                "likability": _codes("L likeable, NL not likeable"),
                "split": Lenient(_codes("devel dev"), keep=True),
            },
            labels=partial(
                read_label_files,
                globs=("LSC*.csv", "*.csv", "*/LSC*.csv"),
                columns={"file": "clip", "likability": "likability"},
            ),
        ),
        expected="LSC_*.csv (file; likability) and wav/test_*.wav",
        clips=None,
        **_asked_by_label("likeable, not likeable"),
        target="likability",
        part={"split": "test"},
        printed=_printed(0.472, 0.485, 0.507, 0.507),
        licence="by agreement with its owners",
        citation="Burkhardt et al., Interspeech 2011; Schuller et al., Interspeech 2012",
        language="de",
    ),
    Corpus(
        name="savee",
        title="Surrey Audio-Visual Expressed Emotion",
        reader=partial(
            read_files,
            pattern=rf"{ANYWHERE}(?P<speaker>DC|JE|JK|KL)[/_]"
            r"(?P<text_id>(?P<emotion>sa|su|[adfhn])\d\d)",
            columns={"gender": "male"},
            codes={
                "emotion": _codes(
                    "a anger, d disgust, f fear, h happiness, n neutral, sa sadness, su surprise"
                )
            },
        ),
        expected="AudioData/DC/a01.wav, or flat as DC_a01.wav",
        clips=480,
        **_asked_by_label("anger, disgust, fear, happiness, neutral, sadness, surprise"),
        licence="research only, by registration with the University of Surrey",
        citation="Haq and Jackson, AVSP 2009",
        language="en",
        speakers=4,
    ),
    Corpus(
        name="emovo",
        title="EMOVO",
        reader=partial(
            read_files,
            pattern=rf"{ANYWHERE}(?P<emotion>[a-z]{{3}})-(?P<speaker>(?P<gender>[fm])\d)"
            r"-(?P<text_id>[a-z]\d)",
            codes={
                "emotion": _codes(
                    "dis disgust, gio joy, neu neutral, pau fear, rab anger, sor surprise,"
                    " tri sadness"
                ),
                "gender": GENDERS,
            },
        ),
        expected="f1/dis-f1-b1.wav to m3/",
        clips=588,
        **_asked_by_label("anger, disgust, fear, joy, neutral, sadness, surprise"),
        licence="none found",
        citation="Costantini et al., LREC 2014",
        language="it",
        speakers=6,
    ),
    Corpus(
        name="emodb",
        title="Berlin Database of Emotional Speech",
        reader=partial(
            read_files,
            pattern=rf"{ANYWHERE}(?P<clip>(?P<speaker>\d\d)(?P<text_id>[ab]\d\d)"
            r"(?P<emotion>[A-Z])[a-z]?)",
            columns={"gender": "{speaker}", "age": "{speaker}"},
            codes={
                "emotion": _codes(
                    "W anger, L boredom, E disgust, A fear, F happiness, T sadness, N neutral"
                ),
                "gender": EMODB_GENDERS,
                "age": EMODB_AGES,
            },
        ),
        expected="wav/03a01Fa.wav (or .flac, ...), or the same files in any other folder",
        clips=535,
        **_asked_by_label("anger, boredom, disgust, fear, happiness, sadness, neutral"),
        licence="CC0 1.0 (release of audEERING)",
        citation="Burkhardt et al., Interspeech 2005",
        language="de",
        speakers=10,
    ),
    Corpus(
        name="urdu",
        title="URDU",
        reader=partial(
            read_files,
            pattern=rf"{ANYWHERE}(?P<clip>(?P<speaker>S(?P<gender>[FM])\d+)_F\d+"
            r"_(?P<emotion>[A-Z])\d+)",
            codes={
                "emotion": _codes("A anger, H happiness, N neutral, S sadness"),
                "gender": GENDERS,
            },
        ),
        expected="Angry/SM1_F1_A01.wav to Sad/",
        clips=400,
        **_asked_by_label("anger, happiness, neutral, sadness"),
        licence="research only",
        citation="Latif et al., FIT 2018",
        language="ur",
        speakers=38,
    ),
    Corpus(
        name="nemo",
        title="nEMO",
        reader=partial(
            read_files,
            pattern=rf"{ANYWHERE}samples/(?P<clip>[^/]+_[a-z]+_(?P<text_id>\d+))",
            codes={
                "emotion": _codes(
                    "anger anger, fear fear, happiness happiness, neutral neutral,"
                    " sadness sadness, surprised surprise"
                ),
                "gender": GENDERS,
            },
            labels=partial(
                read_label_files,
                globs=("data.tsv", "*/data.tsv"),
                columns={
                    "file_id": "clip",
                    "emotion": "emotion",
                    "speaker_id": "speaker",
                    "gender": "gender",
                    "age": "age",
                    "raw_text": "text",
                },
                optional=("raw_text",),
            ),
        ),
        expected="data.tsv and samples/EB0_anger_1.wav",
        clips=4481,
        **_asked_by_label("anger, fear, happiness, neutral, sadness, surprise"),
        licence="CC BY-NC-SA 4.0",
        citation="Christop, LREC-COLING 2024",
        language="pl",
        speakers=9,
    ),
    Corpus(
        name="meld",
        title="MELD",
        reader=partial(
            read_files,
            pattern=rf"{ANYWHERE}[^/]*(?P<split>train|dev|test)[^/]*/(?:[^/]+/)?"
            r"(?:final_videos_test)?dia(?P<dialogue>\d+)_utt(?P<utterance>\d+)",
            prefer="final_videos_test",  # cut anew, as the labels have it
            columns={"gender": "{speaker}"},
            codes={"gender": Lenient(MELD_GENDERS, keep=False)},
            labels=partial(
                read_label_files,
                globs=("*_sent_emo.csv", "*/*_sent_emo.csv", "*/*/*_sent_emo.csv"),
                path_fields=r"(?P<split>train|dev|test)_sent_emo\.csv$",
                columns={
                    "Dialogue_ID": "dialogue",
                    "Utterance_ID": "utterance",
                    "Emotion": "emotion",
                    "Speaker": "speaker",
                    "Sentiment": "sentiment",
                    "Utterance": "text",
                },
                optional=("Sentiment", "Utterance"),
            ),
        ),
        expected="train_sent_emo.csv, dev_..., test_... and train_splits/dia0_utt0.wav,"
        " dev_splits_complete/, output_repeated_splits_test/ (sound extracted from the videos)",
        clips=13708,
        **_asked_by_label("anger, disgust, fear, joy, neutral, sadness, surprise"),
        licence="GPL 3.0 (the labels; the sound is that of a television series)",
        citation="Poria et al., ACL 2019",
        language="en",
    ),
    Corpus(
        name="esd",
        title="Emotional Speech Dataset",
        reader=partial(
            read_files,
            pattern=rf"{ANYWHERE}(?P<emotion>Angry|Happy|Neutral|Sad|Surprise)/"
            r"(?:(?P<split>train|evaluation|test)/)?(?P<clip>(?P<speaker>\d{4})_\d{6})",
            columns={"gender": "{speaker}", "language": "{speaker}"},
            codes={
                "emotion": _codes(
                    "Angry anger, Happy happiness, Neutral neutral, Sad sadness, Surprise surprise"
                ),
                "gender": {s: "male" if s in ESD_MALE else "female" for s in ESD_SPEAKERS},
                "language": {s: "zh" if s <= "0010" else "en" for s in ESD_SPEAKERS},
                "split": _codes("train train, evaluation dev, test test"),
            },
            labels=partial(
                read_label_files,
                globs=("00??/00??.txt", "*/00??/00??.txt"),
                line=r"(?P<clip>\d{4}_\d{6})\s+(?P<text>[^\t]*[^\s])(?:\s*\t.*)?",
                encodings={"000?.txt": "gb18030", "0010.txt": "gb18030"},
            ),
            labels_needed=False,
        ),
        expected="0001/Angry/train/0001_000371.wav (or 0001/Angry/0001_000371.wav) to 0020/",
        clips=35000,
        **_asked_by_label("anger, happiness, neutral, sadness, surprise"),
        licence="research only, by agreement with its authors",
        citation="Zhou et al., ICASSP 2021",
        language="zh,en",
        speakers=20,
    ),
)

CORPORA = {corpus.name: corpus for corpus in _ROWS}
"""Name on the command line -> corpus."""
