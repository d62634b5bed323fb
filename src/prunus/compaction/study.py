"""What a traced model makes of its weights: which entries are constants, and which units nothing needs.

One pass forward over the recorded operations finds the constants, one pass backward finds what the outputs
depend on, and, on its way, the units that have to stay. Rules in `rules/` say what each operation does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..graph.axes import ONE, Node, product
from ..graph.graph import Graph
from ..graph.state import device_of
from ..graph.values import Op, Reason, Value
from .aliases import Filled, Memory
from .facts import Facts, constant, unknown
from .folds import Target, Targets
from .holding import Gone, Holding, Stays
from .products import Product
from .rules import rule_of
from .rules.contraction import Contraction
from .rules.pointwise import evaluate

T = TypeVar("T")


@dataclass
class Fold:
    """A product some of whose terms are constants (`terms`, one entry a k), and the place that takes them."""

    op: Op
    rule: Contraction
    product: Product
    terms: Tensor
    target: Target


@dataclass
class Verdict(Stays[Reason]):
    """Units that have to stay, and the constants to fold if others go."""

    folds: list[Fold] = field(default_factory=list)


class Study(Holding[Reason]):
    """A graph read for constants. Rules call its methods and nothing else."""

    verdict: Verdict

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.terms, [axis.node for axis in graph.prunable])
        self.graph = graph
        self.device = device_of(graph.held) or torch.device("cpu")
        self.memory = Memory(graph)
        self.filled = Filled(self.memory)
        self.tensors = {item.name: item.tensor for item in graph.held if item.kind != "attribute"}
        self._facts: dict[Value, Facts] = {}
        self._once: dict[Op, Any] = {}
        for op in graph.ops:
            self._read(op)
        self.contractions = [op for op in graph.ops if isinstance(rule_of(op), Contraction)]
        self.targets = Targets(graph, self.contractions)
        self.ending = {leaf for op in graph.ops for leaf in self._ending(op)}
        self.refused: dict[Node, Reason] = {}

    # -- forward --------------------------------------------------------------------------------------

    def _read(self, op: Op) -> None:
        copied = self.facts(op.args["src"]) if op.name == "copy_" else None
        self.filled.read(op, copied, self.plain_dims(op.outs[0]))
        outs = rule_of(op).facts(op, self)
        if not all(facts.all for facts in outs):
            outs = self._computed(op) or outs
        for value, facts in zip(op.outs, outs, strict=True):
            self._facts[value] = facts

    def _computed(self, op: Op) -> list[Facts] | None:
        """An operation on weights alone is simply run.

        Not so one on activations that happen to be constant: sizes of the example input would enter, and
        at a border, say, a larger input is another matter.
        """
        inputs = op.inputs()
        if not inputs or torch.Tag.nondeterministic_seeded in op.func.tags or op.func._schema.is_mutable:
            return None
        if not all(self.facts(value).all and self._is_weight(value) for value in inputs):
            return None
        try:
            result = evaluate(op, {value: self.facts(value).value.expand(value.shape) for value in inputs})
        except (RuntimeError, NotImplementedError):
            return None
        results = [result] if isinstance(result, Tensor) else list(result)
        return [constant(item) for item in results] if len(results) == len(op.outs) else None

    def _is_weight(self, value: Value) -> bool:
        """Whether all dimensions are made of axes of parameters."""
        terms, known = self.graph.terms, self.graph.by_node
        return all(leaf in known for node in value.axes for leaf in terms.leaves(node))

    def facts(self, value: Value) -> Facts:
        if self.memory.is_mixed(value):
            return self.filled.facts(value) or unknown(value, self.device)
        known = self._facts.get(value)
        if known is None:
            tensor = self.tensors.get(value.name or "")
            fixed = tensor is not None and not self.memory.is_written(value)
            known = constant(tensor) if fixed and tensor is not None else unknown(value, self.device)
            self._facts[value] = known
        return known

    def once(self, op: Op, read: Callable[[], T]) -> T:
        """Something about an operation that is read off the weights, remembered."""
        if op not in self._once:
            self._once[op] = read()
        found: T = self._once[op]
        return found

    # -- axes -----------------------------------------------------------------------------------------

    def _ending(self, op: Op) -> set[Node]:
        """Axes that an operation takes in and does not give out again."""
        inside = {leaf for value in op.inputs() for node in value.axes for leaf in self.leaves(node)}
        return inside.difference(leaf for out in op.outs for node in out.axes for leaf in self.leaves(node))

    def plain_dims(self, value: Value) -> list[int]:
        """Dimensions along which no unit can go."""
        return [d for d, node in enumerate(value.axes) if not self.leaves(node)]

    def inner(self, node: Node, outer: int) -> Node | None:
        """The axis of size `n` in `node = outer x n`; None where the axis has no such form."""
        node, kind, parts = self.graph.terms.parts(node)
        if node.size == outer:
            return ONE
        size = 1
        for index, part in enumerate(parts if kind == "product" else ()):
            size *= part.size
            if size == outer:
                return product(parts[index + 1 :])
        return None

    # -- backward -------------------------------------------------------------------------------------

    def weigh(self, gone: Gone) -> Verdict:
        """Which units have to stay when those in `gone` go."""
        self.start(gone, Verdict())
        self._hold_what_rules_do_not_see()
        needs: dict[Value, Tensor] = {value: self.full(value) for value in self.graph.outputs}
        readers = self.targets.readers
        for op in reversed(self.graph.ops):
            if not any(out in needs or readers.get(out) for out in op.outs):
                needs.update((out, self.full(out)) for out in op.outs)  # a result that is not used stays
            own = [self._own_need(out, needs) for out in op.outs]
            if all(need is None for need in own):
                continue
            for value, need in rule_of(op).needs(op, own, self):
                needs[value] = needs[value] | need if value in needs else need
        self._settle_shared_folds()
        return self.verdict

    def _own_need(self, out: Value, needs: Mapping[Value, Tensor]) -> Tensor | None:
        need = self.full(out) if self.memory.is_mixed(out) else needs.get(out)
        if need is None:
            return None
        for d, node in enumerate(out.axes):
            gone = self.gone_along(node)
            if gone is not None:
                shape = [-1 if k == d else 1 for k in range(len(out.axes))]
                need = need & ~gone.to(need.device).reshape(shape)
        return need if bool(need.any()) else None

    def full(self, value: Value) -> Tensor:
        return torch.ones((1,) * len(value.axes), dtype=torch.bool, device=self.device)

    def hold(self, node: Node, bad: Tensor | None, op: Op | None, why: str) -> None:
        """Keep the units behind some positions of an axis (bool, or one entry for all; None: all of them)."""
        if self.leaves(node) and (bad is None or bool(bad.any())):
            reason = Reason(why, op.site) if op is not None else Reason(why)
            self.keep(node, bad, reason)

    def _hold_what_rules_do_not_see(self) -> None:
        read = {value.name for value, ops in self.targets.readers.items() if ops}
        for axis in self.graph.prunable:
            if any(name not in read for name, _ in axis.members):
                self.hold(axis.node, None, None, "it is used in train mode only")
            elif axis.node not in self.ending:
                self.hold(axis.node, None, None, "it leads to a result that nothing uses")
        for node, reason in {**self.graph.size_read, **self.refused}.items():
            if node in self.prunable:
                self.keep(node, None, reason)
        for value, ops in self.targets.readers.items():
            if value.producer is None and value.name is None:
                for node in value.axes:
                    self.hold(node, None, ops[0], "it comes from an operation that was not recorded")

    # -- constants ------------------------------------------------------------------------------------

    def fold(self, op: Op, rule: Contraction, product: Product, terms: Tensor) -> None:
        """Note that a product has constant terms that are not zero, or hold them."""
        target = self.targets.of(op)
        if product.b.value.is_complex():
            target = "it is complex"
        if isinstance(target, str) or rule.contracted_axis(op, self).size != product.size:
            why = target if isinstance(target, str) else "its groups cannot be told apart"
            rule.hold(op, terms, self, f"it is constant and not zero, and cannot be folded: {why}")
            return
        rule.hold(op, terms & ~product.foldable(), self, "its constant differs from place to place")
        self.verdict.folds.append(Fold(op, rule, product, terms & product.foldable(), target))

    def _settle_shared_folds(self) -> None:
        """A bias that several products share takes only what all of them would add."""
        shared: dict[Target, list[Fold]] = defaultdict(list)
        for fold in self.verdict.folds:
            shared[fold.target].append(fold)
        self.verdict.folds = []
        for target, folds in shared.items():
            first = folds[0]
            self.verdict.folds.append(first)
            agree = first.terms.clone()
            for fold in folds[1:]:
                same = fold.product.same_terms(first.product) if fold.rule is first.rule else None
                agree &= fold.terms & same if same is not None else torch.zeros_like(agree)
            if len(folds) < len(target.ops):
                agree = torch.zeros_like(agree)
            for fold in folds if len(target.ops) > 1 else ():
                bad = fold.terms & ~agree
                fold.rule.hold(fold.op, bad, self, "its constant differs from call to call")
