"""Importances of groups: the base of one's own, and those of axes that are asked group by group."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ArgumentTypeError, InputError
from ...graph.axes import CONCAT, LEAF, REVERSE, Node
from ...graph.graph import Graph
from ...importance import NORMALISERS, Members, Normaliser, Scoring
from ...importance import Importance as AxisImportance
from ...importance.base import resolve
from ...importance.reduction import reduce
from ..group import DependencyGroup

_REDUCTIONS = ("sum", "mean", "max", "prod", "first")
_NORMALISERS = {"standarization": "standardise"}
"""Spellings that scripts use."""


class Importance(ABC):
    """Scores the channels of a group.

    It is called with a group, `(dependency, indices)` by `(dependency, indices)`, and returns a 1-D tensor
    with one score for each channel of `group[0].idxs`, or None for a group that is not to be pruned. Higher
    stays longer.
    """

    @abstractmethod
    def __call__(self, group: DependencyGroup) -> Tensor | None: ...


class Grouped(Importance):
    """Scores of the items of a group, reduced to one a channel, and normalised.

    Attributes:
        group_reduction: how the scores of coupled layers become one.
        normalizer: what makes groups comparable; see `axis_options` for the names.
        bias: whether biases count.
        target_types: only layers of these classes count.

    Those derived from it may set these themselves, without calling `__init__`.
    """

    group_reduction: str | None = "mean"
    normalizer: str | Normaliser | None = "mean"
    bias: bool = False
    target_types: Iterable[type] = (nn.Module,)

    def __init__(
        self,
        group_reduction: str | None,
        normalizer: str | Normaliser | None,
        bias: bool = False,
        target_types: Iterable[type] | None = None,
    ) -> None:
        axis_options(group_reduction, normalizer)
        self.group_reduction, self.normalizer, self.bias = group_reduction, normalizer, bias
        if target_types is not None:
            self.target_types = layer_classes(target_types)

    def _reduce(self, group_imp: Sequence[Tensor], group_idxs: Sequence[Sequence[int]]) -> Tensor:
        """For importances derived from this one that go through a group item by item: one score a channel.

        Args:
            group_imp: the scores that items give, 1-D.
            group_idxs: for each of them, the channels of the root that the scores are of.
        """
        size = len(group_imp[0])
        members = []
        for scores, idxs in zip(group_imp, group_idxs, strict=True):
            at = torch.tensor(idxs, dtype=torch.int64, device=scores.device)
            members.append(scores.new_zeros(size).index_add_(0, at, scores))
        return reduce(members, axis_options(self.group_reduction, None)["reduction"])

    def _normalize(self, group_importance: Tensor, normalizer: str | Normaliser | None) -> Tensor:
        """Scores made comparable with those of other groups; see `axis_options` for the names."""
        normalise = axis_options(self.group_reduction, normalizer)["normalize"]
        return (normalise if callable(normalise) else NORMALISERS[normalise])(group_importance)


class OnAxes(Grouped):
    """A `prunus.importance` that is asked group by group; None for a group that it has no data for.

    Args:
        importance: the importance; its normaliser is applied to the channels that are asked about.
    """

    def __init__(self, importance: AxisImportance) -> None:
        super().__init__(importance.reduction, importance.normalize)
        self._importance = importance

    def on_axes(self) -> AxisImportance:
        """The importance, by the attributes as they are now; its reduction and normaliser are not used."""
        return self._importance

    @torch.no_grad()
    def __call__(self, group: DependencyGroup) -> Tensor | None:
        graph = group._layout.graph
        axis = group.root.axis
        own = [leaf for leaf in graph.terms.leaves(axis) if leaf in group.units and leaf in graph.by_node]
        reduction = axis_options(self.group_reduction, None)["reduction"]
        importance = dataclasses.replace(self.on_axes(), reduction=reduction, normalize="none")
        found = importance(OfLayers(graph, own, layer_classes(self.target_types)))
        if not found or any(leaf not in found for leaf in own):
            return None
        scores = _positions(graph, axis, found)[torch.tensor(group[0].idxs, dtype=torch.int64)]
        return self._normalize(scores, self.normalizer)


class OfLayers(Scoring):
    """Sums over the parameters of some classes of layers alone."""

    def __init__(self, graph: Graph, nodes: list[Node], types: tuple[type, ...]) -> None:
        super().__init__(graph, nodes)
        self.types = types

    def sum_members(
        self,
        entries: Callable[..., Tensor],
        *sources: Mapping[str, Tensor],
        where: Callable[[str, int], bool] = lambda name, dim: True,
    ) -> Members:
        modules = self.graph.module_names

        def counts(name: str, dim: int) -> bool:
            owner = f".{name}".rpartition(".")[0]
            layer = owner.partition(".parametrizations")[0].removeprefix(".")
            return isinstance(modules[layer], self.types) and where(name, dim)

        return super().sum_members(entries, *sources, where=counts)


def layer_classes(target_types: Any) -> tuple[type, ...]:
    """Classes of layers that a caller lists.

    Raises:
        ArgumentTypeError: something else than classes.
    """
    found = tuple(target_types) if isinstance(target_types, Iterable) else (target_types,)
    for item in found:
        if not isinstance(item, type):
            raise ArgumentTypeError(f"target_types has {item!r}: it lists classes, such as nn.Conv2d")
    return found


def _positions(graph: Graph, node: Node, found: dict[Node, Tensor]) -> Tensor:
    """The score of each position along an axis: that of its unit, or the sum of those of its factors."""
    node, kind, parts = graph.terms.parts(node)
    if kind == LEAF:
        return found.get(node, torch.zeros(node.size, dtype=torch.float64))
    inner = [_positions(graph, part, found) for part in parts]
    if kind == REVERSE:
        return inner[0].flip(0)
    if kind == CONCAT:
        return torch.cat(inner)
    total = inner[0]
    for part in inner[1:]:
        total = (total[:, None] + part).flatten()
    return total


def axis_options(group_reduction: str | None, normalizer: str | Normaliser | None) -> dict[str, Any]:
    """`reduction` and `normalize` of an axis importance, from the words of scripts."""
    if group_reduction not in _REDUCTIONS:
        raise InputError(f"group_reduction={group_reduction!r}: there are {', '.join(_REDUCTIONS)}")
    if isinstance(normalizer, str) and normalizer.startswith("sentinel"):
        return {"reduction": group_reduction, "normalize": _sentinel(float(normalizer.rpartition("_")[2]))}
    name = "none" if normalizer is None else normalizer
    if isinstance(name, str):
        name = _NORMALISERS.get(name, name)
        if name not in NORMALISERS:
            known = sorted({*NORMALISERS, *_NORMALISERS, "sentinel_<fraction>"})
            raise InputError(f"normalizer={normalizer!r}: there are {', '.join(known)}, or a function")
    return {"reduction": group_reduction, "normalize": name}


def _sentinel(fraction: float) -> Normaliser:
    """Divide by the score at that place of the ranking; 0.5 is the median."""

    def over(scores: Tensor) -> Tensor:
        place = min(int(fraction * len(scores)), len(scores) - 1)
        return scores / (scores.sort().values[place] + 1e-8)

    return over


def of_groups(importance: Any) -> Callable[[DependencyGroup], Tensor | None]:
    """What scores groups: an importance of groups, a function, an importance of axes, or the name of one.

    Raises:
        ArgumentTypeError: something else.
    """
    if isinstance(importance, type):
        raise ArgumentTypeError(
            f"importance is the class {importance.__name__}: make an object of it, {importance.__name__}()"
        )
    if isinstance(importance, str):
        importance = resolve(importance)
    if isinstance(importance, AxisImportance):
        return OnAxes(importance)
    if not callable(importance):
        raise ArgumentTypeError(
            "importance must be one of prunus.dependency.importance, a function from a group to a 1-D "
            f"tensor, or a prunus.importance, got {type(importance).__name__}"
        )
    return importance  # type: ignore[no-any-return]
