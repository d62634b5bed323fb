"""What a micro-network is: one coupling pattern, with what must become of it when half of it goes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
Dims = int | tuple[int, ...]


@dataclass(frozen=True)
class Micro:
    """One coupling pattern.

    halved:  parameter or buffer name -> dimension(s) whose size must fall to one half.
    whole:   parameter or buffer name -> dimension(s) that must stay as they are.
    frozen:  a regular expression (any case) that the reason of a frozen axis must match. With `halved`
             empty, nothing at all may have been pruned.
    either:  pruned as `halved` says, or frozen as `frozen` says: both are right answers.
    exact:   whether the plan must call itself exact; None where both answers can be right.
    norms_only: where the plan is not exact, affine norm modules are the only cause, so that the original
             with norms over the kept units is an exact reference.
    slack:   how far from the half a size may be; tolerance: largest relative difference of outputs.
    """

    name: str
    build: Callable[[], Built]
    halved: Mapping[str, Dims] = field(default_factory=dict)
    whole: Mapping[str, Dims] = field(default_factory=dict)
    frozen: str | None = None
    either: bool = False
    exact: bool | None = True
    norms_only: bool = False
    slack: int = 0
    tolerance: float = 1e-8
    train: bool = True

    def fresh(self) -> Built:
        """The model in eval mode and float64, weights and statistics random, with its inputs."""
        seed = zlib.crc32(self.name.encode())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, args, kwargs = self.build()
            randomise(model)
        return model.double().eval(), doubled(args), doubled(kwargs)


REGISTRY: dict[str, Micro] = {}


def micro(name: str, **expected: Any) -> Callable[[Callable[[], Built]], Callable[[], Built]]:
    """Register a builder under a name, with what is expected of it."""

    def register(build: Callable[[], Built]) -> Callable[[], Built]:
        if name in REGISTRY:
            raise ValueError(f"two micro-networks are called {name!r}")
        REGISTRY[name] = Micro(name, build, **expected)
        return build

    return register


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Give norms, biases, loose parameters and running statistics values that are neither zero nor one.

    A batch norm fresh from its constructor is the identity: slicing it wrongly would go unseen.
    """
    for module in model.modules():
        for key, value in module.named_parameters(recurse=False):
            if value.dim() <= 1 or bool((value == value.flatten()[0]).all()):
                away_from_zero = key.endswith(("weight", "scale", "gamma", "original0"))
                value.copy_(torch.rand_like(value) + 0.5 if away_from_zero else torch.randn_like(value) * 0.4)
        for key, value in module.named_buffers(recurse=False):
            if key == "running_mean":
                value.copy_(torch.randn_like(value) * 0.5)
            elif key == "running_var":
                value.copy_(torch.rand_like(value) * 1.5 + 0.5)


def doubled(value: Any) -> Any:
    """The same nest with every floating-point tensor in float64."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: doubled(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(doubled(item) for item in value)
    return value
