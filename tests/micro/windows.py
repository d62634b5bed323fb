"""Window attention as Swin writes it: windows, shifts, a position table, `C // num_heads` from a shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._registry import Built, micro

SIDE = 2


def partition(x_BHWC: Tensor) -> Tensor:
    b, h, w, c = x_BHWC.shape
    x = x_BHWC.view(b, h // SIDE, SIDE, w // SIDE, SIDE, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, SIDE * SIDE, c)


def reverse(x_NTC: Tensor, h: int, w: int) -> Tensor:
    b = int(x_NTC.shape[0] / (h * w / SIDE / SIDE))
    x = x_NTC.view(b, h // SIDE, w // SIDE, SIDE, SIDE, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)


class WindowAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table_PH = nn.Parameter(torch.randn((2 * SIDE - 1) ** 2, heads))
        steps = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")).flatten(1)
        offsets = (steps[:, :, None] - steps[:, None, :] + SIDE - 1).permute(1, 2, 0)
        self.register_buffer("index_TT", offsets[..., 0] * (2 * SIDE - 1) + offsets[..., 1])

    def forward(self, x_NTC: Tensor) -> Tensor:
        n, t, c = x_NTC.shape
        qkv = self.qkv(x_NTC).reshape(n, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.table_PH[self.index_TT.view(-1)].view(t, t, -1).permute(2, 0, 1).contiguous()
        weights = (scores + bias.unsqueeze(0)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, t, c))


class WindowBlock(nn.Module):
    def __init__(self, shift: int, norm: bool) -> None:
        super().__init__()
        self.shift = shift
        self.patch = nn.Conv2d(3, 24, 2, stride=2)
        self.norm = nn.LayerNorm(24) if norm else nn.Identity()
        self.attn = WindowAttention(24, 4)
        self.merge = nn.Linear(96, 14, bias=False)
        self.head = nn.Linear(14, 5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = self.patch(x_BCHW).permute(0, 2, 3, 1)
        _, h, w, _ = x.shape
        y = torch.roll(self.norm(x), (-self.shift, -self.shift), (1, 2)) if self.shift else self.norm(x)
        y = reverse(self.attn(partition(y)), h, w)
        x = x + (torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y)
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.head(self.merge(x).flatten(1, 2).mean(1))


BLOCK = {
    "patch.weight": 0,
    "attn.qkv.weight": (0, 1),
    "attn.proj.weight": (0, 1),
    "merge.weight": (0, 1),
    "head.weight": 1,
}


@micro("window_attention", halved=BLOCK, whole={"attn.table_PH": 0})
def window_attention() -> Built:
    """The head size is the count of another axis divided by num_heads: coupled by size, not by index."""
    return WindowBlock(0, False), (torch.randn(2, 3, 8, 8),), {}


@micro(
    "shifted_window_attention",
    halved={**BLOCK, "norm.weight": 0},
    whole={"attn.table_PH": 0},
    exact=False,
    norms_only=True,
)
def shifted_window_attention() -> Built:
    return WindowBlock(1, True), (torch.randn(2, 3, 8, 8),), {}


class GridAttention(nn.Module):
    """MaxViT's grid: the same channels, windows taken with a stride; head_dim fixed, heads from the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim = 6
        self.patch = nn.Conv2d(3, 24, 1)
        self.qkv, self.proj, self.head = nn.Linear(24, 72), nn.Linear(24, 24), nn.Conv2d(24, 5, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = self.patch(x_BCHW)
        b, c, h, w = x.shape
        y = (
            x.view(b, c, SIDE, h // SIDE, SIDE, w // SIDE)
            .permute(0, 3, 5, 2, 4, 1)
            .reshape(-1, SIDE * SIDE, c)
        )
        n, t, _ = y.shape
        q, k, v = torch.chunk(self.qkv(y), 3, dim=-1)
        q, k, v = (z.reshape(n, t, c // self.head_dim, self.head_dim).transpose(1, 2) for z in (q, k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c)
        y = self.proj(y).reshape(b, h // SIDE, w // SIDE, SIDE, SIDE, c).permute(0, 5, 3, 1, 4, 2)
        return self.head(x + y.reshape(b, c, h, w))


@micro(
    "grid_attention",
    halved={"patch.weight": 0, "qkv.weight": (0, 1), "proj.weight": (0, 1), "head.weight": 1},
)
def grid_attention() -> Built:
    return GridAttention(), (torch.randn(2, 3, 4, 4),), {}
