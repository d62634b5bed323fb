"""Blocks on token sequences and on vectors: attention, gated feed-forward, recurrent layers, experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils import parametrize

from ._draw import Draw, Drawn, Shape, block


class LowRank(nn.Module):
    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(3, inputs)), nn.Parameter(torch.randn(outputs, 3))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.1 * self.b @ self.a


def linear(draw: Draw, shape: Shape) -> Drawn:
    width = draw.channels()
    layer = nn.Linear(shape.channels, width, bias=draw.chance(0.7))
    if draw.chance(0.15):
        parametrize.register_parametrization(layer, "weight", LowRank(width, shape.channels))
    return nn.Sequential(layer, draw.activation()), shape.with_channels(width)


block("sequence", 5)(linear)
block("vector", 8)(linear)


@block("sequence", 2)
def token_norm(draw: Draw, shape: Shape) -> Drawn:
    return draw.choice([nn.LayerNorm, nn.RMSNorm])(shape.channels), shape


@block("vector", 2)
def vector_norm(draw: Draw, shape: Shape) -> Drawn:
    return draw.choice([nn.BatchNorm1d, nn.BatchNorm1d, nn.LayerNorm, nn.PReLU])(shape.channels), shape


class SwiGLU(nn.Module):
    def __init__(self, channels: int, hidden: int, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.up = nn.Linear(channels, 2 * hidden if fused else hidden)
        self.gate = nn.Identity() if fused else nn.Linear(channels, hidden)
        self.down = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            value, gate = self.up(x).chunk(2, dim=-1)
        else:
            value, gate = self.up(x), self.gate(x)
        return x + self.down(value * nn.functional.silu(gate))


def swiglu(draw: Draw, shape: Shape) -> Drawn:
    return SwiGLU(shape.channels, draw.channels(), draw.chance(0.5)), shape


block("sequence", 3)(swiglu)
block("vector", 1)(swiglu)


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class Attention(nn.Module):
    """Self-attention with a residual; kv_heads below heads makes it grouped, 1 multi-query."""

    def __init__(
        self, channels: int, heads: int, kv_heads: int, head_dim: int, rotary: bool, fused: bool
    ) -> None:
        super().__init__()
        self.num_heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.num_groups, self.rotary, self.fused = heads // kv_heads, rotary, fused
        self.q = nn.Linear(channels, heads * head_dim)
        self.k, self.v = (nn.Linear(channels, kv_heads * head_dim) for _ in range(2))
        self.o = nn.Linear(heads * head_dim, channels)
        self.register_buffer("frequency", 1.0 / 50 ** (torch.arange(0, head_dim, 2) / head_dim))

    def repeat(self, x: Tensor) -> Tensor:
        b, k, t, d = x.shape
        return x[:, :, None].expand(b, k, self.num_groups, t, d).reshape(b, k * self.num_groups, t, d)

    def forward(self, x_BTE: Tensor) -> Tensor:
        b, t, _ = x_BTE.shape
        q, k, v = (f(x_BTE).view(b, t, -1, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.rotary:
            angle = torch.arange(t)[:, None] * self.frequency
            angle = torch.cat((angle, angle), -1)
            q, k = (z * angle.cos() + rotate_half(z) * angle.sin() for z in (q, k))
        if self.num_groups > 1:
            k, v = self.repeat(k), self.repeat(v)
        if self.fused:
            y = scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1) @ v
        return x_BTE + self.o(y.transpose(1, 2).reshape(b, t, -1))


@block("sequence", 4)
def attention(draw: Draw, shape: Shape) -> Drawn:
    kv_heads, groups = draw.choice([(2, 1), (3, 1), (4, 1), (2, 2), (4, 2), (1, 3)])
    head_dim, rotary = draw.choice([4, 6, 8]), draw.chance(0.4)
    return Attention(shape.channels, kv_heads * groups, kv_heads, head_dim, rotary, draw.chance(0.5)), shape


class FusedAttention(nn.Module):
    """One qkv layer; heads first or qkv first, sizes from attributes or from the shape."""

    def __init__(self, channels: int, heads: int, head_dim: int, order: str) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.order = heads, head_dim, order
        self.qkv, self.o = nn.Linear(channels, 3 * heads * head_dim), nn.Linear(heads * head_dim, channels)

    def forward(self, x_BTE: Tensor) -> Tensor:
        b, t, _ = x_BTE.shape
        y = self.qkv(x_BTE)
        if self.order == "qkv first":
            q, k, v = y.reshape(b, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        elif self.order == "heads first":
            q, k, v = y.reshape(b, t, self.num_heads, 3 * self.head_dim).transpose(1, 2).chunk(3, -1)
        else:
            pieces = y.chunk(3, dim=-1)
            q, k, v = (
                z.view(b, t, self.num_heads, z.shape[-1] // self.num_heads).transpose(1, 2) for z in pieces
            )
        return x_BTE + self.o(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@block("sequence", 3)
def fused_attention(draw: Draw, shape: Shape) -> Drawn:
    order = draw.choice(["qkv first", "heads first", "from shape"])
    return FusedAttention(shape.channels, draw.choice([2, 3, 4]), draw.choice([4, 5, 6]), order), shape


class ModuleAttention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(x, x, x, need_weights=False)[0]


@block("sequence", 2)
def module_attention(draw: Draw, shape: Shape) -> Drawn:
    heads, head_dim = draw.choice([2, 4]), draw.choice([4, 6])
    layers: list[nn.Module] = [nn.Linear(shape.channels, heads * head_dim)]
    if draw.chance(0.5):
        layers.append(ModuleAttention(heads * head_dim, heads))
    else:
        layer = nn.TransformerEncoderLayer(heads * head_dim, heads, draw.channels(), batch_first=True)
        layer.norm_first = draw.chance(0.5)
        layers.append(layer)
    return nn.Sequential(*layers), shape.with_channels(heads * head_dim)


class Recurrent(nn.Module):
    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


@block("sequence", 2)
def recurrent(draw: Draw, shape: Shape) -> Drawn:
    hidden, both = draw.randint(4, 12), draw.chance(0.4)
    kind = draw.choice([nn.LSTM, nn.GRU, nn.RNN])
    layer = kind(shape.channels, hidden, draw.randint(1, 2), batch_first=True, bidirectional=both)
    return Recurrent(layer), shape.with_channels(hidden * (1 + both))


class OverTime(nn.Module):
    """A one-dimensional convolution over the tokens."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_BTE: Tensor) -> Tensor:
        return self.layer(x_BTE.transpose(1, 2)).transpose(1, 2)


@block("sequence", 2)
def over_time(draw: Draw, shape: Shape) -> Drawn:
    if draw.chance(0.4):
        layer = nn.Conv1d(shape.channels, shape.channels, 3, padding=1, groups=shape.channels)
        return OverTime(layer), shape
    width = draw.channels()
    return OverTime(nn.Conv1d(shape.channels, width, 3, padding=1)), shape.with_channels(width)


class Positions(nn.Module):
    def __init__(self, length: int, channels: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, length, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[:, : x.shape[1]]


@block("sequence", 1)
def positions(draw: Draw, shape: Shape) -> Drawn:
    return Positions(shape.length, shape.channels), shape


class Mixture(nn.Module):
    """Experts of different hidden sizes, weighed by a softmax over the experts."""

    def __init__(self, channels: int, hidden: list[int]) -> None:
        super().__init__()
        self.gate = nn.Linear(channels, len(hidden))
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, h), nn.GELU(), nn.Linear(h, channels)) for h in hidden
        )

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(-1)
        return x + sum(expert(x) * weights[..., i, None] for i, expert in enumerate(self.experts))


def mixture(draw: Draw, shape: Shape) -> Drawn:
    return Mixture(shape.channels, [draw.channels() for _ in range(draw.randint(2, 3))]), shape


block("sequence", 1)(mixture)
block("vector", 1)(mixture)


class Outer(nn.Module):
    """Two axes broadcast into a plane, flattened, and read by one layer."""

    def __init__(self, channels: int, a: int, b: int, width: int) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(channels, a), nn.Linear(channels, b), nn.Linear(a * b, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.a(x)[:, :, None] * self.b(x)[:, None]).flatten(1))


@block("vector", 1)
def outer(draw: Draw, shape: Shape) -> Drawn:
    width = draw.channels()
    return Outer(shape.channels, draw.randint(3, 6), draw.randint(3, 6), width), shape.with_channels(width)
