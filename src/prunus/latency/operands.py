"""Random tensors to time operations on, as a real forward finds them: weights cold, activations warm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SLAB_BYTES = 1 << 26
"""More than the caches of most processors: weights cut from a slab of it one after another are cold."""

ALIGNMENT = 64
"""Bytes; where allocators put tensors too."""


@dataclass(frozen=True)
class Operand:
    """A tensor argument by its looks.

    Attributes:
        shape: as the operation sees it.
        dtype: its element type.
        order: for a transposed view, the dimension of the underlying tensor that each dimension shows.
        stretched: dimensions that are expanded from size 1, without memory of their own.
        cold: a parameter or buffer, which a forward reads from memory.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    order: tuple[int, ...] | None = None
    stretched: tuple[int, ...] = ()
    cold: bool = False

    def __str__(self) -> str:
        text = f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}".replace(" ", "")
        if self.order is not None:
            text += f"t{list(self.order)}".replace(" ", "")
        if self.stretched:
            text += f"e{list(self.stretched)}".replace(" ", "")
        return text + ("*" if self.cold else "")

    @property
    def base_shape(self) -> tuple[int, ...]:
        """The shape of the memory behind it."""
        own = [1 if dim in self.stretched else size for dim, size in enumerate(self.shape)]
        if self.order is None:
            return tuple(own)
        return tuple(own[self.order.index(dim)] for dim in range(len(own)))


class OperandMaker:
    """Makes operands on one device. Random numbers come from a generator of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._slabs: dict[torch.dtype, Tensor] = {}
        self._next: dict[torch.dtype, int] = {}
        self._generator = torch.Generator().manual_seed(0)

    def make(self, operand: Operand) -> Tensor:
        """A tensor that looks like the operand; each cold one lies where no recent one has been."""
        shape = operand.base_shape
        if operand.dtype.is_floating_point or operand.dtype.is_complex:
            base = self._cut(math.prod(shape), operand.dtype).view(shape)
            if not operand.cold:
                base = base.clone()
        elif operand.dtype is torch.bool:
            base = torch.ones(shape, dtype=torch.bool, device=self.device)
        else:
            base = torch.zeros(shape, dtype=operand.dtype, device=self.device)  # in range as an index
        view = base if operand.order is None else base.permute(operand.order)
        return view.expand(operand.shape) if operand.stretched else view

    def _cut(self, numel: int, dtype: torch.dtype) -> Tensor:
        slab = self._slabs.get(dtype)
        if slab is None or len(slab) < numel:
            length = max(numel, SLAB_BYTES // dtype.itemsize)
            wide = dtype if dtype.itemsize >= 4 else torch.float32
            # Positive and near one, so that square roots, logarithms and repeated products stay ordinary.
            values = torch.rand(length, dtype=wide, generator=self._generator).mul_(0.5).add_(0.5)
            slab = self._slabs[dtype] = values.to(dtype).to(self.device)
            self._next[dtype] = 0
        start = self._next[dtype]
        if start + numel > len(slab):
            start = 0
        step = max(1, ALIGNMENT // dtype.itemsize)
        self._next[dtype] = -(-(start + numel) // step) * step
        return slab[start : start + numel]
