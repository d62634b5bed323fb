"""From units that may go to units that do: no axis loses its last one, and tied sizes stay tied."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ..graph.axes import Node
from ..graph.constraints import Constraint
from ..graph.graph import Graph
from .holding import Gone
from .study import Verdict


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
        allowed: dict[Node, int] = {}
        for group in self._groups(self._moving(wanted)):
            units = math.gcd(*(node.size for node in group))
            for lost in range(min(wanted[node] * units // node.size for node in group), 0, -1):
                trial = {**allowed, **{node: node.size // units * lost for node in group}}
                if self._legal(part, trial):
                    allowed = trial
                    break
        for node, count in wanted.items():
            counts[node] = allowed.get(node, 0)
            if counts[node] < count:
                self.short[node] = f"its size is tied to others: {self._ties(node)}"

    def _moving(self, wanted: Mapping[Node, int]) -> set[Node]:
        """Axes that can lose a common share of their units: no equation has them in products of their own."""
        moving = set(wanted)
        unequal = True
        while unequal:
            unequal = False
            for tie in self.graph.constraints.residual:
                inside = moving.intersection(tie.poly.variables())
                if inside and tie.degrees(moving.__contains__) != {1}:
                    moving.remove(min(inside, key=wanted.__getitem__))
                    unequal = True
        return moving

    def _groups(self, moving: set[Node]) -> list[list[Node]]:
        """Axes that move together, because equations tie them."""
        groups = _joined(tie.poly.variables() for tie in self.graph.constraints.residual)
        tied = [[node for node in group if node in moving] for group in groups]
        alone = moving.difference(*tied) if tied else moving
        return [group for group in tied if group] + [[node] for node in alone]

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
    sets: list[Iterable[object]] = [tie.poly.variables() for tie in graph.constraints.residual]
    for poly in graph.constraints.solutions.values():
        whole = all(Fraction(c).denominator == 1 and c > 0 for c in poly.terms.values())
        if not whole or any(power < 0 for key in poly.terms for _, power in key):
            sets.append(poly.variables())
    return _joined([v for v in variables if v in graph.by_node] for variables in sets)


def _joined(sets: Iterable[Iterable[object]]) -> list[list[Node]]:
    """Axes that are in one set, or in sets that overlap."""
    parent: dict[Node, Node] = {}

    def root(node: Node) -> Node:
        parent.setdefault(node, node)
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for variables in sets:
        nodes = [v for v in variables if isinstance(v, Node)]
        for node in nodes:
            parent[root(node)] = root(nodes[0])
    parts: dict[Node, list[Node]] = {}
    for node in parent:
        parts.setdefault(root(node), []).append(node)
    return list(parts.values())
