"""Limits and defaults of the web page; importable without torch or gradio."""

HOST, PORT = "127.0.0.1", 7860
MEGABYTES = 50.0
"""Largest upload [MB]."""
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
