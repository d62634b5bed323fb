"""Cutting tensors to kept units while holding on to what was removed.

Kept and removed parts together are as large as the original, whatever the number of cut dimensions, but
both exist beside it for a moment: a peak as high as the tensor is large. Or the tensor is held on to as it
is, which costs its kept part, for as long as the cut can be undone. `whole` says which is better for which.
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
    whole: Tensor | None = None


def complement(kept: Tensor, size: int) -> Tensor:
    mask = torch.ones(size, dtype=torch.bool)
    mask[kept] = False
    return mask.nonzero().flatten()


def _layout(tensor: Tensor) -> torch.memory_format:
    for dims, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.dim() == dims and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=layout):
            return layout
    return torch.contiguous_format


CHUNK = 1 << 20
"""Entries that are copied at a time out of a tensor that is remembered whole."""


def whole(sizes: Sequence[tuple[int, int]]) -> list[bool]:
    """Which tensors to hold on to as they are, so that cutting them all has the lowest peak.

    The peaks of those cut into parts do not add up; the kept parts of those held on to do. So the largest
    are held on to, as many as makes the greater of the two smallest.

    Args:
        sizes: for each tensor its bytes, and the bytes of its kept part.
    """
    order = sorted(range(len(sizes)), key=lambda number: -sizes[number][0])
    best, lowest, held = 0, sizes[order[0]][0] if order else 0, 0
    for count, number in enumerate(order, 1):
        held += sizes[number][1]
        peak = max(held, sizes[order[count]][0] if count < len(order) else 0)
        if peak < lowest:
            best, lowest = count, peak
    chosen = set(order[:best])
    return [number in chosen for number in range(len(sizes))]


def _narrowed(tensor: Tensor, kept: Sequence[Index]) -> Tensor:
    """The kept part, made some rows at a time so that no other copy exists beside it."""
    indices = [None if index is None else index.to(tensor.device) for index in kept]
    shape = [size if i is None else len(i) for size, i in zip(tensor.shape, indices, strict=True)]
    out = tensor.new_empty(shape)
    rows = indices[0] if indices[0] is not None else torch.arange(tensor.shape[0], device=tensor.device)
    step = max(1, CHUNK * tensor.shape[0] // tensor.numel())
    for start in range(0, len(rows), step):
        part = tensor.index_select(0, rows[start : start + step])
        for d, index in enumerate(indices[1:], 1):
            if index is not None:
                part = part.index_select(d, index)
        out[start : start + step] = part
    return out


def cut(tensor: Tensor, kept: Sequence[Index], hold_whole: bool = False) -> tuple[Tensor, Removed]:
    """The kept part of a tensor in its memory format, and what was removed.

    Args:
        tensor: of any shape, on any device.
        kept: for each dimension the kept indices (int64, CPU, sorted) or None.
        hold_whole: remember the tensor itself instead of its removed parts.
    """
    layout = _layout(tensor)
    removed = Removed(tuple(tensor.shape), tuple(tensor.stride()), list(kept), [])
    order = sorted(
        (d for d, index in enumerate(kept) if index is not None),
        key=lambda d: len(kept[d]) / tensor.shape[d],  # type: ignore[arg-type]
    )
    if hold_whole:
        removed.whole = tensor
        return _narrowed(tensor, kept).contiguous(memory_format=layout), removed
    for d in order:
        index = kept[d]
        assert index is not None
        gone = complement(index, tensor.shape[d]).to(tensor.device)
        removed.parts.append((d, tensor.index_select(d, gone)))
        tensor = tensor.index_select(d, index.to(tensor.device))
    return tensor.contiguous(memory_format=layout), removed


def join(tensor: Tensor, removed: Removed) -> Tensor:
    """The inverse of `cut`: kept values from `tensor`, the others as they were removed."""
    if removed.whole is not None:
        places = []
        for d, index in enumerate(removed.kept):
            positions = torch.arange(removed.shape[d]) if index is None else index
            shape = [-1 if k == d else 1 for k in range(len(removed.shape))]
            places.append(positions.to(tensor.device).reshape(shape))
        removed.whole[tuple(places)] = tensor.to(removed.whole.dtype)
        return removed.whole.to(tensor.dtype)
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
