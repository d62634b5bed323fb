"""Is a removed unit silent? Only if what stands between it and the sum over channels keeps zero at zero.

Each function maps the features of a pruned layer to something that is summed over channels, so that a unit
that is zero before the function and not zero after it would be missed. A plan may call itself exact only
where that cannot happen, and must where the function keeps zeros (else it says nothing of half the networks).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import prunus
from oracle import check_pruned

Function = Callable[[Tensor], Tensor]


class Summed(nn.Module):
    """stem -> function -> sum over channels, gating a second branch."""

    def __init__(self, function: Function, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.function = function
        self.stem, self.norm = nn.Conv2d(3, 12, 1), norm or nn.Identity()
        self.mid, self.head = nn.Conv2d(3, 10, 1), nn.Conv2d(10, 4, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = self.function(self.norm(self.stem(x_BCHW)))
        return self.head(self.mid(x_BCHW).relu() * y.flatten(2).sum(1)[:, None, None, -1:])


def cut(function: Function, norm: nn.Module | None = None) -> tuple[bool, bool]:
    """Prune half of everything, check what must hold; returns (stem was cut, plan is exact)."""
    model = Summed(function, norm).double().eval()
    inputs = torch.randn(2, 3, 4, 5).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    original = copy.deepcopy(model)
    plan = prunus.prune(model, inputs, ratio=0.5)
    assert check_pruned(original, model, plan, (inputs,), {}, 1e-9)
    return model.stem.out_channels < 12, plan.exact


KEEPS_ZERO: dict[str, Function] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "leaky_relu": lambda y: functional.leaky_relu(y, 0.2),
    "elu": functional.elu,
    "selu": functional.selu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda y: functional.gelu(y, approximate="tanh"),
    "silu": functional.silu,
    "mish": functional.mish,
    "hardswish": functional.hardswish,
    "tanh": torch.tanh,
    "hardtanh": functional.hardtanh,
    "square": torch.square,
    "power": lambda y: y**3,
    "absolute": torch.abs,
    "sine": torch.sin,
    "scaled": lambda y: 3 * y / 2,
    "negated": torch.neg,
    "swish_by_hand": lambda y: y * torch.sigmoid(1.7 * y),
    "squared_relu": lambda y: y.relu() ** 2,
    "clamped_through_zero": lambda y: y.clamp(-0.5, 0.7),
    "mean_over_space": lambda y: y.mean((2, 3), keepdim=True),
    "maximum_over_space": lambda y: y.amax((2, 3), keepdim=True),
    "pooled": lambda y: functional.avg_pool2d(y, 2),
    "padded_with_zeros": lambda y: functional.pad(y, (1, 1)),
    "interpolated": lambda y: functional.interpolate(y, scale_factor=2, mode="bilinear"),
    "multiplied_by_gate": lambda y: y * y.sigmoid(),
    "doubled": lambda y: y + y,
    "difference": lambda y: y.relu() - y.tanh(),
    "masked_with_zero": lambda y: y.masked_fill(y > 0.5, 0.0),
}

LOSES_ZERO: dict[str, Function] = {
    "sigmoid": torch.sigmoid,
    "hardsigmoid": functional.hardsigmoid,
    "softplus": functional.softplus,
    "logsigmoid": functional.logsigmoid,
    "exponential": torch.exp,
    "cosine": torch.cos,
    "plus_one": lambda y: y + 1,
    "one_minus": lambda y: 1 - y,
    "minus_own_mean": lambda y: y - y.mean(),
    "reciprocal": lambda y: 1 / (1 + y * y),
    "clamped_away": lambda y: y.clamp(min=0.1),
    "hardtanh_away": lambda y: functional.hardtanh(y, 0.2, 0.9),
    "threshold": lambda y: functional.threshold(y, 0.1, 20.0),
    "maximum_with_number": lambda y: torch.maximum(y, torch.tensor(0.25, dtype=y.dtype)),
    "compared": lambda y: (y >= 0).to(y.dtype),
    "equal_to_zero": lambda y: y.eq(0).to(y.dtype),
    "power_of_zero": lambda y: y.abs() ** 0.0,
    "where": lambda y: torch.where(y > 0, y, torch.ones_like(y)),
    "masked_with_one": lambda y: y.masked_fill(y < 0.5, 1.0),
    "padded_with_ones": lambda y: functional.pad(y, (0, 1), value=1.0),
    "softmax_over_space": lambda y: y.flatten(2).softmax(-1),
    "log_softmax_over_space": lambda y: y.flatten(2).log_softmax(-1),
    "logsumexp_over_space": lambda y: y.flatten(2).logsumexp(-1, keepdim=True),
    "joined_with_ones": lambda y: torch.cat([y, torch.ones_like(y)], 3),
    "ones_like": lambda y: torch.ones_like(y),
    "counted": lambda y: y + torch.ones(y.shape[1], dtype=y.dtype)[:, None, None],
    "logit": lambda y: torch.log1p(y.exp()),
    "in_place": lambda y: y.clone().add_(0.5),
    "in_place_through_a_view": lambda y: filled(y.clone()),
    "set_by_index": lambda y: indexed(y.clone()),
    "mean_over_channels_inside": lambda y: y - y.mean(1, keepdim=True),
    "softmax_over_channels_by_hand": lambda y: y.exp() / y.exp().sum(1, keepdim=True) * y.sigmoid(),
}


def filled(y: Tensor) -> Tensor:
    y[..., -1].fill_(2.0)
    return y


def indexed(y: Tensor) -> Tensor:
    y[:, :, :, -1] = 2.0
    return y


@pytest.mark.parametrize("name", KEEPS_ZERO)
def test_functions_that_keep_zero(name: str) -> None:
    assert cut(KEEPS_ZERO[name]) == (True, True)


@pytest.mark.parametrize("name", LOSES_ZERO)
def test_functions_that_lose_zero(name: str) -> None:
    was_cut, exact = cut(LOSES_ZERO[name])
    assert not (was_cut and exact)


@pytest.mark.parametrize("seed", range(3))
def test_normalisation_before_a_sum(seed: int) -> None:
    """With an affine part the whole channel is zeroed, without one its mean comes through."""
    torch.manual_seed(seed)
    affine, bare = nn.BatchNorm2d(12), nn.BatchNorm2d(12, affine=False)
    for norm in (affine, bare):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    assert cut(torch.relu, affine) == (True, True)
    was_cut, exact = cut(torch.relu, bare)
    assert not (was_cut and exact)
    assert cut(torch.relu, nn.InstanceNorm2d(12))[0]


TWO: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "product": (lambda a, b: a * b.sigmoid(), True),
    "sum": (lambda a, b: a + b.tanh(), True),
    "sum_with_a_sigmoid": (lambda a, b: a + b.sigmoid(), False),
    "product_of_sigmoids": (lambda a, b: a.sigmoid() * b.sigmoid(), False),
    "maximum": (torch.maximum, True),
    "minimum_with_exponential": (lambda a, b: torch.minimum(a, b.exp()), True),
    "quotient": (lambda a, b: a / b.exp(), True),
    "quotient_of_exponentials": (lambda a, b: a.exp() / b.exp(), False),
    "lerp": (lambda a, b: torch.lerp(a, b, 0.3), True),
    "addcmul": (lambda a, b: torch.addcmul(a, a, b, value=0.5), True),
    "where": (lambda a, b: torch.where(a > b, a, b), True),
    "where_else_one": (lambda a, b: torch.where(a > b, a, b.cos()), False),
    "power": (lambda a, b: a.exp() ** b, False),
}


class Pair(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.a, self.b, self.mid, self.head = (nn.Linear(*s) for s in ((6, 12), (6, 12), (6, 10), (10, 4)))

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.head(
            self.mid(x_BF).relu() * self.function(self.a(x_BF), self.b(x_BF)).sum(-1, keepdim=True)
        )


@pytest.mark.parametrize("name", TWO)
def test_functions_of_two_features(name: str) -> None:
    function, silent = TWO[name]
    model, inputs = Pair(function).double(), torch.randn(3, 6).double()
    original = copy.deepcopy(model)
    plan = prunus.prune(model, inputs, ratio=0.5)
    check_pruned(original, model, plan, (inputs,), {}, 1e-9)
    if silent:
        assert model.a.out_features == 6
    if not silent:
        assert not (model.a.out_features < 12 and plan.exact)


REDUCTIONS: dict[str, tuple[Function, bool | None]] = {
    "sum": (lambda y: y.sum(-1, keepdim=True), True),
    "euclidean_norm": (lambda y: y.norm(dim=-1, keepdim=True), True),
    "l1_norm": (lambda y: torch.linalg.vector_norm(y, 1, dim=-1, keepdim=True), True),
    "maximum_norm": (lambda y: torch.linalg.vector_norm(y, float("inf"), dim=-1, keepdim=True), True),
    "maximum_of_absolute": (lambda y: y.abs().amax(-1, keepdim=True), None),
    "maximum_of_relu": (lambda y: y.relu().max(-1, keepdim=True).values, None),
    "maximum": (lambda y: (y - 5).amax(-1, keepdim=True), False),
    "minimum": (lambda y: (y + 5).amin(-1, keepdim=True), False),
    "mean": (lambda y: y.mean(-1, keepdim=True), None),
    "mean_of_all": (lambda y: y.mean() + y[:, :1] * 0, None),
    "deviation": (lambda y: y.std(-1, keepdim=True), None),
    "variance_and_mean": (lambda y: sum(torch.var_mean(y, -1, keepdim=True)), None),
    "logsumexp": (lambda y: y.logsumexp(-1, keepdim=True), None),
    "product": (lambda y: (y + 1).prod(-1, keepdim=True), None),
    "mean_squared_error": (lambda y: functional.mse_loss(y, y.tanh()) + y[:, :1] * 0, None),
    "cosine_with_itself": (lambda y: functional.cosine_similarity(y, y.tanh(), dim=-1)[:, None], True),
    "any": (lambda y: (y > 0.3).any(-1, keepdim=True).to(y.dtype), None),
    "count": (lambda y: (y >= 0).sum(-1, keepdim=True).to(y.dtype), None),
    "median": (lambda y: y.median(-1, keepdim=True).values, None),
    "quantile": (lambda y: y.quantile(0.5, dim=-1, keepdim=True), None),
    "first_of_softmax": (lambda y: y.softmax(-1).square().sum(-1, keepdim=True), None),
    "last_of_cumsum": (lambda y: y.cumsum(-1)[:, -1:], None),
    "trapezoid": (lambda y: torch.trapezoid(y, dim=-1)[:, None], None),
    "difference_of_neighbours": (lambda y: y.diff(dim=-1).square().sum(-1, keepdim=True), None),
    "pooled_channels": (lambda y: functional.max_pool1d(y[:, None], 2).sum(-1), None),
    "adaptive_pooled_channels": (lambda y: functional.adaptive_avg_pool1d(y[:, None], 1)[:, 0], None),
}


class Reduced(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.stem, self.mid, self.head = nn.Linear(6, 12), nn.Linear(6, 10), nn.Linear(10, 4)

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.head(self.mid(x_BF).relu() * self.function(self.stem(x_BF)))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_over_channels(name: str) -> None:
    """True: must be cut, exactly. False: must not be both. None: only what is claimed is checked."""
    function, expected = REDUCTIONS[name]
    model, inputs = Reduced(function).double(), torch.randn(3, 6).double()
    original = copy.deepcopy(model)
    plan = prunus.prune(model, inputs, ratio=0.5)
    assert check_pruned(original, model, plan, (inputs,), {}, 1e-9)
    was_cut = model.stem.out_features < 12
    if expected is not None:
        assert (was_cut and plan.exact) == expected
