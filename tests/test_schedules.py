"""Schedules reach their target, never fall, and are refused where they do not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunus.errors import ArgumentTypeError, InputError
from prunus.training.schedules import agp, exponential, fractions, linear, one_shot

ALL: list[Callable[..., float]] = [one_shot, linear, exponential, agp, partial(exponential, sparsity=0.3)]


@given(st.sampled_from(ALL), st.integers(1, 400))
def test_every_schedule_goes_from_nothing_to_exactly_everything(schedule: Any, steps: int) -> None:
    values = fractions(schedule, steps)
    assert len(values) == steps + 1
    assert values[0] == 0.0
    assert values[-1] == 1.0
    assert schedule(steps, steps) == 1.0
    assert all(0 <= a <= b <= 1 for a, b in itertools.pairwise(values))


def test_one_shot_takes_everything_at_once() -> None:
    assert fractions(one_shot, 3) == (0, 1, 1, 1)


def test_linear_takes_the_same_each_time() -> None:
    assert fractions(linear, 4) == (0, 0.25, 0.5, 0.75, 1)


@given(st.floats(0.05, 0.99), st.integers(1, 30))
def test_exponential_removes_the_same_share_of_what_is_left(sparsity: float, steps: int) -> None:
    left = [1 - sparsity * f for f in fractions(partial(exponential, sparsity=sparsity), steps)]
    shares = [after / before for before, after in itertools.pairwise(left)]
    assert shares == pytest.approx([(1 - sparsity) ** (1 / steps)] * steps, rel=1e-6)


@given(st.floats(0.05, 0.99), st.integers(1, 30))
def test_agp_is_the_published_cubic(sparsity: float, steps: int) -> None:
    """s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt)) ** 3, with s_i = 0."""
    published = [sparsity + (0 - sparsity) * (1 - t / steps) ** 3 for t in range(steps + 1)]
    assert [sparsity * f for f in fractions(agp, steps)] == pytest.approx(published, abs=1e-12)


def test_any_callable_will_do() -> None:
    assert fractions(lambda step, steps: (step / steps) ** 2, 2) == (0, 0.25, 1)


def test_a_schedule_may_rest_at_the_end() -> None:
    values = fractions(lambda step, steps: agp(min(step, steps - 3), steps - 3), 5)
    assert values == (0, agp(1, 2), 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (lambda s, n: 1 - s / n, "falls"),
        (lambda s, n: 2 * s / n, "in \\[0, 1\\]"),
        (lambda s, n: -s / n, "in \\[0, 1\\]"),
        (lambda s, n: float("nan"), "in \\[0, 1\\]"),
        (lambda s, n: 0.5 * s / n, "to 1 at the end"),
        (lambda s, n: 0.5 + 0.5 * s / n, "from 0 at the start"),
        (partial(exponential, sparsity=1.5), "outside"),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_refused(schedule: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fractions(schedule, 4)


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "3"])
def test_the_number_of_steps_is_checked(steps: Any) -> None:
    with pytest.raises(InputError, match="at least 1"):
        fractions(linear, steps)


@pytest.mark.parametrize("schedule", ["agp", 0.5, lambda s, n: None, lambda s, n: "a"])
def test_what_is_no_schedule_is_refused(schedule: Any) -> None:
    with pytest.raises(ArgumentTypeError):
        fractions(schedule, 3)
