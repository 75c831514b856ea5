"""One training run: what it reads, what it changes, and what it leaves in its folder."""

import bisect
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.utils.data
import transformers
from safetensors import SafetensorError
from tqdm import tqdm

from paraclap.audio.conditioning import CONDITIONING
from paraclap.audio.paths import resolve_inside
from paraclap.audio.recordings import Files, JoinedRecordings, Recordings
from paraclap.audio.waveform_cache import cache_waveforms
from paraclap.corpora.table import scored_classes
from paraclap.data.captions import ClipPhrases, equal_captions
from paraclap.data.dataset import (
    CaptionDataset,
    Collate,
    FunctionalClips,
    clip_seconds,
)
from paraclap.data.functionals import standards
from paraclap.data.loader import Loader
from paraclap.data.sampler import TrainingBatches, bucketed, mixed
from paraclap.data.tables import Lists
from paraclap.distributed import (
    broadcast,
    device_named,
    largest,
    meet,
    rank,
    share,
    sum_in_place,
    world_size,
)
from paraclap.evaluation.metrics import score
from paraclap.evaluation.prompts import prompts_for
from paraclap.evaluation.zero_shot import classify_clips
from paraclap.files import atomic_folder, file_sha256, write_text
from paraclap.model.build import build_model
from paraclap.model.modeling_paraclap import ParaCLAPModel, clip_loss, mel_frames, scaled_cosines
from paraclap.settings import OptimSettings, Settings, corpora_of
from paraclap.signals import EXIT_CODES, Stopped, StopRequests, leave_signals_to_the_parent
from paraclap.training.checkpoint import (
    CheckpointError,
    checkpoint_path,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)
from paraclap.training.class_prompts import ClassPrompts
from paraclap.training.config import SettingsError, changed_keys
from paraclap.training.frozen import encode_clips
from paraclap.training.losses import LOSSES
from paraclap.training.optim import (
    OPTIMIZERS,
    learning_rate_factor,
    parameter_groups,
    seed_step,
    unfreeze_steps,
)
from paraclap.training.resources import Stopwatch, memory_in_use
from paraclap.training.step import TrainingStep, prepare_encoders
from paraclap.training.tables import provenance, read_all_functionals, read_tables

FIGURES = ("UAR", "ACC", "F1", "chance")  # of a validation
COUNTERS = ("step", "best", "validated", "skipped", "skipped_in_a_row")
VERSIONS = {"torch": str(torch.__version__), "transformers": transformers.__version__}
DUMP = "nonfinite.json"
PREFETCH = 2  # batches that each worker reads ahead
PARTS = ("audio_branch", "text_branch", "audio_projection", "text_projection")
SHOWN_CAPTIONS = 16
LONGEST_MASK = 2**24  # samples, a quarter of an hour


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether to train under bfloat16 autocast; "auto" asks the hardware."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


class Trainer:
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
        self._refuse_missing_columns()
        self.whole_steps = train.epochs * TrainingBatches.per_epoch(
            len(self.train_table), train.batch_size
        )
        self.steps = min(self.whole_steps, train.max_steps or self.whole_steps)
        self.stopwatch = Stopwatch()
        self.classes = self._validation_classes()
        seed_step(train.seed, 0)
        texts = Lists(self.train_table["captions"]).texts()
        clips = self.train_table.index.append(self.validation_table.index)
        self.functionals = read_all_functionals(settings, clips)
        about = None
        if self.functionals is not None:
            about = standards(self.functionals.loc[self.train_table.index])
        model, self.processor = build_model(settings.model, texts, about)
        self.unfreezing = unfreeze_steps(train.unfreeze, model.frozen, self.whole_steps)
        before = model.config.provenance
        model.config.provenance = provenance(settings, len(self.train_table), before)
        self.model: ParaCLAPModel = model.to(self.device)
        prepare_encoders(model, train.checkpoint_activations, train.compile)
        self.objective = LOSSES[settings.loss.name]().to(self.device)
        self.gradients = TrainingStep(
            model,
            self.objective,
            positives=settings.loss.positives,
            bfloat16=self.bfloat16,
            clip_norm=settings.optim.clip_norm,
            micro_batch=train.micro_batch,
            text_cache=train.text_cache,
            class_prompts=self._prototypes(),
            class_prompt_weight=settings.loss.class_prompts,
        )
        self.optimizer = OPTIMIZERS[settings.optim.name](
            parameter_groups(model, settings.optim, self.objective, self.unfreezing),
            lr=settings.optim.lr,
        )
        self.step = 0
        self.best = -1.0
        self.validated = 0
        self.skipped = self.skipped_in_a_row = 0
        self.saved: int | None = None  # step that this process wrote a checkpoint of
        self.saved_at = time.monotonic()
        self.recordings = self._recordings()
        self.fingerprints = broadcast(self._fingerprints() if rank() == 0 else None)

    def _prototypes(self) -> ClassPrompts | None:
        if not self.settings.loss.class_prompts:
            return None
        phrases = ClipPhrases(self.train_table)
        return ClassPrompts(phrases, self.settings.train.target, self.processor)

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
        return {
            "captions table": " ".join(file_sha256(c.captions) for c in corpora.values()),
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
            if data.waveform_cache is not None:
                recordings[name] = cache_waveforms(
                    data.waveform_cache, corpus.root, self._files()[name]
                )
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
            self.settings.data,
            self.settings.train.seed,
            repeat_short=not self.model.audio_branch.supports_padding,
            own=share(self.settings.train.batch_size),
            functionals=self._functionals_of(self.train_table),
            read=self.gradients.clips is None,
        )

    def unfreeze(self, step: int | None = None) -> None:
        """Let those parts learn that do from step number `step` on; None = the next one.

        What was read before may lack what they need, so that batches begin anew after this.
        """
        step = self.step if step is None else step
        due = [part for part, first in self.unfreezing.items() if first <= step]
        due = sorted(set(due) & set(self.model.frozen))
        if due:
            self.gradients.unfreeze(due)
            prepare_encoders(self.model, self.settings.train.checkpoint_activations)
            tqdm.write(f"step {step + 1}: from here on {' and '.join(due)} will learn")

    @property
    def stage_end(self) -> int:
        """Number of steps after which the next part begins to learn, or the run ends."""
        return min(step for step in (*self.unfreezing.values(), self.steps) if step > self.step)

    def precompute_audio_embeddings(self, requests: StopRequests) -> None:
        """Let a frozen speech encoder hear every clip once, if crops are always the same.

        Each process hears its share of the clips.
        """
        data = self.settings.data
        is_always_same = data.crop != "random" and self.functionals is None
        if "audio" not in self.model.frozen or not is_always_same:
            return
        encoder, dataset = self.gradients.frozen["audio"], self.dataset()
        rows = range(len(dataset))[share(len(dataset))]
        heard = encode_clips(
            encoder, self.processor, dataset, rows, data.workers, data.timeout, data.embeddings
        )
        with closing(heard):  # what was heard until then is kept
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
        """What is read in the steps that are left until the next part begins to learn."""
        data, train = self.settings.data, self.settings.train
        sizes = [len(part) for part in self._by_corpus(self.train_table).values()]
        labels = ()
        if data.class_sampling_exponent != 1:
            labels = self.train_table[train.target].astype("str").fillna("")
        draws = mixed(
            sizes, data.sampling_exponent, train.seed, labels, data.class_sampling_exponent
        )
        if train.bucket:
            seconds = np.minimum(self.clip_lengths, data.crop_seconds)
            draws = bucketed(draws, seconds, train.batch_size, train.seed)
        rows = len(self.train_table)
        end = self.stage_end if self.step < self.steps else self.steps
        return TrainingBatches(rows, train.batch_size, end, train.seed, self.step, draws)

    def _refuse_missing_columns(self) -> None:
        target = self.settings.train.target
        if self.settings.data.class_sampling_exponent != 1 and target not in self.train_table:
            raise SettingsError(
                f"data.class_sampling_exponent: the captions have no column {target}"
            )

    @functools.cached_property
    def clip_lengths(self) -> np.ndarray:
        """Duration of each training clip [s], from the headers."""
        return clip_seconds(self.recordings, self.train_table.index)

    def files_in_flight(self) -> list[str]:
        """Files that the loader may be reading: of the next batch, and those read ahead."""
        ahead = 1 + PREFETCH * self.settings.data.workers
        own = share(self.settings.train.batch_size)
        batches = [batch[own] for batch in itertools.islice(self.batches(), ahead)]
        return sorted({self.train_table.index[row][0] for batch in batches for _, row in batch})

    def loader(self) -> Loader:
        """The same as batches of tensors."""
        data = self.settings.data
        return Loader(
            self.dataset(),
            batch_sampler=self.batches(),
            num_workers=data.workers,
            collate_fn=Collate(
                self.processor,
                None if self.settings.train.bucket else data.crop_seconds,
                self._least_samples(),
            ),
            pin_memory=self.device.type == "cuda",
            timeout=data.timeout if data.workers else 0,
            prefetch_factor=PREFETCH if data.workers else None,
            generator=torch.Generator(),
            worker_init_fn=leave_signals_to_the_parent,
        )

    def _least_samples(self) -> int:
        """Samples that a batch is padded to at least."""
        if "audio" in self.model.frozen:
            return 0
        mel = getattr(self.processor.feature_extractor, "mel", None)
        return shortest_masked(self.model.audio_branch.base, mel)

    def text_pretraining(self, requests: StopRequests | None = None) -> None:
        """Train the text side alone on drawn captions, before the first step with audio.

        It is short and not saved: a run that is stopped here starts anew. Every process does all
        of it. A text side of random weights learns here even if it is frozen afterwards.
        """
        stage = self.settings.text_pretraining
        frozen = self.model.frozen
        if not (self.settings.model.text.name or self.settings.model.start):
            self.model.unfreeze()
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
        factor = learning_rate_factor(self.step, self.whole_steps, optim)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * learning_rate_factor(
                self.step, self.whole_steps, optim, group["start"]
            )
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
        counts = torch.tensor([(batch["matches"][0] == 1).sum().item(), gradients.distinct])
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
        prompts = prompts_for(table, train.target, train.prompts)
        measured = self._functionals_of(table)
        clips = None if measured is None else FunctionalClips(table, self.recordings, measured)
        answers = classify_clips(self.model, self.processor, table, self.recordings, prompts, clips)
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
                with atomic_folder(self.output / name) as folder:
                    self.model.save_pretrained(folder)
                    self.processor.save_pretrained(folder)
            except (OSError, SafetensorError) as error:
                reason = error.__cause__ or error
                raise CheckpointError(
                    f"{self.output / name} cannot be written ({reason}): free space, then give the "
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


def shortest_masked(
    encoder: transformers.PreTrainedModel, mel: Mapping[str, Any] | None = None
) -> int:
    """Samples of the shortest batch that SpecAugment can mask frames of; 0 if it masks none.

    Encoders of transformers refuse a batch whose clips, padding included, are shorter than
    `mask_time_length` frames. `mel`: front end of one that reads a log-mel spectrogram.
    """
    config = encoder.config
    if not (getattr(config, "apply_spec_augment", False) and config.mask_time_prob > 0):
        return 0

    def frames(samples: int) -> int:
        if mel is not None:
            samples = max(0, mel_frames(samples, mel["stride"]))
        return int(encoder._get_feat_extract_output_lengths(torch.tensor([samples])))

    return bisect.bisect_left(range(LONGEST_MASK), config.mask_time_length, key=frames)


def _finite(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None


def in_short(run: Trainer) -> str:
    """One line on what a run will do, and where."""
    return (
        f"{len(run.train_table)} clips to train on, {len(run.classes)} to validate on, "
        f"{run.steps} steps, {_several(run.device)}, {'bfloat16' if run.bfloat16 else 'float32'}"
    )


def _several(device: torch.device) -> str:
    return f"{world_size()} x {device.type}" if world_size() > 1 else str(device)


def agreed(requests: StopRequests) -> signal.Signals | None:
    """The signal that any process received, told to all; None if there was none."""
    (number,) = largest(requests.received or 0)
    return signal.Signals(number) if number else None


def resume(run: Trainer) -> None:
    """Bring a run to where its checkpoints left it, as `train.resume` says.

    Process 0 chooses the checkpoint, and the others read the same.
    """
    folder, choice = run.output / "checkpoints", run.settings.train.resume
    state = None
    if rank() == 0:
        if choice == "never":
            for old in (folder, run.output / "metrics.jsonl"):
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
