"""What a plan may be asked: ratios by axis, limits, heads of their own, rounding."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from oracle import check_pruned
from prunus import Budget, Graph, PruningError
from prunus.errors import InputError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3)
        self.body = nn.Sequential(nn.Conv2d(24, 40, 3), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 16, 1))
        self.head = nn.Linear(16, 5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x_BCHW).relu()).mean((2, 3)))


class Attention(nn.Module):
    """8 heads of 16 dimensions, width 32."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 8
        self.q, self.k, self.v = (nn.Linear(32, 128) for _ in range(3))
        self.out = nn.Linear(128, 32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x_BTC: Tensor) -> Tensor:
        b, t, _ = x_BTC.shape
        q, k, v = (f(x_BTC).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1)
        x_BTC = x_BTC + self.out(y)
        return x_BTC + self.mlp(x_BTC)


@pytest.fixture
def net() -> Graph:
    torch.manual_seed(0)
    return prunus.trace(Net().eval(), torch.randn(1, 3, 12, 12))


@pytest.fixture
def attention() -> Graph:
    torch.manual_seed(0)
    return prunus.trace(Attention().eval(), torch.randn(2, 5, 32))


def sizes(plan: prunus.Plan) -> dict[str, int]:
    """Kept units of every prunable axis."""
    kept = plan.axes
    return {a.name: len(kept[a.name]) if a.name in kept else a.size for a in plan.graph.prunable}


def by_kind(plan: prunus.Plan, kind: str) -> list[int]:
    return [size for name, size in sizes(plan).items() if plan.graph.axis(name).kind == kind]


# -- limits -------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    ratio=st.floats(0, 0.99),
    most=st.floats(0, 0.99),
    protect=st.floats(0, 0.99),
    scope=st.sampled_from(["local", "global", "isomorphic"]),
)
def test_no_axis_loses_more_than_it_may(ratio: float, most: float, protect: float, scope: str) -> None:
    graph = prunus.trace(Net().eval(), torch.randn(1, 3, 12, 12))
    plan = graph.plan(ratio=ratio, scope=scope, max_ratio=most, protect=protect)
    for name, kept in sizes(plan).items():
        size = graph.axis(name).size
        assert kept >= size - math.floor(size * most + 1e-9)
        assert kept >= size * protect - 1e-9
        assert kept >= 1


def test_a_largest_ratio_of_one_module_leaves_the_others_free(net: Graph) -> None:
    plan = net.plan(ratio=0.75, max_ratio={"stem": 0.25})
    assert sizes(plan) == {"stem.out": 18, "body.0.out": 10, "body.3.out": 4}


def test_a_budget_is_met_within_the_limits_or_refused(net: Graph) -> None:
    full = net.cost().params
    for scope in ("local", "global"):
        plan = net.plan(budget=Budget(params=0.5), scope=scope, protect=0.4)
        assert plan.cost.params <= full // 2
        assert all(kept >= net.axis(name).size * 0.4 for name, kept in sizes(plan).items())
    with pytest.raises(PruningError, match="smallest reachable"):
        net.plan(budget=Budget(params=0.1), protect=0.5)


def test_without_limits_a_global_ranking_may_all_but_empty_an_axis(net: Graph) -> None:
    with torch.no_grad():
        dict(net.model.named_parameters())["stem.weight"][1:] *= 1e-3
    least = sizes(net.plan(ratio=0.5, scope="global"))["stem.out"]
    held = sizes(net.plan(ratio=0.5, scope="global", protect=0.5))["stem.out"]
    assert least < 12
    assert held == 12


# -- ratios by axis ------------------------------------------------------------------------------------


def test_of_a_module_and_one_inside_it_the_inner_ratio_counts(net: Graph) -> None:
    for ratio in ({"body": 0.5, "body.3": 0.25}, {"body.3": 0.25, "body": 0.5}):
        assert sizes(net.plan(ratio=ratio)) == {"stem.out": 24, "body.0.out": 20, "body.3.out": 12}


def test_an_inner_ratio_of_nought_holds_its_axis_whole(net: Graph) -> None:
    assert sizes(net.plan(ratio={"": 0.5, "body.0": 0})) == {
        "stem.out": 12,
        "body.0.out": 40,
        "body.3.out": 8,
    }


def test_two_names_of_one_axis_with_unlike_ratios_are_refused() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.c(y + self.b(y))

    graph = prunus.trace(Residual(), torch.randn(1, 4))
    with pytest.raises(InputError, match=r"'a' and 0\.25 for 'b'.*same? ?.*axis|both stand for the axis"):
        graph.plan(ratio={"a": 0.5, "b": 0.25})
    assert sizes(graph.plan(ratio={"a": 0.5, "b": 0.5})) == {"a.out": 4}


def test_unlike_ratios_of_axes_whose_sizes_are_tied_are_refused() -> None:
    class Halves(nn.Module):
        """`chunk` makes two axes of equal size."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            left, right = self.a(x).chunk(2, -1)
            return self.b(left), self.c(right)

    model = Halves()
    graph = prunus.trace(model, torch.randn(1, 4))
    first, second = (axis.name for axis in graph.prunable)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InputError, match="tied"):
        graph.plan(ratio={first: 0.5, second: 0.25})
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert set(sizes(graph.plan(ratio={first: 0.5, second: 0.5})).values()) == {4}


# -- heads ---------------------------------------------------------------------------------------------


def test_axes_know_what_they_are_for(attention: Graph) -> None:
    assert {a.kind for a in attention.axes if a.size == 8} == {"heads"}
    assert {a.kind for a in attention.axes if a.size == 16} == {"head_dim"}
    assert {a.kind for a in attention.axes if a.size in (32, 64)} == {"channels"}


@pytest.mark.parametrize(
    ("options", "heads", "dims"),
    [
        ({"ratio": 0.5, "head_ratio": 0.25}, 6, 16),
        ({"ratio": 0.5, "head_ratio": 0}, 8, 8),
        ({"ratio": 0.5, "head_dim_ratio": 0}, 4, 16),
        ({"ratio": 0.5, "head_ratio": 0, "head_dim_ratio": 0.25}, 8, 12),
        ({"ratio": 0.5, "head_ratio": 0.5, "head_dim_ratio": 0.25}, 4, 12),
        ({"ratio": 0.5, "head_ratio": 0, "head_dim_ratio": 0}, 8, 16),
        ({"ratio": {"mlp": 0.5}, "head_ratio": 0.5}, 4, 16),
    ],
)
def test_heads_and_their_dimensions_have_ratios_of_their_own(
    attention: Graph, options: dict[str, object], heads: int, dims: int
) -> None:
    plan = attention.plan(**options)  # type: ignore[arg-type]
    assert set(by_kind(plan, "heads")) == {heads}
    assert set(by_kind(plan, "head_dim")) == {dims}
    assert sizes(plan)["mlp.0.out"] == 32
    pruned = plan.apply(copy.deepcopy(attention.model))
    check_pruned(attention.model, pruned, plan, attention.args, attention.kwargs)


def test_with_a_budget_they_are_the_most_that_goes(attention: Graph) -> None:
    plan = attention.plan(budget=Budget(macs=0.65), head_ratio=0, head_dim_ratio=0.25)
    assert set(by_kind(plan, "heads")) == {8}
    assert min(by_kind(plan, "head_dim")) >= 12
    assert plan.cost.macs <= 0.65 * attention.cost().macs


# -- rounding ------------------------------------------------------------------------------------------


def test_rounding_may_differ_by_axis(net: Graph) -> None:
    assert sizes(net.plan(ratio=0.6, round_to={"stem": 8, "body.0": 5})) == {
        "stem.out": 16,
        "body.0.out": 20,
        "body.3.out": 7,
    }
    assert all(size % 8 == 0 for size in sizes(net.plan(ratio=0.6, round_to=8)).values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 0.5, "max_ratio": 1.0}, r"max_ratio=1.0 is outside"),
        ({"ratio": 0.5, "max_ratio": {"stem": -1}}, r"max_ratio\['stem'\]=-1 is outside"),
        ({"ratio": 0.5, "max_ratio": {"nowhere": 0.5}}, "nowhere"),
        ({"ratio": 0.5, "protect": "much"}, "protect='much' is not a number"),
        ({"ratio": 0.5, "head_ratio": 2}, "head_ratio=2 is outside"),
        ({"ratio": 0.5, "head_dim_ratio": True}, "head_dim_ratio=True is not a number"),
        ({"ratio": 0.5, "round_to": {"stem": 0}}, r"round_to\['stem'\]=0 must be"),
        ({"ratio": 0.5, "round_to": {"nowhere": 8}}, "nowhere"),
        ({"ratio": 0.5, "round_to": 2.0}, "round_to=2.0 must be"),
        ({"ratio": {"stem": 0.5, "body.0": "half"}}, r"ratio\['body.0'\]='half' is not a number"),
    ],
)
def test_bad_requests_say_what_is_wrong(net: Graph, options: dict[str, object], words: str) -> None:
    with pytest.raises(PruningError, match=words):
        net.plan(**options)  # type: ignore[arg-type]
