"""A sum of products over one axis, seen term by term: which terms are constants, which are zero.

Shapes: B batch or groups, M rows, K contracted, N columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .facts import Facts, alike, joint_shape, whole


@dataclass
class Product:
    """`a_BMK @ b_BKN`, reduced.

    Attributes:
        nonzero_b: entries of b that are not known to be zero.
        size: K.
        border: only a zero in `a` has the same effect everywhere (beside the padding of a convolution).
        grouped: B stands for groups, each with columns of its own.
        fixed: b is a parameter: nobody asks which of its entries matter.
    """

    a: Facts
    b: Facts
    nonzero_b: Tensor
    size: int
    border: bool = False
    grouped: bool = False
    fixed: bool = False

    @property
    def nonzero_a(self) -> Tensor:
        return self.a.nonzero

    @property
    def known_a(self) -> Tensor:
        """Where an entry of `a` has a known effect: beside a zero-padded border only zero has."""
        return self.a.zero if self.border else self.a.known

    def result(self) -> tuple[Tensor, Tensor]:
        """Known entries and values of the product."""
        if self._averages():
            return self.b.known, self.b.value
        mixed = _meets(~self.known_a, self.nonzero_b)
        if not self.b.all:
            mixed = mixed | _meets(self.nonzero_a, ~self.b.known)
        if bool(mixed.all()):
            return ~mixed, torch.zeros((), device=mixed.device)
        value = matmul(torch.where(self.known_a, self.a.value, 0), self.b.value)
        if max(self.a.value.shape[-1], self.b.value.shape[-2]) == 1:
            value = value * self.size
        return ~mixed, value

    def _averages(self) -> bool:
        alike_k = self.b.value.shape[-2] == 1 and self.b.known.shape[-2] == 1
        return self.a.sums_to_one == self.a.known.dim() - 1 and alike_k

    def needs(self, need: Tensor) -> tuple[Tensor, Tensor]:
        """Which entries of a and b the needed entries of the product depend on."""
        if self.fixed:
            return _meets(need, self.nonzero_b.mT), torch.ones(
                (1,) * need.dim(), dtype=torch.bool, device=need.device
            )
        return _meets(need, self.nonzero_b.mT), _meets(self.nonzero_a.mT, need)

    def unknown_terms(self, need_a: Tensor, need_b: Tensor) -> Tensor:
        """Positions k with a term that depends on the input and matters."""
        of_a = over_others(~self.known_a & need_a, -1)
        return of_a if self.b.all else of_a | over_others(~self.b.known & need_b, -2)

    def constant_terms(self, need_a: Tensor) -> Tensor:
        """Positions k with a constant term that is not zero and matters."""
        return over_others(self.known_a & self.nonzero_a & need_a, -1)

    def _row(self) -> tuple[Facts, Facts]:
        """`a` and `b` where they are alike for all of M, and for all of B unless that stands for groups."""
        rank = self.a.value.dim()
        batch = [] if self.grouped else list(range(rank - 2))
        return alike(Facts(self.known_a, self.a.value), [*batch, rank - 2]), alike(self.b, batch)

    def foldable(self) -> Tensor:
        """Positions k whose terms are the same constant in every row."""
        row, columns = self._row()
        one, two = over_others(~row.known, -1), over_others(~columns.known, -2)
        return ~(one | two).expand(self.size)

    def same_terms(self, other: Product) -> Tensor | None:
        """Positions k whose constants another product shares; None where their weights are not the same."""
        (row, columns), (row_other, columns_other) = self._row(), other._row()
        if not torch.equal(columns.value, columns_other.value):
            return None
        same = row.known & row_other.known & (row.value == row_other.value)
        return ~over_others(~same, -1).expand(self.size)

    def shift(self, gone_K: Tensor) -> Tensor:
        """What the terms at some positions k add to each column."""
        row, columns = self._row()
        terms = row.value.double() * gone_K.to(row.value.device)
        chosen = gone_K.to(row.value.device).nonzero().flatten()
        b = columns.value.expand(*columns.value.shape[:-2], self.size, columns.value.shape[-1])
        return (terms.index_select(-1, chosen) @ b.index_select(-2, chosen).double()).reshape(-1)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """A product of reduced tensors: a contracted dimension of size one on one side is spread."""
    size = max(a.shape[-1], b.shape[-2])
    dtype = torch.promote_types(a.dtype, b.dtype)
    dtype = dtype if dtype.is_floating_point or dtype.is_complex else torch.float32
    a, b = a.expand(*a.shape[:-1], size), b.expand(*b.shape[:-2], size, b.shape[-1])
    return a.to(dtype) @ b.to(dtype)


def _meets(a: Tensor, b: Tensor) -> Tensor:
    """Whether any k has both a[m, k] and b[k, n]."""
    smaller = a if a.numel() < b.numel() else b
    if not bool(smaller.any()):  # the larger one is a weight, whose entries are not all zero
        shape = (*joint_shape(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
        return torch.zeros(shape, dtype=torch.bool, device=a.device)
    return matmul(a.float(), b.float()) > 0


def over_others(mask: Tensor, dim: int) -> Tensor:
    """Whether a position along one dimension has any entry that is set."""
    dim %= mask.dim()
    return whole(mask, [d for d in range(mask.dim()) if d != dim]).reshape(-1)
