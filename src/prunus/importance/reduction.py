"""How the scores of an axis's coupled members become one score a unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda scores_MU: scores_MU.sum(0),
    "mean": lambda scores_MU: scores_MU.mean(0),
    "max": lambda scores_MU: scores_MU.amax(0),
    "prod": lambda scores_MU: scores_MU.prod(0),
    "first": lambda scores_MU: scores_MU[0],
}
"""By name, functions from (members, units) to (units,). "first" is the weight that makes the units."""


def reduce(vectors: Sequence[Tensor], reduction: str) -> Tensor:
    """One vector of shape (units,) from those of each member."""
    return REDUCTIONS[reduction](torch.stack(list(vectors)))
