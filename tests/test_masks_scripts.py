"""Scripts written for `torch.nn.utils.prune` give the same under both, to the last digit."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils import prune as original

import prunus.masks as masks
from masks_script_parts import SCRIPTS

for part in ("masks_scripts", "masks_scripts_moving", "masks_scripts_inside", "masks_scripts_around"):
    importlib.import_module(part)


def plain(item: Any) -> Any:
    """Numbers and shapes of whatever a script has returned."""
    if isinstance(item, Tensor):
        item = item.detach()
        return tuple(item.shape), item.double().tolist()
    if isinstance(item, np.ndarray | np.generic):
        return item.astype(float).tolist()
    if isinstance(item, dict):
        return {key: plain(value) for key, value in item.items()}
    if isinstance(item, list | tuple | type({}.keys())):
        return [plain(value) for value in item]
    return item


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_gives_the_same(name: str) -> None:
    found = []
    for package in (original, masks):
        torch.manual_seed(7)
        found.append(plain(SCRIPTS[name](package)))
    theirs, ours = found
    assert ours == theirs
