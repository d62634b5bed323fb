"""Which axes move in a plan, and which must move together because their sizes are tied.

Of the factors of one product (heads x head size) only one moves, unless the caller named both. Axes
whose sizes an equation ties move by the same ratio: a *group* of sizes n_i with common divisor g can keep
u/g of each, u = 1..g, and any homogeneous linear equation between them still holds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ..graph.axes import Node
from ..graph.constraints import Constraint
from ..graph.graph import Graph

MAX_ROUNDS = 4


@dataclass(eq=False)
class Group:
    """Axes cut by one common ratio.

    `step` is the smallest change of `units` that every user allows, `least` the fewest that may stay.
    """

    nodes: list[Node]
    units: int
    ratio: float
    step: int = 1
    order: int = field(default=0)
    least: int = 1

    def counts(self, kept: int) -> dict[Node, int]:
        return {node: node.size // self.units * kept for node in self.nodes}

    @property
    def smallest(self) -> int:
        return min(-(-max(self.least, 1) // self.step) * self.step, self.units)

    def nearest(self, kept: int) -> int:
        """The next number of units at or above `kept` that the step allows."""
        kept = max(kept, self.least, 1)
        return min(-(-kept // self.step) * self.step, self.units)

    def below(self, kept: int) -> int:
        """The next allowed number of units under `kept`, or `kept` itself where there is none."""
        lower = (kept - 1) // self.step * self.step
        return lower if lower >= self.smallest else kept


class _Chooser:
    def __init__(
        self, graph: Graph, wanted: Mapping[Node, float], both: set[Node], whole: set[Node], fine: bool
    ) -> None:
        self.graph = graph
        self.whole = whole
        self.fine = fine
        self.wanted = dict(wanted)
        self.both = both
        self.position = {axis.node: index for index, axis in enumerate(graph.axes)}
        self.conflicts: dict[Node, set[Node]] = defaultdict(set)
        self.coverage: dict[Node, int] = defaultdict(int)
        self.poor: set[Node] = set()
        self.held: set[Node] = set()
        self._find_conflicts()

    def _find_conflicts(self) -> None:
        graph = self.graph
        seen: set[int] = set()
        for item in graph.held:
            if item.kind != "parameter":
                continue
            for node in graph.values[item.name].axes:
                for factors in graph.terms.products(node):
                    for leaves in factors:
                        for leaf in leaves:
                            self.coverage[leaf] += 1
                    if id(node) not in seen:
                        self._conflict(factors)
                seen.add(id(node))
        for constraint in graph.constraints.residual:
            for key in constraint.poly.terms:
                self._conflict([[variable] for variable, _ in key], always=True)

    def _conflict(self, factors: list[list[Node]], always: bool = False) -> None:
        for i, leaves in enumerate(factors):
            for other in factors[i + 1 :]:
                for a in leaves:
                    for b in other:
                        if a is not b and (always or not (a in self.both and b in self.both)):
                            self.conflicts[a].add(b)
                            self.conflicts[b].add(a)

    def _key(self, node: Node) -> tuple[bool, bool, bool, float, int, int]:
        ratio = self.wanted[node]
        kept = node.size - math.floor(node.size * ratio + 1e-9)
        miss = abs(kept / node.size - (1 - ratio))
        return (
            node not in self.both,
            node in self.poor,
            node in self.graph.approximate,
            -node.size if self.fine else round(miss, 1),
            -self.coverage[node],
            self.position.get(node, 0),
        )

    def choose(self) -> list[Group]:
        """Groups of moving axes; tried again with other factors where one turned out too coarse."""
        groups: list[Group] = []
        for _ in range(MAX_ROUNDS):
            moving = self._independent()
            self._hold_unequal(moving)
            groups = self._group(moving)
            coarse = [group for group in groups if self._too_coarse(group)]
            rivals = {n for group in coarse for n in group.nodes if self.conflicts[n] & self.wanted.keys()}
            if not rivals - self.poor:
                break
            self.poor |= rivals
        return groups

    def _too_coarse(self, group: Group) -> bool:
        ideal = 1 - group.ratio
        removed = math.floor(group.units * group.ratio + 1e-9)
        kept = group.nearest(group.units - removed) / group.units
        return abs(kept - ideal) > 0.1 and min(node.size for node in group.nodes) > 1

    def _independent(self) -> set[Node]:
        moving: set[Node] = set()
        for node in sorted(self.wanted, key=self._key):
            if not self.conflicts[node] & moving:
                moving.add(node)
        return moving

    def _hold_unequal(self, moving: set[Node]) -> None:
        """Hold every axis in a constraint that would not survive a common ratio."""
        self.held = set(self.whole)
        changed = True
        while changed:
            changed = False
            for constraint in self.graph.constraints.residual:
                degrees = constraint.degrees(moving.__contains__)
                if degrees <= {0} or degrees == {1}:
                    continue
                self._mend(constraint, moving)
                changed = True

    def _mend(self, constraint: Constraint, moving: set[Node]) -> None:
        """Take a tied partner along where that is all that is missing, else hold what moves, for good."""
        variables = constraint.poly.variables()
        asleep = [node for node in variables if node not in moving]
        linear = all(sum(power for _, power in key) == 1 for key in constraint.poly.terms)
        free = all(node not in self.held and not (self.conflicts[node] & moving) for node in asleep)
        if linear and free and asleep and all(node in self.graph.by_node for node in asleep):
            ratio = max(self.wanted[node] for node in variables if node in self.wanted)
            for node in asleep:
                self.wanted[node] = ratio
                moving.add(node)
            return
        for node in variables:
            moving.discard(node)
            self.held.add(node)

    def _group(self, moving: set[Node]) -> list[Group]:
        parent = {node: node for node in moving}

        def root(node: Node) -> Node:
            while parent[node] is not node:
                parent[node] = parent[parent[node]]
                node = parent[node]
            return node

        for constraint in self.graph.constraints.residual:
            tied = [node for node in constraint.poly.variables() if node in moving]
            for node in tied[1:]:
                parent[root(node)] = root(tied[0])
        members: dict[Node, list[Node]] = defaultdict(list)
        for node in sorted(moving, key=lambda item: self.position.get(item, 0)):
            members[root(node)].append(node)
        groups = []
        for order, nodes in enumerate(members.values()):
            units = math.gcd(*(node.size for node in nodes))
            ratio = max(self.wanted.get(node, 0.0) for node in nodes)
            groups.append(Group(nodes, units, ratio, order=order))
        self._whole_attributes(groups)
        return [group for group in groups if group.units > 1]

    def _whole_attributes(self, groups: list[Group]) -> None:
        """Attributes stay integers: the step of a group makes every solved attribute whole."""
        owner = {node: group for group in groups for node in group.nodes}
        for attribute, poly in self.graph.constraints.solutions.items():
            moved = {id(owner[v]): owner[v] for v in poly.variables() if v in owner}
            for group in moved.values():
                inside = set(group.nodes)
                degrees = {sum(power for v, power in key if v in inside) for key in poly.terms}
                if degrees != {0}:
                    group.step = math.lcm(group.step, group.units // math.gcd(group.units, attribute.value))


def choose_groups(
    graph: Graph,
    wanted: Mapping[Node, float],
    both: Collection[Node] = (),
    whole: Collection[Node] = (),
    fine: bool = False,
) -> list[Group]:
    """The groups of axes that move, given the ratio wanted for each.

    Axes in `whole` never move, nor does what is tied to their size. Axes in `both` may move together with
    their rivals in a product. With `fine`, the largest factor of a product moves, since its units are the
    smallest; without, the one that comes closest to its ratio.
    """
    return _Chooser(graph, wanted, set(both), set(whole), fine).choose()
