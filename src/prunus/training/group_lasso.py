"""Group lasso over coupled members: whole units shrink, wherever their weights are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..graph.axes import Node
from ..graph.graph import Graph
from .units import Units, check_strength


class GroupLasso:
    """Adds the gradient of a penalty on the units of each axis, stronger on those that matter less.

    With `I_k = sum ||w[k]||^2` over every parameter dimension that unit k of an axis is in, biases and scales
    of norms included, and `gamma_k = 2 ** (alpha * (max I - I_k) / (max I - min I))`, from 1 for the largest
    unit of the axis to `2 ** alpha` for the smallest, the penalty of an axis is

        power=2:  strength * sum_k gamma_k * I_k
        power=1:  strength * sum_k gamma_k * sqrt(I_k)

    where `gamma_k` counts as a constant. The first is Fang, Ma, Song, Mi, Wang: DepGraph: Towards Any
    Structural Pruning, 2023, arXiv:2301.12900, eq. 4 and 5, with alpha = 4 as there; the second is the lasso
    of Yuan, Lin: Model Selection and Estimation in Regression with Grouped Variables, 2006, with the same
    factors, and has the gradient 0 where a unit is 0. Call it between `backward()` and the optimizer's step.

    Args:
        graph: of the model that is being trained; make it and this again after pruning.
        strength: factor of the penalty.
        alpha: how much stronger it is on the smallest unit, in powers of 2; 0 treats all alike.
        power: 2 or 1, see above.
        axes: axes, modules or names to make sparse; all that can be pruned by default. Of heads and head
            dimensions, both are, so an entry that belongs to units of several axes is in several penalties.

    Raises:
        InputError: bad numbers, or nothing can be pruned. When called: the gradients are not there.
        PlanError: when called: the model has been pruned since it was traced.
    """

    def __init__(
        self,
        graph: Graph,
        strength: float = 1e-4,
        alpha: float = 4.0,
        power: int = 2,
        axes: Iterable[Any] | None = None,
    ) -> None:
        if power not in (1, 2):
            raise InputError(f"power={power!r} must be 2 (squared norms, as in DepGraph) or 1 (norms)")
        self.strength = check_strength(strength)
        self.alpha = check_strength(alpha, "alpha")
        self.power = power
        self._units = Units(graph, axes)

    def scaling(self) -> dict[str, Tensor]:
        """`gamma_k` by axis name, as of now."""
        named = self._units.graph.by_node
        return {named[node].name: self._gamma(size) for node, size in self._sizes().items()}

    def penalty(self) -> float:
        """The penalty of all axes together, as of now."""
        total = 0.0
        for size in self._sizes().values():
            total += float((self._gamma(size) * (size if self.power == 2 else size.sqrt())).sum())
        return self.strength * total

    @torch.no_grad()
    def __call__(self) -> None:
        factors: dict[Node, Tensor] = {}
        for node, size in self._sizes().items():
            gamma = self._gamma(size)
            if self.power == 2:
                factors[node] = 2 * self.strength * gamma
            else:
                factors[node] = torch.where(size > 0, self.strength * gamma * size.rsqrt(), 0)
        self._units.add_to_gradients(factors)

    def _sizes(self) -> dict[Node, Tensor]:
        self._units.graph.check_current()
        return self._units.sums(torch.square)

    def _gamma(self, size: Tensor) -> Tensor:
        span = size.max() - size.min()
        return torch.where(span > 0, 2 ** (self.alpha * (size.max() - size) / span), 1)
