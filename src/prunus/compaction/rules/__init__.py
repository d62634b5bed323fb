"""How constants pass forward through each operation, and needs backward, as table rows.

A rule has two methods. `facts` says what is known of an operation's outputs, given what is known of its
inputs. `needs` says which input entries matter, given the output entries that do; and it *holds* the units
of an axis whose removal would change a needed output: those that a sum, a mean or a norm over the axis takes
in. An operation without a row is taken to mix everything: nothing is known of its outputs, all of its
inputs matter, and no axis that enters it loses a unit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from ...graph.values import Op, Value
from ..facts import Facts, unknown

if TYPE_CHECKING:
    from ..study import Study

Needs = Iterable[tuple[Value, Tensor]]


class Rule:
    """The rule of an operation that nothing is known about."""

    def facts(self, op: Op, study: Study) -> list[Facts]:
        return nothing(op, study)

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        for value in op.inputs():
            for node in value.axes:
                study.hold(node, None, op, f"no rule for {op.func}")
        return everything(op, study)


def nothing(op: Op, study: Study) -> list[Facts]:
    return [unknown(value, study.device) for value in op.outs]


def everything(op: Op, study: Study) -> Needs:
    return [(value, study.full(value)) for value in op.inputs()]


RULES: dict[str, Rule] = {}
R = TypeVar("R", bound=type[Rule])


def rule(*names: str) -> Callable[[R], R]:
    """Register a class as the rule of ATen operations, named without overload or trailing underscore."""

    def register(kind: R) -> R:
        for name in names:
            if name in RULES:
                raise ValueError(f"two rules for aten.{name}")
            RULES[name] = kind()
        return kind

    return register


@functools.cache
def _load() -> None:
    for topic in (
        "pointwise",
        "factory",
        "shape",
        "pieces",
        "contraction",
        "convolution",
        "reduction",
        "normalization",
        "spatial",
        "lookup",
    ):
        import_module(f"{__name__}.{topic}")


def rule_of(op: Op) -> Rule:
    _load()
    name = op.name if op.name in RULES else op.name.rstrip("_")
    if name in ("max", "min") and "other" in op.args:
        return RULES["add"]
    if name in RULES:
        return RULES[name]
    if torch.Tag.pointwise in op.func.tags:
        return RULES["add"]
    return RULES[""]


RULES[""] = Rule()
