"""Exact costs of any plan: polynomials in axis sizes, evaluated without tracing again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .axes import Node, settle
from .values import Cost

if TYPE_CHECKING:
    from .graph import Graph


@dataclass(frozen=True)
class Costs:
    """What one forward pass of the traced inputs costs.

    Attributes:
        macs: multiply-accumulates of all convolutions and matrix products (FLOPs are twice that, as
            `torch.utils.flop_counter` counts them).
        params: number of parameter entries, tied ones once.
        activation_bytes: bytes of every tensor that the forward pass makes, views and copies of the same
            entries in another layout not counted.
        param_bytes: bytes of parameters and buffers.
    """

    macs: int
    params: int
    activation_bytes: int
    param_bytes: int

    def __getitem__(self, key: str) -> int:
        return int(getattr(self, key))


LAYOUT_COPIES = frozenset({"clone", "_unsafe_view"})
"""What a reshape does where it cannot view. Whether it can depends on strides, and so on widths: one that
copies at one width may view at another."""


class CostModel:
    """Sums of products of axis sizes. Products that no free axis enters are added up once."""

    def __init__(self, graph: Graph, costs: list[Cost]) -> None:
        self.terms = graph.terms
        self._fixed = {"macs": 0, "params": 0, "activation_bytes": 0, "param_bytes": 0}
        self._moving: dict[str, dict[tuple[Node, ...], int]] = {key: {} for key in self._fixed}
        self._free = {axis.node for axis in graph.axes if axis.prunable}
        self._is_free: dict[Node, bool] = {}
        for cost in costs:
            self._add("macs", cost.loops, cost.factor)
        for item in graph.held:
            axes = graph.values[item.name].axes
            if item.kind == "parameter":
                self._add("params", axes, 1)
            if item.kind != "attribute":
                self._add("param_bytes", axes, item.tensor.element_size())
        for op in graph.ops:
            if op.name in LAYOUT_COPIES:
                continue
            returns = op.func._schema.returns
            for index, value in enumerate(op.outs):
                alias = returns[min(index, len(returns) - 1)].alias_info
                if alias is None:
                    self._add("activation_bytes", value.axes, value.dtype.itemsize)

    def _moves(self, node: Node) -> bool:
        known = self._is_free.get(node)
        if known is None:
            known = self._is_free[node] = any(leaf in self._free for leaf in self.terms.leaves(node))
        return known

    def _add(self, key: str, loops: tuple[Node, ...], factor: int) -> None:
        moving: list[Node] = []
        for loop in loops:
            node = settle(loop)
            if node.size == 1:
                continue
            if self._moves(node):
                moving.append(node)
            else:
                factor *= node.size
        if not moving:
            self._fixed[key] += factor
        else:
            monomial = tuple(sorted(moving, key=lambda item: item.uid))
            self._moving[key][monomial] = self._moving[key].get(monomial, 0) + factor

    def polynomial(self, key: str) -> tuple[int, Mapping[tuple[Node, ...], int]]:
        """One cost as a constant and, for each product of axes, its factor."""
        return self._fixed[key], self._moving[key]

    def at(self, counts: Mapping[Node, int]) -> Costs:
        """The costs when leaf axes keep `counts` units; those not named stay whole."""
        memo: dict[Node, int] = {}
        totals = dict(self._fixed)
        for key, monomials in self._moving.items():
            total = 0
            for nodes, factor in monomials.items():
                for node in nodes:
                    factor *= self.terms.size(node, counts, memo)
                total += factor
            totals[key] += total
        return Costs(**totals)
