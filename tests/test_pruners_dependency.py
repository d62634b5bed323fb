"""Pruners aware of dependencies: which batch norms lose channels, where some come from elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunus.pruners import L1FilterPruner

CONVS = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]


class BesideItsInput(nn.Module):
    """A batch norm over channels of a convolution and, beside them, those of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(11)
        self.last = nn.Conv2d(11, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.norm(torch.cat([self.conv(self.first(x)), x], 1)))
        return out


def test_batch_norms_lose_the_channels_that_pruned_layers_make_and_no_others() -> None:
    model = BesideItsInput()
    norms = model.conv.weight.detach().abs().sum((1, 2, 3))
    pruner = L1FilterPruner(model, CONVS, None, dependency_aware=True, dummy_input=torch.randn(1, 3, 4, 4))
    pruner.compress()
    expected = torch.ones(11)
    expected[norms.argsort()[:4]] = 0
    assert torch.equal(model.norm.weight.detach(), expected)
    assert torch.equal(model.first.weight.detach(), torch.ones(3))
    assert [partner.name for partner in pruner.partners] == ["norm"]
