"""A masked training step of ResNet-18, beside torch.nn.utils.prune and dense: `python -m benchmarks.masks`.

All weights of convolutions and linear layers are masked, half of their entries at random. Steps of the three
sides alternate in one process on one thread, and overheads are medians of the ratios within a round, in
processor time, which other work on the machine disturbs little. Memory is measured in a fresh process for
each side.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks import isolated
from benchmarks.publish import publish

SIDES = ("dense", "torch.nn.utils.prune", "prunus.masks")
MAX_OVERHEAD = 0.10


def build(side: str) -> Any:
    """ResNet-18 with random weights, masked by a side."""
    import torch
    from torch import nn

    from benchmarks.zoo.torchvision_shim import import_torchvision

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = import_torchvision().models.resnet18()
    if side == "dense":
        return model
    if side == "prunus.masks":
        import prunus.masks as prune
    else:
        from torch.nn.utils import prune  # type: ignore[no-redef]
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            prune.random_unstructured(module, "weight", 0.5)
    return model


def stepper(side: str, batch: int, size: int) -> Callable[[], None]:
    """A training step on images of noise."""
    import torch

    model = build(side)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, size, size)
    labels = torch.arange(batch)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    step.model = model  # type: ignore[attr-defined]
    return step


def time_steps(batch: int, size: int, rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each side's step, round by round."""
    steps = {side: stepper(side, batch, size) for side in SIDES}
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(2):
        for step in steps.values():
            step()
    gc.disable()
    for turn in range(rounds):
        order = SIDES[turn % 3 :] + SIDES[: turn % 3]
        for side in order:
            start = time.process_time()
            steps[side]()
            times[side].append(time.process_time() - start)
    return times


def measure_memory(side: str, batch: int, size: int) -> dict[str, int]:
    """Bytes held between steps, by the model and in all tensors, and the process's peak while it steps."""
    import torch

    from benchmarks.peak_memory import peak_memory

    step = stepper(side, batch, size)
    step()
    with peak_memory() as peak:
        for _ in range(2):
            step()
    gc.collect()
    storages = {}
    for item in gc.get_objects():
        if isinstance(item, torch.Tensor):
            storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
    return {"held": sum(storages.values()), "peak": peak.highest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    given = (options.batch, options.size)
    times: Any = isolated.call("benchmarks.masks", "time_steps", *given, options.rounds, timeout=900)
    if "error" in times:
        raise SystemExit(times["error"])
    memory: Any = {
        side: isolated.call("benchmarks.masks", "measure_memory", side, *given, timeout=300) for side in SIDES
    }
    overhead = {
        side: statistics.median(a / b for a, b in zip(times[side], times["dense"], strict=True)) - 1
        for side in SIDES
    }
    rows = [
        [
            side,
            f"{statistics.median(times[side]) * 1e3:.0f} ms",
            f"{overhead[side]:+.1%}",
            f"{memory[side]['held'] / 1e6:.1f} MB",
            f"{memory[side]['peak'] / 1e6:.0f} MB",
        ]
        for side in SIDES
    ]
    ours, theirs = overhead["prunus.masks"], overhead["torch.nn.utils.prune"]
    mine, other = memory["prunus.masks"], memory["torch.nn.utils.prune"]
    publish(
        "masks",
        "A masked training step of ResNet-18",
        f"Batch of {options.batch}, {options.size} × {options.size} pixels, SGD with momentum, one thread; "
        f"{options.rounds} rounds in which the sides alternate; processor time. *Held* are all tensors that "
        "live between two steps (weights, gradients, momentum, masks), *peak* is the process.",
        ("", "step", "overhead", "held", "peak"),
        rows,
        {
            "times": times,
            "memory": memory,
            "overhead": overhead,
            "batch": options.batch,
            "size": options.size,
        },
        [
            (f"overhead over dense {ours:.1%}, at most {MAX_OVERHEAD:.0%}", ours <= MAX_OVERHEAD),
            (f"overhead {ours:.1%}, at most that of torch.nn.utils.prune, {theirs:.1%}", ours <= theirs),
            ("held between steps: less than torch.nn.utils.prune", mine["held"] < other["held"]),
            ("peak: less than torch.nn.utils.prune", mine["peak"] < other["peak"]),
        ],
    )


if __name__ == "__main__":
    main()
