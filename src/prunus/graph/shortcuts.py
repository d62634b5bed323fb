"""Outputs of operations whose meta kernels are slow Python decompositions, made directly.

On the meta device an operation only has to give tensors of the right shape, dtype and strides. For a batch
norm PyTorch runs a dozen element-wise references to find that out; here it is one `empty`. A shortcut
returns `NotImplemented` for whatever is not the plain case, errors included: PyTorch's kernel decides then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def _empty(x: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device)


def _like(x: Tensor, *_: Any, **__: Any) -> Any:
    if not x.is_contiguous():
        return torch.empty_like(x)
    return _empty(x, x.shape)


def _float_like(x: Tensor, *_: Any, **__: Any) -> Any:
    return _like(x) if x.is_floating_point() else NotImplemented


def _same(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    *_: Any,
) -> Any:
    saved = (x.shape[1] if training else 0,)
    return _like(x), _empty(x, saved), _empty(x, saved)


def _layer_norm(x: Tensor, shape: list[int], *_: Any) -> Any:
    lead = x.dim() - len(shape)
    saved = [*x.shape[:lead], *[1] * len(shape)]
    return _empty(x, x.shape), _empty(x, saved), _empty(x, saved)


def _group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, c: int, hw: int, groups: int, *_: Any
) -> Any:
    return _like(x), _empty(x, (n, groups)), _empty(x, (n, groups))


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    plain = x.is_contiguous() and weight.is_contiguous() and x.dtype == weight.dtype
    rank = x.dim() - 2
    fits = x.dim() == weight.dim() and x.shape[1] == weight.shape[1] * groups
    if transposed or not plain or not fits or not len(stride) == len(padding) == len(dilation) == rank:
        return NotImplemented
    if weight.shape[0] % groups or (bias is not None and bias.shape != weight.shape[:1]):
        return NotImplemented
    spatial = [
        (size + 2 * pad - step * (kernel - 1) - 1) // jump + 1
        for size, kernel, jump, pad, step in zip(
            x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True
        )
    ]
    if min(spatial, default=1) < 1:
        return NotImplemented
    return _empty(x, (x.shape[0], weight.shape[0], *spatial))


def _matrix_product(a: Tensor, b: Tensor) -> Any:
    fits = a.dim() == b.dim() and a.shape[-1] == b.shape[-2] and a.shape[:-2] == b.shape[:-2]
    return _empty(a, (*a.shape[:-1], b.shape[-1])) if fits and a.dtype == b.dtype else NotImplemented


def _biased_product(bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> Any:
    out = _matrix_product(a, b)
    if out is NotImplemented or bias.dtype != a.dtype:
        return NotImplemented
    return out if bias.shape == out.shape[-bias.dim() :] else NotImplemented


def _binary(a: Tensor, b: Any, **_: Any) -> Any:
    """Two tensors of equal shape, or one that is broadcast over the other."""
    if not isinstance(b, Tensor) or a.dtype != b.dtype or not a.is_floating_point():
        return NotImplemented
    if not (a.is_contiguous() and b.is_contiguous()):
        return NotImplemented
    if a.shape == b.shape:
        return _empty(a, a.shape)
    large, small = (a, b) if a.numel() > b.numel() else (b, a)
    lead = large.dim() - small.dim()
    if lead < 0 or any(
        part not in (1, size) for part, size in zip(small.shape, large.shape[lead:], strict=True)
    ):
        return NotImplemented
    return _empty(large, large.shape)


def _mean(x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, **options: Any) -> Any:
    if not dim or options or not x.is_floating_point() or not x.is_contiguous():
        return NotImplemented
    rank = x.dim()
    if any(not -rank <= d < rank for d in dim):
        return NotImplemented
    gone = {d % rank for d in dim}
    shape = [1 if d in gone else size for d, size in enumerate(x.shape) if keepdim or d not in gone]
    return _empty(x, shape)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    first = tensors[0]
    rank = first.dim()
    if not rank or not -rank <= dim < rank:
        return NotImplemented
    dim %= rank
    shape = list(first.shape)
    for other in tensors[1:]:
        rest = other.dim() == rank and [*other.shape[:dim], *other.shape[dim + 1 :]]
        if rest != [*shape[:dim], *shape[dim + 1 :]] or other.dtype != first.dtype:
            return NotImplemented
        shape[dim] += other.shape[dim]
    if not all(tensor.is_contiguous() for tensor in tensors):
        return NotImplemented
    return _empty(first, shape)


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
_FLOAT = ("silu", "gelu", "sigmoid", "tanh")

SHORTCUTS: dict[str, Callable[..., Any]] = {
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "convolution": _convolution,
    "mm": _matrix_product,
    "bmm": _matrix_product,
    "addmm": _biased_product,
    "mul": _binary,
    "add": _binary,
    "sub": _binary,
    "mean": _mean,
    "cat": _cat,
    **dict.fromkeys(_UNARY, _like),
    **dict.fromkeys(_FLOAT, _float_like),
    **{f"{name}_": _same for name in (*_UNARY, *_FLOAT)},
}
