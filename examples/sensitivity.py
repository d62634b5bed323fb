"""How much each axis of a network can lose, and a plan that takes more where it costs less.

    python examples/sensitivity.py                 # table only
    python examples/sensitivity.py curves.svg      # the curves as a plot as well (needs matplotlib)

A small network is trained on the digits that ship with scikit-learn. Each of its axes is cut at a few ratios,
one at a time, and the loss on images that were held out is measured. Ratios that keep the loss of every
single axis low make a plan, which is compared, before any fine-tuning, with one that takes the same fraction
from every axis at the same MACs.

Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import copy
import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import prunus
from prunus.training import Epochs, sensitivity

MAX_LOSS = 0.02


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1)
        self.narrow = nn.Conv2d(32, 8, 1)
        self.wide = nn.Conv2d(8, 96, 3, stride=2, padding=1)
        self.hidden = nn.Linear(96, 128)
        self.head = nn.Linear(128, 10)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BCHW = self.narrow(self.stem(x_BCHW).relu()).relu()
        features_BC = self.wide(x_BCHW).relu().amax((2, 3))
        return self.head(self.hidden(features_BC).relu())


def main(plot: str | None) -> None:
    torch.manual_seed(0)
    digits = load_digits()
    x_BCHW = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y_B = torch.tensor(digits.target)
    order = torch.randperm(len(y_B))
    train, held_out, test = order[:1000], order[1000:1400], order[1400:]

    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batches = [(x_BCHW[part], y_B[part]) for part in train.split(50)]
    Epochs(batches, F.cross_entropy, epochs=12)(model, optimizer)
    model.eval()

    @torch.no_grad()
    def loss(model: nn.Module) -> float:
        return F.cross_entropy(model(x_BCHW[held_out]), y_B[held_out]).item()

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        return (model(x_BCHW[test]).argmax(1) == y_B[test]).float().mean().item()

    graph = prunus.trace(model, x_BCHW[:1])
    found = sensitivity(graph, loss, ratios=(0.1, 0.25, 0.5, 0.75, 0.9))
    print(found)
    if plot is not None:
        found.plot(plot, label="cross-entropy on held-out images")
        print(f"plotted to {plot}")

    ratios = found.ratios(max_loss=MAX_LOSS)
    print(f"\nratios at which no axis alone costs more than {MAX_LOSS}: {ratios}")
    by_axis = graph.plan(ratio=ratios)
    macs = by_axis.cost.macs
    uniform = graph.plan(budget=prunus.Budget(macs=macs))
    print(f"accuracy of the whole network {accuracy(model):.2%}; without fine-tuning, at {macs:,} MACs")
    for name, plan in (("by sensitivity", by_axis), ("the same from every axis", uniform)):
        pruned = plan.apply(copy.deepcopy(model))
        print(f"  {name:24} {accuracy(pruned):.2%}  ({plan.cost.macs / graph.cost().macs:.1%} of the MACs)")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
