"""Cross-validation over speakers: a model per fold, and the scores of all clips together.

    scores = cross_validate(settings, "5")

Each speaker is tested once, by a model that was neither trained nor validated on them. Output, in
the form of evaluate.py: scores.yaml, scores.md, NAME.csv and figures of the pooled predictions,
and a folder per fold with its run and scores. Finished folds are not run again, and an interrupted
fold is resumed.
"""

import dataclasses
import hashlib
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.special
import yaml

from paraclap.data.trained_on import content_hashes, load
from paraclap.distributed import broadcast, device_named, meet, rank
from paraclap.evaluation.encoded import open_cache
from paraclap.evaluation.evaluated import INDEX, read_predictions
from paraclap.evaluation.folds import Partition
from paraclap.evaluation.metrics import calibration, score
from paraclap.evaluation.prompts import prompts_for
from paraclap.evaluation.report import Results, write_report
from paraclap.evaluation.run import evaluate, write_predictions
from paraclap.evaluation.seen import NOTHING_SEEN, seen_clips
from paraclap.evaluation.tasks import (
    Source,
    ZeroShotTask,
    task_prompts,
    tasks_for,
    warn_of_labels,
)
from paraclap.evaluation.zero_shot import known_speakers
from paraclap.files import (
    claim_folder,
    default_cache,
    file_sha256,
    make_folder,
    parse_yaml,
    read_yaml,
    reading,
    safe_name,
    write_text,
)
from paraclap.locks import lock
from paraclap.model.engines import load_engine
from paraclap.settings import Settings, SettingsError, corpora_of
from paraclap.training import loop
from paraclap.training.config import changed_keys
from paraclap.training.fold_tables import fold_settings, partitions_of, read_clips

RECORD, PROMPTS, SCORES = "crossval.yaml", "prompts.yaml", "scores.yaml"
RUN_FILES = ("best", "last", "checkpoints")
"""Folders of a run that are removed when its fold is finished."""


def cross_validate(
    settings: Settings, folds: str, description: str = "", figure_format: str = "png"
) -> dict[str, dict[str, Any]]:
    """Train and test a model for each fold, as far as folds are missing in `settings.output`.

    Args:
        settings: of the run of each fold, without splits; `output` is the folder of all.
        folds: number of folds, "speakers" for one per speaker, or a column, such as the session.
        description: of the recipe, for the report.
        figure_format: of the figures of all folds, one of `paraclap.style.FORMATS`.

    Returns:
        Scores of `metrics.score` of the pooled predictions of each corpus, by the name of its
        task, see `tasks_for`; empty in all but the first of several processes.

    Raises:
        FoldError: if the speakers do not allow the folds.
        SettingsError: if the folder has a cross-validation of other settings or data.
        Stopped: if a signal was received.
    """
    if settings.train.resume not in ("auto", "never"):
        raise SettingsError(f"train.resume is {settings.train.resume}, expected auto or never")
    tables = read_clips(settings)
    parts = partitions_of(tables, folds, settings)
    output = claim_folder(settings.output, "folder of a cross-validation", r"crossval\.yaml")
    with nullcontext() if rank() else lock(output):
        if rank() == 0:
            _prepare(output, settings, tables, parts)
        meet()
        for number, partition in enumerate(parts, start=1):
            folder = output / f"fold_{number}"
            if broadcast((folder / SCORES).exists()):
                continue
            texts = (f"{n}: {', '.join(p.test)}" for n, p in partition.items())
            print(f"fold {number} of {len(parts)}, tested speakers of {'; '.join(texts)}")
            make_folder(folder)
            run = fold_settings(settings, folder, tables, partition)
            loop.train(run)
            _test(run, folder, tables, partition)
        return {} if rank() else _pool(output, settings, tables, parts, description, figure_format)


def _prepare(
    output: Path,
    settings: Settings,
    tables: dict[str, pd.DataFrame],
    parts: Sequence[dict[str, Partition]],
) -> None:
    """Write the record of the cross-validation, or check that it has not changed."""
    if settings.train.resume == "never":
        for path in output.glob("fold_*"):
            shutil.rmtree(path)
        (output / RECORD).unlink(missing_ok=True)
    prompts = {}
    for name, table in tables.items():
        task = ZeroShotTask(name, settings.train.target, settings.train.prompts)
        warn_of_labels(table, task)
        task_prompts(table, task)
        found = prompts_for(table, settings.train.target, settings.train.prompts)
        prompts[name] = {label: list(texts) for label, texts in found.items()}
    record = {
        "settings": dataclasses.asdict(settings),
        "max_steps": settings.train.max_steps,
        "folds": [{n: list(p.test) for n, p in part.items()} for part in parts],
        "prompts": prompts,
        "data": _fingerprints(settings, tables),
    }
    record = parse_yaml(yaml.safe_dump(record))  # as it will be read
    if (output / RECORD).exists():
        then = read_yaml(output / RECORD, SettingsError)
        if not isinstance(then, dict) or not isinstance(then.get("settings"), dict):
            raise SettingsError(
                f"{output / RECORD} is damaged; set another output or train.resume=never"
            )
        changed = changed_keys(then["settings"], record["settings"])
        changed += [key for key in record if key != "settings" and then.get(key) != record[key]]
        if changed:
            raise SettingsError(
                f"cannot continue the cross-validation in {output}: changed since its start: "
                f"{', '.join(changed)}; set another output or train.resume=never"
            )
        return
    for name, found in prompts.items():
        # those of the classes of the whole corpus, which a fold may not all have
        text = yaml.safe_dump(found, sort_keys=False, allow_unicode=True)
        write_text(output / _prompt_file(name), text)
    write_text(output / RECORD, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))


def _prompt_file(name: str) -> str:
    return f"{safe_name(name)}.{PROMPTS}"


def _fingerprints(settings: Settings, tables: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Return hashes of labels and audio of each corpus, and of its functionals."""
    found = {}
    for corpus, (name, table) in zip(
        corpora_of(settings.data).values(), tables.items(), strict=True
    ):
        files = list(table.index.unique("file"))
        lines = [table.to_csv(), *map(str, content_hashes(table.attrs["root"], files))]
        found[name] = hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).hexdigest()
        for path in (corpus.captions, corpus.features):
            if path and Path(path).is_file():
                found[f"{name} {Path(path).name}"] = file_sha256(path)
    return found


# --- A fold --------------------------------------------------------------------------------------


def _test(
    settings: Settings,
    output: Path,
    tables: dict[str, pd.DataFrame],
    partition: dict[str, Partition],
) -> None:
    """Score the best model of a fold on its test speakers, and remove the weights of the run."""
    device = device_named(settings.train.device)
    model, processor = load_engine(output, device=str(device))
    record, sources = load(output), []
    for name, table in tables.items():
        tested = table[table["speaker"].isin(partition[name].test)]
        tested.attrs = table.attrs
        prompts = output.parent / _prompt_file(name)
        task = ZeroShotTask(name, settings.train.target, str(prompts))
        sources.append(Source(tested, [task], seen=seen_clips(tested, record)))
    folder, cache = default_cache(), settings.data.waveform_cache
    results = evaluate(
        model,
        processor,
        sources,
        output,
        workers=settings.data.workers,
        waveform_cache=None if cache is None else Path(cache),
        cache=None if folder is None else open_cache(folder, model, processor),
    )
    if rank() == 0:
        scores = {"logit_scale": model.logit_scale.exp().item(), "corpora": results.corpora}
        write_text(output / SCORES, yaml.safe_dump(scores, sort_keys=False, allow_unicode=True))
        for name in RUN_FILES:
            shutil.rmtree(output / name, ignore_errors=True)
    meet()


# --- All folds -----------------------------------------------------------------------------------


def _pool(
    output: Path,
    settings: Settings,
    tables: dict[str, pd.DataFrame],
    parts: Sequence[dict[str, Partition]],
    description: str,
    figure_format: str,
) -> dict[str, dict[str, Any]]:
    """Score the predictions of all folds together, and write the report."""
    results = Results()
    for name, table in tables.items():
        # named as by evaluate.py, for comparisons
        (task,) = tasks_for(name, [settings.train.target], [settings.train.prompts])
        folders = [output / f"fold_{number}" for number in range(1, len(parts) + 1)]
        found = [_read_scores(folder, name) for folder in folders]
        scores = [fold["corpora"][name] for fold in found]
        predictions = [_read_predictions(f / f"{safe_name(name)}.csv", table) for f in folders]
        prompts = scores[0]["prompts"]
        probabilities = [
            _probabilities(rows, list(prompts), fold["logit_scale"])
            for rows, fold in zip(predictions, found, strict=True)
        ]
        pooled, probability = pd.concat(predictions), np.concatenate(probabilities)
        order = np.argsort(table.index.get_indexer(pooled.index), kind="stable")
        pooled, probability = pooled.iloc[order], probability[order]
        speakers = known_speakers(table.loc[pooled.index])
        results.corpora[task.name] = {
            **score(pooled["truth"], pooled["prediction"], speakers),
            "calibration": calibration(pooled["truth"], probability, list(prompts)),
            "target": settings.train.target,
            "prompt_set": settings.train.prompts,
            "averaged_over": None,
            "prompts": prompts,
            "unused_prompts": sorted(set(prompts) - set(pooled["truth"])),
            "excluded": len(table) - len(pooled),
            "split": None,
            "quality": pd.Series(pooled["quality"]).replace("", None).value_counts().to_dict(),
            "trained_on": _seen([fold["trained_on"] for fold in scores]),
            "left_out": 0,
            "untrained": sorted({label for fold in scores for label in fold["untrained"]}),
        }
        results.folds[task.name] = [
            {
                "fold": number,
                "speakers": list(partition[name].test),
                "validation": list(partition[name].validation),
                "clips": fold["clips"],
                "UAR": fold["UAR"],
            }
            for number, (partition, fold) in enumerate(zip(parts, scores, strict=True), start=1)
        ]
        write_predictions(output, task.name, results.corpora[task.name], pooled, figure_format)
    about = {
        "model": f"{len(parts)} models, cross-validated over speakers",
        "recipe": description or None,
        "protocol": None,
        "prompt_set": settings.train.prompts,
        "training_corpora": list(tables),
    }
    write_report(results, about, output)
    return results.corpora


def _read_scores(folder: Path, name: str) -> dict[str, Any]:
    """Return the scores of a fold.

    Raises:
        SettingsError: if there are none of this corpus.
    """
    found = read_yaml(folder / SCORES, SettingsError)
    corpora = found.get("corpora") if isinstance(found, dict) else None
    if not isinstance(corpora, dict) or name not in corpora:
        raise SettingsError(
            f"{folder / SCORES} has no scores of {name}; remove {folder} to run the fold again"
        )
    return found


def _read_predictions(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return predictions of a fold on the index of its corpus table.

    Raises:
        SettingsError: if they cannot be read, or an earlier version wrote them.
    """
    with reading(path, SettingsError):
        rows = read_predictions(path)
    if rows.columns.str.startswith("score.").any():
        raise SettingsError(
            f"{path} has columns score.CLASS, renamed to cosine.CLASS; set another output"
        )
    numbers = [name for name in rows if name == "confidence" or name.startswith("cosine.")]
    rows[numbers] = rows[numbers].astype(float)
    known = {(file, str(start), str(end)): n for n, (file, start, end) in enumerate(table.index)}
    clips = list(zip(*(rows.pop(name) for name in INDEX), strict=True))
    if missing := [clip[0] for clip in clips if clip not in known]:
        raise SettingsError(
            f"{path} has clips that the corpus does not have, such as {missing[0]}; remove "
            f"{path.parent} to run the fold again"
        )
    places = [known[clip] for clip in clips]
    return rows.set_axis(table.index[places])


def _probabilities(rows: pd.DataFrame, classes: Sequence[str], scale: float) -> np.ndarray:
    cosines = rows[[f"cosine.{name}" for name in classes]].to_numpy(np.float64)
    return scipy.special.softmax(scale * cosines, axis=1)


def _seen(folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how many tested clips and speakers the model of their fold was trained on."""
    texts = dict.fromkeys(fold["text"] for fold in folds if fold["text"] != NOTHING_SEEN)
    known = all(fold["clips"] is not None for fold in folds)
    speakers = [fold["speakers"] for fold in folds]
    return {
        "clips": sum(fold["clips"] for fold in folds) if known else None,
        "speakers": sum(speakers) if None not in speakers else None,
        "complete": all(fold["complete"] for fold in folds),
        "text": "; ".join(texts) or NOTHING_SEEN,
    }
