"""Importances that look at gradients: first-order, and the diagonal of the Fisher information."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ...errors import InputError
from ...importance import Importance as AxisImportance
from ...importance import Members, Normaliser, Scoring, Taylor, TaylorElement, additive
from .on_axes import Grouped, OnAxes


class GroupTaylorImportance(OnAxes):
    """`sum |w dL/dw|`, weight by weight; `|sum w dL/dw|` with `multivariable`. Needs `loss.backward()` first.

    Molchanov, Mallya, Tyree, Frosio, Kautz: Importance Estimation for Neural Network Pruning, 2019,
    arXiv:1906.10771. The other arguments are those of `GroupMagnitudeImportance`.
    """

    def __init__(
        self,
        group_reduction: str | None = "mean",
        normalizer: str | Normaliser | None = "mean",
        multivariable: bool = False,
        bias: bool = False,
        target_types: Iterable[type] | None = None,
    ) -> None:
        Grouped.__init__(self, group_reduction, normalizer, bias, target_types)
        self.multivariable = multivariable

    def on_axes(self) -> AxisImportance:
        kind = Taylor if self.multivariable else TaylorElement
        return kind(biases=self.bias)


class TaylorImportance(GroupTaylorImportance):
    """`GroupTaylorImportance` by its short name."""


@dataclass(frozen=True, kw_only=True)
class Curvature(AxisImportance):
    """`sum w^2 h` with a mean of squared gradients for `h`."""

    biases: bool = False
    squares: Callable[[Scoring], dict[str, Tensor]]

    def members(self, scoring: Scoring) -> Members:
        def entries(weight: Tensor, squared: Tensor) -> Tensor:
            return weight.square() * squared

        where = additive.counts(scoring, self.biases)
        return scoring.sum_members(entries, self.squares(scoring), where=where)


class GroupHessianImportance(OnAxes):
    """`sum w^2 E[g^2]`, the diagonal of the Fisher information for that of the Hessian.

    LeCun, Denker, Solla: Optimal Brain Damage, 1989. Call `accumulate_grad(model)` after the backward pass
    of each sample.
    """

    def __init__(
        self,
        group_reduction: str | None = "mean",
        normalizer: str | Normaliser | None = "mean",
        bias: bool = False,
        target_types: Iterable[type] | None = None,
        *,
        kind: type[Curvature] = Curvature,
    ) -> None:
        self._sums: Any = WeakTensorKeyDictionary()
        Grouped.__init__(self, group_reduction, normalizer, bias, target_types)
        self._kind = kind

    def on_axes(self) -> AxisImportance:
        return self._kind(biases=self.bias, squares=self._squares)

    def zero_grad(self) -> None:
        """Forget what was accumulated."""
        self._sums.clear()

    def accumulate_grad(self, model: nn.Module) -> None:
        """Add the squares of the gradients that the model holds now."""
        for parameter in model.parameters():
            if parameter.grad is not None:
                total, count = self._sums.get(parameter, (torch.zeros_like(parameter.grad), 0))
                if total.shape != parameter.grad.shape:
                    total, count = torch.zeros_like(parameter.grad), 0
                self._sums[parameter] = (total + parameter.grad.detach().square(), count + 1)

    def _squares(self, scoring: Scoring) -> dict[str, Tensor]:
        found = {}
        for name, parameter in scoring.parameters().items():
            total, count = self._sums.get(parameter, (None, 0))
            if total is not None and total.shape == parameter.shape:
                found[name] = total / count
        if not found:
            raise InputError(
                "the Hessian importance has no gradients of the model as it is now: call "
                "accumulate_grad(model) after the backward pass of each sample, before every step"
            )
        return found


class HessianImportance(GroupHessianImportance):
    """`GroupHessianImportance` by its short name."""
