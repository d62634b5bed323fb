"""Random: the control that any other importance has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .base import Importance, register
from .scoring import Members, Scoring


@register("random")
@dataclass(frozen=True, kw_only=True)
class Random(Importance):
    """Uniform in [0, 1), from torch's global generator, or from its own where a seed is given.

    It has one vector an axis, so there is nothing to reduce.
    """

    reads_weights: ClassVar[bool] = False

    def members(self, scoring: Scoring) -> Members:
        generator = None if scoring.seed is None else torch.Generator().manual_seed(scoring.seed)
        return {
            node: [torch.rand(node.size, dtype=torch.float64, generator=generator)] for node in scoring.nodes
        }
