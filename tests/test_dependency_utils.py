"""What scripts call beside graph and pruners: counting, measuring, matrices, lists."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import prunus.dependency as tp
from dependency_models import peer
from dependency_scripts import LeNet, SmallResNet, SmallViT
from prunus import PruningError
from snapshots import Snapshot

IMAGE = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


# -- counting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [SmallResNet, SmallViT])
def test_counts_are_for_one_sample(make: Any) -> None:
    model = make()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model.eval()(IMAGE)
    macs, params = tp.utils.count_ops_and_params(model, IMAGE)
    assert macs == counter.get_total_flops() / 2 / len(IMAGE)
    assert params == sum(p.numel() for p in model.parameters())
    assert tp.utils.count_ops_and_params(model, {"x": IMAGE})[0] == macs * len(IMAGE)


def test_counts_of_layers_are_those_of_what_is_inside() -> None:
    model = SmallResNet().eval()
    macs, _, layers, params = tp.utils.count_ops_and_params(model, IMAGE, layer_wise=True)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(IMAGE)
    by_name = counter.get_flop_counts()
    for name, module in model.named_modules():
        want = sum(by_name.get(f"SmallResNet.{name}" if name else "SmallResNet", {}).values())
        assert layers[module] == want / 2 / len(IMAGE), name
        assert params[module] == sum(p.numel() for p in module.parameters())
    assert layers[model] == macs
    assert list(layers) == list(model.modules())


def test_counts_are_those_of_torch_pruning_but_for_what_is_no_product() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=4, bias=False), nn.Conv2d(8, 4, 1, bias=False)),
        nn.Flatten(),
        nn.Linear(100, 5, bias=False),
    )
    ours = tp.utils.count_ops_and_params(model, IMAGE, layer_wise=True)
    macs, params, layers, layer_params = peer().utils.count_ops_and_params(model, IMAGE, layer_wise=True)
    grouped = 8 * 8 // 4 * 9 * 25
    assert (ours[1], ours[3]) == (params, layer_params)
    assert {m: ours[2][m] for m in model.modules()} == {m: layers[m] / len(IMAGE) for m in model.modules()}
    assert (ours[0], ours[2][model[1][0]]) == (macs, grouped)


def test_a_layer_that_runs_twice_counts_twice() -> None:
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    macs, params, layers, _ = tp.utils.count_ops_and_params(model, torch.rand(2, 6), layer_wise=True)
    assert (macs, params, layers[shared]) == (72, 42, 72)


# -- lists ----------------------------------------------------------------------------------------------


def test_outputs_as_a_list() -> None:
    a, b, c = torch.rand(1), torch.rand(2), torch.rand(3)
    nested = {"a": a, "rest": [(b,), {"c": c}]}
    assert all(x is y for x, y in zip(tp.utils.flatten_as_list(nested), [a, b, c], strict=True))
    assert tp.utils.flatten_as_list(a)[0] is a
    assert all(
        x is y
        for x, y in zip(tp.utils.flatten_as_list(nested), peer().utils.flatten_as_list(nested), strict=True)
    )


# -- measuring ------------------------------------------------------------------------------------------


class Slow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.calls, self.modes, self.grads = nn.Linear(4, 4), 0, set(), set()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.modes.add(self.training)
        self.grads.add(torch.is_grad_enabled())
        end = time.thread_time() + 2e-3
        while time.thread_time() < end:
            pass
        return self.fc(x)


def test_latency_counts_calls_and_time() -> None:
    model, x = Slow().train(), torch.rand(5, 4)
    mean, std = tp.utils.benchmark.measure_latency(model, x, repeat=4, warmup=3)
    assert (model.calls, model.modes, model.grads, model.training) == (7, {False}, {True}, True)
    assert 2 <= mean < 50
    assert std >= 0
    with torch.no_grad():
        fps = tp.utils.benchmark.measure_fps(model, x, 2, 0)
        assert model.grads == {True, False}
        through = tp.utils.benchmark.measure_throughput(model, x, repeat=2, warmup=0)
    assert 20 < fps <= 500
    assert 100 < through <= 2500


def test_latency_by_a_function_of_ones_own() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    inputs = (torch.rand(3), torch.rand(3))
    run = {"repeat": 2, "warmup": 0, "run_fn": lambda model, given: model(*given)}
    mean, std = tp.utils.benchmark.measure_latency(Two(), inputs, **run)
    assert mean > 0
    assert std >= 0
    with pytest.raises(TypeError):
        tp.utils.benchmark.measure_latency(Two(), inputs, 2, 0)


@pytest.mark.parametrize("grads", [True, False])
def test_memory_is_what_lives_at_the_peak(grads: bool) -> None:
    """Four layers of 100 x 1000 floats: all live on where a backward pass may come, else two of them."""
    model = nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(4)))
    x = torch.rand(100, 1000)
    with torch.set_grad_enabled(grads):
        peak = tp.utils.benchmark.measure_memory(model, x)
    held = 4 * (4 * 1000 * 1000 + x.numel())
    assert peak == held + 4 * x.numel() * (4 if grads else 2)


def test_measuring_leaves_the_model_alone() -> None:
    model = SmallResNet().train()
    before = Snapshot.of(model)
    tp.utils.benchmark.measure_latency(model, IMAGE, 1, 0)
    tp.utils.benchmark.measure_memory(model, IMAGE)
    assert not before.differences(model, identity=True, randomness=True)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda b: b.measure_latency(Slow(), IMAGE, repeat=0), ValueError, "repeat=0"),
        (lambda b: b.measure_latency(Slow(), IMAGE, warmup=-1), ValueError, "warmup=-1"),
        (lambda b: b.measure_latency("model", IMAGE), TypeError, "torch.nn.Module, got str"),
        (lambda b: b.measure_latency(Slow().to("meta"), IMAGE), ValueError, "meta"),
        (lambda b: b.measure_throughput(Slow(), 3), TypeError, "samples"),
    ],
)
def test_what_cannot_be_measured(call: Any, error: type, match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        call(tp.utils.benchmark)
    assert isinstance(caught.value, PruningError)


# -- matrices -------------------------------------------------------------------------------------------


def matrices(package: Any, model: nn.Module, x: Tensor, folder: Any) -> list[Any]:
    """What the three calls draw, in the order of the model's layers."""
    graph = package.DependencyGraph().build_dependency(model, x)
    layers = [module for module in model.modules() if not list(module.children())]
    rows = [list(graph.module2node).index(layer) for layer in layers]
    sides = [2 * row + side for row in rows for side in (0, 1)]
    found = []
    for name, own in (("computational_graph", rows), ("groups", sides), ("dependency_graph", sides)):
        draw = getattr(package.utils, f"draw_{name}")
        figure, axes = draw(graph, folder / f"{name}.png", title="Title", figsize=(2, 2), dpi=20)
        assert (folder / f"{name}.png").stat().st_size > 100
        assert axes.get_title() == "Title"
        assert axes in figure.axes
        found.append(np.asarray(axes.images[0].get_array())[np.ix_(own, own)])
    return found


def test_matrices_are_those_of_torch_pruning(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib").use("agg")
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, groups=8), nn.PReLU(8), nn.Conv2d(8, 4, 1)
    )
    ours, theirs = (matrices(package, model, IMAGE, tmp_path) for package in (tp, peer()))
    for mine, own in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, own)


def test_matrices_of_models_with_frozen_layers(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    graph = tp.DependencyGraph().build_dependency(LeNet(), torch.rand(2, 1, 28, 28))
    _, axes = tp.utils.draw_groups(graph, tmp_path / "groups.svg", title=None)
    groups = np.asarray(axes.images[0].get_array())
    nodes = list(graph.module2node)
    out_of, into = (2 * nodes.index(graph.model.fc1) + 1, 2 * nodes.index(graph.model.fc2))
    assert groups[out_of, into] == groups[into, out_of] == groups[into, into] == 10
    assert groups[out_of, into + 1] == 0
