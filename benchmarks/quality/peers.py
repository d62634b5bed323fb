"""The peers: Torch-Pruning 1.6.1, cut to a MACs target that it does not know, and torch.nn.utils.prune."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as masks

from . import tasks
from .networks import Attention

SCAN = 16
HALVINGS = 6
"""The target is first sought on a grid, since the MACs do not always fall with the ratio (a layer that would
lose every channel is left whole), then by halving the step of the grid: to a thousandth."""


class TargetMissed(Exception):
    """No ratio that was tried brings the model to the target."""


def _importance(name: str) -> Any:
    """The peer's importance of the name that Prunus uses, with the peer's own defaults."""
    import torch_pruning as tp

    kinds = {
        "random": tp.importance.RandomImportance,
        "l1": lambda: tp.importance.MagnitudeImportance(p=1),
        "l2": lambda: tp.importance.MagnitudeImportance(p=2),
        "taylor": tp.importance.TaylorImportance,
        "lamp": tp.importance.LAMPImportance,
        "bn_scale": tp.importance.BNScaleImportance,
        "fpgm": tp.importance.FPGMImportance,
        "obd": tp.importance.HessianImportance,
    }
    return kinds[name]()


class Evidence:
    """What data-driven importances see, computed once on the unpruned model and handed to each copy."""

    def __init__(self, model: nn.Module, importance: str, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.importance = importance
        self.gradients: dict[str, Tensor] = {}
        self._squares: dict[str, tuple[Tensor, int]] = {}
        if importance == "taylor":
            self.gradients = gradients_of(model, batches)
        if importance == "obd":
            self._accumulate(copy.deepcopy(model).eval(), batches[0])

    def _accumulate(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        """Squared gradients of single examples, gathered as the docstring of GroupHessianImportance shows."""
        scorer = _importance("obd")
        for x, y in zip(*(part.split(1) for part in batch), strict=True):
            model.zero_grad()
            tasks.loss(model(x), y).backward()
            scorer.accumulate_grad(model)
        for name, parameter in model.named_parameters():
            if parameter in scorer._accu_grad:
                self._squares[name] = scorer._accu_grad[parameter], scorer._counter[parameter]
                self.gradients[name] = parameter.grad

    def scorer(self, model: nn.Module) -> Any:
        """The importance, with what it needs on this copy of the model."""
        found = _importance(self.importance)
        for name, parameter in model.named_parameters():
            parameter.grad = self.gradients[name].clone() if name in self.gradients else None
            if name in self._squares:
                found._accu_grad[parameter], found._counter[parameter] = self._squares[name]
        return found


def cut_by_ratio(
    model: nn.Module, example: Tensor, evidence: Evidence, scope: str, ratio: float, seed: int, **options: Any
) -> nn.Module:
    """A copy of the model, pruned by Torch-Pruning with one ratio; attention's integers repaired by hand."""
    import torch_pruning as tp

    model = copy.deepcopy(model).eval()
    scorer = evidence.scorer(model)
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pruner = tp.pruner.BasePruner(
            model,
            example,
            importance=scorer,
            pruning_ratio=ratio,
            global_pruning=scope != "local",
            isomorphic=scope == "isomorphic",
            ignored_layers=[model.head],
            num_heads={module.qkv: module.num_heads for module in attentions},
            in_channel_groups={},  # the default is one dict for all pruners of a process
            out_channel_groups={},
            **options,
        )
        pruner.step()
    for module in attentions:
        module.num_heads = pruner.num_heads[module.qkv]
        module.head_dim = module.qkv.out_features // (3 * module.num_heads)
    model.zero_grad()
    return model


def torch_pruning(
    model: nn.Module,
    example: Tensor,
    target: int,
    batches: Sequence[tuple[Tensor, Tensor]],
    seed: int,
    importance: str,
    scope: str,
    **options: Any,
) -> nn.Module:
    """The largest network within the MACs target that a search of the ratio finds.

    Raises:
        TargetMissed: no ratio gives so few MACs.
    """
    best: tuple[int, nn.Module] | None = None

    def meets(ratio: float) -> bool:
        nonlocal best
        candidate = cut_by_ratio(model, example, evidence, scope, ratio, seed, **options)
        cost = tasks.macs(candidate, example)
        if cost <= target and (best is None or cost > best[0]):
            best = (cost, candidate)
        return cost <= target

    evidence = Evidence(model, importance, batches)
    high = next((step / SCAN for step in range(1, SCAN + 1) if meets(step / SCAN)), None)
    if high is None or best is None:
        raise TargetMissed(f"Torch-Pruning, {importance}, {scope}: no ratio gives {target} MACs")
    low = high - 1 / SCAN
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        low, high = (low, ratio) if meets(ratio) else (ratio, high)
    return best[1]


def structured_masks(
    model: nn.Module, example: Tensor, target: int, batches: object, seed: int, norm: int
) -> nn.Module:
    """`torch.nn.utils.prune.ln_structured` on every layer but the last; the masks are multiplied in.

    Widths that all fall to a share r cost about r^2, so r = sqrt(target / MACs) of each layer's units stay.
    Nothing becomes smaller, and the masked weights grow back in fine-tuning unless masks stay, so they stay.
    """
    model = copy.deepcopy(model)
    share = (target / tasks.macs(model, example)) ** 0.5
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module is not model.head:
            masks.ln_structured(module, "weight", amount=1 - share, n=norm, dim=0)
    return model


def gradients_of(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The gradient of the mean loss over the batches, in eval mode, by parameter name."""
    model = copy.deepcopy(model).eval()
    for x, y in batches:
        (tasks.loss(model(x), y) / len(batches)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
