"""The lowest of the scores of many tensors, found without putting them into one vector or sorting them.

A radix selection: float scores are mapped to integers of the same order, and the `count`-th lowest is found
digit by digit from histograms of 65,536 bins, which are summed over pieces, tensors and devices. The working
memory is that of one piece and one histogram, and the result is exact, ties included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError

PIECE = 1 << 20
"""Entries that are looked at together."""

DIGIT = 16


@dataclass(frozen=True)
class Ranked:
    """Entries that take part in a ranking.

    Attributes:
        values: any shape; what the scores are computed from.
        alive: bool, of the same shape; None if all entries take part.
        score: gives the scores of any piece, entry by entry.
        name: what to call it in an error.
    """

    values: Tensor
    alive: Tensor | None
    score: Callable[[Tensor], Tensor]
    name: str

    @property
    def size(self) -> int:
        return self.values.numel() if self.alive is None else int(self.alive.sum())


def lowest(items: Sequence[Ranked], count: int) -> list[Tensor]:
    """Which entries are among the `count` lowest of all that take part.

    Of equal scores, those of the first items and first entries (row-major) come first. Scores of all dtypes
    are compared as float32, or as float64 if any is float64.

    Returns:
        A bool tensor for each item, of the shape of its values, with `count` True entries in all.

    Raises:
        InputError: a score is NaN.
    """
    chosen = [torch.zeros(item.values.shape, dtype=torch.bool, device=item.values.device) for item in items]
    wide = any(_is_wide(item) for item in items)
    for item in items:
        for _, scores, _ in _pieces(item):
            if bool(scores.isnan().any()):
                raise InputError(f"the scores of {item.name} hold NaN, which cannot be ranked")
    if count == 0:
        return chosen
    threshold, ties = _threshold(items, count, wide)
    for item, out in zip(items, chosen, strict=True):
        flat = out.view(-1)
        for start, scores, alive in _pieces(item):
            keys = _keys(scores, wide)
            low = keys < threshold
            equal = (keys == threshold).nonzero().flatten()[:ties]
            ties -= equal.numel()
            low[equal] = True
            piece = flat[start : start + PIECE]
            if alive is None:
                piece.copy_(low)
            else:
                piece[alive] = low
    return chosen


def _pieces(item: Ranked) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Start, scores and which entries they belong to, piece by piece."""
    values = item.values.detach().reshape(-1)
    alive = None if item.alive is None else item.alive.reshape(-1)
    for start in range(0, values.numel(), PIECE):
        piece = values[start : start + PIECE]
        part = None if alive is None else alive[start : start + PIECE]
        yield start, item.score(piece if part is None else piece[part]), part


def _is_wide(item: Ranked) -> bool:
    return item.score(item.values.detach().reshape(-1)[:1]).dtype not in (
        torch.float32,
        torch.float16,
        torch.bfloat16,
    )


def _keys(scores: Tensor, wide: bool) -> Tensor:
    """Integers in the order of the scores: the bits of a float, those of negative ones turned round."""
    floats = scores.to(torch.float64 if wide else torch.float32) + 0.0  # -0.0 is as low as 0.0
    bits = floats.view(torch.int64 if wide else torch.int32)
    most = torch.iinfo(bits.dtype).max
    return torch.where(bits < 0, bits ^ most, bits)


def _threshold(items: Sequence[Ranked], count: int, wide: bool) -> tuple[int, int]:
    """The `count`-th lowest key, and how many of the entries with this key are among the lowest."""
    width = 64 if wide else 32
    prefix, left = 0, count
    for shift in range(width - DIGIT, -1, -DIGIT):
        top = shift + DIGIT == width
        histogram = torch.zeros(1 << DIGIT, dtype=torch.int64)
        for item in items:
            for _, scores, _ in _pieces(item):
                keys = _keys(scores, wide)
                if not top:
                    keys = keys[(keys >> (shift + DIGIT)) == prefix]
                digits = (keys >> shift) + (1 << (DIGIT - 1)) if top else (keys >> shift) & ((1 << DIGIT) - 1)
                histogram += torch.bincount(digits, minlength=1 << DIGIT).cpu()
        below = histogram.cumsum(0)
        digit = int(torch.searchsorted(below, left))
        left -= int(below[digit - 1]) if digit else 0
        prefix = digit - (1 << (DIGIT - 1)) if top else (prefix << DIGIT) | digit
    return prefix, left
