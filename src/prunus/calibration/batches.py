"""What a loader may yield, and how it becomes a call of the model and of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..graph.capture import input_tensors, map_tensors

_FORMS = (
    "a batch is a tensor, (inputs, target) with inputs a tensor, a tuple or a dict, "
    "or a dict of keyword inputs"
)


@dataclass(frozen=True)
class Batch:
    """One batch on the model's device: the arguments of its forward, and what its loss is compared with.

    Attributes:
        target: the second of a pair; else the whole batch.
        size: number of samples, the first dimension of the first input tensor.
        name: what to call it in messages: `batch 3`, by its position in the loader.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any
    size: int
    name: str

    def leaves(self) -> list[Tensor]:
        """The tensors whose first dimension runs over the samples."""
        found = input_tensors((self.args, self.kwargs, self.target))
        return [tensor for tensor in found if self._is_per_sample(tensor)]

    def of_one(self, leaves: list[Tensor]) -> Batch:
        """A batch of one sample, with its tensors in place of `leaves()`."""
        rest = iter(leaves)

        def change(tensor: Tensor) -> Tensor:
            return next(rest) if self._is_per_sample(tensor) else tensor

        args, kwargs, target = map_tensors((self.args, self.kwargs, self.target), change)
        return replace(
            self, args=args, kwargs=kwargs, target=target, size=1, name=f"a single sample of {self.name}"
        )

    def sample(self, index: int) -> Batch:
        """A batch of one of the samples."""
        if self.size == 1:
            return self
        return self.of_one([leaf[index : index + 1] for leaf in self.leaves()])

    def _is_per_sample(self, tensor: Tensor) -> bool:
        return tensor.dim() > 0 and tensor.shape[0] == self.size


def read(item: Any, place: int, device: torch.device) -> Batch:
    """Take apart what a loader yields.

    Raises:
        InputError: it has none of the known forms, or no samples.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(item, list | tuple) and not hasattr(item, "_fields") and len(item) == 1:
        item = item[0]
    if isinstance(item, list | tuple) and not hasattr(item, "_fields"):
        if len(item) != 2:
            raise InputError(f"batch {place} is a {type(item).__name__} of {len(item)} items: {_FORMS}")
        inputs, target = item
        target = _moved(target, device)
    else:
        inputs = target = item
    inputs = _moved(inputs, device)
    if target is item:
        target = inputs
    if isinstance(inputs, Tensor):
        args = (inputs,)
    elif isinstance(inputs, list | tuple):
        args = tuple(inputs)
    elif isinstance(inputs, dict):
        kwargs = inputs
    else:
        raise InputError(f"batch {place} holds inputs of type {type(inputs).__name__}: {_FORMS}")
    tensors = [tensor for tensor in input_tensors((args, kwargs)) if tensor.dim() > 0]
    if not tensors or tensors[0].shape[0] == 0:
        raise InputError(f"batch {place} has no samples: {_FORMS}, its first dimension running over samples")
    return Batch(args, kwargs, target, tensors[0].shape[0], f"batch {place}")


def _moved(item: Any, device: torch.device) -> Any:
    if isinstance(item, Mapping):
        item = {str(key): _moved(part, device) for key, part in item.items()}
    return map_tensors(item, lambda tensor: tensor.detach().to(device))
