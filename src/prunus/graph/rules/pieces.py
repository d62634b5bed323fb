"""Concatenation and its inverses: `cat`, `split`, slices, `select`, `roll`, `flip`, padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import axes as ax
from ..axes import ONE, Node, concat, find, leaf, reverse
from ..tracer import Call, Tracer
from ..values import Value
from . import rule


@rule("cat", "concat", "concatenate", "_cat")
def cat(tracer: Tracer, call: Call) -> Any:
    tensors: list[Value] = [v for v in call["tensors"] if not (len(v.axes) == 1 and v.axes[0].size == 0)]
    if not tensors:
        return [leaf(size) for size in call.shape()], [True] * len(call.shape())
    rank = len(tensors[0].axes)
    dim = call.get("dim", 0) % rank
    flags = [tracer.zero_of(value) for value in tensors]
    nodes: list[Node] = []
    for d in range(rank):
        if d == dim:
            nodes.append(concat(value.axes[d] for value in tensors))
            continue
        node = tensors[0].axes[d]
        for value in tensors[1:]:
            node = tracer.unify(node, value.axes[d], "cat")
        nodes.append(node)
    return nodes, [all(flag[d] for flag in flags) for d in range(rank)]


@rule("stack")
def stack(tracer: Tracer, call: Call) -> Any:
    """Stacked tensors are units that the code names one by one."""
    tensors: list[Value] = call["tensors"]
    nodes = list(tensors[0].axes)
    for value in tensors[1:]:
        nodes = [tracer.unify(a, b, "stack") for a, b in zip(nodes, value.axes, strict=True)]
    flags = [tracer.zero_of(value) for value in tensors]
    zero = [all(flag[d] for flag in flags) for d in range(len(nodes))]
    dim = call.get("dim", 0) % (len(nodes) + 1)
    nodes.insert(dim, concat([ONE] * len(tensors)))
    zero.insert(dim, True)
    return nodes, zero


def piece(value: Value, dim: int, start: int, stop: int) -> Node:
    node = find(value.axes[dim])
    if start >= stop:
        return leaf(0)
    return ax.take(node, start, stop)


def _replaced(tracer: Tracer, value: Value, dim: int, node: Node) -> Any:
    nodes = list(value.axes)
    nodes[dim] = node
    return nodes, tracer.zero_of(value)


def slice_range(args: Mapping[str, Any], size: int) -> tuple[int, int, int]:
    """`start`, `stop` and `step` of a slice or narrow of `size` units, with `0 <= start <= stop <= size`.

    `args` has the arguments of the ATen call by name, bounds counted from either end.
    """
    first = int(args.get("start") or 0)
    if args.get("length") is not None:
        first += size if first < 0 else 0
        end: int | None = first + int(args["length"])
    else:
        end = None if args.get("end") is None else int(args["end"])
    start, stop, step = slice(first, end, int(args.get("step") or 1)).indices(size)
    return start, max(start, stop), step


@rule("slice", "slice_copy", "narrow", "narrow_copy")
def slice_(tracer: Tracer, call: Call) -> Any:
    """`[start:stop]` cuts the axis; a step reads one unit of each group of `step`."""
    value: Value = call["self"]
    dim = int(call["dim"]) % len(value.axes)
    size = value.axes[dim].size
    start, stop, step = slice_range(call.args, size)
    if step == 1:
        return _replaced(tracer, value, dim, piece(value, dim, start, stop))
    whole = piece(value, dim, start - start % step, size)
    if whole.size % step or -(-(stop - start) // step) != whole.size // step:
        tracer.freeze(value.axes[dim], f"read in steps of {step}")
        return _replaced(tracer, value, dim, tracer.spatial(call.shape()[dim], f"read in steps of {step}"))
    outer, inner = tracer.regroup([whole], [whole.size // step, step], f"a slice with step {step}")
    tracer.freeze(inner, f"read in steps of {step}")
    return _replaced(tracer, value, dim, outer)


@rule("slice_scatter", "select_scatter")
def slice_scatter(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    dim = int(call["dim"]) % len(value.axes)
    tracer.freeze(value.axes[dim], f"written by {call.name}")
    return value.axes, [False] * len(value.axes)


@rule(
    "split",
    "split_with_sizes",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "chunk",
    "unsafe_chunk",
    "split_copy",
    "split_with_sizes_copy",
)
def split(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    dim = int(call.get("dim", 0)) % len(value.axes)
    out = []
    start = 0
    for index in range(len(call.outs)):
        stop = start + call.shape(index)[dim]
        out.append(_replaced(tracer, value, dim, piece(value, dim, start, stop)))
        start = stop
    return out


@rule("glu")
def glu(tracer: Tracer, call: Call) -> Any:
    """`a * sigmoid(b)` of the two halves of a dimension: zero where a is."""
    value: Value = call["self"]
    dim = int(call.get("dim", -1)) % len(value.axes)
    half = value.axes[dim].size // 2
    a, b = piece(value, dim, 0, half), piece(value, dim, half, 2 * half)
    return _replaced(tracer, value, dim, tracer.unify(a, b, "glu"))


@rule("unbind", "unbind_copy")
def unbind(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    dim = int(call.get("dim", 0)) % len(value.axes)
    tracer.freeze(value.axes[dim], "its units are taken one by one (unbind)")
    nodes = [node for d, node in enumerate(value.axes) if d != dim]
    zero = [flag for d, flag in enumerate(tracer.zero_of(value)) if d != dim]
    return [(nodes, zero)] * len(call.outs)


@rule("select", "select_copy")
def select(tracer: Tracer, call: Call) -> Any:
    """One unit by number: those on the side it is counted from must keep their count."""
    value: Value = call["self"]
    dim = int(call["dim"]) % len(value.axes)
    index = int(call["index"])
    size = value.axes[dim].size
    if size > 1:
        position = index % size
        before = ax.take(value.axes[dim], 0, position) if position else ONE
        ax.take(value.axes[dim], position, position + 1)
        after = ax.take(value.axes[dim], position + 1, size) if position + 1 < size else ONE
        tracer.freeze(before if index >= 0 else after, f"indexed by a constant ({index})")
    nodes = [node for d, node in enumerate(value.axes) if d != dim]
    zero = [flag for d, flag in enumerate(tracer.zero_of(value)) if d != dim]
    return nodes, zero


@rule("flip", "flip_copy")
def flip(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    dims = {int(d) % len(value.axes) for d in call["dims"]}
    nodes = [reverse(node) if d in dims else node for d, node in enumerate(value.axes)]
    return nodes, tracer.zero_of(value)


@rule("roll")
def roll(tracer: Tracer, call: Call) -> Any:
    """The last `shift` units come first."""
    value: Value = call["self"]
    if not call["dims"]:
        for node in value.axes:
            tracer.freeze(node, "rolled as one flat row")
        return value.axes, tracer.zero_of(value)
    nodes = list(value.axes)
    for dim, shift in zip(call["dims"], call["shifts"], strict=True):
        node = nodes[dim]
        shift = int(shift) % node.size
        if shift:
            head, tail = ax.cut(node, node.size - shift)
            nodes[dim] = concat([tail, head])
    return nodes, tracer.zero_of(value)


@rule("constant_pad_nd", "pad")
def constant_pad(tracer: Tracer, call: Call) -> Any:
    """Padding is a piece before and one after, both new."""
    value: Value = call["self"]
    pads = [int(n) for n in call["pad"]]
    nodes, zero = list(value.axes), list(tracer.zero_of(value))
    fill = call.get("value", 0)
    for index in range(len(pads) // 2):
        dim = len(nodes) - 1 - index
        before, after = pads[2 * index], pads[2 * index + 1]
        size = nodes[dim].size
        node = nodes[dim]
        if before < 0 or after < 0:
            node = ax.take(node, max(0, -before), size - max(0, -after))
        if before > 0 or after > 0:
            parts = [leaf(before)] if before > 0 else []
            parts.append(node)
            parts += [leaf(after)] if after > 0 else []
            node = concat(parts)
            if fill != 0:
                zero = [False] * len(zero)
        nodes[dim] = node
    return nodes, zero


@rule(
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
)
def mirrored_pad(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    spatial = len(call["padding"]) // 2
    for node in value.axes[-spatial:]:
        tracer.freeze(node, "spatial: padded by its own border")
    lead = len(value.axes) - spatial
    nodes = [*value.axes[:lead], *(tracer.spatial(size) for size in call.shape()[lead:])]
    return nodes, [*tracer.zero_of(value)[:lead], *[True] * spatial]
