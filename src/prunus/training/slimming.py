"""Batch-norm L1: channels that a network does not need get scales near zero."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..graph.graph import Graph
from ..importance.batch_norm import batch_norm_scales
from .units import Units, check_gradients, check_strength


class BatchNormL1:
    """Adds the gradient of `strength * sum |gamma|` over the scales of the batch norms of prunable channels.

    Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network Slimming,
    2017, arXiv:1708.06519, eq. 1, with `sign(gamma)` as the subgradient, 0 at 0. Call it between `backward()`
    and the optimizer's step; then prune with `importance="bn_scale"`. Batch norms are what the trace recorded
    as such, of whatever class. Scales of channels that cannot be pruned are left alone, as are frozen ones.

    Args:
        graph: of the model that is being trained; make it and this again after pruning.
        strength: the paper uses 1e-5 to 1e-4.
        axes: axes, modules or names to make sparse; all that can be pruned by default.

    Raises:
        InputError: there is no batch norm on these axes, or `strength` is negative. When called: the
            gradients are not there.
        PlanError: when called: the model has been pruned since it was traced.
    """

    def __init__(self, graph: Graph, strength: float = 1e-4, axes: Iterable[Any] | None = None) -> None:
        self.graph = graph
        self.strength = check_strength(strength)
        scales = {name for name, _ in batch_norm_scales(graph)}
        units = Units(graph, axes)
        ones = {node: torch.ones(node.size) for node in units.nodes}
        self._scales: list[tuple[str, Tensor, Tensor]] = [
            (name, tensor, (mask > 0).to(tensor.device, tensor.dtype))
            for name, tensor, mask in units.factors(ones)
            if name in scales
        ]
        if not self._scales:
            raise InputError(
                "no batch norm scales these axes: use prunus.training.GroupLasso, which needs none"
            )

    @property
    def names(self) -> list[str]:
        """The scales that are made sparse, by parameter name."""
        return [name for name, _, _ in self._scales]

    def penalty(self) -> Tensor:
        """`strength * sum |gamma|`; adding it to the loss has the same effect as a call."""
        terms = [(tensor.abs() * mask).sum() for _, tensor, mask in self._scales]
        return self.strength * torch.stack(terms).sum()

    @torch.no_grad()
    def __call__(self) -> None:
        check_gradients(self.graph, [(name, tensor) for name, tensor, _ in self._scales])
        for _, tensor, mask in self._scales:
            if tensor.grad is not None:
                tensor.grad.addcmul_(tensor.sign(), mask, value=self.strength)
