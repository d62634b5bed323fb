"""What is known of a tensor before any input is seen: which of its entries are constants, and which ones.

Shapes are *reduced*: along a dimension a tensor has its full size, or size one where it is alike along it.
What is known of a feature map of shape (B, C, H, W) has the shape (1, C, 1, 1), so nothing here grows with
the inputs. The same holds of *needs*, the entries that an output of the model depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..graph.values import Value


@dataclass(frozen=True)
class Facts:
    """Constants in one tensor.

    Attributes:
        known: bool, reduced: the entry is the same whatever the input.
        value: reduced: what it is; zero where it is not known.
        sums_to_one: the dimension along which the tensor sums to one, as a softmax does.
    """

    known: Tensor
    value: Tensor
    sums_to_one: int | None = None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Facts:
        """The same change of shape to both tensors."""
        return Facts(change(self.known), change(self.value))

    @property
    def zero(self) -> Tensor:
        return self.known & (self.value == 0)

    @property
    def nonzero(self) -> Tensor:
        """Entries that are not known to be zero."""
        return self.value != 0 if self.all else ~self.zero

    @property
    def any(self) -> bool:
        return bool(self.known.any())

    @property
    def all(self) -> bool:
        return bool(self.known.all())


def working(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute constants in: half precision has no kernels everywhere, and rounds."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def unknown(value: Value, device: torch.device) -> Facts:
    shape = (1,) * len(value.axes)
    return Facts(
        torch.zeros(shape, dtype=torch.bool, device=device),
        torch.zeros(shape, dtype=working(value.dtype), device=device),
    )


def constant(tensor: Tensor) -> Facts:
    """A tensor that no input changes."""
    known = torch.ones((1,) * tensor.dim(), dtype=torch.bool, device=tensor.device)
    return found(known, tensor.detach())


def found(known: Tensor, value: Tensor) -> Facts:
    """Facts with the value cleared where it is not known; a constant that is not finite counts as unknown."""
    value = value.to(working(value.dtype))
    real = value.is_floating_point() or value.is_complex()
    if real and not bool(value.sum().isfinite()):  # much faster than to ask each entry
        known = known & value.isfinite()
    if not bool(known.all()):
        value = torch.where(known, value, torch.zeros((), dtype=value.dtype, device=value.device))
    return Facts(known, value)


def joint_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that tensors of these shapes broadcast to."""
    return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def split(tensor: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """One dimension as several, row-major."""
    dim %= tensor.dim()
    return tensor.reshape(*tensor.shape[:dim], *sizes, *tensor.shape[dim + 1 :])


def spread(tensor: Tensor, dims: Iterable[int], shape: Sequence[int]) -> Tensor:
    """Full size along some dimensions."""
    sizes = list(tensor.shape)
    for d in dims:
        sizes[d] = shape[d]
    return tensor.expand(sizes)


def alike(facts: Facts, dims: Iterable[int]) -> Facts:
    """Size one along some dimensions: known where all entries along them are known and the same."""
    known, value = facts.known, facts.value
    for d in dims:
        if value.shape[d] > 1:
            known = known & (value == value.narrow(d, 0, 1)).all(d, keepdim=True)
            value = value.narrow(d, 0, 1)
        if known.shape[d] > 1:
            known = known.all(d, keepdim=True)
    return replace(found(known, value), sums_to_one=None)


def compressed(facts: Facts, dims: Iterable[int]) -> Facts:
    """Size one along those of some dimensions along which nothing differs."""
    known, value = facts.known, facts.value
    for d in dims:
        if 0 in (known.shape[d], value.shape[d]):
            continue
        if all(t.shape[d] == 1 or bool((t == t.narrow(d, 0, 1)).all()) for t in (known, value)):
            known, value = known.narrow(d, 0, 1), value.narrow(d, 0, 1)
    return replace(facts, known=known, value=value)


def whole(need: Tensor, dims: Iterable[int]) -> Tensor:
    """Size one along some dimensions: needed where any entry along them is."""
    for d in dims:
        if need.shape[d] > 1:
            need = need.any(d, keepdim=True)
    return need


def fitted(need: Tensor, value: Value) -> Tensor:
    """The need for a broadcast result as one for an operand of it, lined up from the right."""
    while need.dim() > len(value.axes):
        need = need.any(0)
    return whole(need, [d for d, node in enumerate(value.axes) if node.size == 1])
