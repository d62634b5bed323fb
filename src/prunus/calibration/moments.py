"""Second moments of what weights are multiplied with: the Hessians of their layers' squared errors.

Shapes: N vectors read, G groups of a grouped convolution (one elsewhere), C positions of each.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from ..importance.scoring import wide

LARGEST = 1 << 14
"""Positions beyond which none are gathered, as of vocabularies: that matrix would take more than 2 GiB."""

ENTRIES = 1 << 22
"""Entries of a tensor that are looked at at a time, in float64."""

Weight = tuple[str, int]
"""A parameter and the dimension of it that is summed over."""


@dataclass(eq=False)
class Products:
    """`sum x x^T` in float64, shape (G, C, C), over `count` vectors of each group.

    `own` says that nothing else refers to the matrix, which may then be added to in place.
    """

    sum_GCC: Tensor
    count: int
    own: bool = False

    def plus(self, other: Products) -> Products:
        if self.own:
            self.sum_GCC += other.sum_GCC
        else:
            return Products(self.sum_GCC + other.sum_GCC, self.count + other.count, own=True)
        self.count += other.count
        return self

    @property
    def mean(self) -> Tensor:
        return self.sum_GCC / self.count


def products(tensor: Tensor, dim: int, groups: int) -> Products:
    """Of the vectors along a dimension, at all places of the other dimensions, some places at a time."""
    with torch._C.DisableTorchFunction():
        vectors = wide(tensor.detach()).movedim(dim, -1).reshape(-1, groups, tensor.shape[dim] // groups)
        count, _, size = vectors.shape
        total_GCC = torch.zeros(groups, size, size, dtype=torch.float64, device=tensor.device)
        step = max(1, ENTRIES // tensor.shape[dim])
        for start in range(0, count, step):
            part_GNC = vectors[start : start + step].to(torch.float64).movedim(0, 1)
            total_GCC.baddbmm_(part_GNC.mT, part_GNC)
        return Products(total_GCC, count)


class Reading:
    """Products of one run of the model: what is read several times in a row is multiplied once."""

    def __init__(self) -> None:
        self.found: dict[Weight, Products] = {}
        self._last: tuple[object, Tensor, Products] | None = None

    def add(self, weight: Weight, tensor: Tensor, dim: int, groups: int) -> None:
        size = tensor.shape[dim] // groups
        if groups * size != tensor.shape[dim] or size > LARGEST or not tensor.is_floating_point():
            return
        read = self._products(tensor, dim, groups)
        known = self.found.get(weight)
        if known is None:
            self.found[weight] = read
        elif known.sum_GCC.shape == read.sum_GCC.shape:
            self.found[weight] = known.plus(read)

    def _products(self, tensor: Tensor, dim: int, groups: int) -> Products:
        if tensor.is_inference():
            return products(tensor, dim, groups)
        # The tensor is kept until the next one is read, so that its memory cannot hold another meanwhile.
        layout = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device
        key = (*layout, tensor._version, dim, groups)
        if self._last is None or self._last[0] != key:
            self._last = key, tensor, products(tensor, dim, groups)
        return self._last[2]


class SecondMoments:
    """Sums over runs, kept once for the weights that read the same (query, key and value)."""

    def __init__(self) -> None:
        self._totals: dict[tuple[Weight, ...], Products] = {}

    def add(self, found: dict[Weight, Products]) -> None:
        readers: dict[int, list[Weight]] = defaultdict(list)
        for weight, read in found.items():
            readers[id(read)].append(weight)
        for weights in readers.values():
            key, read = tuple(weights), found[weights[0]]
            known = self._totals.get(key)
            if known is None:
                read.own = True
                self._totals[key] = read
            elif known.sum_GCC.shape == read.sum_GCC.shape:
                self._totals[key] = known.plus(read)

    def means(self) -> dict[Weight, Tensor]:
        """`E[x x^T]` for each weight, the sums being used up. Weights that read the same share a matrix."""
        parts: dict[Weight, list[Products]] = defaultdict(list)
        for weights, total in self._totals.items():
            total.sum_GCC /= total.count
            for weight in weights:
                parts[weight].append(total)
        self._totals.clear()
        return {weight: _mean(means) for weight, means in parts.items()}


def _mean(means: list[Products]) -> Tensor:
    """Of means of a weight's runs, which are several where the runs took different paths."""
    first = means[0].sum_GCC
    alike = [item for item in means if item.sum_GCC.shape == first.shape]
    if len(alike) == 1:
        return first
    count = sum(item.count for item in alike)
    return torch.stack([item.sum_GCC * (item.count / count) for item in alike]).sum(0)
