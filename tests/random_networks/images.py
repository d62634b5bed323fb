"""Blocks on images: convolutions, norms, excitation, shuffles, resampling, attention over pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ._draw import Draw, Drawn, Shape, block


def norm(draw: Draw, channels: int) -> nn.Module:
    kind = draw.choice(["batch", "batch", "batch", "none", "none", "group", "instance", "prelu"])
    if kind == "batch":
        return nn.BatchNorm2d(channels, affine=draw.chance(0.8))
    if kind == "group":
        groups = [g for g in (1, 2, 3, 4, channels) if channels % g == 0]
        return nn.GroupNorm(draw.choice(groups), channels)
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=draw.chance(0.5), track_running_stats=draw.chance(0.5))
    return nn.PReLU(channels) if kind == "prelu" else nn.Identity()


@block("image", 8)
def conv(draw: Draw, shape: Shape) -> Drawn:
    width, kernel = draw.channels(), draw.choice([1, 3, 3])
    mode = (
        draw.choice(["zeros", "zeros", "reflect", "circular"])
        if min(shape.height, shape.width) > 2
        else "zeros"
    )
    layer: nn.Module = nn.Conv2d(
        shape.channels, width, kernel, padding=kernel // 2, bias=draw.chance(0.6), padding_mode=mode
    )
    if draw.chance(0.1):
        layer = parametrizations.spectral_norm(layer)
    return nn.Sequential(layer, norm(draw, width), draw.activation()), shape.with_channels(width)


@block("image")
def strided(draw: Draw, shape: Shape) -> Drawn:
    if shape.height % 2 or shape.width % 2 or min(shape.height, shape.width) < 4:
        return None
    width = draw.channels()
    layer = nn.Conv2d(shape.channels, width, 3, stride=2, padding=1)
    out = Shape("image", width, shape.height // 2, shape.width // 2)
    return nn.Sequential(layer, norm(draw, width)), out


@block("image")
def pooled(draw: Draw, shape: Shape) -> Drawn:
    if shape.height % 2 or shape.width % 2 or min(shape.height, shape.width) < 4:
        return None
    layer = draw.choice([nn.MaxPool2d, nn.AvgPool2d])(2)
    return layer, Shape("image", shape.channels, shape.height // 2, shape.width // 2)


@block("image", 1)
def upsampled(draw: Draw, shape: Shape) -> Drawn:
    if shape.height > 4 or shape.width > 4:
        return None
    out = Shape("image", shape.channels, 2 * shape.height, 2 * shape.width)
    if draw.chance(0.5):
        return nn.Upsample(scale_factor=2, mode=draw.choice(["nearest", "bilinear"])), out
    width = draw.channels()
    return nn.ConvTranspose2d(shape.channels, width, 2, stride=2), out.with_channels(width)


@block("image", 3)
def grouped(draw: Draw, shape: Shape) -> Drawn:
    """A pointwise layer to a divisible width, then a grouped convolution, plain or transposed."""
    groups = draw.choice([2, 3, 4])
    inner, width = groups * draw.randint(2, 5), groups * draw.randint(2, 5)
    kind = nn.ConvTranspose2d if draw.chance(0.25) else nn.Conv2d
    layers = (
        nn.Conv2d(shape.channels, inner, 1),
        draw.activation(),
        kind(inner, width, 3, padding=1, groups=groups),
        norm(draw, width),
    )
    return nn.Sequential(*layers), shape.with_channels(width)


@block("image", 3)
def depthwise(draw: Draw, shape: Shape) -> Drawn:
    multiplier, channels = draw.choice([1, 1, 2, 3]), shape.channels
    if channels * multiplier > 60:
        return None
    layer = nn.Conv2d(channels, channels * multiplier, 3, padding=1, groups=channels, bias=draw.chance(0.5))
    width = channels * multiplier
    return nn.Sequential(layer, norm(draw, width), draw.activation()), shape.with_channels(width)


@block("image", 2)
def inverted_bottleneck(draw: Draw, shape: Shape) -> Drawn:
    wide, width = shape.channels * 2, draw.channels()
    layers = (
        nn.Conv2d(shape.channels, wide, 1, bias=False),
        nn.BatchNorm2d(wide),
        nn.Hardswish(),
        nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
        nn.BatchNorm2d(wide),
        Excite(wide, draw.randint(2, 6), draw.chance(0.5)),
        nn.Conv2d(wide, width, 1),
    )
    return nn.Sequential(*layers), shape.with_channels(width)


class Excite(nn.Module):
    def __init__(self, channels: int, inner: int, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        kind = nn.Linear if linear else (lambda a, b: nn.Conv2d(a, b, 1))
        self.down, self.up = kind(channels, inner), kind(inner, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.linear:
            b, c = x_BCHW.shape[:2]
            return x_BCHW * self.up(self.down(x_BCHW.mean((-2, -1))).relu()).sigmoid().view(b, c, 1, 1)
        return x_BCHW * self.up(self.down(x_BCHW.mean((2, 3), keepdim=True)).relu()).sigmoid()


@block("image", 2)
def excite(draw: Draw, shape: Shape) -> Drawn:
    return Excite(shape.channels, draw.randint(2, 6), draw.chance(0.5)), shape


class Shuffle(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, -1, h, w)


@block("image", 2)
def shuffle(draw: Draw, shape: Shape) -> Drawn:
    groups = [g for g in (2, 3, 4) if shape.channels % g == 0 and shape.channels > g]
    if not groups:
        return None
    chosen = draw.choice(groups)
    return (Shuffle(chosen) if draw.chance(0.6) else nn.ChannelShuffle(chosen)), shape


@block("image", 1)
def pixel_shuffle(draw: Draw, shape: Shape) -> Drawn:
    if shape.height > 4 or shape.width > 4:
        return None
    width = draw.randint(4, 8)
    layers = nn.Conv2d(shape.channels, 4 * width, 1), nn.PixelShuffle(2)
    return nn.Sequential(*layers), Shape("image", width, 2 * shape.height, 2 * shape.width)


@block("image", 1)
def pixel_unshuffle(draw: Draw, shape: Shape) -> Drawn:
    if shape.channels > 12 or shape.height % 2 or shape.width % 2:
        return None
    return nn.PixelUnshuffle(2), Shape("image", 4 * shape.channels, shape.height // 2, shape.width // 2)


class Permuted(nn.Module):
    """Channels last inside: a layer norm and a linear layer between two permutes."""

    def __init__(self, channels: int, width: int, normed: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels) if normed else nn.Identity()
        self.fc = nn.Linear(channels, width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.fc(self.norm(x_BCHW.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


@block("image", 2)
def permuted(draw: Draw, shape: Shape) -> Drawn:
    width = draw.channels()
    return Permuted(shape.channels, width, draw.chance(0.4)), shape.with_channels(width)


class Moved(nn.Module):
    """Rolled and flipped over space, both undone by nobody."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        return torch.roll(x, (self.shift, -1), (2, 3)).flip((-1,))


@block("image", 1)
def moved(draw: Draw, shape: Shape) -> Drawn:
    return Moved(draw.randint(1, 3)), shape


class PixelAttention(nn.Module):
    """Self-attention over pixels with 1x1 convolutions, as in U-Nets."""

    def __init__(self, channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Conv2d(channels, 3 * heads * head_dim, 1)
        self.proj = nn.Conv2d(heads * head_dim, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        b, _, h, w = x_BCHW.shape
        q, k, v = (
            t.reshape(b, self.num_heads, -1, h * w).transpose(-1, -2)
            for t in self.qkv(x_BCHW).chunk(3, dim=1)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return x_BCHW + self.proj(y.transpose(-1, -2).reshape(b, -1, h, w))


@block("image", 1)
def pixel_attention(draw: Draw, shape: Shape) -> Drawn:
    if shape.height * shape.width > 36:
        return None
    return PixelAttention(shape.channels, draw.choice([2, 3, 4]), draw.choice([2, 4, 6])), shape
