"""Networks and scripts of the kind that people write for Torch-Pruning; `tp` is either package."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus.dependency
from dependency_models import peer


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class SmallResNet(nn.Module):
    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.layer1 = Block(width, width)
        self.layer2 = Block(width, 2 * width, 2)
        self.layer3 = Block(2 * width, 4 * width, 2)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(256, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x).relu(), 2)
        x = F.max_pool2d(self.conv2(x).relu(), 2).flatten(1)
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


class Cascade(nn.Module):
    """Concatenations of concatenations: widths 10, 20, 30 and 60."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, width, 1) for width in (10, 10, 10))
        self.merge = nn.Conv2d(60, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        ab = torch.cat([self.a(x), self.b(x)], 1)
        abc = torch.cat([ab, self.c(x)], 1)
        return self.merge(torch.cat([abc, abc], 1))


class SelfAttention(nn.Module):
    """As Hugging Face writes it: three layers, and integers that scripts set by hand after pruning."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], self.num_attention_heads, self.attention_head_size)
        return x.view(shape).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out(y)


class FusedAttention(nn.Module):
    """As timm writes it: one matrix for queries, keys and values; `tied` to the width of the input."""

    def __init__(self, tied: bool, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.width, self.tied = heads, width, tied
        self.embed = nn.Linear(6, width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        y = y.reshape(b, n, c) if self.tied else y.reshape(b, n, self.width)
        return self.head(x + self.proj(y))


class SmallViT(nn.Module):
    def __init__(self, width: int = 24, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 17, width))
        self.attention = nn.ModuleList(SelfAttention(width, heads) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(layers)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for i, (attention, mlp) in enumerate(zip(self.attention, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * i](x))
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.head(x[:, 0])


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def run_by(package: Any, make: Any, script: Any, *args: Any) -> Any:
    """A model after a script that a package has run on it; the same model to begin with, whichever it is."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
    script(package, model, *args)
    return model


def both(make: Any, script: Any, *args: Any) -> tuple[nn.Module, nn.Module]:
    """The models that Prunus and Torch-Pruning make by a script; without the latter, a skipped test."""
    theirs = run_by(peer(), make, script, *args)
    return run_by(prunus.dependency, make, script, *args), theirs


def ignored(model: nn.Module) -> list[nn.Module]:
    """The classifier, where there is one."""
    return [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]


# -- scripts, as in the README and the examples of Torch-Pruning ----------------------------------------


def magnitude(tp: ModuleType, model: nn.Module, x: Tensor, options: dict[str, Any]) -> None:
    """Its first example of a pruner."""
    imp = tp.importance.MagnitudeImportance(p=2)
    steps = options.get("iterative_steps", 1)
    pruner = tp.pruner.MagnitudePruner(
        model, x, importance=imp, **{"pruning_ratio": 0.5, "ignored_layers": ignored(model), **options}
    )
    for _ in range(steps):
        pruner.step()


def taylor(tp: ModuleType, model: nn.Module, x: Tensor) -> None:
    """Its example with gradients."""
    imp = tp.importance.TaylorImportance()
    pruner = tp.pruner.MetaPruner(
        model, x, importance=imp, iterative_steps=3, pruning_ratio=0.5, ignored_layers=ignored(model)
    )
    for _ in range(3):
        if isinstance(imp, tp.importance.TaylorImportance):
            model.zero_grad()
            model(x).square().sum().backward()
        pruner.step()


def interactive(tp: ModuleType, model: nn.Module, x: Tensor) -> None:
    """Its example of interactive pruning."""
    pruner = tp.pruner.BasePruner(
        model, x, importance=tp.importance.MagnitudeImportance(), ignored_layers=ignored(model)
    )
    for group in pruner.step(interactive=True):
        dep, idxs = group[0]
        assert isinstance(dep.target.module, nn.Module)
        assert tp.pruner.function.PrunerBox is not None
        assert len(idxs) > 0
        group.prune()


def own_importance(tp: ModuleType, model: nn.Module, x: Tensor) -> None:
    """Its example of an importance of one's own."""

    class MyMagnitudeImportance(tp.importance.Importance):
        def __call__(self, group, **kwargs):
            group_imp = []
            for dep, idxs in group:
                layer = dep.target.module
                prune_fn = dep.handler
                idxs = sorted(idxs)
                if prune_fn in [tp.prune_conv_out_channels, tp.prune_linear_out_channels]:
                    w = layer.weight.data[idxs].flatten(1)
                    group_imp.append(w.abs().norm(dim=1, p=2))
            if len(group_imp) == 0:
                return None
            size = min(len(imp) for imp in group_imp)
            return torch.stack([imp for imp in group_imp if len(imp) == size], dim=0).mean(dim=0)

    pruner = tp.pruner.MagnitudePruner(
        model, x, importance=MyMagnitudeImportance(), pruning_ratio=0.5, ignored_layers=ignored(model)
    )
    pruner.step()


def slimming(tp: ModuleType, model: nn.Module, x: Tensor) -> None:
    """Sparse training of batch-norm scales, then pruning by them."""
    pruner = tp.pruner.BNScalePruner(
        model, x, importance=tp.importance.BNScaleImportance(), reg=0.05, ignored_layers=ignored(model)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        pruner.regularize(model)
        optimizer.step()
    model.eval()
    pruner.step()


def low_level(tp: ModuleType, model: nn.Module, x: Tensor) -> None:
    """Its minimal example: one group by hand, then every group by a rule of one's own."""
    DG = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    group = DG.get_pruning_group(model.conv1, tp.prune_conv_out_channels, idxs=[2, 6, 9])
    if DG.check_pruning_group(group):
        group.prune()
    for group in DG.get_all_groups(
        ignored_layers=[model.conv1, *ignored(model)], root_module_types=[nn.Conv2d, nn.Linear]
    ):
        group.prune(idxs=[2, 4, 6])
