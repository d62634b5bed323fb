"""The weighted means of tensors over clients that each cover a part of them.

Some rows of the father are made at a time, few enough to stay in the cache: the clients' rows are added up,
divided by the weight of those that cover them, and written down. Sums are float64. They start at -0.0, the
only number that leaves every other one as it is, the sign of zero included, when it is added.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from .adding import PIECE, Part, Room, adder
from .coverage import Coverage
from .rescaled import own_scale

Job = tuple[Tensor, Sequence[Part]]
"""A tensor of the father, and what clients hold of it."""


def working_device(device: torch.device) -> torch.device:
    """Where sums are made: the tensor's device, unless it has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def weighted_means(jobs: Iterable[Job]) -> Iterator[Tensor]:
    """For each entry of each tensor the weighted mean of the clients that cover it, else the father's value.

    Args:
        jobs: tensors of the father, of any shape and device, floating or complex; and the clients' of the
            shapes that their coverage says.

    Yields:
        For each of them a new tensor of the father's dtype, on its device.
    """
    room = Room()
    for father, parts in jobs:
        yield _mean(father, parts, room)


def _mean(father: Tensor, parts: Sequence[Part], room: Room) -> Tensor:
    device = working_device(father.device)
    shape = tuple(father.shape) or (1,)
    old = father.detach().to(device)
    out = torch.empty(shape, dtype=father.dtype, device=device)
    largest = max(max(factors) for _, _, factors in parts)
    # Of one client's tensor times 1.0 nothing is lost, in float64 either.
    scaled = [
        (cover, _moved(tensors, old, cover), [factor / largest for factor in factors])
        for cover, tensors, factors in parts
    ]
    weights = _weights(shape, scaled, device)
    covered = bool((weights > 0).all())
    own = [adder(shape, scaled)] if len(shape) == 1 else [adder(shape, [part]) for part in scaled]
    old, rows = old.reshape(shape), shape[0]
    if device.type == "cpu" and not any(each.whole for each in own):
        rows = max(1, PIECE // max(1, math.prod(shape[1:])))
    for low in range(0, shape[0], max(1, rows)):
        high = min(low + rows, shape[0])
        total = room.zeros((high - low, *shape[1:]), out)
        for each in own:
            each.add(total, low, high, room)
        divisor = weights if len(weights) == 1 else weights[low:high]
        total.div_(divisor)
        if covered:
            out[low:high].copy_(total)
        else:
            torch.where(divisor > 0, total.to(out.dtype), old[low:high], out=out[low:high])
    return out.reshape(father.shape).to(father.device)


def _moved(tensors: Sequence[Tensor], father: Tensor, cover: Coverage) -> Sequence[Tensor]:
    """Clients' tensors as they are added, where that is done; to most there is nothing to do."""
    if cover.rescaling is not None:
        tensors = [own_scale(tensor, father, cover) for tensor in tensors]
    if not (father.is_cpu and all(tensor.is_cpu for tensor in tensors)):
        tensors = [tensor.to(father.device) for tensor in tensors]
    return tensors if father.dim() else [tensor.reshape(1) for tensor in tensors]


# -- weights --------------------------------------------------------------------------------------------


def _weights(shape: Sequence[int], parts: Sequence[Part], device: torch.device) -> Tensor:
    """For each entry the weight of those that cover it; one along each dimension that all cover whole."""
    cut = [
        any(cover.kept and cover.kept[dim] is not None for cover, *_ in parts) for dim in range(len(shape))
    ]
    sizes = [size if own else 1 for size, own in zip(shape, cut, strict=True)]
    weights = torch.zeros(sizes, dtype=torch.float64, device=device)
    _add_weights(weights, [(cover, sum(factors)) for cover, _, factors in parts])
    return weights


def _add_weights(weights: Tensor, parts: Sequence[tuple[Coverage, float]]) -> None:
    """Add each part's weight at the entries that it covers; scattered ones all at once, as outer products."""
    scattered = []
    for cover, weight in parts:
        if not cover.kept:
            weights += weight
        elif all(runs is not None and len(runs) == 1 for runs in cover.runs):
            places = []
            for size, runs in zip(weights.shape, cover.runs, strict=True):
                assert runs is not None
                _, start, length = runs[0]
                places.append(slice(start, start + length) if size > 1 else slice(None))
            weights[tuple(places)] += weight
        else:
            scattered.append((cover, weight))
    if not scattered:
        return
    every = torch.tensor([weight for _, weight in scattered], dtype=torch.float64, device=weights.device)
    dims = [dim for dim, size in enumerate(weights.shape) if size > 1]
    letters = [chr(ord("b") + number) for number in range(len(dims))]
    inside = [_inside([cover for cover, _ in scattered], dim, weights) for dim in dims]
    terms = ",".join(["a", *(f"a{letter}" for letter in letters)])
    weights += torch.einsum(f"{terms}->{''.join(letters)}", every, *inside).reshape(weights.shape)


def _inside(covers: Sequence[Coverage], dim: int, weights: Tensor) -> Tensor:
    """1.0 where a part covers a position of a dimension, else 0.0: (parts, positions)."""
    size = weights.shape[dim]
    kept = [cover.kept[dim] for cover in covers]
    full = [torch.arange(size) if index is None else index for index in kept]
    rows = torch.arange(len(full)).repeat_interleave(torch.tensor([len(index) for index in full]))
    out = torch.zeros(len(full), size, dtype=torch.float64)
    out[rows, torch.cat(full)] = 1.0
    return out.to(weights.device)


# -- integers -------------------------------------------------------------------------------------------


def latest(father: Tensor, parts: Sequence[tuple[Coverage, Tensor]]) -> Tensor:
    """For each entry the value of the last of the clients that cover it, else the father's.

    For integers and booleans, of which no mean can be taken.
    """
    out = father.detach().clone(memory_format=torch.contiguous_format)
    whole = [number for number, (cover, _) in enumerate(parts) if not cover.kept]
    for cover, tensor in parts[whole[-1] if whole else 0 :]:
        value = tensor.to(out.device, out.dtype)
        if not cover.kept:
            out.copy_(value)
            continue
        out.index_put_(cover.places(out.device), value)
    return out
