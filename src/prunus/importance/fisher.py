"""Second order: the change of the loss at a minimum, with the Fisher information for the Hessian."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import InputError
from . import additive
from .base import Importance, register
from .scoring import Members, Scoring

_HOW = "call prunus.calibrate(graph, loader, loss=..., per_sample=True) first"


@register("obd")
@dataclass(frozen=True, kw_only=True)
class OptimalBrainDamage(Importance):
    """`1/2 sum E[g_i^2] w^2` over every weight of the unit, `g_i` being the gradient of one sample's loss.

    LeCun, Denker, Solla: Optimal Brain Damage, NeurIPS 1989, with the diagonal of the empirical
    Fisher information for that of the Hessian. Squares are taken sample by sample, and then averaged.
    Parameters without gradient do not count; an axis without any is ranked by magnitude.

    Attributes:
        biases: whether what is only ever added (biases) counts.

    Raises:
        InputError: the graph has no calibration with per-sample gradients.
    """

    biases: bool = True

    def members(self, scoring: Scoring) -> Members:
        return scoring.sum_members(
            _damage, squared_gradients(scoring, "obd"), where=additive.counts(scoring, self.biases)
        )


@register("obdc")
@dataclass(frozen=True, kw_only=True)
class ChannelOptimalBrainDamage(Importance):
    """OBD by channel: as "obd", over those weights alone that compute the unit, and not over its readers'.

    Wang, Grosse, Fidler, Zhang: EigenDamage: Structured Pruning in the Kronecker-Factored Eigenbasis, 2019,
    arXiv:1905.05934, its baseline C-OBD: `1/2 sum F_jj w_j^2` over the weights of a filter, with the
    diagonal of the empirical Fisher information. An axis that no such weight makes is ranked by magnitude.

    Raises:
        InputError: the graph has no calibration with per-sample gradients.
    """

    def members(self, scoring: Scoring) -> Members:
        return scoring.sum_members(
            _damage,
            squared_gradients(scoring, "obdc"),
            where=lambda name, dim: scoring.makes(name, dim) and scoring.is_matrix(name),
        )


@register("fisher")
@dataclass(frozen=True, kw_only=True)
class GroupFisher(Importance):
    """`1/2 E[(sum w * g_i)^2]` over every weight of the unit, `g_i` being the gradient of one sample's loss.

    Theis, Korshunova, Tejani, Huszar: Faster Gaze Prediction with Dense Networks and Fisher Pruning, 2018,
    arXiv:1801.05787, extended to all coupled members as in Liu, Zhang, Kuang, Zhou, Xue, Wang, Chen,
    Yang, Liao, Zhang: Group Fisher Pruning for Practical Network Compression, 2021, arXiv:2108.00708. Unlike
    "obd" it uses the whole block of the Fisher information that belongs to the unit, and not its diagonal.
    Sums over members are taken before the square, so that there is nothing to reduce.

    Raises:
        InputError: the graph has no calibration with per-sample gradients.
    """

    def members(self, scoring: Scoring) -> Members:
        calibration = scoring.calibration
        if scoring.nodes and (calibration is None or not calibration.unit_squares):
            raise InputError(f"importance 'fisher' needs the gradients of single samples: {_HOW}")
        known = {} if calibration is None else calibration.unit_squares
        return {node: [0.5 * known[node]] for node in scoring.nodes if node in known}


def _damage(weight: Tensor, square: Tensor) -> Tensor:
    return weight.square() * square * 0.5


def squared_gradients(scoring: Scoring, name: str) -> Mapping[str, Tensor]:
    calibration = scoring.calibration
    if scoring.parameters() and (calibration is None or not calibration.squared_gradients):
        raise InputError(f"importance {name!r} needs the gradients of single samples: {_HOW}")
    return {} if calibration is None else calibration.squared_gradients
