"""When a callback prunes: at the start of some of the epochs or steps of a trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError


@dataclass(frozen=True)
class Moments:
    """Every so many epochs or steps (`unit`) from `start` on, as often as there are steps of pruning."""

    steps: int
    every: int
    start: int
    unit: str

    def __post_init__(self) -> None:
        if type(self.every) is not int or self.every < 1:
            raise InputError(f"every={self.every!r} must be a whole number of {self.unit}s, at least 1")
        if type(self.start) is not int or self.start < 0:
            raise InputError(f"start={self.start!r} must be the number of {self.unit}s before the first cut")

    @property
    def last(self) -> int:
        """The epoch or step, counted from 0, at whose start the last cut is made."""
        return self.start + (self.steps - 1) * self.every

    def due(self, now: int, done: int) -> bool:
        """Whether the next cut is due at the start of an epoch or step; a missed one is made up for."""
        return done < self.steps and now >= self.start + done * self.every

    def check(self, total: float | None) -> None:
        """Raise an `InputError` where training ends before the last cut; None is training without end."""
        if total is not None and 0 <= total <= self.last:
            raise InputError(
                f"the last of {self.steps} cuts would come at the start of {self.unit} {self.last}, counted "
                f"from 0, and training has {total:g}: make steps, every or start smaller, or train longer"
            )


def moved_to(model: nn.Module, value: Any) -> Any:
    """Example inputs on the device of a model."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved_to(model, item) for key, item in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(moved_to(model, item) for item in value)
    return value
