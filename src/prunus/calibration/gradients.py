"""Gradients of a loss by parameter, of batches or of single samples, without touching the model's own.

The model runs on stand-ins of its parameters that share their memory, so that no `.grad` is written, no
hook of a parameter fires, and parameters that the user froze have gradients too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, PruningError, TraceError
from ..graph.attributes import unchanged_attributes
from ..graph.graph import Graph
from ..graph.state import Held, held_tensors, mode, swapped
from ..importance.scoring import wide
from .batches import Batch

Loss = Callable[[Any, Any], Tensor]

ENTRIES = 1 << 26
"""Entries of gradients of single samples that are held at a time."""

AGREEMENT = 1e-3
"""Largest relative difference of a sample's gradient by itself and in a vectorised batch."""


class Gradients:
    """Sums of gradients over samples, and of their squares where asked for."""

    def __init__(self, graph: Graph, loss: Loss, per_sample: bool) -> None:
        self.graph = graph
        self.loss = loss
        self.per_sample = per_sample
        self.held = [
            item for item in graph.held if item.kind == "parameter" and item.tensor.is_floating_point()
        ]
        self.total_loss = 0.0
        self.sums: dict[str, Tensor] = {}
        self.squares: dict[str, Tensor] = {}
        self.unit_squares = {
            axis.node: torch.zeros(axis.size, dtype=torch.float64) for axis in graph.prunable if per_sample
        }
        self._vectorises: bool | None = None
        self._reached: Collection[str] = ()

    def add(self, batch: Batch) -> None:
        """Add the gradients of one batch.

        Raises:
            TraceError: the model fails on the batch.
            InputError: the loss fails, is no scalar, is not finite, or has no gradient.
        """
        if not self.per_sample:
            loss, gradients = self._of(batch)
            self.total_loss += loss * batch.size
            for name, gradient in gradients.items():
                self._accumulate(self.sums, name, gradient * batch.size)
            return
        start = 0
        if self._vectorises is None:
            start = self._try_vectorising(batch)
        while start < batch.size:
            count = min(self._chunk(), batch.size - start) if self._vectorises else 1
            if self._vectorises:
                self._take(*self._of_samples(batch, start, count))
            else:
                loss, gradients = self._of(batch.sample(start))
                self._take(
                    torch.tensor([loss]), {name: gradient[None] for name, gradient in gradients.items()}
                )
            start += count

    def _try_vectorising(self, batch: Batch) -> int:
        """Take the first samples alone and together; vectorise from then on if both ways agree."""
        loss, alone = self._of(batch.sample(0))
        self._vectorises = False
        self._reached = alone.keys()
        self._take(torch.tensor([loss]), {name: gradient[None] for name, gradient in alone.items()})
        if batch.size == 1:
            self._vectorises = None
            return 1
        try:
            losses, together = self._of_samples(batch, 0, min(2, batch.size))
        except Exception:
            return 1
        self._vectorises = math.isclose(float(losses[0]), loss, rel_tol=AGREEMENT, abs_tol=1e-6) and all(
            bool((together[name][0] - gradient).norm() <= AGREEMENT * gradient.norm() + 1e-6)
            for name, gradient in alone.items()
        )
        return 1

    def _chunk(self) -> int:
        return max(1, ENTRIES // max(1, sum(item.tensor.numel() for item in self.held)))

    def _of(self, batch: Batch) -> tuple[float, dict[str, Tensor]]:
        """The loss of a batch, and its gradient by parameter name, of those parameters that it reaches."""
        stand_ins = [nn.Parameter(item.tensor.detach()) for item in self.held]
        with _undisturbed(self.graph), torch.enable_grad():
            loss = self._loss(batch, stand_ins)
            self._check(loss, batch)
            found: Sequence[Tensor | None] = torch.autograd.grad(loss, stand_ins, allow_unused=True)
        gradients = {
            item.name: wide(gradient.detach())
            for item, gradient in zip(self.held, found, strict=True)
            if gradient is not None
        }
        if not gradients:
            raise InputError(f"{batch.name}: the loss does not depend on any parameter of the model")
        return float(loss.detach()), gradients

    def _of_samples(self, batch: Batch, start: int, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses and gradients of some samples, with a leading dimension that runs over them."""
        leaves = [leaf[start : start + count] for leaf in batch.leaves()]

        def one(parameters: list[Tensor], sample: list[Tensor]) -> Tensor:
            return self._loss(batch.of_one([leaf[None] for leaf in sample]), parameters)

        with _undisturbed(self.graph), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gradients, losses = torch.func.vmap(
                torch.func.grad_and_value(one), in_dims=(None, 0), randomness="different"
            )([item.tensor.detach() for item in self.held], leaves)
        if not torch.isfinite(losses).all():
            index = int((~torch.isfinite(losses)).nonzero()[0])
            raise _not_finite(batch, float(losses[index]))
        return losses.detach().cpu(), {
            item.name: wide(gradient.detach())
            for item, gradient in zip(self.held, gradients, strict=True)
            if item.name in self._reached
        }

    def _loss(self, batch: Batch, stand_ins: list[Any]) -> Tensor:
        replacements = list(zip(self.held, stand_ins, strict=True))
        with swapped(self.graph.model, replacements):
            try:
                output = self.graph.model(*batch.args, **batch.kwargs)
            except Exception as error:
                raise refused(self.graph.model, batch, error) from error
            try:
                return self.loss(output, batch.target)
            except PruningError:
                raise
            except Exception as error:
                raise InputError(
                    f"{batch.name}: the loss raised {type(error).__name__}: {error}. It is called as "
                    "loss(output, target), or loss(output, batch) for a batch without target"
                ) from error

    def _check(self, loss: Any, batch: Batch) -> None:
        if not isinstance(loss, Tensor):
            raise InputError(f"{batch.name}: the loss returned {type(loss).__name__}, not a tensor")
        if loss.numel() != 1:
            raise InputError(
                f"{batch.name}: the loss has shape {tuple(loss.shape)}, and must be a scalar: "
                "take its mean over the samples"
            )
        if not torch.isfinite(loss.detach()).all():
            raise _not_finite(batch, float(loss.detach()))
        if not loss.requires_grad:
            raise InputError(
                f"{batch.name}: the loss has no gradient: compute it from the model's output without "
                "detach() or torch.no_grad()"
            )

    def _take(self, losses: Tensor, gradients: dict[str, Tensor]) -> None:
        """Add gradients of single samples, each with a leading dimension that runs over them."""
        self.total_loss += float(losses.sum())
        terms, values, tensors = self.graph.terms, self.graph.values, self.graph.tensors()
        count = len(losses)
        units = {node: torch.zeros(count, node.size, dtype=torch.float64) for node in self.unit_squares}

        def add_to(index: int) -> Callable[[Any, Tensor], None]:
            def add(leaf: Any, part: Tensor) -> None:
                if leaf in units:
                    units[leaf][index] += part

            return add

        for name, gradient in gradients.items():
            self._accumulate(self.sums, name, gradient.sum(0))
            self._accumulate(self.squares, name, gradient.square().sum(0))
            changes = gradient * wide(tensors[name].detach())
            for dim, node in enumerate(values[name].axes):
                if units.keys().isdisjoint(terms.leaves(node)):
                    continue
                rest = [d + 1 for d in range(changes.dim() - 1) if d != dim]
                sums = (changes.sum(rest) if rest else changes).to("cpu", torch.float64)
                for index in range(count):
                    terms.project(node, sums[index], add_to(index))
        for node, changes in units.items():
            self.unit_squares[node] += changes.square().sum(0)

    @staticmethod
    def _accumulate(totals: dict[str, Tensor], name: str, part: Tensor) -> None:
        if name in totals:
            totals[name] += part
        else:
            totals[name] = part.clone()


def refused(model: nn.Module, batch: Batch, error: Exception) -> TraceError:
    return TraceError(
        f"{type(model).__name__} fails on {batch.name} of the loader: {type(error).__name__}: "
        f"{error}. A batch is a tensor, (inputs, target) with inputs a tensor, a tuple or a dict, or a dict "
        "of keyword inputs; check shapes and dtypes by calling the model yourself"
    )


def _not_finite(batch: Batch, value: float) -> InputError:
    return InputError(
        f"{batch.name}: the loss is {value}: check the model's outputs and the targets, or leave the "
        "batch out"
    )


@contextmanager
def _undisturbed(graph: Graph) -> Iterator[None]:
    """Eval mode; buffers, attributes and global switches as before when it ends."""
    model = graph.model
    # As the model is now: it may have filled or emptied caches since it was traced.
    copies: list[tuple[Held, Tensor]] = [
        (item, item.tensor.detach().clone()) for item in held_tensors(model) if item.kind != "parameter"
    ]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(unchanged_attributes(model))
        stack.enter_context(mode(model, False))
        stack.enter_context(swapped(model, copies))
        # cuDNN has no backward of recurrent layers in eval mode.
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fastpath)
        torch.backends.mha.set_fastpath_enabled(False)
        yield
