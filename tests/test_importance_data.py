"""Importances of gradients and activations against autograd and forward hooks on the plain model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from importance_members import AXES, BIASES, MEMBER_REDUCTIONS, Slices, by_unit, calibrated, check, entries
from importance_models import build
from prunus.calibration import calibrate
from prunus.importance import OptimalBrainDamage, Taylor, TaylorElement, Wanda


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, prunus.Graph, list[Any]]:
    return calibrated()


# -- gradients: the gate of a unit is a number that multiplies all its weights; its derivative is sum w g --


def gate_gradients(model: nn.Module, name: str, size: int, loss: Callable[[nn.Module], Tensor]) -> Tensor:
    """dL/dm for a gate m = 1 on every weight of each unit of an axis, by autograd."""
    gates = torch.ones(size, dtype=torch.float64, requires_grad=True)
    scaled = {key: value.detach().clone() for key, value in model.named_parameters()}
    for u in range(size):
        for key, index in AXES[name](u):
            mask = torch.zeros_like(scaled[key])
            mask[index] = 1
            scaled[key] = scaled[key] * (1 + mask * (gates[u] - 1))

    def run(x: Tensor) -> Tensor:
        return torch.func.functional_call(model, scaled, (x,))

    (found,) = torch.autograd.grad(loss(run), gates)
    return found


def all_samples(loader: list[Any]) -> list[tuple[Tensor, Tensor]]:
    return [(x[i : i + 1], y[i : i + 1]) for x, y in loader for i in range(len(x))]


def test_group_taylor_is_the_derivative_of_a_gate(case: Any) -> None:
    model, graph, loader = case
    samples = all_samples(loader)

    def mean_loss(run: Any) -> Tensor:
        return torch.stack([F.cross_entropy(run(x), y) for x, y in samples]).mean()

    def expected(name: str, size: int, unit: Any) -> list[float]:
        return gate_gradients(model, name, size, mean_loss).abs().tolist()

    check(graph, "taylor", expected)


def test_fisher_is_the_mean_square_of_the_derivatives_of_a_gate(case: Any) -> None:
    model, graph, loader = case

    def expected(name: str, size: int, unit: Any) -> list[float]:
        total = torch.zeros(size, dtype=torch.float64)
        for x, y in all_samples(loader):
            total += gate_gradients(model, name, size, lambda run: F.cross_entropy(run(x), y)).square()  # noqa: B023
        return (0.5 * total / 9).tolist()

    check(graph, prunus.importance.GroupFisher(normalize="none"), expected, lambda values: values)


def sample_gradients(model: nn.Module, loader: list[Any]) -> list[dict[str, Tensor]]:
    out = []
    for x, y in all_samples(loader):
        found = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        out.append(dict(zip(dict(model.named_parameters()), found, strict=True)))
    return out


def pairs(unit: Slices, *tensors: dict[str, Tensor]) -> list[list[tuple[float, ...]]]:
    """The same entries of several tensors side by side, a list for each member."""
    return [
        list(zip(*members, strict=True)) for members in zip(*(entries(t, unit) for t in tensors), strict=True)
    ]


@pytest.mark.parametrize("reduction", ["sum", "max", "first", "mean"])
@pytest.mark.parametrize("biases", [True, False])
def test_taylor_by_element_and_by_member(case: Any, reduction: str, biases: bool) -> None:
    model, graph, loader = case
    weights = dict(model.named_parameters())
    each = sample_gradients(model, loader)
    mean = {name: torch.stack([g[name] for g in each]).mean(0) for name in weights}
    reduce = MEMBER_REDUCTIONS[reduction]

    def chosen(unit: Slices) -> Slices:
        return [item for item in unit if biases or item[0] not in BIASES]

    element = by_unit(
        lambda unit: reduce([sum(abs(w * g) for w, g in m) for m in pairs(chosen(unit), weights, mean)])
    )
    check(graph, TaylorElement(reduction=reduction, biases=biases), element)

    def group(unit: Slices) -> float:
        signed = [sum(w * g for w, g in member) for member in pairs(chosen(unit), weights, mean)]
        return abs(reduce(signed)) if reduction in ("sum", "mean") else reduce([abs(s) for s in signed])

    check(graph, Taylor(reduction=reduction, biases=biases), by_unit(group))


def test_taylor_reads_the_gradients_on_the_model_where_there_is_no_calibration() -> None:
    model, loader = build("residual", seed=5)
    graph = prunus.trace(model, loader[0][0])
    F.cross_entropy(model(loader[0][0]), loader[0][1]).backward()
    weights = dict(model.named_parameters())
    mean = {name: parameter.grad for name, parameter in weights.items()}
    element = by_unit(lambda unit: sum(abs(w * g) for m in pairs(unit, weights, mean) for w, g in m))
    check(graph, "taylor_element", element)


def test_optimal_brain_damage_squares_each_sample(case: Any) -> None:
    model, graph, loader = case
    weights = dict(model.named_parameters())
    each = sample_gradients(model, loader)
    squares = {name: torch.stack([g[name] for g in each]).square().mean(0) for name in weights}
    damage = by_unit(lambda unit: sum(0.5 * h * w * w for m in pairs(unit, weights, squares) for w, h in m))
    check(graph, OptimalBrainDamage(normalize="none"), damage, lambda values: values)
    last = {name: each[-1][name].square() for name in weights}
    only_last = by_unit(lambda unit: sum(h * w * w for m in pairs(unit, weights, last) for w, h in m))
    with pytest.raises(AssertionError):
        check(graph, "obd", only_last)


def test_channel_optimal_brain_damage_looks_at_the_makers(case: Any) -> None:
    model, graph, loader = case
    weights = dict(model.named_parameters())
    each = sample_gradients(model, loader)
    squares = {name: torch.stack([g[name] for g in each]).square().mean(0) for name in weights}
    makers = {"stem.out": ("stem.weight", "back.weight"), "wide.out": ("wide.weight",)}

    def expected(name: str, size: int, unit: Any) -> list[float]:
        return [
            sum(float((squares[key][u] * weights[key].detach()[u] ** 2).sum()) for key in makers[name])
            for u in range(size)
        ]

    check(graph, "obdc", expected)


# -- activations: what forward hooks see on the plain model ------------------------------------------------


def inputs_of(model: nn.Module, loader: list[Any], names: list[str]) -> dict[str, Tensor]:
    """What each layer reads, channels first, all samples and positions behind."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: seen[name].append(args[0].movedim(1, 0).flatten(1))
        )
        for name in names
    ]
    with torch.no_grad():
        for x, _ in loader:
            model(x)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts, 1) for name, parts in seen.items()}


READERS = {"stem.out": ["wide", "head"], "wide.out": ["back"]}


def test_activations_are_those_that_readers_see(case: Any) -> None:
    model, graph, loader = case
    seen = inputs_of(model, loader, ["wide", "head", "back"])

    def mean(name: str, size: int, unit: Any) -> list[float]:
        return torch.stack([seen[r].abs().mean(1) for r in READERS[name]]).mean(0).tolist()

    def nonzero(name: str, size: int, unit: Any) -> list[float]:
        return torch.stack([(seen[r] != 0).double().mean(1) for r in READERS[name]]).mean(0).tolist()

    check(graph, "activation", mean)
    check(graph, "apoz", nonzero)


@pytest.mark.parametrize("biases", [True, False])
def test_wanda(case: Any, biases: bool) -> None:
    model, graph, loader = case
    weights = dict(model.named_parameters())
    seen = inputs_of(model, loader, ["stem", "wide", "head", "back"])
    scaled = {}
    for name, weight in weights.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and layer in seen:
            sizes = seen[layer].square().mean(1).sqrt()
            scaled[name] = weight.abs() * sizes.reshape([-1 if d == 1 else 1 for d in range(weight.dim())])
        elif name in BIASES and biases:
            scaled[name] = weight.abs()

    def total(unit: Slices) -> float:
        return sum(float(scaled[name].detach()[index].sum()) for name, index in unit if name in scaled)

    check(graph, Wanda(biases=biases), by_unit(total))


def test_wanda_of_a_grouped_convolution_pairs_groups() -> None:
    model, loader = build("depthwise", seed=1)
    graph = prunus.trace(model, loader[0][0])
    calibration = calibrate(graph, loader, progress=False)
    seen = inputs_of(model, loader, ["grouped", "depth"])
    for name, inner in (("grouped", 4), ("depth", 1)):
        weight = model.get_submodule(name).weight
        sizes = calibration.input_sizes(f"{name}.weight", tuple(weight.shape))
        rms = seen[name].square().mean(1).sqrt()
        per_group = weight.shape[0] // (8 // inner)
        for row, column in itertools.product(range(weight.shape[0]), range(inner)):
            wanted = float(rms[row // per_group * inner + column])
            assert sizes[row, column].flatten().tolist() == pytest.approx([wanted] * weight[0, 0].numel())
