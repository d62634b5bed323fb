"""Pooling, resizing, unfolding: channels pass through, positions are new."""

from __future__ import annotations

from typing import Any

from ..axes import product
from ..tracer import Call, Tracer
from ..values import Value
from . import rule

_POOLS = (
    "max_pool{}d_with_indices avg_pool{}d adaptive_avg_pool{}d _adaptive_avg_pool{}d adaptive_max_pool{}d "
    "max_pool{}d fractional_max_pool{}d mkldnn_max_pool{}d mkldnn_adaptive_avg_pool{}d max_unpool{}d"
)
_RESIZES = (
    "upsample_nearest{}d upsample_linear{}d upsample_bilinear{}d upsample_bicubic{}d upsample_trilinear{}d "
    "_upsample_nearest_exact{}d _upsample_bilinear{}d_aa _upsample_bicubic{}d_aa"
)


def _positions(tracer: Tracer, call: Call, count: int) -> Any:
    """Leading dimensions pass, the last `count` are positions."""
    value = call.values[0]
    lead = len(value.axes) - count
    for node in value.axes[lead:]:
        tracer.freeze(node, f"spatial: {call.name} slides over it")
    flags = tracer.zero_of(value)[:lead]
    out = []
    for tensor in call.outs:
        nodes = [*value.axes[:lead], *(tracer.spatial(size) for size in tensor.shape[lead:])]
        out.append((nodes, [*flags, *[True] * (len(nodes) - lead)]))
    return out


def _register() -> None:
    for dims in (1, 2, 3):

        def positions(tracer: Tracer, call: Call, dims: int = dims) -> Any:
            return _positions(tracer, call, dims)

        names = [name.format(dims) for name in (_POOLS + " " + _RESIZES).split()]
        rule(*names)(positions)


_register()


@rule("grid_sampler_2d", "grid_sampler", "grid_sampler_3d", "cudnn_grid_sampler")
def grid_sampler(tracer: Tracer, call: Call) -> Any:
    value: Value = call["input"]
    for node in value.axes[2:]:
        tracer.freeze(node, "spatial: sampled by a grid")
    spatial = [tracer.spatial(size) for size in call.shape()[2:]]
    return [*value.axes[:2], *spatial], [*tracer.zero_of(value)[:2], *[True] * len(spatial)]


@rule("im2col")
def im2col(tracer: Tracer, call: Call) -> Any:
    """Patches: `C` becomes `C x kernel`."""
    value: Value = call["self"]
    lead = value.axes[:-3]
    channels = value.axes[-3]
    for node in value.axes[-2:]:
        tracer.freeze(node, "spatial: unfolded into patches")
    kernel = tracer.spatial(call.shape()[-2] // channels.size, "the kernel of an unfold")
    places = tracer.spatial(call.shape()[-1])
    flags = tracer.zero_of(value)
    return [*lead, product([channels, kernel]), places], [*flags[:-3], flags[-3], True]


@rule("col2im")
def col2im(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    channels = call.shape()[-3]
    node, kernel = tracer.regroup([value.axes[-2]], [channels, value.axes[-2].size // channels], "a fold")
    tracer.freeze(kernel, "the kernel of a fold")
    tracer.freeze(value.axes[-1], "spatial: folded from patches")
    flags = tracer.zero_of(value)
    spatial = [tracer.spatial(size) for size in call.shape()[-2:]]
    return [*value.axes[:-2], node, *spatial], [*flags[:-2], flags[-2], True, True]


@rule("unfold", "unfold_copy")
def unfold(tracer: Tracer, call: Call) -> Any:
    """Sliding windows over one dimension; the window is a new last dimension."""
    value: Value = call["self"]
    dim = int(call["dimension"]) % len(value.axes)
    tracer.freeze(value.axes[dim], "spatial: windows slide over it")
    nodes = list(value.axes)
    nodes[dim] = tracer.spatial(call.shape()[dim])
    flags = tracer.zero_of(value)
    return [*nodes, tracer.spatial(call.shape()[-1], "a sliding window")], [*flags, True]
