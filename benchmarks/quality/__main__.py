"""`python -m benchmarks.quality`: every network, speed-up, seed and method; about three quarters of an hour.

What is known already is read from the cache, so that the run can be stopped and taken up again.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import cells, report
from .methods import methods
from .store import Store, default_folder
from .tasks import TASKS

SPEEDUPS = (2, 4, 8)
SEEDS = (0, 1, 2, 3, 4)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--speedups", nargs="+", type=float, default=SPEEDUPS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--only", help="methods whose name contains this")
    parser.add_argument("--cache", type=Path, default=default_folder())
    parser.add_argument("--no-publish", action="store_true", help="print the tables, write nothing")
    options = parser.parse_args()

    torch.set_num_threads(1)  # so small a network gains nothing from more
    rows, dense = collect(
        options.networks, options.speedups, options.seeds, options.only or "", Store(options.cache)
    )
    report.present(rows, dense, write=not options.no_publish)


def collect(
    networks: list[str], speedups: list[float], seeds: list[int], only: str, store: Store
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The results of all cells, and of the networks before any cut."""
    chosen = [method for method in methods() if only in method.name]
    rows: list[dict[str, Any]] = []
    dense: list[dict[str, Any]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=len(networks) * len(seeds) * len(speedups) * len(chosen))
        for seed, name in itertools.product(seeds, networks):  # so that a part of the run is a whole seed
            progress.update(bar, description=f"{name}, seed {seed}: training")
            trained = cells.dense(TASKS[name], seed, store)
            dense.append({"network": name, "seed": seed, **trained.figures})
            for speedup, method in itertools.product(speedups, chosen):
                progress.update(bar, description=f"{name}, seed {seed}, {speedup:g}x, {method.name}")
                rows.append(cells.run(TASKS[name], seed, method, speedup, trained, store))
                progress.advance(bar)
    return rows, dense


if __name__ == "__main__":
    main()
