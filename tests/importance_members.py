"""The weights of each unit of a small network, written down by hand, and scores computed from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from importance_models import build
from prunus.calibration import calibrate
from prunus.importance import scores

Slices = list[tuple[str, Any]]
"""The members of one unit: parameter names, and the index of its entries there."""


def stream_unit(u: int) -> Slices:
    """A unit of the residual stream, its makers first."""
    return [
        ("stem.weight", (u,)),
        ("back.weight", (u,)),
        ("stem.bias", (u,)),
        ("norm.weight", (u,)),
        ("norm.bias", (u,)),
        ("wide.weight", (slice(None), u)),
        ("head.weight", (slice(None), u)),
    ]


def wide_unit(u: int) -> Slices:
    return [("wide.weight", (u,)), ("wide.bias", (u,)), ("back.weight", (slice(None), u))]


AXES: dict[str, Callable[[int], Slices]] = {"stem.out": stream_unit, "wide.out": wide_unit}
BIASES = {"stem.bias", "norm.bias", "wide.bias", "head.bias"}


MEMBER_REDUCTIONS: dict[str, Callable[[list[float]], float]] = {
    "sum": sum,
    "mean": lambda parts: sum(parts) / len(parts),
    "max": max,
    "prod": math.prod,
    "first": lambda parts: parts[0],
}


def calibrated() -> tuple[nn.Module, prunus.Graph, list[Any]]:
    model, loader = build("residual", seed=5)
    graph = prunus.trace(model, loader[0][0])
    calibrate(graph, loader, F.cross_entropy, per_sample=True, progress=False)
    return model, graph, loader


def entries(tensors: dict[str, Tensor], unit: Slices) -> list[list[float]]:
    """The values of a unit, a list for each member."""
    return [tensors[name][index].reshape(-1).tolist() for name, index in unit]


def check(
    graph: prunus.Graph,
    importance: Any,
    expected: Callable[[str, int, Callable[[int], Slices]], list[float]],
    normalize: Callable[[list[float]], list[float]] | None = None,
) -> None:
    assert {axis.name for axis in graph.prunable} == set(AXES)
    found = scores(graph, [graph.axis(name).node for name in AXES], importance, None)
    for name, unit in AXES.items():
        axis = graph.axis(name)
        wanted = expected(name, axis.size, unit)
        if normalize is None:
            mean = sum(wanted) / len(wanted)
            wanted = [value / mean for value in wanted]
        else:
            wanted = normalize(wanted)
        assert found[axis.node].tolist() == pytest.approx(wanted, rel=1e-6), name


def by_unit(value: Callable[[Slices], float]) -> Callable[..., list[float]]:
    return lambda name, size, unit: [value(unit(u)) for u in range(size)]
