"""What a group may not do: keep less than a share of its units, or a width that is no multiple."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..graph.axes import Node
from ..graph.graph import Graph
from .groups import Group


@dataclass(frozen=True)
class Limits:
    """For each axis the units that stay at least, and what its kept width is a multiple of."""

    least: Mapping[Node, int]
    multiples: Mapping[Node, int]

    def impose(self, graph: Graph, groups: Sequence[Group]) -> None:
        inner = _inner_widths(graph) if self.multiples else {}
        for group in groups:
            for node in group.nodes:
                multiple = self.multiples.get(node, 1)
                width = node.size // group.units * inner.get(node, 1)
                group.step = math.lcm(group.step, multiple // math.gcd(multiple, width))
                group.least = max(group.least, -(-self.least.get(node, 1) * group.units // node.size))
            group.step = min(group.step, group.units)


def _inner_widths(graph: Graph) -> dict[Node, int]:
    """What each axis is multiplied with wherever it is a factor, as far as all places share it."""
    inner: dict[Node, int] = {}
    for item in graph.held:
        for node in graph.values[item.name].axes:
            for factors in graph.terms.products(node):
                for index, leaves in enumerate(factors):
                    rest = math.prod(
                        sum(leaf.size for leaf in other) for j, other in enumerate(factors) if j != index
                    )
                    for leaf in leaves:
                        inner[leaf] = math.gcd(inner.get(leaf, rest), rest)
    return inner
