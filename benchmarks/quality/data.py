"""The data: scikit-learn's digits, and the source text of Python's standard library.

Each is split once, whatever the seed: what is tested on is never trained on.

Shapes: B batch, C channels, H and W pixels, T bytes of a window.
"""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor

SPLIT_SEED = 0
CALIBRATION = 256
"""Training examples that data-driven importances see."""


@dataclass(frozen=True, eq=False)
class Digits:
    """1797 images of 8x8 grey levels; half of them, stratified by class, are the test set."""

    x_train_BCHW: Tensor
    y_train_B: Tensor
    x_test: Tensor
    y_test: Tensor

    def draw(self, batch: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Random training images, shifted together by up to one pixel."""
        index = torch.randint(len(self.y_train_B), (batch,), generator=generator)
        down, right = torch.randint(0, 3, (2,), generator=generator).tolist()
        background = float(self.x_train_BCHW.min())
        x_BCHW = torch.nn.functional.pad(self.x_train_BCHW[index], (1, 1, 1, 1), value=background)
        return x_BCHW[:, :, down : down + 8, right : right + 8], self.y_train_B[index]

    def calibration(self, batch: int) -> list[tuple[Tensor, Tensor]]:
        return [
            (self.x_train_BCHW[start : start + batch], self.y_train_B[start : start + batch])
            for start in range(0, CALIBRATION, batch)
        ]


@dataclass(frozen=True, eq=False)
class Source:
    """Windows of ASCII source text; the target of each byte is the next one."""

    train: Tensor
    x_test: Tensor
    y_test: Tensor
    context: int

    def draw(self, batch: int, generator: Generator) -> tuple[Tensor, Tensor]:
        start = torch.randint(len(self.train) - self.context - 1, (batch,), generator=generator)
        return self._windows(start)

    def calibration(self, batch: int) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(SPLIT_SEED)
        return [self.draw(batch, generator) for _ in range(0, CALIBRATION, batch)]

    def _windows(self, start: Tensor) -> tuple[Tensor, Tensor]:
        text_BT = self.train[start.unsqueeze(1) + torch.arange(self.context + 1)].long()
        return text_BT[:, :-1], text_BT[:, 1:]


@cache
def digits() -> Digits:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    x_BCHW = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1)
    x_BCHW = (x_BCHW - x_BCHW.mean()) / x_BCHW.std()
    labels_B = torch.tensor(found.target)
    train, test = train_test_split(
        range(len(labels_B)), test_size=0.5, random_state=SPLIT_SEED, stratify=found.target
    )
    return Digits(x_BCHW[train], labels_B[train], x_BCHW[test], labels_B[test])


@cache
def source(context: int = 64, windows: int = 384) -> Source:
    """Every fifth top-level module of the standard library is held out; `windows` of them are the test."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    parts = [
        b"".join(_ascii(file) for number, file in enumerate(files) if (number % 5 == 0) is held_out)
        for held_out in (False, True)
    ]
    train, test = (torch.frombuffer(bytearray(part), dtype=torch.uint8) for part in parts)
    starts = torch.linspace(0, len(test) - context - 2, windows).long()
    text_BT = test[starts.unsqueeze(1) + torch.arange(context + 1)].long()
    return Source(train, text_BT[:, :-1], text_BT[:, 1:], context)


def _ascii(file: Path) -> bytes:
    return file.read_text("utf-8", errors="replace").encode("ascii", errors="replace")
