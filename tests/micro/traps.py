"""Where a removed unit would not have been silent: a plan that calls itself exact here must have seen it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ._registry import Built, micro


class Reduced(nn.Module):
    """Channels reduced to a map that gates a second branch."""

    def __init__(self, reduce: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.reduce = reduce
        self.stem, self.mid, self.head = (
            nn.Conv2d(3, 14, 1),
            nn.Conv2d(3, 10, 3, padding=1),
            nn.Conv2d(10, 5, 1),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        gate_B1HW = self.reduce(self.stem(x_BCHW))
        return self.head(self.mid(x_BCHW).relu() * gate_B1HW)


def reduced(reduce: Callable[[Tensor], Tensor]) -> Built:
    return Reduced(reduce), (torch.randn(2, 3, 4, 5),), {}


def channel_sum(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.relu().sum(1, keepdim=True)


def channel_mean(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.mean(1, keepdim=True)


def channel_max(x_BCHW: Tensor) -> Tensor:
    return (x_BCHW - 3.0).amax(1, keepdim=True)


def channel_sigmoid_sum(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.sigmoid().sum(1, keepdim=True)


def channel_variance(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.var(1, keepdim=True)


def channel_product(x_BCHW: Tensor) -> Tensor:
    return (0.1 * x_BCHW + 1).prod(1, keepdim=True)


def channel_softmax(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.softmax(1).square().sum(1, keepdim=True)


def channel_argmax(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.argmax(1, keepdim=True).to(x_BCHW.dtype) - 5.0


def channel_cumsum(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.cumsum(1).tanh().sum(1, keepdim=True)


def channel_sort(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.sort(1).values[:, 3:4]


HALF = {"stem.weight": 0, "mid.weight": 0, "head.weight": 1}
REST = {"mid.weight": 0, "head.weight": 1}


@micro("sum_over_channels", halved=HALF)
def sum_over_channels() -> Built:
    return reduced(channel_sum)


@micro("mean_over_channels", halved=HALF, frozen="mean", either=True, exact=None)
def mean_over_channels() -> Built:
    """The divisor is the channel count: not exact unless it is made up for."""
    return reduced(channel_mean)


@micro("max_over_channels", halved=HALF, frozen="max", either=True, exact=None)
def max_over_channels() -> Built:
    return reduced(channel_max)


@micro("sum_of_sigmoids", halved=HALF, frozen="sigmoid|sum", either=True, exact=None)
def sum_of_sigmoids() -> Built:
    """A silent channel still adds one half."""
    return reduced(channel_sigmoid_sum)


@micro("variance_over_channels", halved=HALF, frozen="var", either=True, exact=None)
def variance_over_channels() -> Built:
    return reduced(channel_variance)


@micro("product_over_channels", halved=HALF, frozen="prod", either=True, exact=None)
def product_over_channels() -> Built:
    """0.1 x 0 + 1 is the neutral element, but only by luck of the constants."""
    return reduced(channel_product)


@micro("softmax_over_channels", halved=REST, whole={"stem.weight": 0}, frozen="softmax")
def softmax_over_channels() -> Built:
    return reduced(channel_softmax)


@micro("argmax_over_channels", halved=REST, whole={"stem.weight": 0}, frozen="argmax|index|arg")
def argmax_over_channels() -> Built:
    """The channel's number is the value: nothing may go."""
    return reduced(channel_argmax)


@micro("cumsum_over_channels", halved=HALF, frozen="cumsum", either=True, exact=None)
def cumsum_over_channels() -> Built:
    return reduced(channel_cumsum)


@micro("sort_over_channels", halved=REST, whole={"stem.weight": 0}, frozen="sort")
def sort_over_channels() -> Built:
    return reduced(channel_sort)


class ChannelIndices(nn.Module):
    """arange over the channel count: its values change with the size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 14), nn.Linear(14, 5)
        self.mid, self.out = nn.Linear(6, 10), nn.Linear(10, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        y_BC = self.stem(x_BF)
        phase_C = torch.arange(y_BC.shape[-1], dtype=y_BC.dtype) / y_BC.shape[-1]
        return self.head(y_BC * phase_C) + self.out(self.mid(x_BF).relu())


@micro("arange_of_size", halved={"mid.weight": 0, "out.weight": 1}, frozen="arange|constant", exact=None)
def arange_of_size() -> Built:
    return ChannelIndices(), (torch.randn(2, 6),), {}


class LinearAttention(nn.Module):
    """elu(q) + 1: a removed feature would have counted as one in both the sum and the contraction."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (
            nn.Linear(6, 14),
            nn.Linear(6, 14),
            nn.Linear(6, 10),
            nn.Linear(10, 5),
        )

    def forward(self, x_BTF: Tensor) -> Tensor:
        q_BTD, k_BTD = (nn.functional.elu(f(x_BTF)) + 1 for f in (self.q, self.k))
        kv_BDU = k_BTD.mT @ self.v(x_BTF)
        return self.o(q_BTD @ kv_BDU / (q_BTD * k_BTD.sum(1, keepdim=True)).sum(-1, keepdim=True))


@micro(
    "linear_attention",
    halved={"v.weight": 0, "o.weight": 1},
    exact=None,
)
def linear_attention() -> Built:
    return LinearAttention(), (torch.randn(2, 3, 6),), {}


class SizeAsValue(nn.Module):
    """The channel count itself enters the arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 14), nn.Linear(14, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        y_BC = self.stem(x_BF).relu()
        return self.head(y_BC) / y_BC.shape[1] ** 0.5


@micro(
    "size_as_value",
    halved={"stem.weight": 0, "head.weight": 1},
    frozen="size|shape|scale|constant",
    either=True,
    exact=None,
)
def size_as_value() -> Built:
    """1/sqrt(C): made up for in the weights, reported as not exact, or left whole."""
    return SizeAsValue(), (torch.randn(2, 6),), {}


class SelfOuter(nn.Module):
    """One axis against itself (a Gram matrix, flattened): C x C, both factors the same axis."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(64, 5)
        self.mid, self.out = nn.Linear(6, 14), nn.Linear(14, 5)

    def forward(self, x_BTF: Tensor) -> Tensor:
        y_BTC = self.stem(x_BTF)
        gram_BCC = y_BTC.mT @ y_BTC
        return self.head(gram_BCC.flatten(1)) + self.out(self.mid(x_BTF).relu().mean(1))


@micro(
    "gram_matrix",
    halved={"stem.weight": 0, "mid.weight": 0},
    frozen="gram|itself|same axis|product",
    either=True,
)
def gram_matrix() -> Built:
    return SelfOuter(), (torch.randn(2, 3, 6),), {}
