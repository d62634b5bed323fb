"""Magnitude: units with small weights go first."""

from __future__ import annotations

from torch import Tensor

from ..graph.axes import Node
from . import Scoring, register


def _check_meta(scoring: Scoring) -> dict[Node, Tensor] | None:
    """A model on the meta device has no weights to rank: its units are taken in order."""
    if all(tensor.device.type == "meta" for tensor in scoring.parameters().values()):
        import torch

        return {node: torch.ones(node.size, dtype=torch.float64) for node in scoring.nodes}
    return None


@register("l1")
def l1(scoring: Scoring) -> dict[Node, Tensor]:
    """`sum |w|` over every weight that belongs to the unit.

    Li, Kadav, Durdanovic, Samet, Graf: Pruning Filters for Efficient ConvNets, 2017, arXiv:1608.08710,
    extended to all coupled members as in Fang et al., DepGraph, 2023, arXiv:2301.12900.
    """
    return _check_meta(scoring) or scoring.sum_units(lambda weight, _: weight.abs())


@register("l2")
def l2(scoring: Scoring) -> dict[Node, Tensor]:
    """`sqrt(sum w^2)` over every weight that belongs to the unit.

    Fang, Ma, Song, Mi, Wang: DepGraph: Towards Any Structural Pruning, 2023, arXiv:2301.12900, eq. 4.
    """
    on_meta = _check_meta(scoring)
    if on_meta is not None:
        return on_meta
    return {
        node: total.sqrt() for node, total in scoring.sum_units(lambda weight, _: weight.square()).items()
    }
