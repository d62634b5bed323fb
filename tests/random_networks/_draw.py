"""Drawing: a seeded source of choices, shapes that know what they mean, and the registry of blocks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Shape:
    """What flows between blocks: kind is 'image' (B, C, H, W), 'sequence' (B, T, C) or 'vector' (B, C)."""

    kind: str
    channels: int
    height: int = 1
    width: int = 1
    length: int = 1

    def with_channels(self, channels: int) -> Shape:
        return replace(self, channels=channels)


Drawn = tuple[nn.Module, Shape] | None
Block = Callable[["Draw", Shape], Drawn]
BLOCKS: dict[str, list[tuple[Block, int]]] = {"image": [], "sequence": [], "vector": []}


def block(kind: str, weight: int = 2) -> Callable[[Block], Block]:
    """Register a block of a kind; it may answer None where the shape does not suit it."""

    def register(build: Block) -> Block:
        BLOCKS[kind].append((build, weight))
        return build

    return register


class Draw(random.Random):
    """A seeded source of sizes, activations and blocks."""

    depth = 0

    def channels(self, multiple: int = 1) -> int:
        return multiple * self.randint(max(1, 6 // multiple), max(2, 22 // multiple))

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def activation(self) -> nn.Module:
        kinds: list[Callable[[], nn.Module]] = [
            nn.ReLU,
            nn.ReLU,
            nn.GELU,
            nn.SiLU,
            nn.Tanh,
            nn.Sigmoid,
            nn.Hardswish,
            nn.ELU,
            nn.Softplus,
            nn.Identity,
            lambda: nn.LeakyReLU(0.2),
            lambda: nn.ReLU(inplace=True),
        ]
        return self.choice(kinds)()

    def block(self, shape: Shape) -> tuple[nn.Module, Shape]:
        """One block that fits; containers call this again for what they contain."""
        builders, weights = zip(*BLOCKS[shape.kind], strict=True)
        self.depth += 1
        try:
            while True:
                build = self.choices(builders, weights)[0]
                if self.depth > 3 and getattr(build, "container", False):
                    continue
                drawn = build(self, shape)
                if drawn is not None:
                    return drawn
        finally:
            self.depth -= 1

    def chain(self, shape: Shape, length: int) -> tuple[nn.Module, Shape]:
        layers = []
        for _ in range(length):
            layer, shape = self.block(shape)
            layers.append(layer)
        return nn.Sequential(*layers), shape


def container(build: Any) -> Any:
    """Mark a block that draws others inside, so that nesting ends."""
    build.container = True
    return build
