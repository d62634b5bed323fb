"""The modules and tensors of a model by names that do not depend on `torch.compile`.

A compiled module is a wrapper with the real one inside, as `_orig_mod`. Names here leave wrappers out, so
that a checkpoint of a compiled model loads into a plain one and the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import CheckpointError
from ..graph.attributes import _SKIPPED, MAX_DEPTH, MAX_ITEMS
from ..graph.state import Slot, held_tensors

WRAPPED = "_orig_mod"
Item = tuple[str, str, str | int]


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
    """One slot of a module, where a tensor is or may be put.

    Attributes:
        space: the dict or list that holds it, under `key`.
        item: for a tensor in a dict or list of a module: the module's name, the attribute, the key in it.
    """

    name: str
    kind: str
    space: Any
    key: str | int
    tensor: Tensor | None
    item: Item | None = None

    @property
    def position(self) -> tuple[int, str | int]:
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
    """List the modules and tensors of a model, also of modules that it keeps in plain lists and dicts.

    Raises:
        CheckpointError: one name stands for two tensors.
    """
    structure = Structure({}, [])
    groups: dict[int, list[Place]] = {}
    names: set[str] = set()
    seen = {id(module) for module in model.modules()}
    roots = [("", model)]
    for prefix, root in roots:
        renamed, inside = _add_modules(structure, prefix, root)
        for held in held_tensors(root):
            for slot in held.slots:
                place = _place(renamed[slot.module], inside[slot.module], slot, held.tensor)
                if place.name in names:
                    raise CheckpointError(
                        f"{place.name!r} names two tensors of {type(unwrapped(model)).__name__}: rename one"
                    )
                names.add(place.name)
                groups.setdefault(id(held.tensor), []).append(place)
        for raw, module in inside.items():
            if not is_compiled(module):
                roots.extend(_hidden(renamed[raw], module, seen))
    structure.tensors = list(groups.values())
    return structure


def _add_modules(
    structure: Structure, prefix: str, root: nn.Module
) -> tuple[dict[str, str], dict[str, nn.Module]]:
    """Enter a module and those below it; returns their new names and themselves by the names torch gives."""
    renamed: dict[str, str] = {}
    inside: dict[str, nn.Module] = {}
    wrappers: set[str] = set()
    for raw, module in root.named_modules(remove_duplicate=False):
        inside[raw] = module
        parent, _, last = raw.rpartition(".")
        if not raw:
            renamed[raw] = prefix
        else:
            renamed[raw] = renamed[parent] if parent in wrappers else joined(renamed[parent], last)
        if is_compiled(module):
            wrappers.add(raw)
        else:
            structure.modules[renamed[raw]] = module
    return renamed, inside


def _hidden(owner: str, module: nn.Module, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """Modules that an attribute holds, perhaps in a list or dict, and that torch therefore does not know."""

    def search(name: str, value: Any, depth: int) -> Iterator[tuple[str, nn.Module]]:
        if isinstance(value, nn.Module):
            if id(value) not in seen:
                seen.update(id(inner) for inner in value.modules())
                yield name, value
        elif type(value) in (list, tuple, dict) and depth < MAX_DEPTH and len(value) <= MAX_ITEMS:
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(key, str | int):
                    yield from search(f"{name}[{key!r}]", item, depth + 1)

    for key, value in module.__dict__.items():
        if key not in _SKIPPED:
            yield from search(joined(owner, key), value, 0)


def _place(owner: str, module: nn.Module, slot: Slot, tensor: Tensor) -> Place:
    space, key = slot.space(module)
    if slot.item is None:
        return Place(joined(owner, slot.key), slot.kind, space, key, tensor)
    item = (owner, slot.key, slot.item)
    return Place(joined(owner, f"{slot.key}[{slot.item!r}]"), slot.kind, space, key, tensor, item)
