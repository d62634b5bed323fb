"""Cosine redundancy: a unit whose weights point where another's do goes first.

Shapes: M members, U units, R rows and C columns of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph.axes import Node
from .base import Importance, register
from .reduction import REDUCTIONS
from .scoring import Scoring
from .units import chunks, gram, matrices, squares, unit_rows


@register("cosine")
@dataclass(frozen=True, kw_only=True)
class CosineRedundancy(Importance):
    """`1 - max over v of cos(w_u, w_v)`, v running over the units with larger weights than u, in [0, 2].

    Ayinde, Zurada: Building Efficient ConvNets using Redundant Feature Pruning, 2018, arXiv:1802.07653,
    whose measure it is. Of two parallel units only the one with the smaller norm
    scores low, since the other is no longer redundant once it has gone; equal norms count as ordered by
    position. A unit of zeros is parallel to every other.

    The reduction applies to the members' cosines, of the parameters in which a unit is a vector; norms are
    taken over all of them together.
    """

    reduction: str = "mean"

    def __call__(self, scoring: Scoring) -> dict[Node, Tensor]:
        return {node: self._redundancy(scoring, node) for node in scoring.nodes}

    def _redundancy(self, scoring: Scoring, node: Node) -> Tensor:
        members = [unit_rows(scoring, name, dim, node) for name, dim in matrices(scoring, node)]
        lengths_MU = torch.stack([squares(rows).sqrt() for rows in members])
        order = lengths_MU.double().square().sum(0).sort(descending=True, stable=True).indices
        members = [[matrix[order] for matrix in rows] for rows in members]
        lengths_MU = lengths_MU[:, order]
        out = torch.empty(node.size, dtype=torch.float64)
        for part in chunks(node.size, len(members)):
            larger = slice(0, part.stop)
            cosines_RC = self._cosines(members, lengths_MU, part, larger)
            places = torch.arange(part.stop, device=order.device)
            cosines_RC.masked_fill_(places >= places[part, None], -1)
            out[order[part].cpu()] = (1 - cosines_RC.amax(1)).clamp(0, 2).to("cpu", torch.float64)
        return out

    def _cosines(
        self, members: Sequence[list[Tensor]], lengths_MU: Tensor, part: slice, others: slice
    ) -> Tensor:
        found = []
        for rows_UF, lengths_U in zip(members, lengths_MU, strict=True):
            products_RC = lengths_U[part, None] * lengths_U[others]
            cosines_RC = gram(rows_UF, part, others) / products_RC
            found.append(torch.where(products_RC > 0, cosines_RC, 1))
        return REDUCTIONS[self.reduction](torch.stack(found))
