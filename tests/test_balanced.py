"""The balanced scope: widths at which no cut loses less for what it saves."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.graph.graph import Graph


class TwoResolutions(nn.Module):
    """Two pairs of convolutions with the same weights, the second at a quarter of the pixels."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.inlet = nn.Conv2d(3, width, 1)
        self.fine = nn.Conv2d(width, width, 1)
        self.between = nn.Conv2d(width, 3, 1)
        self.again = nn.Conv2d(3, width, 1)
        self.coarse = nn.Conv2d(width, width, 1)
        self.outlet = nn.Conv2d(width, 3, 1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(0.5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.between(self.fine(self.inlet(x_BCHW))).sigmoid()
        y_BCHW = nn.functional.avg_pool2d(y_BCHW, 2)
        return self.outlet(self.coarse(self.again(y_BCHW)))


class Residual(nn.Module):
    def __init__(self, width: int = 8, hidden: int = 8, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Linear(4, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
            for _ in range(blocks)
        )
        self.head = nn.Linear(width, 2)

    def forward(self, x_BE: Tensor) -> Tensor:
        y_BE = self.stem(x_BE)
        for block in self.blocks:
            y_BE = y_BE + block(y_BE)
        return self.head(y_BE)


def kept(graph: Graph, plan: prunus.Plan) -> dict[str, int]:
    return {axis.name: len(plan.axes.get(axis.name, range(axis.size))) for axis in graph.prunable}


def lost(graph: Graph, counts: dict[str, int], scores: dict[str, Tensor]) -> float:
    """`-m log f` summed over the axes, m being the matrices that an axis runs through."""
    total = 0.0
    for axis in graph.prunable:
        ordered = scores[axis.name].sort(descending=True).values
        share = float(ordered[: counts[axis.name]].sum() / ordered.sum())
        total -= sum(len(graph.shapes[name]) > 1 for name, _ in axis.members) * math.log(share)
    return total


def magnitudes(graph: Graph) -> dict[str, Tensor]:
    """The l2 norm of all entries of each unit, by loops."""
    tensors = graph.tensors()
    return {
        axis.name: torch.stack(
            [
                sum(
                    tensors[name].detach().double().select(dim, unit).square().sum()
                    for name, dim in axis.members
                )
                for unit in range(axis.size)
            ]
        ).sqrt()
        for axis in graph.prunable
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_close_to_the_best_of_all_widths(seed: int, share: float) -> None:
    torch.manual_seed(seed)
    model = Residual(width=6, hidden=5, blocks=2)
    graph = prunus.trace(model, torch.randn(2, 4))
    plan = graph.plan(budget=prunus.Budget(macs=share), scope="balanced")
    limit = int(share * graph.cost().macs)
    scores = magnitudes(graph)
    names = [axis.name for axis in graph.prunable]
    assert len(names) == 3

    def macs(widths: dict[str, int]) -> int:
        width, *hidden = (widths[name] for name in names)
        return 2 * (4 * width + 2 * width + sum(2 * width * units for units in hidden))

    best = math.inf
    for combination in itertools.product(*(range(1, axis.size + 1) for axis in graph.prunable)):
        widths = dict(zip(names, combination, strict=True))
        if macs(widths) <= limit:
            best = min(best, lost(graph, widths, scores))
    found = kept(graph, plan)
    assert plan.cost.macs == macs(found) <= limit
    assert lost(graph, found, scores) <= 1.35 * best + 0.2


def test_nothing_more_fits() -> None:
    torch.manual_seed(0)
    graph = prunus.trace(Residual(), torch.randn(2, 4))
    plan = graph.plan(budget=prunus.Budget(macs=0.4), scope="balanced")
    counts = kept(graph, plan)
    for axis in graph.prunable:
        if counts[axis.name] < axis.size:
            more = {a.node: counts[a.name] + (a is axis) for a in graph.prunable}
            assert graph.cost_model.at(more).macs > int(0.4 * graph.cost().macs)


def test_what_costs_more_is_cut_more() -> None:
    model = TwoResolutions()
    graph = prunus.trace(model, torch.randn(1, 3, 8, 8))
    counts = kept(graph, graph.plan(budget=prunus.Budget(macs=0.4), scope="balanced"))
    assert max(counts["inlet.out"], counts["fine.out"]) < min(counts["again.out"], counts["coarse.out"])
    equal = kept(graph, graph.plan(budget=prunus.Budget(macs=0.4), scope="local"))
    del equal["between.out"]  # three units cannot lose the share of twelve
    assert max(equal.values()) - min(equal.values()) <= 1


def test_what_many_weights_read_is_not_the_first_to_go() -> None:
    """A unit of the residual stream saves six times as much as a hidden one, but as many more read it."""
    model = Residual(width=16, hidden=16, blocks=6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    graph = prunus.trace(model, torch.randn(2, 4))
    counts = kept(graph, graph.plan(budget=prunus.Budget(params=0.3), scope="balanced"))
    stream = counts.pop("stem.out")
    assert stream >= max(counts.values())
    assert min(counts.values()) >= 4  # no axis is emptied while others are whole


def test_limits_multiples_and_several_costs_hold() -> None:
    torch.manual_seed(0)
    graph = prunus.trace(Residual(16, 16), torch.randn(2, 4))
    budget = prunus.Budget(macs=0.7, params=0.65)
    plan = graph.plan(budget=budget, scope="balanced", round_to=4, protect=0.5, ignore=["stem"])
    counts = kept(graph, plan)
    assert counts["stem.out"] == 16
    assert all(count % 4 == 0 and count >= 8 for count in counts.values())
    full = graph.cost()
    assert plan.cost.macs <= 0.7 * full.macs
    assert plan.cost.params <= 0.65 * full.params


def test_refusals() -> None:
    graph = prunus.trace(Residual(), torch.randn(2, 4))
    with pytest.raises(prunus.PruningError, match="give budget"):
        graph.plan(ratio=0.5, scope="balanced")
    with pytest.raises(prunus.PruningError, match="smallest reachable"):
        graph.plan(budget=prunus.Budget(macs=1), scope="balanced")
