"""Pieces of well-known networks, written as their authors wrote them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._registry import Built, micro


class LeNet(nn.Module):
    """The PyTorch tutorial's: the number of features is a product taken in a Python loop."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 16, 3)
        self.fc1, self.fc2 = nn.Linear(16 * 2 * 2, 20), nn.Linear(20, 5)

    def num_flat_features(self, x: Tensor) -> int:
        number = 1
        for size in x.size()[1:]:
            number *= size
        return number

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), (2, 2))
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = x.view(-1, self.num_flat_features(x))
        return self.fc2(functional.relu(self.fc1(x)))


@micro(
    "lenet_tutorial",
    halved={"conv1.weight": 0, "conv2.weight": (0, 1), "fc1.weight": (0, 1), "fc2.weight": 1},
)
def lenet_tutorial() -> Built:
    return LeNet(), (torch.randn(2, 1, 14, 14),), {}


class InFeatures(nn.Module):
    """A view to the attribute of another module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.head = nn.Conv2d(3, 10, 3), nn.Linear(40, 14), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        b = x.shape[0]
        x = x.view(b, self.conv.out_channels, -1).tanh()
        return self.head(self.fc(x.view(b, self.fc.in_features)))


@micro("view_to_in_features", halved={"conv.weight": 0, "fc.weight": (0, 1), "head.weight": 1})
def view_to_in_features() -> Built:
    return InFeatures(), (torch.randn(2, 3, 4, 4),), {}


class PaddedShortcut(nn.Module):
    """ResNet for CIFAR, option A: the shortcut skips pixels and pads channels with zeros."""

    def __init__(self, by_attribute: bool) -> None:
        super().__init__()
        self.by_attribute, self.extra = by_attribute, 4
        self.stem, self.mid = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 14, 3, stride=2, padding=1)
        self.last, self.head = nn.Conv2d(14, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = self.last(self.mid(x).relu())
        extra = self.extra if self.by_attribute else 4
        y = y + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra, extra), "constant", 0)
        return self.head(y.relu().mean((2, 3)))


@micro(
    "padded_shortcut_attribute",
    halved={"mid.weight": 0, "last.weight": (0, 1), "stem.weight": 0, "head.weight": 1},
    frozen="pad",
    either=True,
)
def padded_shortcut_attribute() -> Built:
    return PaddedShortcut(True), (torch.randn(2, 3, 6, 6),), {}


@micro("padded_shortcut_literal", halved={"mid.weight": 0, "last.weight": 1}, frozen="pad|literal|number")
def padded_shortcut_literal() -> Built:
    """Zeros of a fixed count in front and behind: at least the block's inner axis can go."""
    return PaddedShortcut(False), (torch.randn(2, 3, 6, 6),), {}


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 14, 3, padding=1)
        self.floor = nn.Conv2d(14, 22, 3, padding=1)
        self.up2, self.merge2 = nn.ConvTranspose2d(22, 12, 2, stride=2), nn.Conv2d(26, 10, 3, padding=1)
        self.up1, self.merge1 = nn.ConvTranspose2d(10, 6, 2, stride=2), nn.Conv2d(14, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x).relu()
        b = self.down2(functional.max_pool2d(a, 2)).relu()
        c = self.floor(functional.max_pool2d(b, 2)).relu()
        b = self.merge2(torch.cat([b, self.up2(c)], dim=1)).relu()
        return self.head(self.merge1(torch.cat([a, self.up1(b)], dim=1)).relu())


@micro(
    "unet",
    halved={
        "down1.weight": 0,
        "down2.weight": (0, 1),
        "floor.weight": (0, 1),
        "up2.weight": (0, 1),
        "merge2.weight": (0, 1),
        "up1.weight": (0, 1),
        "merge1.weight": (0, 1),
        "head.weight": 1,
    },
)
def unet() -> Built:
    return UNet(), (torch.randn(2, 3, 8, 8),), {}


class CRNN(nn.Module):
    """Convolution, columns as time steps of C x H features, recurrent layer, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 10, 3, padding=1), nn.BatchNorm2d(10)
        self.rnn, self.head = nn.GRU(10 * 4, 14, bidirectional=True), nn.Linear(28, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn(self.conv(x)))
        b, c, h, w = x.size()
        x = x.permute(3, 0, 1, 2).contiguous().view(w, b, c * h)
        return functional.log_softmax(self.head(self.rnn(x)[0]), dim=2)


@micro(
    "crnn",
    halved={
        "conv.weight": 0,
        "rnn.weight_ih_l0": (0, 1),
        "rnn.weight_hh_l0_reverse": (0, 1),
        "head.weight": 1,
    },
)
def crnn() -> Built:
    return CRNN(), (torch.randn(2, 1, 4, 5),), {}


class TemporalShift(nn.Module):
    """TSM: some channels from the next frame, some from the one before, by slice assignment."""

    def __init__(self) -> None:
        super().__init__()
        self.fold_div, self.frames = 4, 3
        self.stem, self.conv, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 10, 3), nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        nt, c, h, w = x.size()
        x = x.view(nt // self.frames, self.frames, c, h, w)
        fold = c // self.fold_div
        out = torch.zeros_like(x)
        out[:, :-1, :fold] = x[:, 1:, :fold]
        out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
        out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
        return self.head(self.conv(out.view(nt, c, h, w)).relu())


@micro("temporal_shift", halved={"stem.weight": 0, "conv.weight": (0, 1), "head.weight": 1})
def temporal_shift() -> Built:
    return TemporalShift(), (torch.randn(6, 3, 4, 4),), {}


class PartialConv(nn.Module):
    """FasterNet: the first channels through a convolution, in place, the others untouched."""

    def __init__(self) -> None:
        super().__init__()
        self.dim_conv = 6
        self.stem, self.partial = nn.Conv2d(3, 20, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Conv2d(20, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu().clone()
        x[:, : self.dim_conv, :, :] = self.partial(x[:, : self.dim_conv, :, :].clone())
        return self.head(x)


@micro("partial_conv_in_place", halved={"stem.weight": 0, "partial.weight": (0, 1), "head.weight": 1})
def partial_conv_in_place() -> Built:
    return PartialConv(), (torch.randn(2, 3, 5, 5),), {}


class FilledBySlices(nn.Module):
    """A tensor made empty and filled piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 24
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(6, 16), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        out = x.new_zeros(x.shape[0], self.width)
        out[:, : a.shape[1]] = a
        out[:, a.shape[1] :] = b.relu()
        return self.head(out)


@micro("filled_by_slices", halved={"a.weight": 0, "b.weight": 0, "head.weight": 1})
def filled_by_slices() -> Built:
    return FilledBySlices(), (torch.randn(2, 6),), {}


class Ghost(nn.Module):
    """GhostNet: cheap features beside the primary ones, cut back to a width kept in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.oup = 20
        self.primary, self.cheap = nn.Conv2d(3, 10, 1), nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.bn, self.head = nn.BatchNorm2d(20), nn.Conv2d(20, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x).relu()
        return self.head(self.bn(torch.cat([first, self.cheap(first).relu()], dim=1)[:, : self.oup, :, :]))


@micro("ghost_module", halved={"primary.weight": 0, "cheap.weight": 0, "bn.weight": 0, "head.weight": 1})
def ghost_module() -> Built:
    return Ghost(), (torch.randn(2, 3, 5, 5),), {}


class Pyramid(nn.Module):
    """A feature pyramid: laterals of one width, top-down sums, a shared head over a list of levels."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 10, 3, stride=2, padding=1), nn.Conv2d(10, 18, 3, stride=2, padding=1)
        self.l1, self.l2 = nn.Conv2d(10, 14, 1), nn.Conv2d(18, 14, 1)
        self.smooth, self.box = nn.Conv2d(14, 14, 3, padding=1), nn.Conv2d(14, 6, 1)
        self.anchors = 2

    def forward(self, x: Tensor) -> list[Tensor]:
        c1 = self.c1(x).relu()
        p2 = self.l2(self.c2(c1).relu())
        p1 = self.l1(c1) + functional.interpolate(p2, size=c1.shape[-2:], mode="nearest")
        outputs = []
        for level in (p1, p2):
            y = self.box(self.smooth(level).relu())
            b, _, h, w = y.shape
            outputs.append(y.view(b, self.anchors, -1, h, w).permute(0, 1, 3, 4, 2).reshape(b, -1, 3))
        return outputs


@micro(
    "feature_pyramid",
    halved={
        "c1.weight": 0,
        "c2.weight": (0, 1),
        "l1.weight": (0, 1),
        "l2.weight": (0, 1),
        "smooth.weight": (0, 1),
        "box.weight": 1,
    },
    whole={"box.weight": 0},
)
def feature_pyramid() -> Built:
    return Pyramid(), (torch.randn(2, 3, 8, 8),), {}


class Queries(nn.Module):
    """DETR: learned queries read an image through cross-attention; positions added to keys only."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.queries = nn.Conv2d(3, 24, 2, stride=2), nn.Embedding(5, 24)
        self.attn = nn.MultiheadAttention(24, 4)
        self.rows, self.columns = nn.Parameter(torch.randn(2, 12)), nn.Parameter(torch.randn(3, 12))
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        f = self.backbone(x)
        h, w = f.shape[-2:]
        position = torch.cat(
            [
                self.columns[:w].unsqueeze(0).repeat(h, 1, 1),
                self.rows[:h].unsqueeze(1).repeat(1, w, 1),
            ],
            dim=-1,
        ).flatten(0, 1)
        memory = f.flatten(2).permute(2, 0, 1)
        queries = self.queries.weight.unsqueeze(1).repeat(1, x.shape[0], 1)
        return self.head(self.attn(queries, memory + position.unsqueeze(1), memory)[0]).transpose(0, 1)


@micro(
    "detr_queries",
    halved={
        "backbone.weight": 0,
        "queries.weight": 1,
        "attn.in_proj_weight": (0, 1),
        "rows": 1,
        "columns": 1,
        "head.weight": 1,
    },
)
def detr_queries() -> Built:
    return Queries(), (torch.randn(2, 3, 4, 6),), {}


class Codebook(nn.Module):
    """VQ-VAE: the nearest of a table of codes, by distance over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.codes, self.decode = nn.Linear(6, 14), nn.Embedding(9, 14), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        z = self.encode(x)
        distance = (z**2).sum(1, keepdim=True) + (self.codes.weight**2).sum(1) - 2 * z @ self.codes.weight.t()
        chosen = self.codes(distance.argmin(1))
        return self.decode(z + (chosen - z).detach()) + distance.min(1, keepdim=True).values


@micro(
    "vector_quantiser",
    halved={"encode.weight": 0, "codes.weight": 1, "decode.weight": 1},
    whole={"codes.weight": 0},
)
def vector_quantiser() -> Built:
    return Codebook(), (torch.randn(4, 6),), {}


class SpatialTransformer(nn.Module):
    """Channels ride along a sampling grid that another branch predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.locate = nn.Conv2d(3, 14, 3, padding=1), nn.Linear(10, 6)
        self.look, self.head = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.locate(self.look(x).relu().mean((2, 3))).view(-1, 2, 3)
        y = self.stem(x)
        grid = functional.affine_grid(theta, list(y.size()), align_corners=False)
        return self.head(functional.grid_sample(y, grid, align_corners=False).relu())


@micro(
    "spatial_transformer",
    halved={"stem.weight": 0, "look.weight": 0, "locate.weight": 1, "head.weight": 1},
    whole={"locate.weight": 0},
)
def spatial_transformer() -> Built:
    return SpatialTransformer(), (torch.randn(2, 3, 5, 6),), {}


class ConvMixerGLU(nn.Module):
    """Conformer's convolution: GLU over channels, a depthwise layer over time, norm, swish."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.depth = nn.Conv1d(6, 28, 1), nn.Conv1d(14, 14, 3, padding=1, groups=14)
        self.bn, self.down = nn.BatchNorm1d(14), nn.Conv1d(14, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.glu(self.up(x.transpose(1, 2)), dim=1)
        return x + self.down(functional.silu(self.bn(self.depth(y)))).transpose(1, 2)


@micro("conformer_convolution", halved={"up.weight": 0, "depth.weight": 0, "bn.weight": 0, "down.weight": 1})
def conformer_convolution() -> Built:
    return ConvMixerGLU(), (torch.randn(2, 5, 6),), {}
