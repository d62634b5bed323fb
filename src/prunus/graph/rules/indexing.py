"""Look-ups by data: the axis that is looked into stays whole, the others pass through."""

from __future__ import annotations

from typing import Any

from ..axes import Node
from ..tracer import Call, Tracer
from ..values import Value
from . import rule
from .pointwise import broadcast


@rule("embedding")
def embedding(tracer: Tracer, call: Call) -> Any:
    weight: Value = call["weight"]
    indices: Value = call["indices"]
    tracer.freeze(weight.axes[0], "vocabulary: looked up by data")
    nodes = [*indices.axes, *weight.axes[1:]]
    return nodes, [*tracer.zero_of(indices), *tracer.zero_of(weight)[1:]]


@rule("_embedding_bag", "_embedding_bag_forward_only", "embedding_bag")
def embedding_bag(tracer: Tracer, call: Call) -> Any:
    weight: Value = call["weight"]
    tracer.freeze(weight.axes[0], "vocabulary: looked up by data")
    first = [tracer.spatial(call.shape()[0], "bags"), *weight.axes[1:]]
    rest = [
        ([tracer.spatial(size, "bags") for size in out.shape], [True] * out.dim()) for out in call.outs[1:]
    ]
    return [(first, [True, *tracer.zero_of(weight)[1:]]), *rest]


@rule("index_select", "index_select_backward")
def index_select(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    dim = int(call["dim"]) % max(len(value.axes), 1)
    nodes = list(value.axes)
    tracer.freeze(nodes[dim], "indexed by data")
    nodes[dim] = call["index"].axes[0] if call["index"].axes else tracer.spatial(1)
    return nodes, tracer.zero_of(value)


@rule("index", "_unsafe_index")
def index(tracer: Tracer, call: Call) -> Any:
    """`x[:, i, j]`: indexed dimensions give way to those of the broadcast index."""
    value: Value = call["self"]
    positions, indexed, found = _indexed_dims(tracer, value, call["indices"])
    for d in indexed:
        tracer.freeze(value.axes[d], "indexed by data")
    flags = tracer.zero_of(value)
    kept = [d for d in range(len(value.axes)) if d not in indexed]
    shape = call.shape()
    rank = len(shape) - len(kept)
    if any(item.dtype in BOOLEAN for item in found) or any(len(item.axes) > rank for item in found):
        looked_up: list[Node] = [
            tracer.spatial(size, "indexed by data") for size in _new(shape, kept, indexed, rank)
        ]
    else:
        looked_up = broadcast(tracer, found, rank, "index")
    adjacent = positions == list(range(positions[0], positions[-1] + 1)) if positions else True
    at = len([d for d in kept if d < indexed[0]]) if adjacent and indexed else 0
    nodes = [*[value.axes[d] for d in kept[:at]], *looked_up, *[value.axes[d] for d in kept[at:]]]
    zero = [*[flags[d] for d in kept[:at]], *[True] * rank, *[flags[d] for d in kept[at:]]]
    return nodes, zero


def _boolean() -> frozenset[Any]:
    import torch

    return frozenset({torch.bool, torch.uint8})


BOOLEAN = _boolean()


def _indexed_dims(
    tracer: Tracer, value: Value, indices: list[Value | None]
) -> tuple[list[int], list[int], list[Value]]:
    """Places in the index list, dimensions of the tensor that they look into, and the index tensors."""
    positions, indexed, found = [], [], []
    dim = 0
    for place, item in enumerate(indices):
        if item is None:
            dim += 1
            continue
        positions.append(place)
        found.append(item)
        if item.dtype in BOOLEAN:
            for own in item.axes:
                tracer.freeze(own, "a mask chooses from it")
                indexed.append(dim)
                dim += 1
        else:
            indexed.append(dim)
            dim += 1
    return positions, indexed, found


def _new(shape: tuple[int, ...], kept: list[int], indexed: list[int], rank: int) -> tuple[int, ...]:
    at = len([d for d in kept if indexed and d < indexed[0]])
    return shape[at : at + rank]


@rule("index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")
def index_put(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    source: Value = call["values"]
    _, indexed, _ = _indexed_dims(tracer, value, call["indices"])
    for d in indexed:
        tracer.freeze(value.axes[d], "written at places chosen by data")
    kept = [d for d in range(len(value.axes)) if d not in indexed]
    trailing = [d for d in kept if not indexed or d > indexed[-1]]
    for d, own in zip(reversed(trailing), reversed(source.axes), strict=False):
        if own.size == value.axes[d].size:
            tracer.unify(value.axes[d], own, "index_put")
    return value.axes, [False] * len(value.axes)


@rule("gather", "take_along_dim")
def gather(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    indices: Value = call["index"]
    nodes = list(indices.axes)
    for d, node in enumerate(value.axes):
        if d == int(call["dim"]) % len(value.axes):
            tracer.freeze(node, "gathered by data")
        elif node.size == nodes[d].size:
            nodes[d] = tracer.unify(node, nodes[d], "gather")
        else:
            tracer.freeze(node, "gathered by data")
    return nodes, [False] * len(nodes)


@rule(
    "scatter",
    "scatter_",
    "scatter_add",
    "scatter_add_",
    "scatter_reduce",
    "scatter_reduce_",
    "index_add",
    "index_add_",
    "index_copy",
    "index_copy_",
    "index_fill",
    "index_fill_",
    "index_reduce",
    "index_reduce_",
)
def scatter(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    dim = int(call["dim"]) % max(len(value.axes), 1)
    for other in call.values[1:]:
        if len(other.axes) != len(value.axes):
            continue
        for d, node in enumerate(value.axes):
            if d != dim and node.size == other.axes[d].size:
                tracer.unify(node, other.axes[d], call.name)
            elif d != dim and node.size != other.axes[d].size:
                tracer.freeze(node, "scattered by data")
    if value.axes:
        tracer.freeze(value.axes[dim], "scattered by data")
    return value.axes, [False] * len(value.axes)


@rule(
    "masked_scatter",
    "masked_scatter_",
    "take",
    "put",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "_unique2",
    "multinomial",
    "bincount",
    "histc",
    "unique_dim",
    "repeat_interleave_tensor",
)
def by_data(tracer: Tracer, call: Call) -> Any:
    """Which units come out depends on values alone."""
    for value in call.values:
        for node in value.axes:
            tracer.freeze(node, f"chosen by data ({call.name})")
    return [
        ([tracer.spatial(size, f"chosen by data ({call.name})") for size in out.shape], [True] * out.dim())
        for out in call.outs
    ]
