"""The networks of the quality benchmark: small, but wide enough that an eighth of their MACs hurts.

They are written the usual way, with nothing in them that helps either library.

Shapes: B batch, C channels, H and W pixels, T tokens, N heads, D head dimension, E embedding, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; He, Zhang, Ren, Sun, 2016, arXiv:1512.03385."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)))
        return F.relu(self.bn2(self.conv2(y_BCHW)) + self.shortcut(x_BCHW))


class ResidualNet(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (16, 32, 64), blocks: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        layers: list[nn.Module] = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(ResidualBlock(channels, width, 2 if stage and not block else 1))
                channels = width
        self.stages = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x_BCHW)).mean(dim=(2, 3)))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; Sandler et al.: MobileNetV2, 2018, arXiv:1801.04381."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.residual = stride == 1 and channels_in == channels_out
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.body(x_BCHW)
        return x_BCHW + y_BCHW if self.residual else y_BCHW


class MobileNet(nn.Module):
    def __init__(
        self, widths: tuple[int, ...] = (16, 24, 40), expansion: int = 4, last: int = 96, classes: int = 10
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(1, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU6(),
        ]
        channels = widths[0]
        for stage, width in enumerate(widths):
            for block in range(2):
                layers.append(InvertedResidual(channels, width, 2 if stage and not block else 1, expansion))
                channels = width
        layers += [nn.Conv2d(channels, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(last, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.head(self.features(x_BCHW).mean(dim=(2, 3)))


class Attention(nn.Module):
    def __init__(self, width: int, num_heads: int, causal: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = width // num_heads
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTE: Tensor) -> Tensor:
        batch, tokens, _ = x_BTE.shape
        qkv = self.qkv(x_BTE).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        q_BNTD, k_BNTD, v_BNTD = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y_BNTD = F.scaled_dot_product_attention(q_BNTD, k_BNTD, v_BNTD, is_causal=self.causal)
        return self.proj(y_BNTD.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim))


class Block(nn.Module):
    """A pre-norm transformer block; Vaswani et al., 2017, arXiv:1706.03762."""

    def __init__(self, width: int, num_heads: int, hidden: int, causal: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, causal)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x_BTE: Tensor) -> Tensor:
        x_BTE = x_BTE + self.attention(self.norm1(x_BTE))
        return x_BTE + self.mlp(self.norm2(x_BTE))


class ViT(nn.Module):
    """A vision transformer on patches of 2x2 pixels; Dosovitskiy et al., 2021, arXiv:2010.11929."""

    def __init__(self, width: int = 64, depth: int = 2, num_heads: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.position = nn.Parameter(0.5 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(*[Block(width, num_heads, 2 * width, False) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BTE = self.patches(x_BCHW).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x_BTE)).mean(dim=1))


class GPT(nn.Module):
    """A causal transformer over bytes, as in Radford et al.: Language Models are Unsupervised Multitask
    Learners, 2019, but far smaller.
    """

    def __init__(
        self, width: int = 64, depth: int = 2, num_heads: int = 4, vocabulary: int = 128, context: int = 64
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*[Block(width, num_heads, 4 * width, True) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, x_BT: Tensor) -> Tensor:
        place_T = torch.arange(x_BT.shape[1], device=x_BT.device)
        return self.head(self.norm(self.blocks(self.token(x_BT) + self.position(place_T))))
