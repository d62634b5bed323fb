"""Empty units of a Keras model that stay, and why, in one line an axis."""

from __future__ import annotations

import torch
from torch import Tensor

from ...compaction.facts import whole
from ...compaction.holding import Gone, told, units_at
from ...graph.axes import Node
from .contraction import Contraction
from .study import Study, Verdict
from .values import Value


def left_alone(study: Study, verdict: Verdict, gone: Gone) -> dict[str, str]:
    """For each axis with empty units that stay, how many there are and why they do."""
    empty = _emptied(study)
    return told(study.graph.axes, empty, gone, lambda axis, left: _reason(study, verdict, axis.node, left))


def _emptied(study: Study) -> Gone:
    """Units whose weights are all zero in a matrix that makes or reads them."""
    found: Gone = {}
    for step in study.graph.steps:
        if not isinstance(step, Contraction):
            continue
        weight = step.inputs[1]
        nonzero = study.data(weight) != 0
        for d, node in enumerate(weight.axes):
            along = nonzero.any([k for k in range(nonzero.dim()) if k != d])
            if bool(along.all()):
                continue
            for leaf, live in units_at(study.terms, node, along).items():
                found[leaf] = found.get(leaf, torch.zeros(leaf.size, dtype=torch.bool)) | ~live
    return found


def _reason(study: Study, verdict: Verdict, leaf: Node, units: Tensor) -> str:
    if leaf in study.refused:
        return study.refused[leaf]
    held = verdict.held.get(leaf)
    if held is None or not bool((held & units).any()):
        return "an axis keeps its last unit"
    carried = next((item for item in verdict.carries if leaf in study.leaves(item.node)), None)
    if carried is not None and int((held & units).sum()) == 1:
        return f"it carries the constants of others to the zero padding of {carried.step.layer!r}"
    for step in study.graph.steps:
        if isinstance(step, Contraction) and not step.border:
            continue
        before = [_constant_units(study, value, leaf) for value in step.inputs]
        after = [_constant_units(study, value, leaf) for value in step.outputs]
        if not after or after[0] is None:
            continue
        for mask in before:
            if mask is not None and bool((mask & ~after[0] & held & units).any()):
                return f"{step.losses()} in {step.layer!r}"
    return verdict.commonest(leaf, units)


def _constant_units(study: Study, value: Value, leaf: Node) -> Tensor | None:
    """Units whose entries in an activation are all constants; None where it has no such axis."""
    if 0 not in value.open:
        return None  # made of weights alone
    known = study.facts(value).known
    for d, node in enumerate(value.axes):
        if leaf in study.terms.leaves(node):
            bad = whole(~known, [k for k in range(known.dim()) if k != d]).reshape(-1)
            return ~units_at(study.terms, node, bad)[leaf]
    return None
