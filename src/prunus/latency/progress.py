"""A line on the terminal while measuring, once it takes longer than a moment."""

from __future__ import annotations

import sys
import time
from typing import Any

MOMENT = 1.0


class Spinner:
    """Shows what is going on; nothing on anything but a terminal."""

    def __init__(self, wanted: bool = True) -> None:
        self.wanted = wanted and sys.stderr.isatty()
        self._since: float | None = None
        self._status: Any = None

    def show(self, text: str) -> None:
        if not self.wanted:
            return
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if self._status is not None:
            self._status.update(text)
        elif now - self._since > MOMENT:
            from rich.console import Console

            self._status = Console(stderr=True).status(text)
            self._status.start()

    def hide(self) -> None:
        self._since = None
        if self._status is not None:
            self._status.stop()
            self._status = None
