"""Entries that a sub-model holds multiplied by a factor, taken back to the father's scale."""

from __future__ import annotations

import torch
from torch import Tensor

from .coverage import Coverage, scaled


def own_scale(tensor: Tensor, father: Tensor, cover: Coverage) -> Tensor:
    """A client's tensor in the father's scale.

    Where a factor was multiplied in, the father's value comes back unchanged if the client left the entry
    alone; else a number that the factor takes to the client's, if there is one among the nearest.
    """
    if cover.rescaling is None:
        return tensor
    factor = cover.rescaling.factor
    tensor = tensor.to(father.device, father.dtype)
    guess = scaled(tensor, 1 / factor)
    found = guess
    candidates = [cover.plain(father)]
    if not tensor.is_complex():
        for towards in (torch.inf, -torch.inf):
            candidates.insert(0, torch.nextafter(guess, torch.full_like(guess, towards)))
    for candidate in (*candidates[:-1], guess, candidates[-1]):
        found = torch.where(scaled(candidate, factor) == tensor, candidate, found)
    return torch.where(cover.sub_region(father.device), found, tensor)
