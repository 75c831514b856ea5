"""The gradio page: layout, examples, and the guards around serving it."""

import ipaddress
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from paraclap.corpora import synthetic
from paraclap.inference.page import (
    STYLE,
    Answer,
    Listener,
    RefusalError,
    acoustics_html,
    neighbours_html,
    refusal_html,
    scores_html,
    timeline_html,
)

if TYPE_CHECKING:
    import gradio

HOST, PORT = "127.0.0.1", 7860
MEGABYTES = 50.0
"""Largest upload [MB]."""
WAITING = 16
"""Most people in line; others are told to come back."""
KEPT_SECONDS = 1800
"""How long an upload is kept [s]."""
SWEEP_SECONDS = 60
"""How often old uploads are looked for [s]."""
PROMPTS = ("angry", "bored", "happy", "sad", "calm")
TEMPLATE = "the speaker sounds {}"
EXAMPLES = (
    # title, speaker (even numbers are women), emotions one after the other
    ("Woman, angry", 0, ("anger",)),
    ("Man, sad", 1, ("sadness",)),
    ("Woman, happy", 2, ("happiness",)),
    ("Man, bored", 3, ("boredom",)),
    ("Man, calm, then angry", 5, ("neutral",) * 5 + ("anger",) * 5),
)
"""Clips of the synthetic corpus to try; several emotions make a long one."""
GAP_SECONDS = 0.3
"""Silence between the parts of a long example [s]."""
EMPTY = "<p class='pc-empty'>Answers appear here.</p>"
HIDDEN: dict[str, Any] = {"visible": False}
SHOW = """() => document.querySelector(".pc, .pc-refusal")?.scrollIntoView(
    {block: "nearest", behavior: "smooth"})"""
"""Brings the answer into view, which on a phone is below the button."""


# --- Examples ------------------------------------------------------------------------------------


def write_examples(folder: Path) -> Iterator[tuple[str, Path]]:
    """Synthesise the clips of `EXAMPLES`: title and file of each."""
    folder.mkdir(parents=True)
    speakers = synthetic.make_speakers()
    rate = synthetic.SAMPLING_RATE
    for title, number, emotions in EXAMPLES:
        rng = np.random.default_rng(number)
        parts = []
        for emotion in emotions:
            prosody = synthetic.draw_prosody(speakers[number], emotion, rng)
            parts += [synthetic.render(speakers[number], prosody, rng)]
            parts += [np.zeros(round(GAP_SECONDS * rate))]
        path = folder / f"{title.replace(',', '').replace(' ', '_').lower()}.wav"
        soundfile.write(path, np.concatenate(parts[:-1]), rate, subtype="PCM_16")
        yield title, path


# --- The page ------------------------------------------------------------------------------------


def build_page(
    listener: Listener, examples: Sequence[tuple[str, Path]], about: str, megabytes: float
) -> "gradio.Blocks":
    """Lay out the page.

    Args:
        listener: that answers.
        examples: title and file of each clip to try.
        about: name of the model.
        megabytes: largest upload [MB], for the words beside it.
    """
    import gradio as gr

    limit = f"up to {listener.limits.seconds:g} s and {megabytes:g} MB"
    with gr.Blocks(
        title="ParaCLAP", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS)
    ) as page:
        gr.Markdown(f"# ParaCLAP\nAsk about a voice in words. Model: `{about}`")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                recording = gr.Audio(
                    sources=["upload", "microphone"],
                    type="filepath",
                    label=f"Recording ({limit})",
                    buttons=[],
                    elem_id="recording",
                )
                gr.Examples(
                    [[str(path)] for _, path in examples],
                    [recording],
                    label="Or try a synthetic voice",
                    example_labels=[title for title, _ in examples],
                    api_visibility="private",
                )
                prompts = gr.Textbox(
                    "\n".join(PROMPTS), label="Prompts, one a line", lines=5, max_lines=20
                )
                template = gr.Textbox(
                    TEMPLATE, label="Sentence around each prompt ({} is where it goes)"
                )
                groups = [
                    gr.Dropdown(
                        [("not told", ""), *((name, name) for name in names)],
                        value="",
                        label=f"{column.capitalize()}: what is low and high depends on it",
                    )
                    for column, names in listener.groups.items()
                ]
                ask = gr.Button("Ask", variant="primary")
            with gr.Column(scale=3, min_width=320):
                refusal = gr.HTML(visible=False)
                scores = gr.HTML(EMPTY)
                timeline = gr.HTML(visible=False)
                acoustics = gr.HTML(visible=False)
                neighbours = gr.HTML(visible=False)
        shown = [refusal, scores, timeline, acoustics, neighbours]

        def empty() -> list[dict]:
            return [gr.update(**change) for change in emptied()]

        def answer(path: str | None, prompts: str, template: str, *labels: str) -> list[dict]:
            told = dict(zip(listener.groups, labels, strict=True))
            return [
                gr.update(**change) for change in respond(listener, path, prompts, template, told)
            ]

        asked = [recording, prompts, template, *groups]
        options: dict[str, Any] = {"concurrency_limit": 1, "api_visibility": "private"}
        answered = gr.on([ask.click, prompts.submit], answer, asked, shown, **options)
        answered.then(None, js=SHOW, api_visibility="private")
        recording.change(empty, None, shown, queue=False, api_visibility="private")
    return page


def emptied() -> list[dict[str, Any]]:
    """Return the changes that take answers away, when they are not about the recording any more."""
    return [HIDDEN, {"value": EMPTY, "visible": True}, *[HIDDEN] * 3]


def respond(
    listener: Listener, path: str | None, prompts: str, template: str, labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Answer, or say why not: changes of refusal, scores, timeline, acoustics and neighbours."""
    try:
        answer = listener.answer(path, prompts, template, labels)
        return [HIDDEN, *_parts(listener, answer)]
    except RefusalError as error:
        return [{"value": refusal_html(str(error)), "visible": True}, *[HIDDEN] * 4]
    except Exception:  # a person gets a sentence, and whoever started the program the rest
        traceback.print_exc()
        told = "The program failed on this recording; its terminal says how."
        return [{"value": refusal_html(told), "visible": True}, *[HIDDEN] * 4]


def _parts(listener: Listener, answer: Answer) -> Iterator[dict[str, Any]]:
    """Yield the changes of scores, timeline, acoustics and neighbours; what is absent is hidden."""
    yield {"value": scores_html(answer), "visible": True}
    yield HIDDEN if answer.timeline is None else {"value": timeline_html(answer), "visible": True}
    yield {"value": acoustics_html(answer), "visible": True}
    if answer.neighbours is None:
        yield HIDDEN
    else:
        page = neighbours_html(answer.neighbours, len(listener.index))
        yield {"value": page, "visible": True}


# --- Serving -------------------------------------------------------------------------------------


def prepare_environment(uploads: Path) -> None:
    """Set what gradio reads from the environment: no analytics, uploads in a folder of their own.

    What the shell says (GRADIO_SHARE, GRADIO_ALLOWED_PATHS, ...) does not count.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)


def bar_connections(host: str) -> None:
    """Bar this process, from now on, from connecting to other machines.

    Not only for telemetry: gradio fetches URLs that a visitor sends in place of an upload. An audit
    hook cannot be taken back.
    """
    sys.addaudithook(lambda event, arguments: check_connection(event, arguments, host))


def check_connection(event: str, arguments: tuple, host: str) -> None:
    """Refuse an audit event of Python in which this process turns to another machine.

    Raises:
        PermissionError: naming the other machine
    """
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        other = address[0] if isinstance(address, tuple) else None  # else a local socket
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        other = arguments[0]
    else:
        return
    if other and not is_here(other, host):
        raise PermissionError(f"connecting to {other!r} is barred, this page is for itself")


def is_here(name: str | bytes, host: str) -> bool:
    """Whether a name or an address is this machine's: loopback, or what the page is bound to."""
    name = name.decode("ascii", "replace") if isinstance(name, bytes) else name
    if name in (host, "localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _theme() -> "gradio.themes.Default":
    """Fonts of the visitor's own machine, and white on blue that can be read."""
    import gradio as gr

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
    return gr.themes.Default(primary_hue="blue", **fonts).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
    )


def serve(page: "gradio.Blocks", host: str, port: int, megabytes: float) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # uploads are deleted then, too
    page.queue(api_open=False, max_size=WAITING)
    # A site elsewhere that lets its name point to 127.0.0.1 must not get at the page.
    local = ["127.0.0.1", "localhost"]
    names = local if host in local else ["*"]
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        allowed_paths=[],
        max_file_size=round(megabytes * 2**20),
        show_error=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        ssr_mode=False,
        inbrowser=False,
        quiet=True,
        prevent_thread_lock=True,
        theme=_theme(),
        css=STYLE,
        app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=names)]},
    )
    print(f"ParaCLAP is at {page.local_url} (Ctrl-C ends it)", flush=True)
    page.block_thread()
