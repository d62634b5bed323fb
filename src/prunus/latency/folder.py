"""The cache of measured times: one JSON file for each machine, device, torch version and thread count."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .clock import Clock, ThreadClock

VERSION = 1
"""Raised when times stop being comparable with those of earlier versions."""


def cache_folder() -> Path:
    """`$PRUNUS_CACHE`, else `prunus` under `$XDG_CACHE_HOME`, else under `~/.cache`."""
    own = os.environ.get("PRUNUS_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prunus"


@lru_cache(maxsize=1)
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine_key(device: torch.device, clock: Clock) -> dict[str, Any]:
    """What times depend on besides the operation."""
    key: dict[str, Any] = {
        "version": VERSION,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": device.type,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "clock": "thread" if isinstance(clock, ThreadClock) else "wall",
    }
    if device.type == "cuda":
        key["device"] = torch.cuda.get_device_name(device)
        key["tf32"] = torch.backends.cuda.matmul.allow_tf32
    return key


class TimesFile:
    """Times by operation, in milliseconds, kept in a file that several processes may share."""

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        self.key = key
        self.path = folder / f"latency-{digest}.json"

    def read(self) -> dict[str, float]:
        """What is known; a file that is missing, damaged or another machine's counts as empty."""
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(data, dict) or data.get("key") != self.key or not isinstance(data.get("ms"), dict):
            return {}
        return {
            name: float(ms)
            for name, ms in data["ms"].items()
            if isinstance(ms, int | float) and not isinstance(ms, bool) and 0 <= ms < math.inf
        }

    def write(self, times: dict[str, float]) -> bool:
        """Add times to the file, all at once; False where the folder cannot be written."""
        data = {"key": self.key, "ms": {**self.read(), **times}}
        temporary: str | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=self.path.name, dir=self.path.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(data, file, indent=0, sort_keys=True)
            os.replace(temporary, self.path)
        except OSError:
            if temporary is not None and os.path.exists(temporary):
                os.unlink(temporary)
            return False
        return True
