"""Activation statistics: units that say little go first.

Both look at what the consumers of an axis read: the inputs of convolutions and matrix products along it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError
from .base import Importance, register
from .scoring import Members, Scoring

if TYPE_CHECKING:
    from ..calibration import Calibration


@register("activation")
@dataclass(frozen=True, kw_only=True)
class ActivationMean(Importance):
    """`E|a|` over samples and positions, a member for each tensor that a contraction reads along the axis.

    Molchanov, Tyree, Karras, Aila, Kautz: Pruning Convolutional Neural Networks for Resource Efficient
    Inference, 2017, arXiv:1611.06440, its mean-activation criterion. Axes that no contraction reads are
    ranked by magnitude.

    Raises:
        InputError: the graph has no calibration with activations.
    """

    reduction: str = "mean"

    def members(self, scoring: Scoring) -> Members:
        reads = needed_activations(scoring, "activation").activations
        return {node: [read.mean_abs for read in reads.get(node, {}).values()] for node in scoring.nodes}


@register("apoz")
@dataclass(frozen=True, kw_only=True)
class PercentageOfZeros(Importance):
    """`1 - P[a = 0]` over samples and positions: units that are mostly zero go first.

    Hu, Peng, Tai, Tang: Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep
    Architectures, 2016, arXiv:1607.03250, eq. 1 (average percentage of zeros), taken from one so that high
    scores stay. Members as for `ActivationMean`. Where nothing is ever zero (GELU), all units are alike.

    Raises:
        InputError: the graph has no calibration with activations.
    """

    reduction: str = "mean"

    def members(self, scoring: Scoring) -> Members:
        reads = needed_activations(scoring, "apoz").activations
        return {node: [1 - read.zeros for read in reads.get(node, {}).values()] for node in scoring.nodes}


def needed_activations(scoring: Scoring, name: str) -> Calibration:
    calibration = scoring.calibration
    if calibration is None or not calibration.activations:
        raise InputError(f"importance {name!r} needs activations: call prunus.calibrate(graph, loader) first")
    return calibration
