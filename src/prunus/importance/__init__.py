"""Importance: how much each unit of each axis matters.

An importance is a callable `(graph, tensors) -> {parameter name: score tensor of its shape}`: non-negative
entry-wise saliencies that add up over everything a unit stands for. New ones are one small file and one
`register`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

import torch
from torch import Tensor

from ..errors import InputError
from ..graph.axes import Node
from ..graph.graph import Graph

Importance = Callable[["Scoring"], dict[Node, Tensor]]
_REGISTRY: dict[str, Importance] = {}


class Scoring:
    """What an importance has at hand: the graph, its parameters, and the summing over coupled members."""

    def __init__(self, graph: Graph, nodes: list[Node], seed: int | None = None) -> None:
        self.graph = graph
        self.nodes = nodes
        self.seed = seed
        self._wanted = set(nodes)

    def parameters(self) -> Mapping[str, Tensor]:
        """Parameters that contain at least one of the axes asked for."""
        names = {name for node in self.nodes for name, _ in self.graph.by_node[node].members}
        return {item.name: item.tensor for item in self.graph.held if item.name in names}

    def sum_units(self, entries: Callable[[Tensor, Tensor | None], Tensor]) -> dict[Node, Tensor]:
        """For each axis, the sum of an entry-wise quantity over every entry that belongs to each unit.

        `entries(weight, gradient)` returns a tensor of the weight's shape; it is given rows of a large
        parameter some at a time. Returned are float64 vectors of shape (units,) on the CPU.
        """
        totals = {node: torch.zeros(node.size, dtype=torch.float64) for node in self.nodes}

        def add(node: Node, scores: Tensor) -> None:
            if node in self._wanted:
                totals[node] += scores

        for name, tensor in self.parameters().items():
            axes = self.graph.values[name].axes
            dims = [
                d for d, node in enumerate(axes) if not self._wanted.isdisjoint(self.graph.terms.leaves(node))
            ]
            for dim, summed in _sums(tensor, dims, entries).items():
                self.graph.terms.project(axes[dim], summed.cpu(), add)
        return totals


CHUNK = 1 << 23
"""Entries of a parameter that are looked at at a time."""


def _sums(
    tensor: Tensor, dims: list[int], entries: Callable[[Tensor, Tensor | None], Tensor]
) -> dict[int, Tensor]:
    """Float64 sums of a quantity over all dimensions but one, for each of `dims`."""
    weight, grad = tensor.detach(), tensor.grad
    rows = max(1, CHUNK * weight.shape[0] // max(weight.numel(), 1)) if weight.dim() else 1
    totals: dict[int, list[Tensor]] = {dim: [] for dim in dims}
    for start in range(0, weight.shape[0], rows):
        part = slice(start, start + rows)
        values = entries(_wide(weight[part]), None if grad is None else _wide(grad[part]))
        for dim in dims:
            others = [d for d in range(values.dim()) if d != dim]
            totals[dim].append((values.sum(others) if others else values).double())
    return {dim: torch.cat(parts) if dim == 0 else torch.stack(parts).sum(0) for dim, parts in totals.items()}


def _wide(tensor: Tensor) -> Tensor:
    """Half precision overflows when squared; float32 and wider are taken as they are."""
    return tensor.float() if tensor.dtype.itemsize < 4 and not tensor.is_complex() else tensor


def register(name: str) -> Callable[[Importance], Importance]:
    def add(function: Importance) -> Importance:
        _REGISTRY[name] = function
        return function

    return add


def _load() -> None:
    for topic in ("magnitude", "random", "taylor"):
        import_module(f"{__name__}.{topic}")


def scores(
    graph: Graph, nodes: list[Node], importance: str | Importance, seed: int | None
) -> dict[Node, Tensor]:
    """One score per unit of each axis, float64 on the CPU.

    Raises:
        InputError: an unknown importance, or scores that are not finite; the parameter is named.
    """
    if isinstance(importance, str):
        if importance not in _REGISTRY:
            raise InputError(f"unknown importance {importance!r}; there are {', '.join(sorted(_REGISTRY))}")
        function = _REGISTRY[importance]
    else:
        function = importance
    scoring = Scoring(graph, nodes, seed)
    found = function(scoring)
    for node in nodes:
        if node not in found or found[node].shape != (node.size,):
            raise InputError(
                f"the importance gave no score of shape ({node.size},) for axis {graph.by_node[node].name!r}"
            )
        if not torch.isfinite(found[node]).all():
            raise _not_finite(graph, node, scoring)
    return found


def _not_finite(graph: Graph, node: Node, scoring: Scoring) -> InputError:
    for name, _ in graph.by_node[node].members:
        tensor = scoring.parameters()[name]
        for what, values in (("weights", tensor), ("gradients", tensor.grad)):
            if values is not None and not torch.isfinite(values).all():
                return InputError(
                    f"parameter {name!r} has {what} that are NaN or infinite, so units cannot be ranked: "
                    "repair the model, or use importance='random'"
                )
    return InputError(f"scores of axis {graph.by_node[node].name!r} are not finite")


__all__ = ["Importance", "Scoring", "register", "scores"]

_load()
