"""Normalisation: what is per channel stays exact, what takes a statistic over channels does not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._registry import Built, micro


def between_convs(norm: nn.Module, channels: int = 14) -> Built:
    layers = nn.Conv2d(3, channels, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(channels, 5, 3)
    return nn.Sequential(*layers), (torch.randn(2, 3, 5, 6),), {}


def between_linears(norm: nn.Module, channels: int = 14) -> Built:
    layers = nn.Linear(6, channels), norm, nn.GELU(), nn.Linear(channels, 5)
    return nn.Sequential(*layers), (torch.randn(2, 3, 6),), {}


AFFINE = {"0.weight": 0, "1.weight": 0, "1.bias": 0, "3.weight": 1}
PLAIN = {"0.weight": 0, "3.weight": 1}


@micro("batch_norm_without_affine", halved={"0.weight": 0, "1.running_mean": 0, "3.weight": 1})
def batch_norm_without_affine() -> Built:
    return between_convs(nn.BatchNorm2d(14, affine=False))


@micro("batch_norm_without_statistics", halved=AFFINE)
def batch_norm_without_statistics() -> Built:
    return between_convs(nn.BatchNorm2d(14, track_running_stats=False))


@micro("batch_norm_1d", halved=AFFINE)
def batch_norm_1d() -> Built:
    layers = nn.Linear(6, 14), nn.BatchNorm1d(14), nn.ReLU(), nn.Linear(14, 5)
    return nn.Sequential(*layers), (torch.randn(2, 6),), {}


@micro("layer_norm", halved=AFFINE, exact=False, norms_only=True)
def layer_norm() -> Built:
    return between_linears(nn.LayerNorm(14))


@micro("layer_norm_without_affine", halved=PLAIN, exact=False)
def layer_norm_without_affine() -> Built:
    return between_linears(nn.LayerNorm(14, elementwise_affine=False))


@micro(
    "layer_norm_without_bias",
    halved={"0.weight": 0, "1.weight": 0, "3.weight": 1},
    exact=False,
    norms_only=True,
)
def layer_norm_without_bias() -> Built:
    return between_linears(nn.LayerNorm(14, bias=False))


@micro(
    "layer_norm_over_chw", halved={"0.weight": 0, "1.weight": 0, "3.weight": 1}, exact=False, norms_only=True
)
def layer_norm_over_chw() -> Built:
    return between_convs(nn.LayerNorm((14, 5, 6)))


@micro("rms_norm", halved={"0.weight": 0, "1.weight": 0, "3.weight": 1}, exact=False, norms_only=True)
def rms_norm() -> Built:
    return between_linears(nn.RMSNorm(14))


class ChannelsFirstNorm(nn.Module):
    """ConvNeXt's norm over the channels of an NCHW image, by two permutes and the tensor's own shape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 14, 1), nn.Conv2d(14, 5, 1)
        self.weight, self.bias = nn.Parameter(torch.ones(14)), nn.Parameter(torch.zeros(14))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BHWC = self.stem(x_BCHW).permute(0, 2, 3, 1)
        x_BHWC = nn.functional.layer_norm(x_BHWC, self.weight.shape, self.weight, self.bias)
        return self.head(x_BHWC.permute(0, 3, 1, 2).relu())


@micro("layer_norm_2d", halved={"stem.weight": 0, "weight": 0, "bias": 0, "head.weight": 1}, exact=False)
def layer_norm_2d() -> Built:
    return ChannelsFirstNorm(), (torch.randn(2, 3, 3, 4),), {}


class LiteralNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Linear(6, 14), nn.Linear(14, 10), nn.Linear(10, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.head(self.mid(nn.functional.layer_norm(self.stem(x_BF), (14,))).relu())


@micro(
    "layer_norm_literal",
    halved={"mid.weight": 0, "head.weight": 1},
    whole={"stem.weight": 0, "mid.weight": 1},
    frozen="layer_norm|literal|constant|14",
)
def layer_norm_literal() -> Built:
    return LiteralNorm(), (torch.randn(2, 6),), {}


class HandmadeRMS(nn.Module):
    """Llama's norm, written out: the mean over channels changes when channels go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 14), nn.Linear(14, 5)
        self.scale = nn.Parameter(torch.ones(14))

    def forward(self, x_BF: Tensor) -> Tensor:
        x_BF = self.stem(x_BF)
        x_BF = x_BF * torch.rsqrt(x_BF.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.head(self.scale * x_BF)


@micro("rms_norm_by_hand", halved={"stem.weight": 0, "scale": 0, "head.weight": 1}, exact=False)
def rms_norm_by_hand() -> Built:
    return HandmadeRMS(), (torch.randn(2, 6),), {}


class UnitLength(nn.Module):
    """Division by the Euclidean norm: a sum of squares does not miss what is zero, so this one is exact."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 14), nn.Linear(14, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.head(nn.functional.normalize(self.stem(x_BF), dim=-1))


@micro("unit_length", halved={"stem.weight": 0, "head.weight": 1}, exact=None)
def unit_length() -> Built:
    return UnitLength(), (torch.randn(2, 6),), {}


@micro(
    "group_norm",
    halved={"0.weight": 0, "1.weight": 0, "1.bias": 0, "3.weight": 1},
    exact=None,
    norms_only=True,
)
def group_norm() -> Built:
    """4 groups of 6: two whole groups may go (exact), or three channels of each (not)."""
    return between_convs(nn.GroupNorm(4, 24), 24)


@micro("group_norm_one_group", halved=AFFINE, exact=False, norms_only=True)
def group_norm_one_group() -> Built:
    return between_convs(nn.GroupNorm(1, 14))


@micro("group_norm_per_channel", halved=AFFINE)
def group_norm_per_channel() -> Built:
    return between_convs(nn.GroupNorm(14, 14))


class GroupNormResidual(nn.Module):
    """Two norms of different group counts on one residual stream, and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 1)
        self.norm1, self.norm2 = nn.GroupNorm(4, 24), nn.GroupNorm(8, 24)
        self.conv = nn.Conv2d(24, 24, 3, padding=1, groups=4)
        self.head = nn.Conv2d(24, 5, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.stem(x_BCHW)
        x_BCHW = x_BCHW + self.conv(self.norm1(x_BCHW).relu())
        return self.head(self.norm2(x_BCHW).relu())


@micro(
    "group_norm_residual",
    halved={"stem.weight": 0, "norm1.weight": 0, "norm2.weight": 0, "conv.weight": 0, "head.weight": 1},
    exact=None,
    norms_only=True,
)
def group_norm_residual() -> Built:
    return GroupNormResidual(), (torch.randn(2, 3, 4, 4),), {}


@micro("instance_norm", halved=AFFINE)
def instance_norm() -> Built:
    return between_convs(nn.InstanceNorm2d(14, affine=True))


@micro("instance_norm_plain", halved=PLAIN)
def instance_norm_plain() -> Built:
    return between_convs(nn.InstanceNorm2d(14))


@micro("instance_norm_statistics", halved={**AFFINE, "1.running_mean": 0, "1.running_var": 0})
def instance_norm_statistics() -> Built:
    return between_convs(nn.InstanceNorm2d(14, affine=True, track_running_stats=True))


@micro(
    "local_response_norm",
    halved=PLAIN,
    frozen="response|neighbour|window|pool|pad|unfold",
    either=True,
    exact=None,
)
def local_response_norm() -> Built:
    """A channel is divided by its neighbours: removing some brings others closer, so never exact."""
    return between_convs(nn.LocalResponseNorm(3, alpha=0.5))


class BiasedNormAdd(nn.Module):
    """Layer norm beside a skip: the stream is scored by all of its writers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 16), nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 22), nn.Linear(22, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x_BTF: Tensor) -> Tensor:
        x_BTE = self.embed(x_BTF)
        x_BTE = x_BTE + self.down(nn.functional.gelu(self.up(self.norm(x_BTE))))
        return self.head(x_BTE)


@micro(
    "pre_norm_residual",
    halved={
        "embed.weight": 0,
        "norm.weight": 0,
        "up.weight": (0, 1),
        "down.weight": (0, 1),
        "head.weight": 1,
    },
    exact=False,
    norms_only=True,
)
def pre_norm_residual() -> Built:
    return BiasedNormAdd(), (torch.randn(2, 3, 6),), {}
