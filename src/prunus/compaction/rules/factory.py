"""Tensors made from nothing: one number everywhere, or not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...graph.values import Op, Value
from ..facts import Facts, found
from . import Needs, Rule, nothing, rule

if TYPE_CHECKING:
    from ..study import Study


@rule(
    "zeros",
    "new_zeros",
    "zeros_like",
    "ones",
    "new_ones",
    "ones_like",
    "full",
    "new_full",
    "full_like",
    "scalar_tensor",
    "zero",
    "fill",
)
class Uniform(Rule):
    """The same number everywhere."""

    def facts(self, op: Op, study: Study) -> list[Facts]:
        out = op.outs[0]
        number = 0.0 if "zero" in op.name else 1.0 if "one" in op.name else self._fill(op, study)
        if not isinstance(number, bool | int | float):
            return nothing(op, study)
        shape = (1,) * len(out.axes)
        value = torch.full(shape, number, dtype=out.dtype, device=study.device)
        return [found(torch.ones(shape, dtype=torch.bool, device=study.device), value)]

    @staticmethod
    def _fill(op: Op, study: Study) -> Any:
        return next((op.args[key] for key in ("fill_value", "value", "s") if key in op.args), None)

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        if "fill" in op.name and isinstance(op.args.get("value"), Value):
            return [(op.args["value"], study.full(op.args["value"]))]
        return []


@rule(
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "new_empty_strided",
    "empty_permuted",
    "rand",
    "randn",
    "randint",
    "rand_like",
    "randn_like",
    "randint_like",
    "randperm",
    "arange",
    "linspace",
    "logspace",
    "eye",
    "normal",
    "uniform",
    "bernoulli",
    "exponential",
    "random",
    "tril_indices",
    "triu_indices",
)
class Fresh(Rule):
    """Made without looking at values: not known, and nothing matters to it."""

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        return [(value, study.full(value)) for value in op.inputs() if op.name.startswith("bernoulli")]
