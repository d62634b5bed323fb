"""Gating and broadcasting, einsum, PReLU, loose parameters and per-channel buffers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._registry import Built, micro


def image() -> Tensor:
    return torch.randn(2, 3, 5, 4)


class SqueezeExcite(nn.Module):
    def __init__(self, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.stem, self.head = nn.Conv2d(3, 14, 3, padding=1), nn.Conv2d(14, 5, 1)
        if linear:
            self.down, self.up = nn.Linear(14, 6), nn.Linear(6, 14)
        else:
            self.down, self.up = nn.Conv2d(14, 6, 1), nn.Conv2d(6, 14, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.stem(x_BCHW).relu()
        if self.linear:
            b, c, _, _ = x_BCHW.shape
            gate = self.up(self.down(x_BCHW.mean((2, 3))).relu()).sigmoid().view(b, c, 1, 1)
            return self.head(x_BCHW * gate.expand_as(x_BCHW))
        gate = nn.functional.adaptive_avg_pool2d(x_BCHW, 1)
        gate = nn.functional.hardsigmoid(self.up(nn.functional.silu(self.down(gate))))
        return self.head(gate * x_BCHW)


EXCITED = {"stem.weight": 0, "down.weight": (0, 1), "up.weight": (0, 1), "up.bias": 0, "head.weight": 1}


@micro("squeeze_excite_linear", halved=EXCITED)
def squeeze_excite_linear() -> Built:
    return SqueezeExcite(True), (image(),), {}


@micro("squeeze_excite_conv", halved=EXCITED)
def squeeze_excite_conv() -> Built:
    return SqueezeExcite(False), (image(),), {}


class EfficientChannelAttention(nn.Module):
    """A 1d convolution slides over the channels themselves: which channels are neighbours matters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 14, 1), nn.Conv2d(14, 5, 1)
        self.slide = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.mid, self.out = nn.Conv2d(3, 10, 1), nn.Conv2d(10, 5, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.stem(x_BCHW)
        gate_BC = self.slide(y_BCHW.mean((2, 3))[:, None]).squeeze(1).sigmoid()
        return self.head(y_BCHW * gate_BC[..., None, None]) + self.out(self.mid(x_BCHW).relu())


@micro(
    "channels_as_positions",
    halved={"mid.weight": 0, "out.weight": 1},
    whole={"stem.weight": 0},
    frozen="conv|spatial|slid|window",
)
def channels_as_positions() -> Built:
    return EfficientChannelAttention(), (image(),), {}


class SelectiveKernel(nn.Module):
    """Branches stacked, weighed by a softmax over the branches, summed."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(3, 14, k, padding=k // 2) for k in (1, 3, 5))
        self.squeeze, self.weigh = nn.Linear(14, 6), nn.Linear(6, 14 * 3)
        self.head = nn.Conv2d(14, 5, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BNCHW = torch.stack([branch(x_BCHW).relu() for branch in self.branches], 1)
        z_BF = self.squeeze(y_BNCHW.sum(1).mean((2, 3))).relu()
        weights_BNC = self.weigh(z_BF).view(len(z_BF), len(self.branches), -1).softmax(1)
        return self.head((y_BNCHW * weights_BNC[..., None, None]).sum(1))


@micro(
    "selective_kernel",
    halved={
        "branches.0.weight": 0,
        "branches.2.weight": 0,
        "squeeze.weight": (0, 1),
        "weigh.weight": (0, 1),
        "head.weight": 1,
    },
)
def selective_kernel() -> Built:
    return SelectiveKernel(), (image(),), {}


class Broadcast(nn.Module):
    """Rows, columns and scalars broadcast against a channel axis, from the left and from the right."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.one = nn.Linear(6, 14), nn.Linear(4, 14), nn.Linear(4, 1)
        self.temperature = nn.Parameter(torch.ones(1))
        self.scalar = nn.Parameter(torch.tensor(1.0))
        self.head = nn.Linear(14, 5)

    def forward(self, x_BTF: Tensor, z_BF: Tensor) -> Tensor:
        a_BTC, b_B1C = self.a(x_BTF), self.b(z_BF)[:, None]
        y_BTC = a_BTC * b_B1C / self.temperature + self.scalar * torch.maximum(a_BTC, b_B1C)
        return self.head(torch.where(y_BTC > 0, y_BTC, 0.1 * b_B1C) * self.one(z_BF)[:, None])


@micro(
    "broadcasting",
    halved={"a.weight": 0, "b.weight": 0, "head.weight": 1},
    whole={"one.weight": 0, "temperature": 0},
)
def broadcasting() -> Built:
    return Broadcast(), (torch.randn(2, 3, 6), torch.randn(2, 4)), {}


class OuterProduct(nn.Module):
    """Two axes broadcast into a plane, then flattened: C x D."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 10), nn.Linear(6, 8), nn.Linear(80, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.head((self.a(x_BF)[:, :, None] * self.b(x_BF)[:, None, :]).flatten(1))


@micro("outer_product", halved={"head.weight": 1}, slack=20, exact=True)
def outer_product() -> Built:
    """Halving both factors leaves a quarter of the head's columns, halving one leaves a half."""
    return OuterProduct(), (torch.randn(2, 6),), {}


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 10), nn.Linear(6, 10)
        self.mix_CDE = nn.Parameter(torch.randn(10, 8, 14) * 0.3)
        self.head = nn.Linear(14, 5)

    def forward(self, x_BTF: Tensor) -> Tensor:
        a_BTC, b_BTC = self.a(x_BTF), self.b(x_BTF)
        scores_BTS = torch.einsum("btc,bsc->bts", a_BTC, b_BTC).tanh()
        y_BTE = torch.einsum("bts,bsc,cde->bte", scores_BTS, b_BTC, self.mix_CDE)
        return self.head(y_BTE.relu())


@micro("einsum", halved={"a.weight": 0, "b.weight": 0, "mix_CDE": (0, 2), "head.weight": 1})
def einsum() -> Built:
    """c is contracted in both products, d is summed away on the parameter alone."""
    return Einsum(), (torch.randn(2, 3, 6),), {}


class EinsumHeads(nn.Module):
    """Heads held as separate dimensions of the parameters: no product axis anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 14)
        self.q_EHD, self.k_EHD = (nn.Parameter(torch.randn(14, 4, 6) * 0.3) for _ in range(2))
        self.v_EHU, self.o_HUF = (
            nn.Parameter(torch.randn(14, 4, 10) * 0.3),
            nn.Parameter(torch.randn(4, 10, 5)),
        )

    def forward(self, x_BTF: Tensor) -> Tensor:
        x_BTE = self.embed(x_BTF)
        q = torch.einsum("bte,ehd->bhtd", x_BTE, self.q_EHD)
        k = torch.einsum("bse,ehd->bhsd", x_BTE, self.k_EHD)
        weights = torch.einsum("bhtd,bhsd->bhts", q, k).softmax(-1)
        v = torch.einsum("bse,ehu->bhsu", x_BTE, self.v_EHU)
        return torch.einsum("bhts,bhsu,huf->btf", weights, v, self.o_HUF)


@micro("einsum_heads", halved={"embed.weight": 0, "q_EHD": 0, "k_EHD": 0, "v_EHU": 0})
def einsum_heads() -> Built:
    return EinsumHeads(), (torch.randn(2, 3, 6),), {}


@micro("prelu_per_channel", halved={"0.weight": 0, "1.weight": 0, "2.weight": 1})
def prelu_per_channel() -> Built:
    layers = nn.Conv2d(3, 14, 3), nn.PReLU(14), nn.Conv2d(14, 5, 1)
    return nn.Sequential(*layers), (image(),), {}


@micro("prelu_shared", halved={"0.weight": 0, "2.weight": 1}, whole={"1.weight": 0})
def prelu_shared() -> Built:
    layers = nn.Conv2d(3, 14, 3), nn.PReLU(), nn.Conv2d(14, 5, 1)
    return nn.Sequential(*layers), (image(),), {}


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = (
            nn.Conv2d(3, 14, 1),
            nn.Conv2d(14, 14, 3, padding=1),
            nn.Conv2d(14, 5, 1),
        )
        self.gamma_C = nn.Parameter(torch.full((14,), 0.1))
        self.scale_C11 = nn.Parameter(torch.ones(14, 1, 1))
        self.shift_1C11 = nn.Parameter(torch.zeros(1, 14, 1, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.stem(x_BCHW)
        x_BCHW = x_BCHW + self.gamma_C.view(1, -1, 1, 1) * self.conv(x_BCHW)
        return self.head(self.scale_C11 * x_BCHW + self.shift_1C11)


@micro(
    "layer_scale",
    halved={
        "stem.weight": 0,
        "conv.weight": (0, 1),
        "gamma_C": 0,
        "scale_C11": 0,
        "shift_1C11": 1,
        "head.weight": 1,
    },
)
def layer_scale() -> Built:
    return LayerScale(), (image(),), {}


class Tokens(nn.Module):
    """A class token in front, a position embedding added, the class token read out."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 14, 2, stride=2)
        self.cls_11E, self.pos_1TE = nn.Parameter(torch.zeros(1, 1, 14)), nn.Parameter(torch.randn(1, 5, 14))
        self.mix, self.up, self.head = nn.Linear(5, 5), nn.Linear(14, 14), nn.Linear(14, 4)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BTE = self.patch(x_BCHW).flatten(2).transpose(1, 2)
        x_BTE = torch.cat([self.cls_11E.expand(len(x_BTE), -1, -1), x_BTE], 1) + self.pos_1TE
        x_BTE = x_BTE + self.up(self.mix(x_BTE.mT).mT.relu())
        return self.head(x_BTE[:, 0])


@micro(
    "class_token_and_positions",
    halved={"patch.weight": 0, "cls_11E": 2, "pos_1TE": 2, "up.weight": (0, 1), "head.weight": 1},
    whole={"pos_1TE": 1, "mix.weight": (0, 1)},
)
def class_token_and_positions() -> Built:
    return Tokens(), (torch.randn(2, 3, 4, 4),), {}


class ChannelBuffers(nn.Module):
    """Running scales held as buffers, one persistent and one not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 14, 3), nn.Conv2d(14, 5, 1)
        self.register_buffer("scale_C", torch.rand(14) + 0.5)
        self.register_buffer("shift_1C11", torch.randn(1, 14, 1, 1), persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.head(self.stem(x_BCHW) * self.scale_C[None, :, None, None] + self.shift_1C11)


@micro("channel_buffers", halved={"stem.weight": 0, "scale_C": 0, "shift_1C11": 1, "head.weight": 1})
def channel_buffers() -> Built:
    return ChannelBuffers(), (image(),), {}


class Modulated(nn.Module):
    """FiLM or adaLN: scale and shift come out of one linear layer, in two chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 14, 1), nn.Conv2d(14, 5, 1)
        self.film = nn.Linear(6, 28)

    def forward(self, x_BCHW: Tensor, z_BF: Tensor) -> Tensor:
        scale_BC, shift_BC = self.film(z_BF).chunk(2, 1)
        x_BCHW = self.stem(x_BCHW) * (1 + scale_BC[:, :, None, None]) + shift_BC[:, :, None, None]
        return self.head(x_BCHW.relu())


@micro("film_modulation", halved={"stem.weight": 0, "film.weight": 0, "film.bias": 0, "head.weight": 1})
def film_modulation() -> Built:
    return Modulated(), (image(), torch.randn(2, 6)), {}
