"""The web page in gradio: examples, layout and server."""

import html
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
import soundfile
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from paraclap.audio import SAMPLING_RATE, AudioError
from paraclap.corpora.synthetic_speakers import draw_prosody, make_speakers
from paraclap.corpora.synthetic_voice import render
from paraclap.inference.guards import RequestGuard, ServerError, check_address
from paraclap.inference.limits import (
    HOST,
    KEPT_SECONDS,
    NEIGHBOURS,
    QUEUE,
    SWEEP_SECONDS,
    TOTAL_MEGABYTES,
)
from paraclap.inference.page import (
    Analysis,
    Analyzer,
    RequestError,
    acoustics_table,
    excerpt,
    timeline_table,
)
from paraclap.inference.search import hit_notes

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
"""Example clips of the synthetic corpus; several emotions make a long one."""
STYLE = """
#checks { background: #fdeeba; color: #332600; border-radius: 8px; padding: 8px 12px; }
#checks * { color: inherit; }
"""
PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
"""Characters that Markdown could interpret."""
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
    analyzer: Analyzer, examples: Sequence[tuple[str, Path]], model: str, megabytes: float
) -> gr.Blocks:
    """Lay out the page.

    Args:
        analyzer: computes the results.
        examples: title and file of each example clip.
        model: name of the model.
        megabytes: largest upload [MB], as displayed.
    """
    limit = f"up to {analyzer.max_seconds:g} s and {megabytes:g} MB"
    with gr.Blocks(
        title="ParaCLAP", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS)
    ) as page:
        gr.Markdown(
            f"# ParaCLAP\nZero-shot classification of a voice by prompts. Model: `{model}`"
            f"{_training(analyzer.paraclap.model.config.provenance or {})}"
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                inputs = _inputs(analyzer, examples, limit)
                button = gr.Button("Analyse", variant="primary")
            with gr.Column(scale=3, min_width=320):
                outputs = _outputs(analyzer)

        def respond(path: str | None, prompts: str, template: str, *groups: str) -> list[Any]:
            labels = dict(zip(analyzer.groups, groups, strict=True))
            try:
                analysis = analyzer.analyze(path, prompts, template, labels)
            except RequestError as error:
                gr.Warning(html.escape(str(error)))
                return cleared(len(outputs))
            return shown(analysis)

        recording, prompts, *_ = inputs
        options = {"concurrency_limit": 1, "api_visibility": "private"}
        gr.on([button.click, prompts.submit], respond, inputs, outputs, **options)
        recording.change(
            lambda: cleared(len(outputs)), None, outputs, queue=False, api_visibility="private"
        )
    return page


def _training(provenance: Mapping[str, Any]) -> str:
    """Return corpora, speakers and classes of the training as Markdown, as far as recorded."""
    sentences = []
    if corpora := provenance.get("corpora"):
        speakers = provenance.get("speakers")
        of = f", {speakers} speakers" if speakers else ""
        sentences.append(f"Trained on {', '.join(map(str, corpora))}{of}.")
    if attributes := provenance.get("attributes"):
        captions = (f"{name} ({', '.join(found)})" for name, found in attributes.items())
        sentences.append(f"Its captions describe {'; '.join(captions)}.")
    if free := provenance.get("free_captions"):
        sentences.append(f"It was trained on {free} different captions in free wording.")
    return html.escape("".join(f"\n\n{sentence}" for sentence in sentences))


def _inputs(
    analyzer: Analyzer, examples: Sequence[tuple[str, Path]], limit: str
) -> list[gr.components.Component]:
    """Create recording, prompts, template, and a dropdown for each group of the edges."""
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
        label="Synthetic examples",
        example_labels=[title for title, _ in examples],
        api_visibility="private",
    )
    prompts = gr.Textbox("\n".join(PROMPTS), label="Prompts, one per line", lines=5, max_lines=20)
    template = gr.Textbox(TEMPLATE, label="Template ({} is replaced by the prompt)")
    groups = [
        gr.Dropdown(
            [("not specified", ""), *((name, name) for name in names)],
            value="",
            label=f"{column.capitalize()} of the speaker, for the levels",
        )
        for column, names in analyzer.groups.items()
    ]
    return [recording, prompts, template, *groups]


def _outputs(analyzer: Analyzer) -> list[gr.components.Component]:
    """Create the components that `shown` fills."""
    checks = gr.Markdown(visible=False, elem_id="checks")
    scores = gr.Label(label="Probability of each prompt", show_heading=False, buttons=[])
    notes = gr.Markdown(visible=False)
    timeline = gr.LinePlot(
        x="time",
        y="probability",
        color="prompt",
        x_title="time [s]",
        y_lim=[0, 1],
        label="Probability over time",
        visible=False,
        buttons=[],
    )
    acoustics = gr.Dataframe(
        label="Measured acoustics", visible=False, interactive=False, wrap=True, buttons=[]
    )
    players = [
        gr.Audio(visible=False, interactive=False, buttons=[])
        for _ in range(0 if analyzer.index is None else NEIGHBOURS)
    ]
    return [checks, scores, notes, timeline, acoustics, *players]


def cleared(count: int) -> list[Any]:
    """Return the updates that remove all results."""
    hidden = gr.update(visible=False)
    return [hidden, gr.update(value=None), *[hidden] * (count - 2)]


def shown(analysis: Analysis) -> list[Any]:
    """Return the updates of checks, scores, notes, timeline, acoustics and players."""
    scores = {
        f"{name} (cosine {analysis.scores[f'cosine.{name}']:.2f})": probability
        for name, probability in analysis.probabilities().items()
    }
    timeline = gr.update(visible=False)
    if analysis.timeline is not None:
        timeline = gr.update(value=timeline_table(analysis), visible=True)
    checks = checks_of(analysis)
    acoustics = gr.update(visible=False)
    if analysis.acoustics is not None:
        acoustics = gr.update(value=acoustics_table(analysis), visible=True)
    return [
        gr.update(value=checks, visible=bool(checks)),
        scores,
        gr.update(value=notes_of(analysis), visible=True),
        timeline,
        acoustics,
        *_players(analysis.neighbours),
    ]


def checks_of(analysis: Analysis) -> str:
    """Return what questions the results as Markdown."""
    lines = [f"**Check the recording:** {check}" for check in analysis.checks]
    if analysis.untrained:
        names = ", ".join(PUNCTUATION.sub(r"\\\g<0>", name) for name in analysis.untrained)
        lines.append(f"**Not trained:** {names}. No caption of the training describes this.")
    return "\n".join(f"- {line}" for line in lines)


def notes_of(analysis: Analysis) -> str:
    """Return the remarks on an analysis as Markdown."""
    lines = [f"Duration {analysis.seconds:.1f} s"]
    if analysis.timeline is not None:
        silent = (analysis.timeline["quality"] == "silent").sum()
        count = len(analysis.timeline)
        lines[0] += f", mean of {count - silent or count} windows"
    lines.append(
        f"Catch-all class (mean of neutral prompts such as “a person is speaking”), scored beside"
        f" the prompts: **{analysis.scores['none_of_these']:.0%}**"
    )
    lines.append(
        "Probabilities are a softmax over these prompts and add up to 100 % even if none fits;"
        " the cosine of a prompt does not depend on the others"
    )
    if analysis.reference_clips:
        lines.append(
            f"Scores are relative to the mean of {analysis.reference_clips} reference clips;"
            " similar clips are not"
        )
    return "\n".join(f"- {line}" for line in lines)


def _players(neighbours: pd.DataFrame | None) -> Iterator[Any]:
    """Yield one update for each player of a similar clip."""
    if neighbours is None:
        return
    for _, hit in neighbours.iterrows():
        limits = "" if np.isnan(hit["end"]) else f", {hit['start']:.1f} to {hit['end']:.1f} s"
        label = f"Similar clip, cosine {hit['cosine']:.2f}: {hit['file']}{limits}"
        label += "".join(f" ({note})" for note in hit_notes(hit))
        try:
            yield gr.update(value=excerpt(hit), label=label, visible=True)
        except AudioError as error:
            reason = error.reason.replace("_", " ")
            yield gr.update(value=None, label=f"{label} (cannot be read: {reason})", visible=True)
    for _ in range(NEIGHBOURS - len(neighbours)):
        yield gr.update(visible=False)


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
            css=STYLE,
            quiet=True,
            prevent_thread_lock=True,
            theme=gr.themes.Default(
                primary_hue="blue",
                font=["system-ui", "sans-serif"],  # of the visitor's machine, not from the web
                font_mono=["monospace"],
            ),
            app_kwargs={"middleware": guards},
        )
    except OSError as error:
        raise ServerError(f"{host}:{port} cannot be used: {error}") from error
    print(f"ParaCLAP is at {page.local_url} (Ctrl-C ends it)", flush=True)
    page.block_thread()
