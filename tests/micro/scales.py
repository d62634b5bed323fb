"""Sizes used as numbers: a scale, a count, a table. When the size shrinks, the number in the code follows it.

Single-head attention throughout, so that the head size itself has to shrink: there are no heads to remove.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ._registry import Built, micro

Scores = Callable[["OneHead", Tensor, Tensor], Tensor]


class OneHead(nn.Module):
    def __init__(self, scores: Scores, **attributes: float) -> None:
        super().__init__()
        self.scores = scores
        for key, value in attributes.items():
            setattr(self, key, value)
        self.q, self.k, self.v = nn.Linear(6, 20), nn.Linear(6, 20), nn.Linear(6, 14)
        self.proj = nn.Linear(14, 5)

    def forward(self, x_BTF: Tensor) -> Tensor:
        scores_BTS = self.scores(self, self.q(x_BTF), self.k(x_BTF))
        return self.proj(scores_BTS.softmax(-1) @ self.v(x_BTF))


ONE_HEAD = {"q.weight": 0, "k.weight": 0, "v.weight": 0, "proj.weight": 1}
SCALED = {"halved": ONE_HEAD, "frozen": "scale|number|value|size|constant", "either": True, "exact": None}


def one_head(scores: Scores, **attributes: float) -> Built:
    return OneHead(scores, **attributes), (torch.randn(2, 3, 6),), {}


@micro("scale_power_of_shape", **SCALED)
def scale_power_of_shape() -> Built:
    return one_head(lambda m, q, k: q @ k.mT * q.shape[-1] ** -0.5)


@micro("scale_math_sqrt_of_shape", **SCALED)
def scale_math_sqrt_of_shape() -> Built:
    """math.sqrt turns a size into a plain float."""
    return one_head(lambda m, q, k: q @ k.mT / math.sqrt(q.size(-1)))


@micro("scale_math_sqrt_of_attribute", **SCALED)
def scale_math_sqrt_of_attribute() -> Built:
    """The attribute says the head size in a view as well, so it has to be repaired."""
    return one_head(
        lambda m, q, k: q.view(2, -1, m.width) @ k.view(2, -1, m.width).mT / math.sqrt(m.width), width=20
    )


@micro("scale_numpy_sqrt", **SCALED)
def scale_numpy_sqrt() -> Built:
    return one_head(lambda m, q, k: q @ k.mT / float(np.sqrt(q.shape[-1])))


@micro("scale_tensor_sqrt", **SCALED)
def scale_tensor_sqrt() -> Built:
    return one_head(lambda m, q, k: q @ k.mT / torch.sqrt(torch.tensor(q.size(-1), dtype=q.dtype)))


@micro("scale_of_both_sides", **SCALED)
def scale_of_both_sides() -> Built:
    """Stable attention: a fourth root on the queries and another on the keys."""
    return one_head(lambda m, q, k: (q * q.shape[-1] ** -0.25) @ (k * k.shape[-1] ** -0.25).mT)


@micro("scale_by_true_division", **SCALED)
def scale_by_true_division() -> Built:
    return one_head(lambda m, q, k: (q @ k.mT) / q.shape[-1])


@micro("scale_by_module_attribute", **SCALED)
def scale_by_module_attribute() -> Built:
    return one_head(lambda m, q, k: q @ k.mT / m.q.out_features**0.5)


@micro("scale_by_numel", **SCALED)
def scale_by_numel() -> Built:
    return one_head(lambda m, q, k: q @ k.mT * (q[0, 0].numel() ** -0.5))


@micro("scale_by_len", **SCALED)
def scale_by_len() -> Built:
    return one_head(lambda m, q, k: q @ k.mT / len(q[0, 0]) ** 0.5)


@micro("scale_in_addition", **SCALED)
def scale_in_addition() -> Built:
    """Added, not multiplied: no weight can make up for it."""
    return one_head(lambda m, q, k: (q @ k.mT) * 0.3 + k.sum(-1)[:, None] / q.shape[-1])


@micro("scale_chosen_by_size", halved={"v.weight": 0, "proj.weight": 1}, exact=None)
def scale_chosen_by_size() -> Built:
    """The code branches on the size: half of it takes the other way."""
    return one_head(lambda m, q, k: (q @ k.mT) * (0.1 if q.shape[-1] > 12 else 0.7))


@micro("scale_fused_default", halved=ONE_HEAD)
def scale_fused_default() -> Built:
    class Fused(OneHead):
        def forward(self, x_BTF: Tensor) -> Tensor:
            q, k, v = self.q(x_BTF), self.k(x_BTF), self.v(x_BTF)
            return self.proj(nn.functional.scaled_dot_product_attention(q, k, v))

    return Fused(lambda m, q, k: q), (torch.randn(2, 3, 6),), {}


@micro("scale_fused_explicit", **SCALED)
def scale_fused_explicit() -> Built:
    class Fused(OneHead):
        def forward(self, x_BTF: Tensor) -> Tensor:
            q, k, v = self.q(x_BTF), self.k(x_BTF), self.v(x_BTF)
            return self.proj(nn.functional.scaled_dot_product_attention(q, k, v, scale=1 / q.shape[-1]))

    return Fused(lambda m, q, k: q), (torch.randn(2, 3, 6),), {}


@micro("scale_stored_as_float", halved=ONE_HEAD)
def scale_stored_as_float() -> Built:
    """A float made in the constructor does not follow anything."""
    return one_head(lambda m, q, k: q @ k.mT * m.scale, scale=20**-0.5)


class Sinusoids(nn.Module):
    """Positions computed in forward from the width of what they are added to."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 14), nn.Linear(14, 5)
        self.mid, self.out = nn.Linear(6, 10), nn.Linear(10, 5)

    def forward(self, x_BTF: Tensor) -> Tensor:
        e_BTE = self.embed(x_BTF)
        t, width = e_BTE.shape[-2:]
        angle_TE = torch.arange(t)[:, None] / 100 ** (torch.arange(0, width, 2) / width)
        table_TE = torch.stack([angle_TE.sin(), angle_TE.cos()], -1).flatten(1).to(e_BTE.dtype)
        return self.head((e_BTE + table_TE).relu()) + self.out(self.mid(x_BTF).relu())


@micro(
    "sinusoids_computed",
    halved={"embed.weight": 0, "head.weight": 1, "mid.weight": 0},
    frozen="arange|constant",
    either=True,
    exact=None,
    tolerance=1e-5,
)
def sinusoids_computed() -> Built:
    return Sinusoids(), (torch.randn(2, 3, 6),), {}


class Alibi(nn.Module):
    """One slope a head, computed from the number of heads: fewer heads would be other slopes."""

    def __init__(self, as_buffer: bool) -> None:
        super().__init__()
        self.num_heads, self.as_buffer = 4, as_buffer
        self.embed, self.qkv, self.proj = nn.Linear(6, 14), nn.Linear(14, 72), nn.Linear(24, 5)
        self.register_buffer("slopes_H", self.slopes().double())

    def slopes(self) -> Tensor:
        return 2.0 ** (-8 / self.num_heads * torch.arange(1, self.num_heads + 1))

    def forward(self, x_BTF: Tensor) -> Tensor:
        b, t, _ = x_BTF.shape
        q, k, v = self.qkv(self.embed(x_BTF)).view(b, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        slopes_H = self.slopes_H if self.as_buffer else self.slopes()
        distance_TT = torch.arange(t)[None] - torch.arange(t)[:, None]
        scores = 0.4 * q @ k.mT + slopes_H.view(-1, 1, 1) * distance_TT
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, -1))


ALIBI = {"embed.weight": 0, "qkv.weight": (0, 1), "proj.weight": 1}


@micro("alibi_computed", halved=ALIBI, exact=None, tolerance=1e-6)
def alibi_computed() -> Built:
    return Alibi(False), (torch.randn(2, 3, 6),), {}


@micro("alibi_buffer", halved=ALIBI)
def alibi_buffer() -> Built:
    return Alibi(True), (torch.randn(2, 3, 6),), {}


class RotaryComputed(nn.Module):
    """Frequencies computed in forward from the head size: they belong to positions within the head."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim = 8
        self.q, self.k, self.v = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 14)
        self.proj = nn.Linear(14, 5)

    def rotate(self, x_BTD: Tensor) -> Tensor:
        frequency = 1.0 / 100 ** (torch.arange(0, self.head_dim, 2) / self.head_dim)
        angle_TD = (torch.arange(x_BTD.shape[1])[:, None] * frequency).repeat(1, 2).to(x_BTD.dtype)
        a, b = x_BTD.chunk(2, -1)
        return x_BTD * angle_TD.cos() + torch.cat((-b, a), -1) * angle_TD.sin()

    def forward(self, x_BTF: Tensor) -> Tensor:
        q, k = self.rotate(self.q(x_BTF)), self.rotate(self.k(x_BTF))
        return self.proj((0.5 * q @ k.mT).softmax(-1) @ self.v(x_BTF))


@micro("rotary_computed", halved={"v.weight": 0, "proj.weight": 1}, exact=None, tolerance=1e-5)
def rotary_computed() -> Built:
    return RotaryComputed(), (torch.randn(2, 3, 6),), {}


class OneHot(nn.Module):
    """A one-hot code as wide as an attribute, multiplied into a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = 7
        self.table, self.fc, self.head = nn.Linear(7, 14), nn.Linear(6, 14), nn.Linear(14, 5)

    def forward(self, x_BF: Tensor, label_B: Tensor) -> Tensor:
        code_BC = nn.functional.one_hot(label_B, self.classes).to(x_BF.dtype)
        return self.head(self.fc(x_BF) * self.table(code_BC))


@micro(
    "one_hot",
    halved={"table.weight": 0, "fc.weight": 0, "head.weight": 1},
    whole={"table.weight": 1},
    tolerance=1e-6,
)
def one_hot() -> Built:
    return OneHot(), (torch.randn(2, 6), torch.tensor([2, 6])), {}


class PointNet(nn.Module):
    """T-Net: a k x k matrix predicted by a layer, plus the identity, applied to k features."""

    def __init__(self) -> None:
        super().__init__()
        self.k = 8
        self.conv, self.fc = nn.Conv1d(3, 8, 1), nn.Linear(14, 64)
        self.squeeze, self.last, self.head = nn.Conv1d(8, 14, 1), nn.Conv1d(8, 10, 1), nn.Linear(10, 5)

    def forward(self, x_BCN: Tensor) -> Tensor:
        x_BKN = self.conv(x_BCN).relu()
        matrix = self.fc(self.squeeze(x_BKN).amax(2)) + torch.eye(self.k, dtype=x_BCN.dtype).flatten()
        x_BKN = torch.bmm(x_BKN.transpose(2, 1), matrix.view(-1, self.k, self.k)).transpose(2, 1)
        return self.head(self.last(x_BKN).relu().max(2)[0])


@micro(
    "pointnet_transform",
    halved={"squeeze.weight": 0, "fc.weight": 1, "last.weight": 0, "head.weight": 1},
    exact=None,
)
def pointnet_transform() -> Built:
    """The identity ties the rows to the columns, although they are different axes."""
    return PointNet(), (torch.randn(2, 3, 5),), {}
