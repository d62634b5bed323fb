"""Steps over neighbourhoods and whole dimensions: pooling, reductions, statistics, boundaries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...compaction.facts import Facts, alike, whole
from .values import Need, Step, along, vector

if TYPE_CHECKING:
    from .study import Study


@dataclass(eq=False)
class Local(Step):
    """Averages, maxima, copies and crops of neighbours along `dims`: a constant stays what it is."""

    dims: tuple[int, ...] = field(kw_only=True)

    def facts(self, study: Study) -> list[Facts]:
        return [alike(study.facts(self.inputs[0]), self.dims)]

    def needs(self, study: Study, needs: list[Need]) -> list[Need | None]:
        return [whole(needs[0], self.dims)]


@dataclass(eq=False)
class Reduction(Step):
    """Mean, maximum or minimum over `dims`, kept with size one or dropped."""

    dims: tuple[int, ...] = field(kw_only=True)
    keepdims: bool = field(kw_only=True)

    def facts(self, study: Study) -> list[Facts]:
        facts = alike(study.facts(self.inputs[0]), self.dims)
        if self.keepdims:
            return [facts]
        left = [d for d in range(facts.known.dim()) if d not in self.dims]
        return [facts.mapped(lambda t: t.reshape([t.shape[d] for d in left]))]

    def needs(self, study: Study, needs: list[Need]) -> list[Need | None]:
        need = needs[0]
        if not self.keepdims:
            left = iter(need.shape)
            rank = self.inputs[0].rank
            need = need.reshape([1 if d in self.dims else next(left) for d in range(rank)])
        return [need]


@dataclass(eq=False)
class Statistic(Step):
    """A normalisation by statistics over one dimension, before any scale and shift.

    Units whose values are constant may go where the layer can be told of them (`layer_object`): their part
    in the mean and the variance is known. Those that are not constant have to stay, and those that are not
    the same constant at every call of the layer.
    """

    dim: int = field(kw_only=True)
    layer_object: Any = field(default=None, kw_only=True)

    def needs(self, study: Study, needs: list[Need]) -> list[Need | None]:
        value = self.inputs[0]
        free = None if self.layer_object is None else self._free(study)
        study.hold(value.axes[self.dim], None if free is None else ~free, self, "it shares a statistic")
        return [study.full(value)]

    def _free(self, study: Study) -> Tensor | None:
        """Units that are one constant at all calls of the layer (bool); None where calls differ in axes."""
        own = self.constants(study)
        free = own.known
        if study.calls[id(self.layer_object)] > 1:
            for step in study.graph.steps:
                if not isinstance(step, Statistic) or step.layer_object is not self.layer_object:
                    continue
                if step.inputs[0].axes[step.dim] is not self.inputs[0].axes[self.dim]:
                    return None
                other = step.constants(study)
                free = free & other.known & (other.value == own.value)
        return free

    def constants(self, study: Study) -> Facts:
        """What is known of each unit: vectors of full size."""
        value = self.inputs[0]
        facts = alike(study.facts(value), [d for d in range(value.rank) if d != self.dim])
        size = value.shape[self.dim]
        return Facts(facts.known.reshape(-1).expand(size), facts.value.reshape(-1).expand(size))

    def losses(self) -> str:
        return "it shares a statistic"


@dataclass(eq=False)
class GroupStatistic(Step):
    """A normalisation inside each group of channels, `groups x rest`: a group matters as a whole."""

    dim: int = field(kw_only=True)
    groups: int = field(kw_only=True)

    def needs(self, study: Study, needs: list[Need]) -> list[Need | None]:
        value = self.inputs[0]
        size = value.shape[self.dim]
        of_group = vector(needs[0], self.dim, size).reshape(self.groups, -1).any(1, keepdim=True)
        spread = of_group.expand(self.groups, size // self.groups).reshape(-1)
        return [along(spread, self.dim, value.rank)]


@dataclass(eq=False)
class Lookup(Step):
    """Rows of a table: constant where a column of the table is."""

    def facts(self, study: Study) -> list[Facts]:
        table = alike(study.facts(self.inputs[1]), [0])
        rank = self.outputs[0].rank
        return [table.mapped(lambda t: along(t.reshape(-1), rank - 1, rank))]

    def needs(self, study: Study, needs: list[Need]) -> list[Need | None]:
        return [study.full(self.inputs[0]), None]


@dataclass(eq=False)
class Boundary(Step):
    """An operation of which nothing is known: all that goes in matters."""

    def needs(self, study: Study, needs: list[Need]) -> list[Need | None]:
        return [torch.ones((1,) * value.rank, dtype=torch.bool) for value in self.inputs]
