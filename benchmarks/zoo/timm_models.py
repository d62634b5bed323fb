"""The smallest variant of each timm model family, at its default input size.

Suite `timm` holds the 98 families, `timm-toys` the even smaller `test_*` models that some families have.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.zoo.entry import Entry, Inputs
from benchmarks.zoo.torchvision_shim import import_torchvision

CHOICE = Path(__file__).with_name("timm_families.json")


def entries() -> list[Entry]:
    """One entry a family, named after the model."""
    return _entries("timm", "model")


def toys() -> list[Entry]:
    """timm's own test models."""
    return _entries("timm-toys", "toy")


def _entries(suite: str, field: str) -> list[Entry]:
    families = json.loads(CHOICE.read_text())["families"]
    names = [row[field] for row in families.values() if field in row]
    return [Entry(suite, name, partial(_model, name), _inputs) for name in names]


def _model(name: str) -> nn.Module:
    import_torchvision()  # timm imports it
    import timm

    return timm.create_model(name, pretrained=False)


def _inputs(model: nn.Module) -> Inputs:
    return (torch.randn(1, *model.default_cfg["input_size"]),), {}
