"""A compaction as a plan: what to cut, what to fold, what was left alone and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import PlanError
from ..graph.axes import Node
from ..graph.cost import Costs
from ..graph.graph import Graph
from ..graph.values import Reason
from ..plan import Plan
from ..surgery.operation import Operation


@dataclass(frozen=True)
class Shift:
    """Constants of removed units added to a tensor: a bias, or (negative) a running mean."""

    name: str
    amount: Tensor


@dataclass(frozen=True)
class NewBias:
    """Constants of removed units as a bias, along an axis, that a layer did not have."""

    module: str
    weight: str
    axis: Node
    amount: Tensor


class Compaction(Plan):
    """A `Plan` that removes units without changing what the model computes.

    Attributes:
        left_alone: axes that still hold empty units, each with the reason.
        folded: tensors that took the constants of removed units.
        added: biases that layers got because there was no tensor to take them.
    """

    def __init__(
        self,
        graph: Graph,
        chosen: Mapping[Node, Tensor],
        shifts: list[Shift],
        new: list[NewBias],
        left_alone: dict[str, str],
    ) -> None:
        super().__init__(graph, chosen)
        self._shifts = shifts
        self._new = new
        self.left_alone = left_alone
        self._found_on: nn.Module | None = graph.model
        self.before: Callable[[], None] | None = None

    @property
    def folded(self) -> list[str]:
        return [shift.name for shift in self._shifts]

    @property
    def added(self) -> list[str]:
        return [f"{item.module}.bias" if item.module else "bias" for item in self._new]

    @cached_property
    def cost(self) -> Costs:
        """What the compacted model costs; biases that were added count."""
        cut = self.graph.cost_model.at(self.counts)
        tensors = self.graph.tensors()
        entries = [(self.graph.terms.size(i.axis, self.counts, {}), tensors[i.weight]) for i in self._new]
        return replace(
            cut,
            params=cut.params + sum(size for size, _ in entries),
            param_bytes=cut.param_bytes + sum(size * weight.element_size() for size, weight in entries),
        )

    @property
    def unscalable(self) -> dict[Node, Reason]:
        """Axes whose new size the code would notice in a way that no weight can make up for."""
        return self._scaling[1]

    @property
    def approximate_axes(self) -> dict[str, str]:
        """None: a compacted model computes what it computed before."""
        return {}

    def apply(self, model: nn.Module, optimizer: Optimizer | None = None) -> nn.Module:
        """Done by `prunus.compact`, and only there: constants belong to the weights they were found in.

        Raises:
            PlanError: whenever it is called again.
        """
        if self._found_on is not model:
            raise PlanError("a compaction belongs to the weights it was found in: call prunus.compact again")
        self._found_on = None
        return super().apply(model, optimizer)

    def undo(self, model: nn.Module) -> nn.Module:
        """Put a compacted model back, bit for bit, masks included; nothing to do for an empty compaction."""
        return super().undo(model) if self.chosen else model

    def prepare(self, operation: Operation, tensors: Mapping[str, Tensor]) -> None:
        if self.before is not None:
            operation.remember(self.before)
            self.before = None
        for shift in self._shifts:
            operation.shift(tensors[shift.name], shift.amount)

    def complete(self, operation: Operation, tensors: Mapping[str, Tensor]) -> None:
        for item in self._new:
            weight = tensors[item.weight]
            kept = self.graph.terms.kept(item.axis, self.chosen, self._memo)
            amount = item.amount if kept is None else item.amount[kept.to(item.amount.device)]
            bias = nn.Parameter(amount.to(weight.device, weight.dtype), requires_grad=weight.requires_grad)
            operation.add_parameter(item.module, "bias", bias)

    def as_data(self, operation: Operation | None = None) -> dict[str, Any]:
        return {**super().as_data(operation), "compaction": True, "folded": self.folded, "added": self.added}
