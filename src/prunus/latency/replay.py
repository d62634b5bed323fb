"""Traced operations as calls that can be replayed at other widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..graph.axes import CONCAT, LEAF, PRODUCT, REVERSE, Node, settle
from ..graph.terms import Terms
from ..graph.values import Op, Value
from .operands import Operand

_FREE = frozenset("_unsafe_view unsafe_split unsafe_split_with_sizes lift_fresh _local_scalar_dense".split())
"""Operations that copy nothing although their schemas do not say so."""

_MOVED = frozenset({"t", "transpose", "permute", "expand", "detach", "alias"})
"""Views after which a tensor lies in memory otherwise than its shape says."""


@dataclass(frozen=True)
class Dim:
    """The size of one dimension: a constant times the sizes of some of the variables of its operation."""

    constant: int
    variables: tuple[int, ...]

    def at(self, sizes: Sequence[int]) -> int:
        return self.constant * math.prod(sizes[v] for v in self.variables)


@dataclass(frozen=True)
class Pattern:
    """An `Operand` whose shape depends on the widths."""

    dims: tuple[Dim, ...]
    dtype: torch.dtype
    order: tuple[int, ...] | None
    stretched: tuple[int, ...]
    cold: bool

    def at(self, sizes: Sequence[int]) -> Operand:
        shape = tuple(dim.at(sizes) for dim in self.dims)
        return Operand(shape, self.dtype, self.order, self.stretched, self.cold)


@dataclass(frozen=True)
class Request:
    """One operation at one width: the ATen function, and its arguments with tensors as `Operand`s."""

    func: Any
    args: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        texts = [f"{name}={_text(value)}" for name, value in self.args if value is not None]
        return f"{self.func}({', '.join(texts)})"

    def operands(self) -> list[Operand]:
        return [item for _, value in self.args for item in _operands(value)]

    def bind(self, make: Callable[[Operand], Tensor]) -> Callable[[], Any]:
        """A call on tensors that are made now."""
        by_name = {name: _replace(value, make) for name, value in self.args}
        positional, keyword = [], {}
        for argument in self.func._schema.arguments:
            if argument.kwarg_only:
                keyword[argument.name] = by_name[argument.name]
            else:
                positional.append(by_name[argument.name])
        return lambda: self.func(*positional, **keyword)

    @property
    def writes(self) -> bool:
        """Whether it changes its arguments."""
        return bool(self.func._schema.is_mutable)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(_text(item) for item in value)}]"
    return str(value) if not isinstance(value, float) else repr(value)


def _operands(value: Any) -> list[Operand]:
    if isinstance(value, Operand):
        return [value]
    return [item for part in value for item in _operands(part)] if isinstance(value, list | tuple) else []


def _replace(value: Any, make: Callable[[Operand], Tensor]) -> Any:
    if isinstance(value, Operand):
        return make(value)
    return [_replace(item, make) for item in value] if isinstance(value, list | tuple) else value


class Template:
    """A traced operation with its widths left open.

    Attributes:
        variables: the axes whose sizes it depends on.
        full: their sizes in the traced model.
        joint: several of them share units or are too many to vary one by one: they are scaled together.
    """

    def __init__(self, op: Op, terms: Terms, moves: Callable[[Node], bool], device: torch.device) -> None:
        self.op = op
        self.terms = terms
        self.device = device
        self._index: dict[Node, int] = {}
        self.args: dict[str, Any] = {name: self._pattern(value, moves) for name, value in op.args.items()}
        self.outs = [self._pattern(value, moves) for value in op.outs]
        self.variables = tuple(self._index)
        self.full = tuple(node.size for node in self.variables)
        leaves = [leaf for node in self.variables for leaf in terms.leaves(node) if moves(leaf)]
        self.leaves = tuple(dict.fromkeys(leaves))
        self.joint = len(set(leaves)) < len(leaves) or len(self.variables) > MOST_VARIABLES

    def _pattern(self, value: Any, moves: Callable[[Node], bool]) -> Any:
        if isinstance(value, Value):
            base, order, stretched = _layout(value)
            dims = tuple(self._dim(axis, moves) for axis in value.axes)
            return Pattern(dims, value.dtype, order, stretched, base.name is not None)
        if isinstance(value, list | tuple):
            return tuple(self._pattern(item, moves) for item in value)
        return value

    def _dim(self, axis: Node, moves: Callable[[Node], bool]) -> Dim:
        node, kind, parts = self.terms.parts(axis)
        if not moves(node):
            return Dim(node.size, ())
        if kind in (LEAF, CONCAT):
            return Dim(1, (self._index.setdefault(node, len(self._index)),))
        if kind == REVERSE:
            return self._dim(parts[0], moves)
        assert kind == PRODUCT
        factors = [self._dim(part, moves) for part in parts]
        return Dim(
            math.prod(f.constant for f in factors), tuple(v for factor in factors for v in factor.variables)
        )

    def sizes(self, counts: Mapping[Node, int]) -> tuple[int, ...]:
        """The sizes of the variables when leaf axes keep `counts` units."""
        memo: dict[Node, int] = {}
        return tuple(self.terms.size(node, counts, memo) for node in self.variables)

    def scaled(self, share: float) -> tuple[int, ...]:
        """The sizes of the variables when every axis keeps the same share, rounded up."""
        return self.sizes({leaf: max(1, math.ceil(leaf.size * share)) for leaf in self.leaves})

    def volume(self, sizes: Sequence[int]) -> int:
        """Elements that go in and out."""
        patterns = [*_patterns(tuple(self.args.values())), *_patterns(tuple(self.outs))]
        return sum(math.prod(dim.at(sizes) for dim in pattern.dims) for pattern in patterns)

    def request(self, sizes: Sequence[int]) -> Request:
        """The call at these sizes, with the integers among its arguments that follow them."""
        args = {name: _at(value, sizes) for name, value in self.args.items()}
        outs = [pattern.at(sizes).shape for pattern in self.outs]
        for name, value in args.items():
            if name == "device":
                args[name] = self.device if value is not None else None
        follow = _FOLLOW.get(self.op.name)
        if follow is not None:
            args.update(follow(args, outs))
        return Request(self.op.func, tuple(args.items()))


MOST_VARIABLES = 3
"""A grid over more axes than this would take too many measurements."""


def _patterns(value: Any) -> list[Pattern]:
    if isinstance(value, Pattern):
        return [value]
    return [item for part in value for item in _patterns(part)] if isinstance(value, tuple) else []


def _at(value: Any, sizes: Sequence[int]) -> Any:
    if isinstance(value, Pattern):
        return value.at(sizes)
    return tuple(_at(item, sizes) for item in value) if isinstance(value, tuple) else value


def computes(op: Op) -> bool:
    """Whether an operation takes time worth measuring: it reads tensors and is no view."""
    if op.name in _FREE or not op.inputs() or not op.outs:
        return False
    returns = op.func._schema.returns
    return any(item.alias_info is None or item.alias_info.is_write for item in returns)


def _layout(value: Value) -> tuple[Value, tuple[int, ...] | None, tuple[int, ...]]:
    """The tensor a view shows, the order of its dimensions there, and the dimensions that are stretched."""
    rank = len(value.axes)
    order = list(range(rank))
    stretched: set[int] = set()
    while (op := value.producer) is not None and op.name in _MOVED and op.inputs():
        source = op.inputs()[0]
        if len(source.axes) != rank:
            break
        if op.name == "expand":
            sizes = zip(source.axes, value.axes, strict=True)
            grown = {dim for dim, (a, b) in enumerate(sizes) if a.size != b.size}
            stretched |= {dim for dim in range(rank) if order[dim] in grown}
        elif op.name in ("t", "transpose", "permute"):
            shown = _shown(op, rank)
            order = [shown[dim] for dim in order]
        value = source
    return value, None if order == list(range(rank)) else tuple(order), tuple(sorted(stretched))


def _shown(op: Op, rank: int) -> list[int]:
    """The dimension of its input that each dimension of a transposition shows."""
    if op.name == "permute":
        return [int(dim) % rank for dim in op.args["dims"]]
    order = list(range(rank))
    if rank > 1:
        a, b = int(op.args.get("dim0", 0)), int(op.args.get("dim1", rank - 1))
        order[a], order[b] = order[b], order[a]
    return order


Args = Mapping[str, Any]
Shapes = Sequence[tuple[int, ...]]


def _convolution(args: Args, outs: Shapes) -> dict[str, Any]:
    weight = args["weight"].shape
    channels = outs[0][1] if args["transposed"] else args["input"].shape[1]
    return {"groups": max(1, channels // weight[1])}


def _trailing(args: Args, outs: Shapes) -> dict[str, Any]:
    return {"normalized_shape": list(args["input"].shape[-len(args["normalized_shape"]) :])}


def _group_norm(args: Args, outs: Shapes) -> dict[str, Any]:
    n, c, *rest = args["input"].shape
    return {"N": n, "C": c, "HxW": math.prod(rest), "group": outs[1][1]}


def _padding(args: Args, outs: Shapes) -> dict[str, Any]:
    """The same share on either side of what each padded dimension grows by; innermost first."""
    pad = [int(p) for p in args["pad"]]
    for pair, (size, out) in enumerate(zip(args["self"].shape[::-1], outs[0][::-1], strict=True)):
        if 2 * pair + 1 < len(pad) and (both := pad[2 * pair] + pad[2 * pair + 1]):
            before = pad[2 * pair] * (out - size) // both
            pad[2 * pair : 2 * pair + 2] = [before, out - size - before]
    return {"pad": pad}


def _out_size(args: Args, outs: Shapes) -> dict[str, Any]:
    return {"size": list(outs[0])}


_FOLLOW: dict[str, Callable[[Args, Shapes], dict[str, Any]]] = {
    **dict.fromkeys(("convolution", "_convolution"), _convolution),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), _trailing),
    "native_group_norm": _group_norm,
    "constant_pad_nd": _padding,
    **dict.fromkeys(("new_zeros", "new_ones", "new_empty", "new_full"), _out_size),
}
"""Operations with arguments that follow the sizes of their tensors."""


def moving(terms: Terms, nodes: set[Node]) -> Callable[[Node], bool]:
    """Whether an axis changes when those given do."""
    known: dict[Node, bool] = {}

    def moves(node: Node) -> bool:
        node = settle(node)
        if node not in known:
            known[node] = any(leaf in nodes for leaf in terms.leaves(node))
        return known[node]

    return moves
