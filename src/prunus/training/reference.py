"""The axes of a network as it was, and their scores as it is: what planning in steps rests on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import PlanError
from ..graph.axes import Node
from ..graph.graph import Graph
from ..graph.state import Held
from ..importance import Importance, Scoring, scores


def detached(graph: Graph) -> Graph:
    """The same graph with tensors that hold no data, so that it stays as it is while the model shrinks."""
    other = copy.copy(graph)
    other.all_held = [Held(_without_data(item.tensor), item.slots) for item in graph.all_held]
    known = {item.name: item for item in other.all_held}
    other.held = [known[item.name] for item in graph.held]
    return other


def _without_data(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def rivals(graph: Graph) -> dict[Node, set[Node]]:
    """For each axis, the other factors of the products that it is part of, in tensors and in equations."""
    found: dict[Node, set[Node]] = {}
    products = [
        factors
        for item in graph.held
        if item.kind == "parameter"
        for node in graph.values[item.name].axes
        for factors in graph.terms.products(node)
    ]
    for constraint in graph.constraints.residual:
        products += [[[variable] for variable, _ in key] for key in constraint.poly.terms]
    for factors in products:
        for position, leaves in enumerate(factors):
            others = {leaf for factor in (*factors[:position], *factors[position + 1 :]) for leaf in factor}
            for node in leaves:
                found.setdefault(node, set()).update(o for o in others - {node} if o in graph.by_node)
    return found


def matched_axes(before: Graph, now: Graph, kept: Mapping[Node, Tensor]) -> dict[Node, Node]:
    """The axis of the current graph for each original one that still has more than one unit.

    Raises:
        PlanError: the current model is not the original one with just these units kept.
    """

    def size(node: Node) -> int:
        return len(kept[node]) if node in kept else node.size

    found: dict[Node, Node] = {}
    for item in before.held:
        if item.kind != "parameter":
            continue
        own = now.values[item.name].axes if item.name in now.values else ()
        for whole, left in zip(before.values[item.name].axes, own, strict=bool(own)):
            old = [node for node in before.terms.leaves(whole) if size(node) > 1]
            new = now.terms.leaves(left)
            if [size(node) for node in old] != [node.size for node in new]:
                raise _changed(item.name)
            found.update(zip(old, new, strict=True))
        if not own and item.tensor.dim():
            raise _changed(item.name)
    return found


def _changed(name: str) -> PlanError:
    return PlanError(
        f"the model is not the one that the last step left: {name!r} has another shape. Something else has "
        "changed it in between; begin a new run with the model as it is"
    )


@dataclass(frozen=True, kw_only=True)
class CurrentScores(Importance):
    """Scores on the original axes, of the network as it is; units that are gone rank lowest.

    Attributes:
        now: the graph of the network as it is.
        matched: its axis for each original one.
        kept: the units that are left of each original axis, where some are gone.
        importance, seed: what scores the network as it is, normaliser included.
    """

    now: Graph
    matched: Mapping[Node, Node]
    kept: Mapping[Node, Tensor]
    importance: Any
    seed: int | None
    normalize: str = "none"

    reads_weights: ClassVar[bool] = False

    def __call__(self, scoring: Scoring) -> dict[Node, Tensor]:
        nodes = [node for node in scoring.nodes if node in self.matched]
        found = scores(self.now, [self.matched[node] for node in nodes], self.importance, self.seed)
        own = {node: found[self.matched[node]] for node in nodes}
        lowest = min((float(units.min()) for units in own.values()), default=1.0)
        highest = max((float(units.max()) for units in own.values()), default=1.0)
        gone = 0.0 if lowest > 0 else lowest - 1e-6 * max(highest - lowest, 1e-300)
        out = {}
        for node in scoring.nodes:
            out[node] = torch.full((node.size,), gone, dtype=torch.float64)
            alive = self.kept.get(node, torch.arange(node.size))
            out[node][alive] = own.get(node, torch.tensor(highest, dtype=torch.float64))
        return out
