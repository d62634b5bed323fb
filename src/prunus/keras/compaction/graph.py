"""A Keras model as steps between tensors that are written in axes, and what a cut changes in each layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import torch
from torch import Tensor

from ...graph.axes import Node, NoRefinement, find, leaf, leaves, regroup, settle, unify
from ...graph.terms import Terms
from ..masked import holder_of
from .values import Step, Value, Weight

if TYPE_CHECKING:
    from .choosing import Importance
    from .plan import KerasPlan


@dataclass(eq=False)
class Setting:
    """An entry of a layer's configuration that follows the sizes of axes."""

    owner: Any
    key: str
    nodes: list[Node]
    make: Callable[[list[int]], Any]


@dataclass(frozen=True)
class Axis:
    """A set of units that are cut together.

    Attributes:
        name: the first weight that it runs through, and the dimension: `conv2d/kernel[3]`.
        size: how many units it has.
        members: every weight and dimension that it runs through.
        reason: why it stays whole; None where it can be cut.
    """

    name: str
    size: int
    members: tuple[str, ...]
    reason: str | None
    node: Node = field(repr=False, compare=False)

    @property
    def prunable(self) -> bool:
        return self.reason is None


class KerasGraph:
    """The steps of a model. `prunus.keras.trace` makes one; `axes` says what can be cut."""

    def __init__(self, model: Any, masks: Mapping[int, Any] | None = None) -> None:
        self.model = model
        self.masks = dict(masks or {})
        self.steps: list[Step] = []
        self.outputs: list[Value] = []
        self.weights: dict[int, Value] = {}
        self.settings: dict[tuple[int, str], Setting] = {}
        self.watched: dict[int, tuple[Any, list[Value]]] = {}
        self.terms = Terms()
        self.axes: list[Axis] = []
        self.prunable: list[Node] = []
        self._frozen: list[tuple[Node, str]] = []
        self._spaces: list[Node] = []

    # -- while it is made -----------------------------------------------------------------------------

    def freeze(self, nodes: Iterable[Node], why: str) -> None:
        self._frozen += [(node, why) for node in nodes if find(node).size > 1]

    def unify(self, a: Node, b: Node, where: str) -> Node:
        """One axis of two; where they have no common structure both stay whole."""
        try:
            unify(a, b)
        except NoRefinement:
            self.freeze([a, b], f"it cannot be matched with another in {where!r}")
        return find(a)

    def space(self, size: int | None, where: str) -> Node:
        """A dimension that is not cut: of space, time or a batch."""
        if size is None:
            return leaf(1)
        node = leaf(size)
        self._spaces.append(node)
        self.freeze([node], f"it is a dimension of space in {where!r}")
        return node

    def regroup(self, nodes: list[Node], sizes: Sequence[int], where: str) -> list[Node]:
        try:
            return regroup(nodes, list(sizes))
        except NoRefinement:
            self.freeze(nodes, f"it is reshaped in {where!r} in a way that mixes its units")
            out = [leaf(size) for size in sizes]
            self.freeze(out, f"it comes from a reshape in {where!r} that mixes units")
            return out

    def weight(
        self, layer: Any, variable: Any, axes: Sequence[Node | None], statistic: bool = False
    ) -> Value:
        """The value of a variable; the same one at every call, its axes made one with those given."""
        known = self.weights.get(id(variable))
        shape = tuple(int(n) for n in variable.shape)
        if known is None:
            name = f"{layer.name}/{variable.name}"
            fresh = [node if node is not None else leaf(n) for node, n in zip(axes, shape, strict=True)]
            known = Value(fresh, array(variable, self.masks), Weight(layer, variable, name, statistic))
            self.weights[id(variable)] = known
            return known
        for own, node in zip(known.axes, axes, strict=True):
            if node is not None:
                self.unify(own, node, layer.name)
        return known

    def setting(
        self, owner: Any, key: str, nodes: Sequence[Node], make: Callable[[list[int]], Any] | None = None
    ) -> None:
        """An entry of a configuration; all calls of a layer have to agree on it."""
        known = self.settings.get((id(owner), key))
        if known is None:
            self.settings[id(owner), key] = Setting(owner, key, list(nodes), make or (lambda sizes: sizes[0]))
            return
        for own, node in zip(known.nodes, nodes, strict=True):
            if find(own).size == find(node).size:
                self.unify(own, node, owner.name)
            else:
                self.freeze([own, node], f"calls of {owner.name!r} differ")

    # -- once it is made ------------------------------------------------------------------------------

    def finish(self) -> None:
        """Find the axes: the leaves of weights, with the first reason why it stays whole, if any."""
        reasons: dict[Node, str] = {}
        for node, why in self._frozen:
            for part in leaves(node):
                reasons.setdefault(part, why)
        self._space = {part for node in self._spaces for part in leaves(node)}
        for value in self.weights.values():
            value.axes = [settle(node) for node in value.axes]
        for step in self.steps:
            for value in step.outputs:
                value.axes = [settle(node) for node in value.axes]
        members: dict[Node, dict[str, None]] = {}
        for value in self.weights.values():
            assert value.weight is not None
            for d, node in enumerate(value.axes):
                for part in self.terms.leaves(node):
                    members.setdefault(part, {})[f"{value.weight.name}[{d}]"] = None
        for part, found in members.items():
            if part in self._space:
                continue
            names = tuple(found)
            self.axes.append(Axis(names[0], part.size, names, reasons.get(part), part))
        self.prunable = [axis.node for axis in self.axes if axis.prunable]

    # -- what is done with it -------------------------------------------------------------------------

    def plan(
        self,
        ratio: float | Mapping[str, float] = 0.5,
        importance: Importance = "l1",
        scope: str = "local",
        ignore: Collection[str] = (),
        protect: float = 0.0,
        round_to: int = 1,
    ) -> KerasPlan:
        """Choose units to remove, on every axis.

        A unit's score is the mean, over all weights that it runs through, of the norm of its part, relative
        to the mean over the units; measured statistics do not count.

        Args:
            ratio: the fraction of units removed on each axis, or a mapping from names of layers (the axis
                that each gives out) or axes to fractions; axes that it does not name stay whole.
            importance: `"l1"`, `"l2"`, `"fpgm"` (distances from all other units), or a function of an array
                (units, entries) that gives one score a unit.
            scope: `"local"`, each axis by its ratio, or `"global"`, one ranking of all units.
            ignore: names of layers or axes that stay whole.
            protect: the fraction of units that every axis keeps at least.
            round_to: kept units are rounded up to a multiple of this.

        Returns:
            the plan: `plan.model()` is the smaller model, `plan.zeroed()` the original with those units at
            zero, which computes the same.

        Raises:
            InputError: a value that is out of its range, or an axis that cannot be cut.
            UnknownNameError: a name that is neither a layer's nor an axis's.
        """
        from .choosing import choose

        return choose(self, ratio, importance, scope, ignore, protect, round_to)

    def compaction(self) -> KerasPlan:
        """The removal of all that masks or zeros have emptied; `plan.left_alone` says what stays."""
        from .plan import KerasPlan

        return KerasPlan(self, {}, None)

    def __str__(self) -> str:
        lines = [f"{'axis':40} {'size':>6}  what it couples, or why it stays whole"]
        for axis in self.axes:
            text = axis.reason or f"{len(axis.members)} dimensions of weights"
            lines.append(f"{axis.name:40} {axis.size:6}  {text}")
        return "\n".join(lines)


def masks_of(model: Any) -> dict[int, Any]:
    """The masks of `prunus.keras` that act in a model, by the identity of the variable that each is for."""
    found = {}
    for layer in model._flatten_layers():
        holder = holder_of(layer)
        for key, mask in holder.masks.items() if holder is not None else ():
            found[id(vars(layer)[key])] = mask
    return found


def array(variable: Any, masks: Mapping[int, Any]) -> Tensor:
    """A variable's values as layers compute with them, on the CPU; half precision as float32."""
    data = _read(variable)
    mask = masks.get(id(variable))
    return data if mask is None else data * _read(mask).to(data.dtype)


def _read(variable: Any) -> Tensor:
    value = variable.value
    if keras.backend.standardize_dtype(value.dtype) in ("float16", "bfloat16"):
        value = keras.ops.cast(value, "float32")
    return torch.from_numpy(np.array(keras.ops.convert_to_numpy(value)))
