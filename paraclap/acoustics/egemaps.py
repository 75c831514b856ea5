"""eGeMAPSv02 functionals of 16 kHz samples, from one openSMILE instance for all clips.

    extractor = Extractor("captions")
    values = extractor(waveform)  # (N,) float32, in the order of extractor.names

A feature set is the component graph of eGeMAPSv02 (Eyben et al., IEEE Trans. Affective Computing
7(2), 2016), reduced to the components that its functionals depend on. The graph is read from the
installed opensmile package, so values are equal to openSMILE's own, bit for bit. Undefined
functionals, such as the mean pitch of an unvoiced clip, are 0.0 there; `Extractor.defined` replaces
them by NaN.

Letters: T samples at 16 kHz, N functionals.
"""

import ctypes
import functools
import importlib.util
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from paraclap.acoustics.feature_sets import FEATURE_SETS
from paraclap.audio import SAMPLING_RATE

FULL_SCALE = 32_768
"""Scale of 16-bit samples; opensmile multiplies by it and truncates."""

CORE = Path(importlib.util.find_spec("opensmile").origin).parent / "core"
CONFIGURATION = CORE / "config"
COMPONENT_FILES = (
    "gemaps/v01b/GeMAPSv01b_core.lld.conf.inc",
    "egemaps/v02/eGeMAPSv02_core.lld.conf.inc",
    "gemaps/v01b/GeMAPSv01b_core.func.conf.inc",
    "egemaps/v02/eGeMAPSv02_core.func.conf.inc",
    "egemaps/v02/eGeMAPSv02.conf",
)
"""Files that define eGeMAPSv02, in the order of their inclusion."""
INCLUDES = {
    "bufferModeRbConf": "BufferModeRb",
    "bufferModeRbLagConf": "BufferModeRbLag",
    "bufferModeConf": "BufferMode",
    "frameModeFunctionalsConf": "FrameModeFunctionals",
}
"""Options that name an included file, and their values in eGeMAPSv02 (files in ``shared``)."""
SOURCE, SINK = "standard_external_wave_input", "standard_external_data_output_single"
SOURCE_NAME, SOURCE_LEVEL = "extsource", "wave"
SINK_NAME, SINK_LEVEL = "extsink", "func"

FRAMES, FRAME_SAMPLES, FRAME_STEP = "gemapsv01b_frame25", 320, 160
"""Component of the 20 ms frames, their length and hop size [samples].

Frames are cut here, because openSMILE's framer spends most of its time on storing the time of each
sample, which only the 60 ms frames of the pitch need.
"""
FRAMES_WRITTEN = 64
"""Frames passed to openSMILE at a time: 80 kB, which stay in the CPU cache."""
FRAME_SOURCE = f"""
writer.dmLevel={FRAMES}
writer.levelconf.growDyn=1
writer.levelconf.isRb=1
writer.levelconf.nT=500
writer.levelconf.T={FRAME_STEP / SAMPLING_RATE}
writer.levelconf.frameSizeSec={FRAME_SAMPLES / SAMPLING_RATE}
period={1 / SAMPLING_RATE:.7f}
fieldNames=pcm
fieldSizes={FRAME_SAMPLES}
"""
"""Source of the frames: a level that grows to hold all frames of a clip, and their timing."""
FRAMES_READER = "gemapsv01b_win25"
"""Next component; as the level before it grows, its own size of 5 frames must be set."""

SECTION = re.compile(r"\[(\w+):(c\w+)\]")
OPTION_INCLUDE = re.compile(r"\\\{\\cm\[(\w+)")
ASSIGNMENT = re.compile(r"([\w.]+)\s*=\s*(.*)")


# --- The component graph -------------------------------------------------------------------------


@dataclass
class _Component:
    """Type of a component and the lines of its section."""

    kind: str
    lines: list[str]

    def levels(self, pattern: str) -> list[str]:
        """Return the levels named by all keys that match, e.g. by its readers."""
        found = (ASSIGNMENT.match(line) for line in self.lines)
        values = [match[2] for match in found if match and re.fullmatch(pattern, match[1])]
        return [level.strip() for value in values for level in value.split(";") if level.strip()]

    def change(self, key: str, value: str) -> None:
        """Replace the value of a key of the section."""
        places = [
            place
            for place, line in enumerate(self.lines)
            if (match := ASSIGNMENT.match(line)) and match[1] == key
        ]
        if len(places) != 1:
            raise ValueError(f"{self.kind} has {len(places)} keys {key}, expected one")
        self.lines[places[0]] = f"{key} = {value}"


def _read_components() -> dict[str, _Component]:
    """Return the components of eGeMAPSv02 by name, in the order of execution."""
    components: dict[str, _Component] = {}
    for file in COMPONENT_FILES:
        text = re.sub(r"/\*.*?\*/", "", (CONFIGURATION / file).read_text(), flags=re.DOTALL)
        lines: list[str] = []
        for line in filter(None, map(str.strip, text.splitlines())):
            if section := SECTION.match(line):
                lines = []
                if section[1] != "componentInstances":
                    components[section[1]] = _Component(section[2], lines)
            elif include := OPTION_INCLUDE.match(line):
                if include[1] in INCLUDES:
                    lines.append(_include(INCLUDES[include[1]]))
            elif line[0] not in ";/":
                lines.append(line)
    return components


def _include(name: str) -> str:
    """Return the line that includes a shared configuration file."""
    return rf"\{{{CONFIGURATION / 'shared' / name}.conf.inc}}"


def _needed(components: Mapping[str, _Component]) -> set[str]:
    """Return the names of the components that the functionals depend on."""
    writers = {
        level: name
        for name, component in components.items()
        for level in component.levels(r"writer\.dmLevel")
    }
    needed, levels = set[str](), [SINK_LEVEL]
    while levels:
        level = levels.pop()
        if level != SOURCE_LEVEL and writers[level] not in needed:
            needed.add(writers[level])
            levels += components[writers[level]].levels(r"(F0)?reader\d?\.dmLevel")
    return needed


def component_graph(name: str) -> str:
    """Return the text of the openSMILE configuration of a feature set."""
    components = _read_components()
    for component, changes in FEATURE_SETS[name].changes.items():
        for key, value in changes.items():
            components[component].change(key, value)
    components[FRAMES] = _Component("cExternalSource", FRAME_SOURCE.split())
    components[FRAMES_READER].lines.append(_include(INCLUDES["bufferModeRbConf"]))
    needed = _needed(components)
    kept = {name: component for name, component in components.items() if name in needed}
    return "\n".join(
        [
            "[componentInstances:cComponentManager]",
            "instance[dataMemory].type=cDataMemory",
            "printLevelStats=0",
            _include(SOURCE),
            "[componentInstances:cComponentManager]",
            *(f"instance[{name}].type={component.kind}" for name, component in kept.items()),
            *(
                "\n".join([f"[{name}:{component.kind}]", *component.lines])
                for name, component in kept.items()
            ),
            _include(SINK),
            "",
        ]
    )


@functools.cache
def _library() -> ModuleType:
    """Return opensmile's interface to its C library.

    ``import opensmile`` would also import pandas and audformat, a second per process.
    """
    spec = importlib.util.spec_from_file_location("opensmile_library", CORE / "lib.py")
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    return library


# --- Values --------------------------------------------------------------------------------------


class Extractor:
    """An openSMILE instance of one feature set, reset between clips.

    Attributes:
        names: openSMILE's names of the functionals (N)
    """

    def __init__(self, feature_set: str) -> None:
        """Create the instance, which takes 6 ms.

        Raises:
            ValueError: if there is no such feature set
        """
        if feature_set not in FEATURE_SETS:
            raise ValueError(f"{feature_set} is not in {sorted(FEATURE_SETS)}")
        self._smile = _library().OpenSMILE()
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write(component_graph(feature_set))
            file.flush()
            self._smile.initialize(file.name, {})
        self._used = False
        count = self._smile.external_sink_get_num_elements(SINK_NAME)
        self.names = [
            self._smile.external_sink_get_element_name(SINK_NAME, place) for place in range(count)
        ]
        self._rules = undefined_rules(self.names)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Return the functionals (N,) float32 of a waveform (T,) in [-1, 32767/32768] at 16 kHz.

        They equal openSMILE's own values; for clips below 60 ms, all are NaN.
        """
        return self.measure(as_integers(waveform))

    def measure(self, samples: np.ndarray) -> np.ndarray:
        """Return the functionals (N,) float32 of 16-bit samples (T,) at 16 kHz, see `__call__`."""
        rows: list[np.ndarray] = []
        if self._used:
            self._smile.reset()
            self._smile._callbacks.clear()  # registered again below, and would accumulate
        self._used = True
        self._smile.external_sink_set_callback(SINK_NAME, lambda row: rows.append(row.copy()))
        if not self._smile.external_audio_source_write_data(SOURCE_NAME, samples.tobytes()):
            raise RuntimeError(f"openSMILE rejected {len(samples)} samples")
        for frames in cut_frames(samples):
            # OpenSMILE's own method supports sources of single values only
            status = _library().smileapi.smile_extsource_write_data(
                self._smile._smileobj, FRAMES.encode(), _pointer(frames), len(frames)
            )
            if status:
                raise RuntimeError(f"openSMILE rejected {len(frames)} frames: status {status}")
        self._smile.external_source_set_eoi(FRAMES)
        self._smile.external_audio_source_set_eoi(SOURCE_NAME)
        self._smile.run()
        return rows[0] if rows else np.full(len(self.names), np.nan, dtype=np.float32)

    def defined(self, values: np.ndarray) -> np.ndarray:
        """Return functionals (N,) with NaN where they are undefined."""
        defined = values.copy()
        for place, undefined, decided in self._rules:
            if values[place] == undefined:
                defined[decided] = np.nan
        return defined


def as_integers(waveform: np.ndarray) -> np.ndarray:
    """Return the 16-bit samples (T,) of a waveform, truncated towards zero like opensmile does.

    A sample of 1.0 or above would wrap around to a negative one, see `conditioning.SAMPLE_LIMITS`.
    """
    return (waveform * np.float32(FULL_SCALE)).astype(np.int16)


def cut_frames(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the 20 ms frames of 16-bit samples (T,) as float32, equal to openSMILE's framer."""
    if len(samples) < FRAME_SAMPLES:
        return
    waveform = samples / np.float32(FULL_SCALE - 1)  # openSMILE divides by 32767
    frames = np.lib.stride_tricks.sliding_window_view(waveform, FRAME_SAMPLES)[::FRAME_STEP]
    for first in range(0, len(frames), FRAMES_WRITTEN):
        yield np.ascontiguousarray(frames[first : first + FRAMES_WRITTEN])


def _pointer(values: np.ndarray) -> ctypes.Array:
    """Return contiguous float32 values as a C pointer."""
    return values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


UNDEFINED = (
    # deciding column, its value if and only if it is undefined, columns that are then undefined
    (r"((?!F[123]amplitude).+_sma3nz)_amean", 0.0, r"{}_.+"),
    (r"(F[123]amplitudeLogRelF0_sma3nz)_amean", -201.0, r"{}_.+"),
    (r"(.+)_mean(Rising|Falling)Slope", 0.0, r"{}_(mean|stddev){}Slope"),
    (r"MeanVoicedSegmentLengthSec", 0.0, r"(Mean|Stddev)VoicedSegmentLengthSec"),
    (r"MeanUnvoicedSegmentLength", 0.0, r"(Mean|Stddev)UnvoicedSegmentLength"),
)
"""Values by which openSMILE marks undefined functionals.

- ``sma3nz`` descriptors are averaged over the frames in which they are not 0: voiced frames for F0,
  jitter, shimmer, HNR, formants, harmonics and ``...V``, unvoiced frames for ``...UV``. A mean of
  exactly 0.0 means that there was no such frame.
- In frames without F0, the amplitude of a formant relative to F0 is -201 dB, the floor of
  openSMILE's logarithm. A mean of -201 means that there was no other frame; 0 dB is a measurement
  (F0 lies at the formant). In partly voiced clips, openSMILE includes unvoiced frames in the mean.
- A mean slope of 0.0 means that the contour did not rise (fall) between two peaks anywhere, because
  the slopes of a kind have the same sign.
- A mean length of 0.0 s means that there was no segment. Rates (``VoicedSegmentsPerSec``,
  ``loudnessPeaksPerSec``) of 0 are measurements.
"""


def undefined_rules(names: Sequence[str]) -> list[tuple[int, float, list[int]]]:
    """Return (index of the deciding column, its undefined value, indices of dependent columns)."""
    rules = []
    for deciding, value, pattern in UNDEFINED:
        for place, name in enumerate(names):
            if match := re.fullmatch(deciding, name):
                decided = re.compile(pattern.format(*map(re.escape, match.groups())))
                decides = [other for other, name in enumerate(names) if decided.fullmatch(name)]
                rules.append((place, value, decides))
    return rules
