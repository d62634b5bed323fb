"""Small networks with every kind of axis that an importance has to score, in float64 and eval mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Two convolutions write the stream, a third and the classifier read it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.wide = nn.Conv2d(6, 8, 1)
        self.back = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.head = nn.Linear(6, 4)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.norm(self.stem(x_BCHW)).relu()
        x_BCHW = (x_BCHW + self.back(self.wide(x_BCHW).relu())).relu()
        return self.head(x_BCHW.mean((2, 3)))


class Depthwise(nn.Module):
    """A depthwise and a grouped convolution between pointwise ones."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Conv2d(3, 8, 1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 1, groups=2)
        self.head = nn.Linear(12, 4)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.norm(self.depth(self.point(x_BCHW).relu())).relu()
        return self.head(self.grouped(x_BCHW).relu().mean((2, 3)))


class Attention(nn.Module):
    """Fused query, key and value, told apart by a view or by chunks; sizes are read from attributes.

    With a view, one axis of head dimensions serves all three; with chunks, that of the values is another.
    """

    def __init__(self, width: int = 12, heads: int = 3, chunks: bool = False) -> None:
        super().__init__()
        self.chunks = chunks
        self.heads = heads
        self.head_dim = width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BTE: Tensor) -> Tensor:
        b, t, _ = x_BTE.shape
        if self.chunks:
            parts = [part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.qkv(x_BTE).chunk(3, -1)]
        else:
            parts = list(
                self.qkv(x_BTE).view(b, t, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
            )
        q_BHTD, k_BHTD, v_BHTD = parts
        mixed = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Language(nn.Module):
    """Embeddings tied to the output, attention, and a feed-forward on a normalised stream."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 12)
        self.norm = nn.LayerNorm(12)
        self.attention = Attention()
        self.up, self.down = nn.Linear(12, 10), nn.Linear(10, 12)
        self.head = nn.Linear(12, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTE = self.tokens(tokens_BT)
        x_BTE = x_BTE + self.attention(self.norm(x_BTE))
        x_BTE = x_BTE + self.down(F.gelu(self.up(x_BTE)))
        return self.head(x_BTE.mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.gru = nn.GRU(8, 6, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTE, _ = self.lstm(self.tokens(tokens_BT))
        return self.head(self.gru(x_BTE)[0].mean(1))


class Perceptron(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4))


def _images(size: int) -> Tensor:
    return torch.randn(size, 3, 5, 5, dtype=torch.float64)


def _tokens(size: int) -> Tensor:
    return torch.randint(0, 11, (size, 4 + size % 3))


def _vectors(size: int) -> Tensor:
    return torch.randn(size, 5, dtype=torch.float64)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "residual": (Residual, _images),
    "depthwise": (Depthwise, _images),
    "language": (Language, _tokens),
    "recurrent": (Recurrent, _tokens),
    "linear": (Perceptron, _vectors),
}


def build(name: str, seed: int = 0) -> tuple[nn.Module, list[Any]]:
    """A model with random norms, and a loader of batches of unlike size (and length), with targets."""
    torch.manual_seed(seed)
    make, inputs = MODELS[name]
    model = make().double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
    loader = [(inputs(size), torch.randint(0, 4, (size,))) for size in (3, 2, 4)]
    return model, loader
