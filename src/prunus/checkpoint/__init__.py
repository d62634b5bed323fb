"""Checkpoints: a pruned model as safetensors and JSON, rebuilt from its original architecture."""

from __future__ import annotations

from .loading import load
from .saving import save

__all__ = ["load", "save"]
