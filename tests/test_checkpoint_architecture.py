"""A checkpoint and a model of another architecture, or something that is no model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from checkpoint_folder import refused, sound_checkpoint
from checkpoint_models import Residual, VisionTransformer
from prunus.errors import ArgumentTypeError, CheckpointError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return sound_checkpoint(tmp_path)


class Longer(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(5, 5)


def renamed(change: Callable[[Residual], object]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = Residual()
        change(model)
        return model

    return build


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (VisionTransformer, "is a Residual there, a VisionTransformer here"),
        (Longer, "is a Residual there, a Longer here"),
        (renamed(lambda m: setattr(m, "more", nn.Linear(5, 5))), "module 'more' .Linear. is not in it"),
        (renamed(lambda m: delattr(m, "head")), "has a module 'head' .Linear."),
        (renamed(lambda m: setattr(m, "norm", nn.InstanceNorm2d(16))), "'norm' is a BatchNorm2d there"),
        (
            renamed(lambda m: setattr(m, "head", nn.Linear(16, 5, bias=False))),
            "'head.bias', this model does not",
        ),
        (renamed(lambda m: setattr(m, "stem", nn.Conv2d(3, 16, 3))), "parameter 'stem.bias' is not in it"),
        (renamed(lambda m: m.register_buffer("more", torch.ones(1))), "buffer 'more' is not in it"),
        (renamed(lambda m: setattr(m, "more", torch.ones(1))), "attribute 'more' is a tensor here only"),
        (renamed(lambda m: setattr(m, "conv1", m.conv2)), "conv1"),
        (lambda: Residual(width=4), "shape"),
        (
            renamed(
                lambda m: setattr(m.head, "weight", nn.Parameter(torch.zeros(5, 16, dtype=torch.complex64)))
            ),
            "complex64 here",
        ),
    ],
    ids=range(12),
)
def test_wrong_architectures(saved: Path, build: Callable[[], nn.Module], words: str) -> None:
    refused(saved, words, build)


def test_a_module_shared_in_one_of_the_two(tmp_path: Path) -> None:
    apart = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    shared = nn.Linear(4, 4)
    prunus.save(apart, tmp_path / "apart")
    refused(tmp_path / "apart", "two tensors there", lambda: nn.Sequential(shared, shared))
    prunus.save(nn.Sequential(shared, shared), tmp_path / "together")
    loaded = prunus.load(apart, tmp_path / "together")
    assert loaded[0].weight is loaded[1].weight


@pytest.mark.parametrize("target", [None, 3, "Residual", [Residual()]])
def test_nothing_to_load_into(saved: Path, target: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="callable"):
        prunus.load(target, saved)


def test_factories_that_fail(saved: Path) -> None:
    def broken() -> nn.Module:
        raise KeyError("no such option")

    with pytest.raises(CheckpointError, match=r"broken\(\) fails \(KeyError"):
        prunus.load(broken, saved)
    with pytest.raises(CheckpointError, match="without arguments"):
        prunus.load(nn.Linear, saved)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="returned a OrderedDict"):
        prunus.load(lambda: Residual().state_dict(), saved)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("folder", [None, 3, b"x\0", nn.Linear(1, 1)])
def test_folders_that_are_no_paths(folder: Any) -> None:
    with pytest.raises(prunus.PruningError):
        prunus.load(Residual, folder)
    with pytest.raises(prunus.PruningError):
        prunus.save(Residual(), folder)
