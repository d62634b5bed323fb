"""A progress bar of steps: which one is under way, what it is doing, and the metric so far."""

from __future__ import annotations

import random
from types import TracebackType
from typing import Any


class Progress:
    """A context manager; shows nothing unless asked to."""

    def __init__(self, steps: int, show: bool) -> None:
        self.steps = steps
        self._bar: Any = None
        if show:
            state = random.getstate()  # rich draws from it while it is imported
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            random.setstate(state)
            console = Console()

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=console,
                transient=True,
                disable=not (console.is_terminal or console.is_jupyter),
            )
            self._task = self._bar.add_task("", total=steps)

    def at(self, done: int, what: str, metric: float | None = None) -> None:
        if self._bar is not None:
            text = what if metric is None else f"{what} (metric {metric:.4g})"
            self._bar.update(self._task, completed=done, description=text)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
