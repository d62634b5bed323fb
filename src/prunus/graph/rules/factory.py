"""Tensors made from nothing: uniform ones can have any size, positional ones stay whole."""

from __future__ import annotations

from typing import Any

from ..axes import leaf
from ..tracer import Call, Tracer
from . import rule


@rule(
    "zeros",
    "new_zeros",
    "empty",
    "new_empty",
    "ones",
    "new_ones",
    "full",
    "new_full",
    "rand",
    "randn",
    "randint",
    "empty_strided",
    "new_empty_strided",
    "scalar_tensor",
    "empty_permuted",
    "empty_quantized",
)
def uniform(tracer: Tracer, call: Call) -> Any:
    zero = "zeros" in call.name
    sizes = call.shape()
    nodes = [leaf(size) for size in sizes]
    if call.name.startswith("rand"):
        for node in nodes:
            tracer.approximates(node, "random numbers are drawn over it")
    return nodes, [zero] * len(sizes)


@rule(
    "arange",
    "linspace",
    "eye",
    "logspace",
    "range",
    "tril_indices",
    "triu_indices",
    "randperm",
    "hann_window",
    "_pin_memory",
    "kaiser_window",
    "hamming_window",
)
def positional(tracer: Tracer, call: Call) -> Any:
    sizes = call.shape()
    text = f"its values are positions ({call.name})"
    return [tracer.spatial(size, text) for size in sizes], [True] * len(sizes)


@rule("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose")
def scalar(tracer: Tracer, call: Call) -> Any:
    return []
