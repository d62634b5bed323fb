"""Polynomials over axis sizes and module attributes, in which equations between sizes are written.

A polynomial is a sum of monomials with rational coefficients; exponents may be negative, so exact
divisions stay inside the ring. What leaves it (a remainder, a truncating division, a comparison that
came out unequal) becomes an `Opaque` variable that remembers what it depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .axes import Node, pieces, settle

Monomial = tuple[tuple[Any, int], ...]


@dataclass(eq=False)
class Attribute:
    """An integer held by a module, or inside a list, tuple, dict or plain object that a module holds.

    `owner` is the dotted module name, `path` the steps from the module to the integer: `("num_heads",)`
    or `("split_sizes", 1)` or `("config", "hidden_size")`.
    """

    owner: str
    path: tuple[str | int, ...]
    value: int

    @property
    def name(self) -> str:
        text = self.owner
        for step in self.path:
            text += f"[{step!r}]" if isinstance(step, int) else f".{step}"
        return text.lstrip(".")


@dataclass(eq=False)
class Opaque:
    """A value computed from sizes in a way that has no polynomial form."""

    value: int
    depends: tuple[Any, ...]


class Poly:
    """A polynomial over Nodes, Attributes and Opaques. Immutable."""

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[Monomial, Fraction | int]) -> None:
        self.terms = {key: value for key, value in terms.items() if value != 0}

    @staticmethod
    def const(value: int | Fraction) -> Poly:
        return Poly({(): value})

    @staticmethod
    def var(variable: Any) -> Poly:
        return Poly({((variable, 1),): 1})

    def __add__(self, other: Poly) -> Poly:
        out = dict(self.terms)
        for key, value in other.terms.items():
            out[key] = out.get(key, 0) + value
        return Poly(out)

    def __neg__(self) -> Poly:
        return Poly({key: -value for key, value in self.terms.items()})

    def __sub__(self, other: Poly) -> Poly:
        return self + -other

    def __mul__(self, other: Poly) -> Poly:
        out: dict[Monomial, Fraction | int] = {}
        for key_a, value_a in self.terms.items():
            for key_b, value_b in other.terms.items():
                key = _merge(key_a, key_b)
                out[key] = out.get(key, 0) + value_a * value_b
        return Poly(out)

    @property
    def is_const(self) -> bool:
        return not any(self.terms)

    @property
    def constant(self) -> Fraction | int:
        return self.terms.get((), 0)

    @property
    def monomial(self) -> tuple[Monomial, Fraction | int] | None:
        """The only term, if there is just one."""
        return next(iter(self.terms.items())) if len(self.terms) == 1 else None

    def inverse(self) -> Poly | None:
        """1/self, where self is a single term."""
        single = self.monomial
        if single is None:
            return None
        key, value = single
        return Poly({tuple((var, -power) for var, power in key): Fraction(1) / value})

    def variables(self) -> list[Any]:
        seen: dict[Any, None] = {}
        for key in self.terms:
            for variable, _ in key:
                seen[variable] = None
        return list(seen)

    def substitute(self, replace: Callable[[Any], Poly | None]) -> Poly | None:
        """Replace variables (None: keep). None where a negative power of a sum would be needed."""
        total = Poly({})
        for key, value in self.terms.items():
            term = Poly({(): value})
            for variable, power in key:
                new = replace(variable)
                if new is None:
                    new = Poly.var(variable)
                if power < 0:
                    inverse = new.inverse()
                    if inverse is None:
                        return None
                    new = inverse
                for _ in range(abs(power)):
                    term = term * new
            total = total + term
        return total

    def evaluate(self, value_of: Callable[[Any], int]) -> Fraction:
        total = Fraction(0)
        for key, value in self.terms.items():
            term = Fraction(value)
            for variable, power in key:
                term *= Fraction(value_of(variable)) ** power
            total += term
        return total

    def __repr__(self) -> str:
        def one(key: Monomial, value: Fraction | int) -> str:
            parts = [] if value == 1 and key else [str(value)]
            for variable, power in key:
                name = variable.name if isinstance(variable, Attribute) else repr(variable)
                parts.append(name if power == 1 else f"{name}^{power}")
            return "*".join(parts)

        return " + ".join(one(key, value) for key, value in self.terms.items()) or "0"


def _merge(a: Monomial, b: Monomial) -> Monomial:
    if not a:
        return b
    if not b:
        return a
    powers: dict[Any, int] = dict(a)
    for variable, power in b:
        powers[variable] = powers.get(variable, 0) + power
    return tuple(
        sorted(((var, power) for var, power in powers.items() if power), key=lambda item: id(item[0]))
    )


def size_poly(node: Node, memo: dict[Node, Poly] | None = None) -> Poly:
    """The size of an axis as a polynomial in the sizes of its leaves."""
    node = settle(node)
    if memo is not None and node in memo:
        return memo[node]
    if node.size == 1:
        out = Poly.const(1)
    elif node.kind == "leaf":
        out = Poly.var(node)
    elif node.kind == "reverse":
        out = size_poly(node.children[0], memo)
    elif node.kind == "product":
        out = Poly.const(1)
        for child in node.children:
            out = out * size_poly(child, memo)
    else:
        out = Poly({})
        for child in pieces(node):
            out = out + size_poly(child, memo)
    if memo is not None:
        memo[node] = out
    return out
