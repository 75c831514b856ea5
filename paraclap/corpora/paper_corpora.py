"""Corpora that the paper evaluates."""

from functools import partial
from pathlib import Path

import pandas as pd

from paraclap.corpora.corpus import ANYWHERE, Corpus, printed_scores, scored_labels
from paraclap.corpora.databases import read_database
from paraclap.corpora.file_names import read_files
from paraclap.corpora.label_files import read_label_files
from paraclap.corpora.labels import GENDERS, SPLITS, Codes, OpenCodes, codes

MSP_PODCAST_EMOTIONS = (
    "anger, contempt, disgust, fear, happiness, neutral, other, sadness, surprise"
)


def _msp_podcast_labels(root: Path) -> pd.DataFrame:
    """Return the consensus labels from an audformat database if it exists, else from the CSV."""
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
        # early releases: labels_concensus.csv
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
    """Return the fields that both tasks of FAU Aibo share; ``classes`` is 2cl or 5cl."""
    file = f"labels/IS2009EmotionChallenge/chunk_labels_{classes}_corpus.txt"
    return {
        "reader": partial(
            read_files,
            pattern=rf"{ANYWHERE}wav/(?:.*/)?(?P<clip>(?P<speaker>(?P<school>Ohm|Mont)_\d+)_[^/]+)",
            columns={"split": "{school}"},
            codes={"emotion": labels, "split": codes("Ohm train, Mont test")},
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


PAPER_CORPORA = (
    Corpus(
        name="msp-podcast",
        title="MSP-Podcast",
        reader=partial(
            read_files,
            pattern=rf"{ANYWHERE}(?P<clip>MSP-PODCAST_[^/]+)",
            codes={
                "emotion": {
                    **codes("A anger, C contempt, D disgust, F fear, H happiness, N neutral"),
                    **codes("O other, S sadness, U surprise, X -, unknown -"),
                    **{label: label for label in MSP_PODCAST_EMOTIONS.split(", ")},
                    **dict.fromkeys(("no agreement", "no_agreement")),
                },
                "speaker": OpenCodes(codes("Unknown -, unknown -"), keep=True),
                "gender": GENDERS,
                "split": SPLITS,
            },
            labels=_msp_podcast_labels,
        ),
        expected="Labels/labels_consensus.csv (or converted/db.yaml, audformat) and"
        " Audios/MSP-PODCAST_0001_0008.wav",
        clips=None,
        **scored_labels(MSP_PODCAST_EMOTIONS),
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
            # the letter after Ses0N is not the speaker but who wears the markers
            pattern=rf"{ANYWHERE}Session[1-5]/sentences/wav/[^/]+/"
            r"(?P<clip>(?P<dialogue>Ses0(?P<session>[1-5])[FM]_\w+)_(?P<gender>[FM])\w{3})",
            columns={"speaker": "Ses0{session}{gender}", "fold": "{session}"},
            codes={
                "emotion": codes(
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
            **codes("neutral neutral, happiness happy, excitement happy, anger anger"),
            **codes("sadness sadness, frustration -, disgust -, fear -, surprise -, other -"),
        },
        published={
            label: f"this person is feeling {label}."
            for label in ("neutral", "happy", "anger", "sadness")
        },
        averaged_over="session",
        printed=printed_scores(0.353, 0.345, 0.600, 0.606),
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
                "emotion": codes(
                    "01 neutral, 02 calm, 03 happy, 04 sad, 05 angry, 06 fearful, 07 disgust,"
                    " 08 surprised"
                ),
                "gender": {f"{n:02}": "male" if n % 2 else "female" for n in range(1, 25)},
                "intensity": codes("01 normal, 02 strong"),
                "text_id": codes("01 1, 02 2"),
                "repetition": codes("01 1, 02 2"),
            },
        ),
        expected="Actor_01/03-01-01-01-01-01-01.wav (or .flac, ...) to Actor_24/",
        clips=1440,
        **scored_labels("neutral, calm, happy, sad, angry, fearful, disgust, surprised"),
        printed=printed_scores(0.199, 0.148, 0.228, 0.260),
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
            # one file is named 1040_ITH_SAD_X.wav
            pattern=rf"(?!.*AudioMP3/){ANYWHERE}(?P<speaker>1\d{{3}})_(?P<text_id>[A-Z]{{3}})"
            r"_(?P<emotion>[A-Z]{3})_(?P<intensity>LO|MD|HI|XX?)",
            other_part=r"AudioMP3/",  # the same recordings
            codes={
                "emotion": codes(
                    "ANG angry, DIS disgust, FEA fear, HAP happy, NEU neutral, SAD sad"
                ),
                "gender": GENDERS,
                "intensity": codes("LO low, MD medium, HI high, XX -, X -"),
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
        **scored_labels("sad, angry, disgust, fear, happy, neutral"),
        printed=printed_scores(0.230, 0.245, 0.177, 0.266),
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
            # one file is named OA_bite_neutral.wav
            pattern=rf"{ANYWHERE}(?P<speaker>OAF?|YAF)_(?P<text_id>[A-Za-z]+)_(?P<emotion>[a-z]+)",
            columns={"gender": "female", "age": "{speaker}"},
            codes={
                "emotion": codes(
                    "angry angry, disgust disgust, fear fear, happy happy, neutral neutral,"
                    " ps pleasant surprise, sad sadness"
                ),
                "speaker": codes("OA OAF, OAF OAF, YAF YAF"),
                "age": codes("OA 64, OAF 64, YAF 26"),
            },
        ),
        expected="OAF_back_angry.wav, in any folders",
        clips=2800,
        **scored_labels("neutral, happy, sadness, angry, fear, disgust, pleasant surprise"),
        printed=printed_scores(0.232, 0.177, 0.170, 0.433),
        licence="CC BY-NC-ND 4.0",
        citation="Pichora-Fuller and Dupuis, Toronto emotional speech set (TESS), 2020",
        language="en",
        speakers=2,
    ),
    Corpus(
        name="aibo-2",
        title="FAU Aibo, 2 classes",
        **_aibo("2cl", codes("IDL non-negative, NEG negative")),
        **scored_labels("non-negative, negative"),
        printed=printed_scores(0.500, 0.470, 0.526, 0.555),
    ),
    Corpus(
        name="aibo-5",
        title="FAU Aibo, 5 classes",
        # P is "positive" (motherese and joyful) in the corpus, and "motherese" in the paper
        **_aibo("5cl", codes("A angry, E emphatic, N neutral, P motherese, R rest")),
        **scored_labels("angry, emphatic, neutral, motherese, rest"),
        printed=printed_scores(0.211, 0.185, 0.197, 0.204),
    ),
    Corpus(
        name="alc",
        title="Alcohol Language Corpus, Interspeech 2011 challenge",
        reader=partial(
            read_files,
            pattern=rf"{ANYWHERE}DIST/(?:.*/)?(?P<clip>(?P<split>[^/_]+)_[^/]+)",
            codes={
                "intoxication": codes("AL intoxicated, NAL sober"),
                "split": SPLITS,
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
        printed=printed_scores(0.511, 0.473, 0.537, 0.541),
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
                "likability": codes("L likeable, NL not likeable"),
                "split": SPLITS,
            },
            labels=partial(
                read_label_files,
                globs=("LSC*.csv", "*.csv", "*/LSC*.csv"),
                columns={"file": "clip", "likability": "likability"},
            ),
        ),
        expected="LSC_*.csv (file; likability) and wav/test_*.wav",
        clips=None,
        **scored_labels("likeable, not likeable"),
        target="likability",
        part={"split": "test"},
        printed=printed_scores(0.472, 0.485, 0.507, 0.507),
        licence="by agreement with its owners",
        citation="Burkhardt et al., Interspeech 2011; Schuller et al., Interspeech 2012",
        language="de",
    ),
)
