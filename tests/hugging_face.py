"""Tiny Hugging Face models, where transformers is installed."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest


def transformers() -> Any:
    """The package, or a skipped test. A torchvision without its compiled part must not stop the import."""
    with contextlib.suppress(ImportError):
        from benchmarks.zoo.torchvision_shim import import_torchvision

        import_torchvision()
    return pytest.importorskip("transformers")


def tiny_llama(**changes: Any) -> Any:
    package = transformers()
    options = {
        "vocab_size": 31,
        "hidden_size": 48,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 16,
        "use_cache": False,
    }
    return package.LlamaForCausalLM(package.LlamaConfig(**{**options, **changes}))
