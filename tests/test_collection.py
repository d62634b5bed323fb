"""Python's garbage collector: off while a plan is applied, and afterwards as the user had it."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import prunus


class Watched(nn.Module):
    """Notes whether the collector is on whenever its forward runs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        seen.append(gc.isenabled())
        if refuses:
            raise RuntimeError("not today")
        return self.b(self.a(x).relu())


seen: list[bool] = []
refuses: list[bool] = []


@pytest.fixture(params=[True, False])
def enabled(request: pytest.FixtureRequest) -> Iterator[bool]:
    before = gc.isenabled()
    seen.clear()
    refuses.clear()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if before else gc.disable)()


def test_it_is_off_while_a_plan_is_applied_and_then_as_it_was(enabled: bool) -> None:
    model, x = Watched(), torch.randn(3, 4)
    plan = prunus.trace(model, x).plan(ratio=0.5)
    assert gc.isenabled() == enabled
    collections: list[str] = []
    thresholds = gc.get_threshold()
    gc.callbacks.append(lambda phase, info: collections.append(phase) if phase == "start" else None)
    try:
        gc.set_threshold(10)
        collections.clear()
        plan.apply(model)
        during = len(collections)
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.pop()
    assert during <= 5  # on the way in and out; dozens otherwise
    assert not any(seen)
    assert gc.isenabled() == enabled
    model(x)
    assert seen[-1] == enabled


def test_a_failure_leaves_it_as_it_was(enabled: bool) -> None:
    model, x = Watched(), torch.randn(3, 4)
    plan = prunus.trace(model, x).plan(ratio=0.5)
    refuses.append(True)
    with pytest.raises(prunus.PruningError):
        plan.apply(model)
    assert gc.isenabled() == enabled
    with pytest.raises(prunus.PruningError):
        prunus.trace(model, x)
    assert gc.isenabled() == enabled


def test_apply_still_shows_its_parameters() -> None:
    assert list(inspect.signature(prunus.Plan.apply).parameters) == ["self", "model", "optimizer"]
    assert "Slices parameters" in (prunus.Plan.apply.__doc__ or "")
