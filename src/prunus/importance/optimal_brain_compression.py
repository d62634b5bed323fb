"""Optimal brain compression: what a layer's output loses when the weights that stay make up for a unit.

Shapes: U units of an axis, P places of each among all inputs; G groups of a grouped convolution (one
elsewhere), C inputs of each, I = G * C; R numbers that each input is multiplied with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError
from ..graph.axes import PRODUCT, Node, leaf, product
from ..graph.graph import Graph
from .base import Importance, register
from .scoring import Members, Scoring
from .surgeon import Layer
from .units import unit_places

if TYPE_CHECKING:
    from ..calibration import Calibration

Weight = tuple[str, int]
"""A parameter and the dimension of it that is summed over."""


@dataclass(frozen=True, kw_only=True)
class OptimalBrainCompression(Importance):
    """`1/2 sum_r W[r, J] ([H^-1]_JJ)^-1 W[r, J]^T` over the rows r of the weights that read the unit.

    Hassibi, Stork: Second Order Derivatives for Network Pruning: Optimal Brain Surgeon, NeurIPS 1992, for the
    formula; Frantar, Singh, Alistarh: Optimal Brain Compression, 2022, arXiv:2208.11580, sec. 4, for its use
    layer by layer and for groups of weights. J are the positions of the unit in the input `x` of `W`: one,
    or all dimensions of a head. With `H = 2 E[x x^T]`, over samples and positions, the score is the least
    possible `E |W x - W' x|^2` over all W' whose columns J are zero: unlike under the other importances, an
    input that others can replace is cheap, however large it and its weights are. Of two equal units both are,
    since each score is of one unit removed alone; `sequential` says what is left of the second then.
    A plan only cuts, and leaves the making up to the training that follows.

    For a convolution H is that of its channels: kernel positions are taken to see alike and independent
    inputs, so that each is a row of W. Groups of a grouped convolution have an H each; the experts or other
    parts of one parameter that see inputs of their own share one. A member is a weight that reads the axis;
    its makers do not count. An axis that no weight reads (queries and keys), or only
    weights with more inputs than `prunus.calibrate` gathers, is ranked by magnitude.

    Attributes:
        damping: what is added to the diagonal of H, as a share of its mean: 1%, as in the authors' next work
            (GPTQ, arXiv:2210.17323). Without it, H has no inverse where inputs depend linearly on others.
        sequential: remove the units of an axis one after another, the cheapest first, the weights that stay
            making up for each as in OBC; a unit's score is what all up to it cost together. For an axis of
            U units, that takes U * I * I multiplications for each weight that reads it along I inputs, and
            two float64 matrices (I, I) of each at once: ten seconds for 1024 on one core, minutes for 4096.

    Raises:
        InputError: the graph has no calibration with covariance; a damping that is negative or not finite;
            inputs that are NaN or infinite, or linearly dependent with a damping that is too small.
    """

    damping: float = 0.01
    sequential: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.damping) not in (int, float) or not 0 <= self.damping < float("inf"):
            raise InputError(f"damping={self.damping!r}: a finite share of the mean diagonal, at least zero")

    def members(self, scoring: Scoring) -> Members:
        readers = _readers(scoring)
        if self.sequential:
            return {node: self._in_turn(scoring, node, weights) for node, weights in readers.items()}
        places = {weight: place for place, weight in enumerate(_needed(scoring).second_moments)}
        pairs = [(node, weight) for node, weights in readers.items() for weight in weights]
        pairs.sort(key=lambda pair: places[pair[1]])
        costs = {
            pair: layer.costs().cpu() for pair, layer in zip(pairs, self._layers(scoring, pairs), strict=True)
        }
        return {node: [costs[node, weight] for weight in weights] for node, weights in readers.items()}

    def _layers(self, scoring: Scoring, pairs: list[tuple[Node, Weight]]) -> Iterator[Layer]:
        """One at a time, the layers of weights that read the axes beside them."""
        known: tuple[Tensor, Tensor] | None = None
        for node, (name, dim) in pairs:
            moments_GCC = _needed(scoring).second_moments[name, dim]
            blocks_GCC, inputs = _inputs(scoring.graph, name, dim, moments_GCC)
            weight = scoring.parameters()[name].detach()
            blocks_GCC = blocks_GCC.to(weight.device)
            # An inverse serves several axes, and the weights that read the same tensor.
            if known is None or known[0] is not moments_GCC or len(known[1]) != len(blocks_GCC):
                known = moments_GCC, self._inverse(blocks_GCC, name)
            weight_IR = _by_input(weight, dim, len(blocks_GCC))
            silent_I1 = blocks_GCC.diagonal(dim1=1, dim2=2).reshape(-1, 1) == 0
            places_UP = unit_places(scoring.graph, inputs, node).to(weight_IR.device)
            yield Layer(known[1], weight_IR.masked_fill(silent_I1, 0), places_UP)

    def _in_turn(self, scoring: Scoring, node: Node, weights: list[Weight]) -> list[Tensor]:
        """What all units removed so far cost together when each unit goes, the cheapest first."""
        if not weights:
            return []
        layers = [layer.copy() for layer in self._layers(scoring, [(node, weight) for weight in weights])]
        units = node.size
        scores = torch.zeros(units, dtype=torch.float64)
        gone = torch.zeros(units, dtype=torch.bool)
        total = 0.0
        for _ in range(units):
            costs = self.combine([layer.costs().cpu() for layer in layers]).masked_fill(gone, float("inf"))
            unit = int(costs.argmin())
            total += float(costs[unit])
            scores[unit], gone[unit] = total, True
            for layer in layers:
                layer.remove(unit)
        return [scores]

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


register("obc")(OptimalBrainCompression())
register("obc_sequential")(OptimalBrainCompression(sequential=True))


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


def _readers(scoring: Scoring) -> dict[Node, list[Weight]]:
    """The weights that read each axis and whose inputs are known, in the order of its members."""
    found: dict[Node, dict[str, list[Weight]]] = {node: {} for node in scoring.nodes}
    for (name, dim), moments_GCC in _needed(scoring).second_moments.items():
        if name in scoring.parameters():
            _, inputs = _inputs(scoring.graph, name, dim, moments_GCC)
            for node in scoring.graph.terms.leaves(inputs):
                if node in found:
                    found[node].setdefault(name, []).append((name, dim))
    out = {}
    for node, weights in found.items():
        names = dict.fromkeys(name for name, _ in scoring.occurrences(node))
        out[node] = [weight for name in names for weight in weights.get(name, ())]
    return out


def _needed(scoring: Scoring) -> Calibration:
    calibration = scoring.calibration
    if calibration is None or (scoring.nodes and not calibration.second_moments):
        raise InputError(
            "importance 'obc' needs the second moments of activations: call "
            "prunus.calibrate(graph, loader, covariance=True) first"
        )
    return calibration
