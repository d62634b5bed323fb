"""Convolutions: plain, grouped, depthwise and transposed, in one to three dimensions."""

from __future__ import annotations

import torch
from torch import nn

from ._registry import Built, micro


def chain(*layers: nn.Module, x: torch.Tensor) -> Built:
    return nn.Sequential(*layers), (x,), {}


@micro("conv_bn_relu", halved={"0.weight": 0, "0.bias": 0, "1.weight": 0, "1.running_var": 0, "3.weight": 1})
def conv_bn_relu() -> Built:
    return chain(
        nn.Conv2d(3, 10, 3, padding=1),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.Conv2d(10, 5, 3),
        x=torch.randn(2, 3, 7, 7),
    )


@micro("conv1d", halved={"0.weight": 0, "1.weight": 0, "3.weight": (0, 1), "4.weight": 1})
def conv1d() -> Built:
    return chain(
        nn.Conv1d(3, 12, 3, padding=1),
        nn.BatchNorm1d(12),
        nn.GELU(),
        nn.Conv1d(12, 14, 3, stride=2),
        nn.Conv1d(14, 5, 1),
        x=torch.randn(2, 3, 9),
    )


@micro("conv3d", halved={"0.weight": 0, "1.weight": 0, "3.weight": 1})
def conv3d() -> Built:
    return chain(
        nn.Conv3d(2, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.SiLU(),
        nn.Conv3d(8, 3, (1, 2, 3), dilation=(1, 2, 1)),
        x=torch.randn(2, 2, 4, 5, 6),
    )


@micro("conv_padding_modes", halved={"0.weight": 0, "2.weight": (0, 1), "4.weight": 1})
def conv_padding_modes() -> Built:
    """Padding by copies goes through another operator than zero padding; 'same' reads the kernel size."""
    return chain(
        nn.Conv2d(3, 10, 3, padding=1, padding_mode="reflect"),
        nn.LeakyReLU(0.1),
        nn.Conv2d(10, 12, 3, padding=1, padding_mode="circular"),
        nn.ZeroPad2d(1),
        nn.Conv2d(12, 5, 3, padding="same"),
        x=torch.randn(2, 3, 6, 7),
    )


@micro("pooling_and_upsampling", halved={"0.weight": 0, "4.weight": (0, 1), "6.weight": 1})
def pooling_and_upsampling() -> Built:
    return chain(
        nn.Conv2d(3, 10, 3, padding=1),
        nn.MaxPool2d(2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.AvgPool2d(2),
        nn.Conv2d(10, 14, 1),
        nn.AdaptiveAvgPool2d(2),
        nn.Conv2d(14, 5, 2),
        x=torch.randn(2, 3, 8, 8),
    )


@micro("grouped_conv", halved={"0.weight": 0, "2.weight": 0, "3.weight": 0, "5.weight": 1})
def grouped_conv() -> Built:
    """Input and output channels of a grouped convolution are g x C/g: groups go, or so many of each group."""
    return chain(
        nn.Conv2d(3, 16, 1),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1, groups=4),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 5, 1),
        x=torch.randn(2, 3, 6, 6),
    )


def regrouped(first: int, second: int) -> Built:
    return chain(
        nn.Conv2d(3, 24, 1),
        nn.Conv2d(24, 24, 3, padding=1, groups=first),
        nn.Conv2d(24, 24, 3, padding=1, groups=second),
        nn.Conv2d(24, 5, 1),
        x=torch.randn(2, 3, 6, 6),
    )


@micro("nested_group_counts", halved={"0.weight": 0, "1.weight": 0, "2.weight": 0, "3.weight": 1})
def nested_group_counts() -> Built:
    """24 channels in 4 groups, then in 8: one axis, 4 x 2 x 3."""
    return regrouped(4, 8)


@micro(
    "crossing_group_counts",
    halved={"0.weight": 0, "1.weight": 0, "2.weight": 0, "3.weight": 1},
    frozen="refine|group|factor|incompatible|common|nest",
    either=True,
)
def crossing_group_counts() -> Built:
    """24 channels in 4 groups of 6, then in 6 of 4: only the halves of 12 respect both."""
    return regrouped(4, 6)


@micro(
    "depthwise_separable",
    halved={"0.weight": 0, "1.weight": 0, "2.weight": 0, "4.weight": (0, 1), "6.weight": 1},
)
def depthwise_separable() -> Built:
    return chain(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.Conv2d(12, 12, 3, padding=1, groups=12),
        nn.BatchNorm2d(12),
        nn.ReLU6(),
        nn.Conv2d(12, 18, 1),
        nn.BatchNorm2d(18),
        nn.Conv2d(18, 5, 1),
        x=torch.randn(2, 3, 6, 6),
    )


@micro("depthwise_multiplier", halved={"0.weight": 0, "1.weight": 0, "2.weight": 0, "4.weight": 1})
def depthwise_multiplier() -> Built:
    """Three outputs a channel: out = C x 3, and out channel 3c+j reads channel c."""
    return chain(
        nn.Conv2d(3, 10, 1),
        nn.Conv2d(10, 30, 3, padding=1, groups=10),
        nn.BatchNorm2d(30),
        nn.ReLU(),
        nn.Conv2d(30, 5, 1),
        x=torch.randn(2, 3, 6, 6),
    )


@micro("transposed_conv1d", halved={"0.weight": 0, "1.weight": (0, 1), "2.weight": 0, "3.weight": 0})
def transposed_conv1d() -> Built:
    return chain(
        nn.Conv1d(3, 10, 3),
        nn.ConvTranspose1d(10, 14, 4, stride=2, padding=1),
        nn.BatchNorm1d(14),
        nn.ConvTranspose1d(14, 5, 3),
        x=torch.randn(2, 3, 8),
    )


@micro("transposed_conv2d", halved={"0.weight": 0, "2.weight": (0, 1), "3.weight": 0, "4.weight": 0})
def transposed_conv2d() -> Built:
    return chain(
        nn.Conv2d(3, 10, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(10, 14, 2, stride=2),
        nn.BatchNorm2d(14),
        nn.ConvTranspose2d(14, 5, 3, output_padding=1, stride=2),
        x=torch.randn(2, 3, 6, 5),
    )


@micro("transposed_conv3d", halved={"0.weight": 0, "1.weight": (0, 1), "3.weight": 1})
def transposed_conv3d() -> Built:
    return chain(
        nn.Conv3d(2, 8, 2),
        nn.ConvTranspose3d(8, 6, 2, stride=2),
        nn.ELU(),
        nn.Conv3d(6, 3, 3),
        x=torch.randn(2, 2, 3, 4, 5),
    )


@micro("transposed_conv_grouped", halved={"0.weight": 0, "1.weight": 0, "3.weight": 1})
def transposed_conv_grouped() -> Built:
    """The weight is (C_in, C_out/g, k, k): the whole input, then a piece of the output."""
    return chain(
        nn.Conv2d(3, 16, 1),
        nn.ConvTranspose2d(16, 24, 2, stride=2, groups=4),
        nn.ReLU(),
        nn.Conv2d(24, 5, 1),
        x=torch.randn(2, 3, 4, 5),
    )


@micro("transposed_conv_depthwise", halved={"0.weight": 0, "1.weight": 0, "3.weight": 1})
def transposed_conv_depthwise() -> Built:
    return chain(
        nn.Conv2d(3, 10, 1),
        nn.ConvTranspose2d(10, 10, 4, stride=2, padding=1, groups=10),
        nn.BatchNorm2d(10),
        nn.Conv2d(10, 5, 1),
        x=torch.randn(2, 3, 4, 5),
    )


class FunctionalConv(nn.Module):
    """Loose weights, and a convolution called by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.w1_OIKK = nn.Parameter(torch.randn(10, 3, 3, 3) * 0.3)
        self.w2_OIKK = nn.Parameter(torch.randn(12, 1, 3, 3) * 0.3)
        self.head = nn.Conv2d(12, 5, 1)
        self.mix = nn.Conv2d(10, 12, 1)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BCHW = nn.functional.conv2d(x_BCHW, self.w1_OIKK, padding=1).relu()
        x_BCHW = self.mix(x_BCHW)
        x_BCHW = nn.functional.conv2d(x_BCHW, self.w2_OIKK, padding=1, groups=x_BCHW.shape[1])
        return self.head(x_BCHW)


@micro("functional_conv", halved={"w1_OIKK": 0, "mix.weight": (0, 1), "w2_OIKK": 0, "head.weight": 1})
def functional_conv() -> Built:
    return FunctionalConv(), (torch.randn(2, 3, 6, 6),), {}


class Bottleneck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 20), nn.Linear(20, 14), nn.Linear(14, 5)
        self.pair = nn.Bilinear(14, 20, 5)

    def forward(self, x_BF: torch.Tensor) -> torch.Tensor:
        a_BF = self.a(x_BF).tanh()
        b_BF = self.b(a_BF).relu()
        return self.c(b_BF) + self.pair(b_BF, a_BF)


@micro("mlp_and_bilinear", halved={"a.weight": 0, "b.weight": (0, 1), "c.weight": 1, "pair.weight": (1, 2)})
def mlp_and_bilinear() -> Built:
    return Bottleneck(), (torch.randn(2, 6),), {}
