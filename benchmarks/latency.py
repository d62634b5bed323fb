"""Latency budgets beside uniform budgets of MACs at the same latency: `python -m benchmarks.latency`.

A network is cut to half of its measured batch-1 latency by `Budget(latency=0.5)`. Beside it, the same
network is cut by a uniform budget of MACs (the same share of every axis), whose value is searched until that
cut takes the same time. The better of the two keeps more MACs. All three models are timed by turns, on one
thread, in one process. Shares of the original's time are medians over the rounds, once in time of the
computing thread, which other processes hardly disturb, and once in wall-clock time.

The table of operation times is measured afresh in a folder of its own; the second plan finds it there.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

from benchmarks import isolated
from benchmarks.publish import publish

SHARE = 0.5
AGREEMENT = 0.15
MODELS = ("resnet50", "mobilenet_v2")
SEARCH_STEPS = 7
SEARCH_ROUNDS = 9
FINAL_ROUNDS = 31


def measure(name: str) -> dict[str, Any]:
    """Plan by latency, search the uniform cut that takes as long, and time all three."""
    import copy

    import torch

    import prunus
    from benchmarks.zoo.torchvision_shim import import_torchvision
    from prunus.latency.clock import ThreadClock, WallClock
    from prunus.latency.timing import interleaved

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = getattr(import_torchvision().models, name)().eval()
    x_BCHW = torch.randn(1, 3, 224, 224)
    graph = prunus.trace(model, x_BCHW)

    def cut(budget: prunus.Budget) -> tuple[Any, Any, float]:
        start = time.perf_counter()
        plan = graph.plan(budget=budget)
        seconds = time.perf_counter() - start
        return plan, plan.apply(copy.deepcopy(model)), seconds

    _, _, first_seconds = cut(prunus.Budget(latency=SHARE))
    plan, fast, seconds = cut(prunus.Budget(latency=SHARE))

    low, high = 0.1, 1.0
    for _ in range(SEARCH_STEPS):
        share = (low + high) / 2
        _, candidate, _ = cut(prunus.Budget(macs=share))
        rows = interleaved([fast, candidate], x_BCHW, repeats=SEARCH_ROUNDS, clock=ThreadClock())
        if statistics.median(b / a for a, b in rows) > 1:
            high = share
        else:
            low = share
    uniform, even, _ = cut(prunus.Budget(macs=high))

    full = graph.cost()
    result: dict[str, Any] = {
        "asked": SHARE,
        "plan_seconds_first": first_seconds,
        "plan_seconds": seconds,
        "candidates": plan.latency.candidates,
        "planned_share": plan.latency.after / plan.latency.before,
        "macs": plan.cost.macs / full.macs,
        "uniform_macs": uniform.cost.macs / full.macs,
        "params": plan.cost.params / full.params,
        "uniform_params": uniform.cost.params / full.params,
    }
    clocks = {"thread": ThreadClock(), "wall": WallClock(torch.device("cpu"))}
    for key, clock in clocks.items():
        rows = interleaved([model, fast, even], x_BCHW, repeats=FINAL_ROUNDS, clock=clock)
        result[f"{key}_ms"] = statistics.median(row[0] for row in rows)
        result[f"{key}_share"] = statistics.median(row[1] / row[0] for row in rows)
        result[f"uniform_{key}_share"] = statistics.median(row[2] / row[0] for row in rows)
    return result


def main() -> None:
    """Measure and publish `latency`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency")
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--timeout", type=float, default=1800)
    options = parser.parse_args()

    data = {}
    for name in [options.only] if options.only else MODELS:
        with tempfile.TemporaryDirectory() as folder:
            environment = {"OMP_NUM_THREADS": "1", "PRUNUS_CACHE": folder}
            data[name] = isolated.call(
                "benchmarks.latency", "measure", name, timeout=options.timeout, environment=environment
            )
    rows, targets = [], []
    for name, row in data.items():
        if "error" in row:
            rows.append([name, row["error"][:60], "", "", "", "", ""])
            targets.append((f"{name}: {row['error'][:60]}", False))
            continue
        for how, prefix in (("latency", ""), ("uniform MACs", "uniform_")):
            planning = f"{row['plan_seconds_first']:.0f} s, then {row['plan_seconds']:.0f} s"
            rows.append(
                [
                    f"{name}, {how}",
                    f"{row['thread_ms'] * row[f'{prefix}thread_share']:.1f} of {row['thread_ms']:.1f} ms",
                    f"{row[f'{prefix}thread_share']:.1%}",
                    f"{row[f'{prefix}wall_share']:.1%}",
                    f"{row[f'{prefix}macs']:.1%}",
                    f"{row[f'{prefix}params']:.1%}",
                    "" if prefix else planning,
                ]
            )
        off = row["thread_share"] / row["asked"] - 1
        targets.append(
            (
                f"{name}: keeps {row['macs']:.1%} of the MACs, the uniform cut of the same latency "
                f"{row['uniform_macs']:.1%}",
                row["macs"] > row["uniform_macs"],
            )
        )
        targets.append(
            (
                f"{name}: asked for {row['asked']:.0%} of the latency, measured {row['thread_share']:.1%}, "
                f"within {AGREEMENT:.0%} of each other",
                abs(off) <= AGREEMENT,
            )
        )
    publish(
        "latency",
        "Latency budgets",
        "Networks with random weights, batch of one, 224 x 224, one thread. *Latency* is cut by "
        f"`Budget(latency={SHARE})`; *uniform MACs* by the budget of MACs, the same share of every axis, "
        "that takes the same time. Shares are of the unpruned network, timed by turns: *time* in time of the "
        "computing thread, *wall* by the clock. *Planning* is the time that the plan took, first with an "
        "empty table of operation times, then with a filled one.",
        ["network, budget", "latency", "time", "wall", "MACs", "parameters", "planning"],
        rows,
        data,
        targets,
    )


if __name__ == "__main__":
    main()
