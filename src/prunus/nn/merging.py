"""Networks of sub-set layers put back into their father: each entry the mean of the children that hold it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentTypeError, InputError, UnknownNameError
from ..submodel.coverage import Coverage
from ..submodel.errors import UpdateError
from ..submodel.mean import Job, latest, weighted_means
from .kept import Kept
from .layer import Places, taken
from .networks import Matcher

STATISTICS = ("mean", "keep")


@dataclass(frozen=True)
class Contribution:
    """One child's entries of a tensor of the father."""

    tensor: Tensor
    places: Places
    weight: float
    index: int


@dataclass
class Target:
    """A tensor of the father and what the children hold of it."""

    name: str
    tensor: Tensor
    is_buffer: bool
    held: list[Contribution] = field(default_factory=list)


@torch.no_grad()
def merge(
    father: nn.Module, children: Sequence[tuple[nn.Module, float]], statistics: str = "mean"
) -> nn.Module:
    """Put children made of sub-set layers into their father, in place, and return it.

    Each entry of a parameter becomes the weighted mean of the children that hold it; entries that none of
    them holds keep the father's value. This is the aggregation of HeteroFL (Diao, Ding, Tarokh, 2021,
    arXiv:2010.01264) with weights, on any ranges. Sums are float64 whatever the dtype; the result of one
    child is that child, bit for bit, where it holds an entry.

    Buffers: floating ones, batch-norm statistics among them, are averaged like parameters, or kept; integers
    (`num_batches_tracked`) are those of the child with the largest weight, the first of equals.

    Args:
        father: of torch layers, sub-set layers or both, on any device. Modules are matched by name; those
            that are no sub-set layers in a child must have the father's sizes. A child may lack modules of
            the father.
        children: (child, weight) for each, where the weight is positive, usually a number of samples. An
            empty list leaves the father as it is.
        statistics: "mean", or "keep" to leave all floating buffers as they are.

    Raises:
        UpdateError: (a ValueError) a child with a module or tensor that the father lacks, of another type or
            size, units that the father lacks, a wrong weight, or a value that is not finite. It says which
            child. The father is as it was.
        InputError: an unknown rule for statistics.
    """
    if not isinstance(father, nn.Module):
        raise ArgumentTypeError(f"father must be a torch.nn.Module, got {type(father).__name__}")
    if statistics not in STATISTICS:
        raise InputError(f"statistics={statistics!r}: there are {', '.join(map(repr, STATISTICS))}")
    targets: dict[int, Target] = {}
    matcher = Matcher(father)
    for index, item in enumerate(_listed(children, "children", "(child, weight)")):
        child, weight = _checked(index, item)
        _collect(targets, matcher, child, weight, index)
    if statistics == "keep":
        targets = {
            key: target
            for key, target in targets.items()
            if not (target.is_buffer and _averaged(target.tensor))
        }
    merged = [(target.tensor, _latest(target)) for target in targets.values() if not _averaged(target.tensor)]
    averaged = [target for target in targets.values() if _averaged(target.tensor)]
    for target, new in zip(averaged, weighted_means(map(_job, averaged)), strict=True):
        # A finite sum has finite terms only: the children are looked at where that of the result is not.
        if not bool(torch.isfinite(new.sum())):
            _check_finite(target)
        merged.append((target.tensor, new))
    for tensor, new in merged:
        tensor.copy_(new)
    return father


def aggregate_layer(
    global_layer: nn.Module, subset_layers: Sequence[nn.Module], weights: Sequence[float]
) -> None:
    """Put sub-set layers into one layer, in place: `merge` in the call form of `heflwr.fed.aggregate_layer`.

    Args:
        global_layer: a torch layer or a sub-set layer.
        subset_layers: parts of it.
        weights: for each of them a positive number, usually of samples.

    Raises:
        UpdateError, InputError: (both ValueError) as `merge`; or lists of unlike length.
    """
    layers = _listed(subset_layers, "subset_layers", "sub-set layers")
    numbers = _listed(weights, "weights", "numbers")
    if len(layers) != len(numbers):
        raise InputError(f"there are {len(layers)} layers and {len(numbers)} weights")
    merge(global_layer, list(zip(layers, numbers, strict=True)))


def _listed(given: object, name: str, what: str) -> list[Any]:
    if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
        raise ArgumentTypeError(f"{name} must be a list of {what}, got {type(given).__name__}")
    return list(given)


def _checked(index: int, item: object) -> tuple[nn.Module, float]:
    if not isinstance(item, (tuple, list)) or len(item) != 2 or not isinstance(item[0], nn.Module):
        raise UpdateError(index, f"must be (child, weight) with a torch.nn.Module, got {type(item).__name__}")
    child, weight = item
    try:
        number = math.nan if isinstance(weight, (bool, str)) else float(weight)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise UpdateError(index, f"its weight must be a positive number, got {weight!r}")
    return child, number


def _collect(
    targets: dict[int, Target], matcher: Matcher, child: nn.Module, weight: float, index: int
) -> None:
    """Add what one child holds to the targets, by identity of the father's tensors."""
    try:
        matches = matcher.match(child)
    except (InputError, UnknownNameError) as error:
        raise UpdateError(index, str(error)) from error
    for match in matches:
        target = targets.setdefault(id(match.father), Target(match.name, match.father, match.is_buffer))
        target.held.append(Contribution(match.child.detach(), match.places, weight, index))


def _check_finite(target: Target) -> None:
    for one in target.held:
        finite = torch.isfinite(one.tensor)
        # Constants such as a mask of minus infinity are no fault where the father has them as well.
        theirs = taken(target.tensor, one.places).to(one.tensor.device, one.tensor.dtype)
        if not finite.all() and not torch.equal(one.tensor, theirs):
            raise UpdateError(
                one.index, f"{target.name} holds {int((~finite).sum())} values that are not finite"
            )


def _averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _latest(target: Target) -> Tensor:
    ordered = sorted(target.held, key=lambda one: (one.weight, -one.index))
    return latest(target.tensor, [(_coverage(target.tensor, one.places), one.tensor) for one in ordered])


def _job(target: Target) -> Job:
    parts: dict[Places, list[Contribution]] = {}
    for one in target.held:
        parts.setdefault(one.places, []).append(one)
    return target.tensor, [
        (_coverage(target.tensor, places), [one.tensor for one in own], [one.weight for one in own])
        for places, own in parts.items()
    ]


def _coverage(father: Tensor, places: Places) -> Coverage:
    filled: tuple[Kept | None, ...] = (*places, *[None] * (father.ndim - len(places)))
    kept = tuple(None if own is None or own.is_whole else own.indices() for own in filled)
    return Coverage(tuple(father.shape), kept)
