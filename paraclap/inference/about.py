"""What the web page states about its model, from the configuration and the model card."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

PAPER = "https://arxiv.org/abs/2406.07203"
CODE = "https://github.com/KeiKinn/ParaCLAP"
PURPOSE = (
    "Describe a voice in your own words: ParaCLAP scores how well each description, such as"
    " <em>angry</em> or <em>calm</em>, fits a recording, without a fixed set of labels."
)
SHOWN = ["corpus", "target", "clips", "speakers", "chance", "UAR", "95 %", "trained on"]
"""Columns of the scores of a model card that are shown."""
MEANING = (
    "UAR: mean recall of the classes; chance: UAR of random guessing; 95 %: confidence interval"
    " over speakers, not defined (-) for two; trained on: how many of the scored clips and speakers"
    " were part of the training. Scores of other recordings, languages and microphones are lower."
)


def card_scores(card: Path | None) -> pd.DataFrame:
    """Return the table of scores of a model card as text; empty without a card or scores."""
    text = "" if card is None else card.read_text(encoding="utf-8", errors="replace")
    section = text.partition("\n## Scores\n")[2].partition("\n## ")[0]
    lines = [line.strip().strip("|").split("|") for line in section.splitlines() if "|" in line]
    rows = [[cell.strip() for cell in line] for line in lines]
    if not rows or not set(SHOWN) <= set(rows[0]):
        return pd.DataFrame(columns=SHOWN)
    whole = [row for row in rows[2:] if len(row) == len(rows[0])]
    return pd.DataFrame(whole, columns=rows[0])


def header(model: str, provenance: Mapping[str, Any], scores: pd.DataFrame) -> str:
    """Return the head of the page as HTML: purpose, links, and model in one sentence each."""
    facts = " ".join(
        [f"Model <strong>{html.escape(model)}</strong>.", *_summary(provenance, scores)]
    )
    links = "".join(
        f'<a href="{url}" target="_blank" rel="noopener">{name}</a>'
        for name, url in (("Paper", PAPER), ("Code", CODE))
    )
    return f"<h1>ParaCLAP</h1><p>{PURPOSE}</p><p class='facts'>{facts}</p><nav>{links}</nav>"


def _summary(provenance: Mapping[str, Any], scores: pd.DataFrame) -> list[str]:
    """Return corpora and speakers of the training, and UAR of emotion, as sentences in HTML."""
    sentences = []
    if corpora := provenance.get("corpora"):
        speakers = provenance.get("speakers")
        of = f" ({speakers} speakers)" if speakers else ""
        sentences.append(f"Trained on {html.escape(', '.join(map(str, corpora)))}{of}.")
    found = []
    for _, row in scores[scores["target"] == "emotion"].iterrows():
        limits = [limit.strip() for limit in row["95 %"].split("-")]
        interval = f" [{', '.join(limits)}]" if all(limits) else ""
        of = f"{row['speakers']} speakers, chance {row['chance']}"
        text = f"{row['corpus']} {row['UAR']}{interval} ({of})"
        found.append(html.escape(text))
    if found:
        others = (scores["trained on"] == "none").all()
        speakers = "speakers that it was not trained on" if others else "the scored speakers"
        sentences.append(f"UAR of emotion for {speakers}: {', '.join(found)}.")
    return sentences


def details(provenance: Mapping[str, Any], scores: pd.DataFrame) -> str:
    """Return what the captions of the training describe, and all scores, as HTML."""
    parts = []
    if attributes := provenance.get("attributes"):
        captions = (f"{name} ({', '.join(found)})" for name, found in attributes.items())
        parts.append(f"The captions of the training describe {'; '.join(captions)}.")
    if free := provenance.get("free_captions"):
        parts.append(f"It was trained on {free} different captions in free wording.")
    if provenance.get("clips"):
        parts.append(f"It was trained on {provenance['clips']} clips.")
    text = "".join(f"<p>{html.escape(part)}</p>" for part in parts)
    if scores.empty:
        return text + "<p>This model has no card with scores.</p>"
    table = scores[SHOWN].to_html(index=False, border=0, classes="plain")
    return f"{text}<div class='scroll'>{table}</div><p>{html.escape(MEANING)}</p>"
