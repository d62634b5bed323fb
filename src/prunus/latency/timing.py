"""Latency of whole models: medians of repeated forwards, several models by turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import ArgumentTypeError, InputError, TraceError
from ..graph.state import held_tensors, mode
from .clock import Clock, clock_for

REPEATS = 20
WARMUP = 3


def measure(
    model: nn.Module,
    args: Any = (),
    kwargs: dict[str, Any] | None = None,
    *,
    repeats: int = REPEATS,
    warmup: int = WARMUP,
    clock: Clock | None = None,
) -> float:
    """Milliseconds of one forward pass in eval mode, without gradients: the median of `repeats`.

    Before each timed forward runs one that is not timed. On CUDA the time is taken by events on the stream.
    On a CPU it is the wall-clock time, or, where torch computes on one thread, the time of that thread, so
    that other processes do not count. Modes and random state are put back; inputs are copies, so a forward
    that writes into them does not change the caller's.

    Args:
        model: on any device but meta.
        args: positional inputs; a lone tensor is taken as `(tensor,)`.
        kwargs: keyword inputs.
        repeats: timed forwards, at least 1.
        warmup: forwards before them that are not timed.
        clock: what takes the time, instead of the device's own clock.

    Raises:
        InputError: a model on the meta device, which cannot compute, or numbers below 1.
        ArgumentTypeError: `model` is no module.
        TraceError: the model fails its own forward on these inputs.
    """
    return compare([model], args, kwargs, repeats=repeats, warmup=warmup, clock=clock)[0]


def compare(
    models: Sequence[nn.Module],
    args: Any = (),
    kwargs: dict[str, Any] | None = None,
    *,
    repeats: int = REPEATS,
    warmup: int = WARMUP,
    clock: Clock | None = None,
) -> list[float]:
    """Milliseconds of one forward pass of each model, taken by turns so that drifts hit all alike.

    Arguments and errors are those of `measure`. Medians of `repeats` rounds, in the order of `models`.
    """
    rounds = interleaved(models, args, kwargs, repeats=repeats, warmup=warmup, clock=clock)
    return [statistics.median(samples) for samples in zip(*rounds, strict=True)]


def interleaved(
    models: Sequence[nn.Module],
    args: Any = (),
    kwargs: dict[str, Any] | None = None,
    *,
    repeats: int = REPEATS,
    warmup: int = WARMUP,
    clock: Clock | None = None,
) -> list[list[float]]:
    """Milliseconds of forwards: one list a round, with one number for each model.

    Each turn of a model is two forwards, of which the second is timed.
    """
    if type(repeats) is not int or repeats < 1 or type(warmup) is not int or warmup < 0 or not models:
        raise InputError(f"repeats={repeats!r} must be at least 1, warmup={warmup!r} at least 0")
    given = (args,) if isinstance(args, Tensor) or not isinstance(args, list | tuple) else tuple(args)
    device = device_of([*models], (given, kwargs))
    watch = clock or clock_for(device)
    calls = [_forward(model, given, dict(kwargs or {})) for model in models]
    with quiet(models, device):
        for _ in range(warmup):
            for call in calls:
                call()
        return [[_settled(call, watch) * 1e3 for call in calls] for _ in range(repeats)]


def _settled(call: Callable[[], Any], watch: Clock) -> float:
    """Seconds of a call after one of the same model that is not timed.

    The memory that another model's forward has just freed comes in other sizes: the first forward after it
    pays for the allocator, which a model that runs by itself never does.
    """
    call()
    return watch.seconds(call)


def _forward(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
    own_args, own_kwargs = tree_map(_copy, (args, kwargs))

    def call() -> Any:
        try:
            return model(*own_args, **own_kwargs)
        except Exception as error:
            raise TraceError(
                f"{type(model).__name__} fails its own forward on the inputs given: "
                f"{type(error).__name__}: {error}"
            ) from error

    return call


def _copy(item: Any) -> Any:
    return item.detach().clone() if isinstance(item, Tensor) else item


@contextmanager
def quiet(models: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Eval mode and no gradients for a while; modes and random state are put back."""
    with ExitStack() as stack:
        devices = [device] if device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=devices))
        for model in models:
            stack.enter_context(mode(model, False))
        stack.enter_context(torch.no_grad())
        yield


def device_of(models: Sequence[nn.Module], inputs: Any) -> torch.device:
    """Where the models compute.

    Raises:
        InputError: on the meta device, where nothing is computed.
        ArgumentTypeError: something that is no module.
    """
    found: list[torch.device] = []
    for model in models:
        if not isinstance(model, nn.Module):
            raise ArgumentTypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        found += [item.tensor.device for item in held_tensors(model)]
    found += [leaf.device for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if any(device.type == "meta" for device in found):
        raise InputError(
            "a model on the meta device computes nothing, so its latency cannot be measured: move it to "
            "the device that matters, e.g. model.to_empty(device='cpu')"
        )
    return next((device for device in found if device.type != "cpu"), torch.device("cpu"))
