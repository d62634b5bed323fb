"""Clients' rows added to rows of sums, wherever in them their plan says.

Casting a piece into memory that is there already and adding that is faster than adding tensors of two dtypes:
torch casts the whole of one first, into memory that it fetches each time.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from .coverage import Coverage

PIECE = 1 << 19
"""Entries of one operation on the CPU: float64 sums of as many stay in the cache, and occupy some threads."""

SMALL = 1 << 12
"""Entries of a sub-model's tensor below which those of one plan are summed beforehand, all in one."""

Part = tuple[Coverage, Sequence[Tensor], Sequence[float]]
"""Clients of one plan: what they cover, each one's tensor, each one's weight."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums."""
    return torch.complex128 if dtype.is_complex else torch.float64


class Room:
    """Memory for sums and for casting, used again and again: to fetch memory costs as much as the sums do."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def zeros(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Sums of -0.0 for tensors like this, valid until the next call."""
        return self._memory("zeros", tuple(shape), wide(like.dtype), like.device).fill_(-0.0)

    def cast(self, values: Tensor) -> Tensor:
        """The values as they are summed; on the CPU valid until the next call."""
        dtype = wide(values.dtype)
        if values.dtype == dtype or values.device.type != "cpu":
            return values
        return self._memory("cast", tuple(values.shape), dtype, values.device).copy_(values)

    def weighted_sum(
        self, tensors: Sequence[Tensor], weights: Sequence[float], begin: int, end: int
    ) -> Tensor:
        """The weighted sum of the same rows of each tensor, valid until the next call."""
        rows = tensors[0][begin:end]
        out = self._memory("sum", tuple(rows.shape), wide(rows.dtype), rows.device).copy_(rows)
        if weights[0] != 1.0:
            out.mul_(weights[0])
        for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
            out.add_(self.cast(tensor[begin:end]), alpha=weight)
        return out

    def _memory(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        size, held = math.prod(shape), self._held.get(name)
        if held is None or held.numel() < size or held.dtype != dtype or held.device != device:
            held = self._held[name] = torch.empty(size, dtype=dtype, device=device)
        return held[:size].view(shape)


class Adder(Protocol):
    """Adds what clients hold of a tensor to rows of it.

    Attributes:
        whole: whether all rows have to be made at once.
    """

    whole: bool

    def add(self, total: Tensor, low: int, high: int, room: Room) -> None:
        """Add to the rows from `low` to `high`, which are `total`."""


def adder(shape: Sequence[int], parts: Sequence[Part]) -> Adder:
    """What adds these parts of a tensor of this shape; several are parts of a vector."""
    if len(parts) > 1:
        return Vectors(parts)
    cover, own, factors = parts[0]
    tensors, weights = _summed(own, factors)
    runs, blocks = (cover.runs, cover.inner_blocks) if cover.kept else ([[(0, 0, shape[0])]], [((), ())])
    if runs[0] is not None and blocks is not None:
        return Slices(shape, runs[0], blocks, tensors, weights)
    return Scattered(cover, tensors, weights)


def _summed(tensors: Sequence[Tensor], weights: Sequence[float]) -> tuple[Sequence[Tensor], Sequence[float]]:
    """Small tensors of one plan as one, since there is too little in each."""
    first = tensors[0]
    if len(tensors) == 1 or first.numel() > SMALL:
        return tensors, weights
    dtype = wide(first.dtype)
    stacked = torch.stack(list(tensors)).to(dtype).flatten(1)
    each = torch.tensor(weights, dtype=dtype, device=first.device)
    return [(each @ stacked).view(first.shape)], [1.0]


class Slices:
    """Of clients whose entries are a few rectangles."""

    whole = False

    def __init__(
        self,
        shape: Sequence[int],
        runs: Sequence[tuple[int, int, int]],
        blocks: Sequence[tuple[tuple[slice, ...], tuple[slice, ...]]],
        tensors: Sequence[Tensor],
        weights: Sequence[float],
    ) -> None:
        self._runs, self._blocks = runs, blocks
        self._tensors, self._weights = tensors, weights
        self._full = len(blocks) == 1 and tuple(tensors[0].shape[1:]) == tuple(shape[1:])

    def add(self, total: Tensor, low: int, high: int, room: Room) -> None:
        """See `Adder`."""
        for here, there, length in self._runs:
            begin, end = max(low, there), min(high, there + length)
            if begin < end:
                self._add(total[begin - low : end - low], here + begin - there, here + end - there, room)

    def _add(self, target: Tensor, begin: int, end: int, room: Room) -> None:
        if self._full:
            for tensor, weight in zip(self._tensors, self._weights, strict=True):
                target.add_(room.cast(tensor[begin:end]), alpha=weight)
            return
        if len(self._tensors) > 1:
            values, factor = room.weighted_sum(self._tensors, self._weights, begin, end), 1.0
        else:
            values, factor = room.cast(self._tensors[0][begin:end]), self._weights[0]
        for here, there in self._blocks:
            target[(slice(None), *there)].add_(values[(slice(None), *here)], alpha=factor)


class Scattered:
    """Of clients whose entries lie here and there."""

    def __init__(self, cover: Coverage, tensors: Sequence[Tensor], weights: Sequence[float]) -> None:
        self._tensors, self._weights = tensors, weights
        self._first, *self._rest = cover.places(tensors[0].device)
        self._kept = self._first.flatten().tolist()
        self.whole = self._kept != sorted(self._kept)  # intervals may be packed in any order

    def add(self, total: Tensor, low: int, high: int, room: Room) -> None:
        """See `Adder`."""
        begin, end = 0, len(self._kept)
        if not self.whole:
            begin, end = bisect.bisect_left(self._kept, low), bisect.bisect_left(self._kept, high)
        if begin < end:
            values = room.weighted_sum(self._tensors, self._weights, begin, end)
            first = self._first[begin:end] - low if low else self._first[begin:end]
            total.index_put_((first, *self._rest), values, accumulate=True)


class Vectors:
    """Of clients of several plans of a vector."""

    whole = True

    def __init__(self, parts: Sequence[Part]) -> None:
        places: list[Tensor] = []
        values: list[Tensor] = []
        factors: list[float] = []
        for cover, own, factor in parts:
            tensors, weights = _summed(own, factor)
            index = cover.kept[0] if cover.kept else None
            places += [torch.arange(len(tensors[0])) if index is None else index] * len(tensors)
            values += tensors
            factors += weights
        lengths = torch.tensor([len(tensor) for tensor in values])
        device, dtype = values[0].device, wide(values[0].dtype)
        self._places = torch.cat(places).to(device)
        each = torch.tensor(factors, dtype=torch.float64).repeat_interleave(lengths).to(device)
        self._values = torch.cat([tensor.to(dtype) for tensor in values]).mul_(each)

    def add(self, total: Tensor, low: int, high: int, room: Room) -> None:
        """See `Adder`; all of the vector."""
        total.index_put_((self._places,), self._values, accumulate=True)
