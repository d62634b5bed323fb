"""Rarer things: sums over channels, assignment into slices, strides, padding, tiling, maxout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._draw import Draw, Drawn, Shape, block
from .joins import channel_dim, projection


class ChannelSum(nn.Module):
    """A gate from a sum or a norm over channels: exact only while removed units arrive as zeros."""

    def __init__(self, dim: int, how: str) -> None:
        super().__init__()
        self.dim, self.how = dim, how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "sum":
            return x * torch.tanh(x.sum(self.dim, keepdim=True))
        if self.how == "unit length":
            return nn.functional.normalize(x, dim=self.dim)
        return x / (1 + x.square().sum(self.dim, keepdim=True).sqrt())


def channel_sum(draw: Draw, shape: Shape) -> Drawn:
    return ChannelSum(
        channel_dim(shape, draw.chance(0.5)), draw.choice(["sum", "unit length", "norm"])
    ), shape


class Assigned(nn.Module):
    """The first channels replaced in place, or a new tensor filled piece by piece."""

    def __init__(self, layer: nn.Module, cut: int, dim: int, fresh: bool) -> None:
        super().__init__()
        self.layer, self.cut, self.dim, self.fresh = layer, cut, dim, fresh

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(self.dim, -1)
        left = self.layer(x[..., : self.cut].movedim(-1, self.dim)).movedim(self.dim, -1)
        y = torch.zeros_like(x) if self.fresh else x.clone()
        y[..., : self.cut] = left
        if self.fresh:
            y[..., self.cut :] = x[..., self.cut :].tanh()
        return y.movedim(-1, self.dim)


def assigned(draw: Draw, shape: Shape) -> Drawn:
    if shape.channels < 6:
        return None
    cut = draw.randint(2, shape.channels - 2)
    layer = projection(shape.with_channels(cut), cut)
    return Assigned(layer, cut, channel_dim(shape, draw.chance(0.5)), draw.chance(0.5)), shape


class Interleaved(nn.Module):
    """Even and odd channels apart and together again, in the same or the other order."""

    def __init__(self, dim: int, swap: bool) -> None:
        super().__init__()
        self.dim, self.swap = dim, swap

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(self.dim, -1)
        even, odd = x[..., ::2], x[..., 1::2]
        pair = (odd, even.tanh()) if self.swap else (even, odd.sigmoid() * odd)
        return torch.stack(pair, -1).flatten(-2).movedim(-1, self.dim)


def interleaved(draw: Draw, shape: Shape) -> Drawn:
    if shape.channels % 2:
        return None
    return Interleaved(channel_dim(shape, draw.chance(0.5)), draw.chance(0.5)), shape


class Padded(nn.Module):
    """Zeros beside the channels, as many as an attribute says, before a layer that reads them."""

    def __init__(self, before: int, after: int, dim: int) -> None:
        super().__init__()
        self.before, self.after, self.dim = before, after, dim

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(self.dim, -1)
        return nn.functional.pad(x, (self.before, self.after)).movedim(-1, self.dim)


def padded(draw: Draw, shape: Shape) -> Drawn:
    before, after = draw.randint(0, 3), draw.randint(1, 4)
    width, out = draw.channels(), shape.channels + before + after
    layers = Padded(before, after, channel_dim(shape, True)), projection(shape.with_channels(out), width)
    return nn.Sequential(*layers), shape.with_channels(width)


class Tiled(nn.Module):
    """Channels repeated as blocks, or each one several times."""

    def __init__(self, times: int, dim: int, each: bool) -> None:
        super().__init__()
        self.times, self.dim, self.each = times, dim, each

    def forward(self, x: Tensor) -> Tensor:
        if self.each:
            return x.repeat_interleave(self.times, dim=self.dim)
        return torch.cat([x] * self.times, self.dim)


def tiled(draw: Draw, shape: Shape) -> Drawn:
    times = draw.randint(2, 3)
    if shape.channels * times > 40:
        return None
    layer = Tiled(times, channel_dim(shape, draw.chance(0.5)), draw.chance(0.5))
    return layer, shape.with_channels(shape.channels * times)


class Maxout(nn.Module):
    """Groups of two or three channels, of which the largest goes on."""

    def __init__(self, pieces: int, dim: int) -> None:
        super().__init__()
        self.pieces, self.dim = pieces, dim

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(self.dim, (-1, self.pieces)).amax(self.dim + 1)


def maxout(draw: Draw, shape: Shape) -> Drawn:
    pieces = draw.choice([2, 3])
    if shape.channels % pieces or shape.channels < 3 * pieces:
        return None
    dim = {"image": 1, "vector": 1, "sequence": 2}[shape.kind]
    return Maxout(pieces, dim), shape.with_channels(shape.channels // pieces)


for _kind in ("image", "sequence", "vector"):
    for _build in (channel_sum, assigned, interleaved, padded, tiled, maxout):
        block(_kind, 1)(_build)
