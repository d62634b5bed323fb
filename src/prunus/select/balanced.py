"""Widths that balance what is lost against what it saves, for budgets of exact costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..graph.axes import Node
from ..graph.graph import Graph
from .budget import Budget, BudgetSolver, Kept
from .groups import Group
from .knapsack import Knapsack, exact_meters, rungs_of
from .losses import losses

WIDTHS = 64
"""About the most widths of one group that are looked at; what is left over is filled up unit by unit."""


def balanced(graph: Graph, groups: Sequence[Group], ranked: Mapping[Node, Tensor], budget: Budget) -> Kept:
    """The widths at which no cut loses less for what it saves than the cuts that were made.

    Cuts are taken one by one, least of `losses` for the cost that they save first, at the present widths of
    all other axes.

    Unlike one ranking of all units, this never empties an axis while others are whole, and looks at what a
    unit costs: a channel at high resolution goes before an equally important one at low resolution, and a
    unit of a residual stream, which every block reads, stays longer than one inside a block.

    Raises:
        BudgetError: a budget below what is reachable.
    """
    solver = BudgetSolver(graph, groups, budget)
    solver.check_reachable()
    rungs = [losses(graph, group, rungs_of(group, WIDTHS), ranked) for group in groups]
    sack = Knapsack(rungs, exact_meters(graph, groups, solver.targets))
    sack.solve()
    return solver.search(0, lambda _: sack.kept)
