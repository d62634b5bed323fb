"""One cell of the comparison: a network, a seed, a method and a speed-up; pruned, fine-tuned, tested."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import prunus

from . import methods, tasks
from .methods import Method
from .peers import TargetMissed
from .store import Store, digest, fingerprint, versions
from .tasks import Task

TUNE_SEED = 1000
"""Fine-tuning draws other batches than training did, the same for every method."""

REPEATS = 7


@dataclass(frozen=True)
class Dense:
    """A trained network before any cut, with what it costs and scores."""

    model: nn.Module
    key: str
    figures: dict[str, Any]


def dense(task: Task, seed: int, store: Store) -> Dense:
    """Trained from the seed, or read back."""
    key = digest("dense", task.settings, _shapes(task), seed, versions())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.build()
    weights = store.read_tensors(key)
    if weights is None:
        tasks.train(model, task, task.dense, seed)
        store.write_tensors(key, model.state_dict())
    else:
        model.load_state_dict(weights)
    accuracy, loss = tasks.evaluate(model, task)
    figures = {
        "accuracy": accuracy,
        "loss": loss,
        "macs": tasks.macs(model, task.example),
        "params": tasks.parameters(model),
    }
    return Dense(model, key, figures)


def _shapes(task: Task) -> list[Any]:
    """The architecture, so that a changed network is not mistaken for the one that was trained."""
    with torch.device("meta"):
        return [[name, list(p.shape)] for name, p in task.build().named_parameters()]


def run(
    task: Task, seed: int, method: Method, speedup: float, trained: Dense, store: Store
) -> dict[str, Any]:
    """The result of one cell as plain data; `missed` where the method cannot reach the target."""
    target = int(trained.figures["macs"] / speedup)
    where = {
        "network": task.name,
        "seed": seed,
        "side": method.side,
        "method": method.label,
        "speedup": speedup,
        "target_macs": target,
    }
    # The peer does not change, and is slow to find its ratio: its whole result is filed under the request.
    request = digest(trained.key, task.settings, method.name, dict(method.options), speedup, method.version)
    known = store.read("request", request) if method.version is not None else None
    if known is None:
        known = _cut_and_tune(task, seed, method, target, trained, store)
        if method.version is not None:
            store.write("request", request, known)
    return {**where, **known}


def _cut_and_tune(
    task: Task, seed: int, method: Method, target: int, trained: Dense, store: Store
) -> dict[str, Any]:
    try:
        pruned = methods.cut(method, trained.model, task, target, seed)
    except (prunus.PruningError, TargetMissed) as error:
        return {"missed": f"{type(error).__name__}: {error}"}
    key = digest(task.settings, trained.key, seed, fingerprint(pruned), versions())
    known = store.read("tuned", key)
    if known is None:
        known = _tune(task, seed, pruned, trained)
        store.write("tuned", key, known)
    return known


def _tune(task: Task, seed: int, pruned: nn.Module, trained: Dense) -> dict[str, Any]:
    before, _ = tasks.evaluate(pruned, task)
    figures = {
        "accuracy_untuned": before,
        "macs": tasks.macs(pruned, task.example),
        "params": tasks.parameters(pruned),
    }
    tasks.train(pruned, task, task.tune, seed + TUNE_SEED)
    figures["accuracy"], figures["loss"] = tasks.evaluate(pruned, task)
    ours, theirs = interleaved_ms(
        (pruned, copy.deepcopy(trained.model)), task.load().x_test[: task.timed_batch]
    )
    return {**figures, "ms": ours, "dense_ms": theirs}


@torch.no_grad()
def interleaved_ms(models: Sequence[nn.Module], x: Tensor) -> list[float]:
    """The median time of a forward pass of each model, taken in turn, so that all share the noise."""
    times: list[list[float]] = [[] for _ in models]
    for repeat in range(-2, REPEATS):  # the first two only warm up
        for model, own in zip(models, times, strict=True):
            start = time.perf_counter()
            model.eval()(x)
            if repeat >= 0:
                own.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(own) for own in times]
