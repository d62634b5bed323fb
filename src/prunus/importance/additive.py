"""Which parameters are biases: those that every operation only ever adds."""

from __future__ import annotations

from collections.abc import Callable

from ..graph.values import Op, Value
from .scoring import Scoring

_VIEWS = frozenset(
    "view _unsafe_view reshape unsqueeze squeeze expand permute transpose t slice split split_with_sizes "
    "chunk detach alias clone select _to_copy unbind".split()
)
_SUMS = {
    **dict.fromkeys(("add", "add_", "sub", "sub_"), ("self", "other")),
    **dict.fromkeys(("addmm", "addmm_", "baddbmm", "baddbmm_", "addmv", "addmv_"), ("self",)),
}


def is_added(value: Value) -> bool:
    """Whether a tensor only ever enters as a bias, through views or as it is."""
    return bool(value.consumers) and all(_adds(op, value) for op in value.consumers)


def _adds(op: Op, value: Value) -> bool:
    if op.name in _VIEWS:
        return all(is_added(out) for out in op.outs if out.consumers)
    if op.args.get("bias") is value:
        return True
    return any(op.args.get(key) is value for key in _SUMS.get(op.name, ()))


def counts(scoring: Scoring, biases: bool) -> Callable[[str, int], bool]:
    """Which members an importance looks at, with biases or without."""
    if biases:
        return lambda name, dim: True
    added = {name for name in scoring.parameters() if is_added(scoring.graph.values[name])}
    return lambda name, dim: name not in added
