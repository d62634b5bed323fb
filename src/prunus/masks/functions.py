"""The calls: one function for each method, `remove`, and `is_pruned`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils import prune as original

from .errors import InputError
from .methods import (
    CustomFromMask,
    Identity,
    L1Unstructured,
    LnStructured,
    RandomStructured,
    RandomUnstructured,
)
from .reparametrize import hooks_of

M = TypeVar("M", bound=nn.Module)

Parameters = Iterable[tuple[nn.Module, str]]
"""Pairs of a module and the name of one of its parameters."""


def identity(module: M, name: str) -> M:
    """Mask a parameter with ones. Arguments and errors as `BasePruningMethod.apply`; returns the module."""
    Identity.apply(module, name)
    return module


def random_unstructured(module: M, name: str, amount: Any) -> M:
    """Prune entries at random: see `RandomUnstructured`, `BasePruningMethod.apply`. Returns the module."""
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(module: M, name: str, amount: Any, importance_scores: Tensor | None = None) -> M:
    """Prune the smallest entries: see `L1Unstructured`, `BasePruningMethod.apply`. Returns the module."""
    L1Unstructured.apply(module, name, amount=amount, importance_scores=importance_scores)
    return module


def random_structured(module: M, name: str, amount: Any, dim: int) -> M:
    """Prune channels at random: see `RandomStructured`, `BasePruningMethod.apply`. Returns the module."""
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(
    module: M, name: str, amount: Any, n: Any, dim: int, importance_scores: Tensor | None = None
) -> M:
    """Prune the channels of smallest norm: see `LnStructured`, `BasePruningMethod.apply`."""
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def custom_from_mask(module: M, name: str, mask: Tensor) -> M:
    """Prune by a mask of 0 and 1 of the parameter's shape: see `CustomFromMask`. Returns the module."""
    CustomFromMask.apply(module, name, mask)
    return module


def remove(module: M, name: str) -> M:
    """Make the zeros part of the parameter and drop the mask; what was pruned stays pruned.

    The parameter is the same object as `<name>_orig` before, so an optimizer goes on with it.

    Raises:
        InputError: the parameter is not pruned (also a ValueError).
    """
    for key, hook in hooks_of(module, name):
        hook.remove(module)
        del module._forward_pre_hooks[key]
        return module
    others = ", ".join(sorted(hook._tensor_name for _, hook in hooks_of(module)))
    raise InputError(
        f"parameter {name!r} of {type(module).__name__} is not pruned, so there is nothing to remove; "
        f"pruned in this module: {others or 'none'}"
    )


def is_pruned(module: nn.Module) -> bool:
    """Whether a module, or any module inside it, has a pruned parameter."""
    return any(
        isinstance(hook, original.BasePruningMethod)
        for inner in module.modules()
        for hook in inner._forward_pre_hooks.values()
    )
