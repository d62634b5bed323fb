"""The methods that are compared: a table of rows, each one way to choose what is removed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from torch import nn

import prunus
import prunus.importance
from prunus.calibration import calibrate

from . import peers
from .tasks import Task, loss

PRUNUS, PEER, MASKS = "Prunus", "Torch-Pruning", "torch.nn.utils.prune"
CALIBRATION_BATCH = 64


@dataclass(frozen=True)
class Method:
    """One row. `options` go to the side's own call; `control` marks what any method has to beat."""

    side: str
    label: str
    options: Mapping[str, Any] = field(default_factory=dict)
    control: bool = False

    @property
    def name(self) -> str:
        return f"{self.side}: {self.label}"

    @property
    def version(self) -> str | None:
        """Of a peer that does not change between runs; None for code that may."""
        return metadata.version("torch-pruning") if self.side == PEER else None


SHARED = (
    ("random", "local"),
    ("l1", "local"),
    ("l2", "local"),
    ("l2", "global"),
    ("l2", "isomorphic"),
    ("taylor", "local"),
    ("taylor", "global"),
    ("lamp", "global"),
    ("fpgm", "local"),
    ("bn_scale", "global"),
    ("obd", "global"),
)
"""Importance and scope that both libraries have: the same number of tries for each."""

OWN = ("random", "l2", "fpgm", "taylor_element", "wanda", "obd", "obc_sequential")
"""Importances that ours are also tried with in the scope that the peer does not have, "balanced"."""

GRADIENTS = ("taylor", "taylor_element")
SAMPLES = ("obd", "obdc", "fisher")
ACTIVATIONS = ("activation", "apoz", "wanda", "obc", "obc_sequential")
SECOND_MOMENTS = ("obc", "obc_sequential")
"""The importances that read the mean gradient, single samples' gradients, activations, and the second moments
of these."""


def methods() -> list[Method]:
    """Every row whose importance is registered; Torch-Pruning's where it is installed."""
    known = set(prunus.importance.names())
    rows = [
        Method(PRUNUS, f"{kind}, {scope}", _plan(kind, scope), kind == "random") for kind, scope in SHARED
    ]
    rows += [Method(PRUNUS, f"{kind}, balanced", _plan(kind, "balanced"), kind == "random") for kind in OWN]
    rows = [row for row in rows if row.options["importance"] in known]
    if find_spec("torch_pruning") is not None:
        rows += [
            Method(PEER, f"{kind}, {scope}", _plan(kind, scope), kind == "random") for kind, scope in SHARED
        ]
    rows += [Method(MASKS, f"l{norm}, masks", {"norm": norm}, True) for norm in (1, 2)]
    return rows


def _plan(importance: str, scope: str) -> dict[str, Any]:
    return {"importance": importance, "scope": scope}


def cut(method: Method, model: nn.Module, task: Task, target: int, seed: int) -> nn.Module:
    """A pruned copy of the model.

    Raises:
        prunus.PruningError, peers.TargetMissed: the target cannot be met by this method.
    """
    batches = task.load().calibration(CALIBRATION_BATCH)
    if method.side == PRUNUS:
        return _prunus(model, task, target, batches, seed, dict(method.options))
    function = peers.torch_pruning if method.side == PEER else peers.structured_masks
    return function(model, task.example, target, batches, seed, **method.options)


def _prunus(
    model: nn.Module, task: Task, target: int, batches: Any, seed: int, options: dict[str, Any]
) -> nn.Module:
    model = copy.deepcopy(model).eval()
    graph = prunus.trace(model, task.example)
    kind = options["importance"]
    if kind in (*GRADIENTS, *SAMPLES, *ACTIVATIONS):
        calibrate(
            graph,
            batches,
            loss=None if kind in ACTIVATIONS else loss,
            per_sample=kind in SAMPLES,
            activations=kind in ACTIVATIONS,
            covariance=kind in SECOND_MOMENTS,
            progress=False,
        )
    plan = graph.plan(budget=prunus.Budget(macs=target), seed=seed, **options)
    return plan.apply(model)
