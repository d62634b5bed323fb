"""Sensitivity against cutting copies by hand; the model itself is left as it was, bit for bit."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import ArgumentTypeError, InputError, PlanError, PruningError, UnknownNameError
from prunus.training import sensitivity
from snapshots import Snapshot

X = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1))
RATIOS = (0.25, 0.5, 0.9)


class Net(nn.Module):
    """A residual axis, a branch, attention over pixels: coupled members and factors of one width."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.stem = nn.Conv2d(2, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.mid = nn.Conv2d(16, 8, 1)
        self.back = nn.Conv2d(8, 16, 1)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.norm(self.stem(x_BCHW)).relu()
        x_BCHW = x_BCHW + self.back(self.mid(x_BCHW).relu())
        x_BTC = x_BCHW.flatten(2).transpose(1, 2)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x_BTC).chunk(3, -1))
        mixed = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1) @ v
        return self.head((x_BTC + self.out(mixed.transpose(1, 2).flatten(2))).mean(1))


def loss(model: nn.Module) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(X).square().mean()


def trained() -> Net:
    """With gradients, statistics and a mixture of modes, so that there is something to disturb."""
    model = Net()
    model(X).square().sum().backward()
    model.mid.eval()
    model.stem.weight.grad = None
    return model


def test_each_point_is_the_metric_of_a_copy_that_is_cut_there() -> None:
    model = trained()
    graph = prunus.trace(model, X)
    found = sensitivity(graph, loss, RATIOS, progress=False)
    assert found.baseline == pytest.approx(float(loss(copy.deepcopy(model))))
    assert set(found.curves) == {axis.name for axis in graph.prunable} - found.skipped.keys()
    assert found.skipped == {}
    for name, curve in found.curves.items():
        assert [point.ratio for point in curve.points] == [0.0, *RATIOS]
        for point in curve.points[1:]:
            other = copy.deepcopy(model)
            plan = prunus.trace(other, X).plan(ratio={name: point.ratio})
            plan.apply(other)
            assert point.metric == pytest.approx(float(loss(other)), rel=1e-6)
            size = graph.axis(name).size
            assert point.removed == pytest.approx(1 - len(plan.axes.get(name, range(size))) / size)


@pytest.mark.parametrize(("importance", "seed"), [("l2", None), ("random", None), ("taylor", 3)])
def test_the_model_and_the_random_state_are_left_as_they_were(importance: str, seed: int | None) -> None:
    model = trained()
    graph = prunus.trace(model, X)
    history = prunus.plan.history(model)
    before = Snapshot.of(model)

    def disturbing(model: nn.Module) -> float:
        """Moves batch-norm statistics, leaves gradients, changes modes, draws random numbers."""
        model.train()
        out = model(X + torch.randn_like(X)).square().mean()
        out.backward()
        return out.item()

    sensitivity(graph, disturbing, (0.5,), importance=importance, seed=seed, progress=True)
    assert before.differences(model, identity=True, randomness=True) == []
    assert prunus.plan.history(model) == history


@pytest.mark.parametrize("call", [1, 2, 4])
def test_an_evaluation_that_fails_leaves_the_model_as_it_was(call: int) -> None:
    model = trained()
    graph = prunus.trace(model, X)
    before = Snapshot.of(model)
    calls = []

    def failing(model: nn.Module) -> float:
        model.train()
        model(X).sum().backward()
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("out of patience")
        return 0.0

    with pytest.raises(RuntimeError, match="patience"):
        sensitivity(graph, failing, RATIOS, progress=False)
    assert before.differences(model, identity=True, randomness=True) == []


def test_all_evaluations_draw_the_same_random_numbers() -> None:
    found = sensitivity(prunus.trace(Net(), X), lambda model: float(torch.rand(())), (0.5,), progress=False)
    assert {point.metric for curve in found.curves.values() for point in curve.points} == {found.baseline}


def test_axes_that_are_cut_together_are_measured_once() -> None:
    """Two axes whose sizes the code ties are named in each other's curve."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 12), nn.Linear(4, 12)
            self.out = nn.Linear(24, 2)

        def forward(self, x_BF: Tensor) -> Tensor:
            a, b = self.a(x_BF), self.b(x_BF)
            return self.out(torch.cat([a, b.reshape(a.shape[0], a.shape[1])], -1))

    model, calls = Tied(), []

    def counted(model: nn.Module) -> float:
        calls.append(1)
        return float(len(calls))

    found = sensitivity(prunus.trace(model, torch.randn(2, 4)), counted, (0.5,), progress=False)
    metrics = {name: curve.points[-1].metric for name, curve in found.curves.items()}
    plans = {
        name: tuple(prunus.trace(model, torch.randn(2, 4)).plan(ratio={name: 0.5}).axes)
        for name in found.curves
    }
    assert len(calls) == 1 + len(set(plans.values()))
    for name, curve in found.curves.items():
        assert {name, *curve.tied} == set(plans[name])
    assert len(set(metrics.values())) == len(set(plans.values()))


def test_ratios_for_a_plan() -> None:
    model = Net()
    graph = prunus.trace(model, X)
    found = sensitivity(graph, loss, RATIOS, progress=False)
    worst = max(abs(p.metric - found.baseline) for c in found.curves.values() for p in c.points)
    everything = found.ratios(max_loss=worst)
    assert set(everything.values()) == {0.9}
    assert found.ratios(max_loss=0.0, higher_is_better=True).keys() <= found.curves.keys()
    factors = {axis.name for axis in graph.prunable if axis.kind in ("heads", "head_dim")}
    assert len(factors) == 3  # heads, the head dims of queries and keys, those of values
    for name in factors & everything.keys():
        assert not set(found.rivals[name]) & everything.keys()
    assert factors & everything.keys()
    plan = graph.plan(ratio=everything)
    for name, ratio in everything.items():
        size = graph.axis(name).size
        assert len(plan.axes[name]) == size - int(size * ratio + 1e-9)


def test_the_ratio_is_the_last_before_the_loss_becomes_too_large() -> None:
    """By hand: a metric that says how many channels are left, so that the curve is known."""
    graph = prunus.trace(Net(), X)

    def channels_gone(model: nn.Module) -> float:
        return 8.0 - model.mid.out_channels

    found = sensitivity(graph, channels_gone, (0.25, 0.5, 0.75), axes="mid", progress=False)
    assert list(found.curves) == ["mid.out"]
    assert [point.metric for point in found.curves["mid.out"].points] == [0, 2, 4, 6]
    assert found.ratios(max_loss=4) == {"mid.out": 0.5}
    assert found.ratios(max_loss=5.9) == {"mid.out": 0.5}
    assert found.ratios(max_loss=6) == {"mid.out": 0.75}
    assert found.ratios(max_loss=1) == {}
    upside_down = sensitivity(graph, lambda m: -channels_gone(m), (0.25, 0.5), axes="mid", progress=False)
    assert upside_down.ratios(max_loss=2, higher_is_better=True) == {"mid.out": 0.25}


def test_data_table_and_plot(tmp_path: Path) -> None:
    found = sensitivity(prunus.trace(Net(), X), loss, RATIOS, progress=False)
    found.save(tmp_path / "curves.json")
    data = json.loads((tmp_path / "curves.json").read_text())
    assert data == found.as_data()
    assert data["baseline"] == found.baseline
    assert data["axes"]["mid.out"]["points"][2]["ratio"] == 0.5
    text = str(found)
    assert all(name in text for name in found.curves)
    assert "-50%" in text
    pytest.importorskip("matplotlib")
    for name in ("curves.svg", "curves.png"):
        found.plot(tmp_path / name, label="loss")
        assert (tmp_path / name).stat().st_size > 1000
    assert "mid.out" in (tmp_path / "curves.svg").read_text()


def test_metrics_that_are_not_finite_are_not_written_as_numbers() -> None:
    graph = prunus.trace(Net(), X)

    def broken(model: nn.Module) -> float:
        return 1.0 if model.mid.out_channels == 8 else float("nan")

    found = sensitivity(graph, broken, (0.25, 0.5), axes=["mid"], progress=False)
    json.dumps(found.as_data(), allow_nan=False)
    assert found.ratios(max_loss=100) == {}


def test_without_matplotlib_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sensitivity(prunus.trace(Net(), X), loss, (0.5,), axes="mid", progress=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PruningError, match=r"prunus\[report\]"):
        found.plot(tmp_path / "x.svg")


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"ratios": ()}, InputError, "at least one"),
        ({"ratios": (0.0, 0.5)}, InputError, "not 0"),
        ({"ratios": (1.0,)}, InputError, "outside"),
        ({"ratios": ("half",)}, InputError, "not a number"),
        ({"ratios": (0.01,)}, InputError, "larger ratios"),
        ({"axes": ["typo"]}, UnknownNameError, "typo"),
        ({"axes": ["head"]}, InputError, "stays whole"),
        ({"evaluate": 3}, ArgumentTypeError, "function"),
        ({"evaluate": lambda model: "good"}, ArgumentTypeError, "not a number"),
        ({"evaluate": lambda model: float("inf")}, InputError, "finite"),
        ({"importance": "best"}, InputError, "unknown importance"),
    ],
)
def test_bad_input_leaves_the_model_alone(asked: dict[str, Any], error: type, message: str) -> None:
    model = trained()
    graph = prunus.trace(model, X)
    before = Snapshot.of(model)
    with pytest.raises(error, match=message):
        sensitivity(graph, **{"evaluate": loss, "ratios": (0.5,), "progress": False, **asked})
    assert before.differences(model, identity=True, randomness=True) == []


def test_a_model_that_has_been_pruned_since_is_refused() -> None:
    model = Net()
    graph = prunus.trace(model, X)
    prunus.prune(model, X, ratio=0.5)
    with pytest.raises(PlanError, match="trace it again"):
        sensitivity(graph, loss, progress=False)


@pytest.mark.parametrize("max_loss", [-1, float("nan"), "little", True])
def test_the_loss_allowed_is_checked(max_loss: Any) -> None:
    found = sensitivity(prunus.trace(Net(), X), loss, (0.5,), axes="mid", progress=False)
    with pytest.raises(InputError, match="max_loss"):
        found.ratios(max_loss=max_loss)
