"""The reference for plans that are not exact because of a norm: statistics over the kept units only.

A layer norm over pruned channels cannot equal the original with zeros in it, since zeros count in its mean.
It must equal the original whose norm looks at the kept channels alone, and nothing else may differ.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from oracle import PlanLike, masked_copy


class KeptLayerNorm(nn.Module):
    """Layer or RMS norm over the last dimensions, with mean and variance over kept positions."""

    def __init__(self, norm: Any, kept: Tensor, centred: bool) -> None:
        super().__init__()
        self.norm, self.kept, self.centred = norm, kept, centred
        eps = getattr(norm, "eps", None)
        self.eps = getattr(norm, "variance_epsilon", None) if eps is None else eps

    def forward(self, x: Tensor) -> Tensor:
        dims = tuple(range(-self.kept.dim(), 0))
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        count, kept = self.kept.sum(), self.kept.to(x.dtype)
        centre = (x * kept).sum(dims, keepdim=True) / count if self.centred else 0.0
        x = (x - centre) * kept
        x = x * torch.rsqrt(x.square().sum(dims, keepdim=True) / count + eps) * self.norm.weight
        bias = getattr(self.norm, "bias", None)
        return x if bias is None else x + bias


class KeptGroupNorm(nn.Module):
    def __init__(self, norm: nn.GroupNorm, kept_C: Tensor) -> None:
        super().__init__()
        self.norm, self.kept_C = norm, kept_C

    def forward(self, x: Tensor) -> Tensor:
        tail = [1] * (x.dim() - 2)
        kept = self.kept_C.to(x.dtype).view(1, -1, *tail).expand_as(x)
        grouped, kept = (t.reshape(len(x), self.norm.num_groups, -1) for t in (x, kept))
        count = kept.sum(-1, keepdim=True).clamp_min(1)
        centred = (grouped - (grouped * kept).sum(-1, keepdim=True) / count) * kept
        y = centred * torch.rsqrt(centred.square().sum(-1, keepdim=True) / count + self.norm.eps)
        return y.view_as(x) * self.norm.weight.view(-1, *tail) + self.norm.bias.view(-1, *tail)


def norm_over_kept(norm: nn.Module, kept: Tensor) -> nn.Module | None:
    if isinstance(norm, nn.GroupNorm):
        return KeptGroupNorm(norm, kept)
    if isinstance(norm, nn.LayerNorm):
        return KeptLayerNorm(norm, kept, centred=True)
    if type(norm).__name__.endswith("RMSNorm"):
        return KeptLayerNorm(norm, kept, centred=False)
    return None


def kept_statistics_copy(original: nn.Module, plan: PlanLike) -> nn.Module:
    """The zeroed original with every affine norm looking at the kept units alone."""
    masks = plan.masks()
    model = masked_copy(original, masks)
    for name, module in list(model.named_modules()):
        mask = masks.get(f"{name}.weight")
        replacement = None if mask is None else norm_over_kept(module, mask)
        if replacement is not None:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, replacement)
    return model
