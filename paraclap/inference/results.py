"""Results of the web page: HTML of an analysis, and updates of the components that show it."""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import gradio as gr
import numpy as np
import pandas as pd

from paraclap.audio import AudioError
from paraclap.audio.quality import have_flag
from paraclap.inference.limits import NEIGHBOURS
from paraclap.inference.page import FLAGS, Analysis
from paraclap.inference.search import hit_notes
from paraclap.inference.tables import (
    acoustics_table,
    excerpt,
    score_table,
    timeline_table,
    window_table,
)
from paraclap.inference.textgrid import annotations, text_grid

COLOURS = ("#2f6db5", "#d97706", "#c2334d", "#2a9d8f", "#7c5cbf", "#8d6e3f", "#d05fa2", "#6b7280")
"""Of the prompts, in their order, in bars and curves."""
NO_VOICE = {"silent": "Silence", "unvoiced": "No voice found"}
"""Flags of recordings whose scores do not describe a voice -> title of the note."""
CLICK_TO_PLAY = """() => document.addEventListener("click", (event) => {
  const plot = event.target.closest?.(".timeline");
  const area = plot?.querySelector("svg .root > g > path.background");
  const player = plot?.closest(".result").querySelector("audio.player");
  if (!area || !player) return;
  const box = area.getBoundingClientRect();
  const share = (event.clientX - box.left) / box.width;
  if (share < 0 || share > 1) return;
  player.currentTime = share * Number(player.dataset.seconds);
  player.play();
})"""
"""Plays the recording from the time at which its curves are clicked."""
SCROLL = """() => {
  if (innerWidth < 700) document.querySelector(".result h2")?.scrollIntoView({behavior: "smooth"});
}"""
"""Shows the results on a phone, where they are below the inputs."""


def result_components(index: bool) -> list[gr.components.Component]:
    """Create the components that `shown` fills, for one recording."""
    heading = gr.HTML(visible=False, apply_default_css=False)
    checks = gr.HTML(visible=False, apply_default_css=False)
    scores = gr.HTML(visible=False, apply_default_css=False)
    timeline = gr.LinePlot(
        x="time",
        y="probability",
        color="prompt",
        x_title="time [s]",
        y_lim=[0, 1],
        label="Probability over time: click to play from there",
        visible=False,
        buttons=[],
        elem_classes="timeline",
    )
    rest = [
        gr.HTML(visible=False, apply_default_css=False)
        for _ in ("player", "acoustics", "notes", "downloads")
    ]
    players = [
        gr.Audio(visible=False, interactive=False, buttons=[])
        for _ in range(NEIGHBOURS if index else 0)
    ]
    return [heading, checks, scores, timeline, *rest, *players]


def cleared(count: int) -> list[Any]:
    """Return the updates that remove all results."""
    return [gr.update(visible=False)] * count


def shown(analysis: Analysis, path: str, prompts: str, template: str) -> list[Any]:
    """Return the updates of the `result_components`.

    Args:
        analysis: of the recording.
        path: of the recording, an upload.
        prompts: as entered, for the link.
        template: as entered, for the link.
    """
    is_silent = "silent" in analysis.flags
    timeline, player = gr.update(visible=False), ""
    if analysis.timeline is not None and not is_silent:
        timeline = gr.update(
            value=timeline_table(analysis).round(3),  # as in its tooltips
            x_lim=[0, round(analysis.seconds, 3)],
            color_map=dict(zip(analysis.names, _colours(analysis), strict=True)),
            visible=True,
        )
        player = player_of(path, analysis.seconds)
    acoustics = "" if analysis.acoustics is None else acoustics_of(analysis)
    texts = [
        player,
        acoustics,
        "" if is_silent else notes_of(analysis),
        "" if is_silent else downloads_of(analysis, Path(path).name, prompts, template),
    ]
    heading = f"<h2>{html.escape(Path(path).name)} <small>{analysis.seconds:.1f} s</small></h2>"
    neighbours = None if is_silent else analysis.neighbours
    return [
        *map(_filled, (heading, checks_of(analysis), "" if is_silent else scores_of(analysis))),
        timeline,
        *map(_filled, texts),
        *_players(neighbours, 0 if analysis.neighbours is None else NEIGHBOURS),
    ]


def _filled(text: str) -> Any:
    """Return the update of a component that is hidden if it is empty."""
    return gr.update(value=text, visible=bool(text))


def _colours(analysis: Analysis) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(len(analysis.names))]


def scores_of(analysis: Analysis) -> str:
    """Return a bar for each prompt, in descending order, as HTML."""
    colours = dict(zip(analysis.names, _colours(analysis), strict=True))
    probabilities = analysis.probabilities()
    rows = []
    for name in sorted(probabilities, key=probabilities.get, reverse=True):
        share = f"{100 * probabilities[name]:.0f}"
        cosine = f"cosine {analysis.scores[f'cosine.{name}']:.2f}"
        rows.append(
            f"<li><span class='prompt'>{html.escape(name)}</span> <small>{cosine}</small>"
            f" <strong>{share} %</strong><div class='bar'>"
            f"<span style='width:{share}%;background:{colours[name]}'></span></div></li>"
        )
    has_voice = not set(NO_VOICE) & set(analysis.flags)
    title = "Probability of each prompt" + ("" if has_voice else ", although no voice was found")
    kind = "scores" if has_voice else "scores doubtful"
    return f"<h3>{title}</h3><ul class='{kind}'>{''.join(rows)}</ul>"


def checks_of(analysis: Analysis) -> str:
    """Return what questions the results as HTML."""
    boxes = []
    for check in analysis.checks:
        title = next((NO_VOICE[flag] for flag in NO_VOICE if FLAGS[flag] == check), None)
        kind = "stop" if title else "check"
        text = f"<strong>{title or 'Check the recording'}:</strong> {html.escape(check)}"
        boxes.append(f"<div class='{kind}' role='alert'>{text}</div>")
    if analysis.untrained and "silent" not in analysis.flags:
        names = html.escape(", ".join(analysis.untrained))
        text = f"<strong>Not trained:</strong> {names}. No caption of the training describes this."
        boxes.append(f"<div class='check'>{text}</div>")
    return "".join(boxes)


def notes_of(analysis: Analysis) -> str:
    """Return the remarks on an analysis as HTML."""
    lines = []
    if analysis.timeline is not None:
        silent = have_flag(analysis.timeline["quality"], "silent").sum()
        lines.append(f"Mean of {len(analysis.timeline) - silent} windows.")
    lines.append(
        "Catch-all class (mean of neutral prompts such as “a person is speaking”), scored beside"
        f" the prompts: <strong>{analysis.scores['none_of_these']:.0%}</strong>."
    )
    lines.append(
        "Probabilities are a softmax over these prompts and add up to 100 % even if none fits;"
        " the cosine of a prompt does not depend on the others."
    )
    if analysis.reference_clips:
        lines.append(
            f"Scores are relative to the mean of {analysis.reference_clips} reference clips;"
            " similar clips are not."
        )
    return f"<ul class='notes'>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"


def acoustics_of(analysis: Analysis) -> str:
    """Return the measured values as an HTML table."""
    table = acoustics_table(analysis).to_html(index=False, border=0, classes="plain")
    title = "<h3>Acoustics <small>measured, not predicted by the model</small></h3>"
    return f"{title}<div class='scroll'>{table}</div>"


def player_of(path: str, seconds: float) -> str:
    """Return a player of an upload as HTML, which `CLICK_TO_PLAY` controls."""
    source = f"gradio_api/file={quote(str(path))}"
    return (
        f"<audio class='player' controls preload='metadata' data-seconds='{seconds:.3f}'"
        f' src="{html.escape(source)}"></audio>'
    )


def downloads_of(analysis: Analysis, name: str, prompts: str, template: str) -> str:
    """Return links to the scores as CSV and TextGrid, and to the page with these prompts.

    The files are in the links themselves, so that nothing is stored on the server.
    """
    stem = html.escape(Path(name).stem)
    grid = annotations(window_table(analysis), analysis.names, analysis.seconds)
    files = {
        "csv": score_table(analysis, name).to_csv(index=False, lineterminator="\n"),
        "TextGrid": text_grid(grid, analysis.seconds),
    }
    links = [
        f"<a download='{stem}.{suffix}' href='data:text/plain;charset=utf-8,{quote(text)}'>"
        f"{suffix.replace('csv', 'CSV')}</a>"
        for suffix, text in files.items()
    ]
    query = html.escape(urlencode({"prompts": prompts, "template": template}))
    links.append(f"<a class='link' href='?{query}' target='_blank'>Link with these prompts</a>")
    return f"<nav class='downloads'>{''.join(links)}</nav>"


def _players(neighbours: pd.DataFrame | None, count: int) -> Iterator[Any]:
    """Yield one update for each player of a similar clip."""
    rows: Sequence[pd.Series] = []
    if neighbours is not None:
        rows = [hit for _, hit in neighbours.iterrows()]
    for hit in rows:
        limits = "" if np.isnan(hit["end"]) else f", {hit['start']:.1f} to {hit['end']:.1f} s"
        label = f"Similar clip, cosine {hit['cosine']:.2f}: {hit['file']}{limits}"
        label += "".join(f" ({note})" for note in hit_notes(hit))
        try:
            yield gr.update(value=excerpt(hit), label=label, visible=True)
        except AudioError as error:
            reason = error.reason.replace("_", " ")
            yield gr.update(value=None, label=f"{label} (cannot be read: {reason})", visible=True)
    for _ in range(count - len(rows)):
        yield gr.update(visible=False)
