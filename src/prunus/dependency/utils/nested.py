"""Outputs of models as lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten_as_list(obj: Any) -> list[Any]:
    """What nested lists, tuples and dicts hold, in order; anything else is the one item of its list."""
    if isinstance(obj, Mapping):
        obj = list(obj.values())
    if isinstance(obj, list | tuple):
        return [leaf for item in obj for leaf in flatten_as_list(item)]
    return [obj]
