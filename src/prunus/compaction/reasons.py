"""Empty units that stay, and why, in one line an axis."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph.axes import Node
from ..graph.graph import Axis
from ..graph.values import Op, Value
from .choice import Choice
from .facts import whole
from .holding import Gone, told, units_at
from .rules.normalization import norm_name
from .study import Study, Verdict

_LOSSES = {
    "add": "it is added to a branch that is not constant there",
    "sub": "it is added to a branch that is not constant there",
    "cat": "it is joined with units that are not constant",
    "stack": "it is joined with units that are not constant",
    "mul": "it is multiplied by what depends on the input",
    "convolution": "its constant meets the zero padding of a convolution",
    "avg_pool": "its constant meets the zero padding of a pooling",
}


def left_alone(study: Study, verdict: Verdict, choice: Choice, gone: Gone) -> dict[str, str]:
    """For each axis with empty units that stay, how many there are and why they do."""
    ops = _lossy(study)
    return told(
        study.graph.axes,
        _emptied(study),
        gone,
        lambda axis, left: _reason(study, verdict, choice, axis, left, ops),
    )


def _reason(study: Study, verdict: Verdict, choice: Choice, axis: Axis, left: Tensor, ops: list[Op]) -> str:
    held = verdict.held.get(axis.node)
    if held is None or not bool((held & left).any()):
        return choice.short.get(axis.node, "an axis keeps its last unit")
    lost = _loss(study, ops, axis.node, held & left)
    if lost is not None:
        return lost
    return verdict.commonest(axis.node, left)


# -- where a constant gets lost -------------------------------------------------------------------------


def _lossy(study: Study) -> list[Op]:
    """Operations with a tensor that is constant in part: only there can a constant get lost."""
    return [
        op
        for op in study.graph.ops
        if (op not in study.contractions or int(op.args.get("groups", 1)) > 1)  # others make other units
        and any(study.facts(value).any and not study.facts(value).all for value in op.inputs())
    ]


def _loss(study: Study, ops: list[Op], leaf: Node, units: Tensor) -> str | None:
    """The first operation that makes something else of units that were constant."""
    for op in ops:
        out = op.outs[0]
        if leaf not in _axes_of(study, out):
            continue
        for value in op.inputs():
            lost = units & _constant_units(study, value, leaf)
            if not study.facts(value).all and bool((lost & ~_constant_units(study, out, leaf)).any()):
                return f"{_what(op)} in {op.site}"
    return None


def _what(op: Op) -> str:
    if "norm" in op.name and "batch" not in op.name:
        return f"{norm_name(op)} shares a statistic over it"
    for name, text in _LOSSES.items():
        if op.name.startswith(name):
            return text
    return f"{op.name} does not leave it constant"


def _axes_of(study: Study, value: Value) -> list[Node]:
    return [leaf for node in value.axes for leaf in study.graph.terms.leaves(node)]


def _constant_units(study: Study, value: Value, leaf: Node) -> Tensor:
    """Units of an axis all of whose entries in a tensor are constants."""
    constant = torch.zeros(leaf.size, dtype=torch.bool)
    known = study.facts(value).known
    for d, node in enumerate(value.axes):
        if leaf in study.graph.terms.leaves(node):
            along = whole(~known, [k for k in range(known.dim()) if k != d]).reshape(-1)
            bad = units_at(study.terms, node, along).get(leaf)
            constant = torch.ones_like(constant) if bad is None else ~bad
    return constant


# -- which units are empty --------------------------------------------------------------------------------


def _emptied(study: Study) -> dict[Node, Tensor]:
    """Units whose weights are all zero in a matrix that makes them, or in one that reads them."""
    found: dict[Node, Tensor] = {}
    for op in study.contractions:
        for value in op.inputs():
            facts = study.facts(value)
            if not facts.all or len(value.axes) < 2 or _is_activation(value):
                continue
            nonzero = facts.value != 0
            for d, node in enumerate(value.axes):
                if nonzero.shape[d] == 1:
                    continue
                along = whole(nonzero, [k for k in range(nonzero.dim()) if k != d]).reshape(-1)
                if bool(along.all()):
                    continue
                for leaf, live in units_at(study.terms, node, along).items():
                    if leaf in study.graph.by_node:
                        found[leaf] = found.get(leaf, torch.zeros(leaf.size, dtype=torch.bool)) | ~live
    return found


def _is_activation(value: Value) -> bool:
    """Zeros that the forward makes itself, an initial hidden state for instance."""
    return value.producer is not None and value.producer.name in ("zeros", "new_zeros")
