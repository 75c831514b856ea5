"""Model cards: recorded facts and scores, missing ones, and inherited licences."""

import copy
import re
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from paraclap.model.card import model_card
from paraclap.model.modeling_paraclap import PUBLISHED_CONFIG
from paraclap.model.sources import ModelError

PUBLISHED = PUBLISHED_CONFIG["provenance"]
SCORES = {
    "model": "runs/small",
    "prompt_set": "sentence",
    "corpora": {
        "ravdess": {
            "UAR": 0.41234,
            "ACC": 0.4,
            "F1": 0.39,
            "chance": 0.125,
            "clips": 240,
            "classes": 8,
            "speakers": 4,
            "interval": [0.3, 0.5004],
            "trained_on": {"clips": 2, "text": "2 of 240 clips"},
            "target": "emotion",
            "unknown": {"entry": "ignored"},
        },
        "mine": {"UAR": 0.5, "chance": 0.5, "clips": 3, "classes": 2, "interval": None},
    },
}


def card_of(provenance, batches=True, bases=None, **options):
    config = SimpleNamespace(
        provenance=copy.deepcopy(provenance), projection_dim=768, base_encoders=bases
    )
    text = model_card("USER/voice", config, 276_300_000, batches, **options)
    return ModelCard(text), text


def test_published_weights_inherit_licence_and_base_models():
    card, text = card_of(PUBLISHED)
    assert card.data.license == "cc-by-nc-sa-4.0"
    assert card.data.base_model == [PUBLISHED["audio_encoder"], "google-bert/bert-base-uncased"]
    assert card.data.language == ["en"]
    assert card.data.pipeline_tag == "zero-shot-audio-classification"
    assert card.data.library_name == "transformers"
    for fact in ("no commercial use", "Apache 2.0", "MSP-Podcast 1.9", "276.3 million"):
        assert fact in text


def test_missing_facts_are_listed_as_not_recorded():
    card, text = card_of(None)
    assert card.data.license == "unknown"
    assert card.data.base_model is None and card.data.language is None
    assert card.data.eval_results is None
    for title in ("Speech", "Text"):
        assert f"- {title}: Not recorded." in text
    assert "- corpora: not recorded" in text
    assert re.search(r"## Scores\n\nNot recorded\.", text)


def test_towers_from_random_weights_have_no_base_model():
    provenance = {"audio_encoder": None, "text_encoder": None, "corpora": ["ravdess"], "seed": 3}
    card, text = card_of(provenance, licence="cc0-1.0")
    assert card.data.base_model is None
    assert card.data.license == "cc0-1.0"
    assert text.count("trained from random weights") == 2
    assert "- corpora: ravdess\n" in text and "- seed: 3" in text


def test_licence_that_an_encoder_forbids_is_refused():
    with pytest.raises(ModelError, match="cannot be mit: audeering.* is cc-by-nc-sa-4.0"):
        card_of(PUBLISHED, licence="mit")
    assert card_of(PUBLISHED, licence="cc-by-nc-sa-4.0")[0].data.license == "cc-by-nc-sa-4.0"
    assert card_of({"text_encoder": "bert-base-uncased"}, licence="mit")[0].data.license == "mit"


def test_scores_are_in_metadata_and_table_with_chance_and_interval():
    card, text = card_of(PUBLISHED, scores=SCORES)
    results = [(r.dataset_name, r.metric_type, r.metric_value) for r in card.data.eval_results]
    assert sorted(results) == [
        ("mine", "recall", 0.5),
        ("ravdess", "accuracy", 0.4),
        ("ravdess", "f1", 0.39),
        ("ravdess", "recall", 0.4123),
    ]
    row = "| ravdess | emotion | 240 | 4 | 8 | 0.125 | 0.412 | 0.300-0.500 | 0.400 | 0.390 |"
    assert f"{row} 2 of 240 clips |" in text
    assert "| mine | - | 3 | - | 2 | 0.500 | 0.500 | - | - | - | - |" in text
    assert "prompts: sentence. " in text
    assert "prompts: a, b. " in card_of(None, scores={**SCORES, "prompt_set": ["a", "b"]})[1]


def test_encoder_without_padding_is_a_limit():
    assert "needs clips of equal length" in card_of(PUBLISHED, batches=False)[1]
    assert "needs clips of equal length" not in card_of(PUBLISHED)[1]


def test_card_of_heads_names_the_encoders_to_fetch():
    names = {"audio_encoder": "openai/whisper-base", "text_encoder": "mine/text"}
    bases = {
        "audio": {
            "name": "openai/whisper-base",
            "revision": "abc",
            "sha256": "123",
            "stored": False,
        },
        "text": {"name": "mine/text", "revision": None, "sha256": "456"},
    }
    card, text = card_of(names | {"corpora": ["ravdess", "own"]}, bases=bases, reads_level=False)
    assert "- Speech: openai/whisper-base; unchanged and not in this folder: fetched" in text
    assert "at revision abc, refused unless the hash of its tensors is 123\n" in text
    assert "- Text: mine/text\n" in text
    assert "- `openai/whisper-base`: MIT." in text
    assert "own licences:\n  - RAVDESS, speech: CC BY-NC-SA 4.0\n\n" in text
    assert "recording level" not in text and "diagnoses.\n- Prompts" in text
