"""What the sections of `benchmarks.gpu` share: models, sizes, clocks; and the environment."""

import copy
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import transformers

from benchmarks.memory import process_memory
from benchmarks.timing import GIB
from paraclap.model.engines import has_bfloat16
from paraclap.model.fast_on_cpu import fast_on_cpu
from paraclap.model.modeling_paraclap import PUBLISHED_CONFIG, ParaCLAPConfig, ParaCLAPModel

FAILED = "FAILED"
PLAIN = "plain"
NEEDED = ("audformat", "audeer", "omegaconf", "opensmile", "peft", "soundfile", "soxr")
SHORTEST, LONGEST, SHAPE = 2.75, 11.0, (1.3, 2.216)  # s; of a beta distribution with mean 5.8 s
TINY = {
    "audio_config": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "conv_dim": [16] * 7,
    },
    "text_config": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 96,
    },
}
TINY_WHISPER = {
    "d_model": 32,
    "encoder_layers": 6,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
}

Measure = Callable[[], Sequence[object]]
"""Returns the cells of a row after the first."""
Rows = Iterator[tuple[str, Measure]]


@dataclass
class Bench:
    """What is measured on.

    Attributes:
        device: GPU, or CPU for a dry run.
        small: whether encoders are tiny.
        folder: for corpora and runs.
        peaks: most FLOP/s of a matrix product by "bf16" and "fp32".
    """

    device: torch.device
    small: bool
    folder: Path
    peaks: dict[str, float] = field(default_factory=dict)

    @cached_property
    def published(self) -> ParaCLAPModel:
        """Encoders of the published size, on the CPU."""
        config = dict(PUBLISHED_CONFIG)
        if self.small:
            config |= {name: config[name] | tiny for name, tiny in TINY.items()}
        torch.manual_seed(0)
        return fast_on_cpu(ParaCLAPModel(ParaCLAPConfig(**config)))

    @cached_property
    def whisper(self) -> ParaCLAPModel:
        """Encoders of the size of Whisper base and MiniLM, on the CPU."""
        from benchmarks.lora import CONFIG

        config = copy.deepcopy(CONFIG)
        if self.small:
            config["audio_config"] |= TINY_WHISPER
            config["text_config"] |= TINY["text_config"]
        torch.manual_seed(0)
        return fast_on_cpu(ParaCLAPModel(ParaCLAPConfig(**config)))

    def peak(self, precision: str) -> float:
        """Return the most FLOP/s of a square matrix product."""
        if precision not in self.peaks:
            size = 1024 if self.small else 8192
            kind = torch.bfloat16 if precision == "bf16" else torch.float32
            matrix = torch.randn(size, size, device=self.device, dtype=kind)
            seconds = min(self.seconds(partial(torch.mm, matrix, matrix)) for _ in range(10))
            self.peaks[precision] = 2 * size**3 / seconds
        return self.peaks[precision]

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the time of a call [s]."""
        self.synchronise()
        start = time.perf_counter()
        work()
        self.synchronise()
        return time.perf_counter() - start

    def synchronise(self) -> None:
        """Wait for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def reset_memory(self) -> None:
        """Forget earlier peaks."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def memory(self) -> float:
        """Peak memory [GiB]: of the GPU, of the whole process in a dry run."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / GIB
        return process_memory("VmHWM") / GIB


def durations(count: int) -> np.ndarray:
    """Return durations as in MSP-Podcast [s]."""
    return SHORTEST + (LONGEST - SHORTEST) * np.random.default_rng(0).beta(*SHAPE, count)


def environment(bench: Bench) -> Rows:
    """Versions, hardware, and the fastest matrix products."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    yield "torch, transformers", lambda: (f"{torch.__version__}, {transformers.__version__}",)
    yield "CPU cores", lambda: (len(os.sched_getaffinity(0)),)
    yield "missing packages", lambda: (", ".join(missing) or "none",)
    if bench.device.type == "cuda":
        found = torch.cuda.get_device_properties(bench.device)
        yield "GPU", lambda: (f"{found.name}, {found.total_memory / GIB:.0f} GiB",)
        yield "CUDA, cuDNN", lambda: (f"{torch.version.cuda}, {torch.backends.cudnn.version()}",)
        yield "TF32 in convolutions", lambda: (torch.backends.cudnn.allow_tf32,)
    yield "bfloat16", lambda: (has_bfloat16(bench.device),)
    for precision in ("bf16", "fp32"):
        yield (
            f"matrix product, {precision}",
            lambda name=precision: (f"{bench.peak(name) / 1e12:.3g} TFLOP/s",),
        )
