"""Batch-norm scale: channels that a batch norm multiplies by little go first."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..graph.graph import Graph
from .base import Importance, register
from .scoring import Members, Scoring


@register("bn_scale")
@dataclass(frozen=True, kw_only=True)
class BatchNormScale(Importance):
    """`|gamma|`, a member for each batch norm that scales the axis.

    Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network Slimming,
    2017, arXiv:1708.06519. A batch norm is what the trace recorded as one, whatever module it came from.
    Axes without any are ranked by magnitude.
    """

    def members(self, scoring: Scoring) -> Members:
        scales = batch_norm_scales(scoring.graph)
        return scoring.sum_members(Tensor.abs, where=lambda name, dim: (name, dim) in scales)


def batch_norm_scales(graph: Graph) -> set[tuple[str, int]]:
    """The parameter dimensions that batch norms take as their weight."""
    found: set[tuple[str, int]] = set()
    for op in graph.ops:
        weight = op.args.get("weight")
        if "batch_norm" in op.name and weight is not None:
            found.update(origin for origin in weight.origin if origin is not None)
    return found
