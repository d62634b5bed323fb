"""Outputs made directly are what PyTorch's own meta kernels make: shape, dtype and strides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus import PruningError
from prunus.graph.shortcuts import SHORTCUTS

aten = torch.ops.aten


def t(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def last(*shape: int) -> Tensor:
    return t(*shape).contiguous(memory_format=torch.channels_last)


def _calls() -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    for x in (t(2, 8, 9, 7), last(2, 8, 9, 7), t(2, 8, 9, 7, dtype=torch.bfloat16)):
        norm = [t(8, dtype=torch.float32)] * 4
        yield "native_batch_norm", aten.native_batch_norm.default, (x, *norm, False, 0.1, 1e-5)
        for stride, pad, step, groups in product((1, 2), (0, 3), (1, 2), (1, 4)):
            weight = t(12, 8 // groups, 3, 2, dtype=x.dtype)
            for bias in (None, t(12, dtype=x.dtype)):
                args = (x, weight, bias, [stride] * 2, [pad, 1], [step] * 2, False, [0, 0], groups)
                yield "convolution", aten.convolution.default, args
        for dim, keep in product(([1], [-1, -2], [2, 3], []), (False, True)):
            yield "mean", aten.mean.dim, (x, dim, keep)
        for other in (t(2, 8, 9, 7), t(2, 8, 1, 1), t(8, 1, 1), t(7), t(1, 1, 9, 7), t()):
            for name in ("mul", "add", "sub"):
                for a, b in ((x, other.to(x.dtype)), (other.to(x.dtype), x), (x, other)):
                    yield name, getattr(aten, name).Tensor, (a, b)
        for dim in (0, 1, -1):
            yield "cat", aten.cat.default, ([x, x, x], dim)
        for name in ("relu", "hardswish", "silu", "gelu", "sigmoid", "tanh", "leaky_relu", "elu"):
            yield name, getattr(aten, name).default, (x,)
    yield (
        "convolution",
        aten.convolution.default,
        (t(2, 4, 9), t(6, 4, 3), None, [2], [1], [1], False, [0], 1),
    )
    yield "convolution", aten.convolution.default, (t(2, 4, 9), t(4, 6, 3), None, [2], [1], [1], True, [1], 1)
    yield "mm", aten.mm.default, (t(3, 4), t(4, 5))
    yield "mm", aten.mm.default, (t(3, 4), t(5, 4).t())
    yield "bmm", aten.bmm.default, (t(2, 3, 4), t(2, 4, 5))
    for bias in (t(5), t(3, 5), t(1, 5), t(1)):
        yield "addmm", aten.addmm.default, (bias, t(3, 4), t(4, 5))
    for name in ("sigmoid", "tanh", "add"):
        integers = (t(2, 3, dtype=torch.int64),) * (2 if name == "add" else 1)
        yield name, getattr(aten, name).Tensor if name == "add" else getattr(aten, name).default, integers
    yield "native_layer_norm", aten.native_layer_norm.default, (t(2, 3, 8), [8], t(8), t(8), 1e-5)
    yield "native_group_norm", aten.native_group_norm.default, (t(2, 8, 3, 3), t(8), t(8), 2, 8, 9, 4, 1e-5)


CALLS = list(_calls())


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_outputs_are_those_of_the_kernel(number: int) -> None:
    name, kernel, args = CALLS[number]
    made, expected = SHORTCUTS[name](*args), kernel(*args)
    if made is NotImplemented:
        return
    if not isinstance(expected, Tensor):  # by-products, whose shapes differ between devices, nothing reads
        made, expected = made[0], expected[0]
    assert (made.shape, made.dtype, made.device) == (expected.shape, expected.dtype, expected.device)
    assert made.stride() == expected.stride()


def test_the_plain_case_is_not_left_to_the_kernel() -> None:
    taken = {name for name, _, args in CALLS if SHORTCUTS[name](*args) is not NotImplemented}
    assert taken == {name for name, _, _ in CALLS}


@pytest.mark.parametrize(
    "layers",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(9, 4, 3)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(17, 4)),
        lambda: nn.Conv2d(3, 8, 30),
    ],
)
def test_a_model_that_fails_its_forward_still_fails(layers: Callable[[], nn.Module]) -> None:
    with pytest.raises(PruningError, match="fails its own forward"):
        prunus.trace(layers(), torch.randn(1, 3, 8, 8))
