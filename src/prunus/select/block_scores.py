"""How much each block matters: by the importance of its units, or by what it does to what passes through."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import ArgumentTypeError, InputError
from ..graph.blocks import Block
from ..graph.graph import Graph
from ..graph.views import alone
from ..importance import Importance, Scoring, scores
from ..importance.base import resolve

INFLUENCE = "influence"


def block_scores(
    graph: Graph, blocks: Sequence[Block], importance: Any, seed: int | None = None
) -> dict[Block, float]:
    """One score per block; the lowest go first.

    By an importance, a block's score is the mean, over the units of every axis in its weights, of the score
    that its own weights give them, before any normalisation. "influence" reads what
    `prunus.block_influence` measured on this graph; a dict gives the scores by block or name.

    Raises:
        InputError: an unknown importance, scores that are missing or not finite.
        ArgumentTypeError: neither a name, an importance, a function nor a dict.
    """
    if isinstance(importance, str) and importance == INFLUENCE:
        if graph.influence is None:
            raise InputError(
                "block_importance='influence' is measured on data: call "
                "prunus.block_influence(graph, loader) first"
            )
        importance = graph.influence
    if isinstance(importance, Mapping):
        return _given(graph, blocks, importance)
    scorer = resolve(importance)
    if isinstance(scorer, Importance):
        scorer = dataclasses.replace(scorer, normalize="none")
    found = {}
    for block in blocks:
        view = alone(graph, block)
        nodes = [axis.node for axis in view.axes if axis.members]
        if isinstance(scorer, Importance):
            units = scores(view, nodes, scorer, seed)
        else:
            units = scorer(Scoring(view, nodes, seed))
        total = torch.cat([units[node].detach().double().cpu().flatten() for node in nodes])
        found[block] = float(total.mean())
        if not math.isfinite(found[block]):
            raise InputError(f"the importance of block {block.name!r} is {found[block]}: it cannot be ranked")
    return found


def _given(graph: Graph, blocks: Sequence[Block], given: Mapping[Any, Any]) -> dict[Block, float]:
    by_name: dict[str, float] = {}
    for item, value in given.items():
        name = item.name if isinstance(item, Block) else graph.name_of(item)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ArgumentTypeError(f"block_importance[{name!r}]={value!r} is not a number")
        if not math.isfinite(value):
            raise InputError(f"block_importance[{name!r}] is {value}: it cannot be ranked")
        by_name[name] = float(value)
    missing = [block.name for block in blocks if block.name not in by_name]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"block_importance says nothing of {missing[0]!r}{more}: give every block that may be removed, "
            "or put it in ignore"
        )
    return {block: by_name[block.name] for block in blocks}
