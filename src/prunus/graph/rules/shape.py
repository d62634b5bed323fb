"""Views: dimensions are permuted, merged, split, dropped or repeated; no value changes."""

from __future__ import annotations

from typing import Any

from ..axes import ONE, Node, is_fixed, leaf, product, reshape_groups
from ..tracer import Call, Tracer
from ..values import Value
from . import rule


@rule(
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "unflatten",
    "flatten",
    "reshape_copy",
    "view_copy",
)
def view(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    sizes = call.shape()
    flags = tracer.zero_of(value)
    if 0 in sizes:
        return [leaf(size) for size in sizes], [True] * len(sizes)
    if call.name == "view" and call.outs[0].dtype != value.dtype:
        return value.axes, [False] * len(value.axes)
    zero = [True] * len(sizes)
    for group, targets in reshape_groups([node.size for node in value.axes], sizes):
        held = all(flags[i] or is_fixed(value.axes[i]) for i in group)
        for target in targets:
            zero[target] = held
    return tracer.regroup(list(value.axes), sizes, "a reshape"), zero


def _permuted(tracer: Tracer, value: Value, order: list[int]) -> Any:
    flags = tracer.zero_of(value)
    return [value.axes[d] for d in order], [flags[d] for d in order]


@rule("permute", "permute_copy")
def permute(tracer: Tracer, call: Call) -> Any:
    return _permuted(tracer, call["self"], [int(d) for d in call["dims"]])


@rule("transpose", "transpose_", "t", "t_", "numpy_T", "transpose_copy", "t_copy", "swapaxes", "adjoint")
def transpose(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    order = list(range(len(value.axes)))
    if order:
        first, second = call.get("dim0", 0), call.get("dim1", len(order) - 1)
        order[first], order[second] = order[second], order[first]
    return _permuted(tracer, value, order)


@rule("unsqueeze", "unsqueeze_", "unsqueeze_copy")
def unsqueeze(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    nodes, zero = list(value.axes), list(tracer.zero_of(value))
    dim = call["dim"] % (len(nodes) + 1)
    nodes.insert(dim, ONE)
    zero.insert(dim, True)
    return nodes, zero


@rule("squeeze", "squeeze_", "squeeze_copy")
def squeeze(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    rank = len(value.axes)
    dims = call.get("dim", range(rank))
    wanted = {d % rank for d in ([dims] if isinstance(dims, int) else dims)} if rank else set()
    keep = [d for d in range(rank) if d not in wanted or value.axes[d].size != 1]
    return _permuted(tracer, value, keep)


@rule("expand", "expand_copy", "expand_as", "broadcast_to")
def expand(tracer: Tracer, call: Call) -> Any:
    """A dimension of size one is shown several times: a new axis whose units are all alike."""
    value: Value = call["self"]
    sizes = call.shape()
    flags = tracer.zero_of(value)
    offset = len(sizes) - len(value.axes)
    nodes: list[Node] = []
    zero: list[bool] = []
    for dim, size in enumerate(sizes):
        own = value.axes[dim - offset] if dim >= offset else ONE
        if own.size == size:
            nodes.append(own)
            zero.append(flags[dim - offset] if dim >= offset else True)
        else:
            nodes.append(leaf(size))
            zero.append(False)
    return nodes, zero


@rule("repeat", "tile")
def repeat(tracer: Tracer, call: Call) -> Any:
    """Tiling: `r` copies of an axis `a` are `r x a`."""
    value: Value = call["self"]
    counts = [int(n) for n in call["repeats"]]
    flags = tracer.zero_of(value)
    offset = len(counts) - len(value.axes)
    nodes: list[Node] = []
    zero: list[bool] = []
    for dim, count in enumerate(counts):
        own = value.axes[dim - offset] if dim >= offset else ONE
        nodes.append(product([leaf(count), own]))
        zero.append(count == 1 and (flags[dim - offset] if dim >= offset else True))
    return nodes, zero


@rule("repeat_interleave")
def repeat_interleave(tracer: Tracer, call: Call) -> Any:
    repeats = call.get("repeats")
    dim = call.get("dim")
    if not isinstance(repeats, int) or dim is None:
        for value in call.values:
            for node in value.axes:
                tracer.freeze(node, "repeated by data")
        sizes = call.shape()
        return [tracer.spatial(size, "repeated by data") for size in sizes], [False] * len(sizes)
    value = call["self"]
    nodes, zero = list(value.axes), list(tracer.zero_of(value))
    nodes[dim] = product([nodes[dim], leaf(repeats)])
    zero[dim] = False
    return nodes, zero


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(tracer: Tracer, call: Call) -> Any:
    """`C = g x n` becomes `n x g`."""
    value: Value = call["self"]
    groups = int(call["groups"])
    nodes = list(value.axes)
    group, inner = tracer.regroup([nodes[1]], [groups, nodes[1].size // groups], "a channel shuffle")
    nodes[1] = product([inner, group])
    return nodes, tracer.zero_of(value)


@rule("pixel_shuffle")
def pixel_shuffle(tracer: Tracer, call: Call) -> Any:
    """`C = c x r x r` gives `c` channels and an image `r` times as large."""
    value: Value = call["self"]
    *lead, channels, height, width = value.axes
    r = int(call["upscale_factor"])
    out_c, r1, r2 = tracer.regroup([channels], [channels.size // (r * r), r, r], "a pixel shuffle")
    for node in (r1, r2, height, width):
        tracer.freeze(node, "spatial: a pixel shuffle writes it into positions")
    h, w = (tracer.spatial(size) for size in call.shape()[-2:])
    flags = tracer.zero_of(value)
    return [*lead, out_c, h, w], [*flags[:-2], True, True]


@rule("pixel_unshuffle")
def pixel_unshuffle(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    *lead, channels, height, width = value.axes
    r = int(call["downscale_factor"])
    for node in (height, width):
        tracer.freeze(node, "spatial: a pixel unshuffle reads positions from it")
    r1, r2, h, w = (tracer.spatial(size) for size in (r, r, *call.shape()[-2:]))
    flags = tracer.zero_of(value)
    return [*lead, product([channels, r1, r2]), h, w], [*flags[:-2], True, True]


@rule("as_strided", "as_strided_", "as_strided_copy")
def as_strided(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    sizes = call.shape()
    if list(sizes) == [node.size for node in value.axes]:
        return value.axes, tracer.zero_of(value)
    for node in value.axes:
        tracer.freeze(node, "read through raw strides (as_strided)")
    return [tracer.spatial(size, "read through raw strides (as_strided)") for size in sizes], [False] * len(
        sizes
    )


@rule("diagonal", "diagonal_copy", "diag_embed", "diag", "tril", "triu", "tril_", "triu_")
def diagonal(tracer: Tracer, call: Call) -> Any:
    """Positions matter on both dimensions."""
    value = call.values[0]
    sizes = call.shape()
    for node in value.axes[-2:]:
        tracer.freeze(node, f"its positions matter to {call.name}")
    if len(sizes) == len(value.axes) and call.name.startswith("tri"):
        return value.axes, tracer.zero_of(value)
    lead = len(sizes) - (1 if "diagonal" in call.name or len(sizes) < len(value.axes) else 2)
    nodes = [*value.axes[:lead], *[tracer.spatial(size, f"made by {call.name}") for size in sizes[lead:]]]
    return nodes, [*tracer.zero_of(value)[:lead], *[True] * (len(sizes) - lead)]
