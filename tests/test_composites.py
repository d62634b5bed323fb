"""Composites with rules of their own are recorded like everything else: operations, readers, bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import prunus


class CountedBytes(TorchDispatchMode):
    """Bytes of every tensor that an operation makes, views not counted."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor, returned in zip(
            out if isinstance(out, tuple) else (out,), func._schema.returns, strict=True
        ):
            if returned.alias_info is None:
                self.total += tensor.numel() * tensor.element_size()
        return out


def activation_bytes(model: nn.Module, x: Tensor) -> int:
    with torch.no_grad(), CountedBytes() as counted:
        model(x)
    return counted.total


def network(dims: int, window: int) -> tuple[nn.Module, Tensor]:
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    torch.manual_seed(dims)
    norm = nn.LocalResponseNorm(window, alpha=0.5)
    model = nn.Sequential(conv(3, 8, 3), norm, conv(8, 4, 1), nn.Flatten(), nn.Linear(4 * 3**dims, 2))
    return model.eval(), torch.randn(2, 3, *[5] * dims)


@pytest.mark.parametrize("window", [1, 2, 3, 4])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_local_response_norm_is_recorded(dims: int, window: int) -> None:
    model, x = network(dims, window)
    graph = prunus.trace(model, x)
    assert graph.cost().activation_bytes == activation_bytes(model, x)
    inside = [op for op in graph.ops if op.site.module == "1"]
    assert inside[0].inputs()[0].producer is graph.ops[0]
    assert inside[-1].outs[0].consumers == [op for op in graph.ops if op.site.module == "2"]
    plan = graph.plan(ratio=0.5)
    assert len(plan.counts) == 2
    assert ("neighbour" in str(plan.approximate_axes)) == (window > 1)
    plan.apply(model)
    assert plan.cost.activation_bytes == activation_bytes(model, x)


def test_a_dead_channel_between_neighbours_is_not_compacted_away() -> None:
    model, x = network(2, 3)
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0, 0
    before = model(x)
    plan = prunus.compact(model, x)
    assert "0.out" not in plan.axes
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
