"""What a pruning method is: how it makes a mask, and how the mask is put on a parameter and taken off."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as original

from .bits import is_binary
from .errors import (
    ArgumentTypeError,
    DimensionError,
    HookError,
    InputError,
    MethodError,
    MissingParameterError,
    NameTakenError,
    ShapeError,
)
from .product import masked
from .reparametrize import MASK, ORIG, hooks_of, masked_ancestor, names_of, set_names


class BasePruningMethod(original.BasePruningMethod):
    """A way to choose what to prune. A new one sets `PRUNING_TYPE` and `compute_mask`.

    `PRUNING_TYPE` says what a later call acts on, of a parameter that has a mask already: "unstructured" on
    the entries that are left, as a vector; "structured" on the channels along `self.dim` that are not empty;
    "global" on the whole tensor.

    Methods for `torch.nn.utils.prune` work here as they are, and the other way round.
    """

    PRUNING_TYPE: str
    _tensor_name: str

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        """The hook before each forward: forget a tensor that was set in the masked parameter's place."""
        if self._tensor_name in module.__dict__:
            del module.__dict__[self._tensor_name]

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
        name = _name_of(self, module)
        return masked(getattr(module, name + ORIG), getattr(module, name + MASK))

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
        method = cls(*args, **kwargs)
        method._tensor_name = name
        found = list(hooks_of(module, name))
        if len(found) > 1:
            raise HookError(
                f"{name!r} of {_describe(module)} has {len(found)} pruning methods: one container"
            )
        values = parameter_values(module, name)
        scores = values if importance_scores is None else checked_scores(importance_scores, values, name)
        if not found:
            _check_names_free(module, name)
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
        name = _name_of(self, module)
        _check_not_wrapped(module, name)
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
        mask[left] = part.to(mask.dtype)
        return mask


def remaining(method: Any, t: Tensor, mask: Tensor) -> Any:
    """The index of the part of `t` that a method acts on, by its `PRUNING_TYPE`.

    Raises:
        MethodError: it is structured and has no `dim`.
        DimensionError: its `dim` is out of range.
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
    dim = method.dim + t.dim() if method.dim < 0 else method.dim
    if not 0 <= dim < t.dim():
        raise DimensionError(f"dim={method.dim} is out of range for the shape {tuple(t.shape)}")
    alive = filled(mask, dim)
    return tuple(alive if d == dim else slice(None) for d in range(t.dim()))


def filled(mask: Tensor, dim: int) -> Tensor:
    """Which slices along a dimension hold anything but zeros: bool, shape (mask.shape[dim],)."""
    return (mask != 0).movedim(dim, 0).reshape(mask.shape[dim], -1).any(dim=1)


def parameter_values(module: nn.Module, name: str) -> Tensor:
    """The present values of a parameter that is to be pruned, masked if it is, without gradient.

    Raises:
        MissingParameterError: there is nothing of that name.
        ArgumentTypeError: it is no parameter.
    """
    if not isinstance(module, nn.Module):
        raise ArgumentTypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    if isinstance(module, torch.jit.ScriptModule):
        raise ArgumentTypeError("TorchScript modules cannot be pruned: prune the module before scripting it")
    if name not in module._parameters and not (name + ORIG in module._parameters and hasattr(module, name)):
        if not hasattr(module, name):
            known = ", ".join(key for key, value in module._parameters.items() if value is not None)
            raise MissingParameterError(
                f"{_describe(module)} has no parameter {name!r}; its own are: {known or 'none'}"
                + ("; give the module that holds it, and the name without a dot" if "." in str(name) else "")
            )
        raise ArgumentTypeError(
            f"{name!r} of {_describe(module)} is no parameter but {type(getattr(module, name)).__name__}; "
            "of a parametrised tensor, prune the parameter that it is made of"
        )
    value = getattr(module, name)
    if value is None:
        raise ArgumentTypeError(f"{name!r} of {_describe(module)} is None: there is nothing to prune")
    if name not in module._parameters:
        return whole(value.detach())
    if hasattr(value, "device_mesh"):
        raise ArgumentTypeError(
            f"{name!r} of {_describe(module)} is distributed already: prune before fully_shard, if only by "
            "`identity`; masks can then be changed afterwards"
        )
    return value.detach()  # type: ignore[no-any-return]


def whole(t: Any) -> Tensor:
    """All entries of a tensor that may be distributed over ranks."""
    full: Tensor = t.full_tensor() if hasattr(t, "full_tensor") else t
    return full


def current_mask(module: nn.Module, name: str) -> Tensor:
    """The mask of a masked parameter, whole and contiguous."""
    mask: Tensor = getattr(module, name + MASK)
    return whole(mask).detach().contiguous()


def checked_scores(scores: Any, values: Tensor, name: str) -> Tensor:
    if not isinstance(scores, Tensor):
        raise ArgumentTypeError(f"importance_scores must be a tensor, got {type(scores).__name__}")
    if scores.shape != values.shape:
        raise ShapeError(
            f"importance_scores of {name!r} have the shape {tuple(scores.shape)}, and the parameter "
            f"{tuple(values.shape)}"
        )
    if scores.is_floating_point() and bool(scores.isnan().any()):
        raise InputError(f"importance_scores of {name!r} hold NaN, which cannot be ranked")
    return scores.detach()


def checked_mask(mask: Any, values: Tensor) -> Tensor:
    """A mask as it is stored: bool, contiguous, on the parameter's device."""
    if not isinstance(mask, Tensor):
        raise ArgumentTypeError(f"a mask must be a tensor, got {type(mask).__name__}")
    if mask.shape != values.shape:
        raise ShapeError(f"a mask of shape {tuple(mask.shape)} for a parameter of {tuple(values.shape)}")
    if not is_binary(mask):
        raise InputError("a mask holds 0 and 1 (or False and True) only; this one holds other values")
    return (mask != 0).to(values.device).contiguous().detach()


def put_on(module: nn.Module, name: str, method: Any, mask: Tensor) -> None:
    """Give a parameter this mask, bool and checked, and register its method; nothing here can fail."""
    if name in module._parameters:
        orig = module._parameters[name]
        module.register_parameter(name + ORIG, orig)
        del module._parameters[name]
    module.__dict__.pop(name, None)
    if name not in names_of(type(module)):
        set_names(module, (*names_of(type(module)), name))
    module.register_buffer(name + MASK, mask)
    module.register_forward_pre_hook(method)


def take_off(module: nn.Module, name: str) -> None:
    """Drop mask and dense parameter, and make the name free for an ordinary parameter."""
    module.__dict__.pop(name, None)
    del module._parameters[name + ORIG]
    del module._buffers[name + MASK]
    if name in names_of(type(module)):
        set_names(module, tuple(item for item in names_of(type(module)) if item != name))


def _name_of(method: Any, module: nn.Module) -> str:
    name: str | None = getattr(method, "_tensor_name", None)
    if name is None or name + ORIG not in module._parameters:
        raise HookError(f"{_describe(module)} is not pruned by this {type(method).__name__}: apply it first")
    return name


def _check_names_free(module: nn.Module, name: str) -> None:
    _check_not_wrapped(module, name)
    for taken in (name + ORIG, name + MASK):
        if hasattr(module, taken):
            raise NameTakenError(f"{_describe(module)} has a {taken!r} of its own: it cannot hold a mask too")


def _check_not_wrapped(module: nn.Module, name: str) -> None:
    """Another wrapper put on top of the masked class has taken down the names of its parameters."""
    own = masked_ancestor(type(module))
    if own is not None and own is not type(module):
        raise InputError(
            f"{_describe(module)} was wrapped after it was pruned (by fully_shard, say): which of its "
            f"parameters are masked cannot change now, and {name!r} would"
        )


def _describe(module: nn.Module) -> str:
    text = repr(module)
    return text if len(text) <= 80 and "\n" not in text else type(module).__name__
