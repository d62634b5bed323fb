"""Steps, sensitivity and penalties on a sample of the micro-networks: one for each kind of coupling."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import prunus
from micro import REGISTRY
from oracle import tensors_of
from prunus.training import GroupLasso, IterativePruning, linear, sensitivity
from snapshots import Snapshot

SAMPLE = sorted(REGISTRY)[::9]
TIED = ["mha_self", "window_attention", "transformer_decoder", "grid_attention", "detr_queries"]


@pytest.mark.parametrize("name", SAMPLE)
def test_steps_end_where_one_plan_does(name: str) -> None:
    model, args, kwargs = REGISTRY[name].fresh()
    expected = prunus.trace(model, args, kwargs).plan(ratio=0.5)
    pruning = IterativePruning(model, args, kwargs, ratio=0.5, steps=3, schedule=linear)
    for _ in range(3):
        pruning.advance()
    model(*args, **kwargs)
    kept = pruning.state_dict()["kept"]
    assert {axis: len(index) for axis, index in kept.items()} == {
        axis: len(index) for axis, index in expected.axes.items()
    }


@pytest.mark.parametrize("name", TIED)
def test_axes_that_equations_tie_are_measured_with_their_partners(name: str) -> None:
    """Each has a curve, the model is left as it was, and the ratios make a plan."""
    model, args, kwargs = REGISTRY[name].fresh()
    graph = prunus.trace(model, args, kwargs)

    def size(model: nn.Module) -> float:
        return sum(tensor.double().abs().sum().item() for tensor in tensors_of(model(*args, **kwargs)))

    before = Snapshot.of(model)
    with torch.no_grad():
        found = sensitivity(graph, size, (0.5,), progress=False)
    assert before.differences(model, identity=True, randomness=True) == []
    assert found.skipped == {}
    assert found.curves.keys() == {axis.name for axis in graph.prunable}
    assert any(curve.tied for curve in found.curves.values())
    for curve in found.curves.values():
        for other in curve.points[-1].cut:
            assert other not in found.rivals[curve.axis]
    ratios = found.ratios(max_loss=1e9)
    assert graph.plan(ratio=ratios).axes.keys() == ratios.keys()


@pytest.mark.parametrize("name", SAMPLE)
def test_group_lasso_on_any_coupling_is_the_gradient_of_its_penalty(name: str) -> None:
    """By finite differences of the penalty, along a random direction."""
    model, args, kwargs = REGISTRY[name].fresh()
    graph = prunus.trace(model, args, kwargs)
    if not graph.prunable:
        pytest.skip("nothing can be pruned")
    lasso = GroupLasso(graph, strength=1.0, alpha=0.0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    lasso()
    directions = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum((p.grad * d).sum().item() for p, d in zip(parameters, directions, strict=True))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=sign * 1e-3)
            values.append(lasso.penalty())
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.sub_(direction, alpha=sign * 1e-3)
    assert slope == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-5, abs=1e-8)
