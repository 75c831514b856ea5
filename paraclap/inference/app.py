"""The web page in gradio: examples, layout and server."""

import html
import itertools
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import soundfile
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from paraclap.audio import SAMPLING_RATE
from paraclap.corpora.synthetic_speakers import draw_prosody, make_speakers
from paraclap.corpora.synthetic_voice import render
from paraclap.inference.about import card_scores, details, header
from paraclap.inference.guards import RequestGuard, ServerError, check_address
from paraclap.inference.limits import (
    HOST,
    KEPT_SECONDS,
    QUEUE,
    SWEEP_SECONDS,
    TOTAL_MEGABYTES,
)
from paraclap.inference.page import Analyzer, RequestError
from paraclap.inference.results import CLICK_TO_PLAY, SCROLL, cleared, result_components, shown

PROMPTS = ("angry", "bored", "happy", "sad", "calm")
TEMPLATE = "the speaker sounds {}"
STYLE = Path(__file__).with_name("page.css")
EXAMPLES = (
    # title, speaker (even numbers are women), emotions one after the other
    ("Woman, angry", 0, ("anger",)),
    ("Man, sad", 1, ("sadness",)),
    ("Woman, happy", 2, ("happiness",)),
    ("Man, bored", 3, ("boredom",)),
    ("Man, calm, then angry", 5, ("neutral",) * 5 + ("anger",) * 5),
)
"""Example clips of the synthetic corpus; several emotions make a long one."""
HINT = "<p class='hint'>Choose an example, or record or upload a voice and press Analyse.</p>"
RECORDINGS = 2
"""Number of recordings that are shown side by side."""
READ_ADDRESS = """(prompts, template) => {
  const query = new URLSearchParams(location.search);
  return [query.get("prompts") ?? prompts, query.get("template") ?? template];
}"""
"""Fills in prompts and template of a link."""
GAP_SECONDS = 0.3
"""Silence between the parts of a long example [s]."""


def write_examples(folder: Path) -> Iterator[tuple[str, Path]]:
    """Synthesise the clips of `EXAMPLES`; yields title and file of each."""
    folder.mkdir(parents=True)
    speakers = make_speakers()
    for title, number, emotions in EXAMPLES:
        rng = np.random.default_rng(number)
        parts = []
        for emotion in emotions:
            prosody = draw_prosody(speakers[number], emotion, rng)
            parts += [render(speakers[number], prosody, rng)]
            parts += [np.zeros(round(GAP_SECONDS * SAMPLING_RATE))]
        path = folder / f"{title.replace(',', '').replace(' ', '_').lower()}.wav"
        soundfile.write(path, np.concatenate(parts[:-1]), SAMPLING_RATE, subtype="PCM_16")
        yield title, path


# --- Layout --------------------------------------------------------------------------------------


def build_page(
    analyzer: Analyzer,
    examples: Sequence[tuple[str, Path]],
    model: str,
    megabytes: float,
    card: Path | None = None,
) -> gr.Blocks:
    """Lay out the page.

    Args:
        analyzer: computes the results.
        examples: title and file of each example clip.
        model: name of the model.
        megabytes: largest upload [MB], as displayed.
        card: file of the model card, for the scores; None = unknown.
    """
    limit = f"up to {analyzer.max_seconds:g} s and {megabytes:g} MB"
    provenance = analyzer.paraclap.model.config.provenance or {}
    scores = card_scores(card)
    options = {"concurrency_limit": 1, "api_visibility": "private"}
    with gr.Blocks(
        title="ParaCLAP", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS)
    ) as page:
        gr.HTML(header(model, provenance, scores), elem_id="head", apply_default_css=False)
        with gr.Accordion("Training data and scores", open=False):
            gr.HTML(details(provenance, scores), elem_id="facts", apply_default_css=False)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                first, *groups = _recording(analyzer, f"Recording ({limit})", "recording")
                loaded = _examples(first, examples)
                with gr.Accordion("Compare with a second recording", open=False):
                    second, *others = _recording(analyzer, "Second recording", "second")
                prompts = gr.Textbox(
                    ", ".join(PROMPTS),
                    label="Prompts, separated by commas or lines",
                    lines=2,
                    max_lines=20,
                )
                template = gr.Textbox(TEMPLATE, label="Template ({} is replaced by the prompt)")
                button = gr.Button("Analyse", variant="primary")
            with gr.Column(scale=3, min_width=320), gr.Row():
                hint, columns, results = _result_columns(analyzer.index is not None)

        def respond(*values: str) -> list[Any]:
            paths, (prompts, template, *labels) = values[:RECORDINGS], values[RECORDINGS:]
            by_recording = np.reshape(np.array(labels, object), (RECORDINGS, -1))
            given = [number for number, path in enumerate(paths) if path] or [0]
            updates = [cleared(len(components)) for components in results]
            try:
                for number in given:
                    known = dict(zip(analyzer.groups, by_recording[number], strict=True))
                    analysis = analyzer.analyze(paths[number], prompts, template, known)
                    updates[number] = shown(analysis, paths[number], prompts, template)
            except RequestError as error:
                gr.Warning(html.escape(str(error)))
                return empty()
            seen = [gr.update(visible=number in given) for number in range(RECORDINGS)]
            return [gr.update(visible=False), *seen, *itertools.chain(*updates)]

        def empty() -> list[Any]:
            seen = [gr.update(visible=number == 0) for number in range(RECORDINGS)]
            return [gr.update(visible=True), *seen, *cleared(sum(map(len, results)))]

        inputs = [first, second, prompts, template, *groups, *others]
        filled = [hint, *columns, *itertools.chain(*results)]
        answered = gr.on([button.click, prompts.submit], respond, inputs, filled, **options)
        for done in (answered, loaded.then(respond, inputs, filled, **options)):
            done.then(None, js=SCROLL, api_visibility="private")
        changes = [event for clip in (first, second) for event in (clip.clear, clip.input)]
        gr.on(changes, empty, None, filled, queue=False, api_visibility="private")
        fields = [prompts, template]
        page.load(None, fields, fields, js=READ_ADDRESS, api_visibility="private")
    return page


def _result_columns(
    index: bool,
) -> tuple[gr.HTML, list[gr.Column], list[list[gr.components.Component]]]:
    """Create the hint and, for each recording, the column of its results; only one is visible."""
    columns, results = [], []
    for number in range(RECORDINGS):
        visible = number == 0
        with gr.Column(min_width=300, elem_classes="result", visible=visible) as column:
            if number == 0:
                hint = gr.HTML(HINT)
            results.append(result_components(index))
        columns.append(column)
    return hint, columns, results


def _recording(analyzer: Analyzer, label: str, name: str) -> list[gr.components.Component]:
    """Create a recording, and a dropdown for each group of the edges."""
    recording = gr.Audio(
        sources=["upload", "microphone"], type="filepath", label=label, buttons=[], elem_id=name
    )
    groups = [
        gr.Dropdown(
            [("not specified", ""), *((name, name) for name in names)],
            value="",
            label=f"{column.capitalize()} of the speaker, for the levels",
        )
        for column, names in analyzer.groups.items()
    ]
    return [recording, *groups]


def _examples(recording: gr.Audio, examples: Sequence[tuple[str, Path]]) -> gr.events.Dependency:
    """Create the examples; returns the event of a chosen one."""
    return gr.Examples(
        [[str(path)] for _, path in examples],
        [recording],
        label="Examples (synthetic voices)",
        example_labels=[title for title, _ in examples],
        api_visibility="private",
    ).load_input_event


# --- Server --------------------------------------------------------------------------------------


def serve(page: gr.Blocks, host: str, port: int, uploads: Path, megabytes: float) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        page: to serve.
        host: address to bind.
        port: to bind.
        uploads: folder of the uploads.
        megabytes: largest upload [MB].

    Raises:
        ServerError: if the address cannot be bound, for example because the port is in use.
    """
    check_address(host, port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that uploads are deleted
    page.queue(api_open=False, max_size=QUEUE)
    # DNS rebinding: a foreign site whose name resolves to 127.0.0.1 must not reach the page.
    local = [HOST, "localhost"]
    names = local if host in local else ["*"]
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=names),
        Middleware(RequestGuard, uploads=uploads, total=round(TOTAL_MEGABYTES * 2**20)),
    ]
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            max_file_size=round(megabytes * 2**20),
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            css_paths=[STYLE],
            js=CLICK_TO_PLAY,
            quiet=True,
            prevent_thread_lock=True,
            theme=gr.themes.Default(
                primary_hue="blue",
                font=["system-ui", "sans-serif"],  # of the visitor's machine, not from the web
                font_mono=["monospace"],
            ).set(body_text_color_subdued="*neutral_500"),
            app_kwargs={"middleware": guards},
        )
    except OSError as error:
        raise ServerError(f"{host}:{port} cannot be used: {error}") from error
    print(f"ParaCLAP is at {page.local_url} (Ctrl-C ends it)", flush=True)
    page.block_thread()
