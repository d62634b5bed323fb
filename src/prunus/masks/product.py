"""A parameter times its bool mask.

On CPUs, torch multiplies tensors of two dtypes by first casting one of them as a whole, which makes a masked
step dearer than with float masks. So large tensors are multiplied here piece by piece, each cast within the
cache; that reads less memory than float masks do. Wherever somebody looks on (compilers, tracers, subclasses
of tensors), it is the ordinary product.

The graph of a forward pass keeps the product, as it would keep a parameter, so that who reads the masked
parameter afterwards can ask for gradients with respect to what that pass has used; see `Used`. When the
gradient has come as far as the product, and nobody else holds that, the masked gradient takes its place in
memory. Other memory for it would cost more than the multiplication: the system maps it page by page.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._python_dispatch import _get_current_dispatch_mode

from .holders import graph_repacks_tensors, saved_alone

PIECE = 1 << 22
"""Entries that are cast together; their product is then made in the cache, with few calls."""

SMALL = 1 << 13
"""Entries below which casting the mask as a whole is as fast."""

REUSED = 1 << 15
"""Entries from which the place of the product is worth taking; below, memory costs next to nothing."""


def masked(orig: Tensor, mask: Tensor) -> Tensor:
    """The product, in the dtype of `orig`, differentiable with respect to it."""
    if mask.dtype is not torch.bool:
        mask = mask != 0
    if getattr(orig, "device_mesh", None) is not None and getattr(mask, "device_mesh", None) is None:
        mask = _sharded_like(mask, orig)
    if torch.compiler.is_compiling() or not _is_plain(orig, mask):
        return orig * mask
    product: Tensor = _Product.apply(orig, mask)  # type: ignore[no-untyped-call]
    return product


class Used:
    """The product that the latest forward pass has used, while its graph waits for a backward pass.

    Nothing is kept here: the graph has it, and lets it go after the backward pass.
    """

    def __init__(self) -> None:
        self._node: weakref.ref[Any] | None = None
        self._of: tuple[int, ...] = ()

    def remember(self, product: Tensor, orig: Tensor, mask: Tensor) -> None:
        """Note where the product can be found again, if its graph has it as it is."""
        node = product.grad_fn
        if isinstance(node, _KEEPING) and not graph_repacks_tensors():
            self._node, self._of = weakref.ref(node), _state(orig, mask)

    def again(self, orig: Tensor, mask: Tensor) -> Tensor | None:
        """The product, unless its graph is gone, or parameter or mask have changed since."""
        if self._node is None:
            return None
        node = self._node()
        if node is None or not torch.is_grad_enabled() or self._of != _state(orig, mask):
            return None
        try:
            found: Tensor = node.saved_tensors[0]
        except RuntimeError:  # the backward pass has been, or the product was changed in place
            return None
        return found

    def forget(self) -> None:
        """A new forward pass begins."""
        self._node = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Used:
        return Used()

    def __reduce__(self) -> Any:
        return (Used, ())


def _state(orig: Tensor, mask: Tensor) -> tuple[int, ...]:
    return id(orig), _version(orig), orig.data_ptr(), _version(mask), mask.data_ptr()


def _version(t: Tensor) -> int:
    """How often a tensor has been changed in place; those made in inference mode do not count."""
    return -1 if t.is_inference() else t._version


def _is_plain(orig: Tensor, mask: Tensor) -> bool:
    return (
        type(orig) in (Tensor, nn.Parameter)
        and type(mask) in (Tensor, nn.Parameter)
        and not torch._C._is_tracing()
        and _get_current_dispatch_mode() is None
        and torch._C._functorch.peek_interpreter_stack() is None
    )


class _Product(Function):
    """`orig * mask`. The backward pass needs the mask only; the product is kept for `Used`, and its place."""

    @staticmethod
    def forward(ctx: Any, orig: Tensor, mask: Tensor) -> Tensor:
        out = _by_pieces(orig, mask)
        if not graph_repacks_tensors():
            ctx.save_for_backward(out)
        ctx.mask, ctx.version = mask, _version(mask)  # not freed: other losses may come back through here
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        mask = ctx.mask
        if _version(mask) != ctx.version:
            raise RuntimeError("a mask was changed in place between a forward pass and its backward pass")
        if torch.is_grad_enabled() or type(grad) is not Tensor:
            return masked(grad, mask), None
        return _by_pieces(grad, mask, _place(ctx, grad, mask)), None


_KEEPING: Any = _Product._backward_cls
_KEEPING.__name__ = "MulBackward0"  # a masked parameter prints as the product that it is


def _by_pieces(orig: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
    """The product, in the memory of `out` if that is given."""
    if orig.numel() <= SMALL or not _contiguous_on_cpu(orig, mask):
        return orig * mask
    out, keep = torch.empty_like(orig) if out is None else out, mask.view(torch.uint8)
    if orig.numel() <= PIECE:
        return out.copy_(keep).mul_(orig)
    pieces = [torch.split(t.view(-1), PIECE) for t in (out, orig, keep)]
    for into, values, part in zip(*pieces, strict=True):
        into.copy_(part).mul_(values)
    return out


def _place(ctx: Any, grad: Tensor, mask: Tensor) -> Tensor | None:
    """Memory for a masked gradient: that of the product, if it is of no use any more."""
    if grad.numel() < REUSED or not _contiguous_on_cpu(grad, mask):
        return None
    product = saved_alone(ctx)
    if product is None or product.dtype is not grad.dtype or not product.is_contiguous():
        return None
    return product.detach()  # counts as changed in place, so that nobody takes it for the product again


def _contiguous_on_cpu(a: Tensor, b: Tensor) -> bool:
    return a.is_contiguous() and b.is_contiguous() and a.device.type == "cpu"


def _sharded_like(mask: Tensor, orig: Any) -> Tensor:
    """A mask that every rank has in full, laid out as a distributed parameter is; nothing is sent."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = orig.device_mesh
    whole = DTensor.from_local(mask, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return whole.redistribute(mesh, orig.placements)
