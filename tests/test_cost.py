"""Costs of plans against independent counts: torch's own FLOP counter, and counting what remains."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import prunus
from micro import REGISTRY

CHOSEN_BY_DATA = frozenset({"branches_on_a_value", "mixture_top_k"})
"""How often a layer runs depends on values here: the cost is that of every expert taking every token."""


def flops(model: nn.Module, args: Any, kwargs: Any) -> int:
    """`FlopCounterMode` with fused kernels off, since it knows the parts of attention and recurrence only."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(*args, **kwargs)
        return int(counter.get_total_flops())
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        torch._C._set_mkldnn_enabled(enabled)


class MadeBytes(TorchDispatchMode):
    """Bytes of every tensor that an operation makes; views, copies of layout and in-place results are not."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outs = [result] if isinstance(result, Tensor) else [t for t in result or () if isinstance(t, Tensor)]
        for index, out in enumerate(outs):
            returns = func._schema.returns
            copied = func._schema.name in ("aten::clone", "aten::_unsafe_view")
            if returns[min(index, len(returns) - 1)].alias_info is None and not copied:
                self.total += out.numel() * out.element_size()
        return result


def made_bytes(model: nn.Module, args: Any, kwargs: Any) -> int:
    with torch.no_grad(), MadeBytes() as counter:
        model(*args, **kwargs)
    return counter.total


def parameter_entries(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def counted(name: str) -> bool:
    return name not in CHOSEN_BY_DATA


@pytest.mark.parametrize("name", [name for name in sorted(REGISTRY) if counted(name)])
def test_macs_and_parameters_agree_with_independent_counts(name: str) -> None:
    model, args, kwargs = REGISTRY[name].fresh()
    if name == "compiled":
        model = model._orig_mod  # the counter does not look inside compiled code
    graph = prunus.trace(model, args, kwargs)
    before = graph.cost()
    assert 2 * before.macs == flops(model, args, kwargs)
    assert before.params == parameter_entries(model)
    plan = graph.plan(ratio=0.5)
    promised = plan.cost
    assert graph.cost(plan) == promised
    plan.apply(model)
    assert promised.params == parameter_entries(model)
    assert 2 * promised.macs == flops(model, args, kwargs)
    again = prunus.trace(model, args, kwargs).cost()
    assert again == promised


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.Conv2d(10, 6, 3, groups=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.bn(self.a(x)).relu())
        return self.head(x.mean((2, 3)).tanh())


def test_activation_bytes_are_those_of_the_tensors_made() -> None:
    model, x = Plain().eval(), torch.randn(2, 3, 9, 8)
    graph = prunus.trace(model, x)
    torch._C._set_mkldnn_enabled(False)
    try:
        assert graph.cost().activation_bytes == made_bytes(model, (x,), {})
        plan = graph.plan(ratio=0.5)
        plan.apply(model)
        assert plan.cost.activation_bytes == made_bytes(model, (x,), {})
    finally:
        torch._C._set_mkldnn_enabled(True)
    assert plan.cost.activation_bytes < graph.cost().activation_bytes


def test_costs_grow_with_the_batch_and_halve_by_the_square() -> None:
    model = nn.Sequential(
        nn.Linear(8, 64, bias=False), nn.ReLU(), nn.Linear(64, 64, bias=False), nn.Linear(64, 8)
    )
    one, four = (prunus.trace(model, torch.randn(n, 8)).cost() for n in (1, 4))
    assert four.macs == 4 * one.macs
    assert four.params == one.params
    plan = prunus.trace(model, torch.randn(1, 8)).plan(ratio=0.5)
    assert plan.cost.macs == 8 * 32 + 32 * 32 + 32 * 8


def test_a_plan_that_is_not_applied_changes_nothing() -> None:
    model, x = Plain(), torch.randn(2, 3, 9, 8)
    before = copy.deepcopy(model.state_dict())
    plan = prunus.trace(model, x).plan(budget=prunus.Budget(macs=0.3))
    assert plan.cost.macs <= 0.3 * plan.graph.cost().macs
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
