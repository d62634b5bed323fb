"""What each ATen operation does to axes, as table rows.

A rule is a function `(tracer, call) -> (axes, zero)` for a single output, or a list of such pairs, or
None for an operation whose first tensor argument is its output unchanged. `zero[d]` is described at
`prunus.graph.values.Value`. Rules reuse axes, make new ones, unify two, or freeze one with a reason.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module

from ..tracer import Rule

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register one function as the rule of these ATen operations (names without overload)."""

    def register(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise ValueError(f"two rules for aten.{name}")
            RULES[name] = function
        return function

    return register


@functools.cache
def load_rules() -> dict[str, Rule]:
    for topic in (
        "pointwise",
        "contraction",
        "shape",
        "pieces",
        "reduction",
        "normalization",
        "indexing",
        "spatial",
        "factory",
    ):
        import_module(f"{__name__}.{topic}")
    return RULES
