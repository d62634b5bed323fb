"""Which units of a Keras graph have to stay: one pass forward for constants, one backward for needs.

The same abstract interpretation as in `prunus.compaction`, over the steps of a Keras graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...compaction.facts import Facts, constant
from ...compaction.holding import Gone, Holding, Stays
from ...compaction.products import Product
from ...graph.axes import Node
from .contraction import Contraction
from .graph import KerasGraph
from .spatial import Statistic
from .values import Need, Step, Value, nothing_known

T = TypeVar("T")


@dataclass
class Fold:
    """Constant inputs of a contraction, whose sum its bias takes when they go."""

    step: Contraction
    terms: Tensor
    node: Node


@dataclass
class Carry:
    """Constant inputs of a contraction beside a border, and the one that stays for all (`carrier`)."""

    step: Contraction
    terms: Tensor
    node: Node
    carrier: int


@dataclass
class Verdict(Stays[str]):
    """Units that have to stay, why, and the constants to fold or carry if others go."""

    folds: list[Fold] = field(default_factory=list)
    carries: list[Carry] = field(default_factory=list)


class Study(Holding[str]):
    """A graph read for constants, given the values of its weights.

    Args:
        graph: the graph.
        changed: weights that are to have other values than the model's.
        refused: axes that stay whole for reasons found since the graph was made.
    """

    verdict: Verdict

    def __init__(
        self, graph: KerasGraph, changed: Mapping[Value, Tensor], refused: Mapping[Node, str]
    ) -> None:
        super().__init__(graph.terms, graph.prunable)
        self.graph = graph
        self.changed = changed
        self.refused = dict(refused)
        self._facts: dict[Value, Facts] = {}
        self.inside: dict[Value, Facts] = {}
        """What is constant of a tensor but for its border of zeros."""
        self._carriers: dict[Contraction, int] = {}
        self._once: dict[Step, Any] = {}
        with torch.no_grad():
            for step in graph.steps:
                for value, facts in zip(step.outputs, step.facts(self), strict=True):
                    self._facts[value] = facts
        told = [step.bias for step in graph.steps if isinstance(step, Contraction) and step.bias is not None]
        told += [step.layer_object for step in graph.steps if isinstance(step, Statistic)]
        self.calls = Counter(id(layer) for layer in told)

    def facts(self, value: Value) -> Facts:
        known = self._facts.get(value)
        if known is None:
            known = constant(self.data(value)) if value.data is not None else nothing_known(value)
            self._facts[value] = known
        return known

    def data(self, value: Value) -> Tensor:
        """The entries of a weight."""
        data = self.changed.get(value, value.data)
        assert data is not None
        return data

    def once(self, step: Step, read: Callable[[], T]) -> T:
        """Something about a step that is read off its weights, remembered."""
        if step not in self._once:
            self._once[step] = read()
        found: T = self._once[step]
        return found

    def full(self, value: Value) -> Need:
        return torch.ones((1,) * value.rank, dtype=torch.bool)

    # -- backward -------------------------------------------------------------------------------------

    def weigh(self, gone: Gone) -> Verdict:
        """Which units have to stay when those in `gone` go."""
        self.start(gone, Verdict())
        for node, why in self.refused.items():
            self.keep(node, None, why)
        needs: dict[Value, Need] = {value: self.full(value) for value in self.graph.outputs}
        with torch.no_grad():
            for step in reversed(self.graph.steps):
                own = [self._own_need(value, needs) for value in step.outputs]
                if not any(bool(need.any()) for need in own):
                    continue
                for value, need in zip(step.inputs, step.needs(self, own), strict=True):
                    if need is not None:
                        needs[value] = needs[value] | need if value in needs else need
        return self.verdict

    def _own_need(self, value: Value, needs: dict[Value, Need]) -> Need:
        """What matters of a tensor: nothing of units that go."""
        need = needs.get(value)
        if need is None:
            return torch.zeros((1,) * value.rank, dtype=torch.bool)
        for d, node in enumerate(value.axes):
            gone = self.gone_along(node)
            if gone is not None:
                need = need & ~gone.reshape([-1 if k == d else 1 for k in range(value.rank)])
        return need

    def hold(self, node: Node, bad: Tensor | None, step: Step, why: str) -> None:
        """Keep the units behind some positions of an axis (a mask, or None for all of them)."""
        if self.leaves(node) and (bad is None or bool(bad.any())):
            self.keep(node, bad, f"{why} in {step.layer!r}")

    def fold(self, step: Contraction, product: Product, terms: Tensor, node: Node) -> None:
        """Note that a contraction has constant terms other than zero, or hold them."""
        if step.bias is None:
            self.hold(node, terms, step, "it is constant and not zero, and there is no bias to take it")
        elif self.calls[id(step.bias)] > 1:
            self.hold(
                node, terms, step, "it is constant and not zero, and the layer is called more than once"
            )
        else:
            self.verdict.folds.append(Fold(step, terms, node))

    def carry(self, step: Contraction, terms: Tensor, values: Tensor, node: Node) -> None:
        """Have one of some constant inputs stay for all; always the same, so that the search settles."""
        carrier = self._carriers.setdefault(step, int((values.abs() * terms).argmax()))
        one = torch.zeros_like(terms)
        one[carrier] = True
        self.hold(node, one, step, "it carries constants to the zero padding")
        self.verdict.carries.append(Carry(step, terms & ~one, node, carrier))
