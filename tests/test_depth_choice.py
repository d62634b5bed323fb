"""Which blocks a plan removes, by rank, by name or by budget, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from hugging_face import tiny_llama
from snapshots import Snapshot
from test_blocks import Residual, network
from test_depth import small_torchvision


def graded() -> tuple[nn.Sequential, Tensor]:
    """Blocks '1'..'4' with weights that make their importances 3, 1, 4, 2 in order."""
    model = network(*(Residual() for _ in range(4)))
    with torch.no_grad():
        for block, size in zip(model[1:5], (3.0, 1.0, 4.0, 2.0), strict=True):
            for parameter in block.parameters():
                parameter.fill_(size)
    return model, torch.randn(2, 5)


def test_least_important_first() -> None:
    model, x = graded()
    graph = prunus.trace(model, x)
    for importance in ("l1", "l2", prunus.importance.Magnitude(p=1)):
        assert graph.plan(depth=1, block_importance=importance).blocks == ["2"]
        assert graph.plan(depth=2, block_importance=importance).blocks == ["2", "4"]
    assert graph.plan(depth=0.8).blocks == ["1", "2", "4"]
    assert graph.plan(depth=0.2).blocks == []
    assert graph.plan(depth=2, ignore=["4"]).blocks == ["1", "2"]
    assert graph.plan(depth=2, ignore=["2.norm"]).blocks == ["1", "4"]
    given = {"1": 0.5, graph.blocks[1]: 2, model[3]: 0.1, "4": 9}
    assert graph.plan(depth=2, block_importance=given).blocks == ["1", "3"]


def test_l2_by_hand() -> None:
    """The mean over the units of the block's axes of the root of the squares of its own entries there."""
    from prunus.select.block_scores import block_scores

    block = Residual()
    graph = prunus.trace(network(block, Residual()), torch.randn(2, 5))
    up, down = block.up.weight.double(), block.down.weight.double()
    hidden = up.square().sum(1) + block.up.bias.double().square() + down.square().sum(0)
    outer = (
        up.square().sum(0)
        + down.square().sum(1)
        + block.down.bias.double().square()
        + block.norm.weight.double().square()
        + block.norm.bias.double().square()
    )
    expected = torch.cat([hidden.sqrt(), outer.sqrt()]).mean().item()
    assert block_scores(graph, graph.blocks, "l2")[graph.blocks[0]] == pytest.approx(expected, rel=1e-6)


def test_gradients_rank_blocks_and_their_absence_is_an_error() -> None:
    model, x = graded()
    graph = prunus.trace(model, x)
    with pytest.raises(prunus.PruningError, match="gradient"):
        graph.plan(depth=1, block_importance="taylor")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model[3].zero_grad(set_to_none=False)
    assert graph.plan(depth=1, block_importance="taylor").blocks == ["3"]


def test_budget_removes_as_few_blocks_as_it_can() -> None:
    model, x = graded()
    graph = prunus.trace(model, x)
    full = graph.cost().macs
    each = graph.blocks[0].macs
    for count, order in ((1, ["2"]), (2, ["2", "4"]), (3, ["1", "2", "4"])):
        plan = graph.plan(depth="budget", budget=prunus.Budget(macs=full - count * each))
        assert plan.blocks == order
        assert plan.cost.macs == full - count * each
        assert not plan.counts
    assert graph.plan(depth="budget", budget=prunus.Budget(macs=1.0)).blocks == []
    with pytest.raises(prunus.errors.BudgetError, match=f"smallest reachable: {full - 4 * each}"):
        graph.plan(depth="budget", budget=prunus.Budget(macs=full - 4 * each - 1))


def test_latency_budget_is_timed_on_copies() -> None:
    model = nn.Sequential(*(Slow() for _ in range(4)), nn.Linear(8, 3))
    x = torch.randn(2, 8)
    before = Snapshot.of(model)
    plan = prunus.trace(model, x).plan(depth="budget", budget=prunus.Budget(latency=0.6))
    assert len(plan.blocks) == 2
    assert plan.latency is not None
    assert plan.latency.after <= 0.62 * plan.latency.before
    assert not before.differences(model, identity=True)
    with pytest.raises(prunus.errors.BudgetError, match="smallest reached"):
        prunus.trace(model, x).plan(depth="budget", budget=prunus.Budget(latency="1 us"))


class Slow(nn.Module):
    """A block that takes a while, whatever its size."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.f(x)
        for _ in range(200):
            h = h * 1.0
        return x + h


def test_ratios_of_what_is_removed_do_not_count() -> None:
    model, x = graded()
    graph = prunus.trace(model, x)
    plan = graph.plan(depth=["2"], ratio={"2.up": 0.5, "3.up": 0.5})
    assert list(plan.axes) == ["3.up.out"]
    assert not graph.plan(depth=["2"], ratio={"2.up": 0.5}).axes
    with pytest.raises(prunus.errors.UnknownNameError):
        graph.plan(depth=["2"], ratio={"9.up": 0.5})


def test_fixed_depth_beside_a_budget_that_it_meets_alone_cuts_no_widths() -> None:
    model, x = graded()
    plan = prunus.trace(model, x).plan(depth=3, budget=prunus.Budget(macs=0.5))
    assert len(plan.blocks) == 3
    assert not plan.counts


# --- what cannot be done -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"depth": ["7"]}, prunus.errors.UnknownNameError, "no module named '7'"),
        ({"depth": ["layer2.1x"]}, prunus.errors.UnknownNameError, "did you mean"),
        ({"depth": ["layer2.0"]}, prunus.errors.InputError, "another shape"),
        ({"depth": ["conv1"]}, prunus.errors.InputError, "cannot be removed"),
        ({"depth": [""]}, prunus.errors.InputError, "the model itself"),
        ({"depth": ["layer1"]}, prunus.errors.InputError, "blocks in a row"),
        ({"depth": 6}, prunus.errors.InputError, "5 blocks can be removed"),
        ({"depth": -1}, prunus.errors.InputError, "5 blocks can be removed"),
        ({"depth": 1.0}, prunus.errors.InputError, "fraction"),
        ({"depth": 0.0}, prunus.errors.InputError, "fraction"),
        ({"depth": float("nan")}, prunus.errors.InputError, "fraction"),
        ({"depth": True}, prunus.errors.ArgumentTypeError, "bool"),
        ({"depth": {"layer1.0": 1}}, prunus.errors.ArgumentTypeError, "dict"),
        ({"depth": [3]}, prunus.errors.ArgumentTypeError, "int"),
        ({"depth": nn.Linear(2, 2)}, prunus.errors.UnknownNameError, "not part of the traced model"),
        ({"depth": "budget"}, prunus.errors.InputError, "needs budget"),
        ({"depth": "budget", "ratio": 0.5}, prunus.errors.InputError, "needs budget"),
        ({"depth": 1, "ratio": 0.5, "budget": prunus.Budget(macs=0.5)}, prunus.errors.InputError, "either"),
        ({"depth": 1, "ignore": ["nothing"]}, prunus.errors.UnknownNameError, "nothing"),
        ({"depth": ["layer1.0"], "ignore": ["layer1"]}, prunus.errors.InputError, "ignore"),
        ({"depth": 1, "block_importance": "best"}, prunus.errors.InputError, "unknown importance"),
        ({"depth": 1, "block_importance": 3}, prunus.errors.ArgumentTypeError, "int"),
        ({"depth": 1, "block_importance": "influence"}, prunus.errors.InputError, "block_influence"),
        ({"depth": 1, "block_importance": {"layer1.0": 1.0}}, prunus.errors.InputError, "says nothing of"),
        ({"depth": 1, "block_importance": {"layer1.0": float("nan")}}, prunus.errors.InputError, "nan"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_bad_input(options: dict[str, Any], error: type[Exception], text: str, resnet: Any) -> None:
    graph, before = resnet
    with pytest.raises(error, match=text):
        graph.plan(**options)
    assert not before.differences(graph.model, identity=True)


@pytest.fixture(scope="module")
def resnet() -> Any:
    model = small_torchvision("resnet18").eval()
    return prunus.trace(model, torch.randn(1, 3, 32, 32)), Snapshot.of(model)


def test_a_block_and_one_inside_it() -> None:
    graph = prunus.trace(tiny_llama(), torch.randint(0, 31, (2, 7)))
    with pytest.raises(prunus.errors.InputError, match="lies in"):
        graph.plan(depth=["model.layers.0", "model.layers.0.mlp"])


def test_a_model_that_was_pruned_since() -> None:
    model, x = graded()
    graph, other = prunus.trace(model, x), prunus.trace(model, x)
    plan = graph.plan(depth=1)
    plan.apply(model)
    with pytest.raises(prunus.errors.PlanError):
        plan.apply(model)
    with pytest.raises(prunus.errors.PlanError):
        other.plan(depth=1).apply(model)
