"""First-order Taylor: the change of the loss when a unit is removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import InputError
from . import additive
from .base import Importance, register
from .reduction import reduce
from .scoring import Members, Scoring


@register("taylor")
@dataclass(frozen=True, kw_only=True)
class Taylor(Importance):
    """`|sum w * dL/dw|` over every weight that belongs to the unit.

    Molchanov, Mallya, Tyree, Frosio, Kautz: Importance Estimation for Neural Network Pruning, 2019,
    arXiv:1906.10771, eq. 8, in its group form. Gradients are the calibration's, or else those on the model.
    Parameters without gradient do not count; an axis without any is ranked by magnitude.

    Attributes:
        biases: whether what is only ever added (biases) counts.

    With the reductions "sum" and "mean", members are added with their signs before the absolute value is
    taken; with the others, each member's absolute value is taken first.

    Raises:
        InputError: no parameter has a gradient.
    """

    biases: bool = True

    def members(self, scoring: Scoring) -> Members:
        gradients = needed_gradients(scoring, "taylor")
        return scoring.sum_members(
            lambda weight, grad: weight * grad, gradients, where=additive.counts(scoring, self.biases)
        )

    def combine(self, vectors: Sequence[Tensor]) -> Tensor:
        if self.reduction in ("sum", "mean"):
            return reduce(vectors, self.reduction).abs()
        return reduce([vector.abs() for vector in vectors], self.reduction)


@register("taylor_element")
@dataclass(frozen=True, kw_only=True)
class TaylorElement(Importance):
    """`sum |w * dL/dw|` over every weight that belongs to the unit: each weight's own change, added up.

    Molchanov, Mallya, Tyree, Frosio, Kautz: Importance Estimation for Neural Network Pruning, 2019,
    arXiv:1906.10771. Gradients and what lacks them as for `Taylor`.

    Attributes:
        biases: whether what is only ever added (biases) counts.

    Raises:
        InputError: no parameter has a gradient.
    """

    biases: bool = True

    def members(self, scoring: Scoring) -> Members:
        gradients = needed_gradients(scoring, "taylor_element")
        return scoring.sum_members(
            lambda weight, grad: (weight * grad).abs(),
            gradients,
            where=additive.counts(scoring, self.biases),
        )


def needed_gradients(scoring: Scoring, name: str) -> Mapping[str, Tensor]:
    gradients = scoring.gradients()
    if not gradients and scoring.parameters():
        raise InputError(
            f"importance {name!r} needs gradients: call prunus.calibrate(graph, loader, loss=...), "
            "or loss.backward() on some batches, first"
        )
    return gradients
