"""Integers set after pruning: those the forward uses, and those that only describe a layer."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from ..errors import SurgeryError
from ..graph.axes import Node
from ..graph.described import described
from ..graph.polynomials import Attribute
from ..graph.state import mode, named_modules
from .operation import Operation

if TYPE_CHECKING:
    from ..plan import Plan

_SIZES = re.compile(
    r"(^|_)(dim|dims|size|channels?|chs|features?|width|planes|heads?|groups|d_model|d_ff|nf|nx|c|hidden|inner|"
    r"embed|units|state|rank|nhead|n_head|n_embd)(_|$)|(_dim|_size|_features|_channels|_heads|_planes|_chs)$"
)


def solved_attributes(plan: Plan) -> dict[Attribute, int]:
    """New values of the integers that the traced code relies on.

    Raises:
        SurgeryError: an integer would have to become a fraction.
    """
    counts = plan.counts
    changed: dict[Attribute, int] = {}
    for attribute, poly in plan.graph.constraints.solutions.items():
        if not any(isinstance(v, Node) and v in counts for v in poly.variables()):
            continue
        value = plan.graph.constraints.number(attribute, lambda node: counts.get(node, node.size))
        if value.denominator != 1 or value < 1:
            raise SurgeryError(f"{attribute.name} would have to be {value}, which is no whole number")
        if int(value) != attribute.value:
            changed[attribute] = int(value)
    return changed


def repair_solved(operation: Operation, plan: Plan) -> None:
    for attribute, value in solved_attributes(plan).items():
        operation.set(attribute.owner, attribute.path, value)


# -- attributes that describe torch's own layers --------------------------------------------------------


def repair_described(operation: Operation, plan: Plan) -> None:
    """`in_features`, `num_channels` and so on of torch's layers, from the tensors they now hold."""
    used = plan.graph.used_attributes
    with mode(operation.model, False):
        for name, module in named_modules(operation.model, distinct=True):
            for key, value in described(module):
                held = module.__dict__.get(key)
                if type(held) is int and held != value and (name, (key,)) not in used:
                    operation.set(name, (key,), int(value))


# -- attributes of other modules -------------------------------------------------------------------------


def repair_by_size(operation: Operation, plan: Plan) -> None:
    """Descriptive integers of user-defined modules that no operation used.

    An attribute with a size-like name follows if every dimension, or axis, of its old size below its
    module has come to the same new size.
    """
    used = plan.graph.used_attributes
    changes = _changes_below(plan)
    for name, module in named_modules(operation.model, distinct=True):
        table = changes.get(name)
        if not table or type(module).__module__.startswith("torch.nn.modules"):
            continue
        for key, value in list(module.__dict__.items()):
            if (
                type(value) is not int
                or value <= 1
                or (name, (key,)) in used
                or not _SIZES.search(key.lower())
            ):
                continue
            new = table.get(("axis" if "head" in key or "group" in key else "dim", value)) or table.get(
                ("axis", value)
            )
            if new is not None and len(new) == 1:
                operation.set(name, (key,), next(iter(new)))


def _changes_below(plan: Plan) -> dict[str, dict[tuple[str, int], set[int]]]:
    """For each module: what every dimension size, and every axis size, below it has become."""
    graph = plan.graph
    tables: dict[str, dict[tuple[str, int], set[int]]] = defaultdict(lambda: defaultdict(set))
    memo: dict[Node, int] = {}
    for alias, first in graph.aliases.items():
        if first in plan.removed:
            continue
        pairs: set[tuple[str, int, int]] = set()
        for node in graph.values[first].axes:
            pairs.add(("dim", node.size, graph.terms.size(node, plan.counts, memo)))
            pairs.update(("axis", old, new) for old, new in sub_sizes(plan, node, memo))
        owner = alias.rpartition(".")[0]
        while True:
            for kind, old, new in pairs:
                tables[owner][(kind, old)].add(new)
            if not owner:
                break
            owner = owner.rpartition(".")[0]
    return tables


def sub_sizes(plan: Plan, node: Node, memo: dict[Node, int]) -> set[tuple[int, int]]:
    """Old and new sizes of the leaves of an axis and of the runs of factors inside it (heads = kv x rep)."""
    terms = plan.graph.terms
    out = {(leaf.size, plan.counts.get(leaf, leaf.size)) for leaf in terms.leaves(node)}
    pending = [node]
    while pending:
        _, kind, parts = terms.parts(pending.pop())
        pending.extend(parts)
        if kind == "product":
            for start in range(len(parts)):
                old = new = 1
                for part in parts[start:]:
                    old, new = old * part.size, new * terms.size(part, plan.counts, memo)
                    out.add((old, new))
    return out


def repair(operation: Operation, plan: Plan) -> None:
    """Every integer of the model that pruning has made untrue."""
    from .config import repair_config

    if not plan.removed:  # otherwise it was done while the removed modules were there
        repair_solved(operation, plan)
    repair_described(operation, plan)
    repair_by_size(operation, plan)
    repair_config(operation, plan)
