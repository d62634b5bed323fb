"""The one verb: trace, plan and apply in a single call."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from .graph.trace import trace
from .plan import Plan


def prune(
    model: nn.Module,
    args: Any = (),
    kwargs: dict[str, Any] | None = None,
    *,
    optimizer: Optimizer | None = None,
    **plan_options: Any,
) -> Plan:
    """Trace a model, plan a cut and apply it in place; returns the plan.

    Args:
        model: any `nn.Module`, cut in place.
        args: positional inputs, as for `prunus.trace`; a lone tensor is taken as `(tensor,)`.
        kwargs: keyword inputs.
        optimizer: its state is sliced along.
        plan_options: as for `Graph.plan` (`ratio`, `budget`, `importance`, `scope`, `ignore`, `round_to`,
            `depth` and the rest).

    Raises:
        PruningError: as `trace`, `Graph.plan` and `Plan.apply` do; the model is untouched then.
    """
    plan = trace(model, args, kwargs).plan(**plan_options)
    plan.apply(model, optimizer)
    return plan
