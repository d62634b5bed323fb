"""The simple training function: epochs over a loader with a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import ArgumentTypeError, InputError


class Epochs:
    """Fine-tuning for `prunus.fit`: a number of epochs over a loader, in train mode.

    A call leaves the modes of the modules as they were and no gradients behind.

    Args:
        loader: batches, afresh in each epoch: `(inputs, target)`, where inputs are a tensor, or a tuple or
            dict of them; or a dict of keyword inputs, as Hugging Face models take. They are moved to the
            model's device.
        loss: `loss(output, target)` for pairs, `loss(output, batch)` for dicts, a scalar to be minimised;
            without one, the model's output has to have a `loss`.
        epochs: how often the loader is gone through in each step, at least 1.
        after_backward: called without arguments between `backward()` and the optimizer's step; a list of
            functions is called in order. Here go penalties, `prunus.training.GroupLasso` for instance.

    Raises:
        InputError: `epochs` is below 1. When called: there is no optimizer or no batch, a loss is not finite
            or no scalar.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        loss: Callable[[Any, Any], Tensor] | None = None,
        epochs: int = 1,
        after_backward: Callable[[], Any] | Iterable[Callable[[], Any]] = (),
    ) -> None:
        if type(epochs) is not int or epochs < 1:
            raise InputError(f"epochs={epochs!r} must be a whole number of at least 1")
        if loss is not None and not callable(loss):
            raise ArgumentTypeError(f"loss must be a function, got {type(loss).__name__}")
        if isinstance(loader, Iterator):
            raise InputError("the loader can be gone through only once: pass a list or a DataLoader")
        self.loader = loader
        self.loss = loss
        self.epochs = epochs
        self.after_backward = [after_backward] if callable(after_backward) else list(after_backward)

    def __call__(self, model: nn.Module, optimizer: Optimizer | None, step: int = 0) -> float:
        """Train; returns the mean loss of the last epoch."""
        self.check(optimizer)
        assert optimizer is not None
        modes = [(module, module.training) for module in model.modules()]
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        mean = 0.0
        try:
            model.train()
            for epoch in range(self.epochs):
                mean = self._epoch(model, optimizer, device, f"epoch {epoch} of step {step}")
        finally:
            for module, training in modes:
                module.training = training
            optimizer.zero_grad(set_to_none=True)
        return mean

    def check(self, optimizer: Optimizer | None) -> None:
        if optimizer is None:
            raise InputError("training over a loader needs optimizer=..., built on model.parameters()")

    def _epoch(self, model: nn.Module, optimizer: Optimizer, device: torch.device, where: str) -> float:
        total, count = 0.0, 0
        for batch in self.loader:
            optimizer.zero_grad(set_to_none=True)
            loss = self._loss(model, _moved(batch, device))
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
                raise InputError(f"the loss of batch {count} in {where} is no scalar tensor with a gradient")
            if not torch.isfinite(loss):
                raise InputError(
                    f"the loss of batch {count} in {where} is {loss.item()}: lower the learning rate"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            for penalty in self.after_backward:
                penalty()
            optimizer.step()
            total, count = total + loss.item(), count + 1
        if count == 0:
            raise InputError(f"the loader gave no batch in {where}")
        return total / count

    def _loss(self, model: nn.Module, batch: Any) -> Any:
        if isinstance(batch, Mapping):
            output, target = model(**batch), batch
        else:
            try:
                inputs, target = batch
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"a batch is a pair (inputs, target) or a dict of keyword inputs, got "
                    f"{type(batch).__name__}"
                ) from error
            if isinstance(inputs, Mapping):
                output = model(**inputs)
            else:
                output = model(*inputs) if isinstance(inputs, list | tuple) else model(inputs)
        if self.loss is not None:
            return self.loss(output, target)
        return output["loss"] if isinstance(output, Mapping) else getattr(output, "loss", None)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_moved(item, device) for item in value)
    return value
