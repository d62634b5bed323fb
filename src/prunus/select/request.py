"""What a caller asked of a plan, checked, and told apart by axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..graph.axes import Node
from ..graph.graph import Axis, Graph
from ..graph.kinds import HEAD_DIM, HEADS
from .budget import Budget

SCOPES = ("local", "global", "isomorphic", "balanced")

NOMINAL = 0.5
"""The ratio that decides which factor of a product moves when only a budget is given."""


@dataclass(frozen=True)
class Request:
    """The arguments of `Graph.plan`."""

    ratio: float | Mapping[Any, float] | None
    budget: Budget | None
    importance: Any
    scope: str
    ignore: tuple[Any, ...]
    round_to: int | Mapping[Any, int]
    seed: int | None
    max_ratio: float | Mapping[Any, float] | None
    protect: float
    head_ratio: float | None
    head_dim_ratio: float | None

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise InputError(f"unknown scope {self.scope!r}; there are {', '.join(SCOPES)}")
        if self.scope == "balanced" and self.budget is None:
            raise InputError(
                "scope='balanced' weighs importance against cost: give budget=..., not ratio=..."
            )
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise InputError(f"budget must be a prunus.Budget, got {type(self.budget).__name__}")
        check_ratio(self.protect, "protect", "the fraction of its units that every axis keeps")
        for name in ("ratio", "max_ratio", "head_ratio", "head_dim_ratio"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Mapping):
                check_ratio(value, name)

    @property
    def by_kind(self) -> dict[str, float]:
        """Ratios of the kinds of axes that have one of their own."""
        given = {HEADS: self.head_ratio, HEAD_DIM: self.head_dim_ratio}
        return {kind: float(value) for kind, value in given.items() if value is not None}


def check_ratio(value: Any, what: str = "ratio", meaning: str = "the fraction of units removed") -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{what}={value!r} is not a number: it is {meaning}, in [0, 1)")
    if not 0 <= value < 1:
        raise InputError(f"{what}={value!r} is outside [0, 1): it is {meaning}")
    return float(value)


def check_multiple(value: Any, what: str = "round_to") -> int:
    if type(value) is not int or value < 1:
        raise InputError(f"{what}={value!r} must be a whole number of at least 1")
    return value


def named_axes(graph: Graph, item: Any, outputs_only: bool = True) -> list[Axis]:
    """The axes that a name, module, parameter or axis stands for."""
    if isinstance(item, Axis):
        return [item]
    name = graph.name_of(item)
    return [graph.by_name[name]] if name in graph.by_name else graph.axes_of(name, outputs_only)


def is_axis(graph: Graph, item: Any) -> bool:
    return isinstance(item, Axis) or graph.name_of(item) in graph.by_name


def by_axis(graph: Graph, given: Mapping[Any, Any], what: str) -> dict[Node, tuple[str, Any]]:
    """The name and value that count for each axis: of a module and one inside it, the inner one's.

    Raises:
        InputError: two names that stand for the same axis and none inside the other, with unlike values.
    """
    found: dict[Node, tuple[str, Any]] = {}
    for item, value in given.items():
        name = graph.name_of(item)
        for axis in named_axes(graph, item):
            other, before = found.get(axis.node, (name, value))
            if before == value or _inside(name, other) or is_axis(graph, item):
                found[axis.node] = (name, value)
            elif not _inside(other, name) and other not in graph.by_name:
                raise InputError(
                    f"{what} gives {before} for {other!r} and {value} for {name!r}, but both stand for the "
                    f"axis {axis.name!r}: give one value"
                )
    return found


def _inside(name: str, other: str) -> bool:
    return other == "" or name.startswith(f"{other}.")


def wanted_ratios(
    graph: Graph, request: Request, ignored: set[Node]
) -> tuple[dict[Node, float], set[Node], set[Node]]:
    """The ratio of each axis that may move, the axes that move along with rivals, and those to hold whole."""
    ratio, own = request.ratio, request.by_kind
    wanted: dict[Node, float] = {}
    both: set[Node] = set()
    held = set(ignored)
    named = by_axis(graph, ratio, "ratio") if isinstance(ratio, Mapping) else {}
    base = NOMINAL if ratio is None else 0.0 if isinstance(ratio, Mapping) else check_ratio(ratio)
    for axis in graph.prunable:
        value = base
        if axis.kind in own:
            value = NOMINAL if ratio is None and own[axis.kind] > 0 else own[axis.kind]
        if axis.node in named:
            name, part = named[axis.node]
            value = check_ratio(part, f"ratio[{name!r}]")
            if name in graph.by_name:
                both.add(axis.node)
        elif own.keys() >= {HEADS, HEAD_DIM} and axis.kind in own:
            both.add(axis.node)
        if value > 0 and axis.node not in ignored:
            wanted[axis.node] = value
        elif axis.node in named or own.get(axis.kind) == 0:
            held.add(axis.node)
    if isinstance(ratio, Mapping):
        _check_named(graph, ratio, wanted)
    return wanted, both & wanted.keys(), held


def _check_named(graph: Graph, ratio: Mapping[Any, float], wanted: Mapping[Node, float]) -> None:
    for item, part in ratio.items():
        value = check_ratio(part, f"ratio[{graph.name_of(item)!r}]")
        axes = named_axes(graph, item)
        if value > 0 and not any(axis.node in wanted for axis in axes):
            reasons = "; ".join(f"{axis.name} stays whole: {axis.reason or 'ignored'}" for axis in axes[:3])
            raise InputError(
                f"nothing in {graph.name_of(item)!r} can be pruned: {reasons or 'it has no axes'}"
            )


def least_kept(graph: Graph, request: Request) -> dict[Node, int]:
    """The units that each prunable axis keeps at least."""
    limits = request.max_ratio
    named = by_axis(graph, limits, "max_ratio") if isinstance(limits, Mapping) else {}
    common = 1.0 if limits is None or isinstance(limits, Mapping) else check_ratio(limits, "max_ratio")
    caps = request.by_kind if request.ratio is None else {}
    least = {}
    for axis in graph.prunable:
        most = common
        if axis.node in named:
            name, value = named[axis.node]
            most = check_ratio(value, f"max_ratio[{name!r}]")
        most = min(most, caps.get(axis.kind, 1.0))
        removable = min(math.floor(axis.size * most + 1e-9), axis.size)
        kept = max(axis.size - removable, math.ceil(axis.size * request.protect - 1e-9))
        least[axis.node] = max(kept, 1)
    return least


def multiples(graph: Graph, request: Request) -> dict[Node, int]:
    """What the kept width of each prunable axis is a multiple of."""
    if not isinstance(request.round_to, Mapping):
        value = check_multiple(request.round_to)
        return {axis.node: value for axis in graph.prunable} if value > 1 else {}
    named = by_axis(graph, request.round_to, "round_to")
    return {node: check_multiple(value, f"round_to[{name!r}]") for node, (name, value) in named.items()}
