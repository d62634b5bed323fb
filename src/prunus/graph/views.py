"""Graphs with a part left out: what remains when blocks are removed, or one block alone.

A view shares everything with the graph it is made of but what runs, what is held and what that costs. So a
plan for it is made, costed and applied like any other.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch

from .cost import CostModel
from .values import Op

if TYPE_CHECKING:
    from .blocks import Block
    from .graph import Graph


def without(graph: Graph, blocks: Sequence[Block]) -> Graph:
    """What remains of a whole graph when blocks are removed; its `cost()` is still that of the whole.

    Axes that lie in removed blocks alone can no longer be pruned by themselves.
    """
    gone = {name for block in blocks for name in block.tensors}
    view = _holding(graph, [item.name for item in graph.all_held if item.name not in gone])
    dead = {number for block in blocks for number in block.ops}
    silent = {number for block in blocks for number in block.costs}
    kept = [(number, op) for number, op in enumerate(graph.all_ops) if number not in dead]
    extra = [(block.extra[1], _extra(graph, block.extra)) for block in blocks if block.extra is not None]
    view.ops = [op for _, op in sorted(kept + extra, key=lambda item: item[0])]
    view.removed = tuple(blocks)
    view.cost_model = CostModel(view, [c for i, c in enumerate(graph.all_costs) if i not in silent])
    return view


def alone(graph: Graph, block: Block) -> Graph:
    """A graph that holds the tensors of one block only; for scores, not for costs."""
    return _holding(graph, block.tensors)


def _holding(graph: Graph, names: Collection[str]) -> Graph:
    """A copy of a graph that holds only some of its tensors; axes in none of them are fixed."""
    wanted = set(names)
    view = copy.copy(graph)
    view.__dict__.pop("block_table", None)
    view.held = [item for item in graph.all_held if item.name in wanted]
    view.axes = [
        dataclasses.replace(axis, members=[member for member in axis.members if member[0] in wanted])
        for axis in graph.axes
    ]
    view.by_node = {axis.node: axis for axis in view.axes}
    view.by_name = {axis.name: axis for axis in view.axes}
    return view


def _extra(graph: Graph, extra: tuple[str, int, int]) -> Op:
    """The operation that makes the tensor which a removed block returns."""
    name, number, position = extra
    made = graph.all_ops[number]
    value = made.outs[position]
    return Op(name, getattr(torch.ops.aten, name).default, {"self": value}, (value,), made.site)
