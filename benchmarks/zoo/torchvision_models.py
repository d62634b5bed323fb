"""All torchvision classification (80) and segmentation (6) models, at 224 x 224 (Inception at its 299)."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from benchmarks.zoo.entry import Entry, Inputs
from benchmarks.zoo.torchvision_shim import import_torchvision

SIZES = {"inception_v3": 299}


def entries() -> list[Entry]:
    """The entries of suite `torchvision`, classification first."""
    models = import_torchvision().models
    names = models.list_models(module=models) + models.list_models(module=models.segmentation)
    return [
        Entry("torchvision", name, partial(_model, name), partial(_inputs, SIZES.get(name, 224)))
        for name in names
    ]


def _model(name: str) -> nn.Module:
    models = import_torchvision().models
    options = {"weights": None}
    if name in models.list_models(module=models.segmentation):
        options["weights_backbone"] = None
    elif name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    return models.get_model(name, **options)


def _inputs(size: int, model: nn.Module) -> Inputs:
    return (torch.randn(1, 3, size, size),), {}
