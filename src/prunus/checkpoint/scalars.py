"""The numbers that the modules of a model hold: listed when it is saved, set when it is loaded.

Integers are what pruning repairs (`num_heads`). Floats are left alone by it, but a constructor may compute
them from a size that is another one now (`head_dim ** -0.5`). All are listed and not only those that a plan
is known to have changed, so that a model whose history is lost (a deep copy, say) is saved as well as any.
They are found by the walk that tracing uses.

A name in a checkpoint is never followed: names are looked up in the list made from the fresh model. Lists,
dicts and objects that change are replaced by copies, because they may belong to others too, such as a
configuration that several models are built from.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ..errors import CheckpointError
from ..graph.attributes import _OPAQUE, _SKIPPED, MAX_DEPTH, MAX_ITEMS

Number = int | float
Path = tuple[str | int, ...]
Key = tuple[str, Path]
"""A module's name, and the steps from it to a number: `("blocks.0.attn", ("num_heads",))`."""

LARGEST = 2**40
"""No size comes near it; integers beyond (seeds, say) are not listed."""

_FOREIGN = ("torch", "numpy", "builtins", "functools")


def is_size(value: Any) -> bool:
    """A plain positive integer of a size that something in a network may have."""
    return type(value) is int and 1 <= value <= LARGEST


def _same(a: Number | None, b: Number) -> bool:
    return type(a) is type(b) and a == b and math.copysign(1, a or 1) == math.copysign(1, b or 1)


def _is_object(value: Any) -> bool:
    foreign = type(value).__module__.split(".")[0] in _FOREIGN
    return not foreign and isinstance(getattr(value, "__dict__", None), dict)


class Scalars:
    """Every number that the modules of one model hold, and every way that leads to it.

    Attributes:
        values: the number by key; also the entries of objects that are None, since pruning fills in those
            that a configuration leaves open.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self.values: dict[Key, Number | None] = {}
        self._within: dict[Key, int] = {}
        self._holders: dict[int, set[int]] = {}
        self._first: dict[int, Key] = {}
        self._objects: list[Any] = []
        for name, module in modules.items():
            self._walk_space(name, (), module.__dict__, 0, within=0)

    def _walk_space(self, owner: str, path: Path, space: dict[Any, Any], depth: int, within: int) -> None:
        for key, value in space.items():
            if isinstance(key, str) and key not in _SKIPPED and not key.startswith("__"):
                self._walk(owner, (*path, key), value, depth, within)

    def _walk(self, owner: str, path: Path, value: Any, depth: int, within: int) -> None:
        if type(value) in (int, float) or (value is None and within):
            self.values[owner, path] = value
            self._within[owner, path] = within
        if isinstance(value, (*_OPAQUE, int, float)) or depth > MAX_DEPTH:
            return
        if type(value) in (list, tuple, dict):
            for step, item in _items(value):
                self._walk(owner, (*path, step), item, depth + 1, within)
        elif _is_object(value):
            self._holders.setdefault(id(value), set()).add(within)
            if id(value) not in self._first:
                self._first[id(value)] = (owner, path)
                self._objects.append(value)
                self._walk_space(owner, path, value.__dict__, depth + 1, within=id(value))

    def integers(self) -> dict[Key, int]:
        """The positive ones within bounds."""
        return {key: value for key, value in self.values.items() if type(value) is int and is_size(value)}

    def floats(self) -> dict[Key, float]:
        """The finite ones."""
        return {key: v for key, v in self.values.items() if type(v) is float and math.isfinite(v)}

    # -- setting ------------------------------------------------------------------------------------------

    def replaced(self, new: Mapping[Key, Number]) -> Iterator[tuple[nn.Module, str, Any]]:
        """The module attributes to set, `(module, name, value)`, so that the numbers have new values.

        Args:
            new: for keys of `values`. Nothing is changed by this function itself.
        """
        changed = {key: value for key, value in new.items() if not _same(self.values[key], value)}
        if not changed:
            return
        touched = self._touched(changed)
        copies = {id(item): _copied(item) for item in self._objects if id(item) in touched}
        builder = _Rebuild(changed, copies, self._first)
        for item in self._objects:
            if id(item) in copies:
                builder.fill(item)
        for name, module in self.modules.items():
            for key, value in module.__dict__.items():
                if key in _SKIPPED or not isinstance(key, str):
                    continue
                fresh = builder.value(name, (key,), value, 0)
                if fresh is not value:
                    yield module, key, fresh

    def _touched(self, changed: Mapping[Key, Number]) -> set[int]:
        """Objects that hold a changed number, directly or through other objects."""
        todo = [self._within[key] for key in changed]
        touched: set[int] = set()
        while todo:
            number = todo.pop()
            if number and number not in touched:
                touched.add(number)
                todo.extend(self._holders[number])
        return touched


def _copied(item: Any) -> Any:
    new = copy.copy(item)
    if new.__dict__ is item.__dict__:
        raise CheckpointError(
            f"a number inside a {type(item).__name__} has to be set, and this object cannot be copied: "
            "remove its __copy__ method"
        )
    return new


class _Rebuild:
    """Values with their numbers replaced: the same value where nothing changes, otherwise a copy."""

    def __init__(
        self, changed: Mapping[Key, Number], copies: Mapping[int, Any], first: Mapping[int, Key]
    ) -> None:
        self.changed = changed
        self.copies = copies
        self.first = first

    def fill(self, old: Any) -> None:
        """Put the new numbers into the copy of an object."""
        owner, path = self.first[id(old)]
        space = self.copies[id(old)].__dict__
        for key, value in old.__dict__.items():
            space[key] = self.value(owner, (*path, key), value, 0)

    def value(self, owner: str, path: Path, old: Any, depth: int) -> Any:
        if type(old) in (int, float) or old is None:
            return self.changed.get((owner, path), old)
        if id(old) in self.copies:
            return self.copies[id(old)]
        if type(old) not in (list, tuple, dict) or depth > MAX_DEPTH:
            return old
        items = {step: self.value(owner, (*path, step), item, depth + 1) for step, item in _items(old)}
        if all(items[step] is item for step, item in _items(old)):
            return old
        return items if type(old) is dict else type(old)(items.values())


def _items(value: Any) -> list[tuple[Any, Any]]:
    """The steps into a list, tuple or dict; none where it is large or its keys are no names."""
    if len(value) > MAX_ITEMS:
        return []
    if type(value) is dict:
        return list(value.items()) if all(isinstance(key, str) for key in value) else []
    return list(enumerate(value))
