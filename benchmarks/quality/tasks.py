"""A task: a network, its data, and the one training that everybody gets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from . import data, networks


class Data(Protocol):
    x_test: Tensor
    y_test: Tensor

    def draw(self, batch: int, generator: Generator) -> tuple[Tensor, Tensor]: ...

    def calibration(self, batch: int) -> list[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class Schedule:
    """AdamW with one cycle of warm-up and decay (Smith, Topin, 2017, arXiv:1708.07120)."""

    steps: int
    peak_rate: float
    batch: int = 64
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Task:
    """What is pruned and how it is trained; `settings` is all that a result depends on besides the cut."""

    name: str
    title: str
    build: Callable[[], nn.Module]
    load: Callable[[], Data]
    dense: Schedule
    tune: Schedule
    timed_batch: int = 256

    @property
    def settings(self) -> dict[str, object]:
        return {
            "name": self.name,
            "dense": dataclasses.asdict(self.dense),
            "tune": dataclasses.asdict(self.tune),
        }

    @property
    def example(self) -> Tensor:
        return self.load().x_test[:1]


TASKS = {
    task.name: task
    for task in (
        Task(
            "resnet",
            "residual CNN",
            networks.ResidualNet,
            data.digits,
            dense=Schedule(400, 1e-2),
            tune=Schedule(80, 6e-3),
        ),
        Task(
            "mobilenet",
            "MobileNet-like",
            networks.MobileNet,
            data.digits,
            dense=Schedule(400, 1e-2),
            tune=Schedule(80, 6e-3),
        ),
        Task(
            "vit",
            "ViT",
            networks.ViT,
            data.digits,
            dense=Schedule(900, 3e-3, weight_decay=0.05),
            tune=Schedule(120, 3e-3, weight_decay=0.05),
        ),
        Task(
            "gpt",
            "GPT on source text",
            networks.GPT,
            data.source,
            dense=Schedule(500, 8e-3, batch=32),
            tune=Schedule(60, 4e-3, batch=32),
            timed_batch=32,
        ),
    )
}


def loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy; classes come last, whatever the dimensions before them."""
    return F.cross_entropy(logits.flatten(0, -2), target.flatten())


def train(model: nn.Module, task: Task, schedule: Schedule, seed: int) -> None:
    """The same batches in the same order for the same seed, whatever is trained; ends in eval mode."""
    source, generator = task.load(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), schedule.peak_rate, weight_decay=schedule.weight_decay)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.peak_rate, total_steps=schedule.steps)
    model.train()
    for _ in range(schedule.steps):
        x, y = source.draw(schedule.batch, generator)
        value = loss(model(x), y)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
    optimizer.zero_grad()
    model.eval()


@torch.no_grad()
def evaluate(model: nn.Module, task: Task) -> tuple[float, float]:
    """Accuracy in [0, 1] and mean cross-entropy in nats, on the whole test set."""
    source = task.load()
    logits = model.eval()(source.x_test)
    right = (logits.argmax(-1) == source.y_test).float().mean()
    return right.item(), loss(logits, source.y_test).item()


@torch.no_grad()
def macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one example, counted by PyTorch on the model as it stands.

    The fused attention of CPUs counts as nothing there, so attention is taken apart while counting.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.eval()(example)
    return counter.get_total_flops() // 2


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
