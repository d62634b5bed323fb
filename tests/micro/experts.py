"""Mixtures of experts: the experts' hidden sizes can go, the choice among experts stays."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._registry import Built, micro


class Mixture(nn.Module):
    def __init__(self, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 14), nn.Linear(14, 5)
        self.gate = nn.Linear(14, len(hidden), bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(14, h), nn.SiLU(), nn.Linear(h, 14)) for h in hidden
        )

    def forward(self, x_BTF: Tensor) -> Tensor:
        x_BTE = self.embed(x_BTF)
        return self.head(x_BTE + self.mix(x_BTE.flatten(0, 1)).view_as(x_BTE))

    def mix(self, x_NE: Tensor) -> Tensor:
        raise NotImplementedError


MIXED = {
    "embed.weight": 0,
    "experts.0.0.weight": (0, 1),
    "experts.0.2.weight": (0, 1),
    "experts.1.0.weight": (0, 1),
    "experts.1.2.weight": (0, 1),
    "gate.weight": 1,
    "head.weight": 1,
}


class DenseMixture(Mixture):
    def mix(self, x_NE: Tensor) -> Tensor:
        weights_NX = self.gate(x_NE).softmax(-1)
        outputs_NXE = torch.stack([expert(x_NE) for expert in self.experts], dim=1)
        return torch.einsum("nx,nxe->ne", weights_NX, outputs_NXE)


@micro("mixture_dense", halved=MIXED, whole={"gate.weight": 0})
def mixture_dense() -> Built:
    """Experts of different hidden sizes: each is its own axis."""
    return DenseMixture((10, 18, 22)), (torch.randn(2, 3, 6),), {}


class RoutedMixture(Mixture):
    """Mixtral: every expert gets the tokens that chose it, found by value."""

    def mix(self, x_NE: Tensor) -> Tensor:
        weights_NX = self.gate(x_NE).softmax(-1)
        weights_NK, chosen_NK = torch.topk(weights_NX, 2, dim=-1)
        weights_NK = weights_NK / weights_NK.sum(-1, keepdim=True)
        out_NE = torch.zeros_like(x_NE)
        for number, expert in enumerate(self.experts):
            token, slot = torch.where(chosen_NK == number)
            if len(token) > 0:
                out_NE.index_add_(0, token, expert(x_NE[token]) * weights_NK[token, slot, None])
        return out_NE


@micro("mixture_top_k", halved=MIXED, whole={"gate.weight": 0}, frozen="topk|softmax|expert|index")
def mixture_top_k() -> Built:
    """What runs depends on values: fake tensors cannot say which experts get tokens."""
    return RoutedMixture((10, 18, 22)), (torch.randn(2, 6, 6),), {}


class FusedMixture(nn.Module):
    """All experts in two three-dimensional parameters, gate and up projection in one, batched matmul."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head, self.gate = nn.Linear(6, 14), nn.Linear(14, 5), nn.Linear(14, 3)
        self.gate_up_XEG = nn.Parameter(torch.randn(3, 14, 40) * 0.3)
        self.down_XGE = nn.Parameter(torch.randn(3, 20, 14) * 0.3)

    def forward(self, x_NF: Tensor) -> Tensor:
        x_NE = self.embed(x_NF)
        weights_NX = self.gate(x_NE).softmax(-1)
        gate_XNG, up_XNG = torch.bmm(x_NE.expand(3, -1, -1), self.gate_up_XEG).chunk(2, dim=-1)
        y_XNE = torch.bmm(nn.functional.silu(gate_XNG) * up_XNG, self.down_XGE)
        return self.head((y_XNE * weights_NX.T[..., None]).sum(0))


@micro(
    "mixture_fused",
    halved={"embed.weight": 0, "gate_up_XEG": (1, 2), "down_XGE": (1, 2), "gate.weight": 1, "head.weight": 1},
    whole={"gate_up_XEG": 0},
)
def mixture_fused() -> Built:
    return FusedMixture(), (torch.randn(4, 6),), {}


class IndexedMixture(FusedMixture):
    """The chosen expert's weights are gathered token by token, as sparse layers do."""

    def forward(self, x_NF: Tensor) -> Tensor:
        x_NE = self.embed(x_NF)
        best_N = self.gate(x_NE).argmax(-1)
        gate_NG, up_NG = torch.einsum("ne,neg->ng", x_NE, self.gate_up_XEG[best_N]).chunk(2, dim=-1)
        return self.head(torch.einsum("ng,nge->ne", gate_NG.tanh() * up_NG, self.down_XGE[best_N]))


@micro(
    "mixture_indexed",
    halved={"embed.weight": 0, "gate_up_XEG": (1, 2), "down_XGE": (1, 2), "gate.weight": 1, "head.weight": 1},
    whole={"gate_up_XEG": 0},
    frozen="index|argmax|expert",
)
def mixture_indexed() -> Built:
    return IndexedMixture(), (torch.randn(4, 6),), {}
