"""Everything besides the model that a run goes on from: random states, the optimizer, the step, gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import ArgumentTypeError, CheckpointError, PlanError
from ..graph.state import held_tensors
from .random_state import random_state, set_random_state
from .stepping import IterativePruning

_WAYS = (("state_dict", "load_state_dict"), ("get_state", "set_state"))


class RunState:
    """Takes and puts back the state of one run.

    Args:
        pruning: the steps, and the model.
        optimizer: its state and its hyperparameters.
        others: by name, what else changes in training and has to be put back: learning rate schedulers,
            generators, gradient scalers; anything with `state_dict` and `load_state_dict`, or `get_state` and
            `set_state`.

    Raises:
        PlanError: the optimizer holds other parameters than the model's.
        ArgumentTypeError: one of the others has no state that can be taken.
    """

    def __init__(
        self, pruning: IterativePruning, optimizer: Optimizer | None, others: Mapping[str, Any]
    ) -> None:
        self.pruning = pruning
        self.model = pruning.model
        self.optimizer = optimizer
        self.others = dict(others)
        for name, item in self.others.items():
            if _way(item) is None:
                raise ArgumentTypeError(
                    f"state[{name!r}] is a {type(item).__name__}, which has neither state_dict and "
                    "load_state_dict nor get_state and set_state"
                )
        if optimizer is not None:
            _check_optimizer(self.model, optimizer)

    def taken(self) -> dict[str, Any]:
        """The state as nested plain values and tensors, the living ones: copy them to keep them."""
        return {
            "pruning": self.pruning.state_dict(),
            "random": random_state(),
            "gradients": {
                name: parameter.grad.detach()
                for name, parameter in self.model.named_parameters()
                if parameter.grad is not None
            },
            "optimizer": None if self.optimizer is None else _optimizer_state(self.optimizer),
            "others": {name: getattr(item, _known_way(item)[0])() for name, item in self.others.items()},
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Compare a state with what it is to be put into.

        Raises:
            CheckpointError: the state is of another optimizer, or of other things than `others`.
        """
        if (state["optimizer"] is None) != (self.optimizer is None) or (
            state["others"].keys() != self.others.keys()
        ):
            raise CheckpointError(
                f"the run was saved with {_parts(state['optimizer'], state['others'])} and goes on with "
                f"{_parts(self.optimizer, self.others)}: give the same optimizer=... and state=..."
            )
        if self.optimizer is not None:
            _check_state(self.optimizer, state["optimizer"])

    def put_back(self, state: Mapping[str, Any]) -> None:
        """The inverse of `taken`; the model has to be the one of that moment already."""
        if self.optimizer is not None:
            _set_optimizer_state(self.optimizer, state["optimizer"])
        for name, parameter in self.model.named_parameters():
            grad = state["gradients"].get(name)
            parameter.grad = None if grad is None else torch.empty_like(parameter).copy_(grad)
        for name, item in self.others.items():
            getattr(item, _known_way(item)[1])(state["others"][name])
        self.pruning.load_state_dict(state["pruning"])
        set_random_state(state["random"])


class ModelValues:
    """The values of a model's tensors, in memory, to be put back into the same model at the same sizes."""

    def __init__(self, model: nn.Module) -> None:
        self._values = {item.name: item.tensor.detach().clone() for item in held_tensors(model)}
        self._modes = [(module, module.training) for module in model.modules()]

    @torch.no_grad()
    def put_back(self, model: nn.Module) -> None:
        for item in held_tensors(model):
            value = self._values.get(item.name)
            if value is not None and value.shape == item.tensor.shape:
                item.tensor.data.copy_(value)
        for module, training in self._modes:
            module.training = training


def _parts(optimizer: Any, others: Mapping[str, Any]) -> str:
    return ", ".join([*(["an optimizer"] if optimizer is not None else []), *map(repr, others)]) or "nothing"


def _way(item: Any) -> tuple[str, str] | None:
    for take, put in _WAYS:
        if callable(getattr(item, take, None)) and callable(getattr(item, put, None)):
            return take, put
    return None


def _known_way(item: Any) -> tuple[str, str]:
    way = _way(item)
    assert way is not None
    return way


def _check_optimizer(model: nn.Module, optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise ArgumentTypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    own = {id(parameter) for parameter in model.parameters()}
    foreign = [tuple(p.shape) for p in _parameters(optimizer) if id(p) not in own]
    if foreign:
        raise PlanError(
            f"the optimizer holds {len(foreign)} parameters that are not this model's (one is {foreign[0]}): "
            "pass the one that was built on model.parameters()"
        )


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """State by the position of the parameter, and the hyperparameters of each group."""
    return {
        "state": {
            index: dict(optimizer.state[parameter])
            for index, parameter in enumerate(_parameters(optimizer))
            if parameter in optimizer.state
        },
        "groups": [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
    }


def _check_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    count = len(_parameters(optimizer))
    if len(state["groups"]) != len(optimizer.param_groups) or any(i >= count for i in state["state"]):
        raise CheckpointError(
            f"the run was saved with another optimizer: {len(state['groups'])} parameter groups, here are "
            f"{len(optimizer.param_groups)}"
        )


def _set_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    parameters = _parameters(optimizer)
    optimizer.state.clear()
    for index, values in state["state"].items():
        parameter = parameters[index]
        optimizer.state[parameter] = {key: _placed(value, parameter) for key, value in values.items()}
    for group, values in zip(optimizer.param_groups, state["groups"], strict=True):
        group.update(values)


def _placed(value: Any, parameter: Tensor) -> Any:
    """A tensor of the parameter's shape in its memory format, others as they are."""
    if isinstance(value, Tensor) and value.dim() and value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
    return value
