"""What reading a mask gives: the bool buffer, in which arithmetic is that of the numbers 0 and 1.

`torch.nn.utils.prune` keeps masks in the parameter's dtype, and what is written for it says `1 - mask`,
`mask.mean()` or `mask.mul_(other)`, which bool tensors refuse. So `module.weight_mask` is a view of the bool
buffer that reads as those numbers in arithmetic and as a bool tensor elsewhere (comparisons, indices, logic),
and that writes through to the buffer. Buffers hold plain bool tensors, state dicts views.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .bits import is_binary
from .errors import InputError

_STRUCTURE = frozenset(
    """clone detach contiguous cpu cuda to view view_as reshape reshape_as flatten ravel unflatten squeeze
    unsqueeze permute transpose t movedim moveaxis swapaxes swapdims expand expand_as broadcast_to chunk split
    tensor_split unbind select narrow index_select repeat repeat_interleave tile flip roll diagonal
    pin_memory __getitem__ __deepcopy__""".split()
)
"""What gives the same entries in another place or form: of a mask, a mask."""

_AS_BOOL = frozenset(
    """eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ any all nonzero count_nonzero argwhere
    where logical_not logical_and logical_or logical_xor bitwise_not bitwise_and bitwise_or bitwise_xor
    __invert__ __and__ __or__ __xor__ __rand__ __ror__ __rxor__ __iand__ __ior__ __ixor__
    logical_not_ logical_and_ logical_or_ logical_xor_ bitwise_and_ bitwise_or_ bitwise_xor_
    masked_fill masked_fill_ masked_select masked_scatter masked_scatter_ isnan isinf isfinite
    copy_ fill_ zero_ __setitem__ index_fill_ resize_ index_put index_put_
    size dim ndimension numel nelement element_size stride storage_offset data_ptr storage untyped_storage
    is_contiguous is_floating_point is_complex is_shared is_pinned get_device share_memory_ requires_grad_
    __len__ __hash__ __bool__ bool type backward register_hook is_same_size""".split()
)
"""What bool tensors do as float ones would, or what is only asked of bool ones."""

_JOINS = frozenset(["cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack"])
"""What puts tensors together: of masks alone, a mask."""

_EITHER = frozenset(["equal", "allclose", "isclose"])
"""Comparisons that want tensors of one dtype, be they bool or not."""


class MaskView(Tensor):
    """A view of a bool mask; see above.

    Attributes:
        held: the bool tensor.
        numbers: the dtype of 0 and 1 in arithmetic, that of the parameter.
    """

    held: Tensor
    numbers: torch.dtype

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        if name == "__set__":
            return _set(func, *args)
        given = list(_flat((args, kwargs)))
        view = next(item for item in given if isinstance(item, MaskView))

        def plain(item: Any) -> Any:
            return item.held if isinstance(item, MaskView) else item

        def number(item: Any) -> Any:
            return item.held.to(item.numbers) if isinstance(item, MaskView) else item

        if name in _EITHER:
            args, kwargs = tree_map(number, (args, kwargs))
            return func(*tree_map(_no_bool(view.numbers), args), **kwargs)
        alone = all(isinstance(item, MaskView) for item in given if isinstance(item, Tensor))
        first = bool(args) and isinstance(args[0], MaskView)
        if name == "__get__" or (name in _STRUCTURE and first) or (name in _JOINS and alone):
            found = func(*tree_map(plain, args), **tree_map(plain, kwargs))
            return tree_map(lambda item: _again(item, view.numbers), found)
        if name in _AS_BOOL or name == "__getitem__":
            return func(*tree_map(plain, args), **tree_map(plain, kwargs))
        into = args[0] if args and _writes(name) else kwargs.get("out")
        if not any(isinstance(item, MaskView) for item in _flat(into)):
            return func(*tree_map(number, args), **tree_map(number, kwargs))
        new = tree_map(number, into)
        if "out" in kwargs:
            func(*tree_map(number, args), **{**tree_map(number, kwargs), "out": new})
        else:
            func(new, *tree_map(number, args[1:]), **tree_map(number, kwargs))
        return _write_back(into, new)

    def set_(self, source: Any = None, *place: Any) -> Any:
        """Have the mask lie where another one does; one of numbers is turned into bool first."""
        source = plain_mask(source) if isinstance(source, Tensor) else source
        if isinstance(source, Tensor) and source.dtype is not torch.bool:
            source = _binary(source)
        given = () if source is None else (source, *place)
        self.held.set_(*given)
        with torch._C.DisableTorchFunctionSubclass():
            super().set_(*given)
        return self

    def __copy__(self) -> Tensor:
        return mask_view(copy.copy(self.held), self.numbers)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as the plain mask."""
        return self.held.__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return repr(self.held.to(self.numbers))


def mask_view(mask: Tensor, numbers: torch.dtype) -> Tensor:
    """A view of a mask; what is no plain bool tensor is returned as it is."""
    if type(mask) is not Tensor or mask.dtype is not torch.bool or torch.compiler.is_compiling():
        return mask
    detached = mask.detach()
    if type(detached) is not Tensor:  # a mode puts others in the place of tensors, and those have no view
        return mask
    view = detached.as_subclass(MaskView)
    view.held, view.numbers = mask, numbers
    return view


def mask_buffer(module: nn.Module, key: str) -> Tensor:
    """The buffer that holds a mask, itself; `key` is `<name>_mask`.

    Raises:
        InputError: somebody has put a tensor there that is no mask.
    """
    mask = _buffer(module, key)
    if mask.dtype is not torch.bool and type(mask) is Tensor and not torch.compiler.is_compiling():
        _check(mask, f"{key!r} of {type(module).__name__} is no mask: it")
    return mask


def _buffer(module: nn.Module, key: str) -> Tensor:
    mask = module._buffers[key]
    assert mask is not None
    if isinstance(mask, MaskView):  # somebody has put what he had read back
        mask = module._buffers[key] = mask.held
    return mask


def plain_mask(mask: Tensor) -> Tensor:
    """What a view is of; any other tensor itself."""
    return mask.held if isinstance(mask, MaskView) else mask


class MaskAttribute:
    """What reading `<name>_mask` of a module gives. Writing goes to the buffers, as ever."""

    def __init__(self, key: str, orig: str) -> None:
        self.key, self.orig = key, orig

    def __get__(self, module: nn.Module | None, owner: type | None = None) -> Any:
        if module is None:
            return self
        if self.key not in module._buffers:
            raise AttributeError(f"{type(module).__name__!r} object has no attribute {self.key!r}")
        orig = module._parameters.get(self.orig)
        mask = _buffer(module, self.key)
        return mask if orig is None else mask_view(mask, orig.dtype)


def _flat(item: Any) -> Iterable[Any]:
    if isinstance(item, tuple | list):
        for part in item:
            yield from _flat(part)
    elif isinstance(item, dict):
        yield from _flat(list(item.values()))
    else:
        yield item


def _again(item: Any, numbers: torch.dtype) -> Any:
    return mask_view(item, numbers) if isinstance(item, Tensor) else item


def _no_bool(numbers: torch.dtype) -> Callable[[Any], Any]:
    def change(item: Any) -> Any:
        return item.to(numbers) if isinstance(item, Tensor) and item.dtype is torch.bool else item

    return change


def _writes(name: str) -> bool:
    return (name.endswith("_") and not name.endswith("__")) or name in (
        "__iadd__",
        "__isub__",
        "__imul__",
        "__idiv__",
        "__itruediv__",
        "__ipow__",
    )


def _write_back(into: Any, new: Any) -> Any:
    """Put what arithmetic in place has made of the numbers of masks, alone or in lists, into the masks.

    Raises:
        InputError: what comes out is no mask; none is changed.
    """
    pairs = [pair for pair in zip(_flat(into), _flat(new), strict=True) if isinstance(pair[0], MaskView)]
    for view, mask in [(view, _binary(numbers)) for view, numbers in pairs]:
        view.held.copy_(mask)
    return into.held if isinstance(into, MaskView) else into


def _set(func: Callable[..., Any], view: Tensor, value: Any) -> None:
    """Set an attribute such as `data`."""
    value = value.held if isinstance(value, MaskView) else value
    if not isinstance(view, MaskView):
        func(view, value)
    elif isinstance(value, Tensor):
        func(view.held, _binary(value))
    else:
        func(view.held, value)


def _binary(values: Tensor) -> Tensor:
    _check(values, "a mask holds 0 and 1 only; this")
    return values != 0


def _check(values: Tensor, what: str) -> None:
    if not is_binary(values):
        raise InputError(f"{what} holds other values than 0 and 1")
