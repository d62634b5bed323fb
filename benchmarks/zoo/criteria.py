"""What success means: comparison of a pruned model with its zeroed original, output by output."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4
MIN_SIGNAL = 1e-3
"""Outputs for two different inputs must differ by this much, or equal outputs would prove nothing."""


def tensors_of(output: Any, path: str = "out") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a nested output with its path; opaque objects (key-value caches) are passed over."""
    if isinstance(output, Tensor):
        yield path, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from tensors_of(value, f"{path}.{key}")
    elif isinstance(output, list | tuple):
        for index, value in enumerate(output):
            yield from tensors_of(value, f"{path}[{index}]")
    elif dataclasses.is_dataclass(output):
        for field in dataclasses.fields(output):
            yield from tensors_of(getattr(output, field.name), f"{path}.{field.name}")


def run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """Outputs by path, from a fixed random state (a few models draw numbers even in eval mode)."""
    torch.manual_seed(0)
    with torch.no_grad():
        return dict(tensors_of(model(*args, **kwargs)))


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Nested inputs with their floating tensors in `dtype`."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: cast(item, dtype) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(cast(item, dtype) for item in value)
    return value


def zeroed(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `model` with every parameter and floating buffer multiplied by its mask (True = kept)."""
    model = copy.deepcopy(model)
    tensors: dict[str, Tensor] = dict(model.named_buffers(remove_duplicate=False))
    tensors.update(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, mask in masks.items():
            tensor = tensors[name]
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.mul_(mask.to(tensor.device))
    return model


def shapes(outputs: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Shape by path."""
    return {path: list(tensor.shape) for path, tensor in outputs.items()}


def difference(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Largest |actual - expected| over the outputs, each relative to that output's largest |expected|."""
    worst = 0.0
    for path, reference in expected.items():
        other = actual[path]
        if reference.numel() == 0:
            continue
        if not reference.is_floating_point():
            worst = max(worst, 0.0 if torch.equal(other, reference) else 1.0)
            continue
        scale = max(float(reference.abs().max()), 1e-12)
        gap = float((other.double() - reference.double()).abs().max()) / scale
        if gap != gap:
            return float("nan")
        worst = max(worst, gap)
    return worst
