"""Which units go when a ratio is asked for: scores from the weights, one ranking an axis or one for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...compaction.holding import Gone
from ...errors import InputError, UnknownNameError
from ...graph.axes import Node
from ...importance.rows import OF_VECTORS, ROW_SCORES
from .graph import Axis, KerasGraph
from .plan import KerasPlan
from .values import Value

Norm = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
Importance = str | Norm

SCOPES = ("local", "global")


def choose(
    graph: KerasGraph,
    ratio: float | Mapping[str, float],
    importance: Importance,
    scope: str,
    ignore: Collection[str],
    protect: float,
    round_to: int,
) -> KerasPlan:
    """See `KerasGraph.plan`."""
    wanted = _ratios(graph, ratio, ignore)
    if scope not in SCOPES:
        raise InputError(f"scope is one of {', '.join(SCOPES)}, not {scope!r}")
    if not 0 <= protect < 1:
        raise InputError(f"protect is a fraction from 0 to below 1, not {protect}")
    if round_to < 1:
        raise InputError(f"round_to is a whole number of units, at least 1, not {round_to!r}")
    scores = _scores(graph, importance, wanted)
    least = {node: max(1, math.ceil(node.size * protect)) for node in wanted}
    counts = (_local if scope == "local" else _global)(scores, wanted, least)
    chosen: Gone = {}
    for node, removed in counts.items():
        keep = min(-(-(node.size - removed) // round_to) * round_to, node.size)
        if keep < node.size:
            mask = torch.zeros(node.size, dtype=torch.bool)
            mask[torch.argsort(scores[node], stable=True)[: node.size - keep]] = True
            chosen[node] = mask
    stay: dict[str, str] = {}
    while True:
        plan = KerasPlan(graph, zeroed(graph, chosen), chosen)
        for axis in graph.axes:
            if axis.node in chosen and axis.name in plan.left_alone:
                stay.setdefault(axis.name, plan.left_alone[axis.name])
        if _same(plan.gone, chosen):
            plan.left_alone = stay
            return plan
        chosen = plan.gone


def _same(a: Gone, b: Gone) -> bool:
    return a.keys() == b.keys() and all(torch.equal(mask, b[node]) for node, mask in a.items())


def zeroed(graph: KerasGraph, gone: Gone) -> dict[Value, Tensor]:
    """The weights with everything that belongs to some units set to zero; measured statistics stay."""
    kept = {node: (~mask).nonzero().flatten() for node, mask in gone.items()}
    memo: dict[Node, Tensor | None] = {}
    changed = {}
    for value in graph.weights.values():
        assert value.weight is not None
        assert value.data is not None
        if value.weight.statistic:
            continue
        data = value.data
        for d, node in enumerate(value.axes):
            index = graph.terms.kept(node, kept, memo)
            if index is not None:
                there = torch.zeros(data.shape[d], dtype=data.dtype)
                there[index] = 1
                data = data * there.reshape([-1 if k == d else 1 for k in range(data.dim())])
        if data is not value.data:
            changed[value] = data
    return changed


def _row_score(importance: Importance) -> Callable[[Tensor], Tensor]:
    """The score of a unit for each row of a matrix of torch."""
    if callable(importance):
        return lambda rows: torch.as_tensor(np.asarray(importance(rows.numpy())))
    if importance not in ROW_SCORES:
        raise InputError(
            f"importance is one of {', '.join(ROW_SCORES)}, or a function of an array (units, entries) that "
            f"gives a score a unit; not {importance!r}"
        )
    return lambda rows: ROW_SCORES[importance](rows.double())


def _ratios(
    graph: KerasGraph, ratio: float | Mapping[str, float], ignore: Collection[str]
) -> dict[Node, float]:
    """The ratio for each axis that may move; of the factors of one product only the largest does."""
    if isinstance(ignore, str):
        ignore = [ignore]
    by_name: dict[str, list[Axis]] = {}
    for axis in graph.axes:
        for member in axis.members:
            by_name.setdefault(member.split("/")[0], []).append(axis)
        by_name.setdefault(axis.name, []).append(axis)
    made = _made_by(graph)
    for name in [*ignore, *(ratio if isinstance(ratio, Mapping) else ())]:
        if name not in by_name:
            raise UnknownNameError(
                f"{name!r} is no axis of the model, and no layer with weights: "
                "print(prunus.keras.trace(model)) "
                "lists them"
            )
    numbers = ratio.values() if isinstance(ratio, Mapping) else [ratio]
    for number in numbers:
        if not 0 <= number < 1:
            raise InputError(f"a ratio is the fraction of units removed, from 0 to below 1, not {number!r}")
    wanted: dict[Node, float] = {}
    if isinstance(ratio, Mapping):
        for name, number in ratio.items():
            for axis in [a for a in by_name[name] if a.name == name] or made.get(name, []):
                if axis.reason is not None:
                    raise InputError(f"axis {axis.name!r} of {name!r} stays whole: {axis.reason}")
                wanted[axis.node] = max(number, wanted.get(axis.node, 0.0))
    else:
        wanted = dict.fromkeys(graph.prunable, float(ratio))
    for name in ignore:
        for axis in [a for a in by_name[name] if a.name == name] or made.get(name, by_name[name]):
            wanted.pop(axis.node, None)
    for node in _rivals(graph, wanted):
        wanted.pop(node, None)
    return {node: number for node, number in wanted.items() if number > 0}


def _made_by(graph: KerasGraph) -> dict[str, list[Axis]]:
    """The axes of what a layer gives out: the units that its configuration counts."""
    axes = {axis.node: axis for axis in graph.axes}
    found: dict[str, list[Axis]] = {}
    for setting in graph.settings.values():
        if setting.key in ("filters", "units", "output_dim"):
            leaves = [leaf for node in setting.nodes for leaf in graph.terms.leaves(node)]
            found.setdefault(setting.owner.name, []).extend(axes[leaf] for leaf in leaves if leaf in axes)
    return found


def _rivals(graph: KerasGraph, wanted: Mapping[Node, float]) -> set[Node]:
    """Of each product of axes that would all move, all but the largest."""
    out: set[Node] = set()
    for value in graph.weights.values():
        for node in value.axes:
            for factors in graph.terms.products(node):
                moving = [
                    [leaf for leaf in leaves if leaf in wanted and leaf not in out] for leaves in factors
                ]
                moving = [leaves for leaves in moving if leaves]
                moving.sort(key=lambda leaves: max(leaf.size for leaf in leaves))
                out.update(leaf for leaves in moving[:-1] for leaf in leaves)
    return out


def _scores(graph: KerasGraph, importance: Importance, wanted: Mapping[Node, float]) -> dict[Node, Tensor]:
    """A score a unit: the mean over the weights that it runs through, relative to their mean units."""
    row_score = _row_score(importance)
    of_vectors = isinstance(importance, str) and importance in OF_VECTORS
    found: dict[Node, list[Tensor]] = {node: [] for node in wanted}
    numbers: dict[Node, list[Tensor]] = {node: [] for node in wanted}
    for value in graph.weights.values():
        assert value.weight is not None
        assert value.data is not None
        if value.weight.statistic or not value.data.is_floating_point():
            continue
        for d, node in enumerate(value.axes):
            for leaf in graph.terms.leaves(node):
                if leaf not in found:
                    continue
                block = value.data.movedim(d, 0).flatten(1) if value.rank > 1 else value.data[:, None]
                for rows in graph.terms.rows(node, block, leaf):
                    score = row_score(rows).double()
                    if score.shape != (leaf.size,):
                        raise InputError(
                            f"the importance gave shape {tuple(score.shape)} for {leaf.size} units: "
                            "one score a unit "
                            "is needed"
                        )
                    mean = float(score.mean())
                    into = numbers if value.rank == 1 and of_vectors else found
                    into[leaf].append(score / mean if mean > 0 else score)
    return {
        node: torch.stack(scores or numbers[node]).mean(0)
        if scores or numbers[node]
        else torch.zeros(node.size, dtype=torch.float64)
        for node, scores in found.items()
    }


def _local(
    scores: Mapping[Node, Tensor], wanted: Mapping[Node, float], least: Mapping[Node, int]
) -> dict[Node, int]:
    return {
        node: min(math.floor(node.size * ratio + 1e-9), node.size - least[node])
        for node, ratio in wanted.items()
    }


def _global(
    scores: Mapping[Node, Tensor], wanted: Mapping[Node, float], least: Mapping[Node, int]
) -> dict[Node, int]:
    """The lowest scores of all go, until as many units are gone as the ratios of the axes add up to."""
    total = sum(math.floor(node.size * ratio + 1e-9) for node, ratio in wanted.items())
    ranked = sorted(
        ((float(score), i, node) for i, node in enumerate(wanted) for score in scores[node]),
        key=lambda item: item[:2],
    )
    counts = dict.fromkeys(wanted, 0)
    for _, _, node in ranked:
        if total and counts[node] < node.size - least[node]:
            counts[node] += 1
            total -= 1
    return counts
