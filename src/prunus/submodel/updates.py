"""What a client returns, checked and brought to one form: tensors by first name, in its own scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ArgumentTypeError
from ..graph.state import Held, held_tensors, named_modules
from ..plan import Plan
from .coverage import Coverages, content_key, coverages
from .errors import UpdateError
from .extraction import check_father

EXTRA = "_extra_state"
"""What `Module.get_extra_state` returns is saved under this name; no rule says how to average it."""


@dataclass(eq=False)
class Update:
    """One client's return.

    Attributes:
        tensors: by first name, what the plan covers.
        weight: positive; relative to the other updates'.
    """

    index: int
    tensors: dict[str, Tensor]
    weight: float


@dataclass(eq=False)
class PlanUpdates:
    """The updates of all clients that hold the same entries."""

    coverages: Coverages
    updates: list[Update] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


class Father:
    """The tensors of the model that updates are merged into."""

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            raise ArgumentTypeError(f"father must be a torch.nn.Module, got {type(model).__name__}")
        self.held = held_tensors(model)
        modules = dict(named_modules(model))
        self.saved = [item for item in self.held if _is_saved(item, modules)]

    def check(self, plan: Plan) -> None:
        check_father(self.held, plan)


def _is_saved(item: Held, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a tensor is part of the state dict under any of its names."""
    return any(
        slot.kind == "parameter"
        or (slot.kind == "buffer" and slot.key not in modules[slot.module]._non_persistent_buffers_set)
        for slot in item.slots
    )


def read_updates(father: Father, given: Sequence[Any]) -> list[PlanUpdates]:
    """Check every update and put those of equal plans together; nothing is computed on their values.

    Raises:
        UpdateError: an update whose plan, keys, shapes, kinds of numbers or weight are wrong.
    """
    known: dict[tuple[object, ...], PlanUpdates] = {}
    for index, item in enumerate(given):
        if not isinstance(item, tuple | list) or len(item) != 3:
            raise UpdateError(index, f"is (plan, state, weight), got {type(item).__name__}")
        plan, state, weight = item
        if not isinstance(plan, Plan):
            raise UpdateError(index, f"its plan must be a prunus.Plan, got {type(plan).__name__}")
        key = content_key(plan)
        if key not in known:
            try:
                father.check(plan)
                known[key] = PlanUpdates(coverages(plan))
            except Exception as error:
                raise UpdateError(index, str(error)) from error
        group = known[key]
        tensors = _tensors(index, state, father, plan, group.coverages)
        group.updates.append(Update(index, tensors, _weight(index, weight)))
        group.weights.append(group.updates[-1].weight)
    return list(known.values())


def _weight(index: int, weight: Any) -> float:
    number = weight.item() if isinstance(weight, np.generic) or _is_scalar(weight) else weight
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise UpdateError(index, f"its weight must be a number, got {weight!r}")
    if not 0 < number < math.inf:
        raise UpdateError(index, f"its weight must be positive and finite, got {weight!r}")
    return float(number)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1


def _tensors(index: int, state: Any, father: Father, plan: Plan, cover: Coverages) -> dict[str, Tensor]:
    if isinstance(state, nn.Module):
        state = state.state_dict()
    if not isinstance(state, Mapping):
        raise UpdateError(index, f"its state must be a state dict or a module, got {type(state).__name__}")
    by_first: dict[str, Tensor] = {}
    aliases = plan.graph.aliases
    for name, value in state.items():
        first = aliases.get(name)
        if first is None or first not in cover:
            if isinstance(name, str) and name.rpartition(".")[2] == EXTRA:
                continue
            raise UpdateError(index, f"{name!r} is not a tensor of its sub-model")
        tensor = _as_tensor(index, name, value)
        if tensor.shape != cover[first].sub_shape:
            raise UpdateError(
                index, f"{name!r} is {tuple(tensor.shape)}, its plan says {cover[first].sub_shape}"
            )
        other = by_first.setdefault(first, tensor)
        if other is not tensor and other.data_ptr() != tensor.data_ptr() and not torch.equal(other, tensor):
            raise UpdateError(index, f"{name!r} and {first!r} are one tensor in the father, and differ here")
    for item in father.saved:
        if item.name not in cover:
            continue
        own = by_first.get(item.name)
        if own is None:
            raise UpdateError(index, f"{item.name!r} is missing")
        if own.dtype != item.tensor.dtype and _kind(own) != _kind(item.tensor):
            raise UpdateError(index, f"{item.name!r} is {own.dtype}, the father's is {item.tensor.dtype}")
    return by_first


def _as_tensor(index: int, name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach() if value.requires_grad else value
    try:
        if isinstance(value, np.ndarray) and not value.flags.writeable:
            value = value.copy()  # torch warns of read-only memory, since it might write there
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UpdateError(index, f"{name!r} is no tensor or array ({error})") from error


def _kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return "complex"
    return "float" if tensor.is_floating_point() else "integer"
