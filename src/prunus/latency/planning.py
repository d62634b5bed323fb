"""Plans under a latency budget: a knapsack on the table of times, corrected by timing what it chose.

The table leaves out what happens between operations, and an operation among others is not as fast as one
alone. So the sum over the table is only trusted as a straight line: each candidate is built and timed
beside the original, by turns, and the line is drawn again through what was measured.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import BudgetError, InputError
from ..graph.axes import Node
from ..graph.graph import Graph
from ..plan import Plan
from ..select.budget import Budget, BudgetSolver, Kept
from ..select.groups import Group
from ..select.knapsack import Knapsack, Meter, Rungs, Term, exact_meters, rungs_of
from ..select.losses import losses
from .clock import Clock
from .model import LatencyModel, OpCost
from .table import LatencyTable
from .timing import device_of, interleaved

ROUNDS = 5
"""The most candidates that are built and timed."""

TOLERANCE = 0.02
"""How far below the limit a candidate may end; as far above is within the noise of measuring."""

MISSED = 0.1
"""Above the limit by more than this after all rounds, the budget counts as out of reach."""

AIM = 0.99
"""The share of the limit that is aimed at, so that noise seldom leads above it."""

NOISE = 0.01
"""The relative error of a time in the table."""

REPEATS = 15
MOST_REPEATS = 75
ENOUGH_SECONDS = 0.5
"""Short forwards are repeated more often, up to about this much time for each model."""


@dataclass(frozen=True)
class Latency:
    """What was measured while a latency budget was met, in milliseconds.

    Attributes:
        before: the traced model.
        after: the pruned model, timed by turns with the one before.
        limit: what the budget allows.
        predicted: the pruned model's time by the table alone, scaled to the traced model's.
        candidates: how many pruned models were built and timed.
    """

    before: float
    after: float
    limit: float
    predicted: float
    candidates: int

    def __str__(self) -> str:
        return f"{self.before:.3g} ms -> {self.after:.3g} ms (at most {self.limit:.3g} ms)"


@dataclass(frozen=True)
class _Candidate:
    """A pruned model that was timed beside the original; `by_table` is the sum over the table."""

    kept: Kept
    by_table: float
    before: float
    after: float
    limit: float

    @property
    def excess(self) -> float:
        return self.after / self.limit - 1


class LatencyPlanner:
    """Finds how many units each group keeps under a budget with a latency.

    Args:
        make: the plan for some units kept of each group.
        table: times of operations; this machine's by default.
        clock: what times whole models, instead of the device's own clock.

    Raises:
        BudgetError: MACs, parameters or memory cannot be met, whatever the latency.
        InputError: the model cannot be measured: it is on the meta device, or cannot be copied.
    """

    def __init__(
        self,
        graph: Graph,
        groups: Sequence[Group],
        ranked: Mapping[Node, Tensor],
        budget: Budget,
        make: Callable[[Kept], Plan],
        table: LatencyTable | None = None,
        clock: Clock | None = None,
    ) -> None:
        BudgetSolver(graph, groups, budget).check_reachable()
        device = device_of([graph.model], (graph.args, graph.kwargs))
        self.graph = graph
        self.groups = groups
        self.budget = budget
        self.make = make
        self.clock = clock
        self.table = table or LatencyTable(device)
        self.original = _copied(graph.model)
        self.repeats = REPEATS
        self.rungs: list[Rungs] = [losses(graph, group, rungs_of(group), ranked) for group in groups]

    def _terms(self, model: LatencyModel) -> list[Term]:
        owner = {node: index for index, group in enumerate(self.groups) for node in group.nodes}

        def term(op: OpCost, times: int) -> Term:
            own = [
                (leaf, owner[leaf], leaf.size // self.groups[owner[leaf]].units)
                for leaf in op.template.leaves
            ]

            def cost(kept: Mapping[int, int]) -> float:
                counts = {leaf: width * kept[index] for leaf, index, width in own}
                return times * op.at(op.template.sizes(counts))

            return Term(frozenset(index for _, index, _ in own), cost)

        return [term(op, times) for op, times in model.costs]

    def solve(self) -> tuple[Kept, Latency]:
        """Units kept of each group, and what was measured.

        Raises:
            BudgetError: the budget cannot be met; the smallest latency that was reached is named.
        """
        try:
            nodes = [node for group in self.groups for node in group.nodes]
            model = LatencyModel(self.graph, nodes, self.table)
            return self._closed_loop(model)
        finally:
            self.table.save()

    def _closed_loop(self, model: LatencyModel) -> tuple[Kept, Latency]:
        whole: Kept = {index: group.units for index, group in enumerate(self.groups)}
        full = max(model.total({}), 1e-9)
        terms = self._terms(model)
        before = statistics.median(row[0] for row in self._time([self.original], REPEATS))
        self.repeats = min(max(REPEATS, math.ceil(1e3 * ENOUGH_SECONDS / before)), MOST_REPEATS)
        limit = self.budget.latency_limit(before)
        start = (full, before / limit)
        tried: list[_Candidate] = []
        while len(tried) < ROUNDS:
            aim = math.inf if before <= limit else _next_aim(start, tried)
            if aim is None:
                break
            kept, by_table, reached = self._choose(Meter(aim, terms, model.fixed, NOISE))
            if any(kept == other.kept for other in tried):
                break
            if kept == whole:
                tried.append(_Candidate(kept, full, before, before, limit))
                break
            tried.append(candidate := self._try(kept, by_table))
            if not reached and candidate.excess > TOLERANCE:
                break
            if before <= limit or abs((1 + candidate.excess) / AIM - 1) <= TOLERANCE:
                break
        return self._best(tried, full)

    def _choose(self, latency: Meter) -> tuple[Kept, float, bool]:
        """The knapsack under a limit of the table's sum; whether it got there, or ended before."""
        exact = exact_meters(self.graph, self.groups, self.budget.targets(self.graph.cost()))
        sack = Knapsack(self.rungs, [latency, *exact])
        reached = sack.solve()
        missed = [meter for meter in exact if meter.excess > 0]
        if missed:
            raise BudgetError(
                f"the budget cannot be met: {missed[0].limit:.0f} of {missed[0].name} cannot be reached "
                f"within the latency (smallest reached together: {missed[0].total:.0f}). Raise one of them"
            )
        return sack.kept, latency.total, reached

    def _try(self, kept: Kept, by_table: float) -> _Candidate:
        """Build a candidate and time it beside the original."""
        pruned = self.make(kept).apply(copy.deepcopy(self.original))
        rows = self._time([self.original, pruned], self.repeats)
        before = statistics.median(row[0] for row in rows)
        after = before * statistics.median(row[1] / row[0] for row in rows)
        return _Candidate(kept, by_table, before, after, self.budget.latency_limit(before))

    def _time(self, models: Sequence[nn.Module], repeats: int) -> list[list[float]]:
        self.table.spinner.show("timing whole models")
        return interleaved(models, self.graph.args, self.graph.kwargs, repeats=repeats, clock=self.clock)

    def _best(self, tried: Sequence[_Candidate], full: float) -> tuple[Kept, Latency]:
        fitting = [item for item in tried if item.excess <= TOLERANCE]
        least = min(tried, key=lambda item: item.excess)
        if not fitting and least.excess > MISSED:
            raise BudgetError(
                f"the budget cannot be met: latency {least.limit:.4g} ms (smallest reached: "
                f"{least.after:.4g} ms, {least.after / least.before:.4f} of {least.before:.4g} ms). "
                "Raise it, or ignore fewer axes"
            )
        best = max(fitting, key=lambda item: item.by_table) if fitting else least
        predicted = best.by_table * best.before / full
        return best.kept, Latency(best.before, best.after, best.limit, predicted, len(tried))


def _next_aim(start: tuple[float, float], tried: Sequence[_Candidate]) -> float | None:
    """The sum over the table at which the measured latency should be just below its limit.

    On a straight line between the nearest candidates on either side of it; `start` stands for the original,
    by its sum over the table and its latency relative to the limit. None where they contradict each other.
    """
    full, share = start
    points = [start, *((item.by_table, 1 + item.excess) for item in tried)]
    above = min(point for point in points if point[1] > AIM)
    below = max((point for point in points if point[1] <= AIM), default=None)
    if below is None and above == start:
        return AIM / share * full
    x, y = (full, share) if below is None else below
    if below is not None and x >= above[0]:
        return None
    if (above[1] - y) * (above[0] - x) <= 0:
        return above[0] / 2
    return x + (AIM - y) * (above[0] - x) / (above[1] - y)


def _copied(model: nn.Module) -> nn.Module:
    """A copy to time and to cut, without gradients."""
    try:
        twin = copy.deepcopy(model)
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}), and a latency "
            "budget needs copies to time: use a budget of macs, params or memory"
        ) from error
    for parameter in twin.parameters():
        parameter.grad = None
    return twin
