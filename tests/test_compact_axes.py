"""Compaction of joined and gated axes, of what nothing reads, and under norms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compacting import chain, compacted, image, randomised, silence, vector

# -- joins ----------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.bn = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.c = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        out: Tensor = self.c(torch.relu(x + self.bn(self.b(x))))
        return out


@pytest.mark.parametrize(("branches", "left"), [("ab", 6), ("a", 8), ("b", 8), ("a gamma", 6)])
def test_a_residual_sum_is_constant_where_both_branches_are(branches: str, left: int) -> None:
    model = Residual()
    randomised(model)
    for name in ("a", "b"):
        if name in branches:
            silence(getattr(model, name), [0, 3])
    if "gamma" in branches:
        silence(model.bn, [0, 3])
    plan = compacted(model, image())
    assert model.a.out_channels == model.c.in_channels == left
    assert (plan.left_alone == {}) == (left == 6)
    if branches == "b":
        assert "added to a branch" in plan.left_alone["a.out"]


def test_concatenation() -> None:
    class Concat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(10, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.c(torch.cat([torch.sigmoid(self.a(x)), self.b(x)], 1))
            return out

    model = Concat()
    randomised(model)
    silence(model.a, [1, 2])
    silence(model.b, [3])
    silence(model.c, [0], dim=1)
    compacted(model, image())
    assert [model.a.out_channels, model.b.out_channels, model.c.in_channels] == [3, 3, 6]


def test_flatten_sums_the_constant_over_all_pixels() -> None:
    model = chain(nn.Conv2d(3, 5, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(5 * 49, 4))
    silence(model[0], [1, 2])
    compacted(model, image())
    assert model[3].in_features == 3 * 49


@pytest.mark.parametrize("padding", [0, 1])
def test_depthwise(padding: int) -> None:
    model = chain(
        nn.Conv2d(3, 8, 1),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=padding, groups=8),
        nn.Hardswish(),
        nn.Conv2d(8, 4, 1),
    )
    silence(model[0], [0, 1], bias=1.0)
    silence(model[0], [2], bias=-1.0)
    silence(model[2], [5])
    plan = compacted(model, image())
    assert model[2].groups == model[0].out_channels == (4 if padding == 0 else 6)
    assert ("0.out" in plan.left_alone) == (padding == 1)


def test_grouped_and_transposed_convolution() -> None:
    model = chain(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 3, stride=2), nn.ReLU(),
        nn.ConvTranspose2d(6, 6, 2, groups=3), nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    silence(model[0], [0, 4], bias=1.0)  # the same place in both groups
    silence(model[2], [1, 5], bias=-1.0)
    silence(model[4], [1, 3, 5], bias=0.0, dim=1)
    compacted(model, image())
    widths = [model[0].out_channels, model[2].out_channels, model[4].out_channels, model[6].out_channels]
    assert widths == [6, 6, 3, 6]


class Gated(nn.Module):
    """Squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.reduce, self.expand, self.c = (
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(4, 8, 1),
            nn.Conv2d(8, 5, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.a(x)))
        gate = torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        out: Tensor = self.c(x * torch.sigmoid(self.expand(gate)))
        return out


def test_zero_times_a_gate_is_zero_and_a_constant_times_a_gate_is_not_one() -> None:
    for shift, left in ((-9.0, 6), (9.0, 8)):
        model = Gated()
        randomised(model)
        silence(model.a, [0, 1])
        silence(model.reduce, [3])
        with torch.no_grad():
            model.bn.bias[:2] = shift
        plan = compacted(model, image())
        assert [model.a.out_channels, model.reduce.out_channels] == [left, 3]
        assert ("a.out" in plan.left_alone) == (left == 8)


# -- what is read, and what is not ----------------------------------------------------------------------


def test_units_that_nothing_reads_take_along_what_feeds_only_them() -> None:
    model = chain(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3))
    silence(model[4], [1, 2], dim=1)
    with torch.no_grad():
        model[2].weight[[0, 3, 4, 5, 6], 0] = 0
    plan = compacted(model, vector())
    assert [model[0].out_features, model[2].out_features] == [8, 5]
    assert plan.folded == []


def test_what_is_an_output_too_is_read() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.b(torch.tanh(self.a(x)))
            return hidden, self.c(hidden)

    model = Both()
    randomised(model)
    silence(model.c, [0, 1], dim=1)
    with torch.no_grad():
        model.b.weight[2:, 4] = 0  # unit 4 of `a` is read by units 0 and 1 of `b` alone
    plan = compacted(model, vector())
    assert plan.chosen == {}
    assert "output" in plan.left_alone["b.out"]


def test_a_result_that_is_not_used_is_not_gutted() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
            self.idle = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.a(x))
            self.idle(torch.tanh(x))
            out: Tensor = self.b(x)
            return out

    assert compacted(randomised(Idle()), vector()).chosen == {}


def test_what_feeds_only_outputs_that_are_multiplied_by_zero_goes() -> None:
    class Cleared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
            self.register_buffer("gate", torch.tensor([1.0, 0.0, 1.0]))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(torch.tanh(self.a(x))) * self.gate
            return out

    model = Cleared()
    randomised(model)
    with torch.no_grad():
        model.b.weight[[0, 2], 5] = 0
    compacted(model, vector())
    assert model.a.out_features == 7


def test_a_mean_over_units_counts_the_empty_ones_and_a_sum_does_not() -> None:
    class Centred(nn.Module):
        def __init__(self, statistic: Any) -> None:
            super().__init__()
            self.a, self.b, self.statistic = nn.Linear(6, 8), nn.Linear(8, 3), statistic

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            out: Tensor = self.b(x) * self.statistic(x, -1, keepdim=True)
            return out

    for statistic, left in ((torch.mean, 8), (torch.sum, 7), (torch.amax, 8), (torch.linalg.vector_norm, 7)):
        if statistic is torch.linalg.vector_norm:
            model = Centred(lambda x, dim, keepdim: torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim))
        else:
            model = Centred(statistic)
        randomised(model)
        silence(model.a, [4], bias=0.0)
        compacted(model, vector())
        assert model.a.out_features == left


def test_an_operation_without_a_rule_mixes_everything() -> None:
    class Distances(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.centres = nn.Linear(6, 8), nn.Parameter(torch.randn(5, 8))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cdist(self.a(x), self.centres)

    model = Distances()
    randomised(model)
    silence(model.a, [4], bias=0.0)
    (reason,) = compacted(model, vector()).left_alone.values()
    assert "no rule for aten._" in reason


def test_what_only_training_uses_stays() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
            self.aux = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, x: Tensor) -> Any:
            x = torch.tanh(self.a(x))
            return (self.b(x), self.aux(x)) if self.training else self.b(x)

    model = Auxiliary()
    randomised(model)
    silence(model.a, [1])
    silence(model.aux[0], [1, 2])
    plan = compacted(model, vector())
    assert plan.chosen == {}
    assert "train mode only" in plan.left_alone["a.out"]


def test_an_axis_keeps_its_last_unit() -> None:
    model = chain(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    silence(model[2], range(4))
    plan = compacted(model, vector())
    assert [model[0].out_features, model[2].out_features] == [1, 1]
    assert "last unit" in plan.left_alone["2.out"]


def test_a_transposed_grouped_convolution_gets_a_bias() -> None:
    model = chain(
        nn.Conv2d(3, 8, 3),
        nn.Sigmoid(),
        nn.ConvTranspose2d(8, 6, 1, groups=2, bias=False),
        nn.Tanh(),
        nn.Conv2d(6, 2, 1),
    )
    silence(model[0], [1, 5])
    silence(model[4], [2, 5], dim=1)
    assert compacted(model, image()).added == ["2.bias"]
    assert model[2].weight.shape[:2] == (6, 2)
    assert model[2].bias.shape == (4,)


def test_equal_chunks_stay_equal() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.a(x).chunk(2, 1)
            out: Tensor = self.b(torch.cat([torch.sigmoid(first), second], 1))
            return out

    model = Halves()
    randomised(model)
    silence(model.a, [0, 1, 2, 8])
    plan = compacted(model, image())
    assert model.a.out_channels == 10
    (reason,) = plan.left_alone.values()
    assert reason.startswith("2 of 6 units are empty and stay: its size is tied")


# -- norms ----------------------------------------------------------------------------------------------


def test_layer_norm_holds_its_units() -> None:
    model = chain(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    silence(model[0], [0, 1])
    silence(model[3], [5], dim=1)
    silence(model[1], [3])
    plan = compacted(model, vector())
    assert plan.chosen == {}
    assert "layer norm shares a statistic" in plan.left_alone["0.out"]


def test_group_norm_loses_whole_groups() -> None:
    model = chain(nn.Conv2d(3, 12, 3), nn.GroupNorm(4, 12), nn.Sigmoid(), nn.Conv2d(12, 5, 1))
    silence(model[0], [3, 4, 5], bias=0.3)  # one constant group is zero before the bias of the norm
    silence(model[1], [6, 7, 8])  # one is the bias of the norm
    silence(model[0], [0])  # and one unit of another stays
    compacted(model, image())
    assert (model[1].num_groups, model[1].num_channels) == (2, 6)


def test_group_norm_holds_units_inside_groups() -> None:
    model = chain(nn.Conv2d(3, 12, 3), nn.GroupNorm(4, 12), nn.Sigmoid(), nn.Conv2d(12, 5, 1))
    silence(model[0], [1, 4, 7, 10], bias=0.0)
    silence(model[3], [1, 4, 7, 10], dim=1)
    assert "group norm" in compacted(model, image()).left_alone["0.out[1]"]


def test_instance_norm_makes_a_constant_zero() -> None:
    model = chain(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.Sigmoid(), nn.Conv2d(6, 4, 1))
    silence(model[0], [1, 2])
    compacted(model, image())
    assert model[0].out_channels == 4
