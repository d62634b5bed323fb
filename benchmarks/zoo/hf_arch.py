"""One row of the Hugging Face tables: class names, a tiny configuration and the kind of input."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Sizes shared by most rows: three layers of a width that heads, groups and rotary halves all divide.
VOCAB = 100
SEQUENCE = 12
DECODER: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED: dict[str, Any] = {**DECODER, "num_key_value_heads": 2}
ENCODER: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
VISION: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


@dataclass(frozen=True)
class Arch:
    """`kind` names the inputs: text, masked_text, seq2seq, image, audio, mel or image_text."""

    name: str
    config: str
    model: str
    options: dict[str, Any]
    kind: str = "text"
    nested: dict[str, dict[str, Any]] = field(default_factory=dict)
