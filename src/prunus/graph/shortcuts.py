"""Outputs of operations whose meta kernels are slow Python decompositions, made directly.

On the meta device an operation only has to give tensors of the right shape, dtype and strides. For a batch
norm PyTorch runs a dozen element-wise references to find that out; here it is one `empty_like`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    saved = x.shape[1] if training else 0
    return torch.empty_like(x), x.new_empty(saved), x.new_empty(saved)


def _layer_norm(x: Tensor, shape: list[int], *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    lead = x.dim() - len(shape)
    saved = [*x.shape[:lead], *[1] * len(shape)]
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(saved), x.new_empty(saved)


def _group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, c: int, hw: int, groups: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(n, groups), x.new_empty(n, groups)


def _like(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(x)


def _same(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


_UNARY = (
    "hardswish",
    "hardsigmoid",
    "hardtanh",
    "leaky_relu",
    "elu",
    "celu",
    "relu6",
    "selu",
    "mish",
    "relu",
)

SHORTCUTS: dict[str, Callable[..., Any]] = {
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    **dict.fromkeys(_UNARY, _like),
    **{f"{name}_": _same for name in _UNARY},
}
