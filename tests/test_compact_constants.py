"""Compaction of units that are constants: where they stay constants, and where they can go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import prunus
from compacting import chain, cnn, compacted, image, randomised, silence, vector
from oracle import outputs_of

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
