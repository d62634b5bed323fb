"""Joins and cuts: residual and dense connections, concat, stack, split, chunk and slices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._registry import Built, micro


def image(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 6, 6)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 14, 3, padding=1)
        self.bn0 = nn.BatchNorm2d(14)
        self.conv1 = nn.Conv2d(14, 10, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(10)
        self.conv2 = nn.Conv2d(10, 14, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(14)
        self.fc = nn.Linear(14, 5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.bn0(self.stem(x_BCHW)).relu()
        y_BCHW = self.bn1(self.conv1(x_BCHW)).relu_()
        x_BCHW = (self.bn2(self.conv2(y_BCHW)) + x_BCHW).relu()
        return self.fc(x_BCHW.mean((2, 3)))


@micro(
    "residual",
    halved={
        "stem.weight": 0,
        "conv1.weight": (0, 1),
        "conv2.weight": (0, 1),
        "bn2.weight": 0,
        "fc.weight": 1,
    },
)
def residual() -> Built:
    return Residual(), (image(),), {}


class Downsampling(nn.Module):
    """A projection on the shortcut, and an in-place add."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 18, 3, stride=2, padding=1)
        self.short = nn.Sequential(nn.Conv2d(12, 18, 1, stride=2, bias=False), nn.BatchNorm2d(18))
        self.head = nn.Conv2d(18, 5, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.conv1(x_BCHW).relu()
        y_BCHW = self.conv2(x_BCHW)
        y_BCHW += self.short(x_BCHW)
        return self.head(y_BCHW.relu())


@micro(
    "residual_projection",
    halved={
        "conv1.weight": 0,
        "conv2.weight": (0, 1),
        "short.0.weight": (0, 1),
        "short.1.bias": 0,
        "head.weight": 1,
    },
)
def residual_projection() -> Built:
    return Downsampling(), (image(),), {}


class ResidualToInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(6, 16, 1), nn.Conv2d(16, 6, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.down(self.up(x_BCHW).relu())


@micro(
    "residual_to_input",
    halved={"up.weight": 0, "down.weight": 1},
    whole={"up.weight": 1, "down.weight": 0},
    frozen="input|output",
)
def residual_to_input() -> Built:
    return ResidualToInput(), (image(6),), {}


class Dense(nn.Module):
    """A DenseNet block: every layer reads the concatenation of all the earlier ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (10, 16, 22, 28))
        self.convs = nn.ModuleList(nn.Conv2d(c, 6, 3, padding=1) for c in (10, 16, 22))
        self.fc = nn.Linear(28, 5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        features = [self.stem(x_BCHW)]
        for norm, conv in zip(self.norms, self.convs, strict=False):
            features.append(conv(norm(torch.cat(features, 1)).relu()))
        x_BCHW = self.norms[-1](torch.cat(features, dim=-3))
        return self.fc(x_BCHW.amax((-1, -2)))


@micro(
    "densenet_block",
    halved={
        "stem.weight": 0,
        "convs.0.weight": (0, 1),
        "convs.2.weight": (0, 1),
        "norms.3.weight": 0,
        "fc.weight": 1,
    },
)
def densenet_block() -> Built:
    return Dense(), (image(),), {}


class Concat(nn.Module):
    def __init__(self, dim: int, with_input: bool = False) -> None:
        super().__init__()
        self.dim, self.with_input = dim, with_input
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 14, 1)
        self.bn = nn.BatchNorm2d(22 + 3 * with_input)
        self.head = nn.Conv2d(22 + 3 * with_input, 5, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        parts = [self.a(x_BCHW), self.b(x_BCHW)] + [x_BCHW] * self.with_input
        return self.head(self.bn(torch.cat(parts, dim=self.dim)).relu())


@micro("concat", halved={"a.weight": 0, "b.weight": 0, "bn.weight": 0, "head.weight": 1})
def concat() -> Built:
    return Concat(1), (image(),), {}


@micro("concat_negative_dim", halved={"a.weight": 0, "b.weight": 0, "bn.running_mean": 0, "head.weight": 1})
def concat_negative_dim() -> Built:
    return Concat(-3), (image(),), {}


@micro("concat_with_input", halved={"a.weight": 0, "b.weight": 0}, whole={"a.weight": 1}, frozen="input")
def concat_with_input() -> Built:
    """Three of the head's 25 inputs are the image itself and stay."""
    return Concat(1, with_input=True), (image(),), {}


class ConcatOfShared(nn.Module):
    """One feature twice in a concatenation: both copies lose the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 10), nn.Linear(6, 16), nn.Linear(36, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        a_BF = self.a(x_BF)
        return self.head(torch.hstack([a_BF.relu(), self.b(x_BF), a_BF.tanh()]))


@micro("concat_same_twice", halved={"a.weight": 0, "b.weight": 0, "head.weight": 1})
def concat_same_twice() -> Built:
    return ConcatOfShared(), (torch.randn(2, 6),), {}


class Stack(nn.Module):
    """Stack makes a new axis of size 2; a sum or a weight over it keeps the channels coupled."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.a, self.b, self.head = nn.Linear(6, 14), nn.Linear(6, 14), nn.Linear(14, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.head(torch.stack([self.a(x_BF), self.b(x_BF).relu()], dim=self.dim).sum(self.dim))


@micro("stack", halved={"a.weight": 0, "b.weight": 0, "head.weight": 1})
def stack() -> Built:
    return Stack(1), (torch.randn(2, 6),), {}


@micro("stack_negative_dim", halved={"a.weight": 0, "b.weight": 0, "head.weight": 1})
def stack_negative_dim() -> Built:
    return Stack(-1), (torch.randn(2, 6),), {}


class StackFlatten(nn.Module):
    """Channels interleaved by stack and flatten: the consumer's inputs are C x 2."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 14), nn.Linear(6, 14), nn.Linear(28, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.head(torch.stack([self.a(x_BF), self.b(x_BF)], dim=2).flatten(1).relu())


@micro("stack_interleaved", halved={"a.weight": 0, "b.weight": 0, "head.weight": 1})
def stack_interleaved() -> Built:
    return StackFlatten(), (torch.randn(2, 6),), {}


class SplitBySizes(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.sizes = dim, [6, 10, 8]
        self.stem = nn.Conv2d(3, 24, 1)
        self.heads = nn.ModuleList(nn.Conv2d(c, 5, 3) for c in (6, 10, 8))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        parts = self.stem(x_BCHW).relu().split(self.sizes, dim=self.dim)
        return sum(head(part) for head, part in zip(self.heads, parts, strict=True))


@micro(
    "split_sizes", halved={"stem.weight": 0, "heads.0.weight": 1, "heads.1.weight": 1, "heads.2.weight": 1}
)
def split_sizes() -> Built:
    return SplitBySizes(1), (image(),), {}


@micro(
    "split_sizes_negative_dim",
    halved={"stem.weight": 0, "heads.0.weight": 1, "heads.1.weight": 1, "heads.2.weight": 1},
)
def split_sizes_negative_dim() -> Built:
    return SplitBySizes(-3), (image(),), {}


class SplitEqual(nn.Module):
    """YOLO's C2f: equal pieces, a chain on the last, and all of them joined again."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 8
        self.stem = nn.Conv2d(3, 16, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.head = nn.Conv2d(32, 5, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        parts = list(self.stem(x_BCHW).split((self.hidden, self.hidden), 1))
        parts.extend(block(parts[-1]) for block in self.blocks)
        return self.head(torch.cat(parts, 1))


@micro(
    "c2f", halved={"stem.weight": 0, "blocks.0.weight": (0, 1), "blocks.1.weight": (0, 1), "head.weight": 1}
)
def c2f() -> Built:
    return SplitEqual(), (image(),), {}


class Chunk(nn.Module):
    def __init__(self, dim: int, pieces: int, width: int) -> None:
        super().__init__()
        self.dim, self.pieces = dim, pieces
        self.stem = nn.Conv2d(3, width, 1)
        piece = -(-width // pieces)
        self.head = nn.ModuleList(nn.Conv2d(min(piece, width - i * piece), 5, 1) for i in range(pieces))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        parts = self.stem(x_BCHW).chunk(self.pieces, dim=self.dim)
        return sum(head(part.sigmoid()) for head, part in zip(self.head, parts, strict=True))


@micro("chunk", halved={"stem.weight": 0, "head.0.weight": 1, "head.1.weight": 1, "head.2.weight": 1})
def chunk() -> Built:
    """The pieces are different axes, but must stay of equal size."""
    return Chunk(1, 3, 24), (image(),), {}


@micro("chunk_negative_dim", halved={"stem.weight": 0, "head.0.weight": 1, "head.1.weight": 1})
def chunk_negative_dim() -> Built:
    return Chunk(-3, 2, 20), (image(),), {}


@micro(
    "chunk_uneven",
    halved={"stem.weight": 0},
    frozen="chunk|split|size|uneven|literal",
    either=True,
    slack=2,
)
def chunk_uneven() -> Built:
    """22 in 3 pieces are 8, 8, 6: sizes of a pruned cut must come out of the same rule."""
    return Chunk(1, 3, 22), (image(),), {}


class GatedLinearUnit(nn.Module):
    """chunk(2), one half gating the other: the two halves are one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 40), nn.Linear(20, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        value_BF, gate_BF = self.up(x_BF).chunk(2, dim=-1)
        return self.down(value_BF * torch.sigmoid(gate_BF))


@micro("glu_by_chunk", halved={"up.weight": 0, "down.weight": 1})
def glu_by_chunk() -> Built:
    return GatedLinearUnit(), (torch.randn(2, 6),), {}


@micro("glu_functional", halved={"0.weight": 0, "2.weight": 1})
def glu_functional() -> Built:
    return nn.Sequential(nn.Linear(6, 40), nn.GLU(), nn.Linear(20, 5)), (torch.randn(2, 6),), {}


class ShuffleUnit(nn.Module):
    """ShuffleNet v2: half of the channels pass, half go through the branch, then shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 1)
        self.branch = nn.Sequential(nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.head = nn.Conv2d(24, 5, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        left, right = self.stem(x_BCHW).chunk(2, dim=1)
        x_BCHW = torch.cat((left, self.branch(right)), dim=1)
        b, c, h, w = x_BCHW.size()
        x_BCHW = x_BCHW.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        return self.head(x_BCHW)


@micro("shufflenet_unit", halved={"stem.weight": 0, "branch.0.weight": (0, 1), "head.weight": 1})
def shufflenet_unit() -> Built:
    return ShuffleUnit(), (image(),), {}
