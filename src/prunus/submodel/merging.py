"""Putting sub-models together: for each entry of the father, the mean of the clients that cover it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..graph.state import Held
from ..plan import Plan
from .adding import Part
from .errors import UpdateError
from .mean import latest, weighted_means
from .updates import Father, PlanUpdates, read_updates

STATISTICS = ("mean", "keep")


@torch.no_grad()
def merge(father: nn.Module, updates: Sequence[Any], statistics: str = "mean") -> nn.Module:
    """Put clients' sub-models into the father, in place, and return it.

    Each entry of a parameter becomes the weighted mean of the clients whose plans cover it; entries that no
    client covers keep the father's value. This is the aggregation of HeteroFL (Diao, Ding, Tarokh, 2021,
    arXiv:2010.01264) with weights, on any plans. Sums are float64 whatever the dtype, and
    the result of one client is that client, bit for bit, on every entry that it covers. Entries that
    extraction had multiplied by a factor (`plan.rescaled`) are taken back to the father's scale first: those
    that the client left alone come back exactly, the others to within a unit in the last place.

    Buffers: floating ones, batch-norm statistics among them, are averaged like parameters, or kept;
    integer and boolean ones (`num_batches_tracked`) are those of the covering client with the largest weight,
    the first of equals. What a state dict does not hold (non-persistent buffers, plain attributes) stays.

    Args:
        father: the model that the plans were made on, or one of the same architecture, on any device.
        updates: `(plan, state, weight)` for each client: the state dict of its sub-model (tensors or arrays,
            on any device) or the sub-model itself, and a positive number, usually of its samples.
        statistics: "mean", or "keep" to leave all floating buffers as they are, for statistics that are
            measured afterwards (`recalibrate`).

    Raises:
        UpdateError: an update with a wrong plan, keys, shapes or weight, or a value that is not finite; it
            says which. The father is as it was.
        InputError: an unknown rule for statistics.
    """
    if statistics not in STATISTICS:
        raise InputError(f"statistics={statistics!r}: there are {', '.join(map(repr, STATISTICS))}")
    target = Father(father)
    groups = read_updates(target, list(updates))
    merged: list[tuple[Held, Tensor]] = []
    averaged: list[tuple[Held, Sequence[Part]]] = []
    for item in target.saved:
        if statistics == "keep" and item.kind == "buffer" and _averaged(item.tensor):
            for group in groups:
                _check_finite(item, group)
            continue
        holding = [group for group in groups if item.name in group.coverages]
        if holding and _averaged(item.tensor):
            averaged.append((item, _parts(item.name, holding)))
        elif holding:
            merged.append((item, _latest(item, holding)))
    means = weighted_means((item.tensor, parts) for item, parts in averaged)
    for (item, _), new in zip(averaged, means, strict=True):
        if not _finite(new):
            for group in groups:
                _check_finite(item, group)
            if _finite(item.tensor):
                raise InputError(
                    f"the mean of {item.name!r} overflows {item.tensor.dtype}; updates were finite"
                )
        merged.append((item, new))
    for item, new in merged:
        item.tensor.copy_(new)
    return father


def check_update(father: nn.Module, plan: Plan, state: Any, weight: float) -> None:
    """Check one update by itself, so that the others of its round can be merged without it.

    Raises:
        UpdateError: what is wrong with it, as `merge` would say; values that are not finite included.
    """
    target = Father(father)
    (group,) = read_updates(target, [(plan, state, weight)])
    for item in target.saved:
        _check_finite(item, group)


def _finite(tensor: Tensor) -> bool:
    """A sum that is finite has only finite terms; one that is not may have overflown."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _parts(name: str, groups: Sequence[PlanUpdates]) -> list[Part]:
    return [
        (group.coverages[name], [update.tensors[name] for update in group.updates], group.weights)
        for group in groups
    ]


def _latest(item: Held, groups: Sequence[PlanUpdates]) -> Tensor:
    every = [(update, group.coverages[item.name]) for group in groups for update in group.updates]
    every.sort(key=lambda pair: (pair[0].weight, -pair[0].index))
    return latest(item.tensor, [(cover, update.tensors[item.name]) for update, cover in every])


def _check_finite(item: Held, group: PlanUpdates) -> None:
    if item.name not in group.coverages or not _averaged(item.tensor):
        return
    for update in group.updates:
        tensor = update.tensors[item.name]
        if not _finite(tensor):
            count = int((~torch.isfinite(tensor)).sum())
            raise UpdateError(update.index, f"{item.name!r} holds {count} values that are not finite")
