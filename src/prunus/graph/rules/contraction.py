"""Matrix products and convolutions: the contracted dimensions are tied, the others pass through.

Shapes: B batch, M rows, K contracted, N columns; C channels, G groups, ci and co channels in a group.
"""

from __future__ import annotations

from typing import Any

from ..axes import ONE, Node, find, product
from ..tracer import Call, Tracer
from ..values import Value
from . import rule


def _product(tracer: Tracer, a: Value, b: Value, what: str) -> tuple[list[Node], list[bool]]:
    """`a_MK @ b_KN`, or with a leading batch dimension in both."""
    tracer.contract(a, len(a.axes) - 1, b, len(b.axes) - 2, what)
    zero_a, zero_b = tracer.zero_of(a), tracer.zero_of(b)
    rows, columns = a.axes[-2], b.axes[-1]
    out, zero = [rows, columns], [zero_a[-2], zero_b[-1]]
    loops = [rows, a.axes[-1], columns]
    if len(a.axes) == 3:
        batch = tracer.unify(a.axes[0], b.axes[0], what)
        out, zero = [batch, *out], [zero_a[0] or zero_b[0], *zero]
        loops = [batch, *loops]
    tracer.cost(what, loops)
    return out, zero


@rule("mm", "bmm")
def mm(tracer: Tracer, call: Call) -> Any:
    return _product(tracer, call["self"], call["mat2"], call.name)


@rule("addmm", "addmm_", "baddbmm", "baddbmm_")
def addmm(tracer: Tracer, call: Call) -> Any:
    first, second = ("mat1", "mat2") if call.name.startswith("addmm") else ("batch1", "batch2")
    out, zero = _product(tracer, call[first], call[second], call.name.rstrip("_"))
    if call.get("beta", 1) == 0:
        return out, zero
    return _with_bias(tracer, call["self"], out, zero, call.name)


def _with_bias(
    tracer: Tracer, bias: Value, out: list[Node], zero: list[bool], what: str
) -> tuple[list[Node], list[bool]]:
    flags = tracer.zero_of(bias)
    offset = len(out) - len(bias.axes)
    result = []
    for dim, node in enumerate(out):
        own = bias.axes[dim - offset] if dim >= offset else ONE
        if own.size > 1:
            out[dim] = tracer.unify(node, own, what)
            result.append(zero[dim] and flags[dim - offset])
        else:
            result.append(zero[dim] and node.size == 1)
    return out, result


@rule("mv", "addmv", "dot", "vdot", "addmv_")
def mv(tracer: Tracer, call: Call) -> Any:
    names = {
        "mv": ("self", "vec"),
        "addmv": ("mat", "vec"),
        "dot": ("self", "tensor"),
        "vdot": ("self", "other"),
    }
    first, second = names[call.name.rstrip("_")]
    a, b = call[first], call[second]
    tracer.contract(a, len(a.axes) - 1, b, 0, call.name)
    out, zero = list(a.axes[:-1]), list(tracer.zero_of(a)[:-1])
    if call.name.startswith("addmv"):
        return _with_bias(tracer, call["self"], out, zero, call.name)
    return out, zero


@rule("_grouped_mm")
def grouped_mm(tracer: Tracer, call: Call) -> Any:
    """Experts side by side: `a_MK @ b_EKN`, rows sent to experts by offsets."""
    a, b = call["self"], call["mat2"]
    for value in (a, b):
        if len(value.axes) == 3:
            tracer.freeze(value.axes[0], "experts chosen by data")
    tracer.contract(a, len(a.axes) - 1, b, len(b.axes) - 2, "grouped_mm")
    rows, columns = a.axes[-2], b.axes[-1]
    tracer.cost("grouped_mm", [rows, a.axes[-1], columns])
    out, zero = [rows, columns], [tracer.zero_of(a)[-2], tracer.zero_of(b)[-1]]
    if len(call.shape()) == 3:
        return [tracer.spatial(call.shape()[0], "experts chosen by data"), *out], [True, *zero]
    return out, zero


@rule("ger", "addr")
def outer(tracer: Tracer, call: Call) -> Any:
    a, b = call["self"], call["vec2"]
    return [a.axes[0], b.axes[0]], [tracer.zero_of(a)[0], tracer.zero_of(b)[0]]


@rule("_trilinear")
def trilinear(tracer: Tracer, call: Call) -> Any:
    """`sum over sumdim of i1 * i2 * i3` after unsqueezing; `nn.Bilinear` is made of it."""
    operands: list[tuple[list[Node], list[bool]]] = []
    for index in (1, 2, 3):
        value: Value = call[f"i{index}"]
        nodes, zero = list(value.axes), list(tracer.zero_of(value))
        for dim in sorted(call[f"expand{index}"]):
            nodes.insert(dim, ONE)
            zero.insert(dim, False)
        operands.append((nodes, zero))
    rank = len(operands[0][0])
    out: list[Node] = [ONE] * rank
    zero = [False] * rank
    for nodes, flags in operands:
        for dim in range(rank):
            if nodes[dim].size > 1:
                out[dim] = (
                    nodes[dim] if out[dim].size == 1 else tracer.unify(out[dim], nodes[dim], "bilinear")
                )
                zero[dim] = zero[dim] or flags[dim]
    for index in (1, 2, 3):
        value = call[f"i{index}"]
        for origin, node in zip(value.origin, value.axes, strict=False):
            if any(find(out[dim]) is find(node) for dim in call["sumdim"]):
                tracer.contracted.add(origin)
        for dim, node in enumerate(value.axes):
            if any(find(out[summed]) is find(node) for summed in call["sumdim"]):
                tracer.read(value, dim, value, dim)
    for dim in call["sumdim"]:
        if not zero[dim]:
            tracer.approximates(out[dim], "bilinear sums over it where removed units are not zero")
    keep = [d for d in range(rank) if d not in call["sumdim"]]
    return [out[d] for d in keep], [zero[d] for d in keep]


@rule("convolution", "_convolution", "cudnn_convolution", "mkldnn_convolution", "convolution_overrideable")
def convolution(tracer: Tracer, call: Call) -> Any:
    """1d to 3d, transposed, grouped and depthwise: `C_in = G x ci`, `C_out = G x co`."""
    x: Value = call["input"]
    weight: Value = call["weight"]
    bias: Value | None = call["bias"]
    groups: int = int(call["groups"])
    transposed: bool = call["transposed"]
    dim_in, dim_out = (0, 1) if transposed else (1, 0)
    if groups == 1:
        tracer.contract(x, 1, weight, dim_in, "convolution")
        channels = weight.axes[dim_out]
        zero = tracer.zero_of(weight)[dim_out]
    else:
        channels, zero = _grouped(tracer, x, weight, groups, transposed)
    if bias is not None:
        channels = tracer.unify(channels, bias.axes[0], "convolution")
        zero = zero and tracer.zero_of(bias)[0]
    for node in weight.axes[2:]:
        tracer.freeze(node, "the kernel of a convolution")
    spatial = _convolved(tracer, x, weight, call)
    loops = [
        x.axes[0],
        *(x.axes[2:] if transposed else spatial),
        weight.axes[0],
        weight.axes[1],
        *weight.axes[2:],
    ]
    tracer.cost("convolution", loops)
    return [x.axes[0], channels, *spatial], [
        bias is None and tracer.zero_of(x)[0],
        zero,
        *[True] * len(spatial),
    ]


def _grouped(tracer: Tracer, x: Value, weight: Value, groups: int, transposed: bool) -> tuple[Node, bool]:
    group_x, inner_x = tracer.regroup(
        [x.axes[1]], [groups, x.axes[1].size // groups], "a grouped convolution"
    )
    stacked = weight.axes[0]
    group_w, inner_w = tracer.regroup([stacked], [groups, stacked.size // groups], "a grouped convolution")
    group = tracer.unify(group_x, group_w, "grouped convolution")
    other = weight.axes[1]
    zero_weight = tracer.zero_of(weight)
    contracted, free = (inner_w, other) if transposed else (other, inner_w)
    tied = tracer.unify(inner_x, contracted, "grouped convolution")
    if weight.origin:
        tracer.contracted.add(weight.origin[0 if transposed else 1])
    tracer.read(x, 1, weight, 0 if transposed else 1)
    exact = tracer.zero_of(x)[1] or zero_weight[0 if transposed else 1]
    if not exact:
        tracer.approximates(tied, "a grouped convolution sums over it where removed units are not zero")
    return product([group, free]), zero_weight[0] and zero_weight[1]


def _convolved(tracer: Tracer, x: Value, weight: Value, call: Call) -> list[Node]:
    """Spatial axes of the output; a 1x1 kernel that leaves positions alone keeps them."""
    out: list[Node] = []
    rank = len(x.axes) - 2
    sizes = call.shape()[2:]

    def option(name: str, dim: int) -> int:
        values = call[name]
        return int(values[dim] if len(values) == rank else values[0])

    for dim, size in enumerate(sizes):
        node = x.axes[2 + dim]
        plain = weight.axes[2 + dim].size == 1 and option("stride", dim) == 1 and option("padding", dim) == 0
        if plain and size == node.size:
            out.append(node)
        else:
            tracer.freeze(node, "spatial: a convolution slides over it")
            out.append(tracer.spatial(size, "spatial: the output of a convolution"))
    return out


@rule("cdist", "_cdist_forward", "_euclidean_dist")
def cdist(tracer: Tracer, call: Call) -> Any:
    a, b = call["x1"], call["x2"]
    node = tracer.unify(a.axes[-1], b.axes[-1], "cdist")
    if not (tracer.zero_of(a)[-1] and tracer.zero_of(b)[-1]):
        tracer.approximates(node, "distances sum over it where removed units are not zero")
    batch = [
        m if n.size == 1 else n if m.size == 1 else tracer.unify(m, n, "cdist")
        for m, n in zip(a.axes[:-2], b.axes[:-2], strict=True)
    ]
    out = [*batch, a.axes[-2], b.axes[-2]]
    return out, [False] * len(out)
