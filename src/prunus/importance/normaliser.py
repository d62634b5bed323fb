"""How the scores of different axes become comparable, for rankings across axes.

Each is a function of one axis's scores (float64, shape (units,)) that keeps their order. Where a divisor
would be zero or negative, "sum", "mean" and "max" leave the scores as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Normaliser = Callable[[Tensor], Tensor]


def _over(scores: Tensor, divisor: Tensor) -> Tensor:
    return scores / divisor if divisor > 0 else scores


def _standardise(scores: Tensor) -> Tensor:
    """`(s - min) / (max - min)`, in [0, 1]; zeros where all are equal."""
    return _over(scores - scores.min(), scores.max() - scores.min())


def _gaussian(scores: Tensor) -> Tensor:
    """`(s - mean) / std`, with the sample's standard deviation; zeros where all are equal."""
    centred = scores - scores.mean()
    return _over(centred, centred.std()) if len(scores) > 1 else centred


def _lamp(scores: Tensor) -> Tensor:
    """`s_u / sum of s_v over all v with s_v >= s_u`: what goes beside what would be left.

    Equal scores count as ordered by their position, and a zero score stays zero. Negative scores are
    taken as zero. Lee, Park, Mo, Ahn, Shin: Layer-adaptive Sparsity for the Magnitude-based Pruning, 2021,
    arXiv:2010.07611.
    """
    ordered, index = scores.clamp(min=0).sort(stable=True)
    left = ordered.flip(0).cumsum(0).flip(0)
    out = torch.zeros_like(scores)
    out[index] = torch.where(left > 0, ordered / left, 0)
    return out


NORMALISERS: dict[str, Normaliser] = {
    "none": lambda scores: scores,
    "sum": lambda scores: _over(scores, scores.sum()),
    "mean": lambda scores: _over(scores, scores.mean()),
    "max": lambda scores: _over(scores, scores.max()),
    "standardise": _standardise,
    "gaussian": _gaussian,
    "lamp": _lamp,
}
