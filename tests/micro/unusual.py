"""Ways of holding weights and running layers that are rarer, or older, and still legal."""

from __future__ import annotations

import warnings
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from torch.utils.checkpoint import checkpoint

from ._registry import Built, micro


class Parameters(nn.Module):
    """Weights in a ParameterList, a ParameterDict and a list of blocks, used by plain matmul."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.randn(a, b) * 0.4) for a, b in ((6, 14), (14, 10))]
        )
        self.table = nn.ParameterDict(
            {"scale": nn.Parameter(torch.ones(10)), "out": nn.Parameter(torch.randn(10, 5))}
        )

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = torch.tanh(x @ weight)
        return torch.einsum("...c,cd->...d", x * self.table["scale"], self.table["out"])


@micro(
    "parameter_list_and_dict",
    halved={"weights.0": 1, "weights.1": (0, 1), "table.scale": 0, "table.out": 0},
)
def parameter_list_and_dict() -> Built:
    return Parameters(), (torch.randn(2, 6),), {}


class PlainTensor(nn.Module):
    """A tensor that is neither a parameter nor a buffer, but within reach of the module that holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Linear(6, 14), nn.Linear(14, 10), nn.Linear(10, 5)
        self.scale = torch.rand(14, dtype=torch.float64) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mid(self.stem(x) * self.scale).relu())


@micro(
    "plain_tensor_attribute",
    halved={"stem.weight": 0, "mid.weight": (0, 1), "head.weight": 1},
)
def plain_tensor_attribute() -> Built:
    return PlainTensor(), (torch.randn(2, 6),), {}


class HiddenLayers(nn.Module):
    """Layers in a plain list are not submodules: their weights are out of reach and fix what they touch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Linear(6, 14), nn.Linear(12, 10), nn.Linear(10, 5)
        self.layers = [nn.Linear(14, 12).double()]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for layer in self.layers:
            x = layer(x)
        return self.head(self.mid(x).relu())


@micro(
    "unregistered_layers",
    halved={"mid.weight": 0, "head.weight": 1},
    whole={"stem.weight": 0, "mid.weight": 1},
    frozen="constant|tensor|register|held|not a parameter",
)
def unregistered_layers() -> Built:
    return HiddenLayers(), (torch.randn(2, 6),), {}


class PartialNorm(nn.Module):
    """A size inside functools.partial cannot be repaired."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Linear(6, 14), nn.Linear(14, 10), nn.Linear(10, 5)
        self.norm = partial(nn.functional.layer_norm, normalized_shape=(14,), eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mid(self.norm(self.stem(x))).relu())


@micro(
    "size_inside_a_partial",
    halved={"mid.weight": 0, "head.weight": 1},
    whole={"stem.weight": 0, "mid.weight": 1},
    frozen="norm|literal|number",
)
def size_inside_a_partial() -> Built:
    return PartialNorm(), (torch.randn(2, 6),), {}


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 14, 3), nn.Conv2d(14, 5, 1))


def settled(model: nn.Module, x: Tensor) -> Built:
    """Run once without gradients: a weight with a graph behind it could not be deep-copied."""
    model.double()
    with torch.no_grad():
        model(x.double())
    return model, (x,), {}


@micro("weight_norm_by_hook", halved={"0.weight_g": 0, "0.weight_v": 0, "2.weight_v": (0, 1)}, exact=None)
def weight_norm_by_hook() -> Built:
    """The old weight norm recomputes a plain attribute before every forward."""
    model = plain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for layer in (model[0], model[2]):
            nn.utils.weight_norm(layer)
    return settled(model, torch.randn(2, 3, 6, 6))


@micro("masked_by_torch_prune", halved={"0.weight_orig": 0, "2.weight_orig": (0, 1), "2.weight_mask": (0, 1)})
def masked_by_torch_prune() -> Built:
    """torch.nn.utils.prune: the weight is weight_orig times the buffer weight_mask."""
    model = plain()
    for layer in (model[0], model[2]):
        torch_prune.random_unstructured(layer, "weight", amount=0.3)
    return settled(model, torch.randn(2, 3, 6, 6))


class Hooked(nn.Module):
    """A user's forward hook changes what a layer gives out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 14), nn.Linear(14, 10), nn.Linear(10, 5)
        self.a.register_forward_hook(lambda module, inputs, output: output * 0.5)
        self.b.register_forward_pre_hook(lambda module, inputs: (inputs[0].relu(),))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x)).tanh())


@micro("forward_hooks", halved={"a.weight": 0, "b.weight": (0, 1), "head.weight": 1})
def forward_hooks() -> Built:
    return Hooked(), (torch.randn(2, 6),), {}


class Checkpointed(nn.Module):
    """Activation checkpointing, a frozen trunk under no_grad, an autocast region."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.block = (
            nn.Linear(6, 14),
            nn.Sequential(nn.Linear(14, 10), nn.ReLU(), nn.Linear(10, 14)),
        )
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.trunk(x).relu()
        x = x + checkpoint(self.block, x, use_reentrant=False)
        with torch.autocast("cpu", enabled=False):
            return self.head(x)


@micro("checkpointed", halved={"trunk.weight": 0, "block.0.weight": (0, 1), "head.weight": 1})
def checkpointed() -> Built:
    return Checkpointed(), (torch.randn(2, 6),), {}


@micro(
    "data_parallel_wrapper", halved={"module.0.weight": 0, "module.2.weight": (0, 1), "module.3.weight": 1}
)
def data_parallel_wrapper() -> Built:
    return nn.DataParallel(plain()), (torch.randn(2, 3, 6, 6),), {}


class TensorSplit(nn.Module):
    """tensor_split at indices from an attribute, and into a number of sections."""

    def __init__(self) -> None:
        super().__init__()
        self.cuts = (6, 14)
        self.stem = nn.Linear(6, 24)
        self.parts = nn.ModuleList(nn.Linear(n, 5) for n in (6, 8, 10))
        self.halves = nn.ModuleList(nn.Linear(12, 5) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        outs = [part(piece) for part, piece in zip(self.parts, x.tensor_split(self.cuts, -1), strict=True)]
        outs += [
            half(piece) for half, piece in zip(self.halves, torch.tensor_split(x, 2, dim=1), strict=True)
        ]
        return torch.stack(outs).sum(0)


@micro(
    "tensor_split",
    halved={"stem.weight": 0, "parts.1.weight": 1, "halves.0.weight": 1, "halves.1.weight": 1},
    frozen="split|slice|tied",
    either=True,
)
def tensor_split() -> Built:
    """Both cuts at once: 6 + 6 + 2 + 10, of which the outer two halves must stay equal."""
    return TensorSplit(), (torch.randn(2, 6),), {}


class Distances(nn.Module):
    """Sums over channels that removed units leave alone: norms, distances, cosine, p-norm pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 14), nn.Linear(6, 14), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        cosine = nn.functional.cosine_similarity(a, b, dim=-1)
        scores = torch.stack([cosine, a.norm(dim=-1), (a - b).abs().sum(-1), (a * b).sum(1)], 1)
        return self.head(a) * scores.sum(1, keepdim=True)


@micro("distances_over_channels", halved={"a.weight": 0, "b.weight": 0, "head.weight": 1}, exact=None)
def distances_over_channels() -> Built:
    return Distances(), (torch.randn(3, 6),), {}


class Vectors(nn.Module):
    """Parameters without a second dimension: a dot product with a vector, an outer product, a diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 14), nn.Linear(10, 5)
        self.u, self.w, self.d = (nn.Parameter(torch.randn(n)) for n in (14, 10, 14))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        score = (y * torch.sigmoid(self.d)) @ self.u + torch.dot(self.u, self.d)
        return self.head(torch.outer(score, self.w).tanh())


@micro("loose_vectors", halved={"stem.weight": 0, "u": 0, "d": 0, "w": 0, "head.weight": 1})
def loose_vectors() -> Built:
    return Vectors(), (torch.randn(2, 6),), {}


class DiagEmbed(nn.Module):
    """A diagonal matrix from a vector: rows and columns are one axis, twice in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Linear(6, 10), nn.Linear(10, 14), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).sigmoid()
        return self.head((torch.diag_embed(y) @ self.mix.weight.t()).sum(1).relu())


@micro(
    "diag_embed",
    halved={"mix.weight": 0, "head.weight": 1},
    frozen="diag|unknown",
    exact=None,
)
def diag_embed() -> Built:
    return DiagEmbed(), (torch.randn(2, 6),), {}


class Scattered(nn.Module):
    """Channels chosen by value: gather and topk along the channel dimension itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Linear(6, 14), nn.Linear(3, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        top = y.topk(3, dim=-1)
        return self.head(self.mid(torch.gather(y.tanh(), -1, top.indices) + top.values).relu())


@micro(
    "topk_over_channels",
    halved={"mid.weight": 0, "head.weight": 1},
    whole={"stem.weight": 0},
    frozen="top-?k|gather|index|sort",
)
def topk_over_channels() -> Built:
    return Scattered(), (torch.randn(2, 6),), {}


class LongMemory(nn.Module):
    """A constant tensor concatenated to channels: its columns in the consumer stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 14), nn.Linear(17, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        return self.head(torch.cat([y, torch.ones(len(x), 2, dtype=x.dtype), y.sum(1, keepdim=True)], dim=1))


@micro("concat_with_constants", halved={"stem.weight": 0}, slack=0)
def concat_with_constants() -> Built:
    return LongMemory(), (torch.randn(2, 6),), {}
