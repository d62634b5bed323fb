"""Slices and indexing: bounds from attributes, from shapes, literal, strided, and by constant tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._registry import Built, micro


class SliceByAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cut = 6
        self.stem = nn.Linear(4, 22)
        self.a, self.b = nn.Linear(6, 5), nn.Linear(16, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        x_BF = self.stem(x_BF).relu()
        return self.a(x_BF[:, : self.cut]) + self.b(x_BF[:, self.cut :])


@micro("slice_attribute", halved={"stem.weight": 0, "a.weight": 1, "b.weight": 1})
def slice_attribute() -> Built:
    return SliceByAttribute(), (torch.randn(2, 4),), {}


class SliceByNegativeAttribute(SliceByAttribute):
    def forward(self, x_BF: Tensor) -> Tensor:
        x_BF = self.stem(x_BF).relu()
        return self.a(x_BF[..., -self.cut :]) + self.b(x_BF[..., : -self.cut])


@micro("slice_negative_attribute", halved={"stem.weight": 0, "a.weight": 1, "b.weight": 1})
def slice_negative_attribute() -> Built:
    return SliceByNegativeAttribute(), (torch.randn(2, 4),), {}


class SliceFromShape(nn.Module):
    """Two halves by `shape // 2`: bounds adapt, and tie the halves in size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 1)
        self.a, self.b = nn.Conv2d(10, 5, 3), nn.Conv2d(10, 5, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.stem(x_BCHW).tanh()
        half = x_BCHW.shape[1] // 2
        return self.a(x_BCHW[:, :half]) + self.b(x_BCHW[:, half:])


@micro("slice_half_of_shape", halved={"stem.weight": 0, "a.weight": 1, "b.weight": 1})
def slice_half_of_shape() -> Built:
    return SliceFromShape(), (torch.randn(2, 3, 5, 5),), {}


class SliceLiteral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 1)
        self.a, self.b = nn.Conv2d(8, 5, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.stem(x_BCHW).relu()
        return self.a(x_BCHW[:, :8]) + self.b(x_BCHW[:, 8:])


@micro(
    "slice_literal",
    halved={"b.weight": 1},
    whole={"a.weight": 1},
    frozen="slice|literal|constant|index",
)
def slice_literal() -> Built:
    """The first 8 are fixed by the number in the code; what comes after them may shrink."""
    return SliceLiteral(), (torch.randn(2, 3, 5, 5),), {}


class SliceNegativeLiteral(SliceLiteral):
    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.stem(x_BCHW).relu()
        return self.a(x_BCHW[:, -8:]) + self.b(x_BCHW[:, :-8])


@micro(
    "slice_negative_literal",
    halved={"b.weight": 1},
    whole={"a.weight": 1},
    frozen="slice|literal|constant|index",
)
def slice_negative_literal() -> Built:
    return SliceNegativeLiteral(), (torch.randn(2, 3, 5, 5),), {}


class SliceUnused(nn.Module):
    """Only the middle of the channels is read; the rest of the stem feeds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = 4, 14
        self.stem, self.head = nn.Linear(6, 20), nn.Linear(10, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.head(self.stem(x_BF).narrow(1, self.low, self.high - self.low).relu())


@micro(
    "narrow_attribute",
    halved={"stem.weight": 0, "head.weight": 1},
    frozen="slice|narrow|literal|attribute",
    either=True,
    slack=2,
)
def narrow_attribute() -> Built:
    return SliceUnused(), (torch.randn(2, 6),), {}


class Strided(nn.Module):
    """Even and odd channels: the axis is C/2 x 2, and pairs go together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(6, 20), nn.Linear(10, 5), nn.Linear(10, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        x_BF = self.stem(x_BF)
        return self.a(x_BF[:, ::2]) + self.b(x_BF[:, 1::2].relu())


@micro(
    "slice_strided",
    halved={"stem.weight": 0, "a.weight": 1, "b.weight": 1},
    frozen="strid|step|slice",
    either=True,
)
def slice_strided() -> Built:
    return Strided(), (torch.randn(2, 6),), {}


class SpatialSlices(nn.Module):
    """YOLO's Focus: slices with a step on spatial dimensions, joined over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(40, 14, 1)
        self.head = nn.Conv2d(14, 5, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = self.stem(x_BCHW).relu()
        x = torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), 1)
        return self.head(self.conv(x)[:, :, 1:-1])


@micro("focus_slices", halved={"stem.weight": 0, "conv.weight": (0, 1), "head.weight": 1})
def focus_slices() -> Built:
    return SpatialSlices(), (torch.randn(2, 3, 6, 8),), {}


class IndexedByConstant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 14), nn.Linear(4, 5)
        self.mid, self.out = nn.Linear(6, 18), nn.Linear(18, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.head(self.stem(x_BF)[:, [0, 5, 2, 11]]) + self.out(self.mid(x_BF).relu())


@micro(
    "indexed_by_constant",
    halved={"mid.weight": 0, "out.weight": 1},
    whole={"stem.weight": 0, "head.weight": 1},
    frozen="index",
)
def indexed_by_constant() -> Built:
    return IndexedByConstant(), (torch.randn(2, 6),), {}


class PermutedByBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 14, 1), nn.Conv2d(14, 5, 1)
        self.after = nn.Conv2d(5, 5, 1)
        self.register_buffer("order_C", torch.randperm(14))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.after(self.head(self.stem(x_BCHW).index_select(1, self.order_C)).relu())


@micro(
    "permuted_by_buffer",
    halved={"head.weight": (0, 1), "after.weight": 1},
    whole={"stem.weight": 0},
    frozen="index",
    slack=1,
)
def permuted_by_buffer() -> Built:
    return PermutedByBuffer(), (torch.randn(2, 3, 4, 4),), {}


class Unbound(nn.Module):
    """unbind and integer indexing take single positions of an axis: that axis stays, the others go on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(6, 14), nn.Linear(14, 5), nn.Linear(14, 5)

    def forward(self, x_BTF: Tensor) -> Tensor:
        x_BTF = self.stem(x_BTF).relu()
        first_BF, _, last_BF = x_BTF.unbind(1)
        return self.a(first_BF) + self.b(last_BF) + self.a(x_BTF[:, -1])


@micro("unbind_positions", halved={"stem.weight": 0, "a.weight": 1, "b.weight": 1})
def unbind_positions() -> Built:
    return Unbound(), (torch.randn(2, 3, 6),), {}


class UnboundChannels(nn.Module):
    """Single channels picked out: nothing of that axis may go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Linear(6, 3), nn.Linear(6, 16), nn.Linear(16, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        a_B, b_B, c_B = self.stem(x_BF).unbind(-1)
        return self.head(self.mid(x_BF).relu()) * (a_B * b_B + c_B)[:, None]


@micro(
    "unbind_channels",
    halved={"mid.weight": 0, "head.weight": 1},
    whole={"stem.weight": 0},
    frozen="unbind|index|select|position|literal",
)
def unbind_channels() -> Built:
    return UnboundChannels(), (torch.randn(2, 6),), {}


class RollFlip(nn.Module):
    def __init__(self, spatial: bool) -> None:
        super().__init__()
        self.spatial = spatial
        self.stem, self.mid = nn.Conv2d(3, 10, 1), nn.Conv2d(10, 16, 3)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.spatial:
            x_BCHW = self.stem(x_BCHW).roll((1, -2), (2, 3)).flip(-1)
        else:
            x_BCHW = self.stem(x_BCHW).roll(3, 1).flip(1)
        return self.head(self.mid(x_BCHW).relu())


@micro("roll_flip_spatial", halved={"stem.weight": 0, "mid.weight": (0, 1), "head.weight": 1})
def roll_flip_spatial() -> Built:
    return RollFlip(True), (torch.randn(2, 3, 5, 6),), {}


class Flip(nn.Module):
    """The channels come out in reverse: index c of the producer is index C-1-c of the consumer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 18), nn.Linear(18, 5)
        self.mid, self.out = nn.Linear(6, 14), nn.Linear(14, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.head(self.stem(x_BF).flip(1)) + self.out(self.mid(x_BF).relu())


@micro(
    "flip_channels",
    halved={"stem.weight": 0, "head.weight": 1, "mid.weight": 0},
    frozen="flip|revers",
    either=True,
)
def flip_channels() -> Built:
    return Flip(), (torch.randn(2, 6),), {}


class FlipAdd(nn.Module):
    """A tensor added to its own flip: c and C-1-c must go together, or the axis stays."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 16), nn.Linear(16, 5)
        self.mid, self.out = nn.Linear(6, 14), nn.Linear(14, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        a_BF = self.stem(x_BF)
        return self.head(a_BF + a_BF.flip(-1)) + self.out(self.mid(x_BF).relu())


@micro(
    "flip_added_to_itself",
    halved={"stem.weight": 0, "head.weight": 1, "mid.weight": 0},
    frozen="flip|revers",
    either=True,
)
def flip_added_to_itself() -> Built:
    return FlipAdd(), (torch.randn(2, 6),), {}


class RollChannels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = 5
        self.stem, self.head = nn.Linear(6, 18), nn.Linear(18, 5)
        self.mid, self.out = nn.Linear(6, 14), nn.Linear(14, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.head(self.stem(x_BF).roll(self.shift, dims=-1)) + self.out(self.mid(x_BF).relu())


@micro(
    "roll_channels",
    halved={"stem.weight": 0, "head.weight": 1, "mid.weight": 0},
    frozen="roll|shift",
    either=True,
    slack=1,
)
def roll_channels() -> Built:
    """Rolling is concat(tail, head): prunable only if the shift is cut with the tail."""
    return RollChannels(), (torch.randn(2, 6),), {}
