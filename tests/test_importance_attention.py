"""Importances of heads and head dimensions, which occupy several places of one dimension."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from importance_models import Attention
from prunus.calibration import calibrate
from prunus.importance import Magnitude, scores


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
