r"""Train ParaCLAP: captions and audio in, a run folder out.

    python train.py configs/small.yaml data.root=/data/RAVDESS data.captions=captions.parquet \
        output=runs/small
    python train.py configs/paraclap.yaml data.root=/data/MSP-Podcast optim.lr=1e-4
    torchrun --nproc-per-node=4 train.py configs/paraclap.yaml data.root=/data/MSP-Podcast
    python train.py configs/finetune.yaml model.start=runs/small data.captions=my.csv \
        output=runs/mine

The first argument may be a YAML file (default configs/paraclap.yaml); `key=value` arguments go over
it. Every key is a field of `Settings` (settings.py), `ModelSettings` (models.py) or
`CaptionSettings` (datasets.py). The run folder receives config.yaml, metrics.jsonl, TensorBoard
events (`train.loggers`: also wandb, mlflow), checkpoints/ (everything to resume), best/ (by
validation UAR) and last/, both ready for evaluate.py. The same command again resumes an interrupted
run (`train.resume=auto`) and gives the same weights as a run that was never interrupted.
`train.dry_run=true` takes a step and a validation, tells memory and time, and keeps nothing.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
import torch.utils.data
import transformers
from omegaconf import OmegaConf
from safetensors import SafetensorError
from tqdm import tqdm

from audio import (
    CONDITIONING,
    AudioError,
    Files,
    JoinedRecordings,
    Recordings,
    resolve_inside,
)
from caption_tables import Lists, read_caption_table
from checkpoints import (
    CheckpointError,
    checkpoint_path,
    load_checkpoint,
    load_newest,
    save_checkpoint,
    whole_folder,
)
from corpora import CorpusError, scored_classes
from datasets import (
    PHRASE_COLUMNS,
    CaptionDataset,
    ClipPhrases,
    Collate,
    FunctionalClips,
    TrainingBatches,
    balanced,
    bucketed,
    clip_seconds,
    equal_captions,
    mixed,
)
from evaluate import answer
from frozen import encode_clips
from functionals import functionals_of, read_functionals, standards
from label_captions import caption_labels, is_label_table
from models import (
    ParaCLAPModel,
    build_model,
    clip_loss,
    scaled_cosines,
)
from objectives import OBJECTIVES
from optimisation import OPTIMIZERS, learning_rate_factor, parameter_groups, seed_step
from packed import PackError, pack_files
from processes import (
    broadcast,
    broadcast_in_place,
    device_named,
    largest,
    meet,
    processes,
    rank,
    share,
    sum_in_place,
    world_size,
)
from prototypes import Prototypes
from queries import queries_for
from reports import plot_confusion, plot_similarities, to_markdown, to_pixels, write_text
from scoring import score
from settings import (
    OptimSettings,
    Settings,
    SettingsError,
    changed_keys,
    corpora_of,
    flatten,
    read_settings,
)
from steps import TrainingStep, prepare_encoders
from stopping import EXIT_CODES, Stopped, StopRequests, leave_signals_to_the_parent
from tracking import GIB, LOGGER_RUNS, Log, check_loggers, memory_in_use, peak_memory

CAPTIONS_METADATA = b"paraclap"  # key of what features.py knew about the corpus
FIGURES = ("UAR", "ACC", "F1", "chance")  # of a validation
COUNTERS = ("step", "best", "validated", "skipped", "skipped_in_a_row")
VERSIONS = {"torch": str(torch.__version__), "transformers": transformers.__version__}
DUMP = "nonfinite.json"
PREFETCH = 2  # batches that each worker reads ahead
PARTS = ("audio_branch", "text_branch", "audio_projection", "text_projection")
SHOWN_CAPTIONS = 16
DRY_CLIPS = 200  # clips that a dry run validates on at most


def read_captions(path: str | Path) -> pd.DataFrame:
    """Read a captions table; clips without any phrase are left out and counted.

    Raises:
        SettingsError: if the table is missing or holds no captions.
    """
    if not Path(path).is_file():
        raise SettingsError(
            f"data.captions: there is no table {path}; preprocessing/template_creation.py writes it"
        )
    missing = [column for column in PHRASE_COLUMNS if column not in pq.read_schema(path).names]
    if missing:
        raise SettingsError(f"{path} lacks {missing}; expected a table of template_creation.py")
    table = read_caption_table(path, PHRASE_COLUMNS)
    empty = table["captions"].list.len().fillna(0).to_numpy(int) == 0
    if empty.any():
        print(f"{empty.sum()} of {len(table)} clips have no phrase and are left out")
    return table[~empty] if empty.any() else table


def read_tables(settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and validation rows of all corpora, one corpus after the other.

    With several corpora the names of files and speakers begin with that of their corpus, which also
    stands in the column `corpus`: two people of one name in two corpora are two.

    Raises:
        SettingsError: naming the corpus, if its table cannot be used.
    """
    parts = []
    for name, corpus in corpora_of(settings.data).items():
        try:
            table = read_captions(corpus.captions)
            parts.append(split_table(_named(table, name) if name else table, settings))
        except SettingsError as error:
            raise SettingsError(f"{name}: {error}" if name else str(error)) from error
    if len(parts) == 1:
        return parts[0]
    train, validation = (pd.concat(tables) for tables in zip(*parts, strict=True))
    return train, validation


def _named(table: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """Rows of a corpus, with its name before those of files and speakers."""
    if "corpus" in table:
        found = sorted(table["corpus"].unique())
        table = table[table["corpus"] == corpus]
        if table.empty:
            raise SettingsError(f"no row is of this corpus, only of {found}")
    table = table.set_axis(_named_index(table.index, corpus)).assign(corpus=corpus)
    if "speaker" in table:
        table["speaker"] = f"{corpus}/" + table["speaker"].astype("str")
    return table


def _named_index(index: pd.MultiIndex, corpus: str) -> pd.MultiIndex:
    files = index.get_level_values("file")
    return pd.MultiIndex.from_frame(
        index.to_frame(index=False).assign(file=[f"{corpus}/{file}" for file in files])
    )


def read_all_functionals(settings: Settings, clips: pd.Index) -> pd.DataFrame | None:
    """Functionals of clips of all corpora, named as in `read_tables`; None if none are given."""
    corpora = corpora_of(settings.data)
    given = {name: corpus.features for name, corpus in corpora.items() if corpus.features}
    if not given:
        return None
    parts = []
    for name, path in given.items():
        table = read_functionals(path)
        parts.append(table.set_axis(_named_index(table.index, name)) if name else table)
    return functionals_of(pd.concat(parts, join="inner"), clips)


def provenance(
    settings: Settings, clips: int, before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a model card has to tell of a run on so many clips; no paths.

    An encoder is None if it starts from random weights; `corpora` is missing if the captions table
    does not say where it is from. Of a model that was fine-tuned, `start` says from what, and
    `before` is what was known of that: its encoders, with their licences, are those of this one.
    """
    model = settings.model
    encoders = {
        f"{branch}_encoder": tower.name and _public_name(tower.name)
        for branch, tower in (("audio", model.audio), ("text", model.text))
    }
    facts: dict[str, Any] = encoders
    if model.start:
        before = dict(before or {})
        facts = {name: before.pop(name) for name in encoders if name in before}
        facts |= {"start": _public_name(model.start), "before": before}
    corpora = [
        known
        for name, corpus in corpora_of(settings.data).items()
        for known in ([name] if name else _corpora_of_captions(corpus.captions))
    ]
    if all(corpora):
        facts["corpora"] = corpora
    return facts | {
        "clips": clips,
        "epochs": settings.train.epochs,
        "seed": settings.train.seed,
    }


def _corpora_of_captions(path: str) -> list[str | None]:
    """Names of the corpora of a captions table; None if it does not tell."""
    metadata = pq.read_schema(path).metadata or {}
    about = json.loads(metadata.get(CAPTIONS_METADATA, b"{}"))
    return list(about.get("corpora", [about.get("corpus") or about.get("name")]))


def _public_name(encoder: str) -> str:
    """A Hub name as it is; of a local folder only the last part."""
    return Path(encoder).name if Path(encoder).exists() else encoder


def split_table(table: pd.DataFrame, settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and validation rows, which share no speaker.

    Raises:
        SettingsError: if a part is empty, or no speaker column tells whom to hold out.
    """
    data = settings.data
    splits = table["split"] if "split" in table else pd.Series(data.train_split, table.index)
    train, validation = (
        table[splits == name] for name in (data.train_split, data.validation_split)
    )
    if not len(train):
        raise SettingsError(
            f"no row has split {data.train_split!r}, only {sorted(splits.unique())}"
        )
    if len(validation) or not data.validation_speakers:
        _refuse_shared_speakers(train, validation)
        return train, validation
    if "speaker" not in train:
        raise SettingsError(
            "there is no validation split and no speaker column to make one; "
            "data.validation_speakers=0 trains without validation"
        )
    speakers = np.array(sorted(train["speaker"].dropna().unique()))
    if len(speakers) <= data.validation_speakers:
        raise SettingsError(
            f"data.validation_speakers is {data.validation_speakers} of {len(speakers)} speakers"
        )
    rng = np.random.default_rng(settings.train.seed)
    held_out = set(rng.choice(speakers, data.validation_speakers, replace=False))
    print(f"validation on speakers {sorted(held_out)}")
    is_held_out = train["speaker"].isin(held_out)
    return train[~is_held_out], train[is_held_out]


def _refuse_shared_speakers(train: pd.DataFrame, validation: pd.DataFrame) -> None:
    if "speaker" in train:
        shared = sorted(set(train["speaker"].dropna()) & set(validation["speaker"].dropna()))
        if shared:
            raise SettingsError(f"speakers {shared} are in the training and the validation split")


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether to train under bfloat16 autocast; "auto" asks the hardware."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


class Run:
    """One training run: what it reads, what it changes, and what it leaves in its folder."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.output = Path(settings.output)
        train = settings.train
        self.device = device_named(train.device)
        if train.batch_size < world_size():
            raise SettingsError(
                f"train.batch_size is {train.batch_size} for {world_size()} processes, expected at "
                "least a clip for each"
            )
        self.bfloat16 = use_bfloat16(train.precision, self.device)
        self.train_table, self.validation_table = read_tables(settings)
        self.steps = train.epochs * TrainingBatches.per_epoch(
            len(self.train_table), train.batch_size
        )
        self.classes = self._validation_classes()
        seed_step(train.seed, 0)
        texts = Lists(self.train_table["captions"]).texts()
        clips = self.train_table.index.append(self.validation_table.index)
        self.functionals = read_all_functionals(settings, clips)
        about = None
        if self.functionals is not None:
            about = standards(self.functionals.loc[self.train_table.index])
        model, self.processor = build_model(settings.model, texts, about)
        before = model.config.provenance
        model.config.provenance = provenance(settings, len(self.train_table), before)
        self.model: ParaCLAPModel = model.to(self.device)
        prepare_encoders(model, train.checkpoint_activations, train.compile)
        self.objective = OBJECTIVES[settings.loss.name]().to(self.device)
        self.gradients = TrainingStep(
            model,
            self.objective,
            positives=settings.loss.positives,
            bfloat16=self.bfloat16,
            clip_norm=settings.optim.clip_norm,
            micro_batch=train.micro_batch,
            text_cache=train.text_cache,
            prototypes=self._prototypes(),
            prototype_weight=settings.loss.prototypes,
        )
        self.optimizer = OPTIMIZERS[settings.optim.name](
            parameter_groups(model, settings.optim, self.objective), lr=settings.optim.lr
        )
        self.step = 0
        self.best = -1.0
        self.validated = 0
        self.skipped = self.skipped_in_a_row = 0
        self.saved: int | None = None  # step that this process wrote a checkpoint of
        self.saved_at = time.monotonic()
        self.recordings = self._recordings()
        self.fingerprints = broadcast(self._fingerprints() if rank() == 0 else None)

    def _prototypes(self) -> Prototypes | None:
        if not self.settings.loss.prototypes:
            return None
        phrases = ClipPhrases(self.train_table)
        return Prototypes(phrases, self.settings.train.target, self.processor)

    def _by_corpus(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Parts of a table by corpus, in its order; that of a single one has the name ""."""
        if not self.settings.data.corpora:
            return {"": table}
        return {str(name): part for name, part in table.groupby("corpus", sort=False)}

    def _validation_classes(self) -> pd.Series:
        """Classes of the validation clips; the rest of these clips is left out."""
        if self.validation_table.empty:
            return pd.Series(dtype=str)
        target = self.settings.train.target
        parts = self._by_corpus(self.validation_table).values()
        return pd.concat([scored_classes(part, target).dropna() for part in parts])

    def _fingerprints(self) -> dict[str, str]:
        """What was read, in two hashes: the captions tables, and names and sizes of the audio."""
        corpora = corpora_of(self.settings.data)
        sizes = [
            f"{resolve_inside(corpora[name].root, file).stat().st_size} {name and name + '/'}{file}"
            for name, files in self._files().items()
            for file in files
        ]
        if self.recordings.conditioning != CONDITIONING:
            sizes.append(self.recordings.conditioning)  # a run does not go on with other samples
        tables = [hashlib.sha256(Path(c.captions).read_bytes()) for c in corpora.values()]
        return {
            "captions table": " ".join(table.hexdigest() for table in tables),
            "audio": hashlib.sha256("\n".join(sizes).encode()).hexdigest(),
        }

    def _files(self) -> dict[str, list[str]]:
        """Corpus -> its files, in the order of the tables; names are inside of its root."""
        tables = (self.train_table, self.validation_table)
        files = dict.fromkeys(file for table in tables for file, _, _ in table.index)
        if not self.settings.data.corpora:
            return {"": list(files)}
        inside: dict[str, list[str]] = {name: [] for name in self.settings.data.corpora}
        for file in files:
            corpus, _, name = file.partition("/")
            inside[corpus].append(name)
        return inside

    def _recordings(self) -> Recordings:
        """Where audio is read: the files, or a pack of them, which is made if need be."""
        data = self.settings.data
        recordings: dict[str, Recordings] = {}
        for name, corpus in corpora_of(data).items():
            recordings[name] = Files(corpus.root)
            if data.packed is not None:
                recordings[name] = pack_files(data.packed, corpus.root, self._files()[name])
        return JoinedRecordings(recordings) if data.corpora else recordings[""]

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs.

        Generators and the position in the data are no part of it: both follow from the step.
        """
        return {
            **{name: getattr(self, name) for name in COUNTERS},
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "settings": dataclasses.asdict(self.settings),
            "fingerprints": self.fingerprints,
            "versions": VERSIONS,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint of the same settings and data.

        Raises:
            SettingsError: naming what differs, unless `train.force` is set.
        """
        changed = changed_keys(state["settings"], dataclasses.asdict(self.settings))
        changed += [
            f"the {name}"
            for name, hashed in self.fingerprints.items()
            if state["fingerprints"][name] != hashed
        ]
        if changed and not self.settings.train.force:
            raise SettingsError(
                f"cannot resume {self.output}: changed since its checkpoint: {', '.join(changed)}; "
                "take another output, train.resume=never, or train.force=true to go on regardless"
            )
        if changed:
            print(f"resumed although changed: {', '.join(changed)}")
        if state["versions"] != VERSIONS:
            print(f"checkpoint of {state['versions']}, now {VERSIONS}: results may differ slightly")
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in COUNTERS:
            setattr(self, name, state[name])

    def dataset(self) -> CaptionDataset:
        """Training clips with captions."""
        return CaptionDataset(
            self.train_table,
            self.recordings,
            self.settings.captions,
            self.settings.data.crop_seconds,
            self.settings.train.seed,
            repeat_short=not self.model.audio_branch.supports_padding,
            own=share(self.settings.train.batch_size),
            functionals=self._functionals_of(self.train_table),
            crop=self.settings.data.crop,
            read=self.gradients.clips is None,
        )

    def hear_clips(self, requests: StopRequests) -> None:
        """Let a frozen speech encoder hear every clip once, if crops are always the same.

        Each process hears its share of the clips.
        """
        data = self.settings.data
        is_always_same = data.crop != "random" and self.functionals is None
        if "audio" not in self.model.frozen or not is_always_same:
            return
        encoder, dataset = self.gradients.frozen["audio"], self.dataset()
        rows = range(len(dataset))[share(len(dataset))]
        heard = encode_clips(encoder, self.processor, dataset, rows, data.workers, data.embeddings)
        for table, done in heard:
            clips = table
            if requests.received and done < len(rows):
                break
        if asked := agreed(requests):
            kept = "goes on from there" if data.embeddings else "starts anew"
            raise Stopped(
                f"{asked.name} while clips are heard for the first time; the same command {kept}",
                EXIT_CODES[asked],
            )
        self.gradients.clips = sum_in_place(clips)

    def _functionals_of(self, table: pd.DataFrame) -> np.ndarray | None:
        """Functionals of the clips of a table, (rows, F) float32; None if waveforms are read."""
        if self.functionals is None:
            return None
        return self.functionals.loc[table.index].to_numpy(np.float32)

    def batches(self) -> TrainingBatches:
        """What is read in the steps that are left."""
        train = self.settings.train
        rows = len(self.train_table)
        data = self.settings.data
        if data.class_temperature == 1:
            sizes = [len(part) for part in self._by_corpus(self.train_table).values()]
            draws = mixed(sizes, data.temperature, train.seed)
        else:
            if train.target not in self.train_table:
                raise SettingsError(f"data.class_temperature: the captions lack {train.target}")
            labels = self.train_table[train.target].astype("str").fillna("")
            draws = balanced(labels.to_numpy(str), data.class_temperature, train.seed)
        if train.bucket:
            draws = bucketed(draws, self.crop_lengths, train.batch_size, train.seed)
        return TrainingBatches(rows, train.batch_size, self.steps, train.seed, self.step, draws)

    @functools.cached_property
    def crop_lengths(self) -> np.ndarray:
        """Duration of the crop of each training clip [s], from the headers."""
        seconds = clip_seconds(self.recordings, self.train_table.index)
        return np.minimum(seconds, self.settings.data.crop_seconds)

    def files_in_flight(self) -> list[str]:
        """Files that the loader may be reading: of the next batch, and those read ahead."""
        ahead = 1 + PREFETCH * self.settings.data.workers
        own = share(self.settings.train.batch_size)
        batches = [batch[own] for batch in itertools.islice(self.batches(), ahead)]
        return sorted({self.train_table.index[row][0] for batch in batches for _, row in batch})

    def loader(self) -> torch.utils.data.DataLoader:
        """Batches of the steps that are left."""
        data = self.settings.data
        return torch.utils.data.DataLoader(
            self.dataset(),
            batch_sampler=self.batches(),
            num_workers=data.workers,
            collate_fn=Collate(
                self.processor, None if self.settings.train.bucket else data.crop_seconds
            ),
            pin_memory=self.device.type == "cuda",
            timeout=data.timeout if data.workers else 0,
            prefetch_factor=PREFETCH if data.workers else None,
            generator=torch.Generator(),
            worker_init_fn=leave_signals_to_the_parent,
        )

    def text_stage(self, requests: StopRequests | None = None) -> None:
        """Train the text side alone on drawn captions, before the first step with audio.

        It is short and not saved: a run that is stopped here starts anew. Every process does all
        of it. A text side of random weights learns here even if it is frozen afterwards.
        """
        stage = self.settings.text_stage
        frozen = self.model.frozen
        if not (self.settings.model.text.name or self.settings.model.start):
            self.model.thaw()
        optim = OptimSettings(lr=stage.lr, text_lr=stage.lr, warmup_steps=stage.steps // 10)
        text_side = [p for n, p in self.model.named_parameters() if n.startswith("text_")]
        optimizer = torch.optim.AdamW(text_side, lr=stage.lr, weight_decay=optim.weight_decay)
        dataset = self.dataset()
        self.model.train()
        steps = tqdm(
            range(stage.steps), "text stage", unit="step", mininterval=2, disable=rank() > 0
        )
        for step in steps:
            optimizer.param_groups[0]["lr"] = stage.lr * learning_rate_factor(
                step, stage.steps, optim
            )
            seed_step(self.settings.train.seed, step)
            captions = dataset.text_batch(step, stage.batch_size)
            tokens = self.processor.tokenizer(
                [caption.text for caption in captions],
                padding=True,
                truncation=True,
                return_tensors="pt",
            ).to(self.device)
            texts = self.model.get_text_features(tokens.input_ids, tokens.attention_mask)
            cosines = scaled_cosines(
                texts.pooler_output, texts.pooler_output, self.model.logit_scale.detach()
            )
            loss = clip_loss(cosines, equal_captions(captions).to(self.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            asked = None if requests is None else agreed(requests)
            if asked:
                raise Stopped(
                    f"{asked.name} in the text stage, which starts anew", EXIT_CODES[asked]
                )
        self.model.freeze(frozen)

    def training_step(self, batch: Mapping[str, Any]) -> dict[str, float | None]:
        """Set the rates, take the gradients, step; returns what is logged.

        A step whose loss or gradient is not finite changes no weight and is counted.

        Raises:
            FloatingPointError: after more than `train.max_skipped` such steps in a row, naming
                the clips.
        """
        optim = self.settings.optim
        factor = learning_rate_factor(self.step, self.steps, optim)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        seed_step(self.settings.train.seed, self.step, rank())
        gradients = self.gradients(batch)
        loss, norm = gradients.loss, gradients.norm
        if bool(torch.isfinite(loss) & torch.isfinite(norm)):
            self.optimizer.step()
            self.model.clamp_logit_scale()
            self.skipped_in_a_row = 0
        else:
            self._skip(loss.item(), norm.item(), batch["row"])
        self.step += 1
        counts = torch.tensor([batch["matches"][0].sum().item(), gradients.distinct])
        matches, distinct = sum_in_place(counts).tolist()
        return {
            "loss": _finite(loss.item()),
            "lr": optim.lr * factor,
            "logit_scale": self.model.logit_scale.exp().item(),
            "gradient_norm": _finite(norm.item()),
            "matches_per_clip": matches / len(batch["row"]),
            "distinct_captions": distinct / len(batch["row"]),
            "skipped": self.skipped,
        }

    def _skip(self, loss: float, norm: float, rows: Sequence[int]) -> None:
        """Leave a step out: count it, write down what was in it, and stop after too many."""
        self.optimizer.zero_grad()
        self.skipped += 1
        self.skipped_in_a_row += 1
        files = [self.train_table.index[row][0] for row in rows]
        reason = f"step {self.step + 1}: loss {loss}, gradient norm {norm}, clips {files}"
        dump = {"step": self.step + 1, "loss": str(loss), "norm": str(norm), "clips": files}
        if rank() == 0:
            self.output.mkdir(parents=True, exist_ok=True)
            write_text(self.output / DUMP, json.dumps(dump, indent=1) + "\n")
        if self.skipped_in_a_row > self.settings.train.max_skipped:
            raise FloatingPointError(
                f"{reason}: step {self.skipped_in_a_row} in a row that is not finite; "
                "a smaller optim.lr or train.precision=fp32 may help"
            )
        tqdm.write(f"{reason}: left out")

    def validate(self) -> tuple[dict[str, float], dict[str, pd.DataFrame]]:
        """Zero-shot scores of the validation speakers, by the code of evaluate.py.

        Returns:
            UAR, ACC, F1, chance and the recall of each class; of several corpora the means over the
            corpora, beside the scores of each. And by corpus the answers with their truth.
        """
        parts = self._by_corpus(self.validation_table.loc[self.classes.index])
        done = {name: self._validate(part) for name, part in parts.items()}
        means = {
            figure: float(np.mean([scores[figure] for scores, _ in done.values()]))
            for figure in FIGURES
        }
        each = {
            f"{figure}.{name}" if name else figure: value
            for name, (scores, _) in done.items()
            for figure, value in scores.items()
        }
        return means | each, {name: answers for name, (_, answers) in done.items()}

    def _validate(self, table: pd.DataFrame) -> tuple[dict[str, float], pd.DataFrame]:
        train = self.settings.train
        queries = queries_for(table, train.target, train.queries)
        measured = self._functionals_of(table)
        clips = None if measured is None else FunctionalClips(table, self.recordings, measured)
        answers = answer(self.model, self.processor, table, self.recordings, queries, clips)
        answers.insert(0, "truth", self.classes.loc[table.index])
        figures = score(answers["truth"], answers["prediction"])
        recalls = {f"recall/{name}": recall for name, recall in figures["recall"].items()}
        return broadcast({name: figures[name] for name in FIGURES} | recalls), answers

    def condition(self) -> dict[str, float]:
        """Memory [GiB], and the norm of the weights of each part."""
        norms = {
            f"weight_norm/{part}": torch.nn.utils.get_total_norm(
                [p.detach() for p in self.model.get_submodule(part).parameters()]
            ).item()
            for part in PARTS
        }
        return memory_in_use(self.device) | norms

    def sample_captions(self) -> pd.DataFrame:
        """Files and captions of the next batch, as training will see them."""
        dataset, draws = self.dataset(), next(iter(self.batches()), [])
        items = [dataset.unread(draw) for draw in draws[:SHOWN_CAPTIONS]]
        return pd.DataFrame(
            {"file": self.train_table.index[item["row"]][0], "caption": item["caption"].text}
            for item in items
        )

    def save_model(self, name: str) -> None:
        """Write the model and its processor to `best` or `last`; the others wait for process 0.

        Raises:
            CheckpointError: if it cannot be written; the former one is as it was.
        """
        if rank() == 0:
            try:
                with whole_folder(self.output / name) as folder:
                    self.model.save_pretrained(folder)
                    self.processor.save_pretrained(folder)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(
                    f"{self.output / name} cannot be written ({error}): free space, then give the "
                    "same command again"
                ) from error
        meet()

    def save(self) -> None:
        """Write a checkpoint, unless there is one of this step; the others wait for process 0.

        Raises:
            FloatingPointError: if a weight is not finite; older checkpoints are as they were.
        """
        if self.saved == self.step:
            return
        named = [*self.model.named_parameters(), *self.objective.named_parameters()]
        broken = [n for n, p in named if not bool(p.isfinite().all())]
        if broken:
            raise FloatingPointError(f"step {self.step}: {broken[0]} is not finite; nothing saved")
        if rank() == 0:
            keep = self.settings.train.keep
            save_checkpoint(self.output / "checkpoints", self.step, self.state(), keep)
        meet()
        self.saved, self.saved_at = self.step, time.monotonic()


def _finite(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None


def train(settings: Settings) -> Run:
    """Train as `settings` say; returns the finished run.

    Raises:
        SettingsError: if the settings and the data do not go together.
    """
    settings = with_captions(settings)
    check_data(settings)
    check_loggers(settings.train.loggers)
    run = Run(settings)
    run.output.mkdir(parents=True, exist_ok=True)
    resume(run)
    if rank() == 0:
        OmegaConf.save(OmegaConf.structured(settings), run.output / "config.yaml")
    print(_in_short(run))
    with _log(run) as log:
        if log is not None and log.loggers and run.step < run.steps:
            log.text(run.step, "captions", to_markdown(run.sample_captions()))
        with StopRequests() as requests:
            _train_to_the_end(run, log, requests)
    return run


def _log(run: Run) -> AbstractContextManager[Log | None]:
    """The log of process 0; the others have none."""
    if rank():
        return nullcontext()
    told = flatten(dataclasses.asdict(run.settings))
    return Log(run.output, run.step, run.settings.train.loggers, told)


def _in_short(run: Run) -> str:
    return (
        f"{len(run.train_table)} clips to train on, {len(run.classes)} to validate on, "
        f"{run.steps} steps, {_several(run.device)}, {'bfloat16' if run.bfloat16 else 'float32'}"
    )


def dry_run(settings: Settings) -> None:
    """Read a batch, take a step, save, validate; tell memory and time, and keep nothing.

    The step is taken twice, and the second one is timed: the first makes room in memory. A run that
    would be resumed is resumed here, so that settings that do not fit it are told.

    Raises:
        FloatingPointError: if the loss or the gradient is not finite.
        SettingsError: if the settings, the data and an earlier run do not go together.
    """
    check_data(settings)
    check_loggers(settings.train.loggers)
    run = Run(settings)
    if settings.train.resume != "never":
        resume(run)
    print(_in_short(run))
    if run.step == run.steps:
        print(f"{settings.output} is finished")
        return
    output = run.output.resolve()
    beside = next(folder for folder in output.parents if folder.is_dir())
    with tempfile.TemporaryDirectory(prefix=".dry-run-", dir=beside) as temporary:
        run.output = Path(temporary)
        _rehearse(run)
    print(f"nothing is kept, {settings.output} is as it was")


def _rehearse(run: Run) -> None:
    """Do everything once, and tell what it takes."""
    train, started = run.settings.train, run.step
    batch = next(iter(run.loader()))
    dataset, draws, workers = run.dataset(), next(iter(run.batches())), run.settings.data.workers
    reading = _seconds(lambda: [dataset[draw] for draw in draws])
    print(f"batch of {train.batch_size} clips read in {reading:.3g} s by one process")
    for _ in range(2):
        run.model.train()
        run.step, before = started, time.perf_counter()
        values = run.training_step(batch)
        step = time.perf_counter() - before
        if run.skipped_in_a_row:
            raise FloatingPointError("dry run: the loss or the gradient is not finite")
    print(f"step in {step:.3g} s: loss {values['loss']:.3f}")
    saving = _seconds(run.save)
    size = sum(f.stat().st_size for f in run.output.rglob("*") if f.is_file())
    print(f"checkpoint of {size / GIB:.2g} GiB, {train.keep} are kept: {saving:.3g} s")
    validating = _rehearse_validation(run)
    memory = memory_in_use(run.device).get("gpu_memory_gib")
    on_gpu = "" if memory is None else f", {memory:.2f} GiB on the GPU"
    print(f"memory: {peak_memory():.2f} GiB{on_gpu} at most")
    pace = max(step, reading / workers) if workers else step + reading
    pace += validating / train.validate_every + saving / train.save_every
    epoch = pace * TrainingBatches.per_epoch(len(run.train_table), train.batch_size)
    print(
        f"estimated: {_duration(epoch)} an epoch, {_duration(epoch * train.epochs)} for "
        f"{train.epochs} epochs, validations and checkpoints included"
    )


def _rehearse_validation(run: Run) -> float:
    """Validate on some clips; returns the seconds that all of them would take."""
    clips = len(run.classes)
    if not clips:
        print("no validation")
        return 0.0
    every = run.classes
    run.classes = every.iloc[:: -(-clips // DRY_CLIPS)]
    before = time.perf_counter()
    figures, _ = run.validate()
    seconds = (time.perf_counter() - before) * clips / len(run.classes)
    print(
        f"validation on {len(run.classes)} of {clips} clips: UAR {figures['UAR']:.3f} "
        f"(chance {figures['chance']:.3f}); on all of them about {seconds:.3g} s"
    )
    return seconds


def _seconds(work: Callable[[], object]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def _duration(seconds: float) -> str:
    """Write seconds in the largest unit that fits."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _several(device: torch.device) -> str:
    return f"{world_size()} x {device.type}" if world_size() > 1 else str(device)


def _train_to_the_end(run: Run, log: Log | None, requests: StopRequests) -> None:
    """Step, log, validate, save; stop early when asked to.

    Args:
        run: at its first step, or where it was resumed.
        log: of process 0; None for the others.
        requests: signals to this process.

    Raises:
        Stopped: after a checkpoint was written, if a signal asked for it.
    """
    settings = run.settings.train
    if run.step and _is_due(run, settings.validate_every) and run.validated < run.step:
        _validate_and_keep(run, log)  # the run was stopped between this step and its validation
    for values in _steps(run, requests):
        if log is not None and _is_due(run, settings.log_every):
            log.write(run.step, values | run.condition(), "train")
        if _is_due(run, settings.validate_every) and not agreed(requests):
            _validate_and_keep(run, log)
        if _is_due(run, settings.save_every):
            run.save()
    run.save_model("last")


def _is_due(run: Run, every: int) -> bool:
    return run.step % every == 0 or run.step == run.steps


def agreed(requests: StopRequests) -> signal.Signals | None:
    """The signal that any process received, told to all; None if there was none."""
    (number,) = largest(requests.received or 0)
    return signal.Signals(number) if number else None


def _save_or_stop(run: Run, requests: StopRequests) -> None:
    """Between two steps: save if it is time to, or if a signal came to any of the processes.

    Raises:
        Stopped: in every process, if there was a signal.
    """
    minutes = run.settings.train.save_minutes
    is_late = bool(minutes) and time.monotonic() - run.saved_at > 60 * minutes
    number, late = largest(requests.received or 0, int(is_late))
    if run.step and (number or late):
        run.save()
    if number:
        asked = signal.Signals(number)
        state = f"{run.output} is saved at step {run.step}" if run.step else "nothing is done"
        raise Stopped(
            f"{asked.name}: {state} of {run.steps}; the same command goes on from there",
            EXIT_CODES[asked],
        )


def with_captions(settings: Settings) -> Settings:
    """Settings whose `data.captions` is a captions table; one of labels gets its captions now."""
    data = settings.data
    if not is_label_table(data.captions):
        return settings
    captions = Path(settings.output) / "captions.parquet"
    root = caption_labels(data.captions, captions, data.templates, data.root)
    print(f"captions of the labels in {data.captions} are in {captions}")
    return dataclasses.replace(
        settings, data=dataclasses.replace(data, captions=str(captions), root=root)
    )


def check_data(settings: Settings) -> None:
    """Stop early and in one sentence if there is nothing to read.

    Raises:
        SettingsError: naming the key that is missing.
    """
    data = settings.data
    if data.temperature < 0:
        raise SettingsError(f"data.temperature is {data.temperature}, expected 0 or more")
    if data.class_temperature < 0 or (data.class_temperature != 1 and data.temperature != 1):
        raise SettingsError(
            f"data.class_temperature is {data.class_temperature}, expected 0 or more, and 1 beside "
            "a data.temperature"
        )
    if data.corpora and data.root is not None:
        raise SettingsError("data.root and data.corpora are both set: a single corpus has the one")
    for name, corpus in corpora_of(data).items():
        key = f"data.corpora.{name}" if name else "data"
        if corpus.root is None:
            raise SettingsError(
                f"{key}.root is not set: give the folder of the audio, {key}.root=/data/corpus"
            )
        if corpus.captions is None:
            raise SettingsError(f"{key}.captions is not set: give the table of its captions")
        if name and not re.fullmatch(r"[\w-]+", name):
            raise SettingsError(f"{key}: the name may have letters, digits, - and _")
        if not Path(corpus.root).is_dir():
            raise SettingsError(f"{key}.root: {corpus.root} is no folder")


def resume(run: Run) -> None:
    """Bring a run to where its checkpoints left it, as `train.resume` says.

    Process 0 chooses the checkpoint, and the others read the same.
    """
    folder, choice = run.output / "checkpoints", run.settings.train.resume
    state = None
    if rank() == 0:
        if choice == "never":
            for old in (folder, run.output / "metrics.jsonl", run.output / LOGGER_RUNS):
                shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        else:
            state = load_newest(folder) if choice == "auto" else load_checkpoint(Path(choice))
    step = broadcast(None if state is None else state["step"])
    if step is None:
        return
    if state is None:
        state = load_checkpoint(checkpoint_path(folder, step) if choice == "auto" else Path(choice))
    run.restore(state)
    print(f"resumed {run.output} at step {run.step}")


def _steps(run: Run, requests: StopRequests) -> Iterator[dict[str, float | None]]:
    """Train to the end, one step at a time, behind a progress bar."""
    size = run.settings.train.batch_size
    if run.step == 0 and run.settings.text_stage.steps:
        run.text_stage(requests)
    broadcast_in_place(parameter.detach() for parameter in run.gradients.parameters())
    run.model.train()
    run.hear_clips(requests)
    bar = tqdm(
        total=run.steps * size,
        initial=run.step * size,
        unit="clip",
        desc="train",
        mininterval=2,
        disable=rank() > 0,
    )
    with bar:
        before = time.perf_counter()
        for batch in _batches(run, requests):
            waited = time.perf_counter() - before
            values = run.training_step(batch)
            elapsed = time.perf_counter() - before
            bar.update(size)
            shown = math.nan if values["loss"] is None else values["loss"]
            bar.set_postfix(loss=f"{shown:.3f}", waiting=f"{waited / elapsed:.0%}", refresh=False)
            yield values | {"clips_per_second": size / elapsed, "waiting": waited / elapsed}
            before = time.perf_counter()


def _batches(run: Run, requests: StopRequests) -> Iterator[Mapping[str, Any]]:
    """Batches of the steps that are left; a worker that dies is told with what it was reading.

    Raises:
        Stopped: after a checkpoint was written, if a signal asked for it.
        RuntimeError: naming the clips, if a worker crashed or hangs.
    """
    loader = iter(run.loader())
    while True:
        try:
            batch = next(loader, None)
        except RuntimeError as error:
            raise RuntimeError(f"{error}; being read: {run.files_in_flight()}") from error
        _save_or_stop(run, requests)
        if batch is None:
            return
        yield batch


def _validate_and_keep(run: Run, log: Log | None) -> None:
    """Validate, and keep the model if it is the best so far (or if nothing tells)."""
    run.validated = run.step
    if run.classes.empty:
        run.save_model("best")
        return
    scores, answers = run.validate()
    if log is not None:
        log.write(run.step, scores, "validation")
        for name, part in answers.items():
            _show_answers(run, log, part, name)
    tqdm.write(
        f"step {run.step}: validation UAR {scores['UAR']:.3f} (chance {scores['chance']:.3f})"
    )
    if scores["UAR"] > run.best:
        run.best = scores["UAR"]
        run.save_model("best")


def _show_answers(run: Run, log: Log, answers: pd.DataFrame, corpus: str) -> None:
    """Show the confusion matrix, and how near classes and queries are."""
    title = f"{corpus} {run.settings.train.target}, step {run.step}".strip()
    queries = [column.removeprefix("score.") for column in answers.filter(regex=r"^score\.")]
    pictures = {
        "confusion": lambda: to_pixels(plot_confusion(answers, queries, title)),
        "similarity": lambda: to_pixels(plot_similarities(answers, title)),
    }
    for name, draw in pictures.items():
        log.image(run.step, f"validation/{name}.{corpus}".rstrip("."), draw)


def _train_or_rehearse(settings: Settings) -> None:
    if settings.train.dry_run:
        dry_run(settings)
        return
    run = train(settings)
    best = f"best validation UAR {run.best:.3f}, " if run.best >= 0 else ""
    print(f"{best}models in {run.output / 'best'} and {run.output / 'last'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    settings = read_settings(arguments)
    try:
        with processes(device_named(settings.train.device), settings.train.timeout):
            _train_or_rehearse(settings)
    except Stopped as stopped:
        print(f"train.py: {stopped}", file=sys.stderr)
        return stopped.code
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (
        AudioError,
        CheckpointError,
        CorpusError,
        FloatingPointError,
        ImportError,
        OSError,
        PackError,
        RuntimeError,
        ValueError,
    ) as error:
        sys.exit(f"train.py: {error}")
