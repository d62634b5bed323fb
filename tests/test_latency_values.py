"""Latency limits in a budget: which values are read, and how."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import prunus
from prunus import Budget


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        (0.5, 4.0),
        (1.0, 8.0),
        (1, 1.0),
        (3, 3.0),
        (2.5, 2.5),
        ("0.4 ms", 0.4),
        ("350 us", 0.35),
        ("350us", 0.35),
        ("350 µs", 0.35),
        ("1.5 s", 1500.0),
        (" 2 ms ", 2.0),
        (".5 ms", 0.5),
        ("1e-1 ms", 0.1),
    ],
)
def test_values_are_fractions_milliseconds_or_durations(value: Any, milliseconds: float) -> None:
    """For a model that takes 8 ms."""
    assert Budget(latency=value).latency_limit(8.0) == pytest.approx(milliseconds)


@pytest.mark.parametrize(
    "value",
    [
        *[0, 0.0, -1, -0.5, True, False, float("nan"), float("inf"), [1], b"1 ms", 1 + 0j],
        *"|fast|4|4 minutes|ms|-3 ms|0 ms|1 ms 2 us|nan ms|1e999 ms".split("|"),
    ],
)
def test_other_values_are_refused_with_the_value_and_the_way_out(value: Any) -> None:
    with pytest.raises(prunus.PruningError, match="latency") as caught:
        Budget(latency=value)
    assert isinstance(caught.value, ValueError)
    assert repr(value) in str(caught.value)
    assert "'0.4 ms'" in str(caught.value)


def test_an_empty_budget_names_latency() -> None:
    with pytest.raises(prunus.PruningError, match="latency"):
        Budget()


def test_latency_is_not_among_the_exact_targets() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    full = prunus.trace(model, torch.randn(1, 4)).cost()
    assert set(Budget(latency=0.5, macs=0.5).targets(full)) == {"macs"}
    assert Budget(latency=0.5).targets(full) == {}


def test_memory_is_a_fraction_or_bytes_of_activations() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    full = prunus.trace(model, torch.randn(1, 4)).cost()
    assert Budget(memory=0.5).targets(full) == {"activation_bytes": full.activation_bytes // 2}
    assert Budget(memory=40).targets(full) == {"activation_bytes": 40}
