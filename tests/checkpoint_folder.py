"""A sound checkpoint to do harm to, and what must then be true: loading is refused and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from checkpoint_models import Residual, pruned
from prunus.checkpoint.manifest import checksum
from prunus.errors import CheckpointError
from prunus.plan import history
from snapshots import Snapshot

Edit = Callable[[dict[str, Any]], object]


def sound_checkpoint(tmp_path: Path) -> Path:
    """A folder with a checkpoint of a pruned residual CNN."""
    model, _ = pruned("residual")
    folder = tmp_path / "checkpoint"
    prunus.save(model, folder)
    return folder


def weights_of(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def edit(folder: Path, change: Edit, sign: bool = True) -> None:
    """Change the manifest; `sign` makes its checksum right again, as somebody who means harm would."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    if sign:
        data["checksum"] = checksum(data)
    path.write_text(json.dumps(data))


def refused(folder: Path, words: str, build: Callable[[], nn.Module] = Residual) -> None:
    """Loading fails with a message that has these words, and changes nothing."""
    with pytest.raises(CheckpointError, match=words) as caught:
        prunus.load(build, folder)
    assert len(str(caught.value)) < 600
    target = build()
    for p in target.parameters():
        p.grad = torch.ones_like(p)
    before = Snapshot.of(target)
    with pytest.raises(CheckpointError, match=words):
        prunus.load(target, folder)
    assert before.differences(target, identity=True) == []
    assert history(target) == []
