"""Importances of weights alone against their published formulas, computed one weight at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from importance_members import AXES, BIASES, MEMBER_REDUCTIONS, Slices, by_unit, calibrated, check, entries
from importance_models import Residual
from prunus.importance import Magnitude, scores


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, prunus.Graph, list[Any]]:
    return calibrated()


@pytest.mark.parametrize("p", [0.5, 1, 2, 3])
@pytest.mark.parametrize("biases", [True, False])
def test_magnitude(case: Any, p: float, biases: bool) -> None:
    model, graph, _ = case
    weights = dict(model.named_parameters())

    def norm(unit: Slices) -> float:
        chosen = [item for item in unit if biases or item[0] not in BIASES]
        return sum(abs(w) ** p for member in entries(weights, chosen) for w in member) ** (1 / p)

    check(graph, Magnitude(p=p, biases=biases), by_unit(norm))


def lamp_of(squares: list[float]) -> list[float]:
    return [s / sum(t for t in squares if t >= s) for s in squares]


def test_lamp(case: Any) -> None:
    model, graph, _ = case
    weights = dict(model.named_parameters())
    squares = by_unit(lambda unit: sum(w * w for member in entries(weights, unit) for w in member))
    check(graph, "lamp", squares, lamp_of)


@pytest.mark.parametrize("reduction", MEMBER_REDUCTIONS)
def test_reductions_over_coupled_members(case: Any, reduction: str) -> None:
    model, graph, _ = case
    weights = dict(model.named_parameters())
    reduce = MEMBER_REDUCTIONS[reduction]

    def l2(unit: Slices) -> float:
        return math.sqrt(reduce([sum(w * w for w in member) for member in entries(weights, unit)]))

    check(graph, Magnitude(reduction=reduction), by_unit(l2))


def gaussian_of(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return [(v - mean) / std for v in values]


NORMALISED: dict[str, Callable[[list[float]], list[float]]] = {
    "none": lambda values: values,
    "sum": lambda values: [v / sum(values) for v in values],
    "mean": lambda values: [v * len(values) / sum(values) for v in values],
    "max": lambda values: [v / max(values) for v in values],
    "standardise": lambda values: [(v - min(values)) / (max(values) - min(values)) for v in values],
    "gaussian": gaussian_of,
    "lamp": lamp_of,
}


@pytest.mark.parametrize("normalize", NORMALISED)
def test_normalisers(case: Any, normalize: str) -> None:
    model, graph, _ = case
    weights = dict(model.named_parameters())
    l1 = by_unit(lambda unit: sum(abs(w) for member in entries(weights, unit) for w in member))
    check(graph, Magnitude(p=1, normalize=normalize), l1, NORMALISED[normalize])


@pytest.mark.parametrize("normalize", NORMALISED)
def test_normalisers_take_zeros_and_ties(normalize: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)).double()
    graph = prunus.trace(model, torch.randn(2, 3, dtype=torch.float64))
    for value in (0.0, 1.0):
        for parameter in model.parameters():
            parameter.data.fill_(value)
        (units,) = scores(
            graph, [axis.node for axis in graph.prunable], Magnitude(normalize=normalize), None
        ).values()
        assert torch.isfinite(units).all()
        if value == 0:
            assert (units == 0).all()
    (units,) = scores(
        graph, [axis.node for axis in graph.prunable], Magnitude(normalize=lambda s: s + 1), None
    ).values()
    assert units.tolist() == pytest.approx([math.sqrt(5) + 1] * 4)


def test_batch_norm_scale_and_what_has_none(case: Any) -> None:
    """The stream has a batch norm; the other axis is ranked by magnitude, with the same mean."""
    model, graph, _ = case
    weights = dict(model.named_parameters())

    def expected(name: str, size: int, unit: Callable[[int], Slices]) -> list[float]:
        if name == "stem.out":
            return weights["norm.weight"].detach().abs().tolist()
        return [math.sqrt(sum(w * w for m in entries(weights, unit(u)) for w in m)) for u in range(size)]

    check(graph, "bn_scale", expected)
    plain = prunus.importance.BatchNormScale(normalize="none")
    found = scores(graph, [axis.node for axis in graph.prunable], plain, None)
    means = [float(units.mean()) for units in found.values()]
    assert means == pytest.approx([float(weights["norm.weight"].detach().abs().mean())] * 2)


def distance(a: list[float], b: list[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def matrix_members(tensors: dict[str, Tensor], unit: Callable[[int], Slices], size: int) -> list[Any]:
    """The weights of each unit in each member that is a matrix: member, unit, weight."""
    chosen = [[i for i in unit(u) if tensors[i[0]].dim() > 1] for u in range(size)]
    return list(zip(*(entries(tensors, item) for item in chosen), strict=True))


def test_geometric_median(case: Any) -> None:
    model, graph, _ = case
    weights = dict(model.named_parameters())

    def expected(name: str, size: int, unit: Callable[[int], Slices]) -> list[float]:
        members = matrix_members(weights, unit, size)
        return [sum(distance(m[u], m[v]) for m in members for v in range(size)) for u in range(size)]

    check(graph, "fpgm", expected)


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_cosine_redundancy(case: Any) -> None:
    model, graph, _ = case
    weights = dict(model.named_parameters())

    def expected(name: str, size: int, unit: Callable[[int], Slices]) -> list[float]:
        members = matrix_members(weights, unit, size)
        norms = [sum(x * x for m in members for x in m[u]) for u in range(size)]
        out = []
        for u in range(size):
            alike = [
                sum(cosine(m[u], m[v]) for m in members) / len(members)
                for v in range(size)
                if norms[v] > norms[u]
            ]
            out.append(1 - max(alike, default=-1))
        return out

    check(graph, "cosine", expected)


def test_of_two_parallel_units_the_smaller_goes() -> None:
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, 5, bias=False)).double()
    model[0].weight.data[4] = 0.5 * model[0].weight.data[1]
    model[2].weight.data[:, 4] = 0.5 * model[2].weight.data[:, 1]
    graph = prunus.trace(model, torch.randn(2, 5, dtype=torch.float64))
    plan = graph.plan(ratio=1 / 6, importance="cosine")
    assert plan.indices("0.weight")[0].tolist() == [0, 1, 2, 3, 5]


def test_large_axes_are_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """More units than a chunk has rows: the same scores as in one piece."""
    import prunus.importance.units as units

    model = nn.Sequential(nn.Linear(7, 300), nn.ReLU(), nn.Linear(300, 5)).double()
    graph = prunus.trace(model, torch.randn(2, 7, dtype=torch.float64))
    nodes = [axis.node for axis in graph.prunable]
    for importance in ("fpgm", "cosine"):
        (pieces,) = scores(graph, nodes, importance, None).values()
        monkeypatch.setattr(units, "ROWS", 1000)
        (whole,) = scores(graph, nodes, importance, None).values()
        monkeypatch.undo()
        assert torch.allclose(pieces, whole, rtol=1e-9)


def test_residual_is_what_the_tables_say() -> None:
    """The hand-written members are all that the graph knows, so that nothing is left out above."""
    graph = prunus.trace(Residual(), torch.randn(1, 3, 5, 5))
    for name, unit in AXES.items():
        assert {key for key, _ in unit(0)} == {key for key, _ in graph.axis(name).members}


def test_the_first_member_makes_the_units_wherever_it_is_registered() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reader = nn.Linear(6, 3)
            self.scale = nn.Parameter(torch.rand(6))
            self.maker = nn.Linear(4, 6)

        def forward(self, x_BF: Tensor) -> Tensor:
            return self.reader(self.maker(x_BF) * self.scale)

    model = Backwards()
    graph = prunus.trace(model, torch.randn(2, 4))
    (axis,) = graph.prunable
    found = scores(graph, [axis.node], Magnitude(p=1, reduction="first", normalize="none"), None)
    assert found[axis.node].tolist() == pytest.approx(model.maker.weight.abs().sum(1).tolist())


def test_distances_follow_a_flip() -> None:
    """The second layer reads the units backwards, and is all that tells them apart."""

    class Flipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(3, 5, bias=False), nn.Linear(5, 3, bias=False)

        def forward(self, x_BF: Tensor) -> Tensor:
            return self.outer(self.inner(x_BF).relu().flip(-1))

    model = Flipped().double()
    model.inner.weight.data.fill_(1)
    graph = prunus.trace(model, torch.randn(2, 3, dtype=torch.float64))
    axis = graph.axes_of("inner.weight", outputs_only=True)[0]
    columns = model.outer.weight.detach().flip(1).T
    wanted = [sum(float((columns[u] - columns[v]).norm()) for v in range(5)) for u in range(5)]
    nodes = [axis.node for axis in graph.prunable]
    found = scores(graph, nodes, prunus.importance.GeometricMedian(normalize="none"), None)
    assert axis.prunable
    assert found[axis.node].tolist() == pytest.approx(wanted)
