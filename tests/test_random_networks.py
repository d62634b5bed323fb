"""Networks drawn at random: whatever comes, the pruned model must equal the zeroed original.

A failing seed is printed with the error; `python -m random_networks SEED` in this folder prints the network.
"""

from __future__ import annotations

import copy
import random
import traceback
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from kept_statistics import kept_statistics_copy
from oracle import check_pruned, check_same_outputs, outputs_of, parameter_count
from random_networks import random_network

BATCH, NETWORKS = 20, 520
TOLERANCE = 1e-6


def options_for(seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    return {
        "ratio": draw.choice([0.25, 0.5, 0.75]),
        "scope": draw.choice(["local", "global", "isomorphic"]),
        "importance": draw.choice(["l1", "l2", "random"]),
    }


def check_network(seed: int) -> float:
    """Prune the network of a seed and check all that can be checked. Returns the fraction removed."""
    model, inputs = random_network(seed)
    original = copy.deepcopy(model)
    options = options_for(seed)
    torch.manual_seed(seed)
    plan = prunus.trace(model, inputs).plan(**options)
    plan.apply(model)
    check_pruned(original, model, plan, inputs, {}, TOLERANCE)
    if not plan.exact and all(is_of_a_norm(reason) for reason in plan.approximate_axes.values()):
        check_same_outputs(
            slow_outputs(kept_statistics_copy(original, plan), inputs),
            outputs_of(model, inputs, {}),
            TOLERANCE,
        )
    return 1 - parameter_count(model) / parameter_count(original)


def is_of_a_norm(reason: object) -> bool:
    """A layer or group norm, or the mean of squares in an RMS norm: nothing else averages over channels."""
    return str(reason).startswith(("layer norm", "group norm", "rms norm", "mean over"))


def slow_outputs(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return outputs_of(model, inputs, {})
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@pytest.mark.parametrize("first", range(0, NETWORKS, BATCH))
def test_random_networks(first: int) -> None:
    failures, removed = [], {}
    for seed in range(first, first + BATCH):
        try:
            removed[seed] = check_network(seed)
        except Exception:
            failures.append(f"seed {seed}, {options_for(seed)}\n{traceback.format_exc(limit=-4)}")
    assert not failures, f"{len(failures)} of {BATCH} failed\n" + "\n".join(failures)
    pruned = [seed for seed, fraction in removed.items() if fraction > 0.05]
    assert len(pruned) >= 0.9 * BATCH, f"hardly anything was removed: {removed}"


def test_the_generator_is_reproducible() -> None:
    first, second = (random_network(7)[0] for _ in range(2))
    assert str(first) == str(second)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert len({str(random_network(seed)[0]) for seed in range(40)}) == 40
