"""What an axis is for: channels, attention heads, or the dimensions inside a head.

A product of two activations, `q @ k` or `weights @ v`, is batched over the heads; what it contracts, and
what it returns of the values, are dimensions inside a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .axes import Node
from .values import Op, Value

if TYPE_CHECKING:
    from .graph import Graph

CHANNELS, HEADS, HEAD_DIM = "channels", "heads", "head_dim"
KINDS = (CHANNELS, HEADS, HEAD_DIM)

_PRODUCTS = {"bmm": ("self", "mat2"), "baddbmm": ("batch1", "batch2")}


def kinds(graph: Graph) -> dict[Node, str]:
    """The kind of each axis of the graph."""
    found = {axis.node: CHANNELS for axis in graph.axes}

    def mark(nodes: Iterable[Node], kind: str) -> None:
        for node in nodes:
            for leaf in graph.terms.leaves(node):
                if leaf in found:
                    found[leaf] = kind

    for op in graph.ops:
        sides = _activations(op)
        if sides is not None:
            first, second = sides
            mark([first.axes[-1], second.axes[-1]], HEAD_DIM)
            mark([node for value in sides for node in value.axes[:-2]], HEADS)
    return found


def _activations(op: Op) -> tuple[Value, Value] | None:
    """Queries and values of one attention call, or the operands of a batched product of activations."""
    if op.name.startswith("_scaled_dot_product"):
        first, second = op.args["query"], op.args["value"]
    elif op.name in _PRODUCTS:
        first, second = (_value(op.args, name) for name in _PRODUCTS[op.name])
    else:
        return None
    of_weights = any(origin is not None for value in (first, second) for origin in value.origin)
    return None if of_weights else (first, second)


def _value(args: Mapping[str, object], name: str) -> Value:
    value = args[name]
    assert isinstance(value, Value)
    return value
