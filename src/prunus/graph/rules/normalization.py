"""Normalisation: exact where each unit has its own statistics, approximate where they are shared."""

from __future__ import annotations

from typing import Any

from ..axes import Node, leaf
from ..tracer import Call, Tracer
from ..values import Value
from . import rule


def _affine(
    tracer: Tracer, nodes: list[Node], dims: list[int], members: list[Value | None], what: str
) -> None:
    """Tie the dimensions `dims` to per-channel tensors, the last of which line up from the right."""
    for member in members:
        if member is not None:
            for d, own in zip(dims, member.axes, strict=True):
                nodes[d] = tracer.unify(nodes[d], own, what)


def _zero(tracer: Tracer, x: Value, dims: list[int], weight: Value | None, bias: Value | None) -> list[bool]:
    """`(x - mean) / std * w + b` is zero at removed units where both w and b are."""
    own = weight is not None
    return [
        own if d in dims else tracer.zero_of(x)[d] and bias is None and node.size == 1
        for d, node in enumerate(x.axes)
    ]


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "_native_batch_norm_legit_functional",
    "miopen_batch_norm",
    "batch_norm_with_update",
    "_batch_norm_no_update",
    "_batch_norm_with_update",
    "_batch_norm_impl_index",
    "_batch_norm_with_update_functional",
)
def batch_norm(tracer: Tracer, call: Call) -> Any:
    x: Value = call["input"]
    members = [call.get(key) for key in ("weight", "bias", "running_mean", "running_var")]
    nodes = list(x.axes)
    if len(nodes) > 1:
        _affine(tracer, nodes, [1], members, "batch norm")
    if call.get("training", call.get("train", False)) or call.get("running_mean") is None:
        for d, node in enumerate(nodes):
            if d != 1:
                tracer.approximates(node, "batch norm takes its statistics over it")
    zero = _zero(tracer, x, [1], call.get("weight"), call.get("bias"))
    rest = [
        (
            [nodes[1]]
            if len(out.shape) == 1 and out.shape[0] == nodes[1].size
            else [leaf(s) for s in out.shape]
        )
        for out in call.outs[1:]
    ]
    return [(nodes, zero), *((axes, [False] * len(axes)) for axes in rest)]


def _like(axes: list[Node], shape: tuple[int, ...]) -> tuple[list[Node], list[bool]]:
    nodes = [
        node if i < len(axes) and axes[i].size == size else leaf(size)
        for i, size in enumerate(shape)
        for node in [axes[i] if i < len(axes) else leaf(size)]
    ]
    return nodes, [False] * len(nodes)


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm", "layer_norm", "_fused_layer_norm")
def layer_norm(tracer: Tracer, call: Call) -> Any:
    x: Value = call["input"]
    count = len(call["normalized_shape"])
    dims = list(range(len(x.axes) - count, len(x.axes)))
    nodes = list(x.axes)
    weight, bias = call.get("weight"), call.get("bias")
    name = "RMS norm" if "rms" in call.name else "layer norm"
    _affine(tracer, nodes, dims, [weight, bias], name)
    for d in dims:
        tracer.approximates(nodes[d], f"{name} shares a statistic over it")
    zero = _zero(tracer, x, dims, weight, bias)
    if "rms" in call.name:
        zero = [flag or own for flag, own in zip(zero, tracer.zero_of(x), strict=True)]
    return [(nodes, zero), *(_like(nodes, tuple(out.shape)) for out in call.outs[1:])]


@rule("native_group_norm", "group_norm")
def group_norm(tracer: Tracer, call: Call) -> Any:
    """`C = g x n`: whole groups may go exactly; inside a group the statistic is shared."""
    x: Value = call["input"]
    groups = int(call.get("group", call.get("num_groups")))
    nodes = list(x.axes)
    weight, bias = call.get("weight"), call.get("bias")
    _affine(tracer, nodes, [1], [weight, bias], "group norm")
    group, inner = tracer.regroup([nodes[1]], [groups, nodes[1].size // groups], "a group norm")
    tracer.approximates(inner, "group norm shares a statistic over it")
    zero = _zero(tracer, x, [1], weight, bias)
    return [(nodes, zero), *(_like([nodes[0], group], tuple(out.shape)) for out in call.outs[1:])]


@rule("_weight_norm_interface", "_weight_norm")
def weight_norm(tracer: Tracer, call: Call) -> Any:
    """`w = g v / ||v||`, the norm over all dimensions but one: zeros add nothing to it."""
    v: Value = call["v"]
    g: Value = call["g"]
    nodes = list(v.axes)
    for d, own in enumerate(g.axes):
        if own.size > 1:
            nodes[d] = tracer.unify(nodes[d], own, "weight norm")
    flags = tracer.zero_of(v)
    for d, node in enumerate(nodes):
        if g.axes[d].size == 1 and not flags[d]:
            tracer.approximates(node, "weight norm over it where removed units are not zero")
    return [(nodes, flags), *((list(g.axes), tracer.zero_of(g)) for _ in call.outs[1:])]
