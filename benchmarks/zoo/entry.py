"""What the zoo calls a model: a name, a seeded builder, and inputs that can be drawn again."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    """One model of a suite. Nothing is built before `build()` is called."""

    suite: str
    name: str
    make_model: Callable[[], nn.Module]
    make_inputs: Callable[[nn.Module], Inputs]

    @property
    def key(self) -> str:
        """Unique over the suites, e.g. `timm/resnet`."""
        return f"{self.suite}/{self.name}"

    def build(self) -> nn.Module:
        """The model in eval mode, with the same random weights every time."""
        from benchmarks.zoo.randomise import randomise_constants

        torch.manual_seed(zlib.crc32(self.key.encode()))
        model = self.make_model().eval()
        randomise_constants(model)
        return model

    def inputs(self, model: nn.Module, draw: int = 0) -> Inputs:
        """Positional and keyword inputs; another `draw` gives other values of the same shapes."""
        torch.manual_seed(zlib.crc32(f"{self.key}#{draw}".encode()))
        return self.make_inputs(model)
