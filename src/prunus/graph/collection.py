"""Python's garbage collector, kept from running while many objects are made and hardly any dropped."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """No garbage collection meanwhile; good as a decorator too. One that is off already stays off.

    A trace makes tens of thousands of objects within a second. Collections in the midst of that find
    nothing to free, and carry what is needed for that second only over to the generation of old objects,
    whose growth then brings on a collection of everything that the process holds.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
