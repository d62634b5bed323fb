"""Flatten, reshape and permute: where one dimension becomes a product of axes, or a product comes apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._registry import Built, micro


class Flatten(nn.Module):
    """conv -> (C, H, W) in one dimension: every channel is H x W columns of the linear layer."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv, self.bn = nn.Conv2d(3, 10, 3, padding=1), nn.BatchNorm2d(10)
        self.fc1, self.fc2 = nn.Linear(10 * 12, 14), nn.Linear(14, 5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = self.bn(self.conv(x_BCHW)).relu()
        if self.how == "flatten":
            x = torch.flatten(x, 1)
        elif self.how == "view":
            x = x.view(x.size(0), -1)
        elif self.how == "negative":
            x = x.flatten(start_dim=-3, end_dim=-1)
        elif self.how == "two steps":
            b, c, h, w = x.shape
            x = x.reshape(b, c, h * w).reshape(b, c * h * w)
        elif self.how == "nhwc":
            x = x.permute(0, 2, 3, 1).flatten(1)
        elif self.how == "nhwc view":
            x = x.permute(0, 2, 3, 1).contiguous().view(len(x), -1)
        elif self.how == "transposes":
            x = x.transpose(1, -1).transpose(2, 1).reshape(x.shape[0], -1)
        return self.fc2(self.fc1(x).relu())


FLATTENED = {"conv.weight": 0, "bn.running_mean": 0, "fc1.weight": (0, 1), "fc2.weight": 1}


def flattened(how: str) -> Built:
    return Flatten(how), (torch.randn(2, 3, 3, 4),), {}


@micro("flatten", halved=FLATTENED)
def flatten() -> Built:
    return flattened("flatten")


@micro("flatten_view", halved=FLATTENED)
def flatten_view() -> Built:
    return flattened("view")


@micro("flatten_negative_dims", halved=FLATTENED)
def flatten_negative_dims() -> Built:
    return flattened("negative")


@micro("flatten_two_steps", halved=FLATTENED)
def flatten_two_steps() -> Built:
    return flattened("two steps")


@micro("flatten_nhwc", halved=FLATTENED)
def flatten_nhwc() -> Built:
    return flattened("nhwc")


@micro("flatten_nhwc_view", halved=FLATTENED)
def flatten_nhwc_view() -> Built:
    return flattened("nhwc view")


@micro("flatten_transposes", halved=FLATTENED)
def flatten_transposes() -> Built:
    return flattened("transposes")


class FlattenConcat(nn.Module):
    """Concatenate, then flatten: a product whose outer factor is a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 14, 1)
        self.fc = nn.Linear(22 * 6, 5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.fc(torch.cat([self.a(x_BCHW), self.b(x_BCHW)], 1).relu().flatten(1))


@micro("flatten_of_concat", halved={"a.weight": 0, "b.weight": 0, "fc.weight": 1})
def flatten_of_concat() -> Built:
    return FlattenConcat(), (torch.randn(2, 3, 2, 3),), {}


class ConcatFlattened(nn.Module):
    """Flatten, then concatenate: a concatenation of products, with a plain axis beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dw = nn.Conv2d(3, 10, 2), nn.Conv2d(3, 4, 1)
        self.lin = nn.Linear(7, 16)
        self.fc = nn.Linear(10 * 2 + 4 * 6 + 16, 5)

    def forward(self, x_BCHW: Tensor, z_BF: Tensor) -> Tensor:
        parts = [self.conv(x_BCHW).flatten(1), self.dw(x_BCHW).flatten(1), self.lin(z_BF)]
        return self.fc(torch.cat(parts, dim=-1).relu())


@micro("concat_of_flattened", halved={"conv.weight": 0, "dw.weight": 0, "lin.weight": 0, "fc.weight": 1})
def concat_of_flattened() -> Built:
    return ConcatFlattened(), (torch.randn(2, 3, 2, 3), torch.randn(2, 7)), {}


class Unflatten(nn.Module):
    """A generator: a linear layer makes C x H x W numbers that become an image."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 12
        self.fc, self.conv = nn.Linear(6, 12 * 6), nn.Conv2d(12, 10, 3, padding=1)
        self.head = nn.Conv2d(10, 5, 1)

    def forward(self, z_BF: Tensor) -> Tensor:
        x_BCHW = self.fc(z_BF).view(-1, self.width, 2, 3).relu()
        return self.head(self.conv(x_BCHW).tanh())


@micro("unflatten_attribute", halved={"fc.weight": 0, "fc.bias": 0, "conv.weight": (0, 1), "head.weight": 1})
def unflatten_attribute() -> Built:
    return Unflatten(), (torch.randn(2, 6),), {}


@micro("unflatten_module", halved={"0.weight": 0, "3.weight": (0, 1), "4.weight": 1})
def unflatten_module() -> Built:
    """nn.Unflatten keeps its sizes in a tuple attribute, which has to be repaired."""
    layers = (
        nn.Linear(6, 12 * 6),
        nn.Unflatten(1, (12, 2, 3)),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 10, 2),
        nn.Conv2d(10, 5, 1),
    )
    return nn.Sequential(*layers), (torch.randn(2, 6),), {}


class UnflattenLiteral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.conv, self.head = nn.Linear(6, 12 * 6), nn.Conv2d(12, 10, 1), nn.Conv2d(10, 5, 1)

    def forward(self, z_BF: Tensor) -> Tensor:
        return self.head(self.conv(self.fc(z_BF).view(-1, 12, 2, 3).relu()).relu())


@micro(
    "unflatten_literal",
    halved={"conv.weight": 0, "head.weight": 1},
    whole={"fc.weight": 0, "conv.weight": 1},
    frozen="view|reshape|literal|constant",
)
def unflatten_literal() -> Built:
    """A number in the code cannot be repaired."""
    return UnflattenLiteral(), (torch.randn(2, 6),), {}


class ChannelShuffle(nn.Module):
    """ShuffleNet v1: channels seen as g x C/g, transposed, then read by a convolution of as many groups."""

    def __init__(self, builtin: bool, width: int) -> None:
        super().__init__()
        self.groups, self.builtin = 3, builtin
        self.a, self.b = nn.Conv2d(4, width, 1), nn.Conv2d(width, 18, 1, groups=3)
        self.head = nn.Conv2d(18, 5, 1)
        self.shuffle = nn.ChannelShuffle(3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.a(x_BCHW).relu()
        if self.builtin:
            return self.head(self.b(self.shuffle(x_BCHW)))
        b, c, h, w = x_BCHW.shape
        x_BCHW = x_BCHW.reshape(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.head(self.b(x_BCHW))


SHUFFLED = {"a.weight": 0, "b.weight": 1, "head.weight": 1}


@micro("channel_shuffle_attribute", halved=SHUFFLED)
def channel_shuffle_attribute() -> Built:
    """36 = 3 x 12 -> 12 x 3, and the next convolution takes it as 3 x 12 again: 3 x 4 x 3 in all."""
    return ChannelShuffle(False, 36), (torch.randn(2, 4, 4, 3),), {}


@micro("channel_shuffle_module", halved=SHUFFLED)
def channel_shuffle_module() -> Built:
    return ChannelShuffle(True, 36), (torch.randn(2, 4, 4, 3),), {}


@micro("channel_shuffle_crossing", halved=SHUFFLED, frozen="shuffle|group|mixes|factor", either=True)
def channel_shuffle_crossing() -> Built:
    """24 = 3 x 8 -> 8 x 3: groups of 8 end in the middle of a run of 3."""
    return ChannelShuffle(False, 24), (torch.randn(2, 4, 4, 3),), {}


class ShuffleLiteral(nn.Module):
    """The group count is a number in the code: whole groups cannot go, channels of each group can."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(4, 24, 1), nn.Conv2d(24, 5, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        b, c, h, w = self.a(x_BCHW).shape
        x_BCHW = self.a(x_BCHW).view(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, -1, h, w)
        return self.head(x_BCHW)


@micro("channel_shuffle_literal", halved={"a.weight": 0, "head.weight": 1})
def channel_shuffle_literal() -> Built:
    return ShuffleLiteral(), (torch.randn(2, 4, 4, 3),), {}


@micro("pixel_shuffle", halved={"0.weight": 0, "2.weight": (0, 1), "3.weight": 1})
def pixel_shuffle() -> Built:
    """C x r x r channels become C channels of r x r pixels: the r x r factor stays."""
    layers = nn.Conv2d(3, 40, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(10, 14, 3), nn.Conv2d(14, 5, 1)
    return nn.Sequential(*layers), (torch.randn(2, 3, 4, 5),), {}


@micro("pixel_unshuffle", halved={"0.weight": 0, "2.weight": (0, 1), "3.weight": 1})
def pixel_unshuffle() -> Built:
    layers = nn.Conv2d(3, 10, 3, padding=1), nn.PixelUnshuffle(2), nn.Conv2d(40, 14, 1), nn.Conv2d(14, 5, 1)
    return nn.Sequential(*layers), (torch.randn(2, 3, 4, 6),), {}


class PixelShuffleByHand(nn.Module):
    """Patch expanding: the channel dimension is r x r x C, with C innermost."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 2
        self.expand, self.head = nn.Linear(6, 56), nn.Linear(14, 5)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x = self.expand(x_BHWC)
        b, h, w, c = x.shape
        s = self.scale
        x = x.view(b, h, w, s, s, c // s**2).permute(0, 1, 3, 2, 4, 5)
        return self.head(x.reshape(b, h * s, w * s, -1).relu())


@micro("patch_expanding", halved={"expand.weight": 0, "head.weight": 1})
def patch_expanding() -> Built:
    return PixelShuffleByHand(), (torch.randn(2, 3, 2, 6),), {}


class Patches(nn.Module):
    """unfold: columns are C x k x k."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc, self.head = nn.Conv2d(3, 10, 1), nn.Linear(10 * 4, 14), nn.Linear(14, 5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        columns_BTK = nn.functional.unfold(self.stem(x_BCHW).relu(), 2, stride=2).mT
        return self.head(self.fc(columns_BTK).relu())


@micro("unfold_patches", halved={"stem.weight": 0, "fc.weight": (0, 1), "head.weight": 1})
def unfold_patches() -> Built:
    return Patches(), (torch.randn(2, 3, 4, 6),), {}


class Folded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 10 * 4), nn.Conv2d(10, 5, 1)

    def forward(self, x_BTF: Tensor) -> Tensor:
        x_BKT = self.fc(x_BTF).relu().mT
        return self.head(nn.functional.fold(x_BKT, (4, 6), 2, stride=2))


@micro("fold_patches", halved={"fc.weight": 0, "head.weight": 1})
def fold_patches() -> Built:
    return Folded(), (torch.randn(2, 6, 6),), {}


class HighRank(nn.Module):
    """Five dimensions, two channel axes taken apart, moved, and merged in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.outer, self.inner = 6, 4
        self.a, self.b, self.head = nn.Linear(5, 24), nn.Linear(24, 14), nn.Linear(14, 5)

    def forward(self, x_BTSF: Tensor) -> Tensor:
        b, t, s, _ = x_BTSF.shape
        x = self.a(x_BTSF).reshape(b, t, s, self.outer, self.inner).relu()
        x = x.movedim(-1, 1).permute(0, 2, 3, 1, 4).reshape(b, t * s, self.inner * self.outer)
        return self.head(self.b(x).tanh()).unflatten(1, (t, s))


@micro("reshape_high_rank", halved={"a.weight": 0, "b.weight": (0, 1), "head.weight": 1})
def reshape_high_rank() -> Built:
    return HighRank(), (torch.randn(2, 3, 2, 5),), {}


class SqueezeExpand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Linear(6, 10), nn.Conv1d(10, 14, 1), nn.Linear(14, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        x = self.stem(x_BF)[:, None, :, None].expand(-1, 1, -1, 3).squeeze(1)
        x = self.mid(x).repeat(1, 1, 2).swapaxes(1, 2).contiguous()
        return self.head(x.relu()).sum(1)


@micro("squeeze_expand_repeat", halved={"stem.weight": 0, "mid.weight": (0, 1), "head.weight": 1})
def squeeze_expand_repeat() -> Built:
    return SqueezeExpand(), (torch.randn(2, 6),), {}


class TiledChannels(nn.Module):
    """repeat over channels: rep x C; repeat_interleave: C x rep."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(6, 10), nn.Linear(30, 5), nn.Linear(20, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        x_BF = self.stem(x_BF).relu()
        return self.a(x_BF.repeat(1, 3)) + self.b(x_BF.repeat_interleave(2, dim=1))


@micro("repeat_channels", halved={"stem.weight": 0, "a.weight": 1, "b.weight": 1})
def repeat_channels() -> Built:
    return TiledChannels(), (torch.randn(2, 6),), {}


class BatchFolded(nn.Module):
    """Time folded into the batch, unfolded after: -1 and shapes, batch is no channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 10, 3), nn.Linear(10, 14)
        self.head = nn.Linear(14, 5)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        b, t = x_BTCHW.shape[:2]
        x = self.conv(x_BTCHW.flatten(0, 1)).relu().mean((2, 3))
        return self.head(self.fc(x.view(b, t, -1)).relu().mean(1))


@micro("time_in_batch", halved={"conv.weight": 0, "fc.weight": (0, 1), "head.weight": 1})
def time_in_batch() -> Built:
    return BatchFolded(), (torch.randn(2, 3, 3, 4, 4),), {}
