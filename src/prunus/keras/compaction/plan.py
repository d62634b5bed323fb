"""The kept units of each axis of a Keras model, found and written down before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...compaction.holding import Gone
from ...graph.axes import Node
from ...training.random_state import same_random_state
from .cut import Cut
from .graph import KerasGraph
from .reasons import left_alone
from .rebuilding import Rebuilding
from .repairing import Unrepairable
from .spatial import Statistic
from .study import Study, Verdict
from .values import Value


class KerasPlan:
    """Which units of which axes go, and what takes their constants.

    Attributes:
        graph: of the model that the plan is for.
        kept: for each axis that loses units, by name, the int64 indices of those that stay.
        gone: for each axis that loses units, by node, a mask of those that go.
        left_alone: for each axis with empty units that stay, how many there are, and why.
    """

    def __init__(self, graph: KerasGraph, data: Mapping[Value, Tensor], chosen: Gone | None) -> None:
        """Find what can go.

        Args:
            graph: of the model.
            data: values of weights other than the model's.
            chosen: units that may go; None for all.
        """
        self.graph = graph
        self._data = dict(data)
        refused: dict[Node, str] = {}
        while True:
            study = Study(graph, data, refused)
            gone, verdict = _settled(study, chosen)
            self._cut = _cut(study, verdict, gone)
            try:
                with same_random_state():  # new layers draw first weights, which nobody sees
                    self._rebuilding = Rebuilding(graph, self._cut)
                break
            except Unrepairable as error:
                refused.update(error.axes)
        self.gone = gone
        self.kept = {
            axis.name: np.flatnonzero(~gone[axis.node].numpy()) for axis in graph.axes if axis.node in gone
        }
        self.left_alone = left_alone(study, verdict, gone)

    def __bool__(self) -> bool:
        """Whether any unit goes."""
        return bool(self.kept)

    def __str__(self) -> str:
        sizes = {axis.name: axis.size for axis in self.graph.axes}
        lines = [f"{name}: {len(kept)} of {sizes[name]} units stay" for name, kept in self.kept.items()]
        lines += [f"{name}: {why}" for name, why in self.left_alone.items()]
        return "\n".join(lines) or "nothing to remove"

    def model(self) -> Any:
        """The smaller model: a new one, with the same names and weights of its own."""
        with same_random_state():  # new layers draw first weights, which nobody sees
            return self._rebuilding.model()

    def zeroed(self) -> Any:
        """A copy of the original with the weights that the plan was made for, nothing removed."""
        with same_random_state():  # new layers draw first weights, which nobody sees
            return Rebuilding(self.graph, Cut(self.graph, self._data)).model()


def _settled(study: Study, chosen: Gone | None) -> tuple[Gone, Verdict]:
    """Units that go, until those that fed only them have gone as well."""
    gone: Gone = {}
    while True:
        verdict = study.weigh(gone)
        more: Gone = {}
        for axis in study.graph.axes:
            if not axis.prunable:
                continue
            held = verdict.held.get(axis.node)
            free = ~held if held is not None else torch.ones(axis.size, dtype=torch.bool)
            if chosen is not None:
                free = free & chosen.get(axis.node, torch.zeros(axis.size, dtype=torch.bool))
            if bool(free.all()):
                free[0] = False
            if bool(free.any()):
                more[axis.node] = free
        if _count(more) == _count(gone):
            return gone, verdict
        gone = more


def _count(gone: Gone) -> int:
    return sum(int(mask.sum()) for mask in gone.values())


def _cut(study: Study, verdict: Verdict, gone: Gone) -> Cut:
    """What changes in the layers when these units go."""
    kept = {node: (~mask).nonzero().flatten() for node, mask in gone.items()}
    data = dict(study.changed)
    for item in verdict.carries:
        along = study.gone_along(item.node)
        if along is not None and bool((along & item.terms).any()):
            data[item.step.inputs[1]] = item.step.carrying(study, item.carrier, along & item.terms)
    cut = Cut(study.graph, data, kept)
    for fold in verdict.folds:
        along = study.gone_along(fold.node)
        if along is not None and bool((along & fold.terms).any()):
            cut.biases[id(fold.step.bias)] = fold.step.amount(study, along & fold.terms)
    for step in study.graph.steps:
        if isinstance(step, Statistic) and step.layer_object is not None:
            along = study.gone_along(step.inputs[0].axes[step.dim])
            if along is not None:
                cut.absent[id(step.layer_object)] = step.constants(study).value[along].double().numpy()
    return cut
