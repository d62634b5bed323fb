"""What a pruning method is: how it makes a mask, and how the mask is put on a parameter and taken off."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as original

from .amounts import check_dim
from .errors import ArgumentTypeError, HookError, InputError, KindError, MethodError
from .mask_view import mask_buffer
from .parameters import (
    check_names_free,
    check_not_wrapped,
    check_slot,
    checked_mask,
    checked_scores,
    current_mask,
    describe,
    name_of,
    parameter_values,
    put_on,
    take_off,
)
from .product import masked
from .reparametrize import MASK, ORIG, hooks_of


class BasePruningMethod(original.BasePruningMethod):
    """A way to choose what to prune. A new one sets `PRUNING_TYPE` and `compute_mask`.

    `PRUNING_TYPE` says what a later call acts on, of a parameter that has a mask already: "unstructured" on
    the entries that are left, as a vector; "structured" on the channels along `self.dim` that are not empty;
    "global" on the whole tensor.

    Methods for `torch.nn.utils.prune` work here as they are, and the other way round.
    """

    PRUNING_TYPE: str
    EACH_ALONE = False
    """Whether a choice among many parameters is one in each, since the ratio is fixed in the small (N:M)."""

    _tensor_name: str

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        """The hook before each forward: forget what was set in the parameter's place, or used before."""
        if not torch.compiler.is_compiling() and "_used" in self.__dict__:
            self.__dict__["_used"].forget()
        if self._tensor_name in module.__dict__:
            del module.__dict__[self._tensor_name]

    def restored(self, module: nn.Module) -> None:
        """Called when the module that this method masks has been read from a file."""

    @abstractmethod
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The new mask.

        Args:
            t: the scores, usually the parameter itself; what matters is the part that is left (see above).
            default_mask: the mask so far, of the shape and dtype of `t`, with ones where nothing is pruned.

        Returns:
            A mask of the shape of `t`, with zeros where `default_mask` has them too.
        """

    def prepare(self, t: Tensor, alive: Tensor | None) -> Tensor:
        """What the scores of the entries of a parameter are computed from; the parameter itself by default.

        Args:
            t: the parameter, or the scores given for it.
            alive: bool, of the same shape, True for the entries that are left; None for all.
        """
        return t

    def entry_scores(self, t: Tensor) -> Tensor:
        """Scores of any piece of what `prepare` gave, entry by entry; the lowest are pruned first.

        A method that defines this and `count` can rank the entries of many parameters without putting them
        into one vector: see `global_unstructured`.
        """
        raise NotImplementedError

    def apply_mask(self, module: nn.Module) -> Tensor:
        """The parameter times its mask; differentiable with respect to `<name>_orig`."""
        name = name_of(self, module)
        return masked(getattr(module, name + ORIG), mask_buffer(module, name + MASK))

    @classmethod
    def apply(
        cls, module: nn.Module, name: str, *args: Any, importance_scores: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Mask a parameter, or prune more of one that is masked already.

        Args:
            module: the module that holds the parameter, changed in place.
            name: the parameter's name in it.
            args: arguments of the method.
            importance_scores: what to compute the mask from instead of the parameter, of the same shape.
            kwargs: arguments of the method.

        Returns:
            The method, or a `PruningContainer` with all methods on this parameter.

        Raises:
            MissingParameterError: the module has no such parameter (also an AttributeError).
            ArgumentTypeError: what is there is no parameter (also a TypeError).
            ShapeError: scores or mask are of another shape (also an AssertionError).
            InputError: scores are NaN, or the mask holds something else than 0 and 1 (also a ValueError).
            PruningError: what the method itself raises. The module is as it was in all cases.
        """
        check_slot(module, name)
        method = cls(*args, **kwargs)
        method._tensor_name = name
        found = list(hooks_of(module, name))
        if len(found) > 1:
            raise HookError(f"{name!r} of {describe(module)} has {len(found)} pruning methods: one container")
        values = parameter_values(module, name)
        scores = values if importance_scores is None else checked_scores(importance_scores, values, name)
        if not found:
            check_names_free(module, name)
            default = torch.ones_like(values)
            mask = checked_mask(method.compute_mask(scores, default_mask=default), values)
            put_on(module, name, method, mask)
            return method
        key, old = found[0]
        container: Any = old if isinstance(old, original.PruningContainer) else PruningContainer(old)
        before = container._pruning_methods
        container.add_pruning_method(method)
        try:
            default = current_mask(module, name).to(values.dtype, copy=True)
            mask = checked_mask(container.compute_mask(scores, default_mask=default), values)
        except BaseException:
            container._pruning_methods = before
            raise
        del module._forward_pre_hooks[key]
        put_on(module, name, container, mask)
        return container

    def prune(
        self, t: Tensor, default_mask: Tensor | None = None, importance_scores: Tensor | None = None
    ) -> Tensor:
        """A pruned copy of a tensor that belongs to no module.

        Args:
            t: the tensor.
            default_mask: the mask so far; all ones if None.
            importance_scores: what to compute the mask from instead of `t`, of the same shape.

        Raises:
            ShapeError: scores of another shape.
        """
        scores = t if importance_scores is None else checked_scores(importance_scores, t, "t")
        default = torch.ones_like(t) if default_mask is None else default_mask
        return t * self.compute_mask(scores, default_mask=default)

    def remove(self, module: nn.Module) -> None:
        """Make the zeros part of the parameter and take the mask off; the caller takes the hook away.

        Raises:
            HookError: the method is applied to nothing.
        """
        name = name_of(self, module)
        check_not_wrapped(module, name)
        orig = module._parameters[name + ORIG]
        assert orig is not None
        with torch.no_grad():
            orig.data = self.apply_mask(module).data
        take_off(module, name)
        setattr(module, name, orig)
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()


class PruningContainer(BasePruningMethod, original.PruningContainer):
    """The methods on one parameter, in the order in which they were applied; the latest makes the mask."""

    def __init__(self, *args: Any) -> None:
        self._pruning_methods: tuple[Any, ...] = ()
        if len(args) == 1:
            self._tensor_name = args[0]._tensor_name
        for method in args:
            self.add_pruning_method(method)

    def add_pruning_method(self, method: Any) -> None:
        """Add a method that acts on the same parameter.

        Raises:
            ArgumentTypeError: it is no pruning method.
            InputError: it acts on another parameter.
        """
        if method is not None and not isinstance(method, original.BasePruningMethod):
            raise ArgumentTypeError(
                f"a container takes BasePruningMethod objects, got {type(method).__name__}"
            )
        if method is not None and self._tensor_name != method._tensor_name:
            raise InputError(
                f"this container prunes the parameter {self._tensor_name!r}, and the method "
                f"{type(method).__name__} prunes {method._tensor_name!r}"
            )
        self._pruning_methods += (method,)

    def restored(self, module: nn.Module) -> None:
        """See `BasePruningMethod.restored`; only the latest method's mask is that of the module."""
        if self._pruning_methods and hasattr(self._pruning_methods[-1], "restored"):
            self._pruning_methods[-1].restored(module)

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pruning_methods)

    def __getitem__(self, idx: Any) -> Any:
        return self._pruning_methods[idx]

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask of the latest method on what `default_mask` leaves, together with `default_mask`."""
        method: Any = self._pruning_methods[-1]
        left = remaining(method, t, default_mask)
        mask = default_mask.to(t.dtype, copy=True)
        part = method.compute_mask(t[left], default_mask=default_mask[left])
        if not isinstance(part, Tensor):
            raise KindError(f"{type(method).__name__} made a {type(part).__name__} for a mask")
        mask[left] = part.to(mask.dtype)
        return mask


def remaining(method: Any, t: Tensor, mask: Tensor) -> Any:
    """The index of the part of `t` that a method acts on, by its `PRUNING_TYPE`.

    Raises:
        MethodError: it is structured and has no `dim`.
        ArgumentTypeError, DimensionError: its `dim` is no int, or out of range.
        InputError: there is no such type.
    """
    kind = method.PRUNING_TYPE
    if kind == "unstructured":
        return mask == 1
    if kind == "global":
        return (slice(None),) * t.dim()
    if kind != "structured":
        raise InputError(f"unknown PRUNING_TYPE {kind!r}; there are unstructured, structured and global")
    if not hasattr(method, "dim"):
        raise MethodError(
            f"{type(method).__name__} is of PRUNING_TYPE 'structured' and has no attribute `dim`"
        )
    check_dim(t, method.dim)
    dim = int(method.dim) % t.dim()
    alive = filled(mask, dim)
    return tuple(alive if d == dim else slice(None) for d in range(t.dim()))


def filled(mask: Tensor, dim: int) -> Tensor:
    """Which slices along a dimension hold anything but zeros: bool, shape (mask.shape[dim],)."""
    return (mask != 0).movedim(dim, 0).reshape(mask.shape[dim], -1).any(dim=1)
