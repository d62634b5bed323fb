"""What the code's integers demand of axis sizes: attributes solved, the rest kept as constraints.

Every equation that the trace recorded is written in the sizes of leaf axes and in module attributes.
An attribute is a free unknown: the first equation that isolates it becomes its *solution* (the value it
is repaired to after pruning), and it is substituted away in the others. What remains ties the sizes of
axes to each other or to literals. A constraint that mentions a fixed size freezes everything in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from .axes import Node, leaves
from .polynomials import Attribute, Opaque, Poly, size_poly
from .values import Equation, Reason


@dataclass(frozen=True)
class Constraint:
    """`poly = 0` over the sizes of leaf axes, every exponent positive."""

    poly: Poly
    equation: Equation

    def degrees(self, moving: Callable[[Node], bool]) -> set[int]:
        """The total degree of each monomial in the axes that move."""
        return {sum(power for variable, power in key if moving(variable)) for key in self.poly.terms}


@dataclass
class Constraints:
    """Solved attributes, constraints between free axes, and the axes that equations freeze."""

    solutions: dict[Attribute, Poly] = field(default_factory=dict)
    residual: list[Constraint] = field(default_factory=list)
    frozen: dict[Node, Reason] = field(default_factory=dict)

    def number(self, variable: Any, size_of: Callable[[Node], int]) -> Fraction | int:
        """The value of any variable of the trace for other axis sizes."""
        if isinstance(variable, Attribute):
            solution = self.solutions.get(variable)
            if solution is None:
                return variable.value
            return solution.evaluate(lambda inner: _value(inner, size_of))
        if isinstance(variable, Opaque):
            return variable.value
        return size_poly(variable).evaluate(lambda inner: _value(inner, size_of))

    def leaves_of(self, poly: Poly) -> list[Node]:
        """Every leaf axis that a number depends on, attributes followed to their solutions."""
        found: dict[Node, None] = {}
        pending = list(poly.variables())
        seen: set[int] = set()
        while pending:
            variable = pending.pop()
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            if isinstance(variable, Opaque):
                pending.extend(variable.depends)
            elif isinstance(variable, Attribute):
                solution = self.solutions.get(variable)
                pending.extend(solution.variables() if solution is not None else ())
            else:
                found.update(dict.fromkeys(leaves(variable)))
        return list(found)


def _value(variable: Any, size_of: Callable[[Node], int]) -> int:
    return size_of(variable) if isinstance(variable, Node) else int(variable.value)


class _Solver:
    def __init__(self, frozen: dict[Node, Reason]) -> None:
        self.out = Constraints(frozen=dict(frozen))
        self.memo: dict[Node, Poly] = {}

    def expand(self, poly: Poly) -> Poly | None:
        def replace(variable: Any) -> Poly | None:
            if isinstance(variable, Node):
                return self._fixed(size_poly(variable, self.memo))
            if isinstance(variable, Attribute):
                return self.out.solutions.get(variable)
            return Poly.const(variable.value) if self._settled(variable) else None

        return poly.substitute(replace)

    def _fixed(self, poly: Poly) -> Poly:
        if not any(variable in self.out.frozen for variable in poly.variables()):
            return poly
        fixed = poly.substitute(lambda v: Poly.const(v.size) if v in self.out.frozen else None)
        return fixed if fixed is not None else poly

    def _settled(self, variable: Opaque) -> bool:
        return all(leaf in self.out.frozen for leaf in self.out.leaves_of(Poly.var(variable)))

    def freeze(self, nodes: Iterable[Node], reason: Reason) -> bool:
        new = [node for node in nodes if node not in self.out.frozen]
        for node in new:
            self.out.frozen[node] = reason
        return bool(new)

    def solve(self, equations: list[Equation]) -> Constraints:
        pending = self._written_out(equations)
        pending = self._eliminate(pending)
        self._settle(pending)
        return self.out

    def _written_out(self, equations: list[Equation]) -> list[tuple[Poly, Equation]]:
        seen: set[tuple[Any, ...]] = set()
        pending: list[tuple[Poly, Equation]] = []
        for equation in equations:
            poly = self.expand(equation.left - equation.right)
            if poly is None:
                leaves_ = self.out.leaves_of(equation.left - equation.right)
                self.freeze(leaves_, Reason(f"{equation.what} that has no closed form", equation.site))
                continue
            if poly.is_const:
                continue
            key = tuple(
                sorted(((tuple((id(v), p) for v, p in k), c) for k, c in poly.terms.items()), key=repr)
            )
            if key not in seen:
                seen.add(key)
                pending.append((poly, equation))
        return pending

    def _eliminate(self, pending: list[tuple[Poly, Equation]]) -> list[tuple[Poly, Equation]]:
        """Solve attributes one after another, the plainest equations first."""

        def unknowns(poly: Poly) -> list[Attribute]:
            return [v for v in poly.variables() if isinstance(v, Attribute)]

        pending = sorted(pending, key=lambda item: (len(unknowns(item[0])), len(item[0].terms)))
        holders: dict[Attribute, list[int]] = defaultdict(list)
        for index, (poly, _) in enumerate(pending):
            for attribute in unknowns(poly):
                holders[attribute].append(index)
        queue = list(range(len(pending)))
        while True:
            later: list[int] = []
            progress = False
            for index in queue:
                poly = pending[index][0]
                free = unknowns(poly)
                if not free:
                    continue
                solution = _isolate(poly, free[0]) if len(free) == 1 else None
                if solution is None:
                    later.append(index)
                    continue
                progress = True
                self._assign(free[0], solution, pending, holders)
            if not later:
                break
            if not progress:
                known = unknowns(pending[later[0]][0])[0]
                self._assign(known, Poly.const(known.value), pending, holders)
            queue = later
        return [(poly, equation) for poly, equation in pending if not poly.is_const]

    def _assign(
        self,
        attribute: Attribute,
        solution: Poly,
        pending: list[tuple[Poly, Equation]],
        holders: dict[Attribute, list[int]],
    ) -> None:
        """Put a solution in place of its attribute everywhere."""
        self.out.solutions[attribute] = solution
        for index in holders.pop(attribute, []):
            poly, equation = pending[index]
            new = poly.substitute(lambda v: solution if v is attribute else None)
            if new is None:
                self.freeze(
                    self.out.leaves_of(poly),
                    Reason(f"{equation.what} that has no closed form", equation.site),
                )
                new = Poly({})
            pending[index] = (new, equation)

    def _settle(self, pending: list[tuple[Poly, Equation]]) -> None:
        """Freeze what fixed sizes reach, until nothing new is frozen."""
        while True:
            changed = False
            kept: list[tuple[Poly, Equation]] = []
            for poly, equation in pending:
                reduced = self.expand(poly)
                if reduced is None or any(isinstance(v, Opaque) for v in reduced.variables()):
                    nodes = self.out.leaves_of(poly)
                    changed |= self.freeze(
                        nodes, Reason(f"{equation.what} that has no closed form", equation.site)
                    )
                    continue
                reduced = _cleared(reduced)
                if reduced.is_const:
                    continue
                if () in reduced.terms:
                    changed |= self.freeze(reduced.variables(), _fixed_reason(reduced, equation))
                    continue
                kept.append((reduced, equation))
            pending = kept
            if not changed:
                break
        self.out.residual = [Constraint(poly, equation) for poly, equation in pending]


def _isolate(poly: Poly, attribute: Attribute) -> Poly | None:
    """The attribute as a function of the rest, where it stands in one monomial to the power of 1 or -1."""
    own = [key for key in poly.terms if any(variable is attribute for variable, _ in key)]
    if len(own) != 1 or any(isinstance(v, Opaque) for v in poly.variables()):
        return None
    key = own[0]
    power = next(p for variable, p in key if variable is attribute)
    if abs(power) != 1:
        return None
    others = Poly({tuple(item for item in key if item[0] is not attribute): poly.terms[key]})
    inverse = others.inverse()
    assert inverse is not None
    rest = Poly({k: -c for k, c in poly.terms.items() if k != key}) * inverse
    return rest if power == 1 else rest.inverse()


def _cleared(poly: Poly) -> Poly:
    """Multiplied by a monomial so that exponents are positive and none is common to all terms."""
    lowest: dict[Any, int] = {}
    for variable in poly.variables():
        lowest[variable] = min(dict(key).get(variable, 0) for key in poly.terms)
    shift = Poly({tuple(sorted(((v, -p) for v, p in lowest.items() if p), key=lambda item: id(item[0]))): 1})
    return poly * shift


def _fixed_reason(poly: Poly, equation: Equation) -> Reason:
    if len(poly.variables()) == 1 and equation.right.is_const:
        return Reason(f"fixed by the number {equation.right.constant} in {equation.what}", equation.site)
    return Reason(f"its size is tied to a fixed one by {equation.what}", equation.site)


def solve(equations: list[Equation], frozen: dict[Node, Reason]) -> Constraints:
    """Attributes solved and constraints reduced, given the axes frozen for other reasons."""
    return _Solver(frozen).solve(equations)
