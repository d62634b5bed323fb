"""Layers whose filters are the same channels: those that are added, or run through one depthwise layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import InputError
from ..graph.axes import Node
from ..graph.graph import Graph
from ..graph.trace import trace
from .shared_units import SharedUnits, units_of
from .wrapper import filter_dim


class SharedFilters(SharedUnits):
    """Which filters of which layers are one unit, read off the axes of the traced model.

    The weights of `SharedUnits` are layers here: their `weight`, and the first dimension of it. Partners are
    batch norms, and other layers with one weight per channel.
    """

    def __init__(self, model: nn.Module, dummy_input: Any) -> None:
        if dummy_input is None:
            raise InputError(
                "dependency_aware=True needs dummy_input, an example input of the model: the layers that "
                "share filters are found by running it once without data"
            )
        graph = trace(model, dummy_input)
        made_by = {leaf: {_layer(key) for key in keys} for leaf, keys in makers(graph).items()}
        vectors = {name for name, module in model.named_modules() if _is_vector(module)}
        super().__init__(filter_axes(graph, model), made_by, vectors)


def filter_axes(graph: Graph, model: nn.Module) -> dict[str, dict[Node, Tensor]]:
    """For each layer with a weight, the units of the axes that its filters run over."""
    found: dict[str, dict[Node, Tensor]] = {}
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        key = f"{name}.weight" if name else "weight"
        if weight is None or key not in graph.aliases or weight.dim() < 1:
            continue
        axis = graph.parameter(key).axes[min(filter_dim(module), weight.dim() - 1)]
        own = units_of(graph.terms, axis)
        if own:
            found[name] = own
    return found


def makers(graph: Graph) -> dict[Node, set[str]]:
    """For each axis, the matrices whose filters are its units."""
    found: dict[Node, set[str]] = {}
    for leaf, axis in graph.by_node.items():
        own = found.setdefault(leaf, set())
        for key, dim in axis.members:
            if (key, dim) not in graph.contracted and len(graph.shapes[key]) > 1:
                own.add(key)
    return found


def _is_vector(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() == 1


def _layer(key: str) -> str:
    """The layer whose `weight` a parameter is; its own name if it is another one's."""
    return "" if key == "weight" else key.removesuffix(".weight")
