"""The methods of `torch.nn.utils.prune` that choose, with the same random draws and the same choices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as original

from .amounts import (
    channel_norm,
    check_amount,
    check_amount_fits,
    check_dim,
    check_scores,
    check_structured,
    count_to_prune,
)
from .method import BasePruningMethod
from .units import Channels, mean_norm


class Identity(BasePruningMethod, original.Identity):
    """A mask of ones: nothing is pruned yet."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return default_mask

    @classmethod
    def apply(cls, module: nn.Module, name: str) -> Any:  # type: ignore[override]
        """As `BasePruningMethod.apply`."""
        return super().apply(module, name)


class _ByAmount(BasePruningMethod):
    """A method that prunes an amount: a fraction (float) or a number (int) of what is left."""

    def __init__(self, amount: Any) -> None:
        check_amount(amount)
        self.amount = amount

    def count(self, size: int) -> int:
        """The units to prune of `size`."""
        check_amount_fits(self.amount, size)
        return count_to_prune(self.amount, size)


class RandomUnstructured(_ByAmount, original.RandomUnstructured):
    """Entries at random.

    Args:
        amount: the fraction (float) or number (int) of entries to prune, of those that are left.
    """

    PRUNING_TYPE = "unstructured"

    def prepare(self, t: Tensor, alive: Tensor | None) -> Tensor:
        if alive is None:
            return torch.rand_like(t)
        drawn = torch.zeros_like(t)
        drawn[alive] = torch.rand_like(t[alive])
        return drawn

    def entry_scores(self, t: Tensor) -> Tensor:
        return -t

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        count = self.count(t.nelement())
        mask = default_mask.clone(memory_format=torch.contiguous_format)
        if count:
            drawn = torch.rand_like(t).reshape(-1)
            mask.view(-1)[torch.topk(drawn, k=count).indices] = 0
        return mask

    @classmethod
    def apply(cls, module: nn.Module, name: str, amount: Any) -> Any:  # type: ignore[override]
        """As `BasePruningMethod.apply`."""
        return super().apply(module, name, amount=amount)


class L1Unstructured(_ByAmount, original.L1Unstructured):
    """The entries of smallest magnitude.

    Args:
        amount: the fraction (float) or number (int) of entries to prune, of those that are left.
    """

    PRUNING_TYPE = "unstructured"

    def entry_scores(self, t: Tensor) -> Tensor:
        return t.abs()

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        count = self.count(t.nelement())
        check_scores(t, "the parameter")
        mask = default_mask.clone(memory_format=torch.contiguous_format)
        if count:
            smallest = torch.topk(t.abs().reshape(-1), k=count, largest=False)
            mask.view(-1)[smallest.indices] = 0
        return mask

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: nn.Module, name: str, amount: Any, importance_scores: Tensor | None = None
    ) -> Any:
        """As `BasePruningMethod.apply`."""
        return super().apply(module, name, amount=amount, importance_scores=importance_scores)


class RandomStructured(Channels, _ByAmount, original.RandomStructured):
    """Channels at random.

    Args:
        amount: the fraction (float) or number (int) of channels to prune, of those that are not empty.
        dim: the dimension whose slices are the channels.
    """

    PRUNING_TYPE = "structured"

    def __init__(self, amount: Any, dim: int = -1) -> None:
        check_amount(amount)
        self.amount = amount
        self.dim = dim

    def unit_scores(self, t: Tensor) -> Tensor:
        return torch.rand(self.split(t).shape[0])

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        check_structured(t)
        check_dim(t, self.dim)
        size = t.shape[self.dim]
        count = self.count(size)
        if count == 0:
            return default_mask
        drawn = torch.rand(size)
        kept = drawn > torch.kthvalue(drawn, k=count).values
        return _of_channels(kept, t, self.dim) * default_mask.to(t.dtype)

    @classmethod
    def apply(cls, module: nn.Module, name: str, amount: Any, dim: int = -1) -> Any:  # type: ignore[override]
        """As `BasePruningMethod.apply`."""
        return super().apply(module, name, amount=amount, dim=dim)


class LnStructured(Channels, _ByAmount, original.LnStructured):
    """The channels of smallest L_n norm.

    Args:
        amount: the fraction (float) or number (int) of channels to prune, of those that are not empty.
        n: the norm, as `p` of `torch.norm`: a number, inf, -inf, "fro" or "nuc".
        dim: the dimension whose slices are the channels.
    """

    PRUNING_TYPE = "structured"

    def __init__(self, amount: Any, n: Any, dim: int = -1) -> None:
        check_amount(amount)
        self.amount = amount
        self.n = n
        self.dim = dim

    def unit_scores(self, t: Tensor) -> Tensor:
        return mean_norm(self.split(t), self.n)

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        check_structured(t)
        check_dim(t, self.dim)
        size = t.shape[self.dim]
        count = self.count(size)
        check_scores(t, "the parameter")
        norm = channel_norm(t, self.n, self.dim)
        largest = torch.topk(norm, k=size - count, largest=True)
        if count == 0:
            return default_mask
        kept = torch.zeros(size, dtype=torch.bool, device=t.device)
        kept[largest.indices] = True
        return _of_channels(kept, t, self.dim) * default_mask.to(t.dtype)

    @classmethod
    def apply(  # type: ignore[override]
        cls,
        module: nn.Module,
        name: str,
        amount: Any,
        n: Any,
        dim: int,
        importance_scores: Tensor | None = None,
    ) -> Any:
        """As `BasePruningMethod.apply`."""
        return super().apply(module, name, amount=amount, n=n, dim=dim, importance_scores=importance_scores)


def _of_channels(kept: Tensor, t: Tensor, dim: int) -> Tensor:
    """A mask like `t` that is one in the kept slices along a dimension."""
    shape = [1] * t.dim()
    shape[dim] = -1
    return kept.to(t.device, t.dtype).reshape(shape).expand(t.shape).contiguous()
