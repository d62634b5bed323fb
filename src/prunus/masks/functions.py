"""The calls: one function for each method, `remove`, and `is_pruned`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils import prune as original

from ..graph.axes import Node
from ..graph.graph import Graph
from .amounts import check_dim, check_structured
from .coupled import coupled_leaves, mask_partners
from .errors import InputError
from .given import CustomFromMask
from .methods import (
    Identity,
    L1Unstructured,
    LnStructured,
    RandomStructured,
    RandomUnstructured,
)
from .parameters import check_slot, parameter_values
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


def random_structured(module: M, name: str, amount: Any, dim: int, coupled: Graph | None = None) -> M:
    """Prune channels at random: see `RandomStructured`, `BasePruningMethod.apply`. Returns the module.

    Args:
        module: the module that holds the parameter.
        name: the parameter's name in it.
        amount: the fraction (float) or number (int) of channels to prune.
        dim: the dimension whose slices are the channels.
        coupled: `prunus.trace(model, inputs)`, to mask the channels' partners as well: biases, norms, and
            the inputs of all that reads them. `prunus.compact` can then remove them. One graph, traced
            before or after pruning, serves for many calls.

    Raises:
        InputError: the channels have to stay whole where there are partners; the message says why.
    """
    leaves = None if coupled is None else _partners(coupled, module, name, dim)
    RandomStructured.apply(module, name, amount, dim)
    return _with_partners(coupled, module, name, dim, leaves)


def ln_structured(
    module: M,
    name: str,
    amount: Any,
    n: Any,
    dim: int,
    importance_scores: Tensor | None = None,
    coupled: Graph | None = None,
) -> M:
    """Prune the channels of smallest norm: see `LnStructured`, `BasePruningMethod.apply`.

    With `coupled=prunus.trace(model, inputs)`, their partners are masked as well: see `random_structured`.
    Returns the module.
    """
    leaves = None if coupled is None else _partners(coupled, module, name, dim)
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return _with_partners(coupled, module, name, dim, leaves)


def _partners(graph: Graph, module: nn.Module, name: str, dim: int) -> list[Node]:
    values = parameter_values(module, name)
    check_structured(values)
    check_dim(values, dim)
    return coupled_leaves(graph, module, name, dim)


def _with_partners(graph: Graph | None, module: M, name: str, dim: int, leaves: list[Node] | None) -> M:
    if graph is not None and leaves is not None:
        mask_partners(graph, module, name, dim, leaves)
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
    check_slot(module, name)
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
    """Whether a module, or any module inside it, has a pruned parameter.

    Raises:
        ArgumentTypeError: it is no module.
    """
    check_slot(module, "")
    return any(
        isinstance(hook, original.BasePruningMethod)
        for inner in module.modules()
        for hook in inner._forward_pre_hooks.values()
    )
