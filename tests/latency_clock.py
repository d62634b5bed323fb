"""A clock without time: seconds follow from the operations that a call runs and from their shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

STAIR = 4
# Slow, so that one sample of an operation is always enough.
SECOND_PER_MAC = 1e-5
SECOND_PER_ELEMENT = 2e-5


def _up(size: int) -> int:
    return -(-size // STAIR) * STAIR


def made_up_seconds(name: str, args: Any, out: Tensor) -> float:
    """Convolutions and products cost as if their channels were multiples of four; the rest by its output."""
    if name == "convolution":
        weight = args[1]
        channels, depth = _up(weight.shape[0]), _up(weight.shape[1])
        return SECOND_PER_MAC * out[:, :1].numel() * channels * depth * math.prod(weight.shape[2:])
    if name in ("mm", "addmm"):
        a, b = args[-2:]
        return SECOND_PER_MAC * a.shape[0] * _up(a.shape[1]) * _up(b.shape[1])
    return SECOND_PER_ELEMENT * out.numel()


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        alias = func._schema.returns[0].alias_info if func._schema.returns else None
        first = result[0] if isinstance(result, tuple | list) else result
        if isinstance(first, Tensor) and (alias is None or alias.is_write):
            self.seconds += made_up_seconds(func._schema.name.split("::")[-1], args, first)
        return result


class MadeUpClock:
    """Every call takes `offset` plus `scale` times what its operations cost; `timed` counts the calls."""

    def __init__(self, scale: float = 1.0, offset: float = 0.0) -> None:
        self.scale = scale
        self.offset = offset
        self.timed = 0

    def seconds(self, call: Callable[[], Any]) -> float:
        self.timed += 1
        with _Counting() as counting:
            call()
        return self.offset + self.scale * counting.seconds
