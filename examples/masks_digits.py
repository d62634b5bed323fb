"""Masks on scikit-learn's digits: grow sparse, then structured with partners, then physically small.

Run with `python examples/masks_digits.py`; it takes some seconds.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import prunus
import prunus.masks as prune


def build() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, moving: prune.RigL | None = None) -> None:
    model.train()
    optimizer = moving.optimizer if moving else torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            if moving:
                moving.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(1) == y).float().mean())


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    (x, tx), (y, ty) = images.split([1347, 450]), labels.split([1347, 450])
    model = build()
    train(model, x, y, 4)
    print(f"dense: {accuracy(model, tx, ty):.2%}")

    layers = [(module, "weight") for module in model if isinstance(module, nn.Conv2d | nn.Linear)]
    gradual = prune.Gradual(layers, prune.L1Unstructured, 0.9, steps=3, together=True)
    for _ in range(3):
        gradual.step()
        train(model, x, y, 1)
    print(f"nine of ten weights gone: {accuracy(model, tx, ty):.2%}")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    moving = prune.RigL(layers, optimizer, fraction=0.2, interval=10, stop=40)
    train(model, x, y, 3, moving)
    print(f"after some have moved: {accuracy(model, tx, ty):.2%}")
    print(prune.report(model))

    small = build()
    train(small, x, y, 4)
    graph = prunus.trace(small, x[:1])
    for layer in (small[0], small[3]):
        prune.ln_structured(layer, "weight", 0.5, n=2, dim=0, coupled=graph)
    train(small, x, y, 2)
    before, entries = small(tx).detach(), sum(p.numel() for p in small.parameters())
    prunus.compact(small, x[:1])
    difference = float((small(tx).detach() - before).abs().max())
    print(f"half of the channels masked and trained on: {accuracy(small, tx, ty):.2%}")
    print(f"compacted from {entries:,} to {sum(p.numel() for p in small.parameters()):,} parameters;")
    print(f"the largest change of an output is {difference:.0e}")


if __name__ == "__main__":
    main()
