"""Import torchvision where its compiled operators cannot load (CPU-only torch beside a CUDA wheel).

torchvision registers fake kernels for `torchvision::nms` and others while it is imported, which raises when
the compiled library behind those names is absent. No classification or segmentation model uses them,
so the registrations are skipped while the import runs, and `torch.library` is then put back as it was.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch


def import_torchvision() -> ModuleType:
    """Return the imported `torchvision` package (with `torchvision.models`)."""
    original = torch.library.register_fake

    def register_fake(op: Any, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return original(op, *args, **kwargs)

    torch.library.register_fake = register_fake  # type: ignore[assignment]
    try:
        package = importlib.import_module("torchvision")
        importlib.import_module("torchvision.models.segmentation")
    finally:
        torch.library.register_fake = original
    return package
