"""Frozen encoders: outputs of a row do not depend on its batch, and are cached."""

import pytest
import torch

from paraclap.model import frozen
from paraclap.model.frozen import EmbeddingCache, FrozenEncoder
from paraclap.training.encoding import token_keys

CAPTIONS = ["emotion is anger", "the speaker sounds sad and pitch is high", "the voice is loud"]


@pytest.fixture
def still(tiny):
    model, processor = tiny
    return model.freeze(["audio", "text"]).train(), processor


def clips_of(processor, waveforms):
    batch = processor.feature_extractor(waveforms, sampling_rate=16_000, return_tensors="pt")
    return batch["input_values"], batch["padding_mask"]


def tokens_of(processor, captions):
    tokens = processor.tokenizer(captions, padding=True, return_tensors="pt")
    return tokens["input_ids"], tokens["attention_mask"]


def rows_of(branch, processor, waveforms):
    if branch == "audio":
        return clips_of(processor, [*waveforms, waveforms[0][:3000]])
    return tokens_of(processor, [*CAPTIONS, "sad", "pitch is low"])


@pytest.mark.parametrize("branch", ["audio", "text"])
def test_output_of_a_row_is_bit_equal_in_any_batch(still, waveforms, branch):
    model, processor = still
    inputs, mask = rows_of(branch, processor, waveforms)
    encoder = FrozenEncoder(model, branch)
    together = encoder(inputs, mask)
    for rows in ([3], [1, 4], [4, 0, 2]):
        assert torch.equal(encoder(inputs[rows], mask[rows]), together[rows])
    batch = model.pool(branch, inputs, mask).detach()  # one padded batch
    assert not together.requires_grad
    torch.testing.assert_close(together, batch, atol=2e-6, rtol=1e-5)
    assert not torch.equal(together, batch)  # so the first comparison can fail


@pytest.mark.parametrize("branch", ["audio", "text"])
def test_batches_of_equal_shape_give_the_same_rows(still, waveforms, branch):
    model, processor = still
    inputs, mask = rows_of(branch, processor, waveforms)
    alone = FrozenEncoder(model, branch)(inputs, mask)
    encoder = FrozenEncoder(model, branch, batch_size=4)
    shapes = []
    original = model.pool
    model.pool = lambda name, x, m: shapes.append(tuple(x.shape)) or original(name, x, m)
    torch.testing.assert_close(encoder(inputs, mask), alone, atol=2e-6, rtol=1e-5)
    assert {rows for rows, _ in shapes} == {4}
    encoder(inputs[:1], mask[:1])
    assert shapes[-1][0] == 4 and shapes[-1] in shapes[:-1]
    model.pool = original
    if branch == "audio":
        batch = encoder.statistics(inputs, mask)
        for row in range(len(inputs)):  # the shape of a batch depends on a row alone
            width = int(mask[row].sum())
            own = encoder.statistics(inputs[row : row + 1, :width], mask[row : row + 1, :width])
            assert torch.equal(own[0], batch[row])


def test_trained_encoder_cannot_be_cached(tiny):
    with pytest.raises(ValueError, match="audio encoder is not frozen"):
        FrozenEncoder(tiny[0].train(), "audio")


def test_caption_is_encoded_once(still):
    model, processor = still
    cache = EmbeddingCache(FrozenEncoder(model, "text"), budget=10**6)
    ids, mask = tokens_of(processor, CAPTIONS)
    first = cache(token_keys(ids, mask), ids, mask)
    wider, wider_mask = tokens_of(processor, [CAPTIONS[2], CAPTIONS[0], "sad " * 40])
    again = cache(token_keys(wider, wider_mask), wider, wider_mask)
    assert cache.encoded == len(cache) == 4
    assert torch.equal(again[:2], first[[2, 0]])


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_cache_is_bounded_and_drops_the_least_recently_used_rows(still, rows):
    model, processor = still
    ids, mask = tokens_of(processor, CAPTIONS)
    keys = token_keys(ids, mask)
    size = max(len(key) for key in keys) + 4 * 32 + frozen.ROW_OVERHEAD
    small = EmbeddingCache(FrozenEncoder(model, "text"), budget=rows * size)
    whole = FrozenEncoder(model, "text")(ids, mask)
    for order in ([0, 1], [0, 2], [0, 1], [0, 1, 2]):  # 0 is always used
        given = small([keys[row] for row in order], ids[order], mask[order])
        assert torch.equal(given, whole[order])
        assert len(small) <= rows
    encoded_again = {0: 9, 1: 8, 2: 5}
    assert small.encoded == encoded_again[rows]
