"""Small modules to mask."""

from __future__ import annotations

import torch
from torch import nn


def layer(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> nn.Module:
    """A module with a parameter `weight` of any shape, and a bias."""
    module = nn.Module()
    module.weight = nn.Parameter(torch.randn(shape, dtype=dtype))
    module.bias = nn.Parameter(torch.randn(shape[0], dtype=dtype))
    return module
