"""Prune in steps with fine-tuning, stop in the middle, and go on to the same bits.

    python examples/fit_digits.py

A small network is trained on the digits that ship with scikit-learn, with a group lasso that makes whole
channels small. `prunus.fit` then takes it to a fifth of its MACs in four steps. The run is interrupted in the
third one on purpose and called again, in the same way, on a newly built network: it goes on from its folder,
and ends with the same bits as a run that nothing interrupted. A second run has a floor that it cannot hold.

Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus.training import Epochs, Fitted, GroupLasso, agp, fit


class Interrupted(Exception):
    """Stands for whatever ends a process too early."""


def build() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 48, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(192, 10),
    )


class Digits:
    """1200 images to train on, in random order, and 597 to test."""

    def __init__(self) -> None:
        digits = load_digits()
        x_BCHW = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
        y_B = torch.tensor(digits.target)
        order = torch.randperm(len(y_B), generator=torch.Generator().manual_seed(0))
        train, self.test = order[:1200], order[1200:]
        self.x_BCHW, self.y_B = x_BCHW, y_B
        self.loader = DataLoader(TensorDataset(x_BCHW[train], y_B[train]), batch_size=64, shuffle=True)

    def accuracy(self, model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            found_B = model(self.x_BCHW[self.test]).argmax(1)
        return float((found_B == self.y_B[self.test]).float().mean())


def run(
    digits: Digits,
    weights: dict[str, Tensor],
    folder: Path,
    interrupt: bool = False,
    floor: float | None = None,
    kept: float = 0.2,
) -> tuple[nn.Module, Fitted]:
    """One call of `fit`, on a network and an optimizer that are built for it."""
    torch.manual_seed(1)
    model = build()
    model.load_state_dict(weights)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    epoch = Epochs(digits.loader, F.cross_entropy, epochs=3)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        epoch(model, optimizer, step)
        if interrupt and step == 3:
            raise Interrupted

    result = fit(
        model,
        digits.x_BCHW[:1],
        budget=prunus.Budget(macs=kept),
        steps=4,
        schedule=agp,
        scope="global",
        train=train,
        evaluate=digits.accuracy,
        optimizer=optimizer,
        folder=folder,
        floor=floor,
    )
    return model, result


def trained(digits: Digits) -> dict[str, Tensor]:
    """Weights of the whole network, its channels apart in size thanks to the lasso."""
    torch.manual_seed(0)
    model = build()
    lasso = GroupLasso(prunus.trace(model, digits.x_BCHW[:1]), strength=2e-4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    Epochs(digits.loader, F.cross_entropy, epochs=8, after_backward=lasso)(model, optimizer)
    return model.state_dict()


def check(what: str, holds: bool) -> None:
    print(f"{what}: {'yes' if holds else 'NO'}")
    if not holds:
        raise SystemExit(1)


def main(in_folder: Callable[[str], Path]) -> None:
    digits = Digits()
    weights = trained(digits)
    whole, result = run(digits, weights, in_folder("whole"))
    print(result, end="\n\n")
    try:
        run(digits, weights, in_folder("broken"), interrupt=True)
    except Interrupted:
        print("interrupted in step 3")
    resumed, _ = run(digits, weights, in_folder("broken"))
    same = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    check("resumed, and the same bits as without the interruption", all(torch.equal(a, b) for a, b in same))
    check("within the budget", result.last.macs <= 0.2 * result.history[0].macs)

    floor = result.history[0].metric - 0.03 if result.history[0].metric is not None else 0.0
    model, stopped = run(digits, weights, in_folder("floor"), floor=floor, kept=0.01)
    print(f"\nto a hundredth of the MACs, with a floor of {floor:.4g}:\n{stopped}")
    check("what remains is above the floor", digits.accuracy(model) >= floor)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(lambda name: Path(temporary) / name)
