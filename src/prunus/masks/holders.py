"""Whether anybody but its own node still holds the output of an autograd function.

Who wants to see a tensor later holds its memory: a variable, a view, another node of the graph, an array of
NumPy. torch counts these. What the count is of an output that its node alone has saved is not written
anywhere, so it is tried once, and so is whether one more holder shows.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils._python_dispatch import _get_current_dispatch_mode


def graph_repacks_tensors() -> bool:
    """Whether hooks on saved tensors are at work: unpacking what they keep may compute it again."""
    top: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return top is None or top(True) is not None


def saved_alone(ctx: Any) -> Tensor | None:
    """The output that a node has saved, in a backward pass, if its memory is of no use to anybody else.

    Args:
        ctx: that of a function which has saved its output and nothing else.
    """
    if _get_current_dispatch_mode() is not None or graph_repacks_tensors():
        return None
    most = _count_alone()
    if most is None:
        return None
    try:
        (out,) = ctx.saved_tensors
    except (RuntimeError, ValueError):  # it has been freed, changed in place, or never saved
        return None
    found: Tensor = out
    return found if _count(found) <= most else None


def _count(t: Tensor) -> int:
    storage = t.untyped_storage()
    return int(torch._C._storage_Use_Count(storage._cdata)) + sys.getrefcount(storage)


@functools.cache
def _count_alone() -> int | None:
    """What `_count` gives of an output that its node alone holds; None if other holders do not show."""
    if not hasattr(torch._C, "_storage_Use_Count"):
        return None
    counts: list[int] = []
    for kept in (None, Tensor.detach, Tensor.untyped_storage, lambda t: t):
        with torch.enable_grad():
            out = _Probe.apply(torch.zeros(2, device="cpu", requires_grad=True), counts)  # type: ignore[no-untyped-call]
            held, total = kept and kept(out), out.sum()
            del out
            total.backward()
            del held
    return counts[0] if min(counts[1:]) > counts[0] else None


class _Probe(Function):
    """Counts, in its backward pass, who holds its output."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, counts: list[int]) -> Tensor:
        out = t.clone()
        ctx.save_for_backward(out)
        ctx.counts = counts
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        ctx.counts.append(_count(out))
        return grad, None
