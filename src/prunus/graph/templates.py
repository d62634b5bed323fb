"""What a removed module returns in place of its output."""

from __future__ import annotations

from typing import Any

from .calls import ModuleCall
from .effects import Refusal
from .values import Value

Template = tuple[Any, ...]
"""What a removed module returns, as nested tuples of strings: ("input", *source), ("copy", *source),
("zeros", *source), ("none",), ("tuple", ...), ("list", ...) or ("dict", (key, ...), ...)."""


def template_of(output: Any, call: ModuleCall, y: Value, own: Template) -> Template:
    """What takes the place of an output: `own` for `y`, inputs that are handed through, None for the rest."""
    inputs = {id(value): source for source, value in reversed(call.inputs)}

    def build(item: Any) -> Template:
        if item is y:
            return own
        if isinstance(item, Value):
            return ("input", *inputs[id(item)]) if id(item) in inputs else ("none",)
        if item is None:
            return ("none",)
        if type(item) in (tuple, list):
            return (type(item).__name__, *(build(part) for part in item))
        if type(item) is dict and all(type(key) is str for key in item):
            return ("dict", *((key, build(part)) for key, part in item.items()))
        raise Refusal(f"it returns a {type(item).__name__}, which cannot be made without running it")

    return build(output)
