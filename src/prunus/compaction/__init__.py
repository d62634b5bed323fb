"""`prunus.compact`: remove, physically, the units that masks or zeros have emptied.

A unit goes if the outputs cannot depend on it: because nothing that matters reads it, or because it is a
constant, which is then folded into what reads it. `facts.py` holds what is known of tensors, `rules/` how it
passes through operations, `study.py` brings both together, `folds.py` finds places for constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import InputError
from ..graph.graph import Graph
from ..graph.state import device_of
from ..graph.trace import check_model, trace
from .choice import Choice
from .folds import BIAS, NEW
from .holding import Gone
from .permanent import make_permanent
from .plan import Compaction, NewBias, Shift
from .reasons import left_alone
from .study import Fold, Study, Verdict

__all__ = ["Compaction", "compact"]


def compact(
    model: nn.Module,
    args: Any = (),
    kwargs: dict[str, Any] | None = None,
    *,
    optimizer: Optimizer | None = None,
) -> Compaction:
    """Remove the units that masks or zeros have emptied, in place; the outputs stay what they were.

    Weights count as the forward uses them: masked by `torch.nn.utils.prune`, parametrised, or just set to
    zero. In eval mode the compacted model computes what it computed before, on any input, up to rounding. A
    unit that a bias or a batch norm keeps at a constant other than zero is removed too, and its constant
    added to the bias of what reads it (or taken from the running mean of a batch norm that follows, or given
    to a layer as a new bias). Where that is not exact, beside the zero padding of a convolution for instance,
    the unit stays, and `plan.left_alone` says why.

    Masks of `torch.nn.utils.prune` are made permanent, as by `torch.nn.utils.prune.remove`. Where there is
    nothing to remove, the plan is empty and the model, masks and all, is left as it was.

    Args:
        model: any `nn.Module`, with its weights.
        args: positional inputs, as for `prunus.trace`; their values do not matter.
        kwargs: keyword inputs.
        optimizer: its state is sliced along.

    Returns:
        The applied plan; `plan.undo(model)` restores everything bit for bit, masks and biases included.

    Raises:
        PruningError: as `trace` and `Plan.apply` do; the model is untouched then.
    """
    check_model(model)
    put_back = make_permanent(model)
    try:
        graph = trace(model, args, kwargs)
        _check_values(graph)
        with _plain_arithmetic(graph):
            plan = _plan(graph)
        if plan.chosen:
            plan.before = put_back
            plan.apply(model, optimizer)
            return plan
    except BaseException:
        if put_back is not None:
            put_back()
        raise
    if put_back is None:
        return plan
    put_back()
    return Compaction(trace(model, args, kwargs), {}, [], [], plan.left_alone)


def _check_values(graph: Graph) -> None:
    for item in graph.held:
        if item.tensor.device.type == "meta":
            raise InputError(
                f"{item.kind} {item.name!r} is on the meta device and has no values: load the weights first"
            )


@contextmanager
def _plain_arithmetic(graph: Graph) -> Iterator[None]:
    """Full precision, and index tensors on the CPU, whatever is in force outside."""
    kind = device_of(graph.held) or torch.device("cpu")
    with torch.no_grad(), torch.autocast(kind.type, enabled=False), torch.device("cpu"):
        yield


def _plan(graph: Graph) -> Compaction:
    """Find what can go; what cannot be scaled to make up for it is held, and the search repeated."""
    study, choice = Study(graph), Choice(graph)
    while True:
        gone, verdict = _settled(study, choice)
        chosen = {node: (~mask).nonzero().flatten() for node, mask in gone.items()}
        shifts, new = _constants(study, verdict, gone)
        plan = Compaction(graph, chosen, shifts, new, {})
        failed = plan.unscalable
        clash = [item for item in new if item.weight in plan.rescaled]
        if not failed and not clash:
            plan.left_alone = left_alone(study, verdict, choice, gone)
            return plan
        study.refused.update(failed)
        for item in clash:
            study.targets.refuse(item.module)


def _settled(study: Study, choice: Choice) -> tuple[Gone, Verdict]:
    """Units that go, until those that fed only them have gone as well."""
    gone: Gone = {}
    while True:
        verdict = study.weigh(gone)
        more = choice.choose(verdict, gone)
        if sum(int(mask.sum()) for mask in more.values()) == sum(int(mask.sum()) for mask in gone.values()):
            return gone, verdict
        gone = more


def _constants(study: Study, verdict: Verdict, gone: Gone) -> tuple[list[Shift], list[NewBias]]:
    """What each fold target takes when these units go."""
    shifts: list[Shift] = []
    new: list[NewBias] = []
    for fold in verdict.folds:
        amount = _amount(study, fold)
        if amount is None:
            continue
        if fold.target.kind == NEW:
            weight = study.graph.aliases[f"{fold.target.name}.weight"]
            new.append(NewBias(fold.target.name, weight, fold.rule.columns(fold.op), amount))
        else:
            shifts.append(Shift(fold.target.name, amount if fold.target.kind == BIAS else -amount))
    return shifts, new


def _amount(study: Study, fold: Fold) -> Tensor | None:
    along = study.gone_along(fold.rule.contracted_axis(fold.op, study))
    if along is None:
        return None
    going = along.to(fold.terms.device) & fold.terms
    return fold.product.shift(going) if bool(going.any()) else None
