"""Compaction of recurrent layers, attention, computed weights, and memory written in place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import prunus
from compacting import Tagger, chain, compacted, image, randomised, silence, vector

# -- sequences ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_units(kind: type[nn.RNNBase], gates: int) -> None:
    model = randomised(Tagger(kind))
    rnn = model.rnn
    assert isinstance(rnn, nn.RNNBase)
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.view(gates, 5, -1)[:, 1] = 0  # silent at every step
        rnn.weight_hh_l0[:, 0] = 0  # read by no unit
        model.out.weight[:, 0] = 0  # type: ignore[union-attr,index]
        model.embed.weight[:, 2] = 0  # type: ignore[union-attr,index]
    compacted(model, torch.randint(0, 11, (2, 4)), others=lambda: (torch.randint(0, 11, (2, 4)),))
    assert (rnn.input_size, rnn.hidden_size) == (5, 3)


def test_a_recurrent_unit_whose_constant_changes_with_time_stays() -> None:
    model = randomised(Tagger(nn.LSTM))
    rnn = model.rnn
    assert isinstance(rnn, nn.RNNBase)
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0"):
            getattr(rnn, name).view(4, 5, -1)[:, 1] = 0
    plan = compacted(model, torch.randint(0, 11, (2, 4)), others=lambda: (torch.randint(0, 11, (2, 4)),))
    assert plan.chosen == {}
    (reason,) = plan.left_alone.values()
    assert "differs from" in reason


class Attention(nn.Module):
    """Heads over a fused or a separate projection, by hand or by the fused function."""

    def __init__(self, fused: bool, by_hand: bool, masked: bool = False) -> None:
        super().__init__()
        self.heads, self.size, self.by_hand, self.masked = 3, 4, by_hand, masked
        self.norm, self.out, self.top = nn.LayerNorm(12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.qkv = nn.Linear(12, 36) if fused else nn.ModuleList(nn.Linear(12, 12) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        y = self.norm(x)
        if isinstance(self.qkv, nn.Linear):
            q, k, v = self.qkv(y).view(b, t, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (layer(y).view(b, t, self.heads, self.size).transpose(1, 2) for layer in self.qkv)
        if self.by_hand:
            a = (q @ k.transpose(-1, -2) * self.size**-0.5).softmax(-1) @ v
        else:
            a = F.scaled_dot_product_attention(q, k, v, is_causal=self.masked)
        out: Tensor = self.top(x + self.out(a.transpose(1, 2).reshape(b, t, self.heads * self.size)))
        return out

    def values(self) -> tuple[Tensor, Tensor]:
        """The weight and the bias that make v."""
        if isinstance(self.qkv, nn.Linear):
            return self.qkv.weight[24:], self.qkv.bias[24:]
        return self.qkv[2].weight, self.qkv[2].bias  # type: ignore[return-value]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("how", ["zero values", "constant values", "not read"])
def test_attention_heads(fused: bool, by_hand: bool, how: str) -> None:
    """Weights that sum to one make a mean of equal values: a constant comes out of the softmax unchanged."""
    model = Attention(fused, by_hand)
    randomised(model)
    with torch.no_grad():
        weight, bias = model.values()
        if how == "not read":
            model.out.weight[:, 4:8] = 0
        else:
            weight[4:8] = 0
            bias[4:8] = 0 if how == "zero values" else torch.randn(4).double()
    plan = compacted(model, torch.randn(2, 5, 12).double())
    assert model.heads == 2
    assert model.out.in_features == 8
    assert plan.folded == (["out.bias"] if how == "constant values" else [])


def test_a_mask_may_hide_a_whole_row() -> None:
    """The masked softmax gives zeros there, whose sum is not one: a constant does not come out of it."""
    model = Attention(fused=False, by_hand=False, masked=True)
    randomised(model)
    with torch.no_grad():
        model.values()[0][4:8] = 0
    assert compacted(model, torch.randn(2, 5, 12).double()).chosen == {}
    with torch.no_grad():
        model.values()[1][4:8] = 0
    compacted(model, torch.randn(2, 5, 12).double())
    assert model.heads == 2


def test_head_size_is_compensated() -> None:
    model = Attention(fused=False, by_hand=True)
    randomised(model)
    assert isinstance(model.qkv, nn.ModuleList)
    with torch.no_grad():
        model.qkv[0].weight[1::4] = 0  # type: ignore[index,operator]
        model.qkv[0].bias[1::4] = 0  # type: ignore[index,operator]
        model.out.weight[:, 2::4] = 0
    compacted(model, torch.randn(2, 5, 12).double())
    assert (model.heads, model.size) == (3, 3)


# -- computed weights -----------------------------------------------------------------------------------


class Times(nn.Module):
    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def test_the_effective_weight_counts() -> None:
    model = chain(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    parametrize.register_parametrization(
        model[0], "weight", Times(torch.ones(6, 4).index_fill(0, torch.tensor([1, 2]), 0).double())
    )
    parametrizations.spectral_norm(model[4])
    model.double()
    plan = compacted(model, vector(4))
    assert model[0].weight.shape == (4, 4)
    assert model[0].parametrizations.weight[0].mask.shape == (4, 4)
    assert plan.folded == ["2.bias"]


def test_weight_norm_takes_in_columns_that_are_not_zero() -> None:
    model = chain(nn.Linear(4, 6), nn.Tanh(), parametrizations.weight_norm(nn.Linear(6, 3)))
    silence(model[0], [1, 2])
    with torch.no_grad():
        model[2].parametrizations.weight.original1[:, 2] = 0
    plan = compacted(model, vector(4))
    assert model[0].out_features == 5
    assert "weight norm" in plan.left_alone["0.out"]


def test_low_rank_adapters() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.top = nn.Linear(6, 8), nn.Linear(8, 3)
            self.down, self.up = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(8, 4))

        def forward(self, x: Tensor) -> Tensor:
            weight = self.base.weight + self.up @ self.down
            out: Tensor = self.top(torch.tanh(F.linear(x, weight, self.base.bias)))
            return out

    model = Adapted()
    randomised(model)
    with torch.no_grad():
        model.up[:, 1] = 0
        model.base.weight[2] = 0
        model.up[2] = 0
        model.base.weight[3] = 0  # alone, this one is not empty
    compacted(model, vector())
    assert (model.down.shape, model.up.shape) == ((3, 6), (7, 3))


# -- memory written in place ----------------------------------------------------------------------------


class Overwrites(nn.Module):
    """Zeroes two channels through a view, then reads the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y[:, :2].add_(x.mean(1, keepdim=True))
        out: Tensor = self.b(torch.sigmoid(y))
        return out


def test_a_write_through_a_view_is_seen_in_the_whole() -> None:
    model = Overwrites()
    randomised(model)
    silence(model.a, [0, 1, 4])
    assert compacted(model, image()).chosen == {}


def test_a_buffer_that_the_forward_writes_is_no_constant() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 2)
            self.register_buffer("gate", torch.tensor([0.0, 0, 1, 1, 1]))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(x) * self.gate)
            self.gate.add_(1)
            return out

    model = randomised(Remembers())
    assert prunus.compact(model, vector()).chosen == {}
