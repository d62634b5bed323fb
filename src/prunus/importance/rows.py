"""Scores of units that are the rows of a matrix, by name: what a formula says of weights alone.

Shapes: U units, F weights of a unit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .geometric_median import distances

RowScore = Callable[[Tensor], Tensor]


def _norm(degree: float) -> RowScore:
    def norm(rows_UF: Tensor) -> Tensor:
        found: Tensor = torch.linalg.vector_norm(rows_UF, degree, dim=1)
        return found

    return norm


ROW_SCORES: dict[str, RowScore] = {
    "l1": _norm(1),
    "l2": _norm(2),
    "fpgm": lambda rows_UF: distances([rows_UF]),
}
"""Functions from (units, weights) to (units,): `sum |w|`, `sqrt(sum w^2)`, and the sum of a unit's distances
from all others (see `GeometricMedian`)."""

OF_VECTORS = frozenset({"fpgm"})
"""Those that say nothing of units that have a single number, such as biases and scales."""
