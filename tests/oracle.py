"""What pruning must mean, stated without the engine.

A plan is exact when the pruned model computes what the original computes with its removed units zeroed.
So: multiply every parameter (and every floating-point buffer that the plan covers) of a copy of the
original by `plan.masks()`, run both, and compare. Nothing here knows how a plan was found or applied;
`plan` is anything with `indices`, `masks`, `exact`, `rescaled`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4


class PlanLike(Protocol):
    @property
    def exact(self) -> bool: ...

    @property
    def rescaled(self) -> Mapping[str, float]: ...

    def indices(self, name: str) -> tuple[Tensor, ...]: ...

    def masks(self) -> Mapping[str, Tensor]: ...


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor in a nest of tuples, lists, dicts and dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for item in value.values() for t in tensors_of(item)]
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in tensors_of(item)]
    if dataclasses.is_dataclass(value):
        return [t for field in dataclasses.fields(value) for t in tensors_of(getattr(value, field.name))]
    return []


@torch.no_grad()
def outputs_of(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """All output tensors of one forward, detached and copied."""
    return [t.detach().clone() for t in tensors_of(model(*args, **kwargs))]


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under every name it has."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(model.named_buffers(remove_duplicate=False))}


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def masked_copy(original: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the original with the removed units zeroed."""
    model = copy.deepcopy(original)
    tensors = named_tensors(model)
    for name, mask in masks.items():
        tensor = tensors[name]
        assert mask.dtype == torch.bool, f"{name}: mask is {mask.dtype}"
        assert mask.shape == tensor.shape, f"{name}: mask {tuple(mask.shape)} for {tuple(tensor.shape)}"
        if not tensor.is_floating_point() and not tensor.is_complex():
            continue
        if name.endswith(".original1"):
            # Weight norm divides by the norm of a row: a removed row is silenced by its gain, original0.
            mask = mask | ~mask.flatten(1).any(1).view(-1, *[1] * (mask.dim() - 1))
        tensor.data.mul_(mask)
    return model


def close(reference: Tensor, value: Tensor, tolerance: float, what: str) -> None:
    """Largest difference relative to the scale of the reference, in float64."""
    assert reference.shape == value.shape, f"{what}: shape {tuple(value.shape)}, was {tuple(reference.shape)}"
    assert reference.dtype == value.dtype, f"{what}: dtype {value.dtype}, was {reference.dtype}"
    wide = torch.complex128 if reference.is_complex() else torch.float64
    reference, value = reference.to(wide), value.to(wide)
    if reference.numel() == 0:
        return
    assert bool(value.isfinite().all()) or not bool(reference.isfinite().all()), f"{what}: not finite"
    finite = reference.isfinite()
    error = (reference - value).abs()[finite].max().item() if bool(finite.any()) else 0.0
    scale = max(reference.abs()[finite].max().item() if bool(finite.any()) else 0.0, 1e-6)
    assert error < tolerance * scale, f"{what}: off by {error:.3g} at a scale of {scale:.3g}"


def check_same_outputs(
    reference: Sequence[Tensor], outputs: Sequence[Tensor], tolerance: float = TOLERANCE
) -> None:
    assert len(reference) == len(outputs)
    for number, (expected, got) in enumerate(zip(reference, outputs, strict=True)):
        close(expected, got, tolerance, f"output {number}")


def check_shapes(original: nn.Module, pruned: nn.Module, plan: PlanLike) -> None:
    """Names unchanged; the shape of each tensor is the number of kept indices along each dimension."""
    before, after = named_tensors(original), named_tensors(pruned)
    assert list(before) == list(after)
    assert list(original.state_dict()) == list(pruned.state_dict())
    for name in before:
        indices = plan.indices(name)
        kept = tuple(len(index) for index in indices)
        assert tuple(after[name].shape) == kept, f"{name} is {tuple(after[name].shape)}, plan says {kept}"
        for dim, index in enumerate(indices):
            assert (index.dtype, index.device.type) == (torch.int64, "cpu"), name
            assert len(index) > 0, f"{name}: nothing left along dimension {dim}"
            assert len(index.unique()) == len(index), f"{name}: repeated index along dimension {dim}"
            assert int(index.min()) >= 0, name
            assert int(index.max()) < before[name].shape[dim], name


def outer(indices: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """The mask that keeps the given indices along each dimension."""
    mask = torch.ones(tuple(shape), dtype=torch.bool)
    for dim, index in enumerate(indices):
        kept = torch.zeros(shape[dim], dtype=torch.bool)
        kept[index] = True
        mask &= kept.view(-1, *[1] * (len(shape) - dim - 1))
    return mask


def check_masks(original: nn.Module, plan: PlanLike) -> None:
    """Masks and indices say the same thing; every parameter has a mask."""
    tensors, masks = named_tensors(original), plan.masks()
    missing = [name for name, _ in original.named_parameters() if name not in masks]
    assert not missing, f"no mask for {missing}"
    for name, mask in masks.items():
        assert torch.equal(mask, outer(plan.indices(name), tensors[name].shape)), name


def take(tensor: Tensor, indices: Sequence[Tensor]) -> Tensor:
    for dim, index in enumerate(indices):
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


@torch.no_grad()
def check_kept_values(original: nn.Module, pruned: nn.Module, plan: PlanLike) -> list[str]:
    """What is kept is the original, bit for bit. Returns the names of tensors that were rescaled instead.

    Where a scale such as 1/sqrt(head_dim) was compensated in the weights, a tensor (or a piece of it, as in
    a fused qkv) is the original times one positive factor; the plan must say so.
    """
    before, after = named_tensors(original), named_tensors(pruned)
    announced = {id(before[name]) for name in plan.rescaled}
    rescaled = []
    for name, tensor in before.items():
        expected = take(tensor, plan.indices(name))
        got = after[name]
        assert expected.shape == got.shape, name
        if torch.equal(expected, got):
            continue
        assert id(tensor) in announced, f"{name} has other values"
        assert torch.equal(expected == 0, got == 0), f"{name} has other zeros"
        factors = (got.double() / expected.double())[expected != 0]
        distinct = factors.mul(1e5).round().unique()
        uniform = len(distinct) <= 2 and bool((distinct > 0).all())
        assert uniform, f"{name} is not the original at the kept indices"
        assert len(distinct) == 1 or bool((distinct == 1e5).any()), f"{name} has two factors"
        rescaled.append(name)
    return rescaled


def check_backward(
    original: nn.Module, pruned: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """The parameters that received gradients before still do."""

    def learning(model: nn.Module) -> set[str]:
        model = copy.deepcopy(model) if model is original else model
        model.zero_grad(set_to_none=True)
        losses = [t.float().square().sum() for t in tensors_of(model(*args, **kwargs)) if t.requires_grad]
        sum(losses[1:], losses[0]).backward()
        return {name for name, p in model.named_parameters() if p.grad is not None}

    assert learning(original) == learning(pruned)
    for name, parameter in pruned.named_parameters():
        assert parameter.grad is None or parameter.grad.shape == parameter.shape, name
    pruned.zero_grad(set_to_none=True)


def check_pruned(
    original: nn.Module,
    pruned: nn.Module,
    plan: PlanLike,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    tolerance: float = TOLERANCE,
) -> bool:
    """Everything that holds of any applied plan; the equality with the zeroed original if it is exact.

    Returns whether anything was removed.
    """
    check_masks(original, plan)
    check_shapes(original, pruned, plan)
    check_kept_values(original, pruned, plan)
    before, after = outputs_of(original, args, kwargs), outputs_of(pruned, args, kwargs)
    assert [t.shape for t in before] == [t.shape for t in after]
    assert [t.dtype for t in before] == [t.dtype for t in after]
    removed = any(not bool(mask.all()) for mask in plan.masks().values())
    assert (parameter_count(pruned) < parameter_count(original)) == removed
    if plan.exact:
        check_same_outputs(outputs_of(masked_copy(original, plan.masks()), args, kwargs), after, tolerance)
    return removed
