"""Schedules: how much of the final sparsity is reached after each step of iterative pruning.

A schedule is a plain callable `schedule(step, steps) -> fraction`, for `step` from 0 to `steps`: 0 before the
first step, 1 after the last, and never falling in between. Any function of that kind will do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from ..errors import ArgumentTypeError, InputError

Schedule = Callable[[int, int], float]

ENDS = 1e-9
"""How far the ends of a schedule may be from 0 and 1, for those that compute them in floating point."""


def one_shot(step: int, steps: int) -> float:
    """Everything in the first step; those that follow only fine-tune."""
    return 0.0 if step == 0 else 1.0


def linear(step: int, steps: int) -> float:
    """`t = step / steps`: the same number of units in every step."""
    return step / steps


def exponential(step: int, steps: int, sparsity: float = 0.9) -> float:
    """`(1 - (1 - sparsity) ** t) / sparsity` with `t = step / steps`: the same share each time.

    With the ratio `sparsity`, each step removes the fraction `1 - (1 - sparsity) ** (1 / steps)` of the units
    that the one before left, as in Frankle, Carbin: The Lottery Ticket Hypothesis, 2019, arXiv:1803.03635.
    Bind another sparsity with `functools.partial(exponential, sparsity=0.5)`; the closer to 1, the more goes
    in the first steps.

    Raises:
        InputError: `sparsity` is outside (0, 1).
    """
    if not 0 < sparsity < 1:
        raise InputError(f"sparsity={sparsity!r} of the exponential schedule is outside (0, 1)")
    return 1.0 if step == steps else (1 - (1 - sparsity) ** (step / steps)) / sparsity


def agp(step: int, steps: int) -> float:
    """`1 - (1 - t) ** 3` with `t = step / steps`: fast at first, slow towards the end.

    Zhu, Gupta: To prune, or not to prune, 2017, arXiv:1710.01878, eq. 1 with an initial sparsity of 0.
    """
    return 1 - (1 - step / steps) ** 3


def fractions(schedule: Schedule, steps: int) -> tuple[float, ...]:
    """The values of a schedule at 0, 1, ..., `steps`, checked; the first is 0 and the last is 1, exactly.

    Raises:
        InputError: `steps` is below 1, or the schedule leaves [0, 1], falls, or does not go from 0 to 1.
        ArgumentTypeError: the schedule cannot be called, or returns something else than a number.
    """
    if type(steps) is not int or steps < 1:
        raise InputError(f"steps={steps!r} must be a whole number of at least 1")
    if not callable(schedule):
        raise ArgumentTypeError(
            f"schedule must be a callable (step, steps) -> fraction such as prunus.training.agp, "
            f"got {type(schedule).__name__}"
        )
    values = [_value(schedule, step, steps) for step in range(steps + 1)]
    for step, (before, after) in enumerate(itertools.pairwise(values), 1):
        if after < before:
            raise InputError(
                f"schedule {_name(schedule)} falls from {before} at step {step - 1} to {after} at step "
                f"{step}: units that are gone cannot come back"
            )
    for step, wanted in ((0, 0.0), (steps, 1.0)):
        if abs(values[step] - wanted) > ENDS:
            raise InputError(
                f"schedule {_name(schedule)} gives {values[step]} at step {step} of {steps}: it has to go "
                "from 0 at the start to 1 at the end"
            )
    return (0.0, *values[1:-1], 1.0)


def _value(schedule: Schedule, step: int, steps: int) -> float:
    given: Any = schedule(step, steps)
    try:
        value = float(given)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"schedule {_name(schedule)} returned {given!r} at step {step} of {steps}: a fraction is wanted"
        ) from error
    if not (math.isfinite(value) and -ENDS <= value <= 1 + ENDS):
        raise InputError(
            f"schedule {_name(schedule)} returned {given!r} at step {step} of {steps}: it is the fraction of "
            "the final sparsity, in [0, 1]"
        )
    return min(max(value, 0.0), 1.0)


def _name(schedule: Schedule) -> str:
    return repr(getattr(schedule, "__name__", type(schedule).__name__))
