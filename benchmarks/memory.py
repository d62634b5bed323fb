"""Peak memory of `plan.apply` relative to the model: `python -m benchmarks.memory`.

Each model is measured in a fresh process. The kernel's high-water mark is set back just before `apply` (see
`benchmarks/peak_memory.py`), so what counts is the most that was resident at any moment of it, over what was
resident before: 1.0 plus that excess over the model's bytes. glibc keeps freed blocks by default;
`MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_THRESHOLD_` make it hand them back at once, so that the figure is
the library's and not the allocator's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from benchmarks import isolated
from benchmarks.publish import publish

LIMIT = 1.15
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
LLAMA_300MB = {
    "num_hidden_layers": 12,
    "hidden_size": 640,
    "num_attention_heads": 10,
    "num_key_value_heads": 5,
    "intermediate_size": 2304,
    "vocab_size": 8000,
}


def _torchvision(name: str) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    from benchmarks.zoo.suites import find

    entry = find(f"torchvision/{name}")
    model = entry.build()
    args, kwargs = entry.inputs(model)
    return model, args, kwargs


def _llama() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    import torch

    from benchmarks.growth import _llama as build

    return build("cpu", **LLAMA_300MB), (), {"input_ids": torch.randint(3, 100, (1, 32))}


MODELS: dict[str, Callable[[], tuple[Any, tuple[Any, ...], dict[str, Any]]]] = {
    "resnet50": lambda: _torchvision("resnet50"),
    "vit_b_16": lambda: _torchvision("vit_b_16"),
    "llama_300mb": _llama,
    "vgg16": lambda: _torchvision("vgg16"),
}


def measure(name: str) -> dict[str, Any]:
    """Bytes of the model, and resident memory before, at the peak of, and after `apply`."""
    import torch
    from torch import nn

    import prunus
    from benchmarks.peak_memory import peak_memory

    prunus.prune(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(2, 4), ratio=0.5)
    model, args, kwargs = MODELS[name]()
    tensors = [*model.parameters(), *model.buffers()]
    size = sum(t.numel() * t.element_size() for t in tensors)
    del tensors
    with peak_memory() as planning:
        plan = prunus.trace(model, args, kwargs).plan(ratio=0.5)
    with peak_memory() as surgery:
        start = time.perf_counter()
        plan.apply(model)
        seconds = time.perf_counter() - start
    return {
        "model_bytes": size,
        "seconds": seconds,
        "plan": 1 + (planning.highest - planning.before) / size,
        "apply": 1 + (surgery.highest - surgery.before) / size,
        "after": 1 + (surgery.after - surgery.before) / size,
        "before_bytes": surgery.before,
        "peak_bytes": surgery.highest,
    }


def main() -> None:
    """Measure and publish `memory`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("--only", choices=list(MODELS))
    parser.add_argument("--timeout", type=float, default=600)
    options = parser.parse_args()

    data = {}
    for name in [options.only] if options.only else MODELS:
        data[name] = isolated.call(
            "benchmarks.memory", "measure", name, timeout=options.timeout, environment=ALLOCATOR
        )
    rows, targets = [], []
    for name, row in data.items():
        if "error" in row:
            rows.append([name, row["error"][:60], "", "", ""])
            targets.append((f"{name}: {row['error'][:60]}", False))
            continue
        size = f"{row['model_bytes'] / 1e6:.0f} MB"
        rows.append([name, size, *(f"{row[stage]:.2f}x" for stage in ("plan", "apply", "after"))])
        targets.append(
            (f"{name}: apply peaks at {row['apply']:.2f}x, at most {LIMIT}x", row["apply"] <= LIMIT)
        )
    publish(
        "memory",
        "Peak memory of apply",
        "Resident memory relative to the model's own bytes: 1.00x is the model alone. *Plan* is the peak of "
        "trace and plan, *apply* that of the surgery, *after* what stays while the plan is kept for undo.",
        ["model", "size", "plan", "apply", "after"],
        rows,
        data,
        targets,
    )


if __name__ == "__main__":
    main()
