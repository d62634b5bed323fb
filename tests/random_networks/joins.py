"""Containers for any kind of tensor: residual, concatenation, dense, split, chunk, gate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._draw import Draw, Drawn, Shape, block, container


def channel_dim(shape: Shape, negative: bool) -> int:
    if shape.kind == "image":
        return -3 if negative else 1
    return -1 if negative or shape.kind == "sequence" else 1


def projection(shape: Shape, channels: int) -> nn.Module:
    if shape.kind == "image":
        return nn.Conv2d(shape.channels, channels, 1)
    return nn.Linear(shape.channels, channels)


def same_positions(a: Shape, b: Shape) -> bool:
    return (a.kind, a.height, a.width, a.length) == (b.kind, b.height, b.width, b.length)


class Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.body, self.shortcut, self.in_place = body, shortcut, in_place

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            y = self.body(x) * 1.0
            y += self.shortcut(x)
            return y
        return self.body(x) + self.shortcut(x)


@container
def residual(draw: Draw, shape: Shape) -> Drawn:
    body, out = draw.chain(shape, draw.randint(1, 2))
    if not same_positions(shape, out):
        return None
    if draw.chance(0.5):  # back to the width it came from
        body = nn.Sequential(body, projection(out, shape.channels))
        return Residual(body, nn.Identity(), draw.chance(0.3)), shape
    same = out.channels == shape.channels
    shortcut = nn.Identity() if same else projection(shape, out.channels)
    return Residual(body, shortcut, draw.chance(0.3)), out


class Concat(nn.Module):
    def __init__(self, branches: Sequence[nn.Module], dim: int) -> None:
        super().__init__()
        self.branches, self.dim = nn.ModuleList(branches), dim

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], self.dim)


@container
def concat(draw: Draw, shape: Shape) -> Drawn:
    branches: list[nn.Module] = []
    total = 0
    for _ in range(draw.randint(2, 3)):
        branch, out = (nn.Identity(), shape) if draw.chance(0.2) else draw.chain(shape, 1)
        if not same_positions(shape, out):
            return None
        branches.append(branch)
        total += out.channels
    if total > 60:
        return None
    return Concat(branches, channel_dim(shape, draw.chance(0.5))), shape.with_channels(total)


class Dense(nn.Module):
    """DenseNet: each layer reads everything so far."""

    def __init__(self, layers: Sequence[nn.Module], dim: int) -> None:
        super().__init__()
        self.layers, self.dim = nn.ModuleList(layers), dim

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, self.dim)))
        return torch.cat(features, self.dim)


def dense(draw: Draw, shape: Shape) -> Drawn:
    if shape.channels > 24:
        return None
    growth, width, layers = draw.randint(4, 8), shape.channels, []
    for _ in range(draw.randint(2, 3)):
        layers.append(nn.Sequential(projection(shape.with_channels(width), growth), draw.activation()))
        width += growth
    return Dense(layers, channel_dim(shape, draw.chance(0.5))), shape.with_channels(width)


class Split(nn.Module):
    """Pieces of given sizes, each through its own layer, then joined or added."""

    def __init__(self, sizes: Sequence[int], layers: Sequence[nn.Module], dim: int, join: bool) -> None:
        super().__init__()
        self.sizes, self.layers, self.dim, self.join = list(sizes), nn.ModuleList(layers), dim, join

    def forward(self, x: Tensor) -> Tensor:
        pieces = torch.split(x, self.sizes, dim=self.dim)
        results = [layer(piece) for layer, piece in zip(self.layers, pieces, strict=True)]
        return torch.cat(results, self.dim) if self.join else sum(results[1:], results[0])


def split(draw: Draw, shape: Shape) -> Drawn:
    if shape.channels < 8:
        return None
    first = draw.randint(2, shape.channels // 2)
    second = draw.randint(2, shape.channels - first - 2)
    sizes = [first, second, shape.channels - first - second]
    join, width = draw.chance(0.5), draw.channels()
    widths = [draw.randint(2, 9) for _ in sizes] if join else [width] * 3
    layers = [projection(shape.with_channels(s), w) for s, w in zip(sizes, widths, strict=True)]
    out = shape.with_channels(sum(widths) if join else width)
    return Split(sizes, layers, channel_dim(shape, draw.chance(0.5)), join), out


class Chunk(nn.Module):
    """Two or three equal pieces: multiplied together, or the first passed by and the others worked on."""

    def __init__(self, pieces: int, dim: int, layer: nn.Module | None) -> None:
        super().__init__()
        self.pieces, self.dim, self.layer = pieces, dim, layer

    def forward(self, x: Tensor) -> Tensor:
        first, *others = x.chunk(self.pieces, self.dim)
        if self.layer is None:
            for other in others:
                first = first * torch.sigmoid(other)
            return first
        return torch.cat([first, *(self.layer(other) for other in others)], dim=self.dim)


def chunk(draw: Draw, shape: Shape) -> Drawn:
    pieces = draw.choice([2, 3])
    if shape.channels % pieces or shape.channels < 4 * pieces:
        return None
    dim, width = channel_dim(shape, draw.chance(0.5)), shape.channels // pieces
    if draw.chance(0.5):
        return Chunk(pieces, dim, None), shape.with_channels(width)
    inner = draw.channels()
    layer = nn.Sequential(projection(shape.with_channels(width), inner), draw.activation())
    return Chunk(pieces, dim, layer), shape.with_channels(width + inner * (pieces - 1))


class Slices(nn.Module):
    """A cut at an attribute, or in the middle of what is there; each part through a layer of its own."""

    def __init__(self, cut: int | None, left: nn.Module, right: nn.Module, dim: int) -> None:
        super().__init__()
        self.cut, self.left, self.right, self.dim = cut, left, right, dim

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(self.dim, -1)
        cut = x.shape[-1] // 2 if self.cut is None else self.cut
        left, right = (part.movedim(-1, self.dim) for part in (x[..., :cut], x[..., cut:]))
        return self.left(left).tanh() + self.right(right)


def slices(draw: Draw, shape: Shape) -> Drawn:
    if shape.channels < 6 or shape.channels % 2:
        return None
    cut = None if draw.chance(0.4) else draw.randint(2, shape.channels - 2)
    at, width = shape.channels // 2 if cut is None else cut, draw.channels()
    left, right = (projection(shape.with_channels(c), width) for c in (at, shape.channels - at))
    return Slices(cut, left, right, channel_dim(shape, draw.chance(0.5))), shape.with_channels(width)


class Gate(nn.Module):
    def __init__(self, value: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.value, self.gate = value, gate

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * self.gate(x).sigmoid()


def gate(draw: Draw, shape: Shape) -> Drawn:
    width = draw.channels()
    return Gate(projection(shape, width), projection(shape, width)), shape.with_channels(width)


class Repeated(nn.Module):
    """One layer used more than once."""

    def __init__(self, layer: nn.Module, times: int) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.layer(x).tanh()
        return x


def repeated(draw: Draw, shape: Shape) -> Drawn:
    return Repeated(projection(shape, shape.channels), draw.randint(2, 3)), shape


class Scaled(nn.Module):
    """A loose scale and a per-channel buffer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        tail = (1, 1) if shape.kind == "image" else ()
        self.scale = nn.Parameter(torch.rand(shape.channels, *tail) + 0.5)
        self.register_buffer("shift", torch.randn(shape.channels, *tail))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def scaled(draw: Draw, shape: Shape) -> Drawn:
    return Scaled(shape), shape


for _kind in ("image", "sequence", "vector"):
    for _build, _weight in (
        (residual, 4),
        (concat, 3),
        (dense, 1),
        (split, 2),
        (chunk, 2),
        (slices, 1),
        (gate, 1),
        (repeated, 1),
        (scaled, 1),
    ):
        block(_kind, _weight)(_build)
