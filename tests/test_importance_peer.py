"""The same scores as Torch-Pruning's, where it computes the same thing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import prunus
from importance_models import build
from prunus.importance import Magnitude, TaylorElement, scores

tp = pytest.importorskip("torch_pruning")

REDUCTIONS = ("sum", "mean", "max", "prod", "first")
NORMALISERS = {
    "none": None,
    "sum": "sum",
    "mean": "mean",
    "max": "max",
    "standardise": "standarization",
    "gaussian": "gaussian",
    "lamp": "lamp",
}


def peer_scores(model: Any, x: Any, importance: Any) -> list[float]:
    """Of the hidden axis of a convolution, a batch norm and the convolution that reads them."""
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    group = graph.get_pruning_group(model.wide, tp.prune_conv_out_channels, idxs=list(range(8)))
    return importance(group).tolist()


def ours(model: Any, x: Any, importance: Any) -> list[float]:
    graph = prunus.trace(model, x)
    node = graph.axis("wide.out").node
    return scores(graph, [node], importance, None)[node].tolist()


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("normalize", NORMALISERS)
def test_magnitude(p: int, reduction: str, normalize: str) -> None:
    model, loader = build("residual")
    peer = tp.importance.MagnitudeImportance(
        p=p, group_reduction=reduction, normalizer=NORMALISERS[normalize], bias=False
    )
    mine = Magnitude(p=p, root=False, biases=False, reduction=reduction, normalize=normalize)
    # It accumulates in float32.
    wanted = pytest.approx(peer_scores(model, loader[0][0], peer), rel=1e-4, abs=1e-5)
    assert ours(model, loader[0][0], mine) == wanted


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_taylor(reduction: str) -> None:
    model, loader = build("residual")
    F.cross_entropy(model(loader[0][0]), loader[0][1]).backward()
    peer = tp.importance.TaylorImportance(group_reduction=reduction, normalizer="mean")
    mine = TaylorElement(reduction=reduction, biases=False)
    wanted = pytest.approx(peer_scores(model, loader[0][0], peer), rel=1e-4, abs=1e-5)
    assert ours(model, loader[0][0], mine) == wanted


def test_fisher_by_channel_is_its_obdc_done_over_all_samples() -> None:
    """Its accumulated Fisher, given the same samples, with the scale of a batch mean taken out."""
    from prunus.calibration import calibrate

    model, loader = build("residual")
    graph = prunus.trace(model, loader[0][0])
    calibrate(graph, loader, F.cross_entropy, per_sample=True, progress=False)
    node = graph.axis("wide.out").node
    found = scores(graph, [node], "obdc", None)[node].tolist()
    fisher = torch.zeros_like(model.wide.weight)
    for x, y in loader:
        for i in range(len(x)):
            model.zero_grad()
            F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
            fisher += model.wide.weight.grad.square()
    wanted = (model.wide.weight.detach().square() * fisher).flatten(1).sum(1)
    assert found == pytest.approx((wanted / wanted.mean()).tolist())
