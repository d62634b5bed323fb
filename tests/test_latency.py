"""Latency budgets: what is measured, what is chosen, what is refused, and that nothing is disturbed."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from latency_clock import MadeUpClock
from prunus import Budget
from prunus.importance import scores
from prunus.latency import LatencyTable, compare, measure, operands, planning
from prunus.latency.planning import Latency, LatencyPlanner
from prunus.plan import Plan
from prunus.select.groups import Group, choose_groups
from snapshots import Snapshot


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up times are the same each time, so few are taken; small operands are soon made."""
    monkeypatch.setattr(operands, "SLAB_BYTES", 1 << 20)
    monkeypatch.setattr(planning, "REPEATS", 2)
    monkeypatch.setattr(planning, "MOST_REPEATS", 2)


class Block(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.norm(self.conv1(x)).relu())


class Net(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2)
        self.blocks = nn.Sequential(Block(width, 2 * width), Block(width, width))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.blocks(self.stem(x).relu()).mean((2, 3))))


def picture(size: int = 15) -> Tensor:
    return torch.randn(1, 3, size, size)


def chosen(graph: prunus.Graph, groups: list[Group], kept: dict[int, int]) -> Plan:
    counts: dict[Any, int] = {}
    for index, group in enumerate(groups):
        counts.update(group.counts(kept[index]))
    return Plan(graph, {n: torch.arange(c) for n, c in counts.items() if c < n.size})


def planner(model: nn.Module, budget: Budget, folder: Path, clock: MadeUpClock) -> LatencyPlanner:
    graph = prunus.trace(model, picture())
    groups = choose_groups(graph, {axis.node: 0.5 for axis in graph.prunable}, fine=True)
    ranked = scores(graph, [node for group in groups for node in group.nodes], "l2", None)
    table = LatencyTable(folder=folder, clock=MadeUpClock())
    return LatencyPlanner(
        graph, groups, ranked, budget, lambda kept: chosen(graph, groups, kept), table=table, clock=clock
    )


def seconds(model: nn.Module, clock: MadeUpClock) -> float:
    """The truth about a model in eval mode."""
    x = torch.ones(1, 3, 15, 15)
    with torch.no_grad():
        return clock.seconds(lambda: model(x))


# --- measuring --------------------------------------------------------------------------------------------


class Scripted:
    """Hands out given seconds, one after another, and runs the call."""

    def __init__(self, *values: float) -> None:
        self.values = iter(values)

    def seconds(self, call: Any) -> float:
        call()
        return next(self.values)


def test_the_median_of_the_repeats_in_milliseconds() -> None:
    clock = Scripted(0.001, 0.009, 0.002, 0.003, 0.5)
    assert measure(nn.Linear(2, 2), torch.randn(1, 2), repeats=5, clock=clock) == pytest.approx(3.0)


def test_models_take_turns() -> None:
    ran: list[str] = []

    class Noted(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            ran.append(self.name)
            return x

    clock = Scripted(*itertools.chain.from_iterable([(1.0, 2.0)] * 3))
    times = compare([Noted("a"), Noted("b")], torch.randn(2), repeats=3, warmup=1, clock=clock)
    assert ran == ["a", "b"] + ["a", "a", "b", "b"] * 3  # one of two forwards in each turn is timed
    assert times == [1000.0, 2000.0]


def test_it_runs_in_eval_mode_without_gradients_and_puts_everything_back() -> None:
    model = Net().train()
    model.drop.eval()
    model.blocks[0].norm.weight.grad = torch.ones(24)
    seen: list[tuple[bool, bool]] = []
    handle = model.drop.register_forward_hook(
        lambda module, *_: seen.append((module.training, torch.is_grad_enabled()))
    )
    x = picture()
    before, given = Snapshot.of(model), x.clone()
    assert measure(model, x, repeats=2) > 0
    handle.remove()
    before.hooks = Snapshot.of(model).hooks
    assert before.differences(model, identity=True, randomness=True) == []
    assert torch.equal(x, given)
    assert set(seen) == {(False, False)}


def test_random_state_is_put_back_and_inputs_are_not_written_into() -> None:
    class Rude(nn.Module):
        def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
            return x.mul_(torch.rand(())) * scale.zero_()

    x, scale = torch.ones(3), torch.ones(3)
    state = torch.get_rng_state()
    measure(Rude(), (x,), {"scale": scale}, repeats=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, torch.ones(3))
    assert torch.equal(scale, torch.ones(3))


def test_bad_input_to_measure() -> None:
    with pytest.raises(prunus.PruningError, match="meta device"):
        measure(nn.Linear(2, 2, device="meta"), torch.randn(1, 2))
    with pytest.raises(prunus.PruningError, match=r"torch\.nn\.Module, got function"):
        measure(lambda x: x, torch.randn(1, 2))  # type: ignore[arg-type]
    with pytest.raises(prunus.PruningError, match="repeats=0"):
        measure(nn.Linear(2, 2), torch.randn(1, 2), repeats=0)
    model = nn.Linear(2, 2).train()
    with pytest.raises(prunus.PruningError, match="Linear fails its own forward"):
        measure(model, torch.randn(1, 3))
    assert model.training


# --- choosing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "scale", "offset"), [(0.8, 1.0, 0.0), (0.5, 1.4, 0.0), (0.6, 1.2, 3.0), (0.3, 1.0, 0.1)]
)
def test_a_fraction_of_the_measured_latency_is_met_from_below(
    share: float, scale: float, offset: float, tmp_path: Path
) -> None:
    """Whole models are slower than the table says, by a factor and a constant: the loop finds out."""
    model, clock = Net().eval(), MadeUpClock(scale, offset)
    full = seconds(model, clock)
    kept, measured = planner(model, Budget(latency=share), tmp_path, clock).solve()
    graph = prunus.trace(model, picture())
    groups = choose_groups(graph, {axis.node: 0.5 for axis in graph.prunable}, fine=True)
    pruned = chosen(graph, groups, kept).apply(copy.deepcopy(model))
    truth = seconds(pruned, clock)
    assert measured.before == pytest.approx(full * 1e3)
    assert measured.after == pytest.approx(truth * 1e3)
    assert 0.85 * share * full <= truth <= share * full * (1 + planning.TOLERANCE)
    assert 1 <= measured.candidates <= planning.ROUNDS


def test_milliseconds_are_absolute(tmp_path: Path) -> None:
    model, clock = Net().eval(), MadeUpClock(scale=1.3)
    full = seconds(model, clock) * 1e3
    _, measured = planner(model, Budget(latency=f"{0.6 * full:.6f} ms"), tmp_path, clock).solve()
    assert measured.limit == pytest.approx(0.6 * full, rel=1e-4)
    assert 0.54 * full <= measured.after <= 0.612 * full


def test_widths_stop_where_time_drops(tmp_path: Path) -> None:
    """The made-up machine works in blocks of four: nothing is gained between, and nothing is cut there."""
    kept, _ = planner(Net(16), Budget(latency=0.5), tmp_path, MadeUpClock()).solve()
    assert all(count % 4 == 0 for count in kept.values())
    assert any(count < 16 for count in kept.values())


def test_a_budget_above_the_latency_cuts_nothing(tmp_path: Path) -> None:
    for latency in (1.0, 10_000_000, "3000 s"):
        kept, measured = planner(Net(), Budget(latency=latency), tmp_path, MadeUpClock()).solve()
        assert all(count in (12, 24) for count in kept.values())
        assert measured.after == measured.before


def test_latency_and_exact_limits_hold_together(tmp_path: Path) -> None:
    model, clock = Net().eval(), MadeUpClock()
    made = planner(model, Budget(latency=0.7, params=0.2, macs=0.9), tmp_path, clock)
    kept, measured = made.solve()
    plan = made.make(kept)
    full = made.graph.cost()
    assert plan.cost.params <= 0.2 * full.params
    assert plan.cost.macs <= 0.9 * full.macs
    assert measured.after <= 0.7 * measured.before * (1 + planning.TOLERANCE)
    assert plan.cost.params > 0.1 * full.params


def test_unreachable_latency_names_the_smallest_that_was_reached(tmp_path: Path) -> None:
    model, clock = Net().eval(), MadeUpClock(offset=10.0)
    made = planner(model, Budget(latency=0.05), tmp_path, clock)
    before = Snapshot.of(model)
    with pytest.raises(prunus.errors.BudgetError) as caught:
        made.solve()
    assert before.differences(model, identity=True, randomness=True) == []
    least = chosen(made.graph, list(made.groups), dict.fromkeys(range(len(made.groups)), 1))
    floor = seconds(least.apply(copy.deepcopy(model)), clock) * 1e3
    text = str(caught.value)
    assert "smallest reached" in text
    reached = float(text.split("smallest reached: ")[1].split(" ms")[0])
    assert reached == pytest.approx(floor, rel=0.05)


def test_unreachable_exact_limits_are_said_before_anything_is_measured(tmp_path: Path) -> None:
    clock = MadeUpClock()
    with pytest.raises(prunus.errors.BudgetError, match=r"params 1 \(smallest reachable"):
        planner(Net(), Budget(latency=0.5, params=1), tmp_path, clock)
    assert clock.timed == 0
    assert list(tmp_path.iterdir()) == []


# --- through graph.plan -----------------------------------------------------------------------------------


@pytest.fixture
def made_up_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MadeUpClock:
    """All times of this process are made up, and kept in a folder of the test."""
    clock = MadeUpClock()
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path))
    monkeypatch.setattr("prunus.latency.table.clock_for", lambda device: clock)
    monkeypatch.setattr("prunus.latency.timing.clock_for", lambda device: clock)
    return clock


def test_a_plan_tells_what_was_measured(made_up_machine: MadeUpClock) -> None:
    model = Net().train()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    x = picture()
    before = Snapshot.of(model)
    graph = prunus.trace(model, x)
    plan = graph.plan(budget=Budget(latency=0.5))
    assert before.differences(model, identity=True, randomness=True) == []
    assert isinstance(plan.latency, Latency)
    assert plan.latency.after <= 0.51 * plan.latency.before
    assert "ms" in str(plan.latency)
    model.eval()
    full = seconds(model, made_up_machine)
    plan.apply(model)
    assert seconds(model, made_up_machine) == pytest.approx(plan.latency.after * 1e-3)
    assert seconds(model, made_up_machine) <= 0.51 * full
    plan.undo(model)
    assert seconds(model, made_up_machine) == pytest.approx(full)
    assert graph.plan(ratio=0.5).latency is None


def test_a_second_plan_measures_no_operation_again(made_up_machine: MadeUpClock, tmp_path: Path) -> None:
    graph = prunus.trace(Net(), picture())
    first = graph.plan(budget=Budget(latency=0.5))
    (file,) = tmp_path.iterdir()
    written = file.read_text()
    timed = made_up_machine.timed
    second = prunus.trace(Net(), picture()).plan(budget=Budget(latency=0.5))
    assert file.read_text() == written
    rounds = planning.MOST_REPEATS * (1 + 2 * planning.ROUNDS)
    assert made_up_machine.timed - timed <= rounds
    assert {name: len(index) for name, index in first.axes.items()}
    assert second.latency is not None


def test_round_to_and_ignore_hold(made_up_machine: MadeUpClock) -> None:
    model = Net(24)
    prunus.prune(model, picture(), budget=Budget(latency=0.9), round_to=6, ignore=["blocks.0.conv1"])
    widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 6 == 0 for width in widths)
    assert model.blocks[0].conv1.out_channels == 48
    assert model.blocks[0].conv1.in_channels == 24  # its inputs are among its axes, and ignored too
    assert model.blocks[1].conv1.out_channels < 24


def test_models_that_cannot_be_timed_are_refused(made_up_machine: MadeUpClock) -> None:
    meta = prunus.trace(Net().to("meta"), picture().to("meta"))
    with pytest.raises(prunus.PruningError, match="meta device"):
        meta.plan(budget=Budget(latency=0.5))

    class Single(Net):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("there is only one")

    model = Single()
    before = Snapshot.of(model)
    with pytest.raises(prunus.PruningError, match=r"cannot be copied .*there is only one"):
        prunus.trace(model, picture()).plan(budget=Budget(latency=0.5))
    assert before.differences(model, identity=True) == []


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim = 4, 8
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, t, -1))


def test_attention_moves_under_a_latency_budget(made_up_machine: MadeUpClock) -> None:
    layer, x = Attention(), torch.randn(1, 6, 32)
    plan = prunus.trace(layer, x).plan(budget=Budget(latency=0.6))
    plan.apply(layer)
    assert layer(x).shape == x.shape
    assert layer.heads * layer.head_dim < 32
    assert plan.latency is not None
    assert plan.latency.after <= 0.62 * plan.latency.before


# --- for real ---------------------------------------------------------------------------------------------


def test_a_small_network_gets_as_fast_as_asked_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A quarter of slack either way, since the machine may be busy with other tests."""
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path))
    monkeypatch.setattr(planning, "REPEATS", 15)
    monkeypatch.setattr(planning, "MOST_REPEATS", 50)
    model, x = Net(48).eval(), picture(49)
    pruned = copy.deepcopy(model)
    plan = prunus.prune(pruned, x, budget=Budget(latency=0.5))
    full, fast = compare([model, pruned], x, repeats=75)
    assert 0.25 * full < fast < 0.75 * full
    assert plan.latency is not None
    assert plan.exact
    assert len(list(tmp_path.iterdir())) == 1
