"""Optimal brain surgeon on one layer: what each unit of its inputs costs, and removing one.

Shapes: U units of an axis, P positions of each among all inputs; G groups of a grouped convolution (one
elsewhere), C inputs of each, I = G * C; R numbers that each input is multiplied with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ENTRIES = 1 << 23
"""Entries of the weights and of the blocks of the inverse Hessian that are looked at at a time."""


@dataclass(eq=False)
class Layer:
    """A layer's weights, the inverse of its Hessian, and where the units of an axis are among its inputs."""

    inverse_GCC: Tensor
    weight_IR: Tensor
    places_UP: Tensor

    def costs(self) -> Tensor:
        """`1/2 sum_r W[J, r]^T ([H^-1]_JJ)^-1 W[J, r]` for the places J of each unit: float64, (U,)."""
        size = self.inverse_GCC.shape[-1]
        units, places = self.places_UP.shape
        step = max(1, ENTRIES // (places * (places + self.weight_IR.shape[1])))
        costs = []
        for start in range(0, units, step):
            part_UP = self.places_UP[start : start + step]
            group_UP, inner_UP = part_UP // size, part_UP % size
            blocks_UPP = self.inverse_GCC[group_UP[:, :, None], inner_UP[:, :, None], inner_UP[:, None, :]]
            # Groups have nothing to do with one another.
            blocks_UPP = blocks_UPP * (group_UP[:, :, None] == group_UP[:, None, :])
            root_UPP = torch.linalg.cholesky(blocks_UPP)
            rows_UPR = self.weight_IR[part_UP].to(torch.float64)
            costs.append(
                torch.linalg.solve_triangular(root_UPP, rows_UPR, upper=False).square().sum((1, 2)) / 2
            )
        return torch.cat(costs)

    def copy(self) -> Layer:
        """In float64, for `remove` to change.

        Costs depend on the weights through their products `W W^T` alone: of more numbers than inputs, as
        many as inputs are kept that have the same products.
        """
        weight_GCR = self.weight_IR.to(torch.float64, copy=True).reshape(*self.inverse_GCC.shape[:2], -1)
        if weight_GCR.shape[2] > weight_GCR.shape[1]:
            weight_GCR = torch.linalg.qr(weight_GCR.mT, mode="r").R.mT
        return Layer(self.inverse_GCC.clone(), weight_GCR.flatten(0, 1).contiguous(), self.places_UP)

    def remove(self, unit: int) -> None:
        """Zero a unit's weights and let the others make up for it; it costs nothing from then on."""
        size = self.inverse_GCC.shape[-1]
        places_P = self.places_UP[unit]
        for group in sorted(set((places_P // size).tolist())):
            inner_P = places_P[places_P // size == group] % size
            inverse_CC = self.inverse_GCC[group]
            weight_CR = self.weight_IR[group * size : (group + 1) * size]
            gain_CP = torch.linalg.solve(inverse_CC[inner_P][:, inner_P], inverse_CC[inner_P]).T
            weight_CR -= gain_CP @ weight_CR[inner_P]
            inverse_CC -= gain_CP @ inverse_CC[inner_P]
            # Zeros but for rounding; ones on the diagonal keep the blocks invertible.
            weight_CR[inner_P] = 0
            inverse_CC[inner_P] = 0
            inverse_CC[:, inner_P] = 0
            inverse_CC[inner_P, inner_P] = 1
