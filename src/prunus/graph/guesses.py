"""Outputs of operations whose shapes depend on data: the largest they can have, without reading any.

A forward that reads values otherwise cannot run on tensors without data, and says so with `ReadsValues`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException)


class ReadsValues(Exception):
    """The model's forward reads tensor values: fake tensors cannot follow it."""


def _guess_nonzero(x: Tensor) -> Tensor:
    """Every element taken: each branch that data would choose is seen by the trace."""
    return x.new_empty((max(x.numel(), 1), x.dim()), dtype=torch.int64)


def _guess_masked_select(x: Tensor, mask: Tensor) -> Tensor:
    return x.new_empty(
        (
            max(
                torch.broadcast_shapes(x.shape, mask.shape).numel(),  # type: ignore[no-untyped-call]
                1,
            ),
        )
    )


def _guess_index(x: Tensor, indices: list[Tensor | None]) -> Tensor:
    shape: list[int] = []
    dim = 0
    for item in indices:
        if item is None:
            shape.append(x.shape[dim])
            dim += 1
        elif item.dtype in (torch.bool, torch.uint8):
            shape.append(max(item.numel(), 1))
            dim += item.dim()
        else:
            raise ReadsValues("index")
    return x.new_empty((*shape, *x.shape[dim:]))


GUESSES: dict[str, Callable[..., Tensor]] = {
    "nonzero": _guess_nonzero,
    "masked_select": _guess_masked_select,
    "index": _guess_index,
}
