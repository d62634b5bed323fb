"""The modules and tensors of a model by names that do not depend on `torch.compile`.

A compiled module is a wrapper with the real one inside, as `_orig_mod`. Names here leave wrappers out, so
that a checkpoint of a compiled model loads into a plain one and the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import CheckpointError
from ..graph.state import Slot, held_tensors

WRAPPED = "_orig_mod"


def is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" and WRAPPED in module._modules


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside a `torch.compile` wrapper, or the module itself."""
    while is_compiled(model):
        inner = model._modules[WRAPPED]
        assert inner is not None
        model = inner
    return model


@dataclass(eq=False)
class Place:
    """One slot of a module, where a tensor is or may be put."""

    name: str
    kind: str
    space: dict[str, Any]
    key: str
    tensor: Tensor | None

    @property
    def position(self) -> tuple[int, str]:
        """The same for two names of one slot, as a module that is used twice has."""
        return id(self.space), self.key


@dataclass(eq=False)
class Structure:
    """What a model consists of.

    Attributes:
        modules: by name, once for each name that a shared module has.
        tensors: the places of each tensor, tied ones together, the first is the one that names it.
    """

    modules: dict[str, nn.Module]
    tensors: list[list[Place]]

    def places(self) -> dict[str, Place]:
        return {place.name: place for group in self.tensors for place in group}


def joined(module: str, key: str) -> str:
    return f"{module}.{key}" if module else key


def structure_of(model: nn.Module) -> Structure:
    """List the modules and tensors of a model.

    Raises:
        CheckpointError: one name stands for two tensors.
    """
    names: dict[str, str] = {}
    inside: dict[str, nn.Module] = {}
    modules: dict[str, nn.Module] = {}
    wrappers: set[str] = set()
    for raw, module in model.named_modules(remove_duplicate=False):
        inside[raw] = module
        parent, _, last = raw.rpartition(".")
        if raw:
            names[raw] = names[parent] if parent in wrappers else joined(names[parent], last)
        else:
            names[raw] = ""
        if is_compiled(module):
            wrappers.add(raw)
        else:
            modules[names[raw]] = module
    structure = Structure(modules, [])
    seen: set[str] = set()
    for held in held_tensors(model):
        group = [_place(names, inside, slot, held.tensor) for slot in held.slots]
        for place in group:
            if place.name in seen:
                raise CheckpointError(
                    f"{place.name!r} names two tensors of {type(unwrapped(model)).__name__}, "
                    "a parameter and an attribute: rename one"
                )
            seen.add(place.name)
        structure.tensors.append(group)
    return structure


def _place(names: dict[str, str], inside: dict[str, nn.Module], slot: Slot, tensor: Tensor) -> Place:
    space, key = slot.space(inside[slot.module])
    label = slot.key if slot.item is None else f"{slot.key}[{slot.item!r}]"
    return Place(joined(names[slot.module], label), slot.kind, space, key, tensor)
