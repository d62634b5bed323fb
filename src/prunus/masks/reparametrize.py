"""A parameter as a dense parameter times a mask, multiplied where it is read and kept nowhere.

A masked module holds the parameter `weight_orig` and the bool buffer `weight_mask`, and its class is a
subclass of its own that differs in one thing: reading `weight` multiplies the two. So there is no third
tensor between steps, nothing that a copy or a pickle would trip over, and nothing that could be out of date.
There is one such subclass for each class and set of names, with the class's own name.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod as PruneHook

from .bits import Bits, pack, unpack_entry
from .mask_view import MaskAttribute, mask_buffer, mask_view
from .product import Used, masked

NAMES, WRAPPED = "_masked_names", "_masked_wrappers"
ORIG, MASK = "_orig", "_mask"

_CLASSES: weakref.WeakValueDictionary[tuple[type, tuple[str, ...]], type] = weakref.WeakValueDictionary()


def hooks_of(module: nn.Module, name: str | None = None) -> Iterator[tuple[int, Any]]:
    """The pruning methods of a module, or of one of its parameters, with their keys among the hooks."""
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, PruneHook) and name in (None, hook._tensor_name):
            yield key, hook


class _MaskedParameter:
    """What reading a masked parameter gives.

    An entry of the same name in the instance's `__dict__` comes first, so the attribute can be set as any
    other; the method's hook takes such an entry away before the next forward.
    """

    def __init__(self, name: str) -> None:
        self.name, self.orig, self.mask = name, name + ORIG, name + MASK

    def __get__(self, module: nn.Module | None, owner: type | None = None) -> Any:
        if module is None:
            return self
        for hook in module._forward_pre_hooks.values():
            if getattr(hook, "_tensor_name", None) == self.name and isinstance(hook, PruneHook):
                method: Any = hook
                if torch.compiler.is_compiling():
                    return _watched(method, method.apply_mask(module))
                return self._used_or_made(module, method)
        return masked(getattr(module, self.orig), mask_buffer(module, self.mask))

    def _used_or_made(self, module: nn.Module, method: Any) -> Any:
        """What the forward pass of a graph that waits for its backward pass has used, or a new product."""
        orig, mask = module._parameters.get(self.orig), module._buffers.get(self.mask)
        if orig is None or mask is None:
            return method.apply_mask(module)
        own = method.__dict__
        used: Used | None = own.get("_used")
        if used is None:
            used = own["_used"] = Used()
        product = used.again(orig, mask)
        if product is None:
            product = method.apply_mask(module)
            if "_dense_gradient" in own:
                product = _watched(method, product)
            used.remember(product, orig, mask)
        return product


def _watched(method: Any, product: Any) -> Any:
    watch = method.__dict__.get("_dense_gradient")
    return watch.watched(product) if watch is not None and watch.on and product.requires_grad else product


class _FlatWeights:
    """The list of weights that recurrent layers hand to their kernels, made when it is read."""

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        if module is None:
            return self
        return [getattr(module, name, None) for name in module._flat_weights_names]

    def __set__(self, module: Any, value: Any) -> None:
        """Ignored: there is nothing to keep."""


def _keep_nothing(self: nn.Module) -> None:
    """In place of `RNNBase._update_flat_weights`, which compares the list with the attributes."""


def _reduce_ex(self: nn.Module, protocol: Any) -> Any:
    """As the class itself is copied and pickled, with the masks as bits."""
    cls = type(self)
    plain: Any = base_class(cls)
    make, args, state, *rest = plain.__reduce_ex__(self, protocol)
    args = tuple(base_class(cls) if item is cls else item for item in args)
    if isinstance(state, Mapping) and "_buffers" in state:
        buffers = dict(state["_buffers"])
        for name in names_of(cls):
            if isinstance(buffers.get(name + MASK), Tensor):
                buffers[name + MASK] = pack(buffers[name + MASK])
        state = {**state, "_buffers": buffers}
    return (_rebuild, (names_of(cls), make, args), state, *rest)


def _rebuild(names: tuple[str, ...], make: Any, args: tuple[Any, ...]) -> nn.Module:
    module: nn.Module = make(*args)
    module.__class__ = masked_class(type(module), names)
    return module


def _set_state(self: nn.Module, state: dict[str, Any]) -> None:
    base_class(type(self)).__setstate__(self, state)  # type: ignore[attr-defined]
    buffers: dict[str, Any] = self._buffers
    for name, buffer in buffers.items():
        if isinstance(buffer, Bits):
            buffers[name] = buffer.unpack()
    for _, hook in hooks_of(self):
        if hasattr(hook, "restored"):
            hook.restored(self)


def _delattr(self: nn.Module, name: str) -> None:
    """Forgetting the masked tensor, of which nothing is kept, is no error."""
    if name not in names_of(type(self)) or name in self.__dict__ or name in self._parameters:
        plain: Any = base_class(type(self))
        plain.__delattr__(self, name)


def _shallow_copy(self: nn.Module) -> nn.Module:
    """A module that shares its tensors with this one, as `copy.copy` of any module does."""
    other = type(self).__new__(type(self))
    other.__dict__.update(self.__dict__)
    return other


def _setattr(self: nn.Module, name: str, value: Any) -> None:
    """A class put in place, as `fully_shard` does, wraps this one, though it was made for an equal one."""
    plain: Any = base_class(type(self))
    plain.__setattr__(self, name, _wrapping(value, type(self)) if name == "__class__" else value)


def _wrapping(wrapper: type, cls: type) -> type:
    """A wrapper of classes equal to a masked one, made anew of the masked one itself."""
    if masked_ancestor(wrapper) is cls or wrapper == cls or cls not in wrapper.__bases__:
        return wrapper
    bases = tuple(cls if base == cls else base for base in wrapper.__bases__)
    known: dict[int, tuple[type, type]] = cls.__dict__[WRAPPED]
    if id(wrapper) not in known:
        body = {key: item for key, item in vars(wrapper).items() if key not in ("__dict__", "__weakref__")}
        made = types.new_class(wrapper.__name__, bases, {}, lambda space: space.update(body))
        known[id(wrapper)] = wrapper, made
    return known[id(wrapper)][1]


def _save_to_state_dict(self: nn.Module, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
    """Masks compute with 0 and 1 in a state dict too."""
    base_class(type(self))._save_to_state_dict(self, destination, prefix, keep_vars)  # type: ignore[attr-defined]
    for name in names_of(type(self)):
        orig, key = self._parameters.get(name + ORIG), prefix + name + MASK
        if orig is not None and key in destination:
            destination[key] = mask_view(destination[key], orig.dtype)


def _load_from_state_dict(self: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Float masks, as `torch.nn.utils.prune` writes them, and packed ones become bool first."""
    for name in names_of(type(self)):
        wrong = unpack_entry(state_dict, prefix + name + MASK, self._buffers.get(name + MASK))
        if wrong is not None:
            rest[-1].append(wrong)
    base_class(type(self))._load_from_state_dict(self, state_dict, prefix, *rest)  # type: ignore[attr-defined]


class _LikeItsBase(type):
    """Lets `type(module) == nn.Linear` hold of masked modules, and tables by class find them; `is` cannot."""

    def __eq__(cls, other: object) -> bool:
        if not isinstance(other, type):
            return NotImplemented
        return _own_base(cls) is _own_base(other)

    def __hash__(cls) -> int:
        own = _own_base(cls)
        return type.__hash__(cls) if own is cls else hash(own)


def _own_base(cls: type) -> type:
    """The class that a masked class stands for; of any other, including subclasses of masked ones, itself."""
    return cls.__bases__[0] if NAMES in cls.__dict__ else cls


@functools.cache
def _metaclass(plain: type) -> type:
    return _LikeItsBase if plain is type else type(plain.__name__, (_LikeItsBase, plain), {})


def masked_class(base: type, names: tuple[str, ...]) -> type:
    """The subclass of `base` in which these names are masked parameters."""
    known = _CLASSES.get((base, names))
    if known is not None:
        return known
    body: dict[str, Any] = {name: _MaskedParameter(name) for name in names}
    body |= {name + MASK: MaskAttribute(name + MASK, name + ORIG) for name in names}
    body |= {
        NAMES: names,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reduce_ex,
        "__setstate__": _set_state,
        "__delattr__": _delattr,
        "__setattr__": _setattr,
        WRAPPED: {},
        "_save_to_state_dict": _save_to_state_dict,
        "_load_from_state_dict": _load_from_state_dict,
    }
    if not hasattr(base, "__copy__"):
        body["__copy__"] = _shallow_copy
    if issubclass(base, nn.RNNBase):
        body |= {"_flat_weights": _FlatWeights(), "_update_flat_weights": _keep_nothing}
    kind = _metaclass(type(base))
    made = types.new_class(base.__name__, (base,), {"metaclass": kind}, lambda space: space.update(body))
    _CLASSES[base, names] = made
    return made


def masked_ancestor(cls: type) -> type | None:
    """The subclass with masked parameters that a module's class is, or inherits from."""
    return next((item for item in cls.__mro__ if NAMES in item.__dict__), None)


def names_of(cls: type) -> tuple[str, ...]:
    """The masked parameters of a class, in the order in which they were masked."""
    names: tuple[str, ...] = getattr(cls, NAMES, ())
    return names


def base_class(cls: type) -> type:
    """The class without masks."""
    own = masked_ancestor(cls)
    return cls if own is None else own.__bases__[0]


def set_names(module: nn.Module, names: tuple[str, ...]) -> None:
    """Let a module be of the class in which exactly these names are masked."""
    if names == names_of(type(module)):
        return
    base = base_class(type(module))
    module.__class__ = masked_class(base, names) if names else base
    if isinstance(module, nn.RNNBase):
        if names:
            module.__dict__.pop("_flat_weights", None)
            module.__dict__["_flat_weight_refs"] = []
        else:
            module._init_flat_weights()
