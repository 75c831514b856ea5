"""Further corpora of acted or spontaneous emotion, which the paper does not evaluate."""

from functools import partial

from paraclap.corpora.corpus import ANYWHERE, Corpus, scored_labels
from paraclap.corpora.file_names import read_files
from paraclap.corpora.label_files import read_label_files
from paraclap.corpora.labels import GENDERS, SPLITS, OpenCodes, codes

EMODB_GENDERS = codes(
    "03 male, 08 female, 09 female, 10 male, 11 male, 12 male, 13 female, 14 female, 15 male,"
    " 16 female"
)
EMODB_AGES = codes("03 31, 08 34, 09 21, 10 32, 11 26, 12 30, 13 32, 14 35, 15 25, 16 31")
ESD_MALE = ("0004", "0005", "0006", "0008", "0010", "0011", "0012", "0013", "0014", "0020")
ESD_SPEAKERS = [f"{number:04}" for number in range(1, 21)]
MELD_GENDERS = codes(  # of the main characters; unknown for others
    "Chandler male, Joey male, Monica female, Phoebe female, Rachel female, Ross male"
)

OTHER_CORPORA = (
    Corpus(
        name="savee",
        title="Surrey Audio-Visual Expressed Emotion",
        reader=partial(
            read_files,
            pattern=rf"{ANYWHERE}(?P<speaker>DC|JE|JK|KL)[/_]"
            r"(?P<text_id>(?P<emotion>sa|su|[adfhn])\d\d)",
            columns={"gender": "male"},
            codes={
                "emotion": codes(
                    "a anger, d disgust, f fear, h happiness, n neutral, sa sadness, su surprise"
                )
            },
        ),
        expected="AudioData/DC/a01.wav, or flat as DC_a01.wav",
        clips=480,
        **scored_labels("anger, disgust, fear, happiness, neutral, sadness, surprise"),
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
                "emotion": codes(
                    "dis disgust, gio joy, neu neutral, pau fear, rab anger, sor surprise,"
                    " tri sadness"
                ),
                "gender": GENDERS,
            },
        ),
        expected="f1/dis-f1-b1.wav to m3/",
        clips=588,
        **scored_labels("anger, disgust, fear, joy, neutral, sadness, surprise"),
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
                "emotion": codes(
                    "W anger, L boredom, E disgust, A fear, F happiness, T sadness, N neutral"
                ),
                "gender": EMODB_GENDERS,
                "age": EMODB_AGES,
            },
        ),
        expected="wav/03a01Fa.wav (or .flac, ...), or the same files in any other folder",
        clips=535,
        **scored_labels("anger, boredom, disgust, fear, happiness, sadness, neutral"),
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
                "emotion": codes("A anger, H happiness, N neutral, S sadness"),
                "gender": GENDERS,
            },
        ),
        expected="Angry/SM1_F1_A01.wav to Sad/",
        clips=400,
        **scored_labels("anger, happiness, neutral, sadness"),
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
                "emotion": codes(
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
        **scored_labels("anger, fear, happiness, neutral, sadness, surprise"),
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
            prefer="final_videos_test",  # corrected segments that match the labels
            columns={"gender": "{speaker}"},
            codes={"gender": OpenCodes(MELD_GENDERS, keep=False)},
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
        **scored_labels("anger, disgust, fear, joy, neutral, sadness, surprise"),
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
                "emotion": codes(
                    "Angry anger, Happy happiness, Neutral neutral, Sad sadness, Surprise surprise"
                ),
                "gender": {s: "male" if s in ESD_MALE else "female" for s in ESD_SPEAKERS},
                "language": {s: "zh" if s <= "0010" else "en" for s in ESD_SPEAKERS},
                "split": SPLITS,
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
        **scored_labels("anger, happiness, neutral, sadness, surprise"),
        licence="research only, by agreement with its authors",
        citation="Zhou et al., ICASSP 2021",
        language="zh,en",
        speakers=20,
    ),
)
