"""Budgets as a knapsack: the cuts that lose the least importance for what they save.

A group gives up units in steps along its `Rungs`; what a step saves is read off `Meter`s, which may count
anything: measured milliseconds, multiply-accumulates, parameters. Both the loss and the saving of a step
depend on where the groups stand, so each step is chosen at the present widths of all the others.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..graph.axes import Node
from ..graph.graph import Graph
from .groups import Group

LEVELS = 24
"""The most widths of one group that are looked at."""

LOOKAHEAD = 8
"""Lower widths that a step may jump to; further ones are tried only where none of these saves anything."""


@dataclass(frozen=True)
class Rungs:
    """The widths a group may have, largest first, and the importance lost at each, the first losing none."""

    kept: Sequence[int]
    lost: Sequence[float]


@dataclass(frozen=True)
class Term:
    """One addend of a cost: `cost(kept)` reads the units kept of the groups named, and of no other."""

    groups: frozenset[int]
    cost: Callable[[Mapping[int, int]], float]


class Meter:
    """One cost under one limit, kept up to date group by group.

    Args:
        limit: the most that may remain.
        terms: what the cost adds up from.
        fixed: what no group changes.
        noise: the relative error of each term; a saving within what these add up to is not believed.
        name: what is counted, for messages.
    """

    def __init__(
        self, limit: float, terms: Sequence[Term], fixed: float = 0.0, noise: float = 0.0, name: str = ""
    ) -> None:
        self.name = name
        self.limit = limit
        self.noise = noise
        self._fixed = fixed
        self._terms = terms
        self._touching: dict[int, list[int]] = defaultdict(list)
        for number, term in enumerate(terms):
            for group in term.groups:
                self._touching[group].append(number)
        self._now: list[float] = []
        self.total = math.nan

    def start(self, kept: Mapping[int, int]) -> None:
        self._now = [term.cost(kept) for term in self._terms]
        self.total = self._fixed + sum(self._now)

    def saving(self, kept: Mapping[int, int], group: int, units: int) -> float:
        """What the total falls by when one group keeps `units`, the others as in `kept`."""
        then = {**kept, group: units}
        return sum(self._now[number] - self._terms[number].cost(then) for number in self._touching[group])

    def believed(self, saving: float, group: int) -> float:
        """A saving, or 0 where it is within the noise of the terms that it was computed from."""
        if self.noise and abs(saving) <= self.noise * math.hypot(*self._of(group)):
            return 0.0
        return saving

    def _of(self, group: int) -> list[float]:
        return [self._now[number] for number in self._touching[group]]

    def move(self, kept: Mapping[int, int], group: int) -> None:
        """Take note that a group has moved to `kept[group]`."""
        for number in self._touching[group]:
            self._now[number] = self._terms[number].cost(kept)
        self.total = self._fixed + sum(self._now)

    def neighbours(self, group: int) -> set[int]:
        """The groups whose savings may change when this one moves."""
        return {other for number in self._touching[group] for other in self._terms[number].groups}

    @property
    def excess(self) -> float:
        return self.total - self.limit


def rungs_of(group: Group, most: int = LEVELS) -> list[int]:
    """At most about so many of the widths a group may have: multiples of a power of two of its step."""
    allowed = [group.units]
    while (lower := group.below(allowed[-1])) < allowed[-1]:
        allowed.append(lower)
    stride = group.step
    while group.units > stride * most:
        stride *= 2
    inner = [kept for kept in allowed[1:-1] if kept % stride == 0]
    return [allowed[0], *inner, *allowed[1:][-1:]]


def exact_meters(graph: Graph, groups: Sequence[Group], limits: Mapping[str, float]) -> list[Meter]:
    """A meter for each cost of `graph.cost()` that has a limit."""
    owner = {node: index for index, group in enumerate(groups) for node in group.nodes}
    terms = graph.terms

    def size(node: Node, kept: Mapping[int, int]) -> int:
        counts = {
            leaf: leaf.size // groups[owner[leaf]].units * kept[owner[leaf]]
            for leaf in terms.leaves(node)
            if leaf in owner
        }
        return terms.size(node, counts, {})

    def term(nodes: tuple[Node, ...], factor: int) -> Term:
        def cost(kept: Mapping[int, int]) -> float:
            return float(factor * math.prod(size(node, kept) for node in nodes))

        moving = {owner[leaf] for node in nodes for leaf in terms.leaves(node) if leaf in owner}
        return Term(frozenset(moving), cost)

    meters = []
    for name, limit in limits.items():
        fixed, monomials = graph.cost_model.polynomial(name)
        meters.append(Meter(limit, [term(*item) for item in monomials.items()], fixed, name=name))
    return meters


class Knapsack:
    """Greedy choice of the units that each group keeps, under the limits of all meters at once.

    Each step takes the cut with the least loss per share of what still has to be saved. When all limits
    are met, units are given back where they fit, most importance first.

    Steps are found lazily: a group's savings are computed again only when, as last known, it is the best.
    That finds the best of all, since a cut saves less the more its neighbours have been cut (and giving
    back costs more the more they have been given back).
    """

    def __init__(self, rungs: Sequence[Rungs], meters: Sequence[Meter]) -> None:
        self.rungs = rungs
        self.meters = meters
        self.at = [0] * len(rungs)
        self._savings: dict[int, dict[int, list[float]]] = {}
        self._stale: set[int] = set()
        self._filling = False

    @property
    def kept(self) -> dict[int, int]:
        return {group: rungs.kept[self.at[group]] for group, rungs in enumerate(self.rungs)}

    @property
    def lost(self) -> float:
        return sum(rungs.lost[at] for rungs, at in zip(self.rungs, self.at, strict=True))

    @property
    def met(self) -> bool:
        return all(meter.excess <= 0 for meter in self.meters)

    def solve(self) -> bool:
        """Cut until all limits are met, then fill up; False where no cut saves any more before that."""
        for meter in self.meters:
            meter.start(self.kept)
        if not self._repeat(self._best_cut, until=lambda: self.met):
            return False
        self._filling = True
        self._repeat(self._best_return, until=lambda: False)
        return True

    def _repeat(self, best: Callable[[], tuple[int, int] | None], until: Callable[[], bool]) -> bool:
        """Take the best step again and again; False where there is none any more."""
        self._savings.clear()
        self._stale.clear()
        while not until():
            step = best()
            if step is None:
                return False
            group, rung = step
            if group in self._stale:
                self._stale.discard(group)
                del self._savings[group]
            else:
                self._move(group, rung)
        return True

    def _move(self, group: int, rung: int) -> None:
        self.at[group] = rung
        kept = self.kept
        for meter in self.meters:
            meter.move(kept, group)
            self._stale |= meter.neighbours(group)
        self._stale.discard(group)
        self._savings.pop(group, None)

    def _saving(self, group: int, rung: int, kept: Mapping[int, int]) -> list[float]:
        """What each meter would save; while cutting, only what is believed."""
        known = self._savings.setdefault(group, {})
        if rung not in known:
            units = self.rungs[group].kept[rung]
            exact = [meter.saving(kept, group, units) for meter in self.meters]
            known[rung] = (
                exact
                if self._filling
                else [meter.believed(saved, group) for meter, saved in zip(self.meters, exact, strict=True)]
            )
        return known[rung]

    def _best_cut(self) -> tuple[int, int] | None:
        best: tuple[float, float, int, int] | None = None
        kept = self.kept
        for group, rungs in enumerate(self.rungs):
            here = self.at[group]
            found = False
            for rung in range(here + 1, len(rungs.kept)):
                if found and rung > here + LOOKAHEAD:
                    break
                worth, surplus = self._worth(self._saving(group, rung, kept))
                if worth > 0:
                    found = True
                    key = ((rungs.lost[rung] - rungs.lost[here]) / worth, -surplus, group, rung)
                    best = key if best is None or key < best else best
        if best is None and self._stale:
            for group in self._stale:
                self._savings.pop(group, None)
            self._stale.clear()
            return self._best_cut()
        return None if best is None else best[2:]

    def _worth(self, savings: Sequence[float]) -> tuple[float, float]:
        """The share of all excess that a cut removes, where what goes below a limit counts for nothing,
        and the same with that, for cuts that are worth the same: it is room for giving units back."""
        worth = surplus = 0.0
        for meter, saved in zip(self.meters, savings, strict=True):
            excess = meter.excess
            if excess > 0:
                worth += min(saved / excess, 1.0)
                surplus += saved / excess
            elif saved < 0 and excess - saved > 0:
                return 0.0, 0.0
        return worth, surplus

    def _best_return(self) -> tuple[int, int] | None:
        best: tuple[float, int, int] | None = None
        kept = self.kept
        for group, rungs in enumerate(self.rungs):
            for rung in range(self.at[group]):
                spent = 0.0
                for meter, saved in zip(self.meters, self._saving(group, rung, kept), strict=True):
                    if meter.excess - saved > 0:
                        break
                    spent += max(-saved, 0.0) / max(abs(meter.total), 1e-12)
                else:
                    gain = rungs.lost[self.at[group]] - rungs.lost[rung]
                    key = (gain / (spent + 1e-9), group, rung)
                    best = key if best is None or key > best else best
        return None if best is None else best[1:]
