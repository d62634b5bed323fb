"""Growing regularisation: units that are to go are pressed towards zero, harder every few updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentTypeError, InputError
from ..graph.axes import Node
from ..graph.graph import Graph
from ..plan import Plan
from .units import Units, check_gradients, check_strength


class GrowingRegularization:
    """Adds the gradient of `lambda / 2 * ||w||^2`, where `lambda` grows, over the weights of some units.

    Wang, Qin, Zhang, Fu: Neural Pruning via Growing Regularization, 2021, arXiv:2012.09243. Each call is one
    update, and `lambda` grows by `step` every `every` calls, from `step` up to `ceiling`. Call it between
    `backward()` and the optimizer's step.

    With a `Plan`, it is GReg-1 (algorithm 1): the entries that belong to a unit which the plan removes; apply
    the plan once `finished`. With a `Graph`, it is the first part of GReg-2 (section 3.3): all units of the
    axes alike, which drives the weights apart by how much the loss curves along them; then plan by "l1".

    Args:
        target: the plan whose removed units vanish, or the graph whose units compete.
        step: how much `lambda` grows at a time (delta lambda).
        every: updates between two growths (K_u).
        ceiling: the largest `lambda` (tau), much smaller where units compete than where they vanish.
        axes: with a graph, the axes, modules or names whose units compete; all that can be pruned by default.

    Attributes:
        updates: calls so far.
        strength: `lambda` as of now.

    Raises:
        InputError: bad numbers, a plan that removes nothing. When called: the gradients are not there.
        PlanError: when called: the model has been pruned since it was traced.
    """

    def __init__(
        self,
        target: Plan | Graph,
        step: float = 1e-4,
        every: int = 10,
        ceiling: float = 1.0,
        axes: Iterable[Any] | None = None,
    ) -> None:
        if not isinstance(target, Plan | Graph):
            raise ArgumentTypeError(f"target must be a Plan or a Graph, got {type(target).__name__}")
        if type(every) is not int or every < 1:
            raise InputError(f"every={every!r} must be a whole number of at least 1")
        self.step = check_strength(step, "step")
        self.ceiling = check_strength(ceiling, "ceiling")
        self.every = every
        self.updates = 0
        self.graph = target.graph if isinstance(target, Plan) else target
        if isinstance(target, Plan):
            if axes is not None:
                raise InputError("axes=... goes with a graph; the plan says itself which units vanish")
            if not target.chosen:
                raise InputError("the plan removes nothing, so no unit is to vanish")
            self._units = Units(self.graph, [self.graph.by_node[node] for node in target.chosen])
            pressed = {node: _removed(node, index) for node, index in target.chosen.items()}
        else:
            self._units = Units(target, axes)
            pressed = {node: torch.ones(node.size) for node in self._units.nodes}
        self._pressed = self._masks(pressed)

    @property
    def strength(self) -> float:
        return min(self.step * (1 + self.updates // self.every), self.ceiling)

    @property
    def finished(self) -> bool:
        """Whether `lambda` has come to its ceiling."""
        return self.strength >= self.ceiling

    def state_dict(self) -> dict[str, int]:
        return {"updates": self.updates}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.updates = int(state["updates"])

    @torch.no_grad()
    def __call__(self) -> None:
        check_gradients(self.graph, self._units.parameters())
        strength = self.strength
        for tensor, masks in self._pressed:
            if tensor.grad is not None:
                left = None  # 1 where no unit of the entry vanishes: the product over its dimensions
                for mask in masks:
                    left = 1 - mask if left is None else left * (1 - mask)
                assert left is not None
                tensor.grad.addcmul_(tensor.detach(), 1 - left, value=strength)
        self.updates += 1

    def _masks(self, pressed: Mapping[Node, Tensor]) -> list[tuple[Tensor, list[Tensor]]]:
        """For each parameter, 1 at the pressed positions of each dimension, in shapes that broadcast."""
        found: dict[str, tuple[Tensor, list[Tensor]]] = {}
        for name, tensor, factor in self._units.factors(pressed):
            found.setdefault(name, (tensor, []))[1].append((factor > 0).to(tensor.device, tensor.dtype))
        return list(found.values())


def _removed(node: Node, kept: Tensor) -> Tensor:
    mask = torch.ones(node.size)
    mask[kept] = 0
    return mask
