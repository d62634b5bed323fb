"""Pruning in steps against one plan on the original network, and against slicing by hand."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from prunus.errors import BudgetError, CheckpointError, InputError, PlanError, UnknownNameError
from prunus.graph.axes import Node
from prunus.importance import Importance, Scoring
from prunus.latency import measure
from prunus.training.schedules import agp, linear, one_shot
from prunus.training.stepping import IterativePruning


def convolutions(first: int = 17, second: int = 33) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, first, 3, padding=1),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(second, 5),
    )


class Attention(nn.Module):
    """Heads and head dims are the two factors of one width; a plan cuts one of them."""

    def __init__(self, width: int = 24, heads: int = 6) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x_BTE: Tensor) -> Tensor:
        batch, time, _ = x_BTE.shape
        q, k, v = self.qkv(x_BTE).chunk(3, dim=-1)
        q, k, v = (t.view(batch, time, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        mixed = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, time, -1))


X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 4, 24, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True, kw_only=True)
class Fixed(Importance):
    """Scores that no cut changes: each unit's own, looked up by the bias that its layer gives it."""

    normalize: str = "none"
    reads_weights: ClassVar[bool] = False

    def __call__(self, scoring: Scoring) -> dict[Node, Tensor]:
        tensors = scoring.graph.tensors()
        found = {}
        for node in scoring.nodes:
            (name,) = [n for n, _ in scoring.graph.by_node[node].members if n in ("0.bias", "3.bias")]
            found[node] = tensors[name].detach().double().abs()
        return found


def sizes(plan: prunus.Plan) -> dict[str, int]:
    return {name: len(index) for name, index in plan.axes.items()}


def kept(pruning: IterativePruning) -> dict[str, list[int]]:
    return {name: index.tolist() for name, index in pruning.state_dict()["kept"].items()}


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.floats(0.05, 0.95), st.integers(1, 5))
def test_each_step_reaches_the_ratio_of_the_original(
    first: int, second: int, ratio: float, steps: int
) -> None:
    """Rounding does not add up: after step k the sizes are those of one plan with the ratio of step k."""
    model = convolutions(first, second)
    whole = prunus.trace(copy.deepcopy(model), X)
    pruning = IterativePruning(model, X, ratio=ratio, steps=steps, schedule=agp)
    for step in range(1, steps + 1):
        pruning.advance()
        expected = whole.plan(ratio=ratio * agp(step, steps) if step < steps else ratio)
        assert {name: len(index) for name, index in kept(pruning).items()} == sizes(expected)
        assert pruning.cost() == expected.cost == prunus.trace(model, X).cost()


@pytest.mark.parametrize(
    "asked",
    [
        {"ratio": 0.6},
        {"ratio": 0.6, "scope": "global"},
        {"ratio": 0.5, "scope": "isomorphic", "round_to": 4},
        {"ratio": {"0": 0.3, "3": 0.7}},
        {"ratio": 0.8, "scope": "global", "protect": 0.3},
        {"ratio": 0.6, "max_ratio": {"0": 0.2}},
        {"ratio": 0.6, "scope": "global", "ignore": "0"},
        {"budget": prunus.Budget(macs=0.3)},
        {"budget": prunus.Budget(macs=0.4, params=0.3), "scope": "global"},
        {"budget": prunus.Budget(memory=0.5)},
    ],
)
def test_with_scores_that_stay_steps_end_where_one_plan_does(asked: dict[str, Any]) -> None:
    """Without training in between, many steps are one: the same units, the same weights, the same costs."""
    model = convolutions()
    original = copy.deepcopy(model)
    expected = prunus.trace(original, X).plan(importance=Fixed(), **asked)
    pruning = IterativePruning(model, X, steps=3, schedule=linear, importance=Fixed(), **asked)
    costs = [pruning.original.macs]
    for _ in range(3):
        pruning.advance()
        costs.append(pruning.cost().macs)
    assert kept(pruning) == {name: index.tolist() for name, index in expected.axes.items()}
    assert all(after <= before for before, after in itertools.pairwise(costs))
    expected.apply(original)
    for (name, one), other in zip(original.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_budgets_are_covered_step_by_step() -> None:
    model = convolutions()
    pruning = IterativePruning(
        model, X, budget=prunus.Budget(macs=0.4, params=0.5), steps=4, schedule=agp, scope="global"
    )
    full = pruning.original
    for step in range(1, 5):
        pruning.advance()
        part = agp(step, 4)
        assert pruning.cost().macs <= full.macs * (1 - 0.6 * part)
        assert pruning.cost().params <= full.params * (1 - 0.5 * part) + 1


@pytest.mark.parametrize("asked", [{"ratio": 0.5}, {"ratio": 0.5, "head_ratio": 0.5, "head_dim_ratio": 0.25}])
def test_the_factor_of_a_product_that_is_cut_stays_the_same(asked: dict[str, Any]) -> None:
    model = Attention()
    expected = prunus.trace(copy.deepcopy(model), TOKENS).plan(**asked)
    pruning = IterativePruning(model, TOKENS, steps=4, schedule=linear, **asked)
    for _ in range(4):
        pruning.advance()
        model(TOKENS)
    assert {name: len(index) for name, index in kept(pruning).items()} == sizes(expected)


def test_an_axis_may_end_with_one_unit() -> None:
    model = Attention(width=8, heads=2)
    x = torch.randn(1, 3, 8)
    pruning = IterativePruning(model, x, ratio=0.0, head_ratio=0.5, steps=3, schedule=one_shot)
    for _ in range(3):
        pruning.advance()
    assert model.heads == 1
    assert pruning.cost().macs == prunus.trace(model, x).cost().macs


def test_kept_units_are_counted_in_the_original_network() -> None:
    model = convolutions()
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    pruning = IterativePruning(model, X, ratio=0.5, steps=3, schedule=linear)
    for _ in range(3):
        pruning.advance()
    first, second = (torch.tensor(kept(pruning)[name]) for name in ("0.out", "3.out"))
    assert torch.equal(model[0].weight, before["0.weight"][first])
    assert torch.equal(model[3].weight, before["3.weight"][second][:, first])
    assert torch.equal(model[7].weight, before["7.weight"][:, second])


def test_scores_are_those_of_the_network_as_it_is() -> None:
    """A unit that training has made small between two steps goes, however large it was."""
    model = convolutions(8, 8)
    pruning = IterativePruning(model, X, ratio={"0": 0.5}, steps=2, schedule=linear)
    pruning.advance()
    left = kept(pruning)["0.out"]
    with torch.no_grad():
        model[0].weight[1:3] *= 1e-3
        model[1].weight[1:3] *= 1e-3
        model[3].weight[:, 1:3] *= 1e-3
        model[0].bias[1:3] *= 1e-3
    pruning.advance()
    assert kept(pruning)["0.out"] == [left[0], *left[3:]]


def test_the_optimizer_follows() -> None:
    model = convolutions()
    optimizer = torch.optim.AdamW(model.parameters())
    pruning = IterativePruning(model, X, ratio=0.5, steps=2, schedule=linear)
    for _ in range(2):
        model(X).square().sum().backward()
        optimizer.step()
        moments = optimizer.state[model[7].weight]["exp_avg"].clone()
        plan = pruning.advance(optimizer)
        assert torch.equal(
            optimizer.state[model[7].weight]["exp_avg"], moments[:, plan.indices("7.weight")[1]]
        )
        for parameter in model.parameters():
            assert optimizer.state[parameter]["exp_avg_sq"].shape == parameter.shape
        optimizer.zero_grad()


def test_a_plateau_changes_nothing() -> None:
    model = convolutions()
    pruning = IterativePruning(model, X, ratio=0.5, steps=3, schedule=one_shot)
    pruning.advance()
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    history = len(prunus.plan.history(model))
    assert not pruning.advance().chosen
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert len(prunus.plan.history(model)) == history


def test_units_that_are_gone_do_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget may leave room for a unit of an axis that has lost it before: it stays away."""
    model = convolutions(8, 8)
    pruning = IterativePruning(model, X, ratio={"0": 0.5}, steps=2, schedule=linear)
    pruning.advance()
    left = kept(pruning)["0.out"]
    roomy = prunus.Plan(pruning.graph, {pruning.graph.axis("0.out").node: torch.arange(7)})
    monkeypatch.setattr(pruning, "_planned", lambda *_: roomy)
    pruning.advance()
    assert kept(pruning)["0.out"] == [unit for unit in left if unit < 7]
    assert model[0].out_channels == len(kept(pruning)["0.out"])
    model(X)


def test_calibration_is_asked_for_before_ranking() -> None:
    model = convolutions()
    seen = []

    def gradients(graph: prunus.Graph) -> None:
        seen.append(graph.cost().macs)
        graph.model(X).square().sum().backward()

    pruning = IterativePruning(model, X, ratio=0.5, steps=2, importance="taylor", calibrate=gradients)
    pruning.advance()
    model.zero_grad()
    pruning.advance()
    assert seen[0] > seen[1]


def test_a_run_goes_on_from_its_state() -> None:
    one, other = convolutions(), convolutions()
    other.load_state_dict(one.state_dict())
    first = IterativePruning(one, X, ratio=0.5, steps=3, schedule=linear)
    second = IterativePruning(other, X, ratio=0.5, steps=3, schedule=linear)
    first.advance()
    for axis, index in first.state_dict()["kept"].items():
        assert len(index), axis
    plan = prunus.trace(other, X).plan(ratio=0.5 / 3)
    plan.apply(other)
    second.load_state_dict(first.state_dict())
    for pruning in (first, second):
        pruning.advance()
        pruning.advance()
    assert kept(first) == kept(second)
    assert second.step == 3


def test_what_cannot_be_done_is_said_before_anything_changes() -> None:
    model = convolutions()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="either ratio"):
        IterativePruning(model, X)
    with pytest.raises(InputError, match="either ratio"):
        IterativePruning(model, X, ratio=0.5, budget=prunus.Budget(macs=0.5))
    with pytest.raises(InputError, match="outside"):
        IterativePruning(model, X, ratio=1.5)
    with pytest.raises(InputError, match="unknown importance"):
        IterativePruning(model, X, ratio=0.5, importance="best")
    with pytest.raises(UnknownNameError, match="typo"):
        IterativePruning(model, X, ratio={"typo": 0.5})
    with pytest.raises(UnknownNameError, match="typo"):
        IterativePruning(model, X, ratio=0.5, ignore="typo")
    with pytest.raises(BudgetError, match="smallest reachable"):
        IterativePruning(model, X, budget=prunus.Budget(macs=1))
    with pytest.raises(InputError, match="at least 1"):
        IterativePruning(model, X, ratio=0.5, steps=0)
    with pytest.raises(InputError, match="not removed in steps"):
        IterativePruning(model, X, ratio=0.5, depth=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_that_something_else_has_cut_is_noticed() -> None:
    model = convolutions()
    pruning = IterativePruning(model, X, ratio=0.5, steps=2)
    prunus.prune(model, X, ratio=0.3)
    with pytest.raises(PlanError, match="Something else has changed it"):
        pruning.advance()


def test_there_are_no_steps_after_the_last() -> None:
    pruning = IterativePruning(convolutions(), X, ratio=0.5, steps=1)
    pruning.advance()
    with pytest.raises(PlanError, match="all 1 steps"):
        pruning.advance()


def test_the_state_of_another_network_is_refused() -> None:
    pruning = IterativePruning(convolutions(), X, ratio=0.5, steps=1)
    pruning.advance()
    state = pruning.state_dict()
    with pytest.raises(CheckpointError, match="another network"):
        IterativePruning(convolutions(4, 4), X, ratio=0.5, steps=1).load_state_dict(state)
    with pytest.raises(CheckpointError, match="step 9"):
        pruning.load_state_dict({"step": 9, "kept": {}})


@pytest.mark.parametrize("absolute", [False, True])
def test_a_latency_budget_is_approached_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool
) -> None:
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path))
    model = convolutions(32, 64)
    x = torch.randn(1, 3, 20, 20)
    asked = f"{0.5 * measure(model, x)} ms" if absolute else 0.5
    pruning = IterativePruning(model, x, budget=prunus.Budget(latency=asked), steps=2, schedule=linear)
    first, second = pruning.advance().latency, pruning.advance().latency
    assert first is not None
    assert second is not None
    noise = 0.25 if absolute else 1e-6  # milliseconds are those of another measurement
    assert first.limit / first.before == pytest.approx(0.75, abs=noise)
    assert second.limit / second.before == pytest.approx(0.5, abs=noise)
    assert pruning.cost() == prunus.trace(model, x).cost()
