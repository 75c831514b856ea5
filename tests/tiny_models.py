"""Tiny real models for tests: configurations of towers, batches, and a reference implementation.

Shapes: B clips, K texts, T samples, D embedding size.
"""

import numpy as np
import torch
from transformers import BertConfig, BertModel, Wav2Vec2Config, Wav2Vec2Model

from paraclap.model.build import build_model
from paraclap.model.towers import train_tokenizer

RATE = 16_000
TINY_AUDIO = {
    "model_type": "wav2vec2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_feat_extract_layers": 3,
    "conv_dim": [16, 24, 32],
    "conv_kernel": [40, 8, 4],
    "conv_stride": [20, 8, 4],
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_length": 4,
    "layerdrop": 0.0,
}
TINY_TEXT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
TINY_MEL = {
    "model_type": "wav2vec2-bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "position_embeddings_type": None,
    "conv_depthwise_kernel_size": 5,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
}
TINY_WHISPER = {
    "model_type": "whisper",
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
TEXTS = ["pitch is high and emotion is anger", "the speaker sounds sad", "the voice is loud"]
CAPTIONS = ["emotion is anger", "sad", "emotion is anger", "the voice is loud and pitch is high"]


def save_encoders(folder):
    """Save two tiny pretrained encoders, `tiny-speech` in half precision and `tiny-words`."""
    torch.manual_seed(1)
    tokenizer = train_tokenizer(TEXTS, 150)
    Wav2Vec2Model(Wav2Vec2Config(**TINY_AUDIO)).half().save_pretrained(folder / "tiny-speech")
    text = BertModel(BertConfig(**TINY_TEXT, vocab_size=len(tokenizer)))
    text.save_pretrained(folder / "tiny-words")
    tokenizer.save_pretrained(folder / "tiny-words")
    return folder


def embed(model, processor, waveforms, **options):
    """Embeddings (B, D) of waveforms, as one batch."""
    batch = processor.feature_extractor(
        waveforms, sampling_rate=RATE, return_tensors="pt", **options
    )
    with torch.no_grad():
        return model.get_audio_features(**batch).pooler_output


def batch_of(processor, lengths=(9000, 6000, 9000, 8000), captions=CAPTIONS, seed=0):
    """A batch in the form of `Collate`; equal captions match each other's clips."""
    rng = np.random.default_rng(seed)
    waveforms = [0.1 * rng.standard_normal(n) for n in lengths]
    batch = dict(
        processor.feature_extractor(
            waveforms, sampling_rate=16_000, samples=9000, return_tensors="pt"
        )
    )
    batch |= dict(processor.tokenizer(list(captions), padding=True, return_tensors="pt"))
    batch["row"] = list(range(len(captions)))
    batch["own"] = batch["row"]
    matches = torch.tensor([[float(a == b) for b in captions] for a in captions])
    batch["matches"] = matches, matches.T
    return batch


def model_of(settings, audio=None, text=0.0, dropout=0.0, precise=True):
    """A tiny model in training mode, without dropout and masking unless set."""
    quiet = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    quiet |= {"feat_proj_dropout": 0.0, "mask_time_prob": 0.0}
    settings.audio.config |= quiet | (audio or {})
    settings.text.config |= {"hidden_dropout_prob": text, "attention_probs_dropout_prob": text}
    settings.projection_dropout = dropout
    torch.manual_seed(0)
    model, processor = build_model(settings, CAPTIONS)
    return (model.double() if precise else model).train(), processor


class Reference:
    """ParaCLAP built from transformers and torch alone, without the package."""

    def __init__(self, audio, text, dimensions, seed=0):
        torch.manual_seed(seed)
        self.audio = Wav2Vec2Model(Wav2Vec2Config(**audio)).eval()
        self.text = BertModel(BertConfig(**text)).eval()
        self.heads = {
            name: torch.nn.ModuleDict(
                {
                    "linear1": torch.nn.Linear(config.hidden_size, dimensions, bias=False),
                    "linear2": torch.nn.Linear(dimensions, dimensions, bias=False),
                    "layer_norm": torch.nn.LayerNorm(dimensions),
                }
            )
            for name, config in (("audio", self.audio.config), ("text", self.text.config))
        }
        self.logit_scale = torch.tensor(2.5)
        with torch.no_grad():  # biases and norms as initialised would hide mistakes
            for module in (self.audio, self.text, *self.heads.values()):
                for tensor in module.parameters():
                    tensor.add_(0.02 * torch.randn(tensor.shape))

    def state_dict(self):
        """All tensors under the names of the published file."""
        state = {"logit_scale": self.logit_scale}
        for branch, base in (("audio", self.audio), ("text", self.text)):
            state |= {f"{branch}_branch.base.{n}": v for n, v in base.state_dict().items()}
            state |= {
                f"{branch}_projection.{n}": v for n, v in self.heads[branch].state_dict().items()
            }
        old = {"parametrizations.weight.original0": "weight_g"}
        old |= {"parametrizations.weight.original1": "weight_v"}
        for new, name in old.items():
            prefix = "audio_branch.base.encoder.pos_conv_embed.conv."
            state[prefix + name] = state.pop(prefix + new)
        positions = torch.arange(self.text.config.max_position_embeddings)[None]
        return state | {"text_branch.base.embeddings.position_ids": positions}

    def embed(self, branch, pooled):
        head = self.heads[branch]
        first = head["linear1"](pooled)
        embedding = head["layer_norm"](first + head["linear2"](torch.nn.functional.gelu(first)))
        return embedding / embedding.norm(dim=-1, keepdim=True)

    @torch.no_grad()
    def embed_clip(self, waveform):
        """(1, D) of one waveform (T,), not padded."""
        frames = self.audio(torch.from_numpy(waveform)[None]).last_hidden_state
        return self.embed("audio", frames.mean(dim=1))

    @torch.no_grad()
    def embed_text(self, tokens):
        """(1, D) of one list of token numbers."""
        return self.embed("text", self.text(torch.tensor([tokens])).last_hidden_state[:, 0])
