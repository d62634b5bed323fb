"""Layers registered with pruning functions of the user's own: boundaries of the trace."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from ..errors import ArgumentTypeError
from ..graph.boundaries import Boundary
from ..graph.state import named_modules
from .cutting import declared
from .functions.base import BasePruningFunc

METHODS = ("prune_out_channels", "prune_in_channels", "get_out_channels", "get_in_channels")


LAYER = ("layer_type_or_instance", "layer_type", "module_type")
FUNCTIONS = ("layer_pruner", "pruner", "customized_pruner")


def registration(layer: Any, functions: Any, named: Mapping[str, Any]) -> tuple[Any, Any]:
    """A layer and its pruning functions, by position or by any of their names.

    Raises:
        ArgumentTypeError: one is missing or given twice, or another name.
    """
    given = {"layer_type_or_instance": layer, "layer_pruner": functions, **named}
    unknown = sorted(set(named) - {*LAYER, *FUNCTIONS})
    found = [[given[name] for name in names if given.get(name) is not None] for names in (LAYER, FUNCTIONS)]
    if unknown or any(len(values) != 1 for values in found):
        raise ArgumentTypeError(
            "register_customized_layer takes a class of modules, or one module, and an object derived from "
            f"BasePruningFunc, each once; got {_listed(given)}"
        )
    return found[0][0], found[1][0]


def _listed(given: Mapping[str, Any]) -> str:
    named = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
    return named or "neither"


class Customized(dict[Any, BasePruningFunc]):
    """Pruning functions by layer or class: a layer's own come first, then those of its nearest class."""

    def register(self, layer_type: Any, functions: Any) -> None:
        """Add or replace.

        Raises:
            ArgumentTypeError: neither a class of modules nor a module, or functions that lack a method.
        """
        if not isinstance(layer_type, nn.Module) and not (
            isinstance(layer_type, type) and issubclass(layer_type, nn.Module)
        ):
            raise ArgumentTypeError(
                f"register_customized_layer takes an nn.Module or a class of them, got {layer_type!r}"
            )
        missing = [name for name in METHODS if not callable(getattr(functions, name, None))]
        if missing or isinstance(functions, type):
            raise ArgumentTypeError(
                f"the pruning functions of {layer_type!r} must be an object with {', '.join(METHODS)} "
                f"(derive from BasePruningFunc and make one), got {functions!r}"
            )
        self[layer_type] = functions

    def of(self, module: Any) -> BasePruningFunc | None:
        """The functions of a module; None for one that is not registered."""
        if module in self:
            return self[module]
        for kind in type(module).__mro__:
            if kind in self:
                return self[kind]
        return None

    def unmatched(self, model: nn.Module) -> list[Any]:
        """The registrations that no module of a model is meant by."""
        modules = list(model.modules())
        return [
            item
            for item in self
            if not any(
                module is item or (isinstance(item, type) and isinstance(module, item)) for module in modules
            )
        ]

    def boundaries(self, model: nn.Module) -> Mapping[nn.Module, Boundary]:
        """The registered modules of a model that lie in no other one."""
        found: dict[nn.Module, Boundary] = {}
        outer: tuple[str, ...] = ()
        for name, module in named_modules(model, distinct=True):
            if name.startswith(outer) and outer:
                continue
            functions = self.of(module)
            if functions is not None:
                found[module] = boundary_of(functions, module)
                outer = (*outer, f"{name}." if name else "")
        return found


def boundary_of(functions: BasePruningFunc, module: nn.Module) -> Boundary:
    return Boundary(
        coupled=functions.prune_out_channels == functions.prune_in_channels,
        in_channels=partial(declared, functions.get_in_channels, module),
        out_channels=partial(declared, functions.get_out_channels, module),
    )


class NoChannels(BasePruningFunc):
    """Functions of what has no channels of its own: an output of the model, an addition."""

    def prune_out_channels(self, layer: Any, idxs: Any) -> Any:
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int | None:
        return None

    get_in_channels = get_out_channels
