"""Embeddings: prompt ensembles, batches, and a cache by model and file content."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from paraclap.audio import AudioError
from paraclap.corpora import table as corpora
from paraclap.data.dataset import ClipDataset
from paraclap.evaluation import embed, encoded
from paraclap.evaluation.embed import embed_clips
from paraclap.evaluation.embedding_cache import DiskEmbeddingCache, audio_fingerprint, clip_keys
from paraclap.model.build import build_model


@pytest.fixture
def clips(corpus):
    return ClipDataset(corpora.read_corpus(corpus).iloc[:9], corpus)


def counted(model):
    """Count the clips that the audio side embeds."""
    count = []
    plain = model.get_audio_features

    def counting(values, mask=None):
        count.extend(range(len(values)))
        return plain(values, mask)

    model.get_audio_features = counting
    return count


# --- Texts ---------------------------------------------------------------------------------------


def test_class_embedding_is_the_mean_of_its_prompts(tiny):
    prompts = {"anger": ("an angry voice", "rage"), "sadness": ("tears",)}
    classes = embed.embed_classes(*tiny, prompts)
    angry, rage, tears = (embed.embed_texts(*tiny, [t])[0] for t in sum(prompts.values(), ()))
    mean = (angry + rage) / 2
    assert torch.allclose(classes[0], mean / mean.norm(), atol=1e-6)
    assert torch.allclose(classes[1], tears, atol=1e-6)


@pytest.mark.parametrize("prompts", [{"a": ("x",), "b": ("x",)}, {"a": ("x", "y"), "b": ("y",)}])
def test_classes_with_the_same_prompt_are_refused(tiny, prompts):
    with pytest.raises(ValueError, match="cannot distinguish them"):
        embed.embed_classes(*tiny, prompts)


def test_a_string_instead_of_a_list_of_prompts_is_refused(tiny):
    with pytest.raises(TypeError, match="tuple"):
        embed.embed_classes(*tiny, {"a": "xy", "b": "zw"})


def test_texts_are_embedded_by_length_and_returned_in_their_order(tiny, monkeypatch):
    texts = ["an angry voice that is loud", "sad", "the voice is loud and sad", "rage", "", "sad"]
    alone = torch.cat([embed.embed_texts(*tiny, [text]) for text in texts])
    monkeypatch.setattr(embed, "TEXT_BATCH", 2)
    model, widths = tiny[0], []
    plain = model.get_text_features
    monkeypatch.setattr(
        model, "get_text_features", lambda *given: widths.append(given[0].shape[1]) or plain(*given)
    )
    assert torch.allclose(embed.embed_texts(*tiny, texts), alone, atol=1e-6)
    assert widths == sorted(widths) and widths[0] < widths[-1]


# --- Clips ---------------------------------------------------------------------------------------


def test_chunks_do_not_change_embeddings(tiny, clips, monkeypatch):
    whole = embed_clips(*tiny, clips)
    monkeypatch.setattr(encoded, "CHUNK", 4)
    assert torch.allclose(embed_clips(*tiny, clips), whole, atol=1e-6)


def test_group_norm_encoders_are_evaluated_one_clip_at_a_time(settings, clips):
    settings.audio.config |= {"feat_extract_norm": "group", "do_stable_layer_norm": False}
    model, processor = build_model(settings, ["a"])
    assert torch.isfinite(embed_clips(model.eval(), processor, clips)).all()


def test_unreadable_clip_is_named(tiny, clips, tmp_path):
    broken = ClipDataset(pd.DataFrame(index=pd.MultiIndex.from_tuples(clips.clips[:2])), tmp_path)
    for file, *_ in broken.clips:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes((clips.recordings.root / file).read_bytes()[:1000])
    with pytest.raises(AudioError, match=r"\.wav"):
        embed_clips(*tiny, broken)


def test_cached_embeddings_are_equal_and_not_computed_again(tiny, clips, tmp_path):
    count = counted(tiny[0])
    mark = audio_fingerprint(*tiny)
    first = embed_clips(*tiny, clips, cache=DiskEmbeddingCache(tmp_path, mark))
    assert len(count) == 9
    second = embed_clips(*tiny, clips, cache=DiskEmbeddingCache(tmp_path, mark))
    assert len(count) == 9, "nothing was embedded again"
    assert torch.equal(first, second)
    assert not list(tmp_path.rglob("*.tmp"))


def test_only_missing_clips_are_embedded(tiny, clips, corpus, tmp_path):
    count = counted(tiny[0])
    mark = audio_fingerprint(*tiny)
    few = ClipDataset(corpora.read_corpus(corpus).iloc[2:5], corpus)
    known = embed_clips(*tiny, few, cache=DiskEmbeddingCache(tmp_path, mark))
    every = embed_clips(*tiny, clips, cache=DiskEmbeddingCache(tmp_path, mark))
    assert len(count) == 3 + 6
    assert torch.equal(every[2:5], known)
    assert torch.allclose(every, embed_clips(*tiny, clips), atol=1e-6)


def test_interrupted_run_keeps_finished_chunks(tiny, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(encoded, "CHUNK", 4)
    mark, plain = audio_fingerprint(*tiny), tiny[0].get_audio_features
    done = []

    def failing(values, mask=None):
        done.extend(range(len(values)))
        if len(done) > 4:
            raise KeyboardInterrupt
        return plain(values, mask)

    tiny[0].get_audio_features = failing
    with pytest.raises(KeyboardInterrupt):
        embed_clips(*tiny, clips, cache=DiskEmbeddingCache(tmp_path, mark))
    assert len(DiskEmbeddingCache(tmp_path, mark)) == 4


def test_key_is_the_content_of_the_file_and_the_segment(clips, tmp_path):
    names = list(dict.fromkeys(file for file, _, _ in clips.clips))[:2]
    for name, new in zip(names, ("first.wav", "second.wav"), strict=True):
        shutil.copy(clips.recordings.root / name, tmp_path / new)
    shutil.copy(tmp_path / "first.wav", tmp_path / "copy.wav")
    (tmp_path / "t.csv").write_text(
        "file,start,end\nfirst.wav,0,0.3\nfirst.wav,0.1,0.3\ncopy.wav,0,0.3\nsecond.wav,0,0.3\n"
    )
    table = corpora.read_corpus(tmp_path / "t.csv")
    first, later, copy, second = clip_keys(ClipDataset(table, tmp_path))
    assert first == copy and len({first, later, second}) == 3
    (tmp_path / "first.wav").write_bytes((tmp_path / "second.wav").read_bytes())
    changed = clip_keys(ClipDataset(table, tmp_path))
    assert changed[0] == second and changed[2] == copy


def test_fingerprint_depends_on_the_audio_side_alone(tiny):
    model, processor = tiny
    before = audio_fingerprint(model, processor)
    with torch.no_grad():
        next(model.text_branch.parameters()).add_(1)
        model.logit_scale.add_(0.1)
    assert audio_fingerprint(model, processor) == before
    processor.feature_extractor.gain *= 2
    other_gain = audio_fingerprint(model, processor)
    with torch.no_grad():
        model.audio_projection.linear1.weight[0, 0] += 1e-6
    assert len({before, other_gain, audio_fingerprint(model, processor)}) == 3


def test_damaged_cache_file_is_ignored(tiny, clips, tmp_path):
    mark = audio_fingerprint(*tiny)
    embed_clips(*tiny, clips, cache=DiskEmbeddingCache(tmp_path, mark))
    (path,) = tmp_path.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # one bit of one embedding
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="does not have the hash"):
        cache = DiskEmbeddingCache(tmp_path, mark)
    assert len(cache) == 0


def test_keys_and_embeddings_belong_together(tmp_path):
    cache = DiskEmbeddingCache(tmp_path, "model")
    rows = torch.eye(3)
    cache.add([bytes([n]) * 32 for n in range(3)], rows)
    again = DiskEmbeddingCache(tmp_path, "model")
    found = torch.zeros(2, 3)
    assert again.fill(found, [bytes([2]) * 32, bytes([9]) * 32], torch.arange(3), 3) == [1]
    assert np.array_equal(found[0], rows[2])
    assert len(DiskEmbeddingCache(tmp_path, "other model")) == 0


@pytest.mark.parametrize("part", ["audio_projection", "text_projection"])
def test_embeddings_that_are_not_finite_are_refused(tiny, clips, waveforms, part):
    model, processor = tiny
    with torch.no_grad():
        getattr(model, part).linear1.weight[0, 0] = torch.nan
    ways = [lambda: embed_clips(*tiny, clips), lambda: embed.embed_waveforms(*tiny, waveforms)]
    if part == "text_projection":
        ways = [lambda: embed.embed_texts(*tiny, ["angry"])]
    for way in ways:
        with pytest.raises(encoded.EmbeddingError, match="are not finite, such as that of"):
            way()
