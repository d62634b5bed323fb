"""Model families for the tests of checkpoints: how each is built, and inputs for it.

In a module of its own so that a fresh process can import it. Shapes: B batch, C channels, H and W pixels,
T tokens, E width of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import prunus


class Residual(nn.Module):
    """A residual CNN whose block has a gate: a buffer that is no part of the state dict."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.register_buffer("gate_C", torch.rand(2 * width) + 0.5, persistent=False)
        self.head = nn.Linear(width, 5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.norm(self.stem(x_BCHW)).relu()
        y_BCHW = self.conv1(x_BCHW).relu() * self.gate_C[:, None, None]
        return self.head((x_BCHW + self.conv2(y_BCHW)).mean((2, 3)))


class Grouped(nn.Module):
    """A grouped convolution, a depthwise one, and a list of widths in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces = [8, 8]
        self.first = nn.Conv2d(3, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        a_BCHW, b_BCHW = self.depthwise(self.grouped(self.first(x_BCHW)).relu()).split(self.pieces, 1)
        return self.last(torch.cat((a_BCHW.relu(), b_BCHW.sigmoid()), 1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 12)
        self.lstm = nn.LSTM(12, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(ids_BT))[0])


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x_BTE: Tensor) -> Tensor:
        batch, tokens, _ = x_BTE.shape
        qkv = self.qkv(x_BTE).view(batch, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim))


class VisionTransformer(nn.Module):
    def __init__(self, width: int = 24, depth: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, stride=4)
        self.position_TE = nn.Parameter(torch.randn(4, width) * 0.2)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth))
        self.attentions = nn.ModuleList(Attention(width, 4) for _ in range(depth))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width)) for _ in range(depth)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BTE = self.patch(x_BCHW).flatten(2).transpose(1, 2) + self.position_TE
        for depth, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x_BTE = x_BTE + attention(self.norms[2 * depth](x_BTE))
            x_BTE = x_BTE + mlp(self.norms[2 * depth + 1](x_BTE))
        return self.head(x_BTE.mean(1))


class WeightNorm(nn.Module):
    """A parametrization, and a table that is a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.first = parametrizations.weight_norm(nn.Linear(6, 16))
        self.last = nn.Linear(16, 5)
        self.table_E = torch.linspace(0.5, 1.5, 16)

    def forward(self, x_BE: Tensor) -> Tensor:
        return self.last(F.gelu(self.first(x_BE)) * self.table_E)


class TiedText(nn.Module):
    """Input and output embedding are one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.inner = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16))
        self.out = nn.Linear(16, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.out(self.inner(self.embed(ids_BT)))


def llama() -> nn.Module:
    from hugging_face import tiny_llama

    return tiny_llama()


def gpt2() -> nn.Module:
    from hugging_face import transformers

    package = transformers()
    options = {
        "vocab_size": 31,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 16,
        "use_cache": False,
    }
    return package.GPT2LMHeadModel(package.GPT2Config(**options))


@dataclass(frozen=True)
class Family:
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]


def image() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 8, 8),)


def tokens() -> tuple[Tensor, ...]:
    return (torch.randint(0, 11, (2, 7)),)


FAMILIES: dict[str, Family] = {
    "residual": Family(Residual, image),
    "grouped": Family(Grouped, image),
    "recurrent": Family(Recurrent, tokens),
    "transformer": Family(VisionTransformer, image),
    "weight_norm": Family(WeightNorm, lambda: (torch.randn(2, 6),)),
    "tied": Family(TiedText, tokens),
    "llama": Family(llama, tokens),
    "gpt2": Family(gpt2, tokens),
}


def pruned(name: str, **options: Any) -> tuple[nn.Module, tuple[Any, ...]]:
    """A model of a family in eval mode, cut by half, and inputs for it."""
    family = FAMILIES[name]
    model, args = family.build().eval(), family.inputs()
    prunus.prune(model, args, **{"ratio": 0.5, **options})
    return model, args


@torch.no_grad()
def output(model: nn.Module, args: tuple[Any, ...]) -> Tensor:
    out = model(*args)
    return out if isinstance(out, Tensor) else out.logits


def reload_all(root: Path) -> None:
    """What a fresh process does: load each `root/<family>` from its factory and write its outputs."""
    for name, family in FAMILIES.items():
        if (root / name).is_dir():
            model = prunus.load(family.build, root / name)
            args = tuple(value.clone() for value in load_file(root / f"{name}.inputs").values())
            save_file({"output": output(model, args).contiguous()}, root / f"{name}.outputs")
