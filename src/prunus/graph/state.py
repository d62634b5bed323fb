"""The tensors of a model by name: parameters, buffers and tensors held as plain attributes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Slot:
    """A place where a module holds a tensor. Tied tensors have several slots.

    `kind` is "parameter", "buffer" or "attribute"; `item` is set for a tensor inside a dict or list that
    is an attribute (a cache, say).
    """

    module: str
    key: str
    kind: str
    item: str | int | None = None

    @cached_property
    def name(self) -> str:
        key = self.key if self.item is None else f"{self.key}[{self.item!r}]"
        return f"{self.module}.{key}" if self.module else key

    def space(self, module: nn.Module) -> tuple[Any, str | int]:
        """The container that holds the tensor, and its key there."""
        if self.item is not None:
            return module.__dict__[self.key], self.item
        if self.kind == "parameter":
            return module._parameters, self.key
        return (module._buffers if self.kind == "buffer" else module.__dict__), self.key


@dataclass(eq=False)
class Held:
    """One tensor and every slot that holds it; `name` is its first one."""

    tensor: Tensor
    slots: list[Slot]

    @cached_property
    def name(self) -> str:
        return self.slots[0].name

    @cached_property
    def kind(self) -> str:
        return self.slots[0].kind


def named_modules(model: nn.Module, distinct: bool = False) -> list[tuple[str, nn.Module]]:
    """Every module under every name, or `distinct` ones under the first; in torch's order.

    `nn.Module.named_modules` is a generator in a generator for each level of nesting, which is felt here.
    """
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        name, module = stack.pop()
        if distinct and id(module) in seen:
            continue
        seen.add(id(module))
        found.append((name, module))
        prefix = f"{name}." if name else ""
        children = [(prefix + key, child) for key, child in module._modules.items() if child is not None]
        stack.extend(reversed(children))
    return found


def held_tensors(model: nn.Module) -> list[Held]:
    """Every tensor that the model holds, once, parameters before buffers before plain attributes."""
    found: dict[int, Held] = {}
    by_kind: dict[str, list[Held]] = {"parameter": [], "buffer": [], "attribute": []}

    def add(tensor: Any, slot: Slot) -> None:
        if not isinstance(tensor, Tensor):
            return
        held = found.get(id(tensor))
        if held is None:
            held = found[id(tensor)] = Held(tensor, [])
            by_kind[slot.kind].append(held)
        held.slots.append(slot)

    modules = named_modules(model)
    for name, module in modules:
        for key, parameter in module._parameters.items():
            add(parameter, Slot(name, key, "parameter"))
    for name, module in modules:
        for key, buffer in module._buffers.items():
            add(buffer, Slot(name, key, "buffer"))
    for name, module in modules:
        for key, value in module.__dict__.items():
            if key in _OWN or type(value) in _NUMBERS:
                continue
            if isinstance(value, Tensor):
                add(value, Slot(name, key, "attribute"))
            elif type(value) in (dict, list) and len(value) <= MAX_ITEMS:
                for item, inner in value.items() if isinstance(value, dict) else enumerate(value):
                    if (
                        isinstance(inner, Tensor)
                        and not isinstance(inner, nn.Parameter)
                        and isinstance(item, str | int)
                    ):
                        add(inner, Slot(name, key, "attribute", item))
    return [*by_kind["parameter"], *by_kind["buffer"], *by_kind["attribute"]]


_OWN = frozenset(nn.Module().__dict__) | {"_flat_weights"}
"""What every module keeps for itself: registries, hooks, flags."""
_NUMBERS = frozenset({int, float, bool, str, type(None)})
MAX_ITEMS = 64


@contextmanager
def swapped(model: nn.Module, replacements: list[tuple[Held, Tensor]]) -> Iterator[None]:
    """Put other tensors in the model's slots for a while."""
    undo: list[tuple[Any, str | int, Any]] = []
    modules = dict(named_modules(model))
    try:
        for held, tensor in replacements:
            for slot in held.slots:
                space, key = slot.space(modules[slot.module])
                undo.append((space, key, space[key]))
                space[key] = tensor
        yield
    finally:
        for space, key, old in reversed(undo):
            space[key] = old


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Set train or eval mode by flag alone (no `train()` overrides run) and put each module's flag back."""
    saved = [(module, module.training) for module in model.modules() if "training" in module.__dict__]
    try:
        for module, _ in saved:
            module.__dict__["training"] = training
        yield
    finally:
        for module, flag in saved:
            module.__dict__["training"] = flag


def device_of(held: list[Held]) -> torch.device | None:
    """The only device of the parameters; None where there are none or several."""
    devices = {item.tensor.device for item in held if item.kind == "parameter"}
    return devices.pop() if len(devices) == 1 else None
