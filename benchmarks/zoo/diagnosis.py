"""Reading a failure or a shallow cut: where in the user's code, and which axes stayed whole."""

from __future__ import annotations

import hashlib
import traceback
from typing import Any

import torch
from torch import nn

LIBRARY_PARTS = ("/site-packages/torch/", "/prunus/", "/benchmarks/", "<string>", "<frozen")
WORST = 8


def user_frame(error: BaseException) -> str:
    """The innermost frames that belong to the model's own code and to Prunus, as `file:line function`."""
    frames = traceback.extract_tb(error.__traceback__)
    model = [f for f in frames if not any(part in f.filename for part in LIBRARY_PARTS)]
    engine = [f for f in frames if "/prunus/" in f.filename]
    chosen = [f"{_short(f.filename)}:{f.lineno} {f.name}" for f in (model[-1:] + engine[-1:])]
    return " | ".join(chosen)


def fingerprint(model: nn.Module) -> str:
    """A hash of every parameter and buffer: its name, shape, dtype and bytes."""
    digest = hashlib.blake2b()
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in tensors:
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        data = tensor.detach().contiguous().reshape(-1)
        if data.numel():
            digest.update(data.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def diagnose(graph: Any, plan: Any) -> dict[str, Any]:
    """Axes left whole with the most parameters behind them, the approximate axes and the number of ops."""
    return {
        "frozen": _frozen(graph, plan),
        "approximate": sorted(map(str, plan.approximate_axes))[:40],
        "axes": len(graph.axes),
        "ops": len(graph.ops) if hasattr(graph.ops, "__len__") else graph.ops,
        "real_tensors": bool(graph.ran_on_real_tensors),
    }


def _frozen(graph: Any, plan: Any) -> list[dict[str, Any]]:
    sizes = {name: mask.numel() for name, mask in plan.masks().items()}
    rows = []
    for axis in graph.axes:
        if axis.size > 3 and not axis.prunable:
            behind = sum(sizes.get(name, 0) for name in {name for name, _ in axis.members})
            rows.append({"axis": axis.name, "size": axis.size, "behind": behind, "reason": axis.reason})
    rows.sort(key=lambda row: -int(row["behind"]))
    return rows[:WORST]


def _short(filename: str) -> str:
    for mark in ("/site-packages/", "/src/"):
        if mark in filename:
            return filename.split(mark, 1)[1]
    return filename
