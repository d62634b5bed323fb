"""Rankings across axes: all units in one list (global), or one list for each kind of axis (isomorphic).

Fang, Ma, Mi, Wang: Isomorphic Pruning for Vision Models, 2024, arXiv:2407.04616.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import groupby, pairwise

import torch
from torch import Tensor

from ..graph.axes import Node
from ..graph.graph import Graph
from .budget import Budget, BudgetSolver, Kept
from .groups import Group


class Ladder:
    """The sizes a group passes through as steps are removed, and what each step is worth."""

    def __init__(self, group: Group, ranked: Mapping[Node, Tensor]) -> None:
        self.rungs = [group.units]
        while (lower := group.below(self.rungs[-1])) < self.rungs[-1]:
            self.rungs.append(lower)
        worth = torch.zeros(group.units, dtype=torch.float64)
        for node in group.nodes:
            worth += ranked[node].sort().values.reshape(group.units, -1).mean(1)
        self.worth: list[float] = []
        position = 0
        # Runs of equal steps are averaged at once: all of them, but for one where the units are no multiple.
        for width, run in groupby(upper - lower for upper, lower in pairwise(self.rungs)):
            end = position + width * len(list(run))
            steps = worth[position:end].reshape(-1, width).mean(1) / len(group.nodes)
            self.worth.extend(steps.tolist())
            position = end
        self.units_per_step = sum(node.size for node in group.nodes) / group.units


def _kinds(graph: Graph, groups: list[Group], scope: str) -> list[list[int]]:
    """Groups ranked together: all of them, or those whose axes run through layers of the same types."""
    if scope == "global":
        return [list(range(len(groups)))]
    kinds: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        key = []
        for node in group.nodes:
            axis = graph.by_node.get(node)
            for name, dim in axis.members if axis is not None else []:
                owner, _, tensor = name.rpartition(".")
                key.append((type(graph.module_names.get(owner)).__name__, tensor, dim))
        kinds[tuple(sorted(set(key)))].append(index)
    return list(kinds.values())


def _orders(ladders: list[Ladder], kinds: list[list[int]]) -> list[list[int]]:
    """For each kind, the group that loses a step in each place, least important first."""
    out = []
    for kind in kinds:
        keys = [(worth, number, index) for index in kind for number, worth in enumerate(ladders[index].worth)]
        out.append([index for _, _, index in sorted(keys)])
    return out


def _after(ladders: list[Ladder], orders: list[list[int]], steps: list[int]) -> Kept:
    taken = [0] * len(ladders)
    for order, count in zip(orders, steps, strict=True):
        for index in order[:count]:
            taken[index] += 1
    return {index: ladders[index].rungs[count] for index, count in enumerate(taken)}


def ranked_by_ratio(graph: Graph, groups: list[Group], ranked: Mapping[Node, Tensor], scope: str) -> Kept:
    """Remove the asked share of all units, least important first."""
    ladders = [Ladder(group, ranked) for group in groups]
    kinds = _kinds(graph, groups, scope)
    orders = _orders(ladders, kinds)
    steps = []
    for kind, order in zip(kinds, orders, strict=True):
        aim = sum(groups[i].ratio * node.size for i in kind for node in groups[i].nodes) + 1e-9
        taken = dict.fromkeys(kind, 0)
        removed, count = 0.0, 0
        for index in order:
            ladder = ladders[index]
            lost = (ladder.rungs[taken[index]] - ladder.rungs[taken[index] + 1]) * ladder.units_per_step
            if removed + lost > aim:
                break
            removed += lost
            taken[index] += 1
            count += 1
        steps.append(count)
    return _after(ladders, orders, steps)


def ranked_by_budget(
    graph: Graph, groups: list[Group], ranked: Mapping[Node, Tensor], scope: str, budget: Budget
) -> Kept:
    """Remove as little of the ranking as the budget allows; each kind gives the same share."""
    ladders = [Ladder(group, ranked) for group in groups]
    orders = _orders(ladders, _kinds(graph, groups, scope))
    most = max((len(order) for order in orders), default=0)

    def kept_after(step: int) -> Kept:
        return _after(ladders, orders, [len(order) * step // max(most, 1) for order in orders])

    return BudgetSolver(graph, groups, budget).search(most, kept_after)
