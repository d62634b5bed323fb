"""Widths that balance what is lost against what it saves, for budgets of exact costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..graph.axes import Node
from ..graph.graph import Graph
from .budget import Budget, BudgetSolver, Kept
from .groups import Group
from .knapsack import Knapsack, Rungs, exact_meters

WIDTHS = 64
"""About the most widths of one group that are looked at; what is left over is filled up unit by unit."""

SMALLEST_SHARE = 1e-12


def balanced(graph: Graph, groups: Sequence[Group], ranked: Mapping[Node, Tensor], budget: Budget) -> Kept:
    """The widths at which no cut loses less for what it saves than the cuts that were made.

    An axis that keeps the share f of its importance leaves each weight that it runs through about f of its
    own, and a weight between two axes the product of both shares. What is kept high is the product of that
    over all weights, so that an axis with m weights costs `-m log f`. Cuts are taken one by one, least loss
    for the cost that they save first, at the present widths of all other axes.

    Unlike one ranking of all units, this never empties an axis while others are whole, and looks at what a
    unit costs: a channel at high resolution goes before an equally important one at low resolution, and a
    unit of a residual stream, which every block reads, stays longer than one inside a block.

    Raises:
        BudgetError: a budget below what is reachable.
    """
    solver = BudgetSolver(graph, groups, budget)
    solver.check_reachable()
    rungs = [_rungs(graph, group, ranked) for group in groups]
    sack = Knapsack(rungs, exact_meters(graph, groups, solver.targets))
    sack.solve()
    return solver.search(0, lambda _: sack.kept)


def _rungs(graph: Graph, group: Group, ranked: Mapping[Node, Tensor]) -> Rungs:
    """The widths of a group and what each loses: `-m log f`, summed over its axes."""
    kept = _widths(group)
    lost = [0.0] * len(kept)
    for node in group.nodes:
        ordered = ranked[node].clamp_min(0).sort(descending=True).values
        if not ordered.sum() > 0:
            ordered = torch.ones_like(ordered)
        shares = (ordered.cumsum(0) / ordered.sum()).clamp_min(SMALLEST_SHARE)
        for number, units in enumerate(kept[1:], start=1):
            share = float(shares[node.size // group.units * units - 1])
            lost[number] -= _matrices(graph, node) * math.log(share)
    return Rungs(kept, lost)


def _widths(group: Group) -> list[int]:
    """The widths a group may have, largest first; of many, every second, third and so on, and the ends."""
    allowed = [group.units]
    while (lower := group.below(allowed[-1])) < allowed[-1]:
        allowed.append(lower)
    stride = -(-len(allowed) // WIDTHS)
    return [*allowed[:-1:stride], allowed[-1]] if len(allowed) > 1 else allowed


def _matrices(graph: Graph, node: Node) -> int:
    """The matrices and kernels that an axis runs through; vectors only follow them."""
    axis = graph.by_node.get(node)
    members = axis.members if axis is not None else []
    return max(1, sum(sum(size > 1 for size in graph.shapes[name]) > 1 for name, _ in members))
