"""Comparison: differences are paired by clip and speaker, results that do not match are refused."""

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import balanced_accuracy_score

import paraclap.cli
from paraclap.cli import compare as cli
from paraclap.cli import evaluate
from paraclap.evaluation import compare, comparison_page
from paraclap.evaluation.evaluated import ComparisonError, read_all, read_results
from paraclap.evaluation.metrics import mean_uar, recall_counts

NAME = "paraclap-synthetic"
CLASSES = ["anger", "calm", "joy"]


def predictions(speakers=8, each=6, right=0.6, seed=0, name="clip"):
    """A table of evaluate.py: the same clips and classes for every seed."""
    rng = np.random.default_rng(seed)
    rows = speakers * each
    truth = np.array(CLASSES, dtype=object)[np.arange(rows) % 3]
    wrong = np.array(CLASSES, dtype=object)[(np.arange(rows) + 1) % 3]
    return pd.DataFrame(
        {
            "file": [f"{name}{row:03}.wav" for row in range(rows)],
            "start": "0 days",
            "end": "",
            "truth": truth,
            "prediction": np.where(rng.random(rows) < right, truth, wrong),
            "speaker": [f"s{row // each}" for row in range(rows)],
        }
    )


def write_results(folder, tables, prompt_set="word", **scores):
    folder.mkdir()
    corpora = {}
    for task, table in tables.items():
        table.to_csv(folder / f"{task}.csv", index=False)
        corpora[task] = {"target": "emotion", "prompt_set": prompt_set, **scores}
    about = {"model": "runs/toy", "prompt_set": prompt_set, "corpora": corpora}
    (folder / "scores.yaml").write_text(yaml.safe_dump(about))
    return folder


def slow_bootstrap(pairs, resamples=2000):
    """Mean over corpora of the differences, each with its own resampled speakers."""
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(resamples):
        differences = []
        for first, second in pairs:
            speakers, truth = first["speaker"].to_numpy(), first["truth"].to_numpy()
            chosen = rng.choice(np.unique(speakers), len(np.unique(speakers)))
            rows = np.concatenate([np.flatnonzero(speakers == speaker) for speaker in chosen])
            gain = (second["prediction"] == truth).to_numpy() * 1.0
            gain -= (first["prediction"] == truth).to_numpy()
            differences.append(np.mean([gain[rows][truth[rows] == c].mean() for c in CLASSES]))
        drawn.append(np.mean(differences))
    return np.quantile(drawn, [0.025, 0.975])


@pytest.fixture
def pairs():
    corpora = [{"seed": 0}, {"speakers": 5, "each": 9, "seed": 2, "name": "b"}]
    return [
        tuple(predictions(**{**made, "seed": made["seed"] + n}, right=right)
              for n, right in enumerate((0.5, 0.8)))
        for made in corpora
    ]  # fmt: skip


def test_differences_are_those_of_a_plain_paired_bootstrap(pairs, tmp_path):
    for number, name in enumerate("ab"):
        tables = {f"corpus{n}": pair[number] for n, pair in enumerate(pairs)}
        write_results(tmp_path / name, tables)
    rows = compare.compare(read_all([tmp_path / "a", tmp_path / "b"])).set_index("task")
    assert list(rows.index) == ["corpus0", "corpus1", "mean"]
    parts = [[pairs[0]], [pairs[1]], pairs]
    for (_, row), part in zip(rows.iterrows(), parts, strict=True):
        uars = [
            np.mean([balanced_accuracy_score(p[n]["truth"], p[n]["prediction"]) for p in part])
            for n in range(2)
        ]
        assert [row["baseline_UAR"], row["UAR"]] == pytest.approx(uars)
        assert row["difference"] == pytest.approx(uars[1] - uars[0])
        assert row[["low", "high"]].tolist() == pytest.approx(slow_bootstrap(part), abs=0.02)
    assert rows["clips"].tolist() == [48, 45, 93] and rows["speakers"].tolist() == [8, 5, 13]
    assert rows["corpora"].tolist() == [1, 1, 2]


def test_pairing_makes_intervals_of_similar_systems_narrow(pairs):
    first = pairs[0][0]
    second = first.copy()
    second.loc[3, "prediction"] = second.loc[3, "truth"]
    counts = [
        recall_counts(t["truth"], t["prediction"], t["speaker"])[:, None] for t in (first, second)
    ]
    _, paired = mean_uar([(counts[1], counts[0])])
    _, alone = mean_uar([(counts[0], None)])
    assert np.ptp(paired) < 0.4 * np.ptp(alone)
    assert mean_uar([(counts[0], counts[0])]) == (0, [0, 0])


def test_speakers_of_several_corpora_are_resampled_independently():
    tables = [predictions(seed=seed, right=0.5) for seed in range(4)]
    counts = [recall_counts(t["truth"], t["prediction"], t["speaker"])[:, None] for t in tables]
    one = np.mean([np.ptp(mean_uar([(c, None)])[1]) for c in counts])
    assert np.ptp(mean_uar([(c, None) for c in counts])[1]) == pytest.approx(one / 2, rel=0.2)


def test_form_of_times_does_not_matter(tmp_path, pairs):
    first, second = pairs[0]
    write_results(tmp_path / "a", {"c": first.assign(end="0 days 00:00:02")})
    write_results(
        tmp_path / "b", {"c": second.assign(start="0 days 00:00:00.000000", end="00:00:02.000000")}
    )
    assert compare.compare(read_all([tmp_path / "a", tmp_path / "b"]))["clips"].tolist() == [48]


@pytest.mark.parametrize("change", ["prediction", "order"])
def test_order_of_rows_does_not_matter(tmp_path, change, pairs):
    first, second = pairs[0]
    write_results(tmp_path / "a", {"c": first})
    write_results(tmp_path / "b", {"c": second})
    write_results(tmp_path / "c", {"c": second.sample(frac=1, random_state=1)})
    rows = compare.compare(read_all([tmp_path / name for name in "abc"]))
    same = ["clips", "UAR", "difference", "low", "high"]
    assert rows[same].iloc[0].equals(rows[same].iloc[1]) and len(rows) == 2


def test_results_that_do_not_match_are_refused(tmp_path, pairs):
    first, second = pairs[0]
    write_results(tmp_path / "a", {"c": first})

    def refused(message, tables, common=False, **scores):
        folder = write_results(tmp_path / f"other{len(list(tmp_path.iterdir()))}", tables, **scores)
        with pytest.raises(ComparisonError, match=message):
            compare.compare(read_all([tmp_path / "a", folder]), common)

    refused("no corpus in common", {"d": second})
    fewer = "c: 8 of 48 clips of a are not .* and 0 of 40 .*--common compares the 40"
    refused(fewer, {"c": second[8:]})
    refused("48 of 48 clips of a are not .* round$", {"c": pairs[1][1]}, common=True)
    other = second.assign(truth=np.where(second.index < 5, "fear", second["truth"]))
    refused("another truth for 5 of 48 clips", {"c": other}, common=True)
    refused("another speaker for 6 of 48", {"c": second.replace({"s2": ""})})
    refused("no column speaker; evaluate the model again", {"c": second.drop(columns="speaker")})
    refused("clips that occur twice", {"c": pd.concat([second, second[:1]])})
    refused(
        "no prediction for 1 of 48",
        {"c": second.assign(prediction=[None, *second["prediction"][1:]])},
    )
    refused("not means over the same sessions", {"c": second}, averaged_over="speaker")
    folder = write_results(tmp_path / "common", {"c": second[8:]})
    rows = compare.compare(read_all([tmp_path / "a", folder]), common=True)
    assert rows["clips"].tolist() == [40]


def test_predictions_and_scores_of_different_evaluations_are_refused(tmp_path, pairs):
    first, second = pairs[0]
    write_results(tmp_path / "a", {"c": first})
    uar = balanced_accuracy_score(second["truth"], second["prediction"])
    write_results(tmp_path / "b", {"c": second}, UAR=float(uar))
    results = read_all([tmp_path / "a", tmp_path / "b"])
    assert len(compare.compare(results)) == 1
    first.to_csv(tmp_path / "b" / "c.csv", index=False)  # as after an interrupted evaluation
    with pytest.raises(ComparisonError, match="c.csv has a UAR of .* not of the same evaluation"):
        compare.compare(results)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "has no scores.yaml"),
        ("retrieval: {a: 1}", "no zero-shot scores"),
        ("a: [", "line"),
        ("corpora: [c]", "no target and prompt set for c; evaluate the model again"),
        ("corpora: {c: {UAR: 0.3}}", "no target and prompt set for c; evaluate the model again"),
    ],
)
def test_folders_without_scores_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "scores.yaml").write_text(content)
    with pytest.raises(ComparisonError, match=message):
        read_results(tmp_path)


def test_missing_intervals_and_speakers_are_stated(tmp_path, pairs):
    first, second = (table.assign(speaker="") for table in pairs[0])
    two, other = (table[:12] for table in pairs[0])
    write_results(tmp_path / "a", {"c": first, "d": two})
    write_results(tmp_path / "b", {"c": second, "d": other, "e": other})
    results = read_all([tmp_path / "a", tmp_path / "b"])
    page = comparison_page.comparison_page(compare.compare(results), results)
    assert "c: no speakers are known" in page and "d: no interval, which needs 3" in page
    assert "only in b, not compared: e" in page and "| d | 12 | 2 |" in page


def test_unknown_speakers_and_clips_left_out_are_stated(tmp_path, pairs):
    first, second = (table.replace({"s2": ""}) for table in pairs[0])
    write_results(tmp_path / "a", {"c": first}, clips=48)
    write_results(tmp_path / "b", {"c": second[8:]}, clips=40)
    results = read_all([tmp_path / "a", tmp_path / "b"])
    page = comparison_page.comparison_page(compare.compare(results, common=True), results)
    assert "c: 6 of 40 clips have no speaker; each counts as a speaker of its own" in page
    assert "c: only the 40 clips of all results are compared (48 of a, 40 of b)" in page


# --- Command lines -------------------------------------------------------------------------------


def test_command_prints_and_writes_table_and_figures(tmp_path, pairs, capsys):
    for number, name in enumerate("ab"):
        table = {f"corpus{n}": pair[number] for n, pair in enumerate(pairs)}
        write_results(
            tmp_path / name, table, trained_on={"clips": 3, "speakers": 0, "text": "3 of 4 clips"}
        )
    output = tmp_path / "comparison"
    assert cli.main([*map(str, (tmp_path / "a", tmp_path / "b")), "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    page = (output / "compare.md").read_text()
    assert page in printed and "2000 bootstrap samples, seed 0" in page
    assert "| corpus | clips | speakers | UAR a | UAR b | b - a [95 %] |" in page
    assert "corpus0: a was trained or validated on 3 of 4 clips" in page
    rows = pd.read_csv(output / "compare.csv")
    assert f"| mean | 93 | 13 | {rows['baseline_UAR'].iloc[2]:.3f} |" in page
    assert f"{rows['difference'].iloc[0]:+.3f} [" in page
    assert (output / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert (output / "compare.pdf").read_bytes().startswith(b"%PDF")


def test_several_results_have_columns_of_their_own(tmp_path, pairs, capsys):
    first, second = pairs[0]
    (tmp_path / "x").mkdir()
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "x" / "a"]
    for folder, table in zip(folders, (first, second, first), strict=True):
        write_results(folder, {"c": table})
    assert cli.main([*map(str, folders)]) == 0
    printed = capsys.readouterr().out
    assert f"| UAR b | b - {folders[0]} [95 %] | UAR {folders[2]} |" in printed
    assert "+0.000 [+0.000, +0.000]" in printed


def test_results_can_be_named(tmp_path, pairs, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, table in zip(("a", "b", "x=y"), (*pairs[0], pairs[0][0]), strict=True):
        write_results(tmp_path / folder, {"c": table})
    assert cli.main(["paper=a", "our recipe=b", "x=y"]) == 0
    printed = capsys.readouterr().out
    assert "| UAR paper | UAR our recipe | our recipe - paper [95 %] | UAR x=y |" in printed
    with pytest.raises(ComparisonError, match="^none has no scores.yaml"):
        cli.main(["a", "ours=none"])


def test_different_prompts_are_stated_once_in_a_warning_and_in_the_notes(tmp_path, pairs, capsys):
    for folder, table, prompts in zip(
        "abc", (*pairs[0], pairs[0][0]), ("published", "sentence", "published"), strict=True
    ):
        write_results(tmp_path / folder, {"c": table, "d": table}, prompts)
    folders = [str(tmp_path / name) for name in "abc"]
    assert paraclap.cli.run(lambda: cli.main(folders), "paraclap.compare") == 0
    printed = capsys.readouterr()
    note = "c, d: a used the prompts published, b sentence: the difference is of models and prompts"
    assert printed.err == f"warning: {note}\n" and printed.out.count(f"- {note}\n") == 1


def test_one_set_of_prompts_that_has_changed_is_stated(tmp_path, pairs):
    texts = ({"x": ["one"]}, {"x": ["two"]}, {"x": ["one"]})
    sets = ("mine.yaml", "mine.yaml", "there/mine.yaml")
    for folder, table, prompts, name in zip(
        "abc", (*pairs[0], pairs[0][0]), texts, sets, strict=True
    ):
        write_results(tmp_path / folder, {"c": table}, name, prompts=prompts)
    results = read_all([tmp_path / name for name in "abc"])
    assert [note[:51] for note in compare.prompt_notes(results)] == [
        "c: a used the prompts mine.yaml, b mine.yaml: the d"
    ]


def test_one_folder_is_refused_at_parsing(capsys):
    with pytest.raises(SystemExit):
        cli.main(["results"])
    assert "expected at least two RESULTS, got results" in capsys.readouterr().err


def test_evaluation_is_compared_with_a_baseline(model_folder, corpus, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = [str(model_folder), str(corpus), "--targets", "emotion", "gender"]
    evaluate.main([*arguments, "--prompts", "word", "-o", str(first)])
    prompts = ["--prompts", "sentence", "--baseline", str(first)]
    assert evaluate.main([*arguments, *prompts, "-o", str(second)]) == 0
    printed = capsys.readouterr().out
    rows = pd.read_csv(second / "compare.csv").set_index("task")
    scores = [yaml.safe_load((f / "scores.yaml").read_text())["corpora"] for f in (first, second)]
    for task in (NAME, f"{NAME}.gender"):
        found = rows.loc[task, ["baseline_UAR", "UAR"]].tolist()
        assert found == pytest.approx([s[task]["UAR"] for s in scores])
        assert rows.loc[task, "clips"] == scores[0][task]["clips"]
    assert "second - first [95 %]" in printed and (second / "compare.md").exists()
    assert "paired bootstrap over speakers" in printed

    def no_model(*_):
        raise AssertionError("the model was loaded")

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(ComparisonError, match="without --baseline, .*--common"),
    ):
        patch.setattr("paraclap.model.engines.load_engine", no_model)
        selection = ["--split", "train,dev,test", "-o", str(tmp_path / "third")]
        evaluate.main([*arguments, *prompts, *selection])
    with pytest.raises(ComparisonError, match="has no scores.yaml"):
        evaluate.main([*arguments, "--baseline", str(tmp_path), "-o", str(tmp_path / "third")])


def test_baseline_is_not_overwritten(model_folder, corpus, tmp_path):
    arguments = [str(model_folder), str(corpus), "-o", str(tmp_path / "results")]
    evaluate.main(arguments)
    before = (tmp_path / "results" / "scores.yaml").read_bytes()
    with pytest.raises(Exception, match="would replace an input"):
        evaluate.main([*arguments, "--baseline", str(tmp_path / "results")])
    assert (tmp_path / "results" / "scores.yaml").read_bytes() == before


def test_comparison_does_not_replace_predictions(model_folder, corpus, tmp_path):
    source = f"compare={corpus}"
    evaluate.main([str(model_folder), source, "-o", str(tmp_path / "first")])
    with pytest.raises(Exception, match="compare.csv would hold both predictions and"):
        options = ["-o", str(tmp_path / "second"), "--baseline", str(tmp_path / "first")]
        evaluate.main([str(model_folder), source, *options])
