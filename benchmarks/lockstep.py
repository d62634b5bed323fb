"""Steps of several sides, each in a process of its own, timed one after another in turns.

In one process the sides share what the allocator keeps: one side's step runs in memory that another's has
left mapped, and what it costs to map memory falls to whoever comes first. Apart they cost what they cost
their users, and taking turns, step by step, lets all of them meet the same other work on the machine.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

CODE = "from benchmarks.lockstep import serve; serve()"
WARM_UP = 3


class Step(NamedTuple):
    """What one step took: seconds of the processor, and page faults."""

    seconds: float
    faults: int


class Worker:
    """A process that makes a step, and runs it once each time it is asked to.

    Args:
        module, function: what is called to make the step, a function without arguments.
        arguments: what it is called with, plain data.
    """

    def __init__(self, module: str, function: str, *arguments: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CODE, module, function, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def step(self) -> Step:
        """Run one step."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("STEP "):
                return Step(*json.loads(line[5:]))
        raise SystemExit(f"a worker has ended: exit code {self._process.wait()}")

    def close(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself, which `step` tells
            self._process.stdin.close()
        self._process.wait()


def serve() -> None:
    """What a worker does: a step for each line read."""
    module, function, arguments = sys.argv[1:4]
    step = getattr(importlib.import_module(module), function)(*json.loads(arguments))
    for _ in range(WARM_UP):
        step()
    gc.disable()
    for _ in sys.stdin:
        faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        step()
        seconds = time.process_time() - start
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        print("STEP", json.dumps([seconds, faults]), flush=True)
        gc.collect()


def launch(
    module: str, function: str, sides: Sequence[str], arguments: Sequence[Any], rounds: int
) -> dict[str, list[Step]]:
    """The steps of each side, round by round, of processes that were started for it."""
    workers = {side: Worker(module, function, side, *arguments) for side in sides}
    steps: dict[str, list[Step]] = {side: [] for side in sides}
    try:
        for turn in range(rounds):
            first = turn % len(sides)
            for side in (*sides[first:], *sides[:first]):
                steps[side].append(workers[side].step())
    finally:
        for worker in workers.values():
            worker.close()
    return steps


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the order statistics between which it lies with 95% confidence.

    Whatever the distribution: Conover, Practical Nonparametric Statistics, section 3.2.
    """
    ordered, n = sorted(values), len(values)
    reach = 0.98 * math.sqrt(n)
    low, high = max(0, math.floor(n / 2 - reach)), min(n - 1, math.ceil(n / 2 + reach) - 1)
    return statistics.median(ordered), ordered[low], ordered[high]
