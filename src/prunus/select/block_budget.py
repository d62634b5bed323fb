"""How many blocks a budget wants removed: the fewest that meet it, least important first."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence

from ..errors import BudgetError
from ..graph.blocks import Block
from ..graph.graph import Graph
from ..graph.views import without
from ..plan import Plan
from .budget import Budget, BudgetSolver

REPEATS = 15
TOLERANCE = 0.02
"""How far a measured latency may lie above its limit: that is within the noise of measuring."""


def fewest_blocks(graph: Graph, order: Sequence[Block], budget: Budget) -> Plan:
    """The plan that removes the fewest blocks from the start of `order`, all widths staying whole.

    Costs are exact. A latency is measured: each number of blocks that is tried is built from a copy of the
    model and timed beside it by turns.

    Raises:
        BudgetError: removing all of them is not enough; the smallest reachable values are named.
    """

    def plan_of(count: int) -> Plan:
        return Plan(without(graph, sorted(order[:count], key=lambda block: block.ops.start)), {})

    def fits(plan: Plan) -> bool:
        return BudgetSolver(plan.graph, [], budget).reachable and (timer is None or timer.fits(plan))

    timer = None if budget.latency is None else _Timer(graph, budget)
    low, high = 0, len(order)
    plan = plan_of(high)
    if not fits(plan):
        raise _out_of_reach(plan, budget, timer)
    while low < high:
        middle = (low + high) // 2
        if fits(tried := plan_of(middle)):
            high, plan = middle, tried
        else:
            low = middle + 1
    if timer is not None:
        timer.report(plan)
    return plan


def _out_of_reach(plan: Plan, budget: Budget, timer: _Timer | None) -> BudgetError:
    text = ""
    try:
        BudgetSolver(plan.graph, [], budget).check_reachable()
    except BudgetError as error:
        text = str(error)
    if not text and timer is not None:
        before, after, limit = timer.measured[tuple(plan.blocks)]
        text = (
            f"the budget cannot be met: latency {limit:.4g} ms (smallest reached: {after:.4g} ms, "
            f"{after / before:.4f} of {before:.4g} ms)"
        )
    return BudgetError(
        f"removing all {len(plan.blocks)} blocks that can be removed is not enough: {text}. With depth as a "
        "number, widths are cut as well"
    )


class _Timer:
    """Times pruned copies beside the original."""

    def __init__(self, graph: Graph, budget: Budget) -> None:
        self.graph = graph
        self.budget = budget
        self.original = copy.deepcopy(graph.model)
        self.measured: dict[tuple[str, ...], tuple[float, float, float]] = {}

    def fits(self, plan: Plan) -> bool:
        from ..latency.timing import interleaved

        pruned = plan.apply(copy.deepcopy(self.original))
        rows = interleaved([self.original, pruned], self.graph.args, self.graph.kwargs, repeats=REPEATS)
        before = statistics.median(row[0] for row in rows)
        after = before * statistics.median(row[1] / row[0] for row in rows)
        limit = self.budget.latency_limit(before)
        self.measured[tuple(plan.blocks)] = before, after, limit
        return after <= limit * (1 + TOLERANCE)

    def report(self, plan: Plan) -> None:
        from ..latency.planning import Latency

        before, after, limit = self.measured[tuple(plan.blocks)]
        plan.latency = Latency(before, after, limit, predicted=after, candidates=len(self.measured))
