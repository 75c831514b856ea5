"""Limits and defaults of the web page; importable without torch or gradio."""

from dataclasses import dataclass

HOST, PORT = "127.0.0.1", 7860
MEGABYTES = 50.0
"""Largest upload [MB]."""
PROMPTS = 20
"""Most prompts in one request."""
PROMPT_CHARACTERS = 200
"""Longest prompt, and longest template."""
NEIGHBOURS = 5
"""Number of similar clips."""
PLAYED_SECONDS = 20.0
"""Longest excerpt of a similar clip that is sent to the browser [s]."""
QUEUE = 16
"""Most requests that wait; further ones are refused."""
KEPT_SECONDS = 1800
"""Time after which an upload is deleted [s]."""
SWEEP_SECONDS = 60
"""Time between two searches for old uploads [s]."""


@dataclass(frozen=True)
class Limits:
    """Limits of one request.

    Attributes:
        seconds: longest recording [s], checked from the header before decoding.
        whole: longest recording that is embedded as a whole [s]; longer ones get a timeline.
        window: length of a window of the timeline [s].
        hop: distance between windows [s].
    """

    seconds: float = 300.0
    whole: float = 12.0
    window: float = 4.0
    hop: float = 2.0
