"""Every corpus of the catalogue is read from empty files in its published layout."""

from dataclasses import dataclass, field
from pathlib import Path

import audformat
import pandas as pd
import pytest

from corpus_files import warnings_of, write
from paraclap.corpora import CorpusError
from paraclap.corpora import table as corpora
from paraclap.corpora.catalogue import CORPORA
from paraclap.evaluation.prompt_sets import class_words

IEMOCAP_LABELS = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()
A-E3:\tval 3; act 2; dom  2;\t()

[10.0100 - 11.3925]\tSes01F_impro01_M001\texc\t[4.0000, 3.5000, 3.0000]
[14.8872 - 18.0175]\tSes01F_impro01_MXX0\txxx\t[2.0000, 2.5000, 2.5000]
"""
IEMOCAP_SCRIPT = "[1.0 - 2.0]\tSes05M_script01_1b_F003\tfru\t[1.5, 4.0, 4.5]\r\n"
MSP_LABELS = """FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set
MSP-PODCAST_0001_0008.wav,N,2.2,4.0,2.6,30,Male,Test1
MSP-PODCAST_0001_0009.wav,X,3.777778,3.555556,3.777778,39,Female,Train
MSP-PODCAST_0002_0001.wav,A,6,2,5,Unknown,Unknown,Development
MSP-PODCAST_0002_0002.wav,O,6,2,5,40,Female,Test2
"""
MELD_HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season\n"


@dataclass(frozen=True)
class Tree:
    """Files of one copy of a corpus, and the rows that must be read from it (and its language)."""

    corpus: str
    files: list[str]
    rows: list[dict]
    texts: dict[str, str | bytes] = field(default_factory=dict)
    warned: list[str] = field(default_factory=list)


TREES = {
    "msp-podcast: release": Tree(
        "msp-podcast",
        [
            "Audios/MSP-PODCAST_0001_0008.wav",
            "Audios/MSP-PODCAST_0001_0009.wav",
            "Audios/MSP-PODCAST_0002_0001.wav",
            "Audios/MSP-PODCAST_test3_0001.wav",
        ],
        [
            dict(file="Audios/MSP-PODCAST_0001_0008.wav", emotion="neutral", speaker="30",
                 gender="male", split="test", original_split="test1", arousal=2.2, valence=4.0,
                 dominance=2.6),
            dict(file="Audios/MSP-PODCAST_0001_0009.wav", speaker="39", gender="female",
                 split="train", original_split="train", arousal=3.777778, valence=3.555556,
                 dominance=3.777778),
            dict(file="Audios/MSP-PODCAST_0002_0001.wav", emotion="anger", split="dev",
                 original_split="development", arousal=6.0, valence=2.0, dominance=5.0),
        ],
        {"Labels/labels_consensus.csv": MSP_LABELS},
        ["1 labelled clips have no audio, e.g. MSP-PODCAST_0002_", "1 audio files have no label"],
    ),
    "msp-podcast: early release": Tree(
        "msp-podcast",
        ["Audios/MSP-PODCAST_0001.wav"],
        [
            dict(file="Audios/MSP-PODCAST_0001.wav", emotion="contempt", split="train")
        ],
        {
            "Labels/labels_concensus.csv": "\ufeffFileName,EmoClass,Split_Set\r\n"
            "MSP-PODCAST_0001.wav,C,Train\r\n"
        },
    ),
    "iemocap": Tree(
        "iemocap",
        [
            "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav",
            "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M001.wav",
            "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_MXX0.wav",
            "Session1/dialog/wav/Ses01F_impro01.wav",
            "Session5/sentences/wav/Ses05M_script01_1b/Ses05M_script01_1b_F003.wav",
        ],
        [
            dict(file="Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav",
                 emotion="neutral", speaker="Ses01F", gender="female", session="1", fold="1",
                 dialogue="Ses01F_impro01", valence=2.5, arousal=2.5, dominance=2.5),
            dict(file="Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M001.wav",
                 emotion="excitement", speaker="Ses01M", gender="male", session="1", fold="1",
                 dialogue="Ses01F_impro01", valence=4.0, arousal=3.5, dominance=3.0),
            dict(file="Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_MXX0.wav",
                 speaker="Ses01M", gender="male", session="1", fold="1",
                 dialogue="Ses01F_impro01", valence=2.0, arousal=2.5, dominance=2.5),
            dict(file="Session5/sentences/wav/Ses05M_script01_1b/Ses05M_script01_1b_F003.wav",
                 emotion="frustration", speaker="Ses05F", gender="female", session="5", fold="5",
                 dialogue="Ses05M_script01_1b", valence=1.5, arousal=4.0, dominance=4.5),
        ],
        {
            "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": IEMOCAP_LABELS,
            "Session1/dialog/EmoEvaluation/._Ses01F_impro01.txt": IEMOCAP_LABELS.replace(
                "neu", "ang"
            ),
            "Session1/dialog/EmoEvaluation/Categorical/Ses01F_impro01_e2_cat.txt": IEMOCAP_SCRIPT,
            "Session5/dialog/EmoEvaluation/Ses05M_script01_1b.txt": IEMOCAP_SCRIPT,
        },
        ["do not have a name of this corpus and are skipped, e.g. Session1/dialog/wav"],
    ),
    "ravdess": Tree(
        "ravdess",
        [
            "Actor_01/03-01-05-02-02-01-01.wav",
            "Actor_01/03-02-05-02-02-01-01.wav",
            "Actor_24/03-01-02-01-01-02-24.FLAC",
            "Actor_24/._03-01-02-01-01-02-24.flac",
            "audio_speech_actors_01-24/Actor_01/03-01-05-02-02-01-01.wav",
        ],
        [
            dict(file="Actor_01/03-01-05-02-02-01-01.wav", emotion="angry", speaker="01",
                 gender="male", intensity="strong", text_id="2", repetition="1"),
            dict(file="Actor_24/03-01-02-01-01-02-24.FLAC", emotion="calm", speaker="24",
                 gender="female", intensity="normal", text_id="1", repetition="2"),
        ],
        warned=["1 audio files are copies in another folder and are skipped, e.g. audio_speech"],
    ),
    "crema-d": Tree(
        "crema-d",
        [
            "AudioWAV/1001_DFA_ANG_XX.wav",
            "AudioWAV/1040_ITH_SAD_X.wav",
            "AudioWAV/1091_IEO_FEA_HI.wav",
            "AudioMP3/1001_DFA_ANG_XX.mp3",
        ],
        [
            dict(file="AudioWAV/1001_DFA_ANG_XX.wav", emotion="angry", speaker="1001",
                 gender="male", age=51.0, text_id="DFA"),
            dict(file="AudioWAV/1040_ITH_SAD_X.wav", emotion="sad", speaker="1040", text_id="ITH"),
            dict(file="AudioWAV/1091_IEO_FEA_HI.wav", emotion="fear", speaker="1091",
                 gender="female", age=29.0, text_id="IEO", intensity="high"),
        ],
        {
            "VideoDemographics.csv": '"ActorID","Age","Sex","Race","Ethnicity"\n'
            '1001,51,"Male","Caucasian","Not Hispanic"\n1091,29,"Female","Asian","Not Hispanic"\n'
            '1002,21,"Female","Caucasian","Not Hispanic"\n'
        },
    ),
    "crema-d: audio alone": Tree(
        "crema-d",
        ["1001_DFA_NEU_XX.wav"],
        [
            dict(file="1001_DFA_NEU_XX.wav", emotion="neutral", speaker="1001", text_id="DFA")
        ],
    ),
    "tess": Tree(
        "tess",
        [
            "TESS/OAF_neutral/OA_bite_neutral.wav",
            "TESS/YAF_pleasant_surprised/YAF_food_ps.wav",
            "TESS/TESS/YAF_pleasant_surprised/YAF_food_ps.wav",
        ],
        [
            dict(file="TESS/OAF_neutral/OA_bite_neutral.wav", emotion="neutral", speaker="OAF",
                 gender="female", age=64.0, text_id="bite"),
            dict(file="TESS/YAF_pleasant_surprised/YAF_food_ps.wav", emotion="pleasant surprise",
                 speaker="YAF", gender="female", age=26.0, text_id="food"),
        ],
        warned=["1 audio files are copies"],
    ),
    "aibo-2": Tree(
        "aibo-2",
        ["wav/Mont_01_000_00.wav", "wav/Ohm_01_000_00.wav", "wav/Ohm_01_000_01.wav"],
        [
            dict(file="wav/Mont_01_000_00.wav", emotion="non-negative", speaker="Mont_01",
                 school="Mont", split="test", confidence="0.64"),
            dict(file="wav/Ohm_01_000_00.wav", emotion="negative", speaker="Ohm_01", school="Ohm",
                 split="train", confidence="1"),
        ],
        {
            "labels/IS2009EmotionChallenge/chunk_labels_2cl_corpus.txt": "Ohm_01_000_00 NEG 1\n"
            "Mont_01_000_00 IDL 0.64\nMont_25_111_01 NEG 0.8\n"
        },
        ["1 labelled clips have no audio, e.g. Mont_25_111_01", "1 audio files have no label"],
    ),
    "aibo-5": Tree(
        "aibo-5",
        [f"wav/Mont_0{n}_000_00.wav" for n in range(1, 6)],
        [
            dict(file=f"wav/Mont_0{n}_000_00.wav", emotion=emotion, speaker=f"Mont_0{n}",
                 school="Mont", split="test", confidence="0.5")
            for n, emotion in enumerate(["angry", "emphatic", "neutral", "motherese", "rest"], 1)
        ],
        {
            "labels/IS2009EmotionChallenge/chunk_labels_5cl_corpus.txt": "".join(
                f"Mont_0{n}_000_00 {letter} 0.5\r\n" for n, letter in enumerate("AENPR", 1)
            )
        },
    ),
    "alc": Tree(
        "alc",
        ["DIST/TEST/TE_0001.wav", "DIST/TEST/TE_0002.WAV", "DIST/TRAIN/TR_0001.wav"],
        [
            dict(file="DIST/TEST/TE_0001.wav", intoxication="intoxicated", split="test"),
            dict(file="DIST/TEST/TE_0002.WAV", intoxication="sober", split="test"),
            dict(file="DIST/TRAIN/TR_0001.wav", intoxication="sober", split="train"),
        ],
        {
            "ALC.csv": "file,challenge_class,gender\nTE_0001,AL,F\nTE_0002,NAL,M\nTR_0001,NAL,M\n"
            "DE_0001,AL,F\n"
        },
        ["1 labelled clips have no audio, e.g. DE_0001"],
    ),
    "sld": Tree(
        "sld",
        ["wav/test_001.wav", "wav/devel_002.wav"],
        [
            dict(file="wav/devel_002.wav", likability="not likeable", split="dev"),
            dict(file="wav/test_001.wav", likability="likeable", split="test"),
        ],
        {
            "LSC_final_geheim.csv": "file;likability;Kommentar\ntest_001.wav;L;schön\n"
            "devel_002.wav;NL;\n".encode("latin-1")
        },
    ),
    "savee": Tree(
        "savee",
        ["AudioData/DC/a01.wav", "AudioData/KL/su15.wav", "AudioData/JE/sa02.wav"],
        [
            dict(file="AudioData/DC/a01.wav", emotion="anger", speaker="DC", gender="male",
                 text_id="a01"),
            dict(file="AudioData/JE/sa02.wav", emotion="sadness", speaker="JE", gender="male",
                 text_id="sa02"),
            dict(file="AudioData/KL/su15.wav", emotion="surprise", speaker="KL", gender="male",
                 text_id="su15"),
        ],
    ),
    "savee: flat": Tree(
        "savee",
        ["ALL/JK_n30.wav"],
        [
            dict(file="ALL/JK_n30.wav", emotion="neutral", speaker="JK", gender="male",
                 text_id="n30")
        ],
    ),
    "emovo": Tree(
        "emovo",
        ["f1/dis-f1-b1.wav", "m3/gio-m3-l4.wav"],
        [
            dict(file="f1/dis-f1-b1.wav", emotion="disgust", speaker="f1", gender="female",
                 text_id="b1"),
            dict(file="m3/gio-m3-l4.wav", emotion="joy", speaker="m3", gender="male",
                 text_id="l4"),
        ],
    ),
    "emodb": Tree(
        "emodb",
        ["wav/03a01Fa.wav", "wav/16b10Lb.flac"],
        [
            dict(file="wav/03a01Fa.wav", emotion="happiness", speaker="03", gender="male",
                 text_id="a01", age=31.0),
            dict(file="wav/16b10Lb.flac", emotion="boredom", speaker="16", gender="female",
                 text_id="b10", age=31.0),
        ],
    ),
    "emodb: flat": Tree(
        "emodb",
        ["08a02Tb.wav"],
        [
            dict(file="08a02Tb.wav", emotion="sadness", speaker="08", gender="female",
                 text_id="a02", age=34.0)
        ],
    ),
    "urdu": Tree(
        "urdu",
        ["Angry/SM1_F10_A010.wav", "Neutral/SF9_F1_N01.wav"],
        [
            dict(file="Angry/SM1_F10_A010.wav", emotion="anger", speaker="SM1", gender="male"),
            dict(file="Neutral/SF9_F1_N01.wav", emotion="neutral", speaker="SF9", gender="female"),
        ],
    ),
    "nemo": Tree(
        "nemo",
        ["samples/EB0_neutral_13.wav", "samples/WR0_surprised_64.wav"],
        [
            dict(file="samples/EB0_neutral_13.wav", emotion="neutral", speaker="EB0",
                 gender="female", age=27.0, text='"Ród smoka', text_id="13"),
            dict(file="samples/WR0_surprised_64.wav", emotion="surprise", speaker="WR0",
                 gender="male", age=23.0, text="Ucho wykrywa dźwięki.", text_id="64"),
        ],
        {
            # The corpus has eight blanks in front of the speaker.
            "data.tsv": "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage\n"
            "WR0_surprised_64.wav\tsurprised\tUcho wykrywa dźwięki.\tucho\t        WR0\tmale\t23\n"
            'EB0_neutral_13.wav\tneutral\t"Ród smoka\tród\t        EB0\tfemale\t27\n'
        },
    ),
    "meld": Tree(
        "meld",
        [
            "train_splits/dia0_utt0.wav",
            "dev_splits_complete/dia0_utt0.wav",
            "output_repeated_splits_test/dia0_utt0.wav",
            "output_repeated_splits_test/final_videos_testdia0_utt0.wav",
            "dev_splits_complete/dia66_utt9.wav",
        ],
        [
            dict(file="dev_splits_complete/dia0_utt0.wav", emotion="joy", speaker="Dr. Harad",
                 split="dev", dialogue="0", utterance="0", sentiment="positive", text="Oh no"),
            dict(file="output_repeated_splits_test/final_videos_testdia0_utt0.wav",
                 emotion="anger", speaker="Ross", gender="male", split="test", dialogue="0",
                 utterance="0", sentiment="negative", text="Fine."),
            dict(file="train_splits/dia0_utt0.wav", emotion="surprise", speaker="Monica",
                 gender="female", split="train", dialogue="0", utterance="0",
                 sentiment="negative", text="What, “he’s” here?"),
        ],
        {
            "train_sent_emo.csv": (
                MELD_HEADER + '1,"What, “he’s” here?",Monica,surprise,negative,0,0,4\n'
            ).encode("cp1252"),
            "dev_sent_emo.csv": MELD_HEADER + "1,Oh no,Dr. Harad,joy,positive,0,0,4\n"
            "1153,Hey.,Joey,neutral,neutral,110,7,4\n",
            "test_sent_emo.csv": "\ufeff" + MELD_HEADER + "1,Fine.,Ross,anger,negative,0,0,4\r\n",
        },
        [
            "1 audio files have a corrected version and are skipped, e.g. output_repeated_splits",
            "1 labelled clips have no audio, e.g. dev 110 7",
            "1 audio files have no label and are skipped, e.g. dev_splits_complete/dia66_utt9",
        ],
    ),
    "esd": Tree(
        "esd",
        [
            "0001/Angry/train/0001_000371.wav",
            "0003/Surprise/evaluation/0003_001401.wav",
            "0016/Sad/test/0016_001051.wav",
            "0020/Neutral/0020_000001.wav",
        ],
        [
            dict(file="0001/Angry/train/0001_000371.wav", emotion="anger", speaker="0001",
                 gender="female", language="zh", split="train", text="打远一看"),
            dict(file="0003/Surprise/evaluation/0003_001401.wav", emotion="surprise",
                 speaker="0003", gender="female", language="zh", split="dev", text="我没事"),
            dict(file="0016/Sad/test/0016_001051.wav", emotion="sadness", speaker="0016",
                 gender="female", language="en", split="test", text="It’s mine."),
            dict(file="0020/Neutral/0020_000001.wav", emotion="neutral", speaker="0020",
                 gender="male", language="en"),
        ],
        {
            "0001/0001.txt": "0001_000371\t打远一看\t生气\r\n".encode("gb18030"),
            "0003/0003.txt": "0003_001401\t我没事\t惊喜\n".encode("utf-16"),
            "0016/0016.txt": "0016_001051\tIt’s mine.\tSad\n".encode("cp1252"),
        },
    ),
}  # fmt: skip


def write_tree(root: Path, tree: Tree) -> Path:
    for file, text in {**dict.fromkeys(tree.files, ""), **tree.texts}.items():
        write(root, file, text)
    return root


def read_rows(source: str) -> tuple[list[dict], list[str]]:
    """Return the rows of a source, without missing values, and the warnings."""
    table, warned = warnings_of(corpora.read_corpus, source)
    rows = table.reset_index().drop(columns=["start", "end"]).to_dict("records")
    found = [{k: v for k, v in row.items() if not pd.isna(v)} for row in rows]
    return found, [message for message in warned if " clips of " not in message]


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
@pytest.mark.parametrize("above", ["", "unpacked/"])
def test_published_layout_is_read_with_all_labels(tmp_path, tree, above):
    write_tree(tmp_path / above, tree)
    found, warned = read_rows(f"{tree.corpus}={tmp_path}")
    language = {"language": CORPORA[tree.corpus].language}
    assert found == [{**language, **row, "file": above + row["file"]} for row in tree.rows]
    for part, message in zip(tree.warned, warned, strict=True):
        assert part in message.replace(f"e.g. {above}", "e.g. ")


def test_every_corpus_has_a_tree():
    assert {tree.corpus for tree in TREES.values()} == set(CORPORA)


FULL = {
    "ravdess": [
        f"Actor_{actor:02}/03-01-{emotion:02}-{intensity:02}-{text:02}-{take:02}-{actor:02}.wav"
        for actor in range(1, 25)
        for emotion in range(1, 9)
        for intensity in ((1, 2) if emotion > 1 else (1,))
        for text in (1, 2)
        for take in (1, 2)
    ],
    "savee": [
        f"AudioData/{speaker}/{emotion}{text:02}.wav"
        for speaker in ("DC", "JE", "JK", "KL")
        for emotion in ("a", "d", "f", "h", "n", "sa", "su")
        for text in range(1, 31 if emotion == "n" else 16)
    ],
    "emovo": [
        f"{speaker}/{emotion}-{speaker}-{text}.wav"
        for speaker in ("f1", "f2", "f3", "m1", "m2", "m3")
        for emotion in ("dis", "gio", "neu", "pau", "rab", "sor", "tri")
        for text in ("b1 b2 b3 l1 l2 l3 l4 n1 n2 n3 n4 n5 d1 d2").split()
    ],
}


@pytest.mark.parametrize("name", FULL)
def test_complete_corpus_has_its_published_size_classes_and_speakers(tmp_path, name):
    write_tree(tmp_path, Tree(name, FULL[name], []))
    table, warned = warnings_of(corpora.read_corpus, f"{name}={tmp_path}")
    corpus = CORPORA[name]
    assert not warned
    assert len(table) == corpus.clips
    assert table["speaker"].nunique() == corpus.speakers
    assert set(corpora.scored_classes(table)) == set(corpus.published)


# --- MSP-Podcast in audformat --------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["", "converted"])
def test_msp_podcast_from_audformat_equals_the_release(tmp_path, folder):
    release, converted = tmp_path / "release", tmp_path / "converted"
    tree = TREES["msp-podcast: release"]
    write_tree(release, tree)
    write_tree(converted, Tree("", [f"original/{file}" for file in tree.files], []))
    speakers = {"30": {"gender": "male"}, "39": {"gender": "female"}, "Unknown": {}}
    database = audformat.Database("msp-podcast")
    database.schemes["emotion"] = audformat.Scheme(
        labels=["anger", "neutral", "no_agreement", "other"]
    )
    for dimension in ("arousal", "valence", "dominance"):
        database.schemes[dimension] = audformat.Scheme("float")
    database.schemes["speaker"] = audformat.Scheme("str", labels=speakers)
    rows = {
        # file: table suffix, emotion, arousal, valence, dominance, speaker
        "0001_0008": ("test1", "neutral", 2.2, 4.0, 2.6, "30"),
        "0001_0009": ("train", "no_agreement", 3.777778, 3.555556, 3.777778, "39"),
        "0002_0001": ("development", "anger", 6.0, 2.0, 5.0, "Unknown"),
    }
    files = [f"Audios/MSP-PODCAST_{file}.wav" for file in rows]
    for file, (suffix, emotion, *numbers, _) in zip(files, rows.values(), strict=True):
        index = audformat.filewise_index([file])
        table = database[f"categories.consensus.{suffix}"] = audformat.Table(index)
        table["emotion"] = audformat.Column(scheme_id="emotion")
        table["emotion"].set([emotion])
        table = database[f"dimensions.consensus.{suffix}"] = audformat.Table(index)
        for dimension, number in zip(("arousal", "valence", "dominance"), numbers, strict=True):
            table[dimension] = audformat.Column(scheme_id=dimension)
            table[dimension].set([number])
        # ratings of individual raters must be ignored
        table = database[f"categories.raw.{suffix}"] = audformat.Table(index)
        table["emotion"] = audformat.Column(scheme_id="emotion")
        table["emotion"].set(["other"])
    database["speaker"] = audformat.Table(audformat.filewise_index(files))
    database["speaker"]["speaker"] = audformat.Column(scheme_id="speaker")
    database["speaker"]["speaker"].set([row[-1] for row in rows.values()])
    database.save(str(converted / folder), storage_format="csv")
    expected, _ = read_rows(f"msp-podcast={release}")
    found, warned = read_rows(f"msp-podcast={converted}")
    assert found == [{**row, "file": f"original/{row['file']}"} for row in expected]
    assert len(warned) == 1 and "1 audio files have no label" in warned[0]


# --- Fields of the catalogue ---------------------------------------------------------------------


@pytest.mark.parametrize("corpus", CORPORA.values(), ids=lambda corpus: corpus.name)
def test_every_class_has_its_own_published_prompt(corpus):
    assert set(corpus.published) == {c for c in corpus.classes.values() if c is not None}
    assert len(set(corpus.published.values())) == len(corpus.published)


@pytest.mark.parametrize("corpus", CORPORA.values(), ids=lambda corpus: corpus.name)
def test_every_code_is_a_label_with_a_class(corpus):
    codes = corpus.reader.keywords["codes"]
    labels = codes.get(corpus.target, corpus.classes).values()
    assert set(labels) - {None} == set(corpus.classes)
    assert all(isinstance(code, str) for known in codes.values() for code in known)


@pytest.mark.parametrize("corpus", CORPORA.values(), ids=lambda corpus: corpus.name)
def test_prompt_sets_contain_every_class(corpus):
    without_words = {"rest", "other"}  # classes described by their name only
    assert set(corpus.published) - without_words <= set(class_words(corpus.target))


def test_published_prompts_equal_those_of_the_paper():
    def prompts_of(name):
        return list(CORPORA[name].published.values())

    assert prompts_of("iemocap") == [
        "this person is feeling neutral.",
        "this person is feeling happy.",
        "this person is feeling anger.",
        "this person is feeling sadness.",
    ]
    assert prompts_of("crema-d") == ["sad", "angry", "disgust", "fear", "happy", "neutral"]
    assert (
        prompts_of("tess")[2:4] == ["sadness", "angry"]
        and prompts_of("tess")[-1] == "pleasant surprise"
    )
    assert prompts_of("aibo-5") == ["angry", "emphatic", "neutral", "motherese", "rest"]
    assert prompts_of("alc") == ["intoxicated with alcohol", "not intoxicated with alcohol"]
    assert prompts_of("sld") == ["likeable", "not likeable"]


def test_printed_scores_equal_those_of_the_paper():
    order = ["iemocap", "ravdess", "crema-d", "tess", "aibo-2", "aibo-5", "alc", "sld"]
    expected = {
        "CLAP": [0.353, 0.199, 0.230, 0.232, 0.500, 0.211, 0.511, 0.472],
        "Pengi": [0.345, 0.148, 0.245, 0.177, 0.470, 0.185, 0.473, 0.485],
        "ParaCLAP": [0.600, 0.228, 0.177, 0.170, 0.526, 0.197, 0.537, 0.507],
        "SmoothCLAP": [0.606, 0.260, 0.266, 0.433, 0.555, 0.204, 0.541, 0.507],
    }
    assert [name for name, corpus in CORPORA.items() if corpus.printed] == order
    for system, scores in expected.items():
        assert [CORPORA[name].printed[system] for name in order] == scores


def test_excited_is_scored_as_happy_and_frustrated_is_not_scored(tmp_path):
    write_tree(tmp_path, TREES["iemocap"])
    with pytest.warns(UserWarning):
        table = corpora.read_corpus(f"iemocap={tmp_path}")
    scored = corpora.scored_classes(table)
    assert scored.tolist()[:2] == ["neutral", "happy"] and scored[2:].isna().all()


def test_missing_label_file_is_an_error(tmp_path):
    for tree in TREES.values():
        if tree.texts and tree.corpus not in ("crema-d", "esd"):
            root = write_tree(tmp_path / tree.corpus, Tree(tree.corpus, tree.files, []))
            with pytest.raises(CorpusError, match="is not the folder of"):
                read_rows(f"{tree.corpus}={root}")
