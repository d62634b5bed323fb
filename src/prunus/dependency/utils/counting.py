"""Multiply-accumulates and parameters, of the whole model and layer by layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal, overload

from torch import Tensor, nn

from ...graph.axes import settle
from ...graph.graph import Graph
from ...graph.trace import trace
from ..request import as_call

Layers = dict[nn.Module, float]
"""A number for each module of a model, what is inside it included."""


@overload
def count_ops_and_params(
    model: nn.Module, example_inputs: Any, layer_wise: Literal[False] = ...
) -> tuple[float, int]: ...


@overload
def count_ops_and_params(
    model: nn.Module, example_inputs: Any, layer_wise: Literal[True]
) -> tuple[float, int, Layers, dict[nn.Module, int]]: ...


def count_ops_and_params(model: nn.Module, example_inputs: Any, layer_wise: bool = False) -> Any:
    """Multiply-accumulates of one forward pass, for each sample of the batch, and parameters.

    Counted are convolutions, matrix products and attention, exactly as executed; norms and activations,
    which make up a few per mille, are not. Samples are counted along the first dimension of the first
    positional input; keyword inputs count as one sample.

    Args:
        model: any `nn.Module`.
        example_inputs: a tensor, a list or tuple of positional inputs, or a dict of keyword inputs.
        layer_wise: whether the same is wanted of each module.

    Returns:
        Multiply-accumulates and parameters; with `layer_wise` also two dicts with these for each module, what
        is inside it included. A layer that runs several times has the sum of its runs.
    """
    args, kwargs = as_call(example_inputs, False)
    graph = trace(model, args, kwargs)
    samples = _samples(args)
    macs, params = _each(graph.cost().macs, samples), count_params(model)
    if not layer_wise:
        return macs, params
    by_name = _macs_by_module(graph)
    names: Mapping[nn.Module, str] = {module: name for name, module in model.named_modules()}
    layers = {module: _each(by_name[name], samples) for module, name in names.items()}
    return macs, params, layers, {module: count_params(module) for module in names}


def count_params(module: nn.Module) -> int:
    """The number of parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _samples(args: tuple[Any, ...]) -> int:
    first = args[0] if args else None
    return max(len(first), 1) if isinstance(first, Tensor) and first.dim() else 1


def _each(total: int, samples: int) -> float:
    """Whole where it can be, as it is but for models that mix their samples."""
    return total // samples if total % samples == 0 else total / samples


def _macs_by_module(graph: Graph) -> defaultdict[str, int]:
    found: defaultdict[str, int] = defaultdict(int)
    for cost in graph.all_costs:
        macs = cost.factor
        for loop in cost.loops:
            macs *= settle(loop).size
        name = cost.site.module
        found[name] += macs
        while name:
            name = name.rpartition(".")[0]
            found[name] += macs
    return found
