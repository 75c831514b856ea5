"""Sizes of pretrained encoders, as configurations; the benchmarks give them random weights."""

from typing import Any

WHISPER_BASE: dict[str, Any] = {
    "model_type": "whisper",
    "d_model": 512,
    "encoder_layers": 6,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "decoder_layers": 1,
}
MINILM: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
