"""Calibrations of the small networks, without a progress bar."""

from __future__ import annotations

from typing import Any

from torch import nn

import prunus
from importance_models import build
from prunus.calibration import Calibration, calibrate


def traced(name: str = "residual") -> tuple[nn.Module, prunus.Graph, list[Any]]:
    model, loader = build(name)
    return model, prunus.trace(model, loader[0][0]), loader


def quiet(graph: prunus.Graph, loader: Any, loss: Any = None, **options: Any) -> Calibration:
    return calibrate(graph, loader, loss, progress=False, **options)
