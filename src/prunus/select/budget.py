"""Budgets: what may remain of a model's costs, met from below within one unit of the finest axis."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import BudgetError, InputError
from ..graph.axes import Node
from ..graph.cost import Costs
from ..graph.graph import Graph
from .groups import Group

Kept = dict[int, int]
"""Units kept of each group, by its index."""


_DURATION = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)(?:[eE]([-+]?\d+))?\s*(s|ms|us|µs|μs)\s*")
_MILLISECONDS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "μs": 1e-3}


@dataclass(frozen=True)
class Budget:
    """What may remain. A float in (0, 1] is a fraction of the original, an int an absolute value.

    Attributes:
        macs: multiply-accumulates of the traced forward.
        params: parameter entries.
        memory: bytes of all activations of the traced forward.
        latency: time of one forward of the traced inputs, measured on this machine: a fraction of the
            model's own, or milliseconds where it is an int or above 1, or text with a unit ("0.4 ms",
            "350 us").

    Raises:
        InputError: no limit at all, or one that is not positive or cannot be read.
    """

    macs: float | int | None = None
    params: float | int | None = None
    memory: float | int | None = None
    latency: float | int | str | None = None

    def __post_init__(self) -> None:
        given = {key: getattr(self, key) for key in ("macs", "params", "memory")}
        if all(value is None for value in given.values()) and self.latency is None:
            raise InputError("an empty budget: give macs=..., params=..., memory=... or latency=...")
        for key, value in given.items():
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"budget {key}={value!r}: give a fraction in (0, 1] or a whole number")
            if not value > 0 or (isinstance(value, float) and value > 1):
                raise InputError(
                    f"budget {key}={value!r}: a float is the fraction kept, in (0, 1]; "
                    "an absolute value is an int"
                )
        if self.latency is not None:
            self.latency_limit(1.0)

    def targets(self, full: Costs) -> dict[str, int]:
        """Absolute limits by cost name; the latency is not among them, since it has to be measured."""
        keys = {"macs": "macs", "params": "params", "memory": "activation_bytes"}
        out = {}
        for key, name in keys.items():
            value = getattr(self, key)
            if value is not None:
                out[name] = int(value * full[name]) if isinstance(value, float) else int(value)
        return out

    def latency_limit(self, full: float) -> float:
        """The latency allowed in milliseconds, for a model that takes `full` milliseconds."""
        value = self.latency
        if isinstance(value, str):
            match = _DURATION.fullmatch(value)
            if match is not None:
                number, power, unit = match.groups()
                limit = float(f"{number}e{power or 0}") * _MILLISECONDS[unit]
                if 0 < limit < math.inf:
                    return limit
        elif isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            return value * full if isinstance(value, float) and value <= 1 else float(value)
        raise InputError(
            f"budget latency={value!r}: give the fraction kept as a float in (0, 1], milliseconds as an int "
            "or a float above 1, or text with a unit, such as '0.4 ms' or '350 us'"
        )


def within(costs: Costs, targets: dict[str, int]) -> bool:
    return all(costs[name] <= limit for name, limit in targets.items())


class BudgetSolver:
    """Finds how many units each group keeps: a coarse search along an order of removal, then filled up."""

    def __init__(self, graph: Graph, groups: Sequence[Group], budget: Budget) -> None:
        self.graph = graph
        self.groups = groups
        self.full = graph.cost()
        self.targets = budget.targets(self.full)

    def costs(self, kept: Kept) -> Costs:
        counts: dict[Node, int] = {}
        for index, group in enumerate(self.groups):
            counts.update(group.counts(kept[index]))
        return self.graph.cost_model.at(counts)

    def _least(self) -> Costs:
        return self.costs({index: group.smallest for index, group in enumerate(self.groups)})

    @property
    def reachable(self) -> bool:
        return within(self._least(), self.targets)

    def check_reachable(self) -> None:
        """Raise a `BudgetError` with the smallest reachable values where the budget cannot be met."""
        least = self._least()
        if not within(least, self.targets):
            missed = [
                f"{name} {limit} (smallest reachable: {least[name]}, "
                f"{least[name] / max(self.full[name], 1):.4f} of {self.full[name]})"
                for name, limit in self.targets.items()
                if least[name] > limit
            ]
            raise BudgetError(
                f"the budget cannot be met: {'; '.join(missed)}. Raise it, or ignore fewer axes"
            )

    def search(
        self, steps: int, kept_after: Callable[[int], Kept], order: Sequence[int] | None = None
    ) -> Kept:
        """The least removal in `0..steps` that meets the budget, then every unit put back that still fits.

        `kept_after(n)` gives the units after `n` steps of removal and must shrink with `n`.
        """
        self.check_reachable()
        low, high = 0, steps
        while low < high:
            middle = (low + high) // 2
            if within(self.costs(kept_after(middle)), self.targets):
                high = middle
            else:
                low = middle + 1
        kept = kept_after(low)
        if not within(self.costs(kept), self.targets):
            kept = self._shrink(kept)
        return self._fill(kept, order)

    def _shrink(self, kept: Kept) -> Kept:
        """Below the end of the removal order: every group towards its smallest, together."""
        kept = dict(kept)
        while not within(self.costs(kept), self.targets):
            largest = max(
                (i for i, group in enumerate(self.groups) if group.below(kept[i]) < kept[i]),
                key=lambda i: kept[i] / self.groups[i].units,
            )
            kept[largest] = self.groups[largest].below(kept[largest])
        return kept

    def _fill(self, kept: Kept, order: Sequence[int] | None) -> Kept:
        """Give units back, one step at a time, until none fits."""
        kept = dict(kept)
        open_groups = list(order) if order is not None else list(range(len(self.groups)))
        while open_groups:
            still = []
            for index in open_groups:
                group = self.groups[index]
                if kept[index] >= group.units:
                    continue
                more = {**kept, index: group.nearest(kept[index] + 1)}
                if within(self.costs(more), self.targets):
                    kept = more
                    still.append(index)
            open_groups = still
        return kept
