"""The numbers that modules hold are as they were saved, and what others own is left alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import CheckpointError

WIDTHS = [6, 16, 5]


@dataclass(frozen=True)
class Inner:
    heads: int = 4
    drop: float = 0.25


@dataclass
class Config:
    width: int = 16
    inner: Inner = Inner()
    optional: int | None = None
    name: str = "x"
    parent: Any = None


class Head(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.width, 5)

    def forward(self, x_BE: Tensor) -> Tensor:
        return self.linear(x_BE[:, : self.config.width])


class Net(nn.Module):
    """Numbers in lists, tuples, dicts, and a configuration that two modules share and that knows itself."""

    def __init__(self, config: Config, widths: list[int] = WIDTHS) -> None:
        super().__init__()
        self.config, self.widths = config, widths
        self.table = {"sizes": (config.width, [config.width]), "fixed": "text"}
        self.scale = config.width**-0.5
        self.first = nn.Linear(6, config.width)
        self.head = Head(config)

    def forward(self, x_BE: Tensor) -> Tensor:
        x_BE = self.first(x_BE).relu().view(-1, self.widths[1])
        return self.head(x_BE)


def cyclic() -> Config:
    config = Config()
    config.parent = config
    return config


def pruned() -> tuple[Net, Tensor]:
    """Half as wide, with numbers everywhere that say so."""
    model, x_BE = Net(cyclic(), list(WIDTHS)).eval(), torch.randn(2, 6)
    prunus.prune(model, x_BE, ratio=0.5)
    model.config.width = 8
    model.config.inner = replace(model.config.inner, heads=2, drop=0.5)
    model.config.optional = 3
    model.table = {"sizes": (8, [8]), "fixed": "text"}
    model.scale = 0.5
    return model, x_BE


@pytest.mark.parametrize("target", ["factory", "instance"])
def test_numbers_in_containers_and_objects(target: str, tmp_path: Path) -> None:
    model, x_BE = pruned()
    prunus.save(model, tmp_path)
    config = cyclic()
    loaded = prunus.load((lambda: Net(config)) if target == "factory" else Net(config), tmp_path)
    assert torch.equal(loaded(x_BE), model(x_BE))
    assert loaded.widths == [6, 8, 5]
    assert loaded.table == {"sizes": (8, [8]), "fixed": "text"}
    assert loaded.scale == 0.5
    assert loaded.config.inner == Inner(2, 0.5)
    assert (loaded.config.width, loaded.config.optional, loaded.config.name) == (8, 3, "x")
    assert loaded.head.config is loaded.config
    assert loaded.config.parent is loaded.config


def test_what_others_own_is_left_alone(tmp_path: Path) -> None:
    model, _ = pruned()
    prunus.save(model, tmp_path)
    config = cyclic()
    prunus.load(lambda: Net(config), tmp_path)
    assert WIDTHS == [6, 16, 5]
    assert (config.width, config.inner, config.optional) == (16, Inner(), None)


def test_numbers_that_nothing_changed_keep_their_objects(tmp_path: Path) -> None:
    model = Net(cyclic())
    prunus.save(model, tmp_path)
    config, target = cyclic(), Net(cyclic(), [6, 16, 5])
    target.config = target.head.config = config
    widths, table = target.widths, target.table
    prunus.load(target, tmp_path)
    assert target.config is config
    assert target.widths is widths
    assert target.table is table


def test_numbers_that_only_one_side_has(tmp_path: Path) -> None:
    """Some are first set by a forward pass; those of the model stay, those of the checkpoint are left out."""
    model, x_BE = pruned()
    model.seen = 7
    model.config.seen = 7
    prunus.save(model, tmp_path)
    target = Net(cyclic())
    target.mine = 9
    prunus.load(target, tmp_path)
    assert target.mine == 9
    assert not hasattr(target, "seen")
    assert torch.equal(target(x_BE), model(x_BE))


@pytest.mark.parametrize("value", [0.1, 1e-300, 5e-324, 1 / 3, -0.0, float("inf"), float("nan"), 2**0.5])
def test_floats_to_the_last_bit(value: float, tmp_path: Path) -> None:
    model, target = nn.Dropout(0.5), nn.Dropout(0.5)
    model.p = value
    prunus.save(model, tmp_path)
    prunus.load(target, tmp_path)
    finite = value - value == 0
    assert repr(target.p) == repr(value if finite else 0.5)


def test_true_and_false_are_no_numbers(tmp_path: Path) -> None:
    model, target = nn.Linear(2, 2), nn.Linear(2, 2)
    model.flag, target.flag = True, False
    prunus.save(model, tmp_path)
    assert prunus.load(target, tmp_path).flag is False


def test_an_object_that_refuses_to_be_copied(tmp_path: Path) -> None:
    class Single:
        def __init__(self) -> None:
            self.width = 4

        def __copy__(self) -> Single:
            return self

    model, target = nn.ReLU(), nn.ReLU()
    model.config, target.config = Single(), Single()
    model.config.width = 2
    prunus.save(model, tmp_path)
    with pytest.raises(CheckpointError, match="cannot be copied"):
        prunus.load(target, tmp_path)
    assert target.config.width == 4
