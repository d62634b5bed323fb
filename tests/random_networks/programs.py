"""Whole networks: a stem, chains of blocks, changes of kind between them, one or two heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from micro import randomise

from . import images, joins, oddities, sequences  # noqa: F401 (they register their blocks)
from ._draw import Draw, Shape


class Flatten(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "nhwc":
            return x.permute(0, 2, 3, 1).flatten(1)
        if self.how == "view":
            return x.reshape(x.shape[0], -1)
        if self.how == "two steps":
            return x.flatten(2).flatten(-2)
        return torch.flatten(x, 1)


class Unflatten(nn.Module):
    """A vector becomes an image of the width kept in an attribute."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.fc = nn.Linear(channels, width * 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).view(x.size(0), self.width, 3, 3)


class Pixels(nn.Module):
    """An image as a sequence of pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class Mean(nn.Module):
    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.dims = tuple(dims)

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims)


class First(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


def turned(draw: Draw, shape: Shape) -> tuple[nn.Module, Shape]:
    """From one kind of tensor to another."""
    channels = shape.channels
    if shape.kind == "vector":
        width = draw.channels()
        return Unflatten(channels, width), Shape("image", width, 3, 3)
    size = channels * shape.height * shape.width * shape.length
    if draw.chance(0.5) and size <= 400:
        return Flatten(draw.choice(["flatten", "nhwc" if shape.kind == "image" else "view", "two steps"])), (
            Shape("vector", size)
        )
    if shape.kind == "image" and draw.chance(0.5) and shape.height * shape.width <= 36:
        return Pixels(), Shape("sequence", channels, length=shape.height * shape.width)
    if shape.kind == "sequence" and draw.chance(0.3):
        return First(), Shape("vector", channels)
    return Mean((2, 3) if shape.kind == "image" else (1,)), Shape("vector", channels)


class Network(nn.Module):
    """stem -> stages -> heads; with two heads the output is a dictionary."""

    def __init__(self, stages: Sequence[nn.Module], heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages, self.heads = nn.ModuleList(stages), nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Any:
        for stage in self.stages:
            x = stage(x)
        if len(self.heads) == 1:
            return self.heads[0](x)
        return {f"head{number}": head(x) for number, head in enumerate(self.heads)}


def stem(draw: Draw) -> tuple[nn.Module, Shape, Tensor]:
    """The first layer, and an input for it."""
    kind, width = draw.choice(["image", "image", "image", "sequence", "tokens", "vector"]), draw.channels()
    if kind == "image":
        height, breadth = draw.choice([4, 6, 8]), draw.choice([4, 6])
        layer: nn.Module = nn.Conv2d(3, width, 3, padding=1)
        return layer, Shape("image", width, height, breadth), torch.randn(2, 3, height, breadth)
    length = draw.randint(3, 6)
    if kind == "tokens":
        tokens = torch.randint(0, 13, (2, length))
        return nn.Embedding(13, width), Shape("sequence", width, length=length), tokens
    if kind == "sequence":
        return nn.Linear(7, width), Shape("sequence", width, length=length), torch.randn(2, length, 7)
    return nn.Linear(7, width), Shape("vector", width), torch.randn(2, 7)


def random_network(seed: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network in eval mode and float64, and its inputs; the same for the same seed on every machine."""
    draw = Draw(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer, shape, x = stem(draw)
        stages = [layer]
        for number in range(draw.randint(1, 3)):
            if number:
                layer, shape = turned(draw, shape)
                stages.append(layer)
            layer, shape = draw.chain(shape, draw.randint(1, 4))
            stages.append(layer)
        if shape.kind != "vector" and draw.chance(0.7):
            layer, shape = turned(draw, shape)
            stages.append(layer)
        heads = [joins.projection(shape, draw.randint(2, 5)) for _ in range(draw.choice([1, 1, 1, 2]))]
        model = Network(stages, heads)
        randomise(model)
    return model.double().eval(), (x.double() if x.is_floating_point() else x,)
