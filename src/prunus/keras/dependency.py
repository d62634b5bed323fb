"""Layers of a Keras model whose filters are the same channels, and what else these channels run through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..graph.axes import Node, find, product
from ..pruners.shared_units import SharedUnits, units_of
from .compaction.contraction import Contraction
from .compaction.graph import KerasGraph
from .compaction.spatial import Boundary, Lookup
from .compaction.tracing import trace
from .compaction.values import Value
from .masked import plain_class
from .walking import Found
from .weights import Weight, layout, own_variables


@dataclass(frozen=True)
class Partner:
    """A variable with one entry, or one slice, for each channel.

    Attributes:
        owner: the name of the layer that has it, as in a configuration.
        layer: that layer.
        key: the attribute under which the layer has it.
        dims: its dimensions that are the channels, row-major.
    """

    owner: str
    layer: Any
    key: str
    dims: tuple[int, ...]

    def mask(self, lost: Tensor) -> Tensor:
        """The mask without the channels that are lost (bool): float32, of the variable's shape."""
        shape = [int(size) for size in vars(self.layer)[self.key].shape]
        along = [size if d in self.dims else 1 for d, size in enumerate(shape)]
        return (~lost).float().reshape(along).expand(shape)


class SharedFilters(SharedUnits):
    """Which filters of which weights are one unit, read off the axes of the traced model.

    Partners are the scales and shifts of normalisations, scales of layers, and whatever else has one entry
    for each channel; depthwise kernels that are not pruned themselves are too, with their biases, since they
    make no channel but pass each of them on.

    Args:
        model: a Functional or Sequential one.
        found: its layers.
        pruned: the weights that are.

    Raises:
        InputError: the model cannot be traced.
    """

    def __init__(self, model: Any, found: Sequence[Found], pruned: Sequence[Weight]) -> None:
        try:
            graph = trace(model)
        except InputError as error:
            raise InputError(
                "dependency_aware=True needs a built Functional or Sequential model, whose calls tell which "
                f"layers share filters, and {model.name!r} ({plain_class(type(model)).__name__}) is none: "
                "write it as one, or leave dependency_aware out"
            ) from error
        names = {id(weight.variable): weight.name for weight in pruned}
        taken = {(id(weight.layer), key) for weight in pruned for key in (weight.key, weight.bias) if key}
        axes: dict[str, Mapping[Node, Tensor]] = {}
        for weight in pruned:
            value = graph.weights.get(id(weight.variable))
            if value is not None:
                axes[weight.name] = _units(graph, value, weight.outputs)
        self.variables: dict[str, Partner] = {}
        steps = {id(value): step for step in graph.steps for value in step.inputs if value.weight is not None}
        for each in found:
            for key, variable in own_variables(each.layer).items():
                value = graph.weights.get(id(variable))
                if value is None or (id(each.layer), key) in taken:
                    continue
                dims = _channels(each.layer, key, value, steps.get(id(value)))
                name = f"{each.name}/{key.strip('_')}"
                if dims and name not in axes:
                    axes[name] = _units(graph, value, dims)
                    self.variables[name] = Partner(each.name, each.layer, key, dims)
        super().__init__(axes, _makers(graph, names), self.variables)
        self.restrict([weight.name for weight in pruned])
        self.variables = {name: self.variables[name] for name in self.partners}


def _units(graph: KerasGraph, value: Value, dims: Sequence[int]) -> dict[Node, Tensor]:
    return units_of(graph.terms, product([find(value.axes[d]) for d in dims]))


def _channels(layer: Any, key: str, value: Value, step: Any) -> tuple[int, ...]:
    """The dimensions that make a variable a partner; none if it is not."""
    if isinstance(step, Contraction):
        return layout(layer, key, value.rank)[0] if _passes_on(step) else ()
    if isinstance(step, Lookup):
        return ()
    long = [d for d, size in enumerate(value.shape) if size > 1]
    return tuple(long) if len(long) == 1 else ()


def _passes_on(step: Contraction) -> bool:
    """Whether each channel that goes out is one that comes in, times a number, as in a depthwise layer."""
    kernel = step.inputs[1]
    _, groups, inputs, _ = step.arrange(torch.empty(kernel.shape, device="meta")).shape
    return groups > 1 and inputs == 1


def _makers(graph: KerasGraph, names: Mapping[int, str]) -> dict[Node, set[str]]:
    """For each axis, the weights whose filters are its units; '' for all that is not pruned."""
    found: dict[Node, set[str]] = {}
    for step in graph.steps:
        inside: set[Node] = set()
        name = ""
        if isinstance(step, Contraction):
            weight = step.inputs[1].weight
            name = names.get(id(weight.variable), "") if weight is not None else ""
            if _passes_on(step):
                inside = set(graph.terms.leaves(step.inputs[0].axes[step.channels_in]))
            made = [step.outputs[0].axes[step.channels_out]]
        elif isinstance(step, Lookup | Boundary):
            made = [node for value in step.outputs for node in value.axes]
        else:
            continue
        for node in made:
            for leaf in graph.terms.leaves(node):
                if leaf not in inside:
                    found.setdefault(leaf, set()).add(name)
    return found
