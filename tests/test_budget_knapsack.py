"""The knapsack against every combination of widths, on costs that fall in stairs."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import prunus
from prunus.importance import scores
from prunus.select.groups import Group, choose_groups
from prunus.select.knapsack import (
    Knapsack,
    Meter,
    Rungs,
    Term,
    exact_meters,
    rungs_of,
)
from prunus.select.losses import losses


def log_rungs(units: int) -> Rungs:
    kept = list(range(units, 0, -1))
    return Rungs(kept, [-math.log(count / units) for count in kept])


def chain_terms(stair: Mapping[int, int], layers: int) -> list[Term]:
    """Layer i costs the product of the widths of groups i and i + 1, each rounded up to its stair."""

    def term(a: int) -> Term:
        def cost(kept: Mapping[int, int]) -> float:
            return float(math.prod(-(-kept[g] // stair[g]) * stair[g] for g in (a, a + 1)) + 0.5 * kept[a])

        return Term(frozenset((a, a + 1)), cost)

    return [term(a) for a in range(layers)]


def total(terms: list[Term], kept: Mapping[int, int]) -> float:
    return sum(term.cost(kept) for term in terms)


def best_by_brute_force(rungs: list[Rungs], terms: list[Term], limit: float) -> float | None:
    best: float | None = None
    for choice in itertools.product(*[range(len(r.kept)) for r in rungs]):
        kept = {g: rungs[g].kept[i] for g, i in enumerate(choice)}
        if total(terms, kept) <= limit:
            lost = sum(rungs[g].lost[i] for g, i in enumerate(choice))
            best = lost if best is None else min(best, lost)
    return best


@settings(max_examples=60, deadline=None)
@given(
    units=st.lists(st.integers(2, 8), min_size=3, max_size=3),
    stairs=st.lists(st.sampled_from([1, 2, 4]), min_size=3, max_size=3),
    share=st.floats(0.15, 0.95),
)
def test_greedy_is_close_to_the_best_of_all_combinations(
    units: list[int], stairs: list[int], share: float
) -> None:
    rungs = [log_rungs(n) for n in units]
    terms = chain_terms(dict(enumerate(stairs)), layers=2)
    full = total(terms, dict(enumerate(units)))
    best = best_by_brute_force(rungs, terms, share * full)
    sack = Knapsack(rungs, [Meter(share * full, terms)])
    reached = sack.solve()
    if best is None:
        assert not reached
        return
    assert reached
    assert total(terms, sack.kept) <= share * full
    assert best - 1e-9 <= sack.lost <= best + 1.0  # on axes this small a single unit is up to 0.7


def test_greedy_mostly_finds_the_best_of_all_combinations() -> None:
    draw = random.Random(0)
    ratios = []
    while len(ratios) < 150:
        units = [draw.randint(2, 8) for _ in range(3)]
        terms = chain_terms({group: draw.choice([1, 2, 4]) for group in range(3)}, layers=2)
        rungs = [log_rungs(n) for n in units]
        limit = draw.uniform(0.15, 0.9) * total(terms, dict(enumerate(units)))
        best = best_by_brute_force(rungs, terms, limit)
        if best:
            sack = Knapsack(rungs, [Meter(limit, terms)])
            assert sack.solve()
            ratios.append(sack.lost / best)
    assert statistics.mean(ratios) < 1.06
    assert sum(ratio < 1 + 1e-9 for ratio in ratios) > 0.85 * len(ratios)


def test_where_costs_are_separate_and_even_the_greedy_is_the_best() -> None:
    """Independent groups with costs per unit 1, 2 and 4: convex, so greedy gives the optimum's loss."""
    rungs = [log_rungs(8) for _ in range(3)]
    price = (1.0, 2.0, 4.0)
    terms = [Term(frozenset((g,)), lambda kept, g=g: price[g] * kept[g]) for g in range(3)]
    for limit in (50, 40, 30, 20, 10):
        sack = Knapsack(rungs, [Meter(limit, terms)])
        assert sack.solve()
        best = best_by_brute_force(rungs, terms, limit)
        assert best is not None
        assert best - 1e-9 <= sack.lost <= best + 0.2


def test_a_cut_that_saves_nothing_is_not_taken() -> None:
    """Stairs of 4: what is kept is always the top of a stair."""
    rungs = [log_rungs(16), log_rungs(16)]
    terms = [Term(frozenset((g,)), lambda kept, g=g: float(-(-kept[g] // 4) * (1 + g))) for g in range(2)]
    for limit in range(4, 12):
        sack = Knapsack(rungs, [Meter(limit, terms)])
        assert sack.solve()
        assert all(count % 4 == 0 for count in sack.kept.values())


def test_a_cut_that_makes_it_slower_is_jumped_over() -> None:
    """Anything but a multiple of 8 is slower than the whole."""
    rungs = [log_rungs(32)]
    terms = [Term(frozenset((0,)), lambda kept: kept[0] + (20.0 if kept[0] % 8 else 0.0))]
    for limit, kept in ((31, 24), (23, 16), (16, 16), (10, 8)):
        sack = Knapsack(rungs, [Meter(limit, terms)])
        assert sack.solve()
        assert sack.kept == {0: kept}


def test_a_stair_longer_than_the_look_ahead_is_still_found() -> None:
    rungs = [log_rungs(24)]
    terms = [Term(frozenset((0,)), lambda kept: 10.0 if kept[0] > 4 else 1.0)]
    sack = Knapsack(rungs, [Meter(5, terms)])
    assert sack.solve()
    assert sack.kept == {0: 4}


def test_savings_within_the_noise_are_not_believed() -> None:
    """Group 0 seems to save half a percent for nothing lost; group 1 really saves."""
    rungs = [Rungs([4, 3], [0.0, 0.0]), Rungs([4, 2], [0.0, 1.0])]
    terms = [
        Term(frozenset((0,)), lambda kept: 100.0 if kept[0] == 4 else 99.5),
        Term(frozenset((1,)), lambda kept: 10.0 * kept[1]),
    ]
    sack = Knapsack(rungs, [Meter(125, terms, noise=0.01)])
    assert sack.solve()
    assert sack.kept == {0: 4, 1: 2}
    trusting = Knapsack(rungs, [Meter(139.6, terms)])
    assert trusting.solve()
    assert trusting.kept == {0: 3, 1: 4}


def test_units_are_given_back_where_a_later_cut_left_room() -> None:
    """The first cut saves 3 and is the better bargain; 10 have to go, and the second saves them alone."""
    rungs = [Rungs([4, 3], [0.0, 0.1]), Rungs([4, 2], [0.0, 1.0])]
    terms = [
        Term(frozenset((0,)), lambda kept: 3.0 * kept[0]),
        Term(frozenset((1,)), lambda kept: 5.0 * kept[1]),
    ]
    sack = Knapsack(rungs, [Meter(22, terms)])
    assert sack.solve()
    assert sack.kept == {0: 4, 1: 2}


def test_two_limits_hold_together() -> None:
    rungs = [log_rungs(8), log_rungs(8)]
    first = [Term(frozenset((0,)), lambda kept: float(kept[0]))]
    second = [Term(frozenset((1,)), lambda kept: float(kept[1]))]
    sack = Knapsack(rungs, [Meter(5, first), Meter(3, second)])
    assert sack.solve()
    assert sack.kept == {0: 5, 1: 3}


def test_a_cut_may_not_break_a_limit_that_is_met() -> None:
    """Cutting group 0 halves the time but doubles the memory, which is at its limit; group 1 has to do."""
    rungs = [Rungs([4, 2], [0.0, 0.1]), Rungs([4, 2], [0.0, 5.0])]
    time = [
        Term(frozenset((0,)), lambda kept: 10.0 * kept[0]),
        Term(frozenset((1,)), lambda kept: 10.0 * kept[1]),
    ]
    memory = [Term(frozenset((0,)), lambda kept: 8.0 / kept[0])]
    sack = Knapsack(rungs, [Meter(60, time), Meter(2, memory)])
    assert sack.solve()
    assert sack.kept == {0: 4, 1: 2}


def test_what_cannot_be_reached_is_said_so() -> None:
    sack = Knapsack([log_rungs(4)], [Meter(0.5, [Term(frozenset((0,)), lambda kept: float(kept[0]))])])
    assert not sack.solve()
    assert sack.kept == {0: 1}


# --- groups of a traced model -------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = (x + self.b(self.a(x).relu())).relu()
        return self.head(x.mean((2, 3)))


def residual_groups() -> tuple[prunus.Graph, list[Group]]:
    torch.manual_seed(0)
    graph = prunus.trace(Residual(), torch.randn(1, 3, 6, 6))
    return graph, choose_groups(graph, {axis.node: 0.5 for axis in graph.prunable}, fine=True)


def test_exact_meters_agree_with_the_cost_of_the_plan() -> None:
    graph, groups = residual_groups()
    meters = exact_meters(graph, groups, {"macs": 1, "params": 1, "activation_bytes": 1})
    for counts in ((8, 6), (5, 6), (8, 2), (3, 1), (1, 1)):
        kept = dict(enumerate(counts))
        sizes: dict[object, int] = {}
        for index, group in enumerate(groups):
            sizes.update(group.counts(kept[index]))
        cost = graph.cost_model.at(sizes)  # type: ignore[arg-type]
        for meter, name in zip(meters, ("macs", "params", "activation_bytes"), strict=True):
            meter.start(kept)
            assert meter.total == cost[name]


def test_the_greedy_on_parameters_meets_their_budget_exactly() -> None:
    graph, groups = residual_groups()
    ranked = scores(graph, [node for group in groups for node in group.nodes], "l2", None)
    rungs = [losses(graph, group, rungs_of(group), ranked) for group in groups]
    full = graph.cost().params
    meter = exact_meters(graph, groups, {"params": full // 2})[0]
    sack = Knapsack(rungs, [meter])
    assert sack.solve()
    assert meter.total <= full // 2
    assert not Knapsack(rungs, exact_meters(graph, groups, {"params": 3})).solve()
    best = min(
        rungs[0].lost[i] + rungs[1].lost[j]
        for i, j in itertools.product(range(len(rungs[0].kept)), range(len(rungs[1].kept)))
        if _params(graph, groups, rungs[0].kept[i], rungs[1].kept[j]) <= full // 2
    )
    assert best - 1e-9 <= sack.lost <= 1.2 * best


def _params(graph: prunus.Graph, groups: list[Group], *kept: int) -> int:
    counts: dict[object, int] = {}
    for group, count in zip(groups, kept, strict=True):
        counts.update(group.counts(count))
    return graph.cost_model.at(counts).params  # type: ignore[arg-type]


def test_rungs_keep_to_the_step_of_the_group_and_are_not_too_many() -> None:
    node = prunus.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4)).prunable[0].node
    assert rungs_of(Group([node], 8, 0.5)) == [8, 7, 6, 5, 4, 3, 2, 1]
    assert rungs_of(Group([node], 2048, 0.5))[:3] == [2048, 1920, 1792]
    assert rungs_of(Group([node], 96, 0.5, step=12)) == [96, 84, 72, 60, 48, 36, 24, 12]
    assert rungs_of(Group([node], 64, 0.5, least=40))[-1] == 40
    for units in (2, 3, 25, 100, 511, 1000, 5000):
        rungs = rungs_of(Group([node], units, 0.5))
        assert rungs[0] == units
        assert rungs[-1] == 1
        assert rungs == sorted(set(rungs), reverse=True)
        assert len(rungs) <= 26


def test_lost_is_the_logarithm_of_what_is_kept_for_each_weight_that_the_axis_runs_through() -> None:
    graph, groups = residual_groups()
    stream = next(group for group in groups if group.units == 8)
    inner = next(group for group in groups if group.units == 6)
    ranked = {node: torch.arange(1.0, node.size + 1).double() for group in groups for node in group.nodes}
    for group, weights in ((stream, 4), (inner, 2)):  # stem, a, b and head; a and b
        rungs = losses(graph, group, rungs_of(group), ranked)
        n = group.units
        for kept, lost in zip(rungs.kept, rungs.lost, strict=True):
            share = sum(range(n - kept + 1, n + 1)) / sum(range(1, n + 1))
            assert lost == pytest.approx(-weights * math.log(share))


def test_scores_of_zero_count_as_equal() -> None:
    graph, groups = residual_groups()
    ranked = {node: torch.zeros(node.size).double() for group in groups for node in group.nodes}
    rungs = losses(graph, groups[0], rungs_of(groups[0]), ranked)
    assert all(a < b for a, b in itertools.pairwise(rungs.lost))
