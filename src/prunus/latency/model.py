"""The latency of any plan as a sum over operations, each read off the table at its widths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping

from ..graph.axes import Node
from ..graph.graph import Graph
from .replay import Template, computes, moving
from .table import LatencyTable

GRID = 24
"""The most widths of one axis that are measured; between them the time is interpolated."""


def stride_of(size: int) -> int:
    """The power of two whose multiples are measured along an axis of this size."""
    return 1 << max(0, math.ceil(math.log2(size / GRID)))


def neighbours(size: int, full: int) -> tuple[int, int]:
    """The measured widths on either side of `size`, equal where it is one of them; `full` is one."""
    size = min(max(size, 1), full)
    stride = stride_of(full)
    lower = size // stride * stride
    if size in (1, full, lower):
        return size, size
    return max(lower, 1), min(lower + stride, full)


class OpCost:
    """Milliseconds of one operation at any widths, multilinear between those that are measured."""

    def __init__(self, template: Template, table: LatencyTable) -> None:
        self.template = template
        self.table = table
        self._memo: dict[tuple[int, ...], float] = {}
        self._points: dict[tuple[int, ...], float] = {}
        self._ladder: list[tuple[int, tuple[int, ...]]] | None = None

    def at(self, sizes: tuple[int, ...]) -> float:
        """Milliseconds when the template's variables have these sizes."""
        known = self._memo.get(sizes)
        if known is None:
            between = self._joint if self.template.joint else self._grid
            known = self._memo[sizes] = between(sizes)
        return known

    @property
    def replayable(self) -> bool:
        return self.table.time(self.template.request(self.template.full)) is not None

    def _point(self, sizes: tuple[int, ...]) -> float:
        """The time as it is in the table; where it cannot be measured, the whole's, by volume."""
        known = self._points.get(sizes)
        if known is None:
            known = self.table.time(self.template.request(sizes))
            if known is None:
                whole = self.table.time(self.template.request(self.template.full)) or 0.0
                known = whole * self.template.volume(sizes) / max(1, self.template.volume(self.template.full))
            self._points[sizes] = known
        return known

    def _grid(self, sizes: tuple[int, ...]) -> float:
        sides = [neighbours(size, full) for size, full in zip(sizes, self.template.full, strict=True)]
        total = 0.0
        for corner in itertools.product(*[sorted(set(side)) for side in sides]):
            weight = 1.0
            for at, size, (lower, upper) in zip(corner, sizes, sides, strict=True):
                if lower != upper:
                    share = (size - lower) / (upper - lower)
                    weight *= share if at == upper else 1 - share
            total += weight * self._point(corner)
        return total

    def _joint(self, sizes: tuple[int, ...]) -> float:
        """Between points where all axes keep the same share, by how much goes in and out."""
        template = self.template
        if self._ladder is None:
            points = {template.scaled(level / GRID) for level in range(1, GRID + 1)}
            self._ladder = sorted((template.volume(point), point) for point in points)
        volume = template.volume(sizes)
        above = next((i for i, (v, _) in enumerate(self._ladder) if v >= volume), len(self._ladder) - 1)
        upper, point = self._ladder[above]
        if above == 0 or upper <= volume:
            return self._point(point)
        lower, before = self._ladder[above - 1]
        share = (volume - lower) / max(upper - lower, 1)
        return share * self._point(point) + (1 - share) * self._point(before)


class LatencyModel:
    """Sum over a graph's operations of their times; what is missing is the code between them.

    Args:
        graph: a traced model.
        nodes: the leaf axes that may move.
        table: the times of operations.

    Attributes:
        fixed: milliseconds of the operations that no such axis enters.
        costs: each other kind of operation with how often it occurs.
        unmeasured: names of operations that could not be timed and count for nothing.
    """

    def __init__(self, graph: Graph, nodes: Iterable[Node], table: LatencyTable) -> None:
        self.fixed = 0.0
        self.costs: list[tuple[OpCost, int]] = []
        self.unmeasured: list[str] = []
        moves = moving(graph.terms, set(nodes))
        kinds: dict[tuple[object, ...], tuple[OpCost, int]] = {}
        for op in graph.ops:
            if computes(op):
                cost = OpCost(Template(op, graph.terms, moves, table.device), table)
                key = (str(cost.template.request(cost.template.full)), cost.template.variables)
                first, count = kinds.get(key, (cost, 0))
                kinds[key] = (first, count + 1)
        for cost, count in kinds.values():
            if not cost.replayable:
                self.unmeasured.append(cost.template.op.name)
            elif cost.template.variables:
                self.costs.append((cost, count))
            else:
                self.fixed += count * cost.at(())

    def total(self, counts: Mapping[Node, int]) -> float:
        """Milliseconds when leaf axes keep `counts` units."""
        return self.fixed + sum(count * cost.at(cost.template.sizes(counts)) for cost, count in self.costs)
