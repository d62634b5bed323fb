"""The original architecture from a factory: without memory for its weights where that can be done.

Most factories run on the meta device, where tensors have shapes and no values. Not all do: some read values
while they build, or keep tensors where nothing would fill them later. Those are called again, normally.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import ArgumentTypeError, CheckpointError
from .structure import structure_of


class _Created(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers every tensor that is made on the meta device, for as long as it lives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._made: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(item, Tensor) and item.device.type == "meta":
                self._made.append(weakref.ref(item))
        return out

    def alive(self) -> set[int]:
        return {id(tensor) for ref in self._made if (tensor := ref()) is not None}


def build(factory: Callable[[], Any]) -> nn.Module:
    """Call a factory, on the meta device if its model can be filled from there; random state is kept.

    Raises:
        CheckpointError: it fails.
        ArgumentTypeError: it returns something else than a module.
    """
    model = _on_meta(factory)
    if model is not None:
        return model
    try:
        with torch.random.fork_rng(devices=[]):
            built = factory()
    except Exception as error:
        raise CheckpointError(
            f"{_name(factory)}() fails ({type(error).__name__}: {error}): pass a callable that builds the "
            "original model without arguments, e.g. lambda: MyModel(depth=12)"
        ) from error
    if not isinstance(built, nn.Module):
        raise ArgumentTypeError(
            f"{_name(factory)}() returned a {type(built).__name__}, not a torch.nn.Module"
        )
    return built


def _name(factory: Callable[[], Any]) -> str:
    return getattr(factory, "__name__", type(factory).__name__)


def _on_meta(factory: Callable[[], Any]) -> nn.Module | None:
    created = _Created()
    try:
        with torch.random.fork_rng(devices=[]), created, torch.device("meta"):
            model = factory()
    except Exception:
        return None
    if not isinstance(model, nn.Module):
        return None
    held = {id(place.tensor) for place in structure_of(model).places().values()}
    if created.alive() <= held:
        return model
    gc.collect()
    return model if created.alive() <= held else None
