"""Integers that modules hold, replaced by tracked ones while a model is traced, and set after pruning.

Reached are a module's own attributes and what lies inside them: lists, tuples, dicts and plain objects
such as a configuration, a few levels down. Every change to a module's attributes that its forward makes
(caches, for instance) is taken back when tracing ends.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .polynomials import Attribute
from .sizes import SizeInt
from .state import named_modules

MAX_DEPTH = 3
MAX_ITEMS = 256
_SKIPPED = frozenset(
    """
    training _version call_super_init dump_patches _is_full_backward_hook _parameters _buffers
    _modules _non_persistent_buffers_set _backward_pre_hooks _backward_hooks _forward_hooks
    _forward_hooks_with_kwargs _forward_hooks_always_called _forward_pre_hooks
    _forward_pre_hooks_with_kwargs _state_dict_hooks _state_dict_pre_hooks
    _load_state_dict_pre_hooks _load_state_dict_post_hooks _compiled_call_impl layer_idx
    padding_idx eos_token_id bos_token_id pad_token_id
    """.split()
)
_OPAQUE = (
    str,
    bytes,
    float,
    complex,
    bool,
    type(None),
    Tensor,
    nn.Module,
    type,
    types.ModuleType,
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
)


class _Tagger:
    def __init__(self) -> None:
        self.objects: dict[int, bool] = {}
        self.undo: list[tuple[dict[str, Any], str, Any]] = []
        self.attributes: list[Attribute] = []
        self.keep: list[Any] = []

    def tag(self, owner: str, path: tuple[str | int, ...], value: Any, depth: int) -> Any:
        """The tracked counterpart of a value, or the value itself where there is nothing to track."""
        kind = type(value)
        if kind is int:
            if value <= 1:
                return value
            attribute = Attribute(owner, path, value)
            self.attributes.append(attribute)
            return SizeInt.of(value, attribute)
        if isinstance(value, _OPAQUE) or depth > MAX_DEPTH:
            return value
        if kind in (list, tuple):
            return self._sequence(owner, path, value, depth)
        if kind is dict:
            return self._mapping(owner, path, value, depth)
        self._object(owner, path, value, depth)
        return value

    def _sequence(self, owner: str, path: tuple[str | int, ...], value: Any, depth: int) -> Any:
        if len(value) > MAX_ITEMS:
            return value
        items = [self.tag(owner, (*path, i), item, depth + 1) for i, item in enumerate(value)]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return items if type(value) is list else tuple(items)

    def _mapping(self, owner: str, path: tuple[str | int, ...], value: dict[Any, Any], depth: int) -> Any:
        if len(value) > MAX_ITEMS or not all(isinstance(key, str) for key in value):
            return value
        items = {key: self.tag(owner, (*path, key), item, depth + 1) for key, item in value.items()}
        return value if all(items[key] is value[key] for key in value) else items

    def _object(self, owner: str, path: tuple[str | int, ...], value: Any, depth: int) -> None:
        """A plain object, tracked once however many modules share it; changed in place."""
        if id(value) in self.objects or not isinstance(getattr(value, "__dict__", None), dict):
            return
        if type(value).__module__.split(".")[0] in ("torch", "numpy", "builtins", "functools"):
            return
        self.objects[id(value)] = True
        self.keep.append(value)
        self.attach(owner, path, value.__dict__, depth + 1)

    def attach(self, owner: str, path: tuple[str | int, ...], space: dict[str, Any], depth: int) -> None:
        for key, old in list(space.items()):
            if key in _SKIPPED or not isinstance(key, str):
                continue
            new = self.tag(owner, (*path, key), old, depth)
            if new is not old:
                self.undo.append((space, key, old))
                space[key] = new


@contextmanager
def tracked_attributes(model: nn.Module) -> Iterator[list[Attribute]]:
    """Replace the integers of all modules by tracked ones for the time of one trace."""
    tagger = _Tagger()
    try:
        for name, module in named_modules(model, distinct=True):
            tagger.attach(name, (), module.__dict__, 0)
        yield tagger.attributes
    finally:
        for space, key, old in reversed(tagger.undo):
            space[key] = old


@contextmanager
def unchanged_attributes(model: nn.Module) -> Iterator[None]:
    """Take back whatever a forward pass changes in module attributes, lists and dicts included."""
    saved: list[tuple[dict[str, Any], dict[str, Any]]] = []
    containers: list[tuple[Any, Any]] = []
    for _, module in named_modules(model, distinct=True):
        space = module.__dict__
        saved.append((space, dict(space)))
        for value in space.values():
            if type(value) in (dict, list, set):
                containers.append((value, value.copy()))
    try:
        yield
    finally:
        for space, old in saved:
            space.clear()
            space.update(old)
        for value, content in containers:
            value.clear()
            if isinstance(value, list):
                value.extend(content)
            else:
                value.update(content)


def get_attribute(model: nn.Module, owner: str, path: tuple[str | int, ...]) -> Any:
    value: Any = model.get_submodule(owner)
    for step in path:
        value = _step(value, step)
    return value


def _step(value: Any, step: str | int) -> Any:
    if isinstance(step, int) or isinstance(value, dict):
        return value[step]
    return value.__dict__[step]


def set_attribute(model: nn.Module, owner: str, path: tuple[str | int, ...], new: Any) -> None:
    """Set an integer by its path, rebuilding the tuples on the way."""
    holder: Any = model.get_submodule(owner)
    _set(holder, path, new)


def _set(holder: Any, path: tuple[str | int, ...], new: Any) -> Any:
    """The holder with the value at `path` replaced.

    Lists, tuples and dicts are replaced by changed copies, since other models may hold the same ones (a
    default argument, say); objects such as a configuration are changed in place.
    """
    if not path:
        return new
    step, rest = path[0], path[1:]
    inner = _set(_step(holder, step), rest, new)
    if isinstance(holder, tuple):
        return tuple(inner if i == step else item for i, item in enumerate(holder))
    if isinstance(holder, list | dict):
        changed = holder.copy()
        changed[step] = inner  # type: ignore[index]
        return changed
    holder.__dict__[step] = inner
    return holder
