"""Channel-wise optimal brain damage: squared gradients of single samples, from one backward pass a batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from ...importance import Members, Normaliser, Scoring
from .gradients import Curvature, GroupHessianImportance

_CONVOLUTIONS: dict[type, Any] = {
    nn.Conv1d: conv1d_weight,
    nn.Conv2d: conv2d_weight,
    nn.Conv3d: conv3d_weight,
}


@dataclass(frozen=True, kw_only=True)
class _OfMakers(Curvature):
    """Only the matrices whose outputs the channels are."""

    def members(self, scoring: Scoring) -> Members:
        return scoring.sum_members(
            lambda weight, squared: weight.square() * squared,
            self.squares(scoring),
            where=lambda name, dim: scoring.makes(name, dim) and scoring.is_matrix(name),
        )


class OBDCImportance(GroupHessianImportance):
    """`sum w^2 E[g_i^2]` over the weights that make a channel, with gradients of single samples.

    Wang, Grosse, Fidler, Zhang: EigenDamage, 2019, arXiv:1905.05934, where it is C-OBD. Call
    `_prepare_model(model, pruner)`, then `step()` after the backward pass of the mean loss of each batch,
    then `_rm_hooks(model)`; convolutions and linear layers are watched.
    """

    def __init__(
        self,
        group_reduction: str | None = "mean",
        normalizer: str | Normaliser | None = "mean",
        bias: bool = False,
        target_types: Iterable[type] | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(group_reduction, normalizer, bias, target_types, kind=_OfMakers)
        self.num_classes = num_classes
        self._hooks: list[Any] = []
        self._read: dict[nn.Module, Tensor] = {}
        self._pairs: list[tuple[nn.Module, Tensor, Tensor]] = []

    def _prepare_model(self, model: nn.Module, pruner: object = None) -> None:
        """Watch what layers read, and the gradients of what they return."""
        self._rm_hooks(model)
        for module in model.modules():
            if type(module) in (nn.Linear, *_CONVOLUTIONS):
                self._hooks.append(module.register_forward_pre_hook(self._save_input))
                self._hooks.append(module.register_forward_hook(self._watch_output))

    def _save_input(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._read[module] = args[0].detach()

    def _watch_output(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        x = self._read.pop(module)
        if output.requires_grad:
            output.register_hook(lambda grad: self._pairs.append((module, x, grad.detach())))  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def step(self) -> None:
        """Add the squares of the single samples' gradients of the last backward pass."""
        pairs, self._pairs = self._pairs, []
        for module, x, grad in pairs:
            weight = module.get_parameter("weight")
            total, count = self._sums.get(weight, (torch.zeros_like(weight), 0))
            for own_x, own_grad in zip(x, grad, strict=True):
                total = total + (_gradient(module, weight, own_x, own_grad) * len(x)).square()
            self._sums[weight] = (total, count + len(x))

    def _rm_hooks(self, model: nn.Module) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _clear_buffer(self) -> None:
        self.zero_grad()
        self._pairs.clear()
        self._read.clear()


def _gradient(module: Any, weight: Tensor, x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of a layer's weight from one sample."""
    if isinstance(module, nn.Linear):
        return grad.flatten(0, -2).T @ x.flatten(0, -2) if x.dim() > 1 else torch.outer(grad, x)
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        pads = module._reversed_padding_repeated_twice
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = nn.functional.pad(x[None], pads, mode=mode)[0]
        padding: Any = 0
    else:
        padding = module.padding
    own = _CONVOLUTIONS[type(module)]
    of_weight: Tensor = own(
        x[None], weight.shape, grad[None], module.stride, padding, module.dilation, module.groups
    )
    return of_weight
