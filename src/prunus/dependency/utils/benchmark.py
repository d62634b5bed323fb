"""Latency, throughput and memory of forward passes, under the names that scripts use.

`prunus.latency` measures medians, and several models by turns, which is what to quote.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...errors import ArgumentTypeError, InputError
from ...graph.state import held_tensors, mode
from ...latency.clock import clock_for
from ...latency.timing import device_of

Run = Callable[[nn.Module, Any], Any]


def measure_latency(
    model: nn.Module,
    example_inputs: Any,
    repeat: int = 300,
    warmup: int = 50,
    run_fn: Run | None = None,
) -> tuple[float, float]:
    """Milliseconds of a forward pass in eval mode, on the device of the model.

    Gradients are recorded unless the call is inside `torch.no_grad()`. The model's modes are put back.

    Args:
        model: the model.
        example_inputs: what it is called with, as its one argument.
        repeat: passes that are timed.
        warmup: passes before them.
        run_fn: how the model is called: `run_fn(model, example_inputs)`.

    Returns:
        The mean and the standard deviation, which is nan for one pass.

    Raises:
        InputError: `repeat` is below 1 or `warmup` below 0, or a model on the meta device.
        ArgumentTypeError: no module.
    """
    if type(repeat) is not int or repeat < 1 or type(warmup) is not int or warmup < 0:
        raise InputError(f"repeat={repeat!r} must be at least 1, warmup={warmup!r} at least 0")
    watch = clock_for(device_of([model], example_inputs))
    run = _call(model, example_inputs, run_fn)
    with mode(model, False):
        for _ in range(warmup):
            run()
        taken = torch.tensor([watch.seconds(run) * 1e3 for _ in range(repeat)], dtype=torch.float64)
    return taken.mean().item(), taken.std().item() if repeat > 1 else float("nan")


def measure_fps(
    model: nn.Module,
    example_inputs: Any,
    repeat: int = 300,
    warmup: int = 50,
    run_fn: Run | None = None,
) -> float:
    """Forward passes a second; arguments and errors as `measure_latency`."""
    return 1e3 / measure_latency(model, example_inputs, repeat, warmup, run_fn)[0]


def measure_throughput(
    model: nn.Module,
    example_inputs: Any,
    repeat: int = 300,
    warmup: int = 50,
    run_fn: Run | None = None,
) -> float:
    """Samples a second, counted along the first dimension of the first tensor of the inputs.

    Raises:
        ArgumentTypeError: there is no such tensor.
        as `measure_latency`.
    """
    first = next((leaf for leaf in tree_leaves(example_inputs) if isinstance(leaf, Tensor)), None)
    if first is None or first.dim() == 0:
        raise ArgumentTypeError("measure_throughput counts samples of a tensor, and the inputs have none")
    return len(first) * measure_fps(model, example_inputs, repeat, warmup, run_fn)


def measure_memory(
    model: nn.Module, example_inputs: Any, device: Any = None, run_fn: Run | None = None
) -> int:
    """Bytes that are allocated at the peak of a forward pass in eval mode.

    On CUDA this is the allocator's peak, all that the process holds there included. Elsewhere, parameters,
    buffers and inputs count, and what the operations of the pass return, for as long as it lives; what a
    kernel takes for itself does not.

    Args:
        model: the model. Its modes are put back.
        example_inputs: what it is called with, as its one argument.
        device: whose peak it is; by default the model's.
        run_fn: how the model is called: `run_fn(model, example_inputs)`.

    Raises:
        InputError: a model on the meta device.
        ArgumentTypeError: no module.
    """
    where = device_of([model], example_inputs) if device is None else torch.device(device)
    run = _call(model, example_inputs, run_fn)
    with mode(model, False):
        if where.type == "cuda":
            torch.cuda.reset_peak_memory_stats(where)
            run()
            return int(torch.cuda.max_memory_allocated(where))
        with _Living(where.type) as living:
            for item in [*(held.tensor for held in held_tensors(model)), *tree_leaves(example_inputs)]:
                living.add(item)
            run()
    return int(living.peak)


class _Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that have been made and not let go."""

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.peak = self.now = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def add(self, item: Any) -> None:
        if not isinstance(item, Tensor) or item.device.type != self.device:
            return
        storage = item.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for item in tree_leaves(out):
            self.add(item)
        return out


def _call(model: nn.Module, example_inputs: Any, run_fn: Run | None) -> Callable[[], Any]:
    return lambda: model(example_inputs) if run_fn is None else run_fn(model, example_inputs)
