"""Small modules to mask, and small networks with masks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus.masks as prune


def layer(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> nn.Module:
    """A module with a parameter `weight` of any shape, and a bias."""
    module = nn.Module()
    module.weight = nn.Parameter(torch.randn(shape, dtype=dtype))
    module.bias = nn.Parameter(torch.randn(shape[0], dtype=dtype))
    return module


def convolutions() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    prune.random_unstructured(model[0], "weight", 0.3)
    prune.ln_structured(model[0], "weight", 0.25, n=2, dim=0)
    prune.l1_unstructured(model[0], "bias", 3)
    prune.global_unstructured([(model[3], "weight"), (model[0], "weight")], prune.L1Unstructured, amount=0.5)
    return model


def recurrent(kind: type = nn.LSTM) -> nn.Module:
    model = kind(5, 6, num_layers=2, bidirectional=True)
    for name in [name for name, _ in model.named_parameters() if "weight" in name]:
        prune.l1_unstructured(model, name, 0.5)
    return model


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(8, 2, **options)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mha(x, x, x)[0]
        return out


def attention() -> nn.Module:
    model = Attention()
    prune.l1_unstructured(model.mha, "in_proj_weight", 0.5)
    prune.l1_unstructured(model.mha.out_proj, "weight", 0.5)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (convolutions, (2, 3, 6, 6)),
    "LSTM": (lambda: recurrent(nn.LSTM), (4, 2, 5)),
    "GRU": (lambda: recurrent(nn.GRU), (4, 2, 5)),
    "RNN": (lambda: recurrent(nn.RNN), (4, 2, 5)),
    "attention": (attention, (4, 2, 8)),
}
EACH = pytest.mark.parametrize("name", MODELS)


def made(name: str) -> tuple[nn.Module, Tensor]:
    build, shape = MODELS[name]
    return build(), torch.randn(shape)


def output(model: nn.Module, x: Tensor) -> Tensor:
    out: Any = model(x)
    result: Tensor = out[0] if isinstance(out, tuple) else out
    return result


def dense(model: nn.Module) -> nn.Module:
    """The same network with zeros in ordinary parameters."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for hook in list(module._forward_pre_hooks.values()):
            prune.remove(module, hook._tensor_name)  # type: ignore[attr-defined]
    return model


def masked_names(model: nn.Module) -> list[tuple[nn.Module, str]]:
    return [
        (module, hook._tensor_name)  # type: ignore[attr-defined]
        for module in model.modules()
        for hook in module._forward_pre_hooks.values()
    ]
