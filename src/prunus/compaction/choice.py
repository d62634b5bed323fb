"""From units that may go to units that do: no axis loses its last one, and tied sizes stay tied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ..graph.axes import Node
from ..graph.constraints import Constraint
from ..graph.graph import Graph
from ..select.groups import choose_groups
from .study import Gone, Verdict


class Choice:
    """The largest legal choice. `short` says of an axis that could lose more units why it does not."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.parts = _components(graph)
        self.short: dict[Node, str] = {}

    def choose(self, verdict: Verdict, before: Gone) -> Gone:
        """Units that go; those that went before still do."""
        self.short = {}
        dead: dict[Node, Tensor] = {}
        for axis in self.graph.prunable:
            held = verdict.held.get(axis.node)
            free = ~held if held is not None else torch.ones(axis.size, dtype=torch.bool)
            if bool(free.all()):
                free[0] = False
                self.short[axis.node] = "an axis keeps its last unit"
            if bool(free.any()):
                dead[axis.node] = free
        counts = {node: int(free.sum()) for node, free in dead.items()}
        for part in self.parts:
            self._restrict(part, counts)
        return {node: _pick(dead[node], count, before.get(node)) for node, count in counts.items() if count}

    def _restrict(self, part: list[Node], counts: dict[Node, int]) -> None:
        """Lower the counts of axes whose sizes are tied to what the ties allow."""
        wanted = {node: counts[node] for node in part if node in counts}
        if not wanted or self._legal(part, wanted):
            return
        allowed = self._by_groups(wanted)
        for node in sorted(wanted, key=lambda node: -wanted[node]) if not allowed else ():
            allowed = self._by_groups({node: wanted[node]})
            if allowed:
                break
        for node, count in wanted.items():
            counts[node] = allowed.get(node, 0)
            if counts[node] < count:
                self.short[node] = f"its size is tied to others: {self._ties(node)}"

    def _by_groups(self, wanted: Mapping[Node, int]) -> dict[Node, int]:
        """How many units of each axis go when tied axes lose the same share."""
        ratios = {node: count / node.size for node, count in wanted.items()}
        out: dict[Node, int] = {}
        for group in choose_groups(self.graph, ratios, set(ratios)):
            spare = min(wanted.get(node, 0) * group.units // node.size for node in group.nodes)
            kept = group.nearest(group.units - spare)
            if kept < group.units:
                out.update((node, node.size - count) for node, count in group.counts(kept).items())
        return out if self._legal(list(out), out) else {}

    def _legal(self, part: Iterable[Node], lost: Mapping[Node, int]) -> bool:
        """Whether every equation over these axes holds, and every attribute is a whole number."""
        nodes = set(part)
        constraints = self.graph.constraints

        def size(node: Node) -> int:
            return node.size - lost.get(node, 0)

        def number(variable: Any) -> Any:
            return constraints.number(variable, size)

        ties: list[Constraint] = [c for c in constraints.residual if nodes & set(c.poly.variables())]
        if any(tie.poly.evaluate(number) != 0 for tie in ties):
            return False
        return all(
            value >= 1 and Fraction(value).denominator == 1
            for attribute, poly in constraints.solutions.items()
            if nodes & set(poly.variables())
            for value in [number(attribute)]
        )

    def _ties(self, node: Node) -> str:
        constraints = self.graph.constraints
        for tie in constraints.residual:
            if node in tie.poly.variables():
                return f"{tie.equation.what} in {tie.equation.site}"
        names = [a.name for a, poly in constraints.solutions.items() if node in poly.variables()]
        return f"{', '.join(names)} must be a whole number"


def _pick(dead: Tensor, count: int, before: Tensor | None) -> Tensor:
    """The first dead units, those that went before in front."""
    index = dead.nonzero().flatten()
    if before is not None:
        index = index[torch.argsort(~before[index], stable=True)]
    gone = torch.zeros_like(dead)
    gone[index[:count]] = True
    return gone


def _components(graph: Graph) -> list[list[Node]]:
    """Prunable axes that share an equation, or an attribute that could become a fraction."""
    parent: dict[Node, Node] = {}

    def root(node: Node) -> Node:
        parent.setdefault(node, node)
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def tie(variables: Iterable[object], allowed: Callable[[object], bool]) -> None:
        nodes = [v for v in variables if isinstance(v, Node) and allowed(v)]
        for node in nodes:
            parent[root(node)] = root(nodes[0])

    for constraint in graph.constraints.residual:
        tie(constraint.poly.variables(), lambda v: v in graph.by_node)
    for poly in graph.constraints.solutions.values():
        whole = all(Fraction(c).denominator == 1 and c > 0 for c in poly.terms.values())
        if not whole or any(power < 0 for key in poly.terms for _, power in key):
            tie(poly.variables(), lambda v: v in graph.by_node)
    parts: dict[Node, list[Node]] = {}
    for node in parent:
        parts.setdefault(root(node), []).append(node)
    return list(parts.values())
