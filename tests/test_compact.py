"""Compaction: units that masks or zeros have emptied go, and the outputs stay what they were."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune as masks
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import prunus
from compacting import compacted, randomised, silence
from oracle import outputs_of, parameter_count
from prunus.surgery.operation import Operation
from snapshots import Snapshot


def image(channels: int = 3, size: int = 9) -> Tensor:
    return torch.randn(2, channels, size, size).double()


def vector(features: int = 6) -> Tensor:
    return torch.randn(4, features).double()


def chain(*layers: nn.Module) -> nn.Sequential:
    model = randomised(nn.Sequential(*layers))
    assert isinstance(model, nn.Sequential)
    return model


def cnn(padding: int = 0, mode: str = "zeros") -> nn.Sequential:
    return chain(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 3, padding=padding, padding_mode=mode),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


# -- masks ----------------------------------------------------------------------------------------------


def masked_cnn() -> nn.Sequential:
    model = cnn()
    masks.ln_structured(model[0], "weight", amount=0.5, n=2, dim=0)
    masks.ln_structured(model[3], "weight", amount=0.5, n=2, dim=0)
    return model


def test_channels_that_batch_norm_keeps_at_a_constant_are_folded() -> None:
    """The case in which masking and cutting notoriously disagree: relu(beta) is not zero."""
    model = masked_cnn()
    with torch.no_grad():
        model[1].bias.copy_(torch.rand(8) + 0.5)
    plan = compacted(model, image())
    assert [model[0].out_channels, model[3].in_channels, model[3].out_channels] == [4, 4, 3]
    assert [model[1].num_features, model[8].in_features] == [4, 3]
    narrow = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 3)
    )
    assert parameter_count(model) == parameter_count(narrow)
    assert sorted(plan.folded) == ["3.bias", "8.bias"]
    assert plan.left_alone == {}


def test_masks_become_permanent_and_come_back_with_undo() -> None:
    model = masked_cnn()
    before = Snapshot.of(model)
    plan = prunus.compact(model, image())
    assert not masks.is_pruned(model)
    assert list(model[0]._parameters) == ["bias", "weight"]
    assert model[0].weight is dict(model.named_parameters())["0.weight"]
    plan.undo(model)
    assert masks.is_pruned(model)
    assert before.differences(model, identity=True) == []


def test_nothing_to_remove_leaves_masks_alone() -> None:
    model = chain(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    masks.l1_unstructured(model[0], "weight", amount=0.2)
    before = Snapshot.of(model)
    plan = prunus.compact(model, vector())
    assert plan.chosen == {}
    assert plan.graph.parameter("0.weight_orig").shape == (5, 6)
    assert plan.undo(model) is model
    assert before.differences(model, identity=True) == []


def test_a_masked_bias() -> None:
    model = chain(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    for name in ("weight", "bias"):
        masks.custom_from_mask(
            model[0], name, torch.ones_like(getattr(model[0], name)).index_fill(0, torch.tensor([1]), 0)
        )
    compacted(model, vector())
    assert model[0].out_features == 4


def test_a_masked_recurrent_layer() -> None:
    model = randomised(Tagger(nn.GRU))
    rnn = model.rnn
    assert isinstance(rnn, nn.GRU)
    for name, parameter in list(rnn.named_parameters()):
        mask = torch.ones_like(parameter)
        mask.view(3, 5, -1)[:, 2] = 0
        masks.custom_from_mask(rnn, name, mask)
    compacted(model, torch.randint(0, 11, (2, 4)))
    assert rnn.hidden_size == 4


def test_a_weight_masked_in_one_of_two_places_stays_masked() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 5)
            self.out = nn.Linear(5, 2)
            self.b.weight = self.a.weight
            masks.custom_from_mask(self.a, "weight", torch.ones(6, 6).index_fill(0, torch.tensor([2]), 0))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(torch.tanh(self.c(self.b(torch.tanh(self.a(x))))))
            return out

    model = Tied()
    randomised(model)
    silence(model.c, [3])
    compacted(model, vector())
    assert model.c.out_features == 4
    assert masks.is_pruned(model)


def test_global_unstructured_masks_that_empty_rows() -> None:
    torch.manual_seed(3)
    model = chain(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 10), nn.GELU(), nn.Linear(10, 3))
    with torch.no_grad():
        model[0].weight[::3] *= 1e-3
        model[2].weight[:, ::4] *= 1e-3
    masks.global_unstructured([(model[0], "weight"), (model[2], "weight")], masks.L1Unstructured, amount=0.5)
    compacted(model, vector())
    assert model[0].out_features == 12 - len({0, 3, 6, 9} | {0, 4, 8})


# -- constants at borders -------------------------------------------------------------------------------


def test_a_constant_beside_zero_padding_stays_with_a_reason() -> None:
    model = cnn(padding=1)
    silence(model[0], [0, 1, 2])
    with torch.no_grad():
        model[1].bias[:3] = torch.tensor([5.0, -5.0, 5.0])
        model[1].running_mean.zero_()
        model[0].bias[:3] = 0
    plan = compacted(model, image())
    assert model[0].out_channels == 7  # the one that relu sets to zero
    assert "2 of 7" not in plan.left_alone["0.out"]
    assert "2 of 8 units are empty and stay: its constant meets the zero padding" in plan.left_alone["0.out"]
    assert "module '3'" in plan.left_alone["0.out"]


@pytest.mark.parametrize("mode", ["replicate", "reflect", "circular"])
def test_padding_from_the_image_itself_keeps_a_constant(mode: str) -> None:
    model = cnn(padding=1, mode=mode)
    silence(model[0], [0, 1, 2])
    compacted(model, image())
    assert model[0].out_channels == 5


@pytest.mark.parametrize("padding", [0, 1])
def test_zero_goes_whatever_the_padding(padding: int) -> None:
    model = chain(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 4, 3, padding=padding), nn.Flatten(2))
    silence(model[0], [1, 2, 5], bias=0.0)
    plan = compacted(model, image())
    assert model[0].out_channels == 5
    assert plan.folded == []


def test_a_conv_bias_is_folded() -> None:
    model = chain(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 4, 3), nn.Flatten(2))
    silence(model[0], [1, 2, 5])
    assert compacted(model, image()).folded == ["2.bias"]
    assert model[0].out_channels == 5


def test_average_pooling_counts_its_padding() -> None:
    def build(counted: bool) -> nn.Sequential:
        model = chain(
            nn.Conv2d(3, 6, 3), nn.AvgPool2d(3, padding=1, count_include_pad=counted), nn.Conv2d(6, 2, 1)
        )
        silence(model[0], [0, 1], bias=1.0)
        silence(model[0], [2], bias=0.0)
        return model

    kept = build(counted=True)
    assert "zero padding of a pooling" in compacted(kept, image()).left_alone["0.out"]
    assert kept[0].out_channels == 5
    cut = build(counted=False)
    compacted(cut, image())
    assert cut[0].out_channels == 3


@pytest.mark.parametrize("stride", [1, 2])
def test_a_transposed_convolution_makes_a_pattern_of_a_constant(stride: int) -> None:
    model = chain(nn.Conv2d(3, 6, 3), nn.Sigmoid(), nn.ConvTranspose2d(6, 4, 3, stride), nn.Conv2d(4, 2, 1))
    silence(model[0], [1, 2])
    assert compacted(model, image()).chosen == {}


def test_a_constant_that_differs_from_place_to_place_stays() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
            self.place = nn.Parameter(torch.randn(5, 8))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(x) + self.place)
            return out

    model = Positions()
    randomised(model)
    silence(model.a, [2, 3])
    with torch.no_grad():
        model.place[:, 3] = 0.5
    plan = compacted(model, torch.randn(4, 5, 6).double())
    assert model.a.out_features == 7
    (reason,) = plan.left_alone.values()
    assert "differs from place to place" in reason


def test_a_small_example_says_nothing_about_larger_inputs() -> None:
    """In the example every pixel is near the border, where relu makes it zero; further inside it does not."""
    model = chain(
        nn.Conv2d(3, 1, 1), nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(), nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    silence(model[0], [0], bias=1.0)
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[1].bias.zero_()
        model[2].weight.fill_(1.0)
        model[2].bias.fill_(-50.0)  # there is more than 50 only where two layers see no border
    large = image(size=9)
    expected = outputs_of(model, (large,), {})
    prunus.compact(model, image(size=3))
    torch.testing.assert_close(outputs_of(model, (large,), {}), expected)


# -- where constants can go -----------------------------------------------------------------------------


def test_without_a_bias_the_running_mean_of_the_next_batch_norm_takes_the_constant() -> None:
    model = chain(
        nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU(),
        nn.Conv2d(8, 6, 3, bias=False), nn.BatchNorm2d(6), nn.SiLU(), nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    silence(model[0], [1, 4])
    plan = compacted(model, image())
    assert plan.folded == ["4.running_mean"]
    assert model[3].bias is None


def test_without_batch_norm_the_layer_gets_a_bias() -> None:
    model = chain(
        nn.Linear(6, 9), nn.Sigmoid(), nn.Linear(9, 7, bias=False), nn.Tanh(), nn.Linear(7, 3, bias=False)
    )
    silence(model[0], [0, 4])
    silence(model[2], [6])
    model[2].weight.requires_grad_(False)
    plan = compacted(model, vector())
    assert plan.added == ["2.bias"]
    assert plan.as_data()["added"] == ["2.bias"]
    assert model[2].bias.shape == (6,)
    assert not model[2].bias.requires_grad
    assert model[4].bias is None
    plan.undo(model)
    assert model[2].bias is None
    assert "2.bias" not in model.state_dict()


def test_a_bias_added_after_the_product_takes_the_constant() -> None:
    """Three-dimensional inputs that are not contiguous make a product and an addition."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(torch.sigmoid(self.a(x)).transpose(0, 1))
            return out

    model = randomised(Tokens())
    silence(model.a, [2, 3])  # type: ignore[arg-type]
    assert compacted(model, torch.randn(4, 5, 6).double()).folded == ["b.bias"]


class Twice(nn.Module):
    """One layer called on two tensors; in the second call a constant may be another."""

    def __init__(self, differ: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)
        self.differ = differ

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(self.a(x))
        z = torch.tanh(y) if self.differ else y.flip(0)
        out: Tensor = self.c(torch.sigmoid(self.b(y))) + self.c(torch.sigmoid(self.b(z)))
        return out


def test_a_layer_called_twice_takes_a_constant_that_both_calls_have() -> None:
    same, different = randomised(Twice(differ=False)), randomised(Twice(differ=True))
    for model in (same, different):
        silence(model.a, [0, 1])  # type: ignore[arg-type]
    assert compacted(same, vector(4)).folded == ["b.bias"]
    plan = compacted(different, vector(4))
    assert plan.chosen == {}
    assert "differs from call to call" in plan.left_alone["a.out"]


def test_a_bias_that_something_else_reads_takes_nothing() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(torch.sigmoid(self.a(x))) * self.b.bias
            return out

    model = randomised(Shared())
    silence(model.a, [2])  # type: ignore[arg-type]
    assert "used elsewhere" in compacted(model, vector()).left_alone["a.out"]


def test_a_product_that_is_an_output_takes_nothing() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.weight = nn.Linear(6, 8), nn.Parameter(torch.randn(8, 3))
            self.bias = nn.Parameter(torch.randn(3))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = torch.sigmoid(self.a(x)) @ self.weight
            return y, y + self.bias

    model = Raw()
    randomised(model)
    silence(model.a, [2])
    assert "no bias" in compacted(model, vector()).left_alone["a.out"]


def test_sums_over_positions_count_them() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.sigmoid(self.a(x))
            ones = torch.ones(1, x.shape[1], dtype=x.dtype)
            out: Tensor = self.b(ones @ x) + self.b(x.sum(1, keepdim=True))
            return out

    model = Pooled()
    randomised(model)
    silence(model.a, [2, 5])
    assert compacted(model, torch.randn(4, 5, 6).double()).folded == ["b.bias"]
    assert model.a.out_features == 6


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


# -- sequences ------------------------------------------------------------------------------------------


class Tagger(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.rnn = kind(6, 5, batch_first=True, **options)
        self.out = nn.Linear(5 * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.out(self.rnn(self.embed(tokens))[0])
        return out


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


# -- whole networks -------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down: nn.Module = nn.Identity()
        if stride > 1:
            self.down = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.down(x)
        out: Tensor = self.relu(y)
        return out


def resnet() -> nn.Sequential:
    blocks = [Block(i, o, s) for i, o, s in ((8, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1))]
    return chain(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


@pytest.mark.parametrize("shift", [-20.0, 0.0])
def test_a_masked_resnet(shift: float) -> None:
    """Masked filters that relu sets to zero go; those that it lets through stay beside the padding."""
    model = resnet()
    for module in list(model.modules()):
        if isinstance(module, Block):
            masks.ln_structured(module.conv1, "weight", amount=0.5, n=2, dim=0)
            with torch.no_grad():
                module.bn1.bias.mul_(0.0).add_(1.0)
                empty = module.conv1.weight_mask.flatten(1).sum(1) == 0  # type: ignore[operator]
                module.bn1.bias[empty] = shift + 1e-3
                module.bn1.running_mean.zero_()
                module.bn1.running_var.fill_(1.0)
    plan = compacted(model, image(size=12))
    widths = [module.conv1.out_channels for module in model.modules() if isinstance(module, Block)]
    assert widths == ([4, 4, 8, 8] if shift < 0 else [8, 8, 16, 16])
    assert len(plan.left_alone) == (0 if shift < 0 else 4)


def test_float32_and_half_precision() -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 0.01)):
        model = cnn().to(dtype)
        silence(model[0], [0, 1, 2])
        compacted(model, image().to(dtype), tolerance=tolerance)
        assert model[0].out_channels == 5
        assert {p.dtype for p in model.parameters()} == {dtype}


def test_what_is_in_force_outside_does_not_matter() -> None:
    model = cnn()
    silence(model[0], [0, 1, 2])
    model.float()
    x = image().float()
    expected = outputs_of(model, (x,), {})
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        prunus.compact(model, x)
    torch.testing.assert_close(outputs_of(model, (x,), {}), expected, rtol=1e-5, atol=1e-6)
    assert model[0].out_channels == 5


# -- the plan -------------------------------------------------------------------------------------------


def test_without_folding_the_outputs_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of this file can fail."""
    model = masked_cnn()
    with torch.no_grad():
        model[1].bias.copy_(torch.rand(8) + 0.5)
    monkeypatch.setattr(Operation, "shift", lambda self, tensor, amount: None)
    with pytest.raises(AssertionError, match="off by"):
        compacted(model, image())


def test_the_mode_and_gradients_survive() -> None:
    model = cnn()
    silence(model[0], [0, 1])
    model(image()).sum().backward()
    model.train()
    model[4].eval()
    modes = [module.training for module in model.modules()]
    prunus.compact(model, image())
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def test_optimizer_state_is_sliced_along() -> None:
    model = masked_cnn()
    optimizer = torch.optim.Adam(model.parameters())
    model(image()).sum().backward()
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict()["state"])
    plan = prunus.compact(model, image(), optimizer=optimizer)
    shapes = {tuple(p.shape) for p in model.parameters()}
    assert {tuple(s["exp_avg"].shape) for s in optimizer.state.values()} == shapes
    optimizer.zero_grad()
    model(image()).sum().backward()
    plan.undo(model)
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(before[i]["exp_avg"], after[i]["exp_avg"]) for i in before)


def test_undo_after_training_keeps_what_was_learned() -> None:
    model = chain(nn.Linear(6, 9), nn.Sigmoid(), nn.Linear(9, 3))
    masks.ln_structured(model[0], "weight", amount=4, n=2, dim=0)
    plan = prunus.compact(model, vector())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(vector()).square().sum().backward()
    optimizer.step()
    x = vector()
    expected = outputs_of(model, (x,), {})
    plan.undo(model)
    assert model[0].weight_orig.shape == (9, 6)
    torch.testing.assert_close(outputs_of(model, (x,), {}), expected)


def test_a_failed_verification_puts_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = masked_cnn()
    before = Snapshot.of(model)

    def fail(*_: Any) -> None:
        raise prunus.PruningError("not what was promised")

    monkeypatch.setattr("prunus.plan.verify", fail)
    with pytest.raises(prunus.PruningError, match="promised"):
        prunus.compact(model, image())
    assert before.differences(model, identity=True) == []


def test_bad_input_leaves_masks_in_place() -> None:
    model = masked_cnn()
    before = Snapshot.of(model)
    for args in ((), torch.randn(2, 5, 9, 9).double()):
        with pytest.raises(prunus.PruningError):
            prunus.compact(model, args)
    with pytest.raises(prunus.PruningError, match=r"nn\.Module"):
        prunus.compact("model", image())  # type: ignore[arg-type]
    assert before.differences(model, identity=True) == []


def test_a_model_without_values_is_refused() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
    with pytest.raises(prunus.PruningError, match="no values"):
        prunus.compact(model, torch.randn(2, 6, device="meta"))


def test_a_compaction_belongs_to_its_weights() -> None:
    model = chain(nn.Linear(6, 9), nn.Sigmoid(), nn.Linear(9, 3))
    silence(model[0], [1])
    plan = prunus.compact(model, vector())
    plan.undo(model)
    with pytest.raises(prunus.PruningError, match="found in"):
        plan.apply(model)
    with pytest.raises(prunus.PruningError, match="nothing to undo"):
        plan.undo(model)


def test_compaction_composes_with_pruning() -> None:
    model = cnn()
    silence(model[0], [0, 1])
    first = prunus.prune(model, image(), ratio=0.25)
    second = prunus.compact(model, image())
    second.undo(model)
    first.undo(model)
    assert model[0].out_channels == 8
