"""Masks that are given, and how a method remembers the one that it was given."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as original

from .bits import Bits, is_binary, pack
from .errors import InputError, KindError, MethodError, ShapeError
from .mask_view import mask_view
from .method import BasePruningMethod
from .parameters import current_mask
from .reparametrize import MASK, ORIG, hooks_of


class Owner:
    """The module that a method masks, while it lives; in a copy of the module, the copy."""

    def __init__(self, module: nn.Module | None = None) -> None:
        self._module = None if module is None else weakref.ref(module)

    def __call__(self) -> nn.Module | None:
        return None if self._module is None else self._module()

    def __deepcopy__(self, memo: dict[int, Any]) -> Owner:
        module = self()
        return Owner(memo.get(id(module), module))

    def __reduce__(self) -> Any:
        """Files do not say: a method that is saved by itself would drag its module along."""
        return (Owner, ())


class CustomFromMask(BasePruningMethod, original.CustomFromMask):
    """A mask that is given.

    Args:
        mask: 0 and 1, or False and True, of the parameter's shape.

    Attributes:
        mask: the mask, which computes with 0 and 1 in the dtype that it was given in. It is kept as bits,
            since the module has it as well. Where it was chosen by `global_unstructured` or a plan, which may
            be asked often, it is not kept but read from the module, until a later choice takes its place.
            None forgets it.
    """

    PRUNING_TYPE = "global"

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    @property
    def mask(self) -> Tensor:
        return self._of_module() if self._bits is None else mask_view(self._held(), self._numbers)

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        self._owner = Owner()
        self._bits: Bits | Tensor | None = None if mask is None else _checked_bits(mask)
        self._numbers = torch.bool if mask is None else mask.dtype

    def _held(self) -> Tensor:
        assert self._bits is not None
        return self._bits.unpack() if isinstance(self._bits, Bits) else self._bits

    def _of_module(self) -> Tensor:
        """A copy of the mask that the module has.

        Raises:
            MethodError: it is not this method's, or nobody knows which module that is.
        """
        module = self._owner()
        if module is None:
            raise MethodError("this mask was chosen for a module, and only the module has it: <name>_mask")
        name = self._tensor_name
        latest = [_latest(hook) for _, hook in hooks_of(module, name)]
        if not any(method is self for method in latest):
            raise MethodError(
                f"this mask of {name!r} is not kept any more: a later choice has taken its place, or it was "
                f"removed; read {name + MASK!r} of the module before that"
            )
        orig = module._parameters[name + ORIG]
        assert orig is not None
        return mask_view(current_mask(module, name).clone(), orig.dtype)

    def restored(self, module: nn.Module) -> None:
        """See `BasePruningMethod.restored`."""
        self._owner = Owner(module)

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = self._of_module() if self._bits is None else self._held()
        if default_mask.shape != mask.shape:
            raise ShapeError(
                f"a mask of shape {tuple(mask.shape)} for a parameter of {tuple(default_mask.shape)}"
            )
        return default_mask * mask.to(default_mask.device, default_mask.dtype)

    @classmethod
    def apply(cls, module: nn.Module, name: str, mask: Tensor) -> Any:  # type: ignore[override]
        """As `BasePruningMethod.apply`."""
        return super().apply(module, name, mask=mask)

    @classmethod
    def apply_once(cls, module: nn.Module, name: str, mask: Tensor) -> None:
        """As `apply`, keeping no copy of the mask in the history of the parameter."""
        method = _latest(cls.apply(module, name, mask))
        method.mask = None
        method._owner = Owner(module)


def _latest(method: Any) -> Any:
    return method[-1] if isinstance(method, original.PruningContainer) and len(method) else method


def _checked_bits(mask: Any) -> Bits | Tensor:
    if not isinstance(mask, Tensor):
        raise KindError(f"mask must be a tensor, got {type(mask).__name__}")
    if not is_binary(mask):
        raise InputError("a mask holds 0 and 1 (or False and True) only; this one holds other values")
    return pack((mask != 0).detach())
