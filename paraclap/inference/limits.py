"""Limits and defaults of windows and of the web page; importable without torch or gradio."""

from paraclap.audio.segments import MAX_SECONDS, WindowError

SHORTEST_WINDOW, SHORTEST_HOP = 0.06, 0.01
"""Shortest window, in which functionals are defined, and shortest distance of two [s]."""

HOST, PORT = "127.0.0.1", 7860
MEGABYTES = 50.0
"""Largest upload [MB]."""
TOTAL_MEGABYTES = 2000.0
"""Most that uploads and other temporary files of the page occupy together [MB]."""
SECONDS = 300.0
"""Longest recording [s], checked from the header before decoding."""
WHOLE_SECONDS = 12.0
"""Longest recording that is embedded as a whole [s]; longer ones get a timeline."""
WINDOW_SECONDS, HOP_SECONDS = 4.0, 2.0
"""Length of and distance between the windows of the timeline [s]."""
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


def check_windows(window: float, hop: float) -> None:
    """Check the length of windows and the distance of their starts [s].

    Raises:
        WindowError: if they are too short or too long, or the hop is longer than the window.
    """
    if not (SHORTEST_WINDOW <= window <= MAX_SECONDS and SHORTEST_HOP <= hop <= window):
        raise WindowError(
            f"window {window:g} s, hop {hop:g} s: expected a window of {SHORTEST_WINDOW:g} to"
            f" {MAX_SECONDS:g} s, and a hop of at least {SHORTEST_HOP:g} s up to the window"
        )
