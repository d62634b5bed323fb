"""What compaction must do: the same outputs on inputs it has not seen, and all of it can be undone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.utils.prune as masks
from torch import Tensor, nn

import prunus
from oracle import check_same_outputs, outputs_of, parameter_count
from prunus.compaction import Compaction
from snapshots import Snapshot

TOLERANCE = 1e-10


def fresh(item: Any) -> Any:
    """Other inputs of the same shapes; whole numbers in another order."""
    if isinstance(item, Tensor):
        if item.is_floating_point() or item.is_complex():
            return torch.randn_like(item)
        return item.flip(0) if item.dim() else item
    if isinstance(item, (list, tuple)):
        return type(item)(fresh(part) for part in item)
    if isinstance(item, dict):
        return {key: fresh(part) for key, part in item.items()}
    return item


def compacted(
    model: nn.Module,
    *args: Any,
    tolerance: float = TOLERANCE,
    others: Callable[[], Sequence[Any]] | None = None,
    **kwargs: Any,
) -> Compaction:
    """Compact a model and check everything that holds of any compaction; the model stays compacted."""
    model.eval()
    seen = [(others(), kwargs) if others else (fresh(args), fresh(kwargs)) for _ in range(3)]
    expected = [outputs_of(model, a, k) for a, k in seen]
    before, whole = Snapshot.of(model), parameter_count(model)

    def compact() -> tuple[Compaction, int]:
        plan = prunus.compact(model, args, kwargs)
        for (a, k), outputs in zip(seen, expected, strict=True):
            check_same_outputs(outputs, outputs_of(model, a, k), tolerance)
        return plan, parameter_count(model)

    plan, left = compact()
    assert plan.exact
    assert isinstance(plan, prunus.Plan)
    assert (left < whole) == bool(plan.chosen)
    assert plan.cost.params == left
    again = prunus.compact(model, args, kwargs)
    assert not again.chosen, f"a second compaction finds more: {again}"
    if not plan.chosen:
        assert before.differences(model, identity=True) == []
        return plan
    plan.undo(model)
    assert before.differences(model, identity=True) == []
    plan, again_left = compact()
    assert again_left == left
    return plan


@torch.no_grad()
def silence(
    layer: nn.Module, units: Iterable[int], bias: float | None = None, dim: int = 0, name: str = "weight"
) -> None:
    """Zero the weights of some units of a layer, and set their biases."""
    index = list(units)
    getattr(layer, name).index_fill_(dim, torch.tensor(index), 0.0)
    if bias is not None:
        layer.bias[index] = bias  # type: ignore[index,operator]


@torch.no_grad()
def randomised(model: nn.Module) -> nn.Module:
    """In float64 and eval mode, with batch norms that are not the identity."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.affine:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)) and module.weight is not None:
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_()
    return model.double().eval()


KINDS = ("units", "weights", "rows", "columns", "some", "elements")
"""How zeros are strewn: whole units with their biases, their matrices alone, what makes them, what reads
them, some of these at random, or half of all filters and connections."""


@torch.no_grad()
def strew_zeros(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], seed: int, kind: str
) -> prunus.Plan | None:
    """Zero random units of a model in one of several ways; the plan that would remove them."""
    draw = random.Random(seed)
    graph = prunus.trace(model, tuple(args), dict(kwargs))
    if not graph.prunable:
        return None
    plan = graph.plan(ratio=draw.choice([0.25, 0.5]), importance="random", seed=seed)
    for name, parameter in model.named_parameters():
        if kind == "elements" and parameter.dim() > 1:
            lead = parameter.shape[:2]
            keep = (torch.rand(lead) < 0.5).reshape(*lead, *[1] * (parameter.dim() - 2))
            parameter.mul_(keep.to(parameter.dtype))
        elif kind == "units" or (kind == "weights" and parameter.dim() > 1):
            parameter.mul_(plan.masks()[name])
        elif kind in ("rows", "columns", "some"):
            _zero_some(graph, plan, name, parameter, kind, draw)
    return plan


def _zero_some(
    graph: prunus.Graph, plan: prunus.Plan, name: str, parameter: Tensor, kind: str, draw: random.Random
) -> None:
    if parameter.dim() < 2:
        if kind == "some" and draw.random() < 0.2:
            parameter.mul_(torch.rand_like(parameter) < 0.7)
        return
    for dim, index in enumerate(plan.kept(name)):
        read = (name, dim) in graph.contracted
        if index is None or (kind == "rows" and read) or (kind == "columns" and not read):
            continue
        if kind == "some" and draw.random() < 0.5:
            continue
        gone = torch.ones(parameter.shape[dim], dtype=torch.bool)
        gone[index] = False
        parameter.index_fill_(dim, gone.nonzero().flatten(), 0.0)


# -- small networks -------------------------------------------------------------------------------------


def image(channels: int = 3, size: int = 9) -> Tensor:
    return torch.randn(2, channels, size, size).double()


def vector(features: int = 6) -> Tensor:
    return torch.randn(4, features).double()


def chain(*layers: nn.Module) -> nn.Sequential:
    model = randomised(nn.Sequential(*layers))
    assert isinstance(model, nn.Sequential)
    return model


def cnn(padding: int = 0, mode: str = "zeros") -> nn.Sequential:
    return chain(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 3, padding=padding, padding_mode=mode),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def masked_cnn() -> nn.Sequential:
    model = cnn()
    masks.ln_structured(model[0], "weight", amount=0.5, n=2, dim=0)
    masks.ln_structured(model[3], "weight", amount=0.5, n=2, dim=0)
    return model


class Tagger(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.rnn = kind(6, 5, batch_first=True, **options)
        self.out = nn.Linear(5 * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.out(self.rnn(self.embed(tokens))[0])
        return out
