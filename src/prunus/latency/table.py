"""Times of single operations on this machine, measured when first asked for and kept in a file."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from torch import Tensor

from .clock import Clock, clock_for
from .folder import TimesFile, cache_folder, machine_key
from .operands import Operand, OperandMaker
from .progress import Spinner
from .replay import Request
from .timing import quiet

SAMPLES = 9
LEAST_SAMPLES = 3
ENOUGH_SECONDS = 0.01
"""Sampling ends here once there are `LEAST_SAMPLES`: slow operations are timed well by a few."""

SAMPLE_SECONDS = 1e-4
"""Calls are repeated within one sample until it is well above the resolution of clocks."""

MOST_CALLS = 20
SAVE_EVERY = 10.0


class LatencyTable:
    """Milliseconds of operations, each measured once for a machine, device, torch version and thread count.

    Args:
        device: where operations run.
        folder: where times are kept; `prunus.latency.cache_folder()` by default.
        clock: what takes the time, instead of the device's own clock.
        progress: show on the terminal what is measured when that takes longer than a moment.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        folder: str | Path | None = None,
        clock: Clock | None = None,
        progress: bool = True,
    ) -> None:
        self.device = torch.device(device)
        self.clock = clock or clock_for(self.device)
        self.file = TimesFile(
            cache_folder() if folder is None else Path(folder), machine_key(self.device, self.clock)
        )
        self.times = self.file.read()
        self.measured = 0
        self._fresh: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        self._maker = OperandMaker(self.device)
        self._saved = time.monotonic()
        self.spinner = Spinner(progress)

    def time(self, request: Request) -> float | None:
        """Milliseconds of one call; None where it cannot be replayed on random tensors."""
        key = str(request)
        known = self.times.get(key)
        if known is not None or key in self.failed:
            return known
        self.spinner.show(f"timing {request.func} ({self.measured} operations so far)")
        try:
            with quiet([], self.device):
                seconds = self._measure(request)
        except Exception as error:  # arguments that depend on values that random tensors do not have
            self.failed[key] = f"{type(error).__name__}: {error}"
            return None
        self.measured += 1
        self.times[key] = self._fresh[key] = seconds * 1e3
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save()
        return self.times[key]

    def save(self) -> None:
        """Write what is new to the file; where its folder cannot be written, times last for the process."""
        self.spinner.hide()
        self._saved = time.monotonic()
        if self._fresh and self.file.write(self._fresh):
            self._fresh = {}

    def _measure(self, request: Request) -> float:
        """The least of the samples: what disturbs a short call only ever makes it longer."""
        warm: dict[Operand, Tensor] = {}

        def make(operand: Operand) -> Tensor:
            if operand.cold or request.writes:
                return self._maker.make(operand)
            if operand not in warm:
                warm[operand] = self._maker.make(operand)
            return warm[operand]

        def sample(calls: int) -> float:
            bound = [request.bind(make) for _ in range(calls)]

            def run() -> None:
                for call in bound:
                    call()

            return self.clock.seconds(run) / calls

        sample(1)
        calls = min(MOST_CALLS, max(1, math.ceil(SAMPLE_SECONDS / max(sample(1), 1e-9))))
        samples: list[float] = []
        while len(samples) < SAMPLES:
            samples.append(sample(calls))
            if len(samples) >= LEAST_SAMPLES and sum(samples) * calls > ENOUGH_SECONDS:
                break
        return min(samples)
