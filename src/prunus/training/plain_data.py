"""Nested Python values with tensors inside, as JSON beside a safetensors file, and back, without pickle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError


def encoded(value: Any, tensors: dict[str, Tensor], where: str = "state") -> Any:
    """A value as JSON data; its tensors are added to `tensors` and referred to by key.

    Numbers, text, None, tensors, NumPy arrays and numbers, and lists, tuples and dicts of these come back
    from `decoded` as they were, types and all. `where` names the value in errors.

    Raises:
        CheckpointError: something else is inside; the message says where.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int) and type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Tensor):
        return {"tensor": _add(value, tensors, where), "device": value.device.type}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        array = np.atleast_1d(np.ascontiguousarray(value))
        bits = torch.from_numpy(array.view(np.uint8).copy())
        shape = list(value.shape)
        return {"array": _add(bits, tensors, where), "dtype": value.dtype.str, "shape": shape}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        items = [encoded(item, tensors, f"{where}[{index}]") for index, item in enumerate(value)]
        return {type(value).__name__: items}
    if isinstance(value, Mapping):
        return {
            "dict": [
                [encoded(key, tensors, where), encoded(item, tensors, f"{where}[{key!r}]")]
                for key, item in value.items()
            ]
        }
    raise CheckpointError(
        f"{where} is a {type(value).__name__}, which cannot be saved without pickle: leave it out, or run "
        "without a folder"
    )


def _add(tensor: Tensor, tensors: dict[str, Tensor], where: str) -> str:
    if tensor.device.type == "meta" or tensor.layout != torch.strided or tensor.is_complex():
        raise CheckpointError(f"{where} is a tensor without plain real values ({tensor.layout})")
    key = str(len(tensors))
    tensors[key] = tensor.detach().cpu().contiguous().clone()
    return key


def decoded(data: Any, tensors: Callable[[str], Tensor], device: torch.device | None = None) -> Any:
    """The value that `encoded` was given. Tensors that were not on the CPU go to `device`.

    Raises:
        CheckpointError: the data is not what `encoded` makes.
    """
    try:
        return _decoded(data, tensors, device)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"the saved state of the run is damaged ({error})") from error


def _decoded(data: Any, tensors: Callable[[str], Tensor], device: torch.device | None) -> Any:
    if data is None or isinstance(data, bool | str | int | float):
        return data
    if "float" in data:
        return float(data["float"])
    if "tensor" in data:
        value = tensors(data["tensor"])
        return value.to(device) if device is not None and data["device"] != "cpu" else value
    if "array" in data:
        bits = tensors(data["array"]).numpy()
        array = bits.view(np.dtype(data["dtype"])).reshape(data["shape"]).copy()
        return array if data["shape"] else array[()]
    for kind in (list, tuple):
        if kind.__name__ in data:
            return kind(_decoded(item, tensors, device) for item in data[kind.__name__])
    return {_decoded(key, tensors, device): _decoded(item, tensors, device) for key, item in data["dict"]}
