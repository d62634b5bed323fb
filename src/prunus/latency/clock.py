"""Stopwatches: how long a call takes on a device, in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Times one call. Anything with this method can stand in for the machine's own clock."""

    def seconds(self, call: Callable[[], Any]) -> float: ...


class WallClock:
    """Elapsed time, after the device has finished."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def seconds(self, call: Callable[[], Any]) -> float:
        self._finish()
        start = time.perf_counter()
        call()
        self._finish()
        return time.perf_counter() - start

    def _finish(self) -> None:
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize(self.device)


class ThreadClock:
    """Time that the calling thread spends computing.

    Where torch computes on one thread this is what a forward takes on an idle machine, and other
    processes that come between do not count.
    """

    def seconds(self, call: Callable[[], Any]) -> float:
        start = time.thread_time_ns()
        call()
        return (time.thread_time_ns() - start) * 1e-9


class CudaClock:
    """Time between two events on the current stream."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def seconds(self, call: Callable[[], Any]) -> float:
        with torch.cuda.device(self.device):
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            start.record()
            call()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) * 1e-3


def clock_for(device: torch.device) -> Clock:
    """The clock that suits a device: events on CUDA, the thread's own time where one thread computes."""
    if device.type == "cuda":
        return CudaClock(device)
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return ThreadClock()
    return WallClock(device)
