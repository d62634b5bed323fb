"""Cutting tensors to kept units while holding on to what was removed, so that nothing is copied twice.

Kept and removed parts together are as large as the original, whatever the number of cut dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Index = Tensor | None
"""Kept indices along one dimension, sorted; None where all are kept."""


@dataclass
class Removed:
    """What one tensor lost, dimension by dimension, and the layout it had."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    kept: list[Index]
    parts: list[tuple[int, Tensor]]


def complement(kept: Tensor, size: int) -> Tensor:
    mask = torch.ones(size, dtype=torch.bool)
    mask[kept] = False
    return mask.nonzero().flatten()


def _layout(tensor: Tensor) -> torch.memory_format:
    for dims, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.dim() == dims and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=layout):
            return layout
    return torch.contiguous_format


def cut(tensor: Tensor, kept: Sequence[Index]) -> tuple[Tensor, Removed]:
    """The kept part of a tensor in its memory format, and what was removed.

    Args:
        tensor: of any shape, on any device.
        kept: for each dimension the kept indices (int64, CPU, sorted) or None.
    """
    layout = _layout(tensor)
    removed = Removed(tuple(tensor.shape), tuple(tensor.stride()), list(kept), [])
    order = sorted(
        (d for d, index in enumerate(kept) if index is not None),
        key=lambda d: len(kept[d]) / tensor.shape[d],  # type: ignore[arg-type]
    )
    for d in order:
        index = kept[d]
        assert index is not None
        gone = complement(index, tensor.shape[d]).to(tensor.device)
        removed.parts.append((d, tensor.index_select(d, gone)))
        tensor = tensor.index_select(d, index.to(tensor.device))
    return tensor.contiguous(memory_format=layout), removed


def join(tensor: Tensor, removed: Removed) -> Tensor:
    """The inverse of `cut`: kept values from `tensor`, the others as they were removed."""
    for number in range(len(removed.parts) - 1, -1, -1):
        d, part = removed.parts[number]
        index = removed.kept[d]
        assert index is not None
        shape = list(tensor.shape)
        shape[d] = removed.shape[d]
        if number == 0:
            whole = torch.empty_strided(
                removed.shape, removed.stride, dtype=tensor.dtype, device=tensor.device
            )
        else:
            whole = tensor.new_empty(shape)
        whole.index_copy_(d, index.to(tensor.device), tensor.to(whole.dtype))
        whole.index_copy_(d, complement(index, removed.shape[d]).to(tensor.device), part)
        tensor = whole
    return tensor
