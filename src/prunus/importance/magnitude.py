"""Magnitude: units with small weights go first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import InputError
from . import additive
from .base import Importance, register
from .reduction import reduce
from .scoring import Members, Scoring


@dataclass(frozen=True, kw_only=True)
class Magnitude(Importance):
    """`(sum |w|^p)^(1/p)` over every weight that belongs to the unit.

    Li, Kadav, Durdanovic, Samet, Graf: Pruning Filters for Efficient ConvNets, 2017, arXiv:1608.08710, for
    p = 1; Fang, Ma, Song, Mi, Wang: DepGraph: Towards Any Structural Pruning, 2023, arXiv:2301.12900, eq. 4,
    for its extension to all coupled members.

    Attributes:
        p: the degree of the norm, above zero.
        root: whether the root is taken; without it, the sums of powers are the scores.
        biases: whether what is only ever added (biases) counts.

    The reduction applies to the members' sums `sum |w|^p`, and the root is taken of its result.
    """

    p: float = 2
    root: bool = True
    biases: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.p) not in (int, float) or not 0 < self.p < float("inf"):
            raise InputError(f"p={self.p!r}: the degree of the norm is a finite number above zero")

    def members(self, scoring: Scoring) -> Members:
        p = self.p

        def entries(weight: Tensor) -> Tensor:
            return weight.abs() if p == 1 else weight.abs().square() if p == 2 else weight.abs().pow(p)

        return scoring.sum_members(entries, where=additive.counts(scoring, self.biases))

    def combine(self, vectors: Sequence[Tensor]) -> Tensor:
        total = reduce(vectors, self.reduction)
        return total.pow(1 / self.p) if self.root and self.p != 1 else total


register("l1")(Magnitude(p=1))
register("l2")(Magnitude(p=2))
