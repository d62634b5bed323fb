"""Calibration: what a model does on data, for the importances that ask."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from ..errors import ArgumentTypeError, InputError, PruningError
from ..graph.graph import Graph
from .activations import Activations
from .batches import read
from .gradients import Gradients, Loss, refused
from .result import Calibration, Read


def calibrate(
    graph: Graph,
    loader: Iterable[Any],
    loss: Loss | None = None,
    batches: int | None = None,
    progress: bool = True,
    *,
    per_sample: bool = False,
    activations: bool = True,
    covariance: bool = False,
) -> Calibration:
    """Gather gradients and activations of a traced model in one pass over a loader.

    The result is also kept as `graph.calibration`, where importances find it. The model runs in eval mode on
    the device it is on, and is left as it was: weights, buffers, modes, hooks, gradients (those that were
    there stay as they were) and random states. Parameters that do not require gradients have them here.

    Args:
        graph: from `prunus.trace`.
        loader: yields batches, each a tensor; or `(inputs, target)`, where inputs is a tensor, a tuple of
            positional inputs or a dict of keyword inputs; or a dict of keyword inputs (Hugging Face). Tensors
            are moved to the model's device. Batches may differ in size from the traced one; the first
            dimension of the first input runs over the samples.
        loss: `loss(output, target)` for pairs, `loss(output, batch)` for others; returns a scalar, the mean
            over the samples of the batch. Without it there are no gradients.
        batches: how many batches to take; all of them where None.
        progress: show a progress bar, if there is a terminal.
        per_sample: also gather the squares of single samples' gradients, for "obd", "obdc" and "fisher": with
            `torch.func.vmap` where the model allows it, else sample after sample. The loss is then called on
            batches of one.
        activations: gather activations; without, one forward pass a batch is saved.
        covariance: also gather the second moments of what each weight is multiplied with, along the axes
            that can be pruned, for "obc": a float64 matrix (C, C) for C inputs, one for weights that read
            the same tensor, on the model's device, and N * C * C multiplications for N vectors read. Inputs
            of more than 16384 (2 GiB), such as vocabularies, are left out.

    Raises:
        ArgumentTypeError: a graph, loader or loss of the wrong type.
        InputError: an empty loader, a batch of unknown form, a loss that is no scalar, is not finite or has
            no gradient, or nothing to gather; covariance without activations.
        TraceError: the model fails on a batch; it is named by its position.
        PlanError: the model has changed since it was traced.
    """
    _check(graph, loader, loss, batches, per_sample, activations)
    if covariance and not activations:
        raise InputError("covariance=True gathers activations: leave out activations=False")
    device = next((item.tensor.device for item in graph.held), torch.device("cpu"))
    gradients = Gradients(graph, loss, per_sample) if loss is not None else None
    read_by = Activations(graph, covariance) if activations else None
    samples = count = 0
    with ExitStack() as stack:
        stack.enter_context(_unchanged_randomness(device))
        advance = stack.enter_context(_progress(loader, batches, progress))
        for place, item in enumerate(loader):
            batch = read(item, place, device)
            if gradients is not None:
                gradients.add(batch)
            if read_by is not None:
                try:
                    read_by.add(batch)
                except PruningError:
                    raise
                except Exception as error:
                    raise refused(graph.model, batch, error) from error
            samples += batch.size
            count += 1
            advance()
            if count == batches:
                break
    if not count:
        raise InputError("the loader is empty: it yielded no batch")
    found = Calibration(
        samples=samples,
        batches=count,
        activations=read_by.reads() if read_by is not None else {},
        input_squares=read_by.input_squares() if read_by is not None else {},
        second_moments=read_by.second_moments() if read_by is not None else {},
        **({} if gradients is None else _means(gradients, samples)),
    )
    graph.calibration = found
    return found


def _means(gradients: Gradients, samples: int) -> dict[str, Any]:
    return {
        "loss": gradients.total_loss / samples,
        "gradients": {name: total / samples for name, total in gradients.sums.items()},
        "squared_gradients": {name: total / samples for name, total in gradients.squares.items()},
        "unit_squares": {node: total / samples for node, total in gradients.unit_squares.items()},
    }


def _check(graph: Any, loader: Any, loss: Any, batches: Any, per_sample: bool, activations: bool) -> None:
    if not isinstance(graph, Graph):
        raise ArgumentTypeError(
            f"graph must be what prunus.trace returns, got {type(graph).__name__}: trace the model first"
        )
    if not isinstance(loader, Iterable) or isinstance(loader, torch.Tensor | dict | str):
        raise ArgumentTypeError(
            f"loader must yield batches, got {type(loader).__name__}: pass a DataLoader or a list of batches"
        )
    if loss is not None and not callable(loss):
        raise ArgumentTypeError(f"loss must be a function of output and target, got {type(loss).__name__}")
    if batches is not None and (type(batches) is not int or batches < 1):
        raise InputError(f"batches={batches!r} must be a whole number of at least 1, or None")
    if loss is None and (per_sample or not activations):
        raise InputError("there is nothing to gather gradients from: give loss=...")
    if any(item.tensor.is_meta for item in graph.held):
        raise InputError("the model is on the meta device and has no values: give it weights first")
    graph.check_current()


@contextmanager
def _unchanged_randomness(device: torch.device) -> Iterator[None]:
    """The random states of Python, NumPy and torch, which a shuffling loader draws from too."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


@contextmanager
def _progress(loader: Any, batches: int | None, wanted: bool) -> Iterator[Any]:
    """A bar on the terminal, if there is one; gives the function that advances it."""
    if not wanted:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    try:
        length = len(loader)
    except (TypeError, NotImplementedError):
        length = None
    known = [number for number in (length, batches) if number is not None]
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Calibrating", total=min(known) if known else None)
        yield lambda: bar.advance(task)


__all__ = ["Calibration", "Read", "calibrate"]
