"""Importances that look at what layers read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...importance import Normaliser
from ..group import DependencyGroup
from .on_axes import Grouped


class ActivationImportance(Grouped):
    """The mean absolute value of what the layers of a group read, channel by channel.

    Of convolutions and linear layers, those of `target_types` are watched; all by default. Run batches
    inside `with importance.compute_importance(model): ...` first.
    """

    def __init__(
        self,
        p: float = 2,
        group_reduction: str | None = "mean",
        normalizer: str | Normaliser | None = "mean",
        bias: bool = False,
        target_types: Iterable[type] | None = None,
    ) -> None:
        super().__init__(group_reduction, normalizer, bias, target_types)
        if group_reduction not in ("mean", "sum"):
            raise InputError(f"group_reduction={group_reduction!r}: activations have 'mean' and 'sum'")
        self.p = p
        self._seen: WeakKeyDictionary[nn.Module, tuple[Tensor, int]] = WeakKeyDictionary()

    @contextmanager
    def compute_importance(self, model: nn.Module) -> Iterator[None]:
        """Watch the inputs of convolutions and linear layers; hooks are gone at the end."""
        self._seen.clear()
        hooks = [m.register_forward_pre_hook(self._watch) for m in model.modules() if self._counts(m)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _counts(self, module: nn.Module) -> bool:
        readers = isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        return readers and isinstance(module, tuple(self.target_types))

    @torch.no_grad()
    def _watch(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0].detach().abs()
        channels = -1 if isinstance(module, nn.Linear) else 1 if x.dim() == module.weight.dim() else 0  # type: ignore[operator]
        mean = x.movedim(channels, 0).flatten(1).double().mean(1).cpu()
        total, count = self._seen.get(module, (torch.zeros_like(mean), 0))
        self._seen[module] = (total + mean, count + 1)

    def __call__(self, group: DependencyGroup) -> Tensor | None:
        place = {index: position for position, index in enumerate(group[0].idxs)}
        total = torch.zeros(len(place), dtype=torch.float64)
        count = 0
        for item in group:
            seen = self._seen.get(item.dep.layer)
            if item.side.is_output or seen is None or len(seen[0]) != item.side.axis.size:
                continue
            own = (seen[0] / seen[1])[torch.tensor(item.idxs, dtype=torch.int64)]
            total.index_add_(0, torch.tensor([place[index] for index in item.root_idxs]), own)
            count += 1
        if not count:
            return None
        return self._normalize(total / count if self.group_reduction == "mean" else total, self.normalizer)
