"""From a ratio or a budget to a plan: which units of which axes stay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, PruningError
from ..graph.axes import Node
from ..graph.graph import Graph
from ..importance import scores
from ..plan import Plan
from .balanced import balanced
from .budget import Budget, BudgetSolver, Kept
from .groups import Group, choose_groups
from .limits import Limits
from .ranking import ranked_by_budget, ranked_by_ratio
from .request import Request, by_axis, least_kept, multiples, named_axes, wanted_ratios

LOCAL_STEPS = 4096


def make_plan(graph: Graph, request: Request) -> Plan:
    """Choose counts, rank units, and return the plan."""
    ignored = {axis.node for item in request.ignore for axis in named_axes(graph, item, outputs_only=False)}
    wanted, both, held = wanted_ratios(graph, request, ignored)
    limits = Limits(least_kept(graph, request), multiples(graph, request))
    groups = _groups(graph, wanted, both, held, request, limits)
    if isinstance(request.ratio, Mapping):
        _check_moved(graph, request.ratio, wanted, groups)
    nodes = [node for group in groups for node in group.nodes]
    live = [node for node in nodes if graph.by_node[node].members]
    ranked = scores(graph, live, request.importance, request.seed) if live else {}
    for node in nodes:  # of removed blocks: they move with what their sizes are tied to, whatever their units
        ranked.setdefault(node, torch.ones(node.size, dtype=torch.float64))
    if request.budget is not None and request.budget.latency is not None:
        return _latency_plan(graph, groups, ranked, request.budget)
    return _plan(graph, groups, ranked, _kept(graph, groups, ranked, request))


def _plan(graph: Graph, groups: list[Group], ranked: Mapping[Node, Tensor], kept: Kept) -> Plan:
    """The highest-ranked units of each group."""
    chosen: dict[Node, Tensor] = {}
    for index, group in enumerate(groups):
        for node, count in group.counts(kept[index]).items():
            if count < node.size:
                chosen[node] = torch.topk(ranked[node], count).indices.sort().values
    return Plan(graph, chosen)


def _latency_plan(graph: Graph, groups: list[Group], ranked: Mapping[Node, Tensor], budget: Budget) -> Plan:
    """Widths by measured time; the plan says what was measured."""
    from ..latency.planning import LatencyPlanner

    planner = LatencyPlanner(graph, groups, ranked, budget, lambda kept: _plan(graph, groups, ranked, kept))
    kept, measured = planner.solve()
    plan = _plan(graph, groups, ranked, kept)
    plan.latency = measured
    return plan


def _kept(graph: Graph, groups: list[Group], ranked: Mapping[Node, Tensor], request: Request) -> Kept:
    """How many units each group keeps."""
    budget, scope = request.budget, request.scope
    if budget is None:
        return _by_ratio(groups) if scope == "local" else ranked_by_ratio(graph, groups, ranked, scope)
    if scope == "local":
        return _local_budget(graph, groups, budget)
    if scope == "balanced":
        return balanced(graph, groups, ranked, budget)
    return ranked_by_budget(graph, groups, ranked, scope, budget)


def _groups(
    graph: Graph,
    wanted: Mapping[Node, float],
    both: set[Node],
    held: set[Node],
    request: Request,
    limits: Limits,
) -> list[Group]:
    """The groups that move; every factor of every product where a budget is out of reach otherwise."""
    budget = request.budget
    groups = choose_groups(graph, wanted, both, held, fine=budget is not None)
    limits.impose(graph, groups)
    if budget is not None and not BudgetSolver(graph, groups, budget).reachable:
        groups = choose_groups(graph, wanted, set(wanted), held, fine=True)
        limits.impose(graph, groups)
    return groups


def _check_moved(
    graph: Graph, ratio: Mapping[Any, float], wanted: Mapping[Node, float], groups: list[Group]
) -> None:
    """Every named axis moves, and those whose sizes are tied by the same ratio."""
    moving = {node for group in groups for node in group.nodes}
    named = by_axis(graph, ratio, "ratio")
    for group in groups:
        asked = {named[node] for node in group.nodes if node in named}
        if len({value for _, value in asked}) > 1:
            given = ", ".join(f"{name!r}: {value}" for name, value in sorted(asked))
            raise InputError(f"the sizes of these are tied, so they are cut by one ratio: {given}")
    for item, part in ratio.items():
        nodes = [axis.node for axis in named_axes(graph, item) if axis.node in wanted]
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


__all__ = ["Budget", "Request", "make_plan"]
