"""From a ratio or a budget to a plan: which units of which axes stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, PruningError
from ..graph.axes import Node
from ..graph.graph import Axis, Graph
from ..importance import scores
from ..plan import Plan
from .budget import Budget, BudgetSolver, Kept
from .groups import Group, choose_groups, round_groups
from .ranking import ranked_by_budget, ranked_by_ratio

NOMINAL = 0.5
"""The ratio that decides which factor of a product moves when only a budget is given."""

LOCAL_STEPS = 4096

SCOPES = ("local", "global", "isomorphic")


def check_ratio(value: Any, what: str = "ratio") -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{what}={value!r} is not a number: it is the fraction of units removed, in [0, 1)")
    if not 0 <= value < 1:
        raise InputError(f"{what}={value!r} is outside [0, 1): it is the fraction of units removed")
    return float(value)


def make_plan(
    graph: Graph,
    ratio: float | Mapping[Any, float] | None,
    budget: Budget | None,
    importance: Any,
    scope: str,
    ignore: Sequence[Any],
    round_to: int,
    seed: int | None,
) -> Plan:
    """Check the request, choose counts, rank units, and return the plan."""
    if scope not in SCOPES:
        raise InputError(f"unknown scope {scope!r}; there are {', '.join(SCOPES)}")
    if type(round_to) is not int or round_to < 1:
        raise InputError(f"round_to={round_to!r} must be a whole number of at least 1")
    if budget is not None and not isinstance(budget, Budget):
        raise InputError(f"budget must be a prunus.Budget, got {type(budget).__name__}")
    ignored = {axis.node for item in ignore for axis in _named_axes(graph, item, outputs_only=False)}
    wanted, both = _wanted(graph, ratio, ignored)
    groups = _groups(graph, wanted, both, ignored, budget, round_to)
    if isinstance(ratio, Mapping):
        _check_moved(graph, ratio, wanted, groups)
    nodes = [node for group in groups for node in group.nodes]
    ranked = scores(graph, nodes, importance, seed) if nodes else {}
    if budget is None:
        kept = _by_ratio(groups) if scope == "local" else ranked_by_ratio(graph, groups, ranked, scope)
    elif scope == "local":
        kept = _local_budget(graph, groups, budget)
    else:
        kept = ranked_by_budget(graph, groups, ranked, scope, budget)
    chosen: dict[Node, Tensor] = {}
    for index, group in enumerate(groups):
        for node, count in group.counts(kept[index]).items():
            if count < node.size:
                chosen[node] = torch.topk(ranked[node], count).indices.sort().values
    return Plan(graph, chosen)


def _groups(
    graph: Graph,
    wanted: Mapping[Node, float],
    both: set[Node],
    whole: set[Node],
    budget: Budget | None,
    round_to: int,
) -> list[Group]:
    """The groups that move; every factor of every product where a budget is out of reach otherwise."""
    groups = choose_groups(graph, wanted, both, whole, fine=budget is not None)
    round_groups(graph, groups, round_to)
    if budget is not None and not BudgetSolver(graph, groups, budget).reachable:
        groups = choose_groups(graph, wanted, set(wanted), whole, fine=True)
        round_groups(graph, groups, round_to)
    return groups


def _named_axes(graph: Graph, item: Any, outputs_only: bool) -> list[Axis]:
    if isinstance(item, Axis):
        return [item]
    name = graph.name_of(item)
    return [graph.by_name[name]] if name in graph.by_name else graph.axes_of(name, outputs_only)


def _wanted(graph: Graph, ratio: Any, ignored: set[Node]) -> tuple[dict[Node, float], set[Node]]:
    """The ratio of each axis that may move, and the axes named one by one, which move with their rivals."""
    if ratio is None:
        return {axis.node: NOMINAL for axis in graph.prunable if axis.node not in ignored}, set()
    if not isinstance(ratio, Mapping):
        value = check_ratio(ratio)
        return {axis.node: value for axis in graph.prunable if axis.node not in ignored}, set()
    wanted: dict[Node, float] = {}
    both: set[Node] = set()
    for item, part in ratio.items():
        value = check_ratio(part, f"ratio[{item!r}]")
        axes = _named_axes(graph, item, outputs_only=True)
        free = [axis for axis in axes if axis.prunable and axis.node not in ignored]
        if not free and value > 0:
            reasons = "; ".join(f"{axis.name} stays whole: {axis.reason or 'ignored'}" for axis in axes[:3])
            raise InputError(
                f"nothing in {graph.name_of(item)!r} can be pruned: {reasons or 'it has no axes'}"
            )
        for axis in free:
            wanted[axis.node] = max(value, wanted.get(axis.node, 0.0))
        if isinstance(item, Axis) or graph.name_of(item) in graph.by_name:
            both.update(axis.node for axis in free)
    return {node: value for node, value in wanted.items() if value > 0}, both


def _check_moved(
    graph: Graph, ratio: Mapping[Any, float], wanted: Mapping[Node, float], groups: list[Group]
) -> None:
    moving = {node for group in groups for node in group.nodes}
    for item, part in ratio.items():
        nodes = [axis.node for axis in _named_axes(graph, item, outputs_only=True) if axis.node in wanted]
        if part > 0 and nodes and not moving.intersection(nodes):
            ties = [
                c for c in graph.constraints.residual if any(node in c.poly.variables() for node in nodes)
            ]
            others = {graph.by_node[v].name for c in ties for v in c.poly.variables() if v in graph.by_node}
            raise PruningError(
                f"{graph.name_of(item)!r} cannot be cut alone: its size is tied to "
                f"{', '.join(sorted(others))}; name those axes in ratio too"
            )


def _by_ratio(groups: list[Group]) -> Kept:
    return {
        index: group.nearest(group.units - math.floor(group.units * group.ratio + 1e-9))
        for index, group in enumerate(groups)
    }


def _local_budget(graph: Graph, groups: list[Group], budget: Budget) -> Kept:
    """The same share of every axis, as large as the budget allows."""

    def kept_after(step: int) -> Kept:
        share = 1 - step / LOCAL_STEPS
        return {
            index: max(group.smallest, _floor_step(math.floor(group.units * share + 1e-9), group))
            for index, group in enumerate(groups)
        }

    return BudgetSolver(graph, groups, budget).search(LOCAL_STEPS, kept_after)


def _floor_step(kept: int, group: Group) -> int:
    return group.units if kept >= group.units else kept // group.step * group.step


__all__ = ["Budget", "make_plan"]
