"""Each importance against its published formula, computed one weight at a time on small networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from importance_models import Attention, Residual, build
from prunus.calibration import calibrate
from prunus.importance import (
    Magnitude,
    OptimalBrainDamage,
    Taylor,
    TaylorElement,
    Wanda,
    scores,
)

Slices = list[tuple[str, Any]]
"""The members of one unit: parameter names, and the index of its entries there."""


def stream_unit(u: int) -> Slices:
    """A unit of the residual stream, its makers first."""
    return [
        ("stem.weight", (u,)),
        ("back.weight", (u,)),
        ("stem.bias", (u,)),
        ("norm.weight", (u,)),
        ("norm.bias", (u,)),
        ("wide.weight", (slice(None), u)),
        ("head.weight", (slice(None), u)),
    ]


def wide_unit(u: int) -> Slices:
    return [("wide.weight", (u,)), ("wide.bias", (u,)), ("back.weight", (slice(None), u))]


AXES: dict[str, Callable[[int], Slices]] = {"stem.out": stream_unit, "wide.out": wide_unit}
BIASES = {"stem.bias", "norm.bias", "wide.bias", "head.bias"}


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, prunus.Graph, list[Any]]:
    model, loader = build("residual", seed=5)
    graph = prunus.trace(model, loader[0][0])
    calibrate(graph, loader, F.cross_entropy, per_sample=True, progress=False)
    return model, graph, loader


def entries(tensors: dict[str, Tensor], unit: Slices) -> list[list[float]]:
    """The values of a unit, a list for each member."""
    return [tensors[name][index].reshape(-1).tolist() for name, index in unit]


def check(
    graph: prunus.Graph,
    importance: Any,
    expected: Callable[[str, int, Callable[[int], Slices]], list[float]],
    normalize: Callable[[list[float]], list[float]] | None = None,
) -> None:
    assert {axis.name for axis in graph.prunable} == set(AXES)
    found = scores(graph, [graph.axis(name).node for name in AXES], importance, None)
    for name, unit in AXES.items():
        axis = graph.axis(name)
        wanted = expected(name, axis.size, unit)
        if normalize is None:
            mean = sum(wanted) / len(wanted)
            wanted = [value / mean for value in wanted]
        else:
            wanted = normalize(wanted)
        assert found[axis.node].tolist() == pytest.approx(wanted, rel=1e-6), name


def by_unit(value: Callable[[Slices], float]) -> Callable[..., list[float]]:
    return lambda name, size, unit: [value(unit(u)) for u in range(size)]


@pytest.mark.parametrize("p", [0.5, 1, 2, 3])
@pytest.mark.parametrize("biases", [True, False])
def test_magnitude(case: Any, p: float, biases: bool) -> None:
    model, graph, _ = case
    weights = dict(model.named_parameters())

    def norm(unit: Slices) -> float:
        chosen = [item for item in unit if biases or item[0] not in BIASES]
        return sum(abs(w) ** p for member in entries(weights, chosen) for w in member) ** (1 / p)

    check(graph, Magnitude(p=p, biases=biases), by_unit(norm))


def lamp_of(squares: list[float]) -> list[float]:
    return [s / sum(t for t in squares if t >= s) for s in squares]


def test_lamp(case: Any) -> None:
    model, graph, _ = case
    weights = dict(model.named_parameters())
    squares = by_unit(lambda unit: sum(w * w for member in entries(weights, unit) for w in member))
    check(graph, "lamp", squares, lamp_of)


MEMBER_REDUCTIONS: dict[str, Callable[[list[float]], float]] = {
    "sum": sum,
    "mean": lambda parts: sum(parts) / len(parts),
    "max": max,
    "prod": math.prod,
    "first": lambda parts: parts[0],
}


@pytest.mark.parametrize("reduction", MEMBER_REDUCTIONS)
def test_reductions_over_coupled_members(case: Any, reduction: str) -> None:
    model, graph, _ = case
    weights = dict(model.named_parameters())
    reduce = MEMBER_REDUCTIONS[reduction]

    def l2(unit: Slices) -> float:
        return math.sqrt(reduce([sum(w * w for w in member) for member in entries(weights, unit)]))

    check(graph, Magnitude(reduction=reduction), by_unit(l2))


def gaussian_of(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return [(v - mean) / std for v in values]


NORMALISED: dict[str, Callable[[list[float]], list[float]]] = {
    "none": lambda values: values,
    "sum": lambda values: [v / sum(values) for v in values],
    "mean": lambda values: [v * len(values) / sum(values) for v in values],
    "max": lambda values: [v / max(values) for v in values],
    "standardise": lambda values: [(v - min(values)) / (max(values) - min(values)) for v in values],
    "gaussian": gaussian_of,
    "lamp": lamp_of,
}


@pytest.mark.parametrize("normalize", NORMALISED)
def test_normalisers(case: Any, normalize: str) -> None:
    model, graph, _ = case
    weights = dict(model.named_parameters())
    l1 = by_unit(lambda unit: sum(abs(w) for member in entries(weights, unit) for w in member))
    check(graph, Magnitude(p=1, normalize=normalize), l1, NORMALISED[normalize])


@pytest.mark.parametrize("normalize", NORMALISED)
def test_normalisers_take_zeros_and_ties(normalize: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)).double()
    graph = prunus.trace(model, torch.randn(2, 3, dtype=torch.float64))
    for value in (0.0, 1.0):
        for parameter in model.parameters():
            parameter.data.fill_(value)
        (units,) = scores(
            graph, [axis.node for axis in graph.prunable], Magnitude(normalize=normalize), None
        ).values()
        assert torch.isfinite(units).all()
        if value == 0:
            assert (units == 0).all()
    (units,) = scores(
        graph, [axis.node for axis in graph.prunable], Magnitude(normalize=lambda s: s + 1), None
    ).values()
    assert units.tolist() == pytest.approx([math.sqrt(5) + 1] * 4)


def test_batch_norm_scale_and_what_has_none(case: Any) -> None:
    """The stream has a batch norm; the other axis is ranked by magnitude, with the same mean."""
    model, graph, _ = case
    weights = dict(model.named_parameters())

    def expected(name: str, size: int, unit: Callable[[int], Slices]) -> list[float]:
        if name == "stem.out":
            return weights["norm.weight"].detach().abs().tolist()
        return [math.sqrt(sum(w * w for m in entries(weights, unit(u)) for w in m)) for u in range(size)]

    check(graph, "bn_scale", expected)
    plain = prunus.importance.BatchNormScale(normalize="none")
    found = scores(graph, [axis.node for axis in graph.prunable], plain, None)
    means = [float(units.mean()) for units in found.values()]
    assert means == pytest.approx([float(weights["norm.weight"].detach().abs().mean())] * 2)


def distance(a: list[float], b: list[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def matrix_members(tensors: dict[str, Tensor], unit: Callable[[int], Slices], size: int) -> list[Any]:
    """The weights of each unit in each member that is a matrix: member, unit, weight."""
    chosen = [[i for i in unit(u) if tensors[i[0]].dim() > 1] for u in range(size)]
    return list(zip(*(entries(tensors, item) for item in chosen), strict=True))


def test_geometric_median(case: Any) -> None:
    model, graph, _ = case
    weights = dict(model.named_parameters())

    def expected(name: str, size: int, unit: Callable[[int], Slices]) -> list[float]:
        members = matrix_members(weights, unit, size)
        return [sum(distance(m[u], m[v]) for m in members for v in range(size)) for u in range(size)]

    check(graph, "fpgm", expected)


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_cosine_redundancy(case: Any) -> None:
    model, graph, _ = case
    weights = dict(model.named_parameters())

    def expected(name: str, size: int, unit: Callable[[int], Slices]) -> list[float]:
        members = matrix_members(weights, unit, size)
        norms = [sum(x * x for m in members for x in m[u]) for u in range(size)]
        out = []
        for u in range(size):
            alike = [
                sum(cosine(m[u], m[v]) for m in members) / len(members)
                for v in range(size)
                if norms[v] > norms[u]
            ]
            out.append(1 - max(alike, default=-1))
        return out

    check(graph, "cosine", expected)


def test_of_two_parallel_units_the_smaller_goes() -> None:
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, 5, bias=False)).double()
    model[0].weight.data[4] = 0.5 * model[0].weight.data[1]
    model[2].weight.data[:, 4] = 0.5 * model[2].weight.data[:, 1]
    graph = prunus.trace(model, torch.randn(2, 5, dtype=torch.float64))
    plan = graph.plan(ratio=1 / 6, importance="cosine")
    assert plan.indices("0.weight")[0].tolist() == [0, 1, 2, 3, 5]


def test_large_axes_are_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """More units than a chunk has rows: the same scores as in one piece."""
    import prunus.importance.units as units

    model = nn.Sequential(nn.Linear(7, 300), nn.ReLU(), nn.Linear(300, 5)).double()
    graph = prunus.trace(model, torch.randn(2, 7, dtype=torch.float64))
    nodes = [axis.node for axis in graph.prunable]
    for importance in ("fpgm", "cosine"):
        (pieces,) = scores(graph, nodes, importance, None).values()
        monkeypatch.setattr(units, "ROWS", 1000)
        (whole,) = scores(graph, nodes, importance, None).values()
        monkeypatch.undo()
        assert torch.allclose(pieces, whole, rtol=1e-9)


# -- gradients: the gate of a unit is a number that multiplies all its weights; its derivative is sum w g --


def gate_gradients(model: nn.Module, name: str, size: int, loss: Callable[[nn.Module], Tensor]) -> Tensor:
    """dL/dm for a gate m = 1 on every weight of each unit of an axis, by autograd."""
    gates = torch.ones(size, dtype=torch.float64, requires_grad=True)
    scaled = {key: value.detach().clone() for key, value in model.named_parameters()}
    for u in range(size):
        for key, index in AXES[name](u):
            mask = torch.zeros_like(scaled[key])
            mask[index] = 1
            scaled[key] = scaled[key] * (1 + mask * (gates[u] - 1))

    def run(x: Tensor) -> Tensor:
        return torch.func.functional_call(model, scaled, (x,))

    (found,) = torch.autograd.grad(loss(run), gates)
    return found


def all_samples(loader: list[Any]) -> list[tuple[Tensor, Tensor]]:
    return [(x[i : i + 1], y[i : i + 1]) for x, y in loader for i in range(len(x))]


def test_group_taylor_is_the_derivative_of_a_gate(case: Any) -> None:
    model, graph, loader = case
    samples = all_samples(loader)

    def mean_loss(run: Any) -> Tensor:
        return torch.stack([F.cross_entropy(run(x), y) for x, y in samples]).mean()

    def expected(name: str, size: int, unit: Any) -> list[float]:
        return gate_gradients(model, name, size, mean_loss).abs().tolist()

    check(graph, "taylor", expected)


def test_fisher_is_the_mean_square_of_the_derivatives_of_a_gate(case: Any) -> None:
    model, graph, loader = case

    def expected(name: str, size: int, unit: Any) -> list[float]:
        total = torch.zeros(size, dtype=torch.float64)
        for x, y in all_samples(loader):
            total += gate_gradients(model, name, size, lambda run: F.cross_entropy(run(x), y)).square()  # noqa: B023
        return (0.5 * total / 9).tolist()

    check(graph, prunus.importance.GroupFisher(normalize="none"), expected, lambda values: values)


def sample_gradients(model: nn.Module, loader: list[Any]) -> list[dict[str, Tensor]]:
    out = []
    for x, y in all_samples(loader):
        found = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        out.append(dict(zip(dict(model.named_parameters()), found, strict=True)))
    return out


def pairs(unit: Slices, *tensors: dict[str, Tensor]) -> list[list[tuple[float, ...]]]:
    """The same entries of several tensors side by side, a list for each member."""
    return [
        list(zip(*members, strict=True)) for members in zip(*(entries(t, unit) for t in tensors), strict=True)
    ]


@pytest.mark.parametrize("reduction", ["sum", "max", "first", "mean"])
@pytest.mark.parametrize("biases", [True, False])
def test_taylor_by_element_and_by_member(case: Any, reduction: str, biases: bool) -> None:
    model, graph, loader = case
    weights = dict(model.named_parameters())
    each = sample_gradients(model, loader)
    mean = {name: torch.stack([g[name] for g in each]).mean(0) for name in weights}
    reduce = MEMBER_REDUCTIONS[reduction]

    def chosen(unit: Slices) -> Slices:
        return [item for item in unit if biases or item[0] not in BIASES]

    element = by_unit(
        lambda unit: reduce([sum(abs(w * g) for w, g in m) for m in pairs(chosen(unit), weights, mean)])
    )
    check(graph, TaylorElement(reduction=reduction, biases=biases), element)

    def group(unit: Slices) -> float:
        signed = [sum(w * g for w, g in member) for member in pairs(chosen(unit), weights, mean)]
        return abs(reduce(signed)) if reduction in ("sum", "mean") else reduce([abs(s) for s in signed])

    check(graph, Taylor(reduction=reduction, biases=biases), by_unit(group))


def test_taylor_reads_the_gradients_on_the_model_where_there_is_no_calibration() -> None:
    model, loader = build("residual", seed=5)
    graph = prunus.trace(model, loader[0][0])
    F.cross_entropy(model(loader[0][0]), loader[0][1]).backward()
    weights = dict(model.named_parameters())
    mean = {name: parameter.grad for name, parameter in weights.items()}
    element = by_unit(lambda unit: sum(abs(w * g) for m in pairs(unit, weights, mean) for w, g in m))
    check(graph, "taylor_element", element)


def test_optimal_brain_damage_squares_each_sample(case: Any) -> None:
    model, graph, loader = case
    weights = dict(model.named_parameters())
    each = sample_gradients(model, loader)
    squares = {name: torch.stack([g[name] for g in each]).square().mean(0) for name in weights}
    damage = by_unit(lambda unit: sum(0.5 * h * w * w for m in pairs(unit, weights, squares) for w, h in m))
    check(graph, OptimalBrainDamage(normalize="none"), damage, lambda values: values)
    last = {name: each[-1][name].square() for name in weights}
    only_last = by_unit(lambda unit: sum(h * w * w for m in pairs(unit, weights, last) for w, h in m))
    with pytest.raises(AssertionError):
        check(graph, "obd", only_last)


def test_channel_optimal_brain_damage_looks_at_the_makers(case: Any) -> None:
    model, graph, loader = case
    weights = dict(model.named_parameters())
    each = sample_gradients(model, loader)
    squares = {name: torch.stack([g[name] for g in each]).square().mean(0) for name in weights}
    makers = {"stem.out": ("stem.weight", "back.weight"), "wide.out": ("wide.weight",)}

    def expected(name: str, size: int, unit: Any) -> list[float]:
        return [
            sum(float((squares[key][u] * weights[key].detach()[u] ** 2).sum()) for key in makers[name])
            for u in range(size)
        ]

    check(graph, "obdc", expected)


# -- activations: what forward hooks see on the plain model ------------------------------------------------


def inputs_of(model: nn.Module, loader: list[Any], names: list[str]) -> dict[str, Tensor]:
    """What each layer reads, channels first, all samples and positions behind."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: seen[name].append(args[0].movedim(1, 0).flatten(1))
        )
        for name in names
    ]
    with torch.no_grad():
        for x, _ in loader:
            model(x)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts, 1) for name, parts in seen.items()}


READERS = {"stem.out": ["wide", "head"], "wide.out": ["back"]}


def test_activations_are_those_that_readers_see(case: Any) -> None:
    model, graph, loader = case
    seen = inputs_of(model, loader, ["wide", "head", "back"])

    def mean(name: str, size: int, unit: Any) -> list[float]:
        return torch.stack([seen[r].abs().mean(1) for r in READERS[name]]).mean(0).tolist()

    def nonzero(name: str, size: int, unit: Any) -> list[float]:
        return torch.stack([(seen[r] != 0).double().mean(1) for r in READERS[name]]).mean(0).tolist()

    check(graph, "activation", mean)
    check(graph, "apoz", nonzero)


@pytest.mark.parametrize("biases", [True, False])
def test_wanda(case: Any, biases: bool) -> None:
    model, graph, loader = case
    weights = dict(model.named_parameters())
    seen = inputs_of(model, loader, ["stem", "wide", "head", "back"])
    scaled = {}
    for name, weight in weights.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and layer in seen:
            sizes = seen[layer].square().mean(1).sqrt()
            scaled[name] = weight.abs() * sizes.reshape([-1 if d == 1 else 1 for d in range(weight.dim())])
        elif name in BIASES and biases:
            scaled[name] = weight.abs()

    def total(unit: Slices) -> float:
        return sum(float(scaled[name].detach()[index].sum()) for name, index in unit if name in scaled)

    check(graph, Wanda(biases=biases), by_unit(total))


# -- attention: units that occupy several places of one dimension -----------------------------------------


def attention() -> tuple[Attention, prunus.Graph, list[Tensor]]:
    torch.manual_seed(2)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(5, 12)
            self.attention = Attention(chunks=True)
            self.outer = nn.Linear(12, 5)

        def forward(self, x_BTE: Tensor) -> Tensor:
            return self.outer(self.attention(self.inner(x_BTE)))

    model = Block().double().eval()
    loader = [torch.randn(b, t, 5, dtype=torch.float64) for b, t in ((2, 4), (3, 6))]
    graph = prunus.trace(model, loader[0])
    calibrate(graph, loader, progress=False)
    return model.attention, graph, loader


def positions(head: int | None = None, dim: int | None = None) -> list[int]:
    heads = range(3) if head is None else [head]
    dims = range(4) if dim is None else [dim]
    return [h * 4 + d for h, d in itertools.product(heads, dims)]


def axes_of_attention(graph: prunus.Graph) -> dict[str, Any]:
    """The axis of heads (3 units), that of value dimensions, and that of query and key dimensions (4)."""
    inside = graph.axes_of("attention.qkv.weight", outputs_only=True)
    (heads,) = [axis for axis in inside if axis.size == 3]
    in_out = {axis.node for axis in graph.axes_of("attention.out.weight")}
    (value,) = [axis for axis in inside if axis.size == 4 and axis.node in in_out]
    (query,) = [axis for axis in inside if axis.size == 4 and axis.node not in in_out]
    return {"heads": heads, "value": value, "query": query}


def test_heads_gather_their_rows_of_query_key_and_value() -> None:
    layer, graph, _ = attention()
    axes = axes_of_attention(graph)
    qkv, bias, out = (t.detach() for t in (layer.qkv.weight, layer.qkv.bias, layer.out.weight))

    def norm(rows: list[int], columns: list[int]) -> float:
        return math.sqrt(
            float(qkv[rows].square().sum() + bias[rows].square().sum() + out[:, columns].square().sum())
        )

    wanted = {
        "heads": [
            norm([p + 12 * part for part in range(3) for p in positions(head=h)], positions(head=h))
            for h in range(3)
        ],
        "value": [norm([p + 24 for p in positions(dim=d)], positions(dim=d)) for d in range(4)],
        "query": [norm([p + 12 * part for part in range(2) for p in positions(dim=d)], []) for d in range(4)],
    }
    found = scores(graph, [axis.node for axis in axes.values()], Magnitude(normalize="none"), None)
    for name, axis in axes.items():
        assert found[axis.node].tolist() == pytest.approx(wanted[name]), name


def test_distances_between_heads_run_over_all_their_rows() -> None:
    layer, graph, _ = attention()
    heads = axes_of_attention(graph)["heads"]
    qkv, out = layer.qkv.weight.detach(), layer.out.weight.detach()
    made = [qkv[[p + 12 * part for part in range(3) for p in positions(head=h)]] for h in range(3)]
    read = [out[:, positions(head=h)] for h in range(3)]
    wanted = [
        sum(float((side[h] - side[g]).norm()) for side in (made, read) for g in range(3)) for h in range(3)
    ]
    found = scores(graph, [heads.node], prunus.importance.GeometricMedian(normalize="none"), None)
    assert found[heads.node].tolist() == pytest.approx(wanted)


def test_query_dimensions_are_read_by_their_products_with_keys() -> None:
    layer, graph, loader = attention()
    axes = axes_of_attention(graph)
    model = graph.model
    products, mixed = [], []
    with torch.no_grad():
        hook = layer.out.register_forward_pre_hook(lambda _, args: mixed.append(args[0].flatten(0, 1)))
        for x in loader:
            b, t, _ = x.shape
            q_and_k = layer.qkv(model.inner(x))[..., :24].reshape(b, t, 2, 3, 4)
            products.append(q_and_k.reshape(-1, 4))
            model(x)
        hook.remove()
    # Fused attention scales queries and keys by the fourth root of their size before it multiplies them.
    query = torch.cat(products).abs().mean(0) / 4**0.25
    out = torch.cat(mixed).abs().mean(0).reshape(3, 4)
    importance = prunus.importance.ActivationMean(normalize="none", reduction="first")
    found = scores(graph, [axes["query"].node], importance, None)[axes["query"].node]
    assert found.tolist() == pytest.approx(query.tolist())
    reads = graph.calibration.activations
    assert reads[axes["heads"].node]["attention.out.weight"].mean_abs.tolist() == pytest.approx(
        out.mean(1).tolist()
    )
    assert reads[axes["value"].node]["attention.out.weight"].mean_abs.tolist() == pytest.approx(
        out.mean(0).tolist()
    )


def test_wanda_of_a_grouped_convolution_pairs_groups() -> None:
    model, loader = build("depthwise", seed=1)
    graph = prunus.trace(model, loader[0][0])
    calibration = calibrate(graph, loader, progress=False)
    seen = inputs_of(model, loader, ["grouped", "depth"])
    for name, inner in (("grouped", 4), ("depth", 1)):
        weight = model.get_submodule(name).weight
        sizes = calibration.input_sizes(f"{name}.weight", tuple(weight.shape))
        rms = seen[name].square().mean(1).sqrt()
        per_group = weight.shape[0] // (8 // inner)
        for row, column in itertools.product(range(weight.shape[0]), range(inner)):
            wanted = float(rms[row // per_group * inner + column])
            assert sizes[row, column].flatten().tolist() == pytest.approx([wanted] * weight[0, 0].numel())


def test_residual_is_what_the_tables_say() -> None:
    """The hand-written members are all that the graph knows, so that nothing is left out above."""
    graph = prunus.trace(Residual(), torch.randn(1, 3, 5, 5))
    for name, unit in AXES.items():
        assert {key for key, _ in unit(0)} == {key for key, _ in graph.axis(name).members}
