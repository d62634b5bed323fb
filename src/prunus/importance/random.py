"""Random: the control that any other importance has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph.axes import Node
from . import Scoring, register


@register("random")
def random(scoring: Scoring) -> dict[Node, Tensor]:
    """Uniform in [0, 1), from torch's global generator, or from its own where a seed is given."""
    generator = None if scoring.seed is None else torch.Generator().manual_seed(scoring.seed)
    return {node: torch.rand(node.size, dtype=torch.float64, generator=generator) for node in scoring.nodes}
