"""Structured masks with their partners: bias, batch norm, the inputs of what reads the channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PlanError
from ..graph.axes import Node
from ..graph.graph import Graph
from ..plan import Plan
from .errors import ArgumentTypeError, InputError
from .given import CustomFromMask
from .parameters import check_names_free, current_mask, parameter_values
from .reparametrize import MASK, ORIG


def from_plan(model: nn.Module, plan: Plan) -> nn.Module:
    """Mask what a plan would cut, instead of cutting it; `prunus.compact` cuts it later.

    Args:
        model: the model that the plan's graph was traced on, masked in place.
        plan: from `graph.plan`. Biases and norms are masked with the layers they belong to.

    Returns:
        The model.

    Raises:
        PlanError: the plan is for another model, or removes whole blocks, which masks cannot.
    """
    if not isinstance(plan, Plan):
        raise ArgumentTypeError(f"plan must be a prunus.Plan, got {type(plan).__name__}")
    if plan.graph.model is not model:
        raise PlanError("the plan is for another model: trace this one and plan again")
    if plan.blocks:
        raise PlanError(f"the plan removes whole modules ({', '.join(plan.blocks)}): apply it instead")
    _mask_all(plan.graph, plan.masks())
    return model


def coupled_leaves(graph: Any, module: nn.Module, name: str, dim: int) -> list[Node]:
    """The axes along a dimension of a parameter, checked: they may go, and their partners can be masked.

    Raises:
        ArgumentTypeError: `graph` is none.
        PlanError: the graph is of another model.
        InputError: an axis has to stay whole; the message says why.
    """
    if not isinstance(graph, Graph):
        raise ArgumentTypeError(
            f"coupled must be a graph of the model, prunus.trace(model, inputs), got {type(graph).__name__}"
        )
    leaves = graph.terms.leaves(graph.parameter(_key(graph, module, name)).axes[dim])
    for leaf in leaves:
        axis = graph.by_node.get(leaf)
        if axis is None or not axis.prunable:
            why = "nothing else has it" if axis is None else axis.reason
            raise InputError(f"dimension {dim} of {name!r} has no partners to mask: it stays whole ({why})")
    for key in _members(graph, leaves):
        owner, own = _slot(graph, key)
        parameter_values(owner, own)
        if own in owner._parameters:
            check_names_free(owner, own)
    return leaves


def mask_partners(graph: Graph, module: nn.Module, name: str, dim: int, leaves: list[Node]) -> None:
    """Mask, wherever else they occur, the units that a parameter's mask has emptied along a dimension.

    A unit is empty if all positions that it stands for are: of an axis that is flattened, all of a channel.
    """
    mask = current_mask(module, name) != 0
    filled = mask.movedim(dim, 0).flatten(1).any(dim=1).cpu().to(torch.float64)
    found: dict[Node, Tensor] = {}

    def add(node: Node, scores: Tensor) -> None:
        found[node] = found.get(node, 0) + scores

    graph.terms.project(graph.parameter(_key(graph, module, name)).axes[dim], filled, add)
    chosen = {leaf: found[leaf].nonzero().flatten() for leaf in leaves if bool((found[leaf] == 0).any())}
    if chosen:
        _mask_all(graph, Plan(graph, chosen).masks())


def _mask_all(graph: Graph, masks: dict[str, Tensor]) -> None:
    partial = {key: mask for key, mask in masks.items() if not bool(mask.all())}
    for key in partial:
        parameter_values(*_slot(graph, key))
    for key, mask in partial.items():
        owner, own = _slot(graph, key)
        if own + MASK not in owner._buffers or bool((current_mask(owner, own) & ~mask).any()):
            CustomFromMask.apply_once(owner, own, mask)


def _members(graph: Graph, leaves: list[Node]) -> list[str]:
    return list(dict.fromkeys(key for leaf in leaves for key, _ in graph.by_node[leaf].members))


def _slot(graph: Graph, key: str) -> tuple[nn.Module, str]:
    """The module that holds a parameter of the graph, and its name there, masked or not since."""
    owner, _, own = key.rpartition(".")
    module = graph.module_names[owner]
    own = own.removesuffix(ORIG) if own not in module._parameters or own.endswith(ORIG) else own
    return module, own


def _key(graph: Graph, module: nn.Module, name: str) -> str:
    for owner, known in graph.module_names.items():
        if known is module:
            key = f"{owner}.{name}" if owner else name
            return key if key in graph.aliases else key + ORIG
    raise PlanError(f"the graph is of another model: it has no such {type(module).__name__}")
