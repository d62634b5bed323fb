"""Optimizer state is cut along with the parameters and comes back with undo."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

import prunus
from oracle import take

OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.01),
}
each_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.ReLU(), nn.Flatten(), nn.Linear(40, 4)
    ).double()


def step(model: nn.Module, optimizer: optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(5, 3, 4, 4).double()).square().mean().backward()
    optimizer.step()


def trained(make: Callable[[Any], optim.Optimizer]) -> tuple[nn.Sequential, optim.Optimizer]:
    model = network()
    optimizer = make(model.parameters())
    for _ in range(3):
        step(model, optimizer)
    return model, optimizer


def state_by_name(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, dict[str, Any]]:
    return {
        name: {key: copy.deepcopy(value) for key, value in optimizer.state[parameter].items()}
        for name, parameter in model.named_parameters()
    }


def equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


@each_optimizer
def test_state_is_sliced(make: Callable[[Any], optim.Optimizer]) -> None:
    model, optimizer = trained(make)
    before = state_by_name(model, optimizer)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    plan = prunus.trace(model, torch.randn(1, 3, 4, 4).double()).plan(ratio=0.5)
    plan.apply(model, optimizer=optimizer)
    after = state_by_name(model, optimizer)
    assert model[0].weight.shape[0] == 5
    for name, entries in before.items():
        assert entries
        assert entries.keys() == after[name].keys()
        for key, value in entries.items():
            whole = isinstance(value, Tensor) and value.shape == shapes[name]
            assert equal(take(value, plan.indices(name)) if whole else value, after[name][key]), (name, key)


@each_optimizer
def test_training_goes_on_with_the_new_parameters(make: Callable[[Any], optim.Optimizer]) -> None:
    model, optimizer = trained(make)
    plan = prunus.trace(model, torch.randn(1, 3, 4, 4).double()).plan(ratio=0.5)
    plan.apply(model, optimizer)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert held == [id(p) for p in model.parameters()]
    assert set(map(id, optimizer.state)) <= set(held)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(model, optimizer)
    still = {name for name, p in model.named_parameters() if torch.equal(before[name], p)}
    assert still <= {"0.bias"}, "only a bias in front of a batch norm has no gradient"


@each_optimizer
def test_undo_restores_the_optimizer(make: Callable[[Any], optim.Optimizer]) -> None:
    model, optimizer = trained(make)
    before, groups = state_by_name(model, optimizer), copy.deepcopy(optimizer.state_dict()["param_groups"])
    plan = prunus.trace(model, torch.randn(1, 3, 4, 4).double()).plan(ratio=0.5)
    plan.apply(model, optimizer)
    plan.undo(model)
    after = state_by_name(model, optimizer)
    assert all(equal(v, after[n][k]) for n, entries in before.items() for k, v in entries.items())
    assert optimizer.state_dict()["param_groups"] == groups
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert held == [id(p) for p in model.parameters()]
    step(model, optimizer)


def test_the_pruned_run_continues_as_the_masked_run_would() -> None:
    """Momentum is part of the trajectory: one step after pruning equals the step of the zeroed model."""
    model, optimizer = trained(OPTIMIZERS["sgd"])
    model.eval()
    masked = copy.deepcopy(model)
    plan = prunus.trace(model, torch.randn(1, 3, 4, 4).double()).plan(ratio=0.5)
    masks = plan.masks()
    shadow = OPTIMIZERS["sgd"](masked.parameters())
    for (name, original), copied in zip(model.named_parameters(), masked.parameters(), strict=True):
        copied.data.mul_(masks[name])
        shadow.state[copied]["momentum_buffer"] = optimizer.state[original]["momentum_buffer"] * masks[name]
    plan.apply(model, optimizer)
    images = torch.randn(5, 3, 4, 4).double()
    for network_, optimizer_ in ((model, optimizer), (masked, shadow)):
        optimizer_.zero_grad()
        network_(images).square().mean().backward()
        optimizer_.step()
    for (name, parameter), reference in zip(model.named_parameters(), masked.parameters(), strict=True):
        torch.testing.assert_close(parameter, take(reference, plan.indices(name)), msg=name)


def test_parameter_groups_are_kept() -> None:
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 0.5},
        {"params": model[4].parameters(), "weight_decay": 0.1},
    ]
    optimizer = optim.SGD(groups, lr=0.1, momentum=0.9)
    step(model, optimizer)
    prunus.trace(model, torch.randn(1, 3, 4, 4).double()).plan(ratio=0.5).apply(model, optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1]
    assert optimizer.param_groups[1]["params"][0] is model[4].weight


def test_an_optimizer_that_has_not_stepped() -> None:
    model = network()
    optimizer = optim.Adam(model.parameters())
    prunus.trace(model, torch.randn(1, 3, 4, 4).double()).plan(ratio=0.5).apply(model, optimizer)
    step(model, optimizer)
    assert optimizer.state[model[0].weight]["exp_avg"].shape == model[0].weight.shape
