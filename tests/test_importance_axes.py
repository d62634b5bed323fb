"""Every registered importance, unasked, on every kind of axis."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prunus
from importance_models import MODELS, build
from prunus.calibration import calibrate
from prunus.importance import NORMALISERS, REDUCTIONS, Importance, Magnitude, names, scores
from prunus.importance.base import REGISTRY


@cache
def calibrated(name: str) -> tuple[nn.Module, prunus.Graph, Any]:
    model, loader = build(name)
    graph = prunus.trace(model, loader[0][0])
    calibrate(graph, loader, F.cross_entropy, per_sample=True, covariance=True, progress=False)
    return model, graph, loader


def permuted(graph: prunus.Graph, model: nn.Module, axis: prunus.Axis, order: torch.Tensor) -> nn.Module:
    """The same function with the units of one axis in another order."""
    other = copy.deepcopy(model)
    tensors = dict(other.named_parameters()) | dict(other.named_buffers())
    with torch.no_grad():
        for name, tensor in tensors.items():
            for dim, node in enumerate(graph.parameter(name).axes):
                index = graph.terms.kept(node, {axis.node: order}, {})
                if index is not None:
                    tensor.copy_(tensor.index_select(dim, index))
    return other


@pytest.mark.parametrize("importance", names())
@pytest.mark.parametrize("network", MODELS)
def test_every_axis_gets_a_score_for_each_unit(network: str, importance: str) -> None:
    _, graph, _ = calibrated(network)
    found = scores(graph, [axis.node for axis in graph.prunable], importance, 0)
    assert set(found) == {axis.node for axis in graph.prunable}
    for axis in graph.prunable:
        units = found[axis.node]
        assert (units.shape, units.dtype, units.device.type) == ((axis.size,), torch.float64, "cpu")
        assert torch.isfinite(units).all()


@pytest.mark.parametrize("importance", [name for name in names() if name != "random"])
@pytest.mark.parametrize("network", MODELS)
def test_scores_follow_the_units(network: str, importance: str) -> None:
    """Units in another order, which leaves the function as it is, have the same scores in that order."""
    model, graph, loader = calibrated(network)
    nodes = [axis.node for axis in graph.prunable]
    before = scores(graph, nodes, importance, None)
    for axis in graph.prunable:
        order = torch.randperm(axis.size, generator=torch.Generator().manual_seed(axis.size))
        other = permuted(graph, model, axis, order)
        with torch.no_grad():
            assert torch.allclose(other(loader[0][0]), model(loader[0][0]), atol=1e-10), axis.name
        graph2 = prunus.trace(other, loader[0][0])
        calibrate(graph2, loader, F.cross_entropy, per_sample=True, covariance=True, progress=False)
        after = scores(graph2, [graph2.axis(axis.name).node], importance, None)
        (units,) = after.values()
        # Float32 would do in practice; here a difference beyond rounding is a wrong position.
        assert torch.allclose(units, before[axis.node][order], rtol=1e-7, atol=1e-9), axis.name


@pytest.mark.parametrize("importance", names())
@pytest.mark.parametrize("network", MODELS)
def test_a_budget_is_reached_under_every_importance(network: str, importance: str) -> None:
    _, graph, _ = calibrated(network)
    plan = graph.plan(budget=prunus.Budget(params=0.6), importance=importance, scope="global", seed=1)
    assert plan.cost.params <= 0.6 * graph.cost().params


def with_option(**options: Any) -> list[Importance]:
    return [type(item)(**options) for item in REGISTRY.values() if isinstance(item, Importance)]


@pytest.mark.parametrize("network", ["residual", "language"])
@pytest.mark.parametrize("normalize", NORMALISERS)
def test_every_normaliser_keeps_the_order_of_every_importance(network: str, normalize: str) -> None:
    _, graph, _ = calibrated(network)
    nodes = [axis.node for axis in graph.prunable]
    plain = with_option(normalize="none")
    for one, other in zip(plain, with_option(normalize=normalize), strict=True):
        before, after = (scores(graph, nodes, item, 3) for item in (one, other))
        for node in nodes:
            order = before[node].argsort()
            assert (after[node][order].diff() >= -1e-12).all(), (type(one).__name__, normalize)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_reduction_serves_every_importance(reduction: str) -> None:
    _, graph, _ = calibrated("residual")
    nodes = [axis.node for axis in graph.prunable]
    for importance in with_option(reduction=reduction):
        assert all(torch.isfinite(units).all() for units in scores(graph, nodes, importance, 0).values())


def test_a_function_is_an_importance_too() -> None:
    model, loader = build("linear")
    graph = prunus.trace(model, loader[0][0])

    def last_first(scoring: Any) -> dict[Any, torch.Tensor]:
        return {node: torch.arange(node.size).flip(0) for node in scoring.nodes}

    plan = graph.plan(ratio=1 / 3, importance=last_first)
    assert plan.indices("0.weight")[0].tolist() == list(range(6))


def test_scores_of_a_function_are_normalised_by_their_mean() -> None:
    model, loader = build("linear")
    graph = prunus.trace(model, loader[0][0])
    found = scores(
        graph,
        [axis.node for axis in graph.prunable],
        lambda scoring: {node: torch.full((node.size,), 7.0) for node in scoring.nodes},
        None,
    )
    assert all(torch.equal(units, torch.ones_like(units)) for units in found.values())


def test_global_rankings_use_the_normaliser() -> None:
    """The first hidden axis has the larger weights: without normalising, all that goes is of the second."""
    model, loader = build("linear")
    with torch.no_grad():
        model[0].weight.mul_(100)
    graph = prunus.trace(model, loader[0][0])

    def left(normalize: str) -> tuple[int, int]:
        plan = graph.plan(ratio=0.4, scope="global", importance=Magnitude(normalize=normalize))
        return len(plan.indices("0.weight")[0]), len(plan.indices("2.weight")[0])

    assert left("none")[0] == 9
    assert left("max")[0] < 9
    assert left("standardise")[0] < 9


def test_a_model_without_weights_is_ranked_in_order() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    graph = prunus.trace(model, torch.randn(2, 4))
    for importance in ("l1", "fpgm", "cosine", "bn_scale", "lamp"):
        (units,) = scores(graph, [axis.node for axis in graph.prunable], importance, None).values()
        assert len(units) == 6
        assert len(graph.plan(ratio=0.5, importance=importance).indices("0.weight")[0]) == 3


def test_bad_requests() -> None:
    model, loader = build("linear")
    graph = prunus.trace(model, loader[0][0])
    options: list[tuple[dict[str, Any], str]] = [
        ({"p": 0}, "p=0"),
        ({"p": -1.0}, "p=-1.0"),
        ({"p": float("inf")}, "p=inf"),
        ({"p": float("nan")}, "p=nan"),
        ({"p": None}, "p=None"),
        ({"p": True}, "p=True"),
        ({"reduction": "median"}, "unknown reduction 'median'; there are sum, mean, max, prod, first"),
        ({"normalize": "unit"}, "unknown normaliser 'unit'; there are none, sum"),
        ({"normalize": None}, "unknown normaliser None"),
    ]
    for given, pattern in options:
        with pytest.raises(prunus.PruningError, match=pattern):
            Magnitude(**given)
    importances: list[tuple[Any, str]] = [
        ("beauty", "unknown importance 'beauty'; there are activation, apoz"),
        (Magnitude, r"make an object of it, Magnitude\(\)"),
        (3, "must be a name, an Importance or a function, got int"),
        (lambda scoring: {}, r"no score of shape \(9,\) for axis '0.out'"),
        (lambda scoring: {node: torch.ones(2) for node in scoring.nodes}, "no score of shape"),
        (Magnitude(normalize=lambda units: units / 0), "the normaliser gave no finite scores"),
        (Magnitude(normalize=lambda units: units.sum()), "the normaliser gave no finite scores"),
    ]
    for importance, pattern in importances:
        with pytest.raises(prunus.PruningError, match=pattern):
            graph.plan(ratio=0.5, importance=importance)


def test_an_importance_can_be_registered() -> None:
    @prunus.importance.register("largest weight")
    def largest(scoring: Any) -> dict[Any, torch.Tensor]:
        return {
            node: torch.stack(vectors).amax(0)
            for node, vectors in scoring.sum_members(lambda weight: weight.abs() ** 20).items()
        }

    try:
        model, loader = build("linear")
        model[0].weight.data[3, 2] = 50
        graph = prunus.trace(model, loader[0][0])
        assert "largest weight" in names()
        plan = graph.plan(ratio={"0.out": 8 / 9}, importance="largest weight")
        assert plan.indices("0.weight")[0].tolist() == [3]
    finally:
        del REGISTRY["largest weight"]
