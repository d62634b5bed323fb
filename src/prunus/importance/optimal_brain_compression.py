"""Optimal brain compression: what a layer's output loses when the weights that stay make up for a unit.

Shapes: U units of an axis, P positions of each along what a weight reads; G groups of a grouped convolution
(one elsewhere), C inputs of each, R numbers that each input is multiplied with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError
from ..graph.axes import PRODUCT, Node, leaf, product
from ..graph.graph import Graph
from .base import Importance, register
from .scoring import Members, Scoring
from .units import unit_places

if TYPE_CHECKING:
    from ..calibration import Calibration

ENTRIES = 1 << 23
"""Entries of the weights and of the blocks of the inverse Hessian that are looked at at a time."""


@register("obc")
@dataclass(frozen=True, kw_only=True)
class OptimalBrainCompression(Importance):
    """`1/2 sum_r W[r, J] ([H^-1]_JJ)^-1 W[r, J]^T` over the rows r of the weights that read the unit.

    Hassibi, Stork: Second Order Derivatives for Network Pruning: Optimal Brain Surgeon, NeurIPS 1992, for the
    formula; Frantar, Singh, Alistarh: Optimal Brain Compression, 2022, arXiv:2208.11580, sec. 4, for its use
    layer by layer and for groups of weights. J are the positions of the unit in the input `x` of `W`: one,
    or all dimensions of a head. With `H = 2 E[x x^T]`, over samples and positions, the score is the least
    possible `E |W x - W' x|^2` over all W' whose columns J are zero: unlike under the other importances, an
    input that others can replace is cheap, however large it and its weights are. Scores are of one unit
    removed alone; of two equal ones both are cheap, and the ranking takes no account of the first's going.

    For a convolution H is that of its channels: kernel positions are taken to see alike and independent
    inputs, so that each is a row of W. Groups of a grouped convolution have an H each. A member is a weight
    that reads the axis; its makers do not count. An axis that no weight reads (queries and keys), or only
    weights with more inputs than `prunus.calibrate` gathers, is ranked by magnitude.

    Attributes:
        damping: what is added to the diagonal of H, as a share of its mean; as in OBC, 1%. Without it,
            inputs that depend linearly on others have no inverse.

    Raises:
        InputError: the graph has no calibration with covariance; a damping that is negative or not finite;
            inputs that are NaN or infinite, or linearly dependent with a damping that is too small.
    """

    damping: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.damping) not in (int, float) or not 0 <= self.damping < float("inf"):
            raise InputError(f"damping={self.damping!r}: a finite share of the mean diagonal, at least zero")

    def members(self, scoring: Scoring) -> Members:
        wanted = set(scoring.nodes)
        found: dict[Node, dict[str, Tensor]] = {node: {} for node in scoring.nodes}
        known: tuple[Tensor, Tensor] | None = None
        for (name, dim), moments_GCC in _needed(scoring).second_moments.items():
            if name not in scoring.parameters():
                continue
            blocks_GCC, node = _inputs(scoring.graph, name, dim, moments_GCC)
            leaves = [item for item in scoring.graph.terms.leaves(node) if item in wanted]
            if not leaves:
                continue
            # Weights that read the same tensor follow one another.
            if known is None or known[0] is not moments_GCC:
                known = moments_GCC, self._inverse(blocks_GCC, name)
            weight_IR = _by_input(scoring.parameters()[name].detach(), dim, len(blocks_GCC))
            silent_I = blocks_GCC.diagonal(dim1=1, dim2=2).reshape(-1) == 0
            for item in leaves:
                places_UP = unit_places(scoring.graph, node, item).to(weight_IR.device)
                costs_U = _costs(known[1], weight_IR, silent_I, places_UP).cpu()
                found[item][name] = found[item][name] + costs_U if name in found[item] else costs_U
        return {node: _ordered(scoring, node, found[node]) for node in scoring.nodes}

    def _inverse(self, moments_GCC: Tensor, name: str) -> Tensor:
        """The inverse of each group's damped Hessian, inputs that are always zero having no part in it."""
        hessian_GCC = 2 * moments_GCC
        if not torch.isfinite(hessian_GCC).all():
            raise InputError(
                f"the inputs of parameter {name!r} were NaN or infinite while calibrating, so units cannot "
                "be ranked: repair the model or the batches, or use importance='random'"
            )
        diagonal_GC = hessian_GCC.diagonal(dim1=1, dim2=2)
        silent_GC = diagonal_GC == 0
        diagonal_GC += self.damping * diagonal_GC.mean(1, keepdim=True)
        diagonal_GC[silent_GC] = 1
        factor_GCC, failed_G = torch.linalg.cholesky_ex(hessian_GCC)
        # What the inputs before it leave of each: rounding alone, where it depends on them.
        left_GC = factor_GCC.diagonal(dim1=1, dim2=2).square() / diagonal_GC
        if failed_G.any() or (left_GC <= len(diagonal_GC[0]) * torch.finfo(torch.float64).eps).any():
            raise InputError(
                f"the inputs of parameter {name!r} depend linearly on one another, and damping="
                f"{self.damping!r} is too little to tell their weights apart: raise it, or use more data"
            )
        return torch.cholesky_inverse(factor_GCC)


def _costs(inverse_GCC: Tensor, weight_IR: Tensor, silent_I: Tensor, places_UP: Tensor) -> Tensor:
    """The formula, for some units at a time: float64, shape (units,)."""
    _, size, _ = inverse_GCC.shape
    units, places = places_UP.shape
    step = max(1, ENTRIES // (places * (places + weight_IR.shape[1])))
    costs = []
    for start in range(0, units, step):
        part_UP = places_UP[start : start + step]
        group_UP, inner_UP = part_UP // size, part_UP % size
        blocks_UPP = inverse_GCC[group_UP[:, :, None], inner_UP[:, :, None], inner_UP[:, None, :]]
        # Groups have nothing to do with one another.
        blocks_UPP = blocks_UPP * (group_UP[:, :, None] == group_UP[:, None, :])
        rows_UPR = weight_IR[part_UP].to(torch.float64).masked_fill(silent_I[part_UP][..., None], 0)
        root_UPR = torch.linalg.solve_triangular(torch.linalg.cholesky(blocks_UPP), rows_UPR, upper=False)
        costs.append(root_UPR.square().sum((1, 2)) / 2)
    return torch.cat(costs)


def _inputs(graph: Graph, name: str, dim: int, moments_GCC: Tensor) -> tuple[Tensor, Node]:
    """The second moments of each group of a convolution's inputs, and the axis of all inputs in order."""
    axes = graph.values[name].axes
    groups = _groups(graph, name)
    if dim == 0 and groups > 1:
        # Transposed: the weight's first dimension runs over the inputs of all groups.
        (whole,) = moments_GCC
        blocks = whole.reshape(groups, len(whole) // groups, groups, -1).diagonal(dim1=0, dim2=2)
        return blocks.movedim(-1, 0), axes[0]
    groups = len(moments_GCC)
    if groups == 1:
        return moments_GCC, axes[dim]
    return moments_GCC, product([_outer(graph, axes[0], groups), axes[dim]])


def _groups(graph: Graph, name: str) -> int:
    """The groups of the convolution that a weight belongs to; one where it belongs to none."""
    return max((int(op.args.get("groups", 1)) for op in graph.values[name].consumers), default=1)


def _outer(graph: Graph, node: Node, groups: int) -> Node:
    """The outer factor, of the size of the groups, of the outputs of a grouped convolution."""
    node, kind, parts = graph.terms.parts(node)
    if node.size == groups:
        return node
    size = 1
    for count, part in enumerate(parts if kind == PRODUCT else (), 1):
        size *= part.size
        if size == groups:
            return product(parts[:count])
    return leaf(groups)


def _by_input(weight: Tensor, dim: int, groups: int) -> Tensor:
    """A row for each input of each group in order, of all numbers that it is multiplied with: (G * C, R)."""
    if dim == 0 or groups == 1:
        return weight.movedim(dim, 0).flatten(1)
    blocks = weight.reshape(groups, -1, *weight.shape[1:])
    return blocks.movedim(2, 1).flatten(0, 1).flatten(1)


def _ordered(scoring: Scoring, node: Node, found: dict[str, Tensor]) -> list[Tensor]:
    """The vectors of an axis in the order of its members."""
    names = dict.fromkeys(name for name, _ in scoring.occurrences(node))
    return [found[name] for name in names if name in found]


def _needed(scoring: Scoring) -> Calibration:
    calibration = scoring.calibration
    if calibration is None or (scoring.nodes and not calibration.second_moments):
        raise InputError(
            "importance 'obc' needs the second moments of activations: call "
            "prunus.calibrate(graph, loader, covariance=True) first"
        )
    return calibration
