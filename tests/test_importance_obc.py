"""Optimal brain compression against brute force: the least squares problem, solved anew for each unit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from calibrating import quiet
from importance_models import Attention, build
from prunus.errors import InputError
from prunus.importance import Magnitude, OptimalBrainCompression, scores


def least_squares(rows_RC: Tensor, inputs_CN: Tensor, removed: list[int], damping: float = 0) -> float:
    """`min E |W x - W' x|^2` over W' with columns of zeros; damped, plus `l/2 |W - W'|^2`."""
    size, count = inputs_CN.shape
    hessian_scale = 2 * float(inputs_CN.square().sum()) / count / size
    pull = torch.eye(size, dtype=torch.float64) * (damping * hessian_scale / 2) ** 0.5
    data_CN = torch.cat([inputs_CN / count**0.5, pull], 1)
    kept = [c for c in range(size) if c not in removed]
    outputs_NR = (rows_RC @ data_CN).T
    if not kept:
        return float(outputs_NR.square().sum())
    solution = torch.linalg.lstsq(data_CN[kept].T, outputs_NR, driver="gelsd").solution
    return float((outputs_NR - data_CN[kept].T @ solution).square().sum())


def inputs_of(model: nn.Module, loader: list[Any], name: str) -> Tensor:
    """What a layer reads over a loader: its last dimension, or channels, first."""
    seen = []
    layer = model.get_submodule(name)
    dim = 1 if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) else -1
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].movedim(dim, 0).flatten(1)))
    with torch.no_grad():
        for item in loader:
            model(item[0] if isinstance(item, tuple) else item)
    hook.remove()
    return torch.cat(seen, 1)


def flat(weight: Tensor) -> Tensor:
    """The weights of each input as a column; kernel positions are rows."""
    return weight.detach().movedim(1, -1).flatten(0, -2)


def obc(graph: prunus.Graph, axis: prunus.Axis, **options: Any) -> list[float]:
    importance = OptimalBrainCompression(normalize="none", **options)
    return scores(graph, [axis.node], importance, None)[axis.node].tolist()


def axis_of(graph: prunus.Graph, member: tuple[str, int], size: int) -> prunus.Axis:
    (axis,) = [axis for axis in graph.prunable if member in axis.members and axis.size == size]
    return axis


def perceptron() -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)).double()
    return model, [torch.randn(n, 6, dtype=torch.float64) for n in (20, 13)]


@pytest.mark.parametrize("damping", [0, 0.01, 0.3])
def test_single_columns_of_a_linear_layer(damping: float) -> None:
    model, loader = perceptron()
    graph = prunus.trace(model, loader[0])
    quiet(graph, loader, covariance=True)
    inputs, rows = inputs_of(model, loader, "2"), model[2].weight.detach()
    wanted = [least_squares(rows, inputs, [u], damping) for u in range(9)]
    assert obc(graph, graph.axis("0.out"), damping=damping) == pytest.approx(wanted, rel=1e-8)


@pytest.mark.parametrize("damping", [0, 0.01])
def test_heads_and_head_dimensions_are_groups_of_columns(damping: float) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(5, 12), Attention(chunks=True), nn.Linear(12, 5)).double().eval()
    loader = [torch.randn(b, t, 5, dtype=torch.float64) for b, t in ((4, 4), (3, 6))]
    graph = prunus.trace(model, loader[0])
    quiet(graph, loader, covariance=True)
    inputs, rows = inputs_of(model, loader, "1.out"), model[1].out.weight.detach()
    heads = [least_squares(rows, inputs, [h * 4 + d for d in range(4)], damping) for h in range(3)]
    dims = [least_squares(rows, inputs, [h * 4 + d for h in range(3)], damping) for d in range(4)]
    for size, wanted in ((3, heads), (4, dims)):
        axis = axis_of(graph, ("1.out.weight", 1), size)
        assert obc(graph, axis, damping=damping) == pytest.approx(wanted, rel=1e-7)


def test_channels_of_convolutions_and_readers_are_summed() -> None:
    """Each kernel position is a row; the stream is read by a convolution and by a classifier."""
    model, loader = build("residual", seed=3)
    loader = [(torch.randn(5, 3, 5, 5, dtype=torch.float64), None) for _ in range(3)]
    graph = prunus.trace(model, loader[0][0])
    quiet(graph, [x for x, _ in loader], covariance=True)

    def parts(name: str, u: int) -> float:
        return least_squares(
            flat(model.get_submodule(name).weight), inputs_of(model, loader, name), [u], 0.01
        )

    wide = [parts("back", u) for u in range(8)]
    stream = [parts("wide", u) + parts("head", u) for u in range(6)]
    assert obc(graph, graph.axis("wide.out")) == pytest.approx(wide, rel=1e-7)
    assert obc(graph, graph.axis("stem.out")) == pytest.approx(stream, rel=1e-7)
    first = obc(graph, graph.axis("stem.out"), reduction="first")
    assert first == pytest.approx([parts("wide", u) for u in range(6)], rel=1e-7)


@pytest.mark.parametrize("transposed", [False, True])
def test_groups_of_a_convolution_have_a_hessian_each(transposed: bool) -> None:
    torch.manual_seed(4)
    layer = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), layer(8, 12, 3, groups=2)).double()
    loader = [torch.randn(4, 3, 5, 5, dtype=torch.float64) for _ in range(2)]
    graph = prunus.trace(model, loader[0])
    found = quiet(graph, loader, covariance=True)
    weight, inputs = model[2].weight.detach(), inputs_of(model, loader, "2")
    # Rows of the outputs and kernel positions of each group, over its own four inputs.
    halves = (
        [weight[4 * g : 4 * g + 4].flatten(1).T for g in range(2)]
        if transposed
        else [flat(weight[6 * g : 6 * g + 6]) for g in range(2)]
    )
    assert set(found.second_moments) == {("2.weight", 0 if transposed else 1)}
    costs = [
        [least_squares(halves[g], inputs[4 * g : 4 * g + 4], [c], 0.01) for c in range(4)] for g in (0, 1)
    ]
    inner = [a + b for a, b in zip(*costs, strict=True)]
    groups = [least_squares(halves[g], inputs[4 * g : 4 * g + 4], [0, 1, 2, 3], 0.01) for g in range(2)]
    sizes = {axis.size: axis for axis in graph.axes_of("0.weight", outputs_only=True)}
    for size, wanted in ((4, inner), (2, groups)):
        assert obc(graph, sizes[size]) == pytest.approx(wanted, rel=1e-7)


def test_a_depthwise_convolution_has_a_number_for_each_channel() -> None:
    model, loader = build("depthwise", seed=1)
    graph = prunus.trace(model, loader[0][0])
    found = quiet(graph, loader, covariance=True)
    assert found.second_moments["depth.weight", 1].shape == (8, 1, 1)
    assert found.second_moments["grouped.weight", 1].shape == (2, 4, 4)
    seen = inputs_of(model, loader, "depth")
    wanted = seen.square().mean(1)
    assert found.second_moments["depth.weight", 1].flatten().tolist() == pytest.approx(wanted.tolist())


def test_inputs_that_others_replace_are_cheap() -> None:
    """A unit and its copy, three times as large, have the largest weights of all, and the least worth."""
    model, loader = perceptron()
    with torch.no_grad():
        model[0].weight[4] = model[0].weight[1] * 3
        model[0].bias[4] = model[0].bias[1] * 3
        model[2].weight[:, [1, 4]] = 1.0
    graph = prunus.trace(model, loader[0])
    quiet(graph, loader, covariance=True)
    axis = graph.axis("0.out")
    found = torch.tensor(obc(graph, axis, damping=1e-9))
    others = [u for u in range(9) if u not in (1, 4)]
    assert found[[1, 4]].max() < 1e-3 * found[others].min()
    size = scores(graph, [axis.node], Magnitude(), None)[axis.node]
    assert size[[1, 4]].min() > size[others].max()
    # With the usual damping: less than it would cost without its copy.
    rows, inputs = model[2].weight.detach(), inputs_of(model, loader, "2")
    left = [u for u in range(9) if u != 4]
    alone = least_squares(rows[:, left], inputs[left], [1], 0.01)
    assert obc(graph, axis)[1] < 0.5 * alone
    with pytest.raises(InputError, match=r"'2.weight' depend linearly .* damping=0 is too little"):
        obc(graph, axis, damping=0)


def test_an_input_that_is_a_sum_of_others_is_cheap() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 4)).double()
    model[0].weight.data[2] = model[0].weight.data[0] + model[0].weight.data[3]
    loader = [torch.randn(40, 6, dtype=torch.float64)]
    graph = prunus.trace(model, loader[0])
    quiet(graph, loader, covariance=True)
    found = obc(graph, graph.axis("0.out"), damping=1e-9)
    assert max(found[u] for u in (0, 2, 3)) < 1e-6 * min(found[u] for u in (1, 4))


def test_inputs_that_are_always_zero_cost_nothing() -> None:
    model, loader = perceptron()
    with torch.no_grad():
        model[0].bias[[2, 5]] = -100
    graph = prunus.trace(model, loader[0])
    quiet(graph, loader, covariance=True)
    for damping in (0, 0.01):
        found = obc(graph, graph.axis("0.out"), damping=damping)
        assert found[2] == found[5] == 0
        assert min(c for u, c in enumerate(found) if u not in (2, 5)) > 0


def one_by_one(problems: list[tuple[Tensor, Tensor]], units: list[list[int]], damping: float) -> list[float]:
    """Greedy removal by brute force: each set of removed units is a least squares problem of its own."""

    def cost(removed: list[int]) -> float:
        columns = [c for u in removed for c in units[u]]
        return sum(least_squares(rows, inputs, columns, damping) for rows, inputs in problems)

    gone: list[int] = []
    scores = {}
    while len(gone) < len(units):
        left = [u for u in range(len(units)) if u not in gone]
        best = min(left, key=lambda u: cost([*gone, u]))
        gone.append(best)
        scores[best] = cost(gone)
    return [scores[u] for u in range(len(units))]


def test_one_after_another_over_all_readers() -> None:
    model, _ = build("residual", seed=3)
    loader = [torch.randn(5, 3, 5, 5, dtype=torch.float64) for _ in range(3)]
    graph = prunus.trace(model, loader[0])
    quiet(graph, loader, covariance=True)
    problems = [
        (flat(model.get_submodule(name).weight), inputs_of(model, loader, name)) for name in ("wide", "head")
    ]
    wanted = one_by_one(problems, [[u] for u in range(6)], 0.01)
    assert obc(graph, graph.axis("stem.out"), sequential=True) == pytest.approx(wanted, rel=1e-7)


def test_one_group_after_another() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(5, 12), Attention(chunks=True), nn.Linear(12, 5)).double().eval()
    loader = [torch.randn(6, 5, 5, dtype=torch.float64) for _ in range(2)]
    graph = prunus.trace(model, loader[0])
    quiet(graph, loader, covariance=True)
    problem = model[1].out.weight.detach(), inputs_of(model, loader, "1.out")
    dims = [[h * 4 + d for h in range(3)] for d in range(4)]
    found = obc(graph, axis_of(graph, ("1.out.weight", 1), 4), sequential=True)
    assert found == pytest.approx(one_by_one([problem], dims, 0.01), rel=1e-7)


def test_one_channel_of_each_group_after_another() -> None:
    model, loader = build("depthwise", seed=1)
    graph = prunus.trace(model, loader[0][0])
    quiet(graph, loader, covariance=True)
    nodes = [axis.node for axis in graph.prunable]
    both = [
        scores(graph, nodes, OptimalBrainCompression(normalize="none", sequential=s), None) for s in (0, 1)
    ]
    for node in nodes:
        alone, after = both[0][node], both[1][node]
        first = alone.argmin()
        assert after.argmin() == first
        assert after[first] == pytest.approx(float(alone[first]))
        assert (after.sort().values.diff() >= 0).all()


def test_one_of_two_equal_units_stays() -> None:
    """Each alone is nearly free; one after the other, the second is as dear as it is without a copy."""
    model, loader = perceptron()
    with torch.no_grad():
        model[0].weight[4] = model[0].weight[6]
        model[0].bias[4] = model[0].bias[6]
        model[2].weight[:, [4, 6]] = 2.0
    graph = prunus.trace(model, loader[0])
    quiet(graph, loader, covariance=True)
    kept = {
        sequential: graph.plan(
            ratio=2 / 9, importance=OptimalBrainCompression(damping=1e-6, sequential=sequential)
        )
        .indices("0.weight")[0]
        .tolist()
        for sequential in (False, True)
    }
    assert not {4, 6} & set(kept[False])
    assert len({4, 6} & set(kept[True])) == 1


def test_large_axes_are_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model, loader = build("language")
    graph = prunus.trace(model, loader[0][0])
    nodes = [axis.node for axis in graph.prunable]
    whole_moments = quiet(graph, loader, covariance=True).second_moments
    whole = scores(graph, nodes, "obc", None)
    monkeypatch.setattr("prunus.importance.surgeon.ENTRIES", 1)
    monkeypatch.setattr("prunus.calibration.moments.ENTRIES", 1)
    moments = quiet(graph, loader, covariance=True).second_moments
    assert moments.keys() == whole_moments.keys()
    for key, matrix in whole_moments.items():
        assert torch.allclose(moments[key], matrix, rtol=1e-12)
    pieces = scores(graph, nodes, "obc", None)
    assert all(torch.allclose(pieces[node], whole[node], rtol=1e-9) for node in nodes)


def test_what_is_missing_is_said() -> None:
    model, loader = perceptron()
    graph = prunus.trace(model, loader[0])
    quiet(graph, loader)
    with pytest.raises(InputError, match=r"calibrate\(graph, loader, covariance=True\) first"):
        graph.plan(ratio=0.5, importance="obc")
    with pytest.raises(InputError, match="covariance=True gathers activations"):
        quiet(graph, loader, lambda out, _: out.sum(), covariance=True, activations=False)
    for damping in (-1, float("nan"), float("inf"), None, True):
        with pytest.raises(InputError, match=r"damping=.*: a finite share"):
            OptimalBrainCompression(damping=damping)
    quiet(graph, [torch.full((3, 6), float("inf"), dtype=torch.float64)], covariance=True)
    with pytest.raises(InputError, match=r"inputs of parameter '2.weight' were NaN or infinite"):
        graph.plan(ratio=0.5, importance="obc")
