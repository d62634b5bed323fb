"""Every micro-network: halved where it can be, equal to its zeroed original, undone bit for bit."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from kept_statistics import kept_statistics_copy
from micro import REGISTRY, Micro
from oracle import (
    check_backward,
    check_pruned,
    check_same_outputs,
    named_tensors,
    outputs_of,
    parameter_count,
    tensors_of,
)
from snapshots import Snapshot

each_network = pytest.mark.parametrize("name", REGISTRY)


def sizes_by_name(model: nn.Module, expected: Mapping[str, Any]) -> dict[tuple[str, int], int]:
    tensors = named_tensors(model)
    dims = {key: (value,) if isinstance(value, int) else value for key, value in expected.items()}
    return {(key, dim): tensors[key].shape[dim] for key in dims for dim in dims[key]}


def not_halved(case: Micro, original: nn.Module, pruned: nn.Module) -> list[str]:
    before, after = sizes_by_name(original, case.halved), sizes_by_name(pruned, case.halved)
    return [
        f"{key}[{dim}]: {size} became {after[key, dim]}"
        for (key, dim), size in before.items()
        if not size // 2 - case.slack <= after[key, dim] <= (size + 1) // 2 + case.slack
    ]


def reasons(graph: Any) -> list[str]:
    return [str(axis.reason) for axis in graph.axes if not axis.prunable]


def is_frozen(case: Micro, graph: Any) -> bool:
    return case.frozen is not None and any(re.search(case.frozen, r, re.IGNORECASE) for r in reasons(graph))


def check_expectations(case: Micro, graph: Any, original: nn.Module, pruned: nn.Module) -> None:
    whole = sizes_by_name(original, case.whole)
    assert whole == sizes_by_name(pruned, case.whole)
    missed = not_halved(case, original, pruned)
    frozen = is_frozen(case, graph)
    if case.either:
        assert not missed or frozen, f"{missed}; reasons: {reasons(graph)}"
        return
    assert not missed, f"{missed}; reasons: {reasons(graph)}"
    assert frozen or case.frozen is None, f"no reason matches {case.frozen!r}: {reasons(graph)}"
    if not case.halved:
        assert parameter_count(pruned) == parameter_count(original)


@each_network
def test_half_is_removed_and_the_rest_computes_the_same(name: str) -> None:
    case = REGISTRY[name]
    model, args, kwargs = case.fresh()
    original = copy.deepcopy(model)
    graph = prunus.trace(model, args, kwargs)
    plan = graph.plan(ratio=0.5)
    assert plan.apply(model) is model
    removed = check_pruned(original, model, plan, args, kwargs, case.tolerance)
    check_expectations(case, graph, original, model)
    if removed and case.exact is not None:
        assert plan.exact == case.exact, plan.approximate_axes
    assert bool(plan.approximate_axes) != plan.exact
    if removed and not plan.exact and case.norms_only:
        reference = outputs_of_slow_path(kept_statistics_copy(original, plan), args, kwargs)
        check_same_outputs(reference, outputs_of(model, args, kwargs), case.tolerance)
    check_backward(original, model, args, kwargs)
    check_reads_well(graph, original)
    if case.train:
        model.train()
        assert all(bool(t.isfinite().all()) for t in tensors_of(model(*args, **kwargs)))


def outputs_of_slow_path(model: nn.Module, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """PyTorch's fused transformer layers read norm parameters directly, past a replaced module."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return outputs_of(model, args, kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def check_reads_well(graph: Any, model: nn.Module) -> None:
    """Frozen axes have one-line reasons, prunable ones none; every layer can be explained."""
    names = [axis.name for axis in graph.axes]
    assert len(set(names)) == len(names)
    for axis in graph.axes:
        assert isinstance(axis.name, str)
        assert axis.name
        assert isinstance(axis.size, int)
        assert (axis.reason is None) == axis.prunable
        assert axis.prunable or (axis.reason.strip() and "\n" not in axis.reason)
    assert str(graph).strip()
    for name, module in model.named_modules():
        if (
            name
            and "parametrizations" not in name
            and next(module.parameters(recurse=False), None) is not None
        ):
            assert isinstance(graph.explain(name), str)
            assert graph.explain(name).strip()


@each_network
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_trace_leaves_the_model_as_it_was(name: str, training: bool) -> None:
    case = REGISTRY[name]
    model, args, kwargs = case.fresh()
    model.train(training and case.train)
    for number, parameter in enumerate(model.parameters()):
        if number % 2:
            parameter.grad = torch.full_like(parameter, 0.5)
    inputs = [t.clone() for t in tensors_of((args, kwargs))]
    before = Snapshot.of(model)
    prunus.trace(model, args, kwargs)
    assert before.differences(model, identity=True, randomness=True) == []
    assert all(torch.equal(a, b) for a, b in zip(inputs, tensors_of((args, kwargs)), strict=True))


@each_network
def test_undo_in_reverse_order(name: str) -> None:
    """Two plans, one on top of the other, each right; undone one by one, bit for bit."""
    case = REGISTRY[name]
    model, args, kwargs = case.fresh()
    states, copies, plans = [], [], []
    for ratio in (0.25, 0.5):
        states.append((Snapshot.of(model), outputs_of(model, args, kwargs)))
        copies.append(copy.deepcopy(model))
        plans.append(prunus.prune(model, args, kwargs, ratio=ratio))
        check_pruned(copies[-1], model, plans[-1], args, kwargs, case.tolerance)
    for (snapshot, outputs), plan in zip(reversed(states), reversed(plans), strict=True):
        plan.undo(model)
        assert snapshot.differences(model) == []
        assert all(torch.equal(a, b) for a, b in zip(outputs, outputs_of(model, args, kwargs), strict=True))


@each_network
@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.75, "scope": "global", "importance": "l1"},
        {"ratio": 0.3, "importance": "random", "round_to": 2},
        {"ratio": 0.9, "scope": "isomorphic"},
    ],
    ids=["global", "rounded", "deep"],
)
def test_other_choices_are_right_too(name: str, options: dict[str, Any]) -> None:
    case = REGISTRY[name]
    model, args, kwargs = case.fresh()
    original = copy.deepcopy(model)
    plan = prunus.prune(model, args, kwargs, **options)
    check_pruned(original, model, plan, args, kwargs, case.tolerance)
