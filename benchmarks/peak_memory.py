"""Peak resident memory of a stretch of code, read from Linux's own high-water mark."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


class Peak:
    """Filled in when the `with` block ends. All in bytes."""

    before: int = 0
    highest: int = 0
    after: int = 0


def resident(field: str = "VmRSS") -> int:
    """Resident memory now (`VmRSS`) or its high-water mark (`VmHWM`), in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no field {field}")


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure a block: writing 5 to clear_refs sets the kernel's high-water mark back to the present."""
    peak = Peak()
    gc.collect()
    CLEAR.write_text("5")
    peak.before = resident()
    try:
        yield peak
    finally:
        peak.highest = resident("VmHWM")
        gc.collect()
        peak.after = resident()
