"""What a trace records: tensor values with their axes, operations, and where in the code they happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from .axes import Node
from .polynomials import Poly


@dataclass(frozen=True)
class Site:
    """A line of the user's code, and the module whose forward it belongs to."""

    module: str
    function: str
    file: str
    line: int

    def __str__(self) -> str:
        where = f"{self.file.rsplit('/', 1)[-1]}:{self.line}"
        text = f"{self.function} ({where})" if self.function else where
        return f"{text}, module {self.module!r}" if self.module else text


NOWHERE = Site("", "", "", 0)


@dataclass(frozen=True)
class Reason:
    """Why an axis stays whole, or why a plan that cuts it is only approximate."""

    text: str
    site: Site = NOWHERE

    def __str__(self) -> str:
        return self.text if self.site is NOWHERE or not self.site.file else f"{self.text} in {self.site}"


@dataclass(eq=False)
class Value:
    """One tensor of the trace.

    `axes` has one axis for each dimension. `zero[d]` says that, when the removed units' parameters are
    zeroed, this tensor is zero at the removed units of dimension `d`: a sum over the dimension is then
    the same with or without them. `origin[d]` is the parameter dimension that a plain view of a
    parameter shows there.
    """

    axes: tuple[Node, ...]
    zero: tuple[bool, ...]
    dtype: torch.dtype
    storage: int = 0
    version: int = 0
    name: str | None = None
    origin: tuple[tuple[str, int] | None, ...] = ()
    producer: Op | None = None
    consumers: list[Op] = field(default_factory=list)
    scalar: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)


def values_in(args: dict[str, Any]) -> list[Value]:
    """The tensors among the arguments of a call, those inside lists too."""
    found: list[Value] = []
    for argument in args.values():
        if isinstance(argument, Value):
            found.append(argument)
        elif isinstance(argument, list | tuple):
            found.extend(item for item in argument if isinstance(item, Value))
    return found


@dataclass(eq=False)
class Op:
    """One ATen call: arguments by schema name, tensors replaced by their `Value`s."""

    name: str
    func: Any
    args: dict[str, Any]
    outs: tuple[Value, ...]
    site: Site

    def inputs(self) -> list[Value]:
        return values_in(self.args)


@dataclass(frozen=True)
class Equation:
    """`left = right`, which the code relies on; `what` says in which kind of call."""

    left: Poly
    right: Poly
    site: Site
    what: str


@dataclass(frozen=True)
class Branch:
    """The code compared two sizes: `left op right` came out as `outcome`, and may not after pruning."""

    op: str
    left: Poly
    right: Poly
    outcome: bool
    site: Site


@dataclass(frozen=True)
class Scale:
    """A tensor multiplied by `number ** power`, where `number` depends on sizes (`head_dim ** -0.5`).

    Scaling any one of `values` makes up for a change of the number. `inside` holds the operations of the
    call that multiplies, where that is one call on a tensor (fused attention) and not its result.
    """

    values: tuple[Value, ...]
    number: Any
    power: int
    site: Site
    inside: frozenset[int] | None = None


@dataclass(frozen=True)
class Cost:
    """One convolution or matrix product: its multiply-accumulates are the product of its loop sizes."""

    loops: tuple[Node, ...]
    factor: int
    site: Site
    kind: str
