"""LAMP: how large a unit is beside all that are at least as large."""

from __future__ import annotations

from dataclasses import dataclass

from .base import register
from .magnitude import Magnitude
from .normaliser import Normaliser


@register("lamp")
@dataclass(frozen=True, kw_only=True)
class Lamp(Magnitude):
    """`s_u / sum of s_v over all v with s_v >= s_u`, where `s_u = sum w^2` over the unit's weights.

    Lee, Park, Mo, Ahn, Shin: Layer-adaptive Sparsity for the Magnitude-based Pruning, 2021,
    arXiv:2010.07611, with a unit of an axis in place of a single weight. Within an axis the order is
    that of "l2"; what changes is the ranking across axes. The reduction applies to the members' sums of
    squares.
    """

    root: bool = False
    normalize: str | Normaliser = "lamp"
