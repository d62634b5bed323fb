"""One ranking over the parameters of many modules, whatever their devices and dtypes."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .amounts import check_dim, check_scores, check_structured
from .errors import ArgumentTypeError, InputError
from .functions import Parameters
from .method import BasePruningMethod, filled
from .methods import CustomFromMask
from .parameters import checked_mask, checked_scores, current_mask, parameter_values
from .ranking import Ranked, lowest
from .reparametrize import MASK


@dataclass(frozen=True)
class Target:
    """A parameter to prune: where it is, its scores and its mask so far (bool; None if not masked)."""

    module: nn.Module
    name: str
    scores: Tensor
    mask: Tensor | None

    @property
    def label(self) -> str:
        return f"{type(self.module).__name__}.{self.name} of shape {tuple(self.scores.shape)}"


def global_unstructured(
    parameters: Parameters,
    pruning_method: Any,
    importance_scores: dict[tuple[nn.Module, str], Tensor] | None = None,
    **kwargs: Any,
) -> None:
    """Prune many parameters by one method, with what is pruned chosen among all of them together.

    The parameters may be on different devices and of different dtypes. With a method that scores entry by
    entry (`L1Unstructured`, `RandomUnstructured`, and any that defines `prepare` and `entry_scores`), the
    scores are never put into one vector nor sorted, and of ties exactly as many go as the amount says.
    Another unstructured method sees one vector of all the entries that are left, as it has to.

    A structured method sees a matrix with one row for each channel of all parameters: the channel's norm,
    divided by what the norm of as many equal entries grows by, so that channels of different sizes are
    comparable. The norm is the method's `n`, or 2.

    Args:
        parameters: pairs of a module and the name of its parameter.
        pruning_method: a subclass of `BasePruningMethod`.
        importance_scores: scores by pair, of the parameter's shape; the parameter itself where missing.
        kwargs: arguments of the method, such as `amount`.

    Raises:
        ArgumentTypeError: arguments of wrong types (also a TypeError).
        InputError: no parameters, or one twice (also a ValueError); NaN scores.
        PruningError: as `BasePruningMethod.apply`. No module is changed unless all are.
    """
    targets = find_targets(parameters, importance_scores)
    method = pruning_method(**kwargs)
    method._tensor_name = "temp"
    kind = method.PRUNING_TYPE
    if kind == "structured":
        masks = _structured(method, targets)
    elif kind != "unstructured":
        raise ArgumentTypeError(
            f"{pruning_method.__name__} is of PRUNING_TYPE {kind!r}: only unstructured and structured "
            "methods can choose among several parameters"
        )
    elif _ranks_entries(method):
        masks = _ranked(method, targets)
    else:
        masks = _as_one_vector(method, targets)
    checked = [checked_mask(mask, target.scores) for mask, target in zip(masks, targets, strict=True)]
    for target, mask in zip(targets, checked, strict=True):
        CustomFromMask.apply_once(target.module, target.name, mask)


def find_targets(parameters: Any, importance_scores: Any = None) -> list[Target]:
    """The parameters that pairs name, checked.

    Raises:
        as `global_unstructured`.
    """
    if not isinstance(parameters, Iterable) or isinstance(parameters, nn.Module):
        raise ArgumentTypeError(
            f"parameters must be an iterable of (module, name) pairs, got {type(parameters).__name__}"
        )
    if importance_scores is not None and not isinstance(importance_scores, dict):
        raise ArgumentTypeError(
            "importance_scores must be a dict from (module, name) to a tensor, got "
            f"{type(importance_scores).__name__}"
        )
    given = importance_scores or {}
    targets: list[Target] = []
    seen: set[tuple[int, str]] = set()
    pair: Any
    for pair in parameters:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ArgumentTypeError(f"parameters must be (module, name) pairs, got {pair!r}")
        module, name = pair
        values = parameter_values(module, name)
        if (id(module), name) in seen:
            raise InputError(f"{name!r} of {type(module).__name__} is given twice")
        seen.add((id(module), name))
        scores = given.get((module, name))
        scores = values if scores is None else checked_scores(scores, values, name).to(values.device)
        mask = current_mask(module, name) != 0 if name + MASK in module._buffers else None
        targets.append(Target(module, name, scores, mask))
    if not targets:
        raise InputError("parameters is empty: there is nothing to prune")
    return targets


def _ranks_entries(method: Any) -> bool:
    own = getattr(type(method), "entry_scores", None)
    return own is not None and own is not BasePruningMethod.entry_scores and hasattr(method, "count")


def _ranked(method: Any, targets: list[Target]) -> list[Tensor]:
    sizes = [item.scores.numel() if item.mask is None else int(item.mask.sum()) for item in targets]
    count = method.count(sum(sizes))
    ranked = [
        Ranked(method.prepare(item.scores, item.mask), item.mask, method.entry_scores, item.label)
        for item in targets
    ]
    return [~chosen for chosen in lowest(ranked, count)]


def _as_one_vector(method: Any, targets: list[Target]) -> list[Tensor]:
    """The masks by a method that wants one vector of all entries that are left."""
    device = targets[0].scores.device
    dtype = targets[0].scores.dtype
    for item in targets:
        dtype = torch.promote_types(dtype, item.scores.dtype)
    left = [
        (item.scores.reshape(-1) if item.mask is None else item.scores[item.mask]).to(device, dtype)
        for item in targets
    ]
    vector = torch.cat(left)
    made = method.compute_mask(vector, default_mask=torch.ones_like(vector))
    parts = torch.split(checked_mask(made, vector), [part.numel() for part in left])
    masks = []
    for item, part in zip(targets, parts, strict=True):
        mask = torch.zeros(item.scores.shape, dtype=torch.bool, device=item.scores.device)
        left_here = ~mask if item.mask is None else item.mask
        mask[left_here] = part.to(mask.device)
        masks.append(mask)
    return masks


def _structured(method: Any, targets: list[Target]) -> list[Tensor]:
    rows, alive = [], []
    for item in targets:
        check_structured(item.scores)
        check_dim(item.scores, method.dim)
        check_scores(item.scores, item.label)
        rows.append(
            _size_free_norm(item.scores, getattr(method, "n", 2), method.dim).to("cpu", torch.float64)
        )
        mask = item.mask
        alive.append(
            torch.ones(rows[-1].numel(), dtype=torch.bool)
            if mask is None
            else filled(mask, method.dim % mask.dim()).cpu()
        )
    taking_part = torch.cat(alive)
    matrix = torch.cat(rows)[taking_part, None]
    own = copy.copy(method)
    own.dim = 0
    made = own.compute_mask(matrix, default_mask=torch.ones_like(matrix))
    kept = torch.zeros(taking_part.numel(), dtype=torch.bool)
    kept[taking_part] = checked_mask(made, matrix).flatten()
    masks = []
    for item, part in zip(targets, torch.split(kept, [row.numel() for row in rows]), strict=True):
        shape = [1] * item.scores.dim()
        shape[method.dim] = -1
        mask = part.to(item.scores.device).reshape(shape).expand(item.scores.shape)
        masks.append(mask if item.mask is None else mask & item.mask)
    return masks


def _size_free_norm(t: Tensor, n: Any, dim: int) -> Tensor:
    """The L_n norm of each channel over that of a channel of ones, shape (t.shape[dim],)."""
    flat = t.movedim(dim, 0).flatten(1)
    power = 2.0 if isinstance(n, str) else float(n)
    norm: Tensor = torch.linalg.vector_norm(flat, ord=power, dim=1)
    if power in (float("inf"), float("-inf"), 0.0) or flat.shape[1] == 0:
        return norm.div(max(flat.shape[1], 1)) if power == 0.0 else norm
    return norm.div(float(flat.shape[1]) ** (1.0 / power))
