"""Whatever is done to a checkpoint, loading gives the model or a `CheckpointError`, and never half of one."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import prunus
from checkpoint_folder import weights_of
from prunus.checkpoint.files import sha256
from prunus.checkpoint.manifest import checksum
from prunus.errors import CheckpointError
from snapshots import Snapshot

FEW = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["weight", "float16", "buffer", "..", "__class__", "0.weight"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


@pytest.fixture(scope="module")
def sound() -> Any:
    folder = Path(tempfile.mkdtemp())
    model = build().eval()
    prunus.prune(model, torch.randn(1, 3, 6, 6), ratio=0.5)
    prunus.save(model, folder)
    yield folder
    shutil.rmtree(folder)


def check(folder: Path) -> None:
    """Load into a model; if that is refused, the model is as before."""
    target = build()
    before = Snapshot.of(target)
    message = ""
    try:
        prunus.load(target, folder)
    except CheckpointError as error:
        message = str(error)
    if message:
        assert len(message) < 600
        assert before.differences(target, identity=True) == []


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every container and key in a nest of JSON."""
    keys = list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else []
    return [(data, key) for key in keys] + [item for key in keys for item in places(data[key])]


@FEW
@given(change=JSON, drop=st.booleans(), seed=st.integers(0, 2**32))
def test_a_manifest_with_one_thing_changed(sound: Path, change: Any, drop: bool, seed: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(sound, Path(scratch) / "copy"))
        data = json.loads((folder / "manifest.json").read_text())
        container, key = random.Random(seed).choice(places(data))
        if drop:
            del container[key]
        else:
            container[key] = change
        data["checksum"] = checksum(data)
        (folder / "manifest.json").write_text(json.dumps(data))
        check(folder)


@FEW
@given(seed=st.integers(0, 2**32), signed=st.booleans(), manifest=st.booleans())
def test_files_with_some_bytes_changed(sound: Path, seed: int, signed: bool, manifest: bool) -> None:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(sound, Path(scratch) / "copy"))
        path = folder / "manifest.json" if manifest else weights_of(folder)
        content = bytearray(path.read_bytes())
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(min(len(content), draw.choice([16, 800, 10**9])))] = draw.randrange(256)
        path.write_bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])
        if signed and not manifest:
            data = json.loads((folder / "manifest.json").read_text())
            data["weights"].update(size=path.stat().st_size, sha256=sha256(path))
            data["checksum"] = checksum(data)
            (folder / "manifest.json").write_text(json.dumps(data))
        check(folder)
