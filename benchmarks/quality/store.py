"""What has been computed already: trained weights as safetensors, results as JSON, by hashes of causes.

A fine-tuned network is filed under the bytes of the pruned one: what chose the units does not matter, so a
result is never stale, and two methods that make the same cut share it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def default_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "prunus" / "benchmarks" / "quality"


def digest(*causes: Any) -> str:
    return hashlib.sha256(json.dumps(causes, sort_keys=True, default=str).encode()).hexdigest()[:32]


def fingerprint(model: nn.Module) -> str:
    """A hash of every tensor and every integer that the forward may read."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for name, module in model.named_modules():
        integers = {key: value for key, value in vars(module).items() if type(value) is int}
        found.update(json.dumps([name, integers], sort_keys=True).encode())
    return found.hexdigest()[:32]


class Store:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hits = 0
        self.misses = 0

    def read(self, kind: str, key: str) -> dict[str, Any] | None:
        path = self.folder / kind / f"{key}.json"
        found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
        self._count(found is not None)
        return found

    def write(self, kind: str, key: str, result: Mapping[str, Any]) -> None:
        self._put(kind, f"{key}.json", lambda path: path.write_text(json.dumps(result)))

    def read_tensors(self, key: str) -> dict[str, Tensor] | None:
        path = self.folder / "dense" / f"{key}.safetensors"
        found = load_file(path) if path.exists() else None
        self._count(found is not None)
        return found

    def write_tensors(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        self._put("dense", f"{key}.safetensors", lambda path: save_file(whole, path))

    def _count(self, hit: bool) -> None:
        self.hits += hit
        self.misses += not hit

    def _put(self, kind: str, name: str, write: Any) -> None:
        """An interrupted run leaves no half-written file."""
        folder = self.folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=folder, suffix=".part")
        os.close(handle)
        write(Path(scratch))
        os.replace(scratch, folder / name)


def versions() -> dict[str, str]:
    """What training depends on besides the settings."""
    import platform

    return {"torch": torch.__version__, "python": platform.python_version()}
