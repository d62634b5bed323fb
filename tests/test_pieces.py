"""Bounds of slices: one rule for whichever end they are counted from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from prunus.graph.rules.pieces import slice_range

bounds = st.one_of(st.none(), st.integers(-12, 12), st.just(2**63 - 1))


@given(st.integers(1, 8), bounds, bounds, st.one_of(st.none(), st.integers(1, 4)))
def test_slices_take_what_python_takes(
    size: int, start: int | None, end: int | None, step: int | None
) -> None:
    first, stop, by = slice_range({"start": start, "end": end, "step": step}, size)
    assert 0 <= first <= stop <= size
    assert list(range(first, stop, by)) == list(range(size))[start:end:step]


@given(st.data())
def test_narrows_take_what_torch_takes(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 8))
    start = data.draw(st.integers(-size, size))
    length = data.draw(st.integers(0, size - (start % size if start < size else size)))
    first, stop, step = slice_range({"start": start, "length": length}, size)
    assert step == 1
    assert torch.arange(size).narrow(0, start, length).tolist() == list(range(first, stop))


class Narrowed(nn.Module):
    def __init__(self, start: int, copies: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(3, 2)
        self.start, self.copies = start, copies

    def forward(self, x: Tensor) -> Tensor:
        take = torch.narrow_copy if self.copies else torch.narrow
        return self.b(take(self.a(x), 1, self.start, 3))


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("start", [-3, 2, 5])
def test_a_narrow_of_literal_length_keeps_that_length(start: int, copies: bool) -> None:
    model, x = Narrowed(start, copies), torch.randn(2, 4)
    graph = prunus.trace(model, x)
    first = start % 8
    kept = next(axis for axis in graph.axes if ("b.weight", 1) in axis.members)
    assert not kept.prunable
    assert ("a.weight", 0) in kept.members
    plan = graph.plan(ratio=0.5)
    plan.apply(model)
    rows = plan.indices("a.weight")[0]
    assert set(range(first, first + 3)) <= set(rows.tolist())
    assert model(x).shape == (2, 2)
