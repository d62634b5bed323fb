"""Which units have to stay and which go, told in positions along axes: the same for graphs of any origin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ..graph.axes import Node
from ..graph.terms import Terms

R = TypeVar("R")
Gone = dict[Node, Tensor]
"""For each leaf axis the units that go, as a bool mask on the CPU."""


@dataclass
class Stays(Generic[R]):
    """Units that have to stay, each with the first reason found."""

    held: dict[Node, Tensor] = field(default_factory=dict)
    reasons: dict[Node, list[tuple[Tensor, R]]] = field(default_factory=dict)

    def add(self, leaf: Node, units: Tensor, reason: R) -> None:
        """Hold units of an axis (bool); those that are held already keep their reason."""
        before = self.held.get(leaf, torch.zeros(leaf.size, dtype=torch.bool))
        new = units & ~before
        if bool(new.any()):
            self.held[leaf] = before | new
            self.reasons.setdefault(leaf, []).append((new, reason))

    def commonest(self, leaf: Node, units: Tensor) -> str:
        """The reason for most of some units."""
        counts = Counter({str(reason): int((mask & units).sum()) for mask, reason in self.reasons[leaf]})
        return counts.most_common(1)[0][0]


class Holding(Generic[R]):
    """A pass backward over a graph, for whose length some units are taken as gone and others are held.

    Args:
        terms: of the graph.
        prunable: its leaf axes that can be cut.
    """

    verdict: Stays[R]

    def __init__(self, terms: Terms, prunable: Collection[Node]) -> None:
        self.terms = terms
        self.prunable = set(prunable)
        self.gone: Gone = {}
        self._leaves: dict[Node, tuple[Node, ...]] = {}

    def start(self, gone: Gone, verdict: Stays[R]) -> None:
        """Begin a pass in which the units in `gone` are gone."""
        self.gone, self.verdict = gone, verdict
        self._kept = {leaf: (~mask).nonzero().flatten() for leaf, mask in gone.items() if bool(mask.any())}
        self._memo: dict[Node, Tensor | None] = {}
        self._gone_along: dict[Node, Tensor] = {}

    def leaves(self, node: Node) -> tuple[Node, ...]:
        """The leaves of an axis that can be cut."""
        known = self._leaves.get(node)
        if known is None:
            known = tuple(leaf for leaf in self.terms.leaves(node) if leaf in self.prunable)
            self._leaves[node] = known
        return known

    def gone_along(self, node: Node) -> Tensor | None:
        """Positions along an axis that go with the units that are gone (bool, CPU); None for none."""
        if self._kept.keys().isdisjoint(self.leaves(node)):
            return None
        if node not in self._gone_along:
            mask = torch.ones(node.size, dtype=torch.bool)
            mask[self.terms.kept(node, self._kept, self._memo)] = False
            self._gone_along[node] = mask
        return self._gone_along[node]

    def keep(self, node: Node, bad: Tensor | None, reason: R) -> None:
        """Hold the units behind some positions of an axis (bool, or one entry for all; None: all of them)."""
        positions = torch.ones(1, dtype=torch.bool) if bad is None else bad
        for leaf, units in units_at(self.terms, node, positions).items():
            if leaf in self.prunable:
                self.verdict.add(leaf, units, reason)


def units_at(terms: Terms, node: Node, positions: Tensor) -> dict[Node, Tensor]:
    """For each leaf of an axis, the units with any of some positions (bool, or one entry for all)."""
    found: dict[Node, Tensor] = {}

    def add(leaf: Node, score: Tensor) -> None:
        found[leaf] = found.get(leaf, torch.zeros(leaf.size, dtype=torch.bool)) | (score > 0)

    terms.project(node, positions.float().cpu().expand(node.size), add)
    return found


def told(axes: Iterable[Any], empty: Gone, gone: Gone, why: Callable[[Any, Tensor], str]) -> dict[str, str]:
    """For each axis with empty units that stay, how many there are and why they do.

    Args:
        axes: with `name`, `node`, `size`, and the `reason` for which one stays whole, or None.
        empty: units without weights.
        why: why some units (bool) of an axis that can be cut stay.
    """
    found: dict[str, str] = {}
    for axis in axes:
        units = empty.get(axis.node)
        if units is None:
            continue
        left = units & ~gone[axis.node] if axis.node in gone else units
        if bool(left.any()):
            reason = axis.reason or why(axis, left)
            found[axis.name] = f"{int(left.sum())} of {axis.size} units are empty and stay: {reason}"
    return found
