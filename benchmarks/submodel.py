"""ResNet-18 merged from 100 clients, beside a loop over NumPy slices: `python -m benchmarks.submodel`.

Clients have HeteroFL's five capacities (1, 1/2, 1/4, 1/8, 1/16), twenty each. The loop is HeFlwr's rule as
its documentation describes it: for each parameter and client, and each pair of intervals, the slice of the
father becomes (slice * weight so far + client * weight) / (weight so far + weight). It sums in float32, as
there, and once more in float64, as Prunus does, and leaves batch-norm statistics out. Rounds alternate in one
process, with one thread and with all that the machine has; NumPy uses one. Speeds are bytes of all clients'
tensors per second.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks import isolated
from benchmarks.publish import publish

CAPACITIES = (1.0, 0.5, 0.25, 0.125, 0.0625)
MIN_SHARE = 0.1
MIN_RATIO = 10.0


def loop(father: dict[str, Any], clients: list[tuple[dict[str, Any], dict[str, Any], float]]) -> None:
    """HeFlwr's rule on NumPy arrays, in place; a client is (intervals by name and dim, arrays, weight)."""
    import numpy as np

    for name, entries in father.items():
        so_far = np.zeros_like(entries)
        for intervals, arrays, weight in clients:
            client = arrays[name]
            rows, columns = [*intervals[name], [(0, 0, 1)]][:2] if entries.ndim else ([], [])
            for at, row, height in rows:
                for to, column, width in columns if entries.ndim > 1 else [(0, 0, 0)]:
                    here: Any = slice(row, row + height)
                    there: Any = slice(at, at + height)
                    if entries.ndim > 1:
                        here, there = (here, slice(column, column + width)), (there, slice(to, to + width))
                    old, count = entries[here], so_far[here]
                    entries[here] = (old * count + client[there] * weight) / (count + weight)
                    so_far[here] += weight


def runs(index: Any) -> list[tuple[int, int, int]]:
    """Intervals of kept units: where each starts in the client and in the father, and its length."""
    import numpy as np

    units = index.numpy()
    starts = [0, *(np.nonzero(np.diff(units) != 1)[0] + 1).tolist()]
    ends = [*starts[1:], len(units)]
    return [(a, int(units[a]), b - a) for a, b in zip(starts, ends, strict=True)]


def measure(strategy: str, per_capacity: int, rounds: int, loop_clients: int) -> dict[str, Any]:
    """Seconds of each round of both, bytes of all clients, and the machine's copy bandwidth."""
    import torch

    import prunus
    from benchmarks.zoo.torchvision_shim import import_torchvision
    from prunus import submodel

    torch.manual_seed(0)
    father = import_torchvision().models.resnet18()
    graph = prunus.trace(father, torch.randn(1, 3, 64, 64))
    choose = getattr(submodel, strategy)
    updates, for_loop = [], []
    parameters = [name for name, _ in father.named_parameters()]
    for client in range(per_capacity * len(CAPACITIES)):
        plan = choose(graph, CAPACITIES[client % len(CAPACITIES)], client, 1)
        state = submodel.slice_state(father, plan)
        for tensor in state.values():
            if tensor.is_floating_point():
                tensor += torch.randn(tensor.shape) * 0.01
        weight = float(50 + client)
        updates.append((plan, state, weight))
        if client < loop_clients:
            intervals = {name: [runs(index) for index in plan.indices(name)] for name in parameters}
            for_loop.append((intervals, {name: state[name].numpy() for name in parameters}, weight))
    total = sum(t.numel() * t.element_size() for _, state, _ in updates for t in state.values())

    looped = sum(array.nbytes for _, own, _ in for_loop for array in own.values())

    source = torch.randn(1 << 26)
    target = torch.empty_like(source)
    arrays = {name: p.detach().numpy().copy() for name, p in father.named_parameters()}
    wide = {name: array.astype("float64") for name, array in arrays.items()}
    threads = sorted({1, torch.get_num_threads()})
    seconds: dict[str, list[float]] = {}

    def take(key: str, function: Callable[..., Any], *arguments: Any) -> None:
        start = time.perf_counter()
        function(*arguments)
        seconds.setdefault(key, []).append(time.perf_counter() - start)

    target.copy_(source)
    for turn in range(rounds):
        for number in threads:
            torch.set_num_threads(number)
            take(f"copy {number}", target.copy_, source)
            take(f"prunus {number}", submodel.merge, father, updates)
        if turn == 0 or loop_clients == len(updates):
            take("loop", loop, arrays, for_loop)
            take("wide", loop, wide, for_loop)
    middle = {key: statistics.median(values) for key, values in seconds.items()}
    return {
        "seconds": seconds,
        "client_bytes": total,
        "loop": looped / middle["loop"],
        "wide": looped / middle["wide"],
        "threads": {
            number: {
                "seconds": middle[f"prunus {number}"],
                "copy": source.numel() * 4 / middle[f"copy {number}"],
                "prunus": total / middle[f"prunus {number}"],
            }
            for number in threads
        },
    }


CASES = ("heterofl", "fedrolex", "federated_dropout")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-capacity", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for strategy in CASES:
        results[strategy] = isolated.call(
            "benchmarks.submodel",
            "measure",
            strategy,
            options.per_capacity,
            options.rounds,
            len(CAPACITIES) * (1 if strategy == "federated_dropout" else options.per_capacity),
            timeout=900,
        )
        if "error" in results[strategy]:
            raise SystemExit(results[strategy]["error"])
    rows, targets = [], []
    for strategy, found in results.items():
        for threads, own in found["threads"].items():
            ours, loops = own["prunus"], (found["loop"], found["wide"])
            rows.append(
                [
                    strategy,
                    threads,
                    f"{found['client_bytes'] / 1e9:.2f} GB",
                    f"{own['seconds']:.2f} s",
                    f"{ours / 1e9:.2f} GB/s",
                    f"{ours / own['copy']:.0%}",
                    *(
                        text
                        for speed in loops
                        for text in (f"{speed / 1e9:.2f} GB/s", f"{ours / speed:.1f} x")
                    ),
                ]
            )
            who = f"{strategy}, {threads} thread{'' if threads == '1' else 's'}"
            targets.append(
                (
                    f"{who}: {ours / own['copy']:.0%} of copy bandwidth, at least {MIN_SHARE:.0%}",
                    ours >= MIN_SHARE * own["copy"],
                )
            )
            for name, speed in zip(("float32", "float64"), loops, strict=True):
                text = f"{who}: {ours / speed:.1f} x the {name} loop, at least {MIN_RATIO:.0f}"
                targets.append((text, ours >= MIN_RATIO * speed))
    publish(
        "submodel",
        "ResNet-18 merged from 100 clients",
        f"{options.per_capacity * len(CAPACITIES)} clients of capacities "
        f"{', '.join(map(str, CAPACITIES))} in equal numbers, median of {options.rounds} rounds. Speeds are "
        "bytes of clients' tensors per second; *of copy* is the share of the bandwidth at which this machine "
        "copies memory with as many threads. The loop is HeFlwr's rule over NumPy slices, for parameters "
        "only, in float32 as there and in float64 as here; where units are random, which makes an interval "
        "of nearly each, it runs once, for five of the clients. Nested and rolling sub-models are one or two "
        "intervals an axis, and there a NumPy slice is already as wide as it gets: a tenth of the float32 "
        "loop's time is less than it takes to read the clients' memory once.",
        (
            *("strategy", "threads", "clients", "merge", "speed", "of copy"),
            *("float32 loop", "ratio", "float64 loop", "ratio"),
        ),
        rows,
        results,
        targets,
    )


if __name__ == "__main__":
    main()
