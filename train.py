r"""Train ParaCLAP: captions and audio in, a run folder out.

    python train.py configs/small.yaml data.root=/data/RAVDESS data.captions=captions.parquet \
        output=runs/small
    python train.py configs/paraclap.yaml data.root=/data/MSP-Podcast optim.lr=1e-4

The first argument may be a YAML file (default configs/paraclap.yaml); `key=value` arguments go over
it. Every key is a field of `Settings` (settings.py), `ModelSettings` (models.py) or
`CaptionSettings` (datasets.py). The run folder receives config.yaml, metrics.jsonl, TensorBoard
events, checkpoints/ (everything to resume), best/ (by validation UAR) and last/, both ready for
evaluate.py. The same
command again resumes an interrupted run (`train.resume=auto`) and gives the same weights as a run
that was never interrupted.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
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

from audio import AudioError, resolve_inside
from checkpoints import (
    CheckpointError,
    load_checkpoint,
    load_newest,
    save_checkpoint,
    whole_folder,
)
from corpora import CorpusError, scored_classes
from datasets import (
    PHRASE_COLUMNS,
    CaptionDataset,
    Collate,
    TrainingBatches,
    equal_captions,
)
from evaluate import answer
from frozen import encode_clips
from models import (
    ParaCLAPModel,
    build_model,
    clip_loss,
    scaled_cosines,
)
from objectives import OBJECTIVES
from optimisation import OPTIMIZERS, learning_rate_factor, parameter_groups, seed_step
from queries import queries_for
from reports import write_text
from scoring import score
from settings import OptimSettings, Settings, SettingsError, changed_keys, read_settings
from steps import TrainingStep, prepare_encoders
from stopping import EXIT_CODES, Stopped, StopRequests
from tracking import Log

CAPTIONS_METADATA = b"paraclap"  # key of what features.py knew about the corpus
COUNTERS = ("step", "best", "validated", "skipped", "skipped_in_a_row")
VERSIONS = {"torch": str(torch.__version__), "transformers": transformers.__version__}
DUMP = "nonfinite.json"
PREFETCH = 2  # batches that each worker reads ahead
SIGNAL_PATIENCE = 1.0  # s; a signal to all processes may reach the workers first


def read_captions(path: str | Path) -> pd.DataFrame:
    """Read a captions table; clips without any phrase are left out and counted.

    Raises:
        SettingsError: if the table is missing or holds no captions.
    """
    if not Path(path).is_file():
        raise SettingsError(
            f"data.captions: there is no table {path}; preprocessing/template_creation.py writes it"
        )
    table = pd.read_parquet(path)
    missing = [column for column in PHRASE_COLUMNS if column not in table]
    if missing:
        raise SettingsError(f"{path} lacks {missing}; expected a table of template_creation.py")
    empty = table["captions"].map(len) == 0
    if empty.any():
        print(f"{empty.sum()} of {len(table)} clips have no phrase and are left out")
    return table[~empty]


def provenance(settings: Settings, clips: int) -> dict[str, Any]:
    """What a model card has to tell of a run on so many clips; no paths.

    An encoder is None if it starts from random weights; `corpora` is missing if the captions table
    does not say where it is from.
    """
    model = settings.model
    facts: dict[str, Any] = {
        f"{branch}_encoder": tower.name and _public_name(tower.name)
        for branch, tower in (("audio", model.audio), ("text", model.text))
    }
    metadata = pq.read_schema(settings.data.captions).metadata or {}
    about = json.loads(metadata.get(CAPTIONS_METADATA, b"{}"))
    corpora = list(about.get("corpora", [about.get("corpus") or about.get("name")]))
    if all(corpora):
        facts["corpora"] = corpora
    return facts | {
        "clips": clips,
        "epochs": settings.train.epochs,
        "seed": settings.train.seed,
    }


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
        self.device = torch.device(_device(train.device))
        self.bfloat16 = use_bfloat16(train.precision, self.device)
        table = read_captions(settings.data.captions)
        self.train_table, self.validation_table = split_table(table, settings)
        self.steps = train.epochs * TrainingBatches.per_epoch(
            len(self.train_table), train.batch_size
        )
        self.classes = self._validation_classes()
        seed_step(train.seed, 0)
        texts = sorted({text for row in self.train_table["captions"] for text in row})
        model, self.processor = build_model(settings.model, texts)
        model.config.provenance = provenance(settings, len(self.train_table))
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
        )
        self.optimizer = OPTIMIZERS[settings.optim.name](
            parameter_groups(model, settings.optim, self.objective), lr=settings.optim.lr
        )
        self.step = 0
        self.best = -1.0
        self.validated = 0
        self.skipped = self.skipped_in_a_row = 0
        self.fingerprints = self._fingerprints()

    def _validation_classes(self) -> pd.Series:
        """Classes of the validation clips; the rest of these clips is left out."""
        if self.validation_table.empty:
            return pd.Series(dtype=str)
        return scored_classes(self.validation_table, self.settings.train.target).dropna()

    def _fingerprints(self) -> dict[str, str]:
        """What was read, in two hashes: the captions table, and names and sizes of the audio."""
        root = self.settings.data.root
        files = dict.fromkeys(
            file
            for table in (self.train_table, self.validation_table)
            for file, _, _ in table.index
        )
        sizes = [f"{resolve_inside(root, file).stat().st_size} {file}" for file in files]
        return {
            "captions table": hashlib.sha256(
                Path(self.settings.data.captions).read_bytes()
            ).hexdigest(),
            "audio": hashlib.sha256("\n".join(sizes).encode()).hexdigest(),
        }

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
        self.objective.load_state_dict(state.get("objective", {}))  # older ones had none to save
        self.optimizer.load_state_dict(state["optimizer"])
        for name in COUNTERS:
            setattr(self, name, state[name])

    def dataset(self) -> CaptionDataset:
        """Training clips with captions."""
        return CaptionDataset(
            self.train_table,
            self.settings.data.root,
            self.settings.captions,
            self.settings.data.crop_seconds,
            self.settings.train.seed,
            repeat_short=not self.model.audio_branch.supports_padding,
            crop=self.settings.data.crop,
            read=self.gradients.clips is None,
        )

    def hear_clips(self, requests: StopRequests) -> None:
        """Let a frozen speech encoder hear every clip once, if crops are always the same.

        Raises:
            Stopped: if a signal asked for it; with `data.embeddings`, what was heard is kept.
            RuntimeError: naming the clips, if a worker crashed or hangs.
        """
        data = self.settings.data
        if "audio" not in self.model.frozen or data.crop == "random":
            return
        heard = encode_clips(
            self.gradients.frozen["audio"],
            self.processor,
            self.dataset(),
            data.workers,
            data.timeout,
            data.embeddings,
        )
        done, kept = 0, "goes on from there" if data.embeddings else "starts anew"
        with closing(heard):
            while done < len(self.train_table):
                try:
                    table, done = next(heard)
                except RuntimeError:
                    time.sleep(SIGNAL_PATIENCE)
                    if not requests.received:
                        raise
                if requests.received:
                    raise Stopped(
                        f"{requests.received.name}: {done} of {len(self.train_table)} clips were "
                        f"heard; the same command {kept}",
                        EXIT_CODES[requests.received],
                    )
        self.gradients.clips = table

    def batches(self) -> TrainingBatches:
        """What is read in the steps that are left."""
        train = self.settings.train
        rows = len(self.train_table)
        return TrainingBatches(rows, train.batch_size, self.steps, train.seed, self.step)

    def files_in_flight(self) -> list[str]:
        """Files that the loader may be reading: of the next batch, and those read ahead."""
        ahead = 1 + PREFETCH * self.settings.data.workers
        batches = itertools.islice(self.batches(), ahead)
        return sorted({self.train_table.index[row][0] for batch in batches for _, row in batch})

    def loader(self) -> torch.utils.data.DataLoader:
        """Batches of the steps that are left."""
        data = self.settings.data
        return torch.utils.data.DataLoader(
            self.dataset(),
            batch_sampler=self.batches(),
            num_workers=data.workers,
            collate_fn=Collate(self.processor, data.crop_seconds),
            pin_memory=self.device.type == "cuda",
            timeout=data.timeout if data.workers else 0,
            prefetch_factor=PREFETCH if data.workers else None,
            generator=torch.Generator(),
        )

    def text_stage(self, requests: StopRequests | None = None) -> None:
        """Train the text side alone on drawn captions, before the first step with audio.

        It is short and not saved: a run that is stopped here starts anew.
        """
        stage = self.settings.text_stage
        optim = OptimSettings(lr=stage.lr, text_lr=stage.lr, warmup_steps=stage.steps // 10)
        text_side = [p for n, p in self.model.named_parameters() if n.startswith("text_")]
        optimizer = torch.optim.AdamW(text_side, lr=stage.lr, weight_decay=optim.weight_decay)
        dataset = self.dataset()
        self.model.train()
        for step in tqdm(range(stage.steps), desc="text stage", unit="step", mininterval=2):
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
            if requests is not None and requests.received:
                raise Stopped(
                    f"{requests.received.name} in the text stage, which starts anew",
                    EXIT_CODES[requests.received],
                )

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
        seed_step(self.settings.train.seed, self.step)
        gradients = self.gradients(batch)
        loss, norm = gradients.loss, gradients.norm
        if bool(torch.isfinite(loss) & torch.isfinite(norm)):
            self.optimizer.step()
            self.model.clamp_logit_scale()
            self.skipped_in_a_row = 0
        else:
            self._skip(loss.item(), norm.item(), batch["row"])
        self.step += 1
        matches = batch["matches"]
        return {
            "loss": _finite(loss.item()),
            "lr": optim.lr * factor,
            "logit_scale": self.model.logit_scale.exp().item(),
            "gradient_norm": _finite(norm.item()),
            "matches_per_clip": matches.sum().item() / len(matches),
            "distinct_captions": gradients.distinct / len(matches),
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
        self.output.mkdir(parents=True, exist_ok=True)
        write_text(self.output / DUMP, json.dumps(dump, indent=1) + "\n")
        if self.skipped_in_a_row > self.settings.train.max_skipped:
            raise FloatingPointError(
                f"{reason}: step {self.skipped_in_a_row} in a row that is not finite; "
                "a smaller optim.lr or train.precision=fp32 may help"
            )
        tqdm.write(f"{reason}: left out")

    def validate(self) -> dict[str, float]:
        """Zero-shot scores of the validation speakers, by the code of evaluate.py."""
        train = self.settings.train
        table = self.validation_table.loc[self.classes.index]
        queries = queries_for(table, train.target, train.queries)
        answers = answer(self.model, self.processor, table, self.settings.data.root, queries)
        figures = score(self.classes, answers["prediction"])
        return {name: figures[name] for name in ("UAR", "ACC", "F1", "chance")}

    def save_model(self, name: str) -> None:
        """Write the model and its processor to `best` or `last`.

        Raises:
            CheckpointError: if it cannot be written; the former one is as it was.
        """
        try:
            with whole_folder(self.output / name) as folder:
                self.model.save_pretrained(folder)
                self.processor.save_pretrained(folder)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{self.output / name} cannot be written ({error}): free space, then give the "
                "same command again"
            ) from error

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            FloatingPointError: if a weight is not finite; older checkpoints are as they were.
        """
        named = [*self.model.named_parameters(), *self.objective.named_parameters()]
        broken = [n for n, p in named if not bool(p.isfinite().all())]
        if broken:
            raise FloatingPointError(f"step {self.step}: {broken[0]} is not finite; nothing saved")
        keep = self.settings.train.keep
        save_checkpoint(self.output / "checkpoints", self.step, self.state(), keep)


def _finite(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None


def _device(name: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def train(settings: Settings) -> Run:
    """Train as `settings` say; returns the finished run.

    Raises:
        SettingsError: if the settings and the data do not go together.
    """
    check_data(settings)
    run = Run(settings)
    run.output.mkdir(parents=True, exist_ok=True)
    resume(run)
    OmegaConf.save(OmegaConf.structured(settings), run.output / "config.yaml")
    log = Log(run.output, run.step)
    print(
        f"{len(run.train_table)} clips to train on, {len(run.classes)} to validate on, "
        f"{run.steps} steps, {run.device}, {'bfloat16' if run.bfloat16 else 'float32'}"
    )
    with StopRequests() as requests:
        _train_to_the_end(run, log, requests)
    log.close()
    return run


def _train_to_the_end(run: Run, log: Log, requests: StopRequests) -> None:
    """Step, log, validate, save; stop early when asked to.

    Raises:
        Stopped: after a checkpoint was written, if a signal asked for it.
    """
    settings = run.settings.train
    saved = time.monotonic()
    if run.step and _is_due(run, settings.validate_every) and run.validated < run.step:
        _validate_and_keep(run, log)  # the run was stopped between this step and its validation
    for values in _steps(run, requests):
        if _is_due(run, settings.log_every):
            log.write(run.step, values, "train")
        if requests.received is None and _is_due(run, settings.validate_every):
            _validate_and_keep(run, log)
        late = settings.save_minutes and time.monotonic() - saved > 60 * settings.save_minutes
        if requests.received or late or _is_due(run, settings.save_every):
            run.save()
            saved = time.monotonic()
        _stop_if_asked(run, requests)
    run.save_model("last")


def _is_due(run: Run, every: int) -> bool:
    return run.step % every == 0 or run.step == run.steps


def _stop_if_asked(run: Run, requests: StopRequests) -> None:
    if requests.received:
        raise Stopped(
            f"{requests.received.name}: {run.output} is saved at step {run.step} of {run.steps}; "
            "the same command goes on from there",
            EXIT_CODES[requests.received],
        )


def check_data(settings: Settings) -> None:
    """Stop early and in one sentence if there is nothing to read.

    Raises:
        SettingsError: naming the key that is missing.
    """
    root = settings.data.root
    if root is None:
        raise SettingsError(
            "data.root is not set: give the folder of the audio, data.root=/data/corpus"
        )
    if not Path(root).is_dir():
        raise SettingsError(f"data.root: {root} is no folder")


def resume(run: Run) -> None:
    """Bring a run to where its checkpoints left it, as `train.resume` says."""
    folder, choice = run.output / "checkpoints", run.settings.train.resume
    if choice == "never":
        for old in (folder, run.output / "metrics.jsonl"):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        return
    state = load_newest(folder) if choice == "auto" else load_checkpoint(Path(choice))
    if state is not None:
        run.restore(state)
        print(f"resumed {run.output} at step {run.step}")


def _steps(run: Run, requests: StopRequests) -> Iterator[dict[str, float | None]]:
    """Train to the end, one step at a time, behind a progress bar."""
    size = run.settings.train.batch_size
    _stop_if_asked(run, requests)
    if run.step == 0 and run.settings.text_stage.steps:
        run.text_stage(requests)
    run.model.train()
    run.hear_clips(requests)
    bar = tqdm(
        total=run.steps * size, initial=run.step * size, unit="clip", desc="train", mininterval=2
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
        Stopped: after a checkpoint was written, if the workers were told to end with the run.
        RuntimeError: naming the clips, if a worker crashed or hangs.
    """
    loader = iter(run.loader())
    while True:
        try:
            batch = next(loader, None)
        except RuntimeError as error:
            time.sleep(SIGNAL_PATIENCE)
            if requests.received:
                run.save()
                _stop_if_asked(run, requests)
            raise RuntimeError(f"{error}; being read: {run.files_in_flight()}") from error
        if batch is None:
            return
        yield batch


def _validate_and_keep(run: Run, log: Log) -> None:
    """Validate, and keep the model if it is the best so far (or if nothing tells)."""
    run.validated = run.step
    if run.classes.empty:
        run.save_model("best")
        return
    scores = run.validate()
    log.write(run.step, scores, "validation")
    tqdm.write(
        f"step {run.step}: validation UAR {scores['UAR']:.3f} (chance {scores['chance']:.3f})"
    )
    if scores["UAR"] > run.best:
        run.best = scores["UAR"]
        run.save_model("best")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        run = train(read_settings(arguments))
    except Stopped as stopped:
        print(f"train.py: {stopped}", file=sys.stderr)
        return stopped.code
    best = f"best validation UAR {run.best:.3f}, " if run.best >= 0 else ""
    print(f"{best}models in {run.output / 'best'} and {run.output / 'last'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (
        AudioError,
        CheckpointError,
        CorpusError,
        FloatingPointError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        sys.exit(f"train.py: {error}")
