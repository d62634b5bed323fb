"""A masked training step of ResNet-18, beside torch.nn.utils.prune and dense: `python -m benchmarks.masks`.

All weights of convolutions and linear layers are masked, half of their entries at random. Each side steps in
a process of its own, on one thread, and the processes take turns, step by step. Overheads are medians of the
ratios within a round, in processor time, which other work on the machine disturbs little. How much memory an
allocator hands back to the system, and has to fetch again, depends on where things happen to lie; so the
processes are started again several times, and the interval beside a median over these launches holds it with
95% confidence, whatever the distribution. A second run takes images so small that a step is little more than
the handling of the weights, which brings out what masks cost. Memory is measured in fresh processes too.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import isolated
from benchmarks.lockstep import Step, launch, median_interval
from benchmarks.publish import publish

SIDES = ("dense", "torch.nn.utils.prune", "prunus.masks")
MAX_OVERHEAD = 0.10
SMALL = (2, 32)
"""The second run: images in a batch, pixels along each side."""


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


def time_steps(batch: int, size: int, launches: int, rounds: int) -> list[dict[str, list[Step]]]:
    """The steps of each side, launch by launch."""
    return [launch("benchmarks.masks", "stepper", SIDES, (batch, size), rounds) for _ in range(launches)]


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


def overheads(launches: Sequence[dict[str, list[Step]]]) -> dict[str, tuple[float, float, float]]:
    """Of each side over dense, and of ours over the other, as fractions of the dense step."""
    shares: dict[str, list[float]] = {side: [] for side in (*SIDES, "difference")}
    for steps in launches:
        for side in SIDES:
            pairs = zip(steps[side], steps["dense"], strict=True)
            shares[side].append(statistics.median(a.seconds / b.seconds - 1 for a, b in pairs))
        shares["difference"].append(shares["prunus.masks"][-1] - shares["torch.nn.utils.prune"][-1])
    return {key: median_interval(values) for key, values in shares.items()}


def middle(launches: Sequence[dict[str, list[Step]]], side: str, what: str) -> float:
    """The median over launches of a launch's median."""
    return statistics.median(
        statistics.median(getattr(step, what) for step in steps[side]) for steps in launches
    )


def as_text(found: tuple[float, float, float]) -> str:
    return "{:+.1%} ({:+.1%} to {:+.1%})".format(*found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--launches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    given = (options.batch, options.size)
    runs = [
        time_steps(*images, options.launches, rounds)
        for images, rounds in ((given, options.rounds), (SMALL, 3 * options.rounds))
    ]
    memory: Any = {
        side: isolated.call("benchmarks.masks", "measure_memory", side, *given, timeout=300) for side in SIDES
    }
    large, small = (overheads(run) for run in runs)
    rows = [
        [
            side,
            f"{middle(runs[0], side, 'seconds') * 1e3:.0f} ms",
            as_text(large[side]),
            f"{middle(runs[0], side, 'faults'):.0f}",
            f"{middle(runs[1], side, 'seconds') * 1e3:.0f} ms",
            as_text(small[side]),
            f"{middle(runs[1], side, 'faults'):.0f}",
            f"{memory[side]['held'] / 1e6:.1f} MB",
            f"{memory[side]['peak'] / 1e6:.0f} MB",
        ]
        for side in SIDES
    ]
    mine, other = memory["prunus.masks"], memory["torch.nn.utils.prune"]
    ours = large["prunus.masks"][0]
    publish(
        "masks",
        "A masked training step of ResNet-18",
        f"Batch of {options.batch}, {options.size} × {options.size} pixels, SGD with momentum, one thread, "
        f"each side in a process of its own; {options.launches} launches of {options.rounds} rounds in which "
        f"the sides take turns; processor time. *Small* is the same with a batch of {SMALL[0]}, {SMALL[1]} × "
        f"{SMALL[1]} pixels: little but the handling of weights. In brackets: 95% intervals of the medians "
        "over launches. *Faults* are pages of memory that the system maps during a step, about a microsecond "
        "each. *Held* are all tensors that live between two steps (weights, gradients, momentum, masks), "
        "*peak* is the process.",
        ("", "step", "overhead", "faults", "small step", "overhead", "faults", "held", "peak"),
        rows,
        {
            "steps": runs[0],
            "small": {"steps": runs[1], "overhead": small, "batch": SMALL[0], "size": SMALL[1]},
            "memory": memory,
            "overhead": large,
            "batch": options.batch,
            "size": options.size,
        },
        [
            (f"overhead over dense {ours:.1%}, at most {MAX_OVERHEAD:.0%}", ours <= MAX_OVERHEAD),
            *(
                (
                    f"{which} step: overhead over that of torch.nn.utils.prune {as_text(found['difference'])}"
                    "; met if the interval does not lie above 0",
                    found["difference"][1] <= 0,
                )
                for which, found in (("large", large), ("small", small))
            ),
            ("held between steps: less than torch.nn.utils.prune", mine["held"] < other["held"]),
            ("peak: less than torch.nn.utils.prune", mine["peak"] < other["peak"]),
        ],
    )


if __name__ == "__main__":
    main()
