"""What a group loses at each width it may have, comparable between axes of different sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..graph.axes import Node
from ..graph.graph import Graph
from .groups import Group
from .knapsack import Rungs

SMALLEST_SHARE = 1e-12


def losses(graph: Graph, group: Group, kept: Sequence[int], ranked: Mapping[Node, Tensor]) -> Rungs:
    """`-m log f` at each width, summed over the axes of the group.

    An axis that keeps the share f of its importance leaves each weight that it runs through about f of its
    own, and a weight between two axes the product of both shares. What is kept high is the product of that
    over all m weights. Unlike single scores in one ranking, this makes each further unit of an axis dearer
    than the last, so that none is emptied while others are whole.

    Args:
        kept: widths in units of the group, the first one all of them, falling.
        ranked: scores of each axis; negative ones count as 0.
    """
    lost = [0.0] * len(kept)
    for node in group.nodes:
        ordered = ranked[node].clamp_min(0).sort(descending=True).values
        if not ordered.sum() > 0:
            ordered = torch.ones_like(ordered)
        shares = (ordered.cumsum(0) / ordered.sum()).clamp_min(SMALLEST_SHARE)
        for number, units in enumerate(kept[1:], start=1):
            share = float(shares[node.size // group.units * units - 1])
            lost[number] -= _weights_with(graph, node) * math.log(share)
    return Rungs(kept, lost)


def _weights_with(graph: Graph, node: Node) -> int:
    """The matrices and kernels that an axis runs through; vectors only follow them."""
    axis = graph.by_node.get(node)
    members = axis.members if axis is not None else []
    return max(1, sum(sum(size > 1 for size in graph.shapes[name]) > 1 for name, _ in members))
