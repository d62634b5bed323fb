"""Units that several weights make together: which they are, which go, and what else they run through.

Nothing here knows of modules or layers: a weight is a name, and what its units are is read off axes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..configuration import Entry
from ..errors import ArgumentTypeError, InputError
from ..graph.axes import Node
from ..graph.terms import Terms
from .selection import Candidates, going


class SharedUnits:
    """Which units of which weights are one, given the axes that these run over.

    Weights are tied if they run over the same axis. Units of tied weights are kept or removed together,
    ranked by the sum of their scores; where tied weights ask for different sparsities the lowest counts, and
    each axis keeps a unit.

    Where all weights that make a unit are pruned, those that it runs through (one entry for each unit) are
    partners: they lose it too, so that it is zero and not the constant that a shift would make of it.

    Args:
        axes: for each weight, and for each of its axes, the unit that each of its positions belongs to (-1:
            none); see `units_of`.
        makers: for each axis, the weights that make its units.
        vectors: those among the weights that have one entry for each unit.

    Attributes:
        units: for each weight that is pruned, what `axes` has, with a number for each axis.
        sizes: how many units these axes have.
        partners: the same as `units` for partners.
    """

    def __init__(
        self,
        axes: Mapping[str, Mapping[Node, Tensor]],
        makers: Mapping[Node, Collection[str]],
        vectors: Collection[str],
    ) -> None:
        self.units: dict[str, dict[int, Tensor]] = {}
        self.sizes: dict[int, int] = {}
        self.partners: dict[str, dict[int, Tensor]] = {}
        self._sets: dict[str, frozenset[str]] = {}
        self._axes, self._makers, self._vectors = axes, makers, set(vectors)

    def restrict(self, names: Sequence[str]) -> None:
        """Keep what concerns these weights, those that are pruned, and forget the rest."""
        numbers: dict[Node, int] = {}
        for name in names:
            axis = self._axes.get(name)
            if axis is None:
                continue
            own = self.units[name] = {}
            for leaf, ids in axis.items():
                number = numbers.setdefault(leaf, len(numbers))
                own[number], self.sizes[number] = ids, leaf.size
        pruned = set(names)
        for name in sorted(self._vectors - pruned):
            lost = {
                numbers[leaf]: ids
                for leaf, ids in self._axes.get(name, {}).items()
                if leaf in numbers and pruned.issuperset(self._makers.get(leaf, ()))
            }
            if lost:
                self.partners[name] = lost
        del self._axes, self._vectors, self._makers
        for name in self.units:
            together = {name}
            while True:
                axes = {axis for member in together for axis in self.units[member]}
                more = {member for member, theirs in self.units.items() if axes & theirs.keys()}
                if more == together:
                    break
                together = more
            self._sets[name] = frozenset(together)

    def of(self, name: str) -> frozenset[str]:
        """The weights that are chosen together with one, itself among them; none if it has no such units."""
        return self._sets.get(name, frozenset())

    def empty(self, name: str, masks: Mapping[str, Tensor]) -> Tensor:
        """Which entries of a partner belong to units that no weight makes any more: bool.

        Args:
            name: the partner's.
            masks: for each weight, which of its units are left: bool.
        """
        lost: Tensor | None = None
        for axis, ids in self.partners[name].items():
            alive = torch.zeros(self.sizes[axis], dtype=torch.bool)
            for weight, left in masks.items():
                theirs = self.units.get(weight, {}).get(axis)
                if theirs is not None:
                    alive[theirs[(theirs >= 0) & left.cpu()]] = True
            here = (ids >= 0) & ~alive[ids.clamp(min=0)]
            lost = here if lost is None else lost | here
        assert lost is not None
        return lost

    def going(self, items: Sequence[Candidates], wanted: Mapping[str, float]) -> dict[str, Tensor]:
        """Which units of each of these weights go: bool, shape (units,)."""
        totals: dict[int, Tensor] = {}
        gone: dict[int, Tensor] = {}
        limits: dict[int, list[Candidates]] = {}
        for item in items:
            for axis, ids in self.units[item.name].items():
                here = ids >= 0
                scores = torch.zeros(self.sizes[axis], dtype=torch.float64)
                scores.index_add_(0, ids[here], item.scores.detach().cpu().double()[here])
                alive = torch.zeros(self.sizes[axis]).index_add_(
                    0, ids[here], (~item.gone.cpu()[here]).float()
                )
                totals[axis] = totals[axis] + scores if axis in totals else scores
                gone[axis] = gone[axis] & (alive == 0) if axis in gone else alive == 0
                limits.setdefault(axis, []).append(item)
        chosen: dict[int, Tensor] = {}
        for axis, scores in totals.items():
            size, weights = self.sizes[axis], limits[axis]
            one = Candidates(
                " and ".join(weight.name for weight in weights),
                scores,
                gone[axis],
                max(min(weight.least * size // weight.size, size - 1) for weight in weights),
                min(
                    size - 1,
                    *(
                        ((weight.size if weight.most is None else weight.most) * size) // weight.size
                        for weight in weights
                    ),
                ),
                max(weight.align for weight in weights),
            )
            chosen[axis] = going([one], min(wanted[weight.name] for weight in weights))[0]
        found = {}
        for item in items:
            lost = torch.zeros(item.size, dtype=torch.bool)
            for axis, ids in self.units[item.name].items():
                lost |= (ids >= 0) & chosen[axis][ids.clamp(min=0)]
            found[item.name] = lost.to(item.scores.device) | item.gone
        return found


def units_of(terms: Terms, axis: Node) -> dict[Node, Tensor]:
    """For each leaf of an axis whose units may go, the unit that each position belongs to (-1: none).

    Where an axis is a product (groups x filters of a group), units of its larger factor go, so that every
    group keeps as many.
    """
    own: dict[Node, Tensor] = {}
    for leaf in _moving(terms, axis):
        ids = terms.spread(axis, {leaf: torch.arange(1, leaf.size + 1)})
        if ids is not None:
            own[leaf] = ids - 1
    return own


def _moving(terms: Terms, axis: Node) -> list[Node]:
    """The leaves of an axis whose units may go: of each product, those of its larger factor."""
    leaves = terms.leaves(axis)
    for factors in terms.products(axis):
        largest = max(factors, key=lambda inner: sum(leaf.size for leaf in inner))
        stay = {leaf for factor in factors if factor is not largest for leaf in factor}
        leaves = [leaf for leaf in leaves if leaf not in stay]
    return leaves


def check_dependency_aware(aware: Any, algorithm: str, removes_filters: bool) -> None:
    """Raise a `PruningError` of a pruner that cannot be told to be aware of dependencies."""
    if not isinstance(aware, bool):
        raise ArgumentTypeError(f"dependency_aware must be a bool, got {aware!r}")
    if aware and not removes_filters:
        raise InputError(f"dependency_aware is for algorithms that remove filters, not {algorithm!r}")


def check_tied_entry(entry: Entry, name: str) -> None:
    """Raise an `InputError` of an entry that asks for what tied layers cannot do."""
    if entry.global_group_id is not None or entry.granularity not in ("default", "out_channel"):
        raise InputError(
            f"layer {name!r}: dependency_aware ranks the filters of layers that share them, which does "
            "not go together with global_group_id or another granularity"
        )
