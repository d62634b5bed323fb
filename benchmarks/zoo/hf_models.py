"""49 Hugging Face architectures in tiny configurations, with the inputs that their users pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.zoo import hf_language, hf_perception
from benchmarks.zoo.entry import Entry, Inputs
from benchmarks.zoo.hf_arch import SEQUENCE, VOCAB, Arch
from benchmarks.zoo.torchvision_shim import import_torchvision

ARCHITECTURES = [
    *hf_language.DECODERS,
    *hf_language.ENCODERS,
    *hf_language.ENCODER_DECODERS,
    *hf_perception.VISION_MODELS,
    *hf_perception.VISION_LANGUAGE,
    *hf_perception.AUDIO_MODELS,
]


def entries() -> list[Entry]:
    """The entries of suite `hf`."""
    return [
        Entry("hf", arch.name, partial(make_model, arch), partial(make_inputs, arch.kind))
        for arch in ARCHITECTURES
    ]


def architecture(name: str) -> Arch:
    """The row called `name`."""
    return next(arch for arch in ARCHITECTURES if arch.name == name)


def make_model(arch: Arch, **changes: Any) -> nn.Module:
    """The model of one row; `changes` override fields of its configuration."""
    import_torchvision()  # transformers imports it
    import transformers

    config = getattr(transformers, arch.config)(**{**arch.options, **arch.nested, **changes})
    return getattr(transformers, arch.model)(config)


def make_inputs(kind: str, model: nn.Module) -> Inputs:
    """Keyword inputs of one kind, drawn from torch's random state. Batch 2: nothing may rely on batch 1."""
    return (), _KINDS[kind](model)


def _tokens(length: int = SEQUENCE) -> torch.Tensor:
    # 3 and up: padding, begin and end tokens have a meaning of their own to several models.
    return torch.randint(3, VOCAB, (2, length))


def _text(model: nn.Module) -> dict[str, Any]:
    return {"input_ids": _tokens()}


def _masked_text(model: nn.Module) -> dict[str, Any]:
    return {"input_ids": _tokens(), "attention_mask": torch.ones(2, SEQUENCE, dtype=torch.long)}


def _seq2seq(model: nn.Module) -> dict[str, Any]:
    return {"input_ids": _tokens(), "decoder_input_ids": _tokens(7)}


def _image_text(model: nn.Module) -> dict[str, Any]:
    tokens = _tokens()
    tokens[:, -1] = 2  # CLIP pools at the end-of-text token
    return {"input_ids": tokens, "pixel_values": torch.randn(2, 3, 32, 32)}


def _mel(model: nn.Module) -> dict[str, Any]:
    return {"input_features": torch.randn(2, 16, 60), "decoder_input_ids": _tokens(7)}


_KINDS = {
    "text": _text,
    "masked_text": _masked_text,
    "seq2seq": _seq2seq,
    "image": lambda model: {"pixel_values": torch.randn(2, 3, 32, 32)},
    "image64": lambda model: {"pixel_values": torch.randn(2, 3, 64, 64)},
    "image_text": _image_text,
    "mel": _mel,
    "audio": lambda model: {"input_values": torch.randn(2, 1600)},
}
