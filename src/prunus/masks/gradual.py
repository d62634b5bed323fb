"""Amounts that grow over steps, by a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import PlanError
from ..training.schedules import Schedule, agp, fractions
from .across import Target, find_targets, global_unstructured
from .amounts import check_amount
from .errors import ArgumentTypeError
from .functions import Parameters
from .method import filled


class Gradual:
    """Prune a little more at each step, until an amount is reached.

    After step `k` the fraction pruned is `amount * schedule(k, steps)`, of entries or, with a structured
    method, of channels; rounded once from the start, so that nothing adds up.

    Args:
        parameters: pairs of a module and the name of its parameter.
        pruning_method: a subclass of `BasePruningMethod` that takes an amount, and is unstructured or
            structured.
        amount: the fraction pruned in the end, in [0, 1].
        steps: how many steps it takes.
        schedule: `schedule(step, steps)`, from 0 to 1, as in `prunus.training`; by default that of Zhu and
            Gupta, 2017, arXiv:1710.01878.
        together: whether one ranking goes over all parameters, as in `global_unstructured`; otherwise the
            fraction is that of each.
        options: other arguments of the method, such as `n` and `dim`.

    Raises:
        ArgumentTypeError, InputError: as `global_unstructured`, and of a wrong amount or schedule. Nothing is
            changed until `step` is called.
    """

    def __init__(
        self,
        parameters: Parameters,
        pruning_method: Callable[..., Any],
        amount: float,
        *,
        steps: int,
        schedule: Schedule = agp,
        together: bool = False,
        **options: Any,
    ) -> None:
        check_amount(amount)
        if not isinstance(amount, float):
            raise ArgumentTypeError(f"the amount of a schedule is a fraction (float), got {amount!r}")
        targets = find_targets(parameters)
        method = pruning_method(amount=amount, **options)
        if method.PRUNING_TYPE not in ("unstructured", "structured"):
            raise ArgumentTypeError(
                f"{type(method).__name__} is of PRUNING_TYPE {method.PRUNING_TYPE!r}: what is left for the "
                "next step is known of unstructured and structured methods only"
            )
        self.parameters = [(target.module, target.name) for target in targets]
        self.pruning_method = pruning_method
        self.amount, self.steps, self.together, self.options = amount, steps, together, options
        self._fractions = fractions(schedule, steps)
        self._dim = method.dim if method.PRUNING_TYPE == "structured" else None
        self.done = 0

    def step(self) -> float:
        """Take the next step; returns the fraction that the schedule wants pruned after it.

        Raises:
            PlanError: all steps have been taken.
        """
        if self.done == self.steps:
            raise PlanError(f"all {self.steps} steps of the schedule have been taken")
        wanted = self.amount * self._fractions[self.done + 1]
        targets = find_targets(self.parameters)
        if self.together:
            self._prune(targets, wanted)
        else:
            for target in targets:
                self._prune([target], wanted)
        self.done += 1
        return wanted

    def _prune(self, targets: list[Target], wanted: float) -> None:
        units = [self._units(target) for target in targets]
        whole, left = (sum(column) for column in zip(*units, strict=True))
        more = round(wanted * whole) - (whole - left)
        if more <= 0 and all(target.mask is not None for target in targets):
            return
        options = {**self.options, "amount": max(more, 0)}
        if self.together:
            pairs = [(target.module, target.name) for target in targets]
            global_unstructured(pairs, self.pruning_method, **options)
        else:
            method: Any = self.pruning_method
            method.apply(targets[0].module, targets[0].name, **options)

    def _units(self, target: Target) -> tuple[int, int]:
        """How many entries or channels there are, and how many are left."""
        if self._dim is None:
            whole = target.scores.numel()
            return whole, whole if target.mask is None else int(target.mask.sum())
        dim = self._dim % target.scores.dim()
        whole = target.scores.shape[dim]
        return whole, whole if target.mask is None else int(filled(target.mask, dim).sum())
