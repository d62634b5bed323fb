"""Reductions: sums are exact over zeros; means, maxima and variances over a cut axis are not."""

from __future__ import annotations

from typing import Any

from ..axes import ONE
from ..tracer import Call, Tracer
from ..values import Value
from . import rule


def reduced_dims(call: Call, rank: int) -> list[int]:
    dims = call.get("dim")
    if dims is None or (isinstance(dims, list | tuple) and not dims):
        return list(range(rank))
    return sorted({int(d) % rank for d in ([dims] if isinstance(dims, int) else dims)}) if rank else []


def drop(tracer: Tracer, call: Call, value: Value, dims: list[int], keeps_zero: bool) -> Any:
    """The remaining axes after reducing `dims`."""
    keepdim = bool(call.get("keepdim", False)) or len(call.shape()) == len(value.axes)
    flags = tracer.zero_of(value)
    nodes, zero = [], []
    for d, node in enumerate(value.axes):
        if d not in dims:
            nodes.append(node)
            zero.append(flags[d] and keeps_zero)
        elif keepdim:
            nodes.append(ONE)
            zero.append(True)
    return [(nodes, zero)] * len(call.outs)


@rule("sum", "nansum", "linalg_vector_norm", "norm", "count_nonzero", "any")
def sum_(tracer: Tracer, call: Call) -> Any:
    value = call.values[0]
    dims = reduced_dims(call, len(value.axes))
    flags = tracer.zero_of(value)
    order = call.get("ord", call.get("p", 2))
    for d in dims:
        if not flags[d] or (isinstance(order, int | float) and order <= 0):
            tracer.approximates(value.axes[d], f"{call.name} over it where removed units are not zero")
    return drop(tracer, call, value, dims, True)


@rule(
    "mean",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "amax",
    "amin",
    "max",
    "min",
    "prod",
    "logsumexp",
    "all",
    "aminmax",
    "nanmean",
    "_logcumsumexp",
)
def statistic(tracer: Tracer, call: Call) -> Any:
    value = call.values[0]
    dims = reduced_dims(call, len(value.axes))
    for d in dims:
        tracer.approximates(value.axes[d], f"{call.name} over it depends on removed units")
    if len(call.values) > 1 and call.values[1] is not value:  # max(a, b) is element-wise
        from .pointwise import pointwise

        return pointwise(tracer, call)
    return drop(tracer, call, value, dims, call.name in ("mean", "amax", "amin", "max", "min"))


@rule("argmax", "argmin", "mode", "median", "nanmedian", "kthvalue", "quantile")
def position(tracer: Tracer, call: Call) -> Any:
    value = call.values[0]
    dims = reduced_dims(call, len(value.axes))
    for d in dims:
        tracer.freeze(value.axes[d], f"{call.name} counts positions in it")
    return drop(tracer, call, value, dims, False)


@rule("sort", "argsort", "msort")
def sort(tracer: Tracer, call: Call) -> Any:
    value = call.values[0]
    if value.axes:
        tracer.freeze(value.axes[int(call.get("dim", -1))], f"{call.name} orders it by value")
    return [(value.axes, [False] * len(value.axes))] * len(call.outs)


@rule("topk")
def topk(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    nodes = list(value.axes)
    dim = int(call.get("dim", -1))
    if nodes:
        tracer.freeze(nodes[dim], "top-k picks from it by value")
        nodes[dim] = tracer.spatial(call.shape()[dim], "the k of a top-k")
    return [(nodes, [False] * len(nodes))] * 2


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax")
def softmax(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    if value.axes:
        tracer.freeze(value.axes[int(call["dim"])], "softmax over it")
    return value.axes, [False] * len(value.axes)


@rule("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "cumsum_", "cumprod_")
def cumulative(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    flags = list(tracer.zero_of(value))
    dim = int(call["dim"]) if value.axes else 0
    if value.axes:
        if not (flags[dim] and call.name.startswith("cumsum")):
            tracer.approximates(value.axes[dim], f"{call.name} over it depends on removed units")
        flags[dim] = False
    return [(value.axes, flags if call.name.startswith("cumsum") else [False] * len(flags))] * len(call.outs)


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r", "fft_fftshift")
def fft(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    nodes = list(value.axes)
    for d in call["dim"]:
        tracer.freeze(nodes[d], "a Fourier transform over it")
        if call.shape()[d] != nodes[d].size:
            nodes[d] = tracer.spatial(call.shape()[d], "a Fourier transform over it")
    return nodes, tracer.zero_of(value)
