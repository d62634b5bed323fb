"""A record of everything about a model that an operation might disturb, and a list of what it did disturb."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, str, type(None))
INTERNAL = {"_parameters", "_buffers", "_modules"}


def plain(value: Any) -> Any:
    """Plain data, with the exact type of every number, or a marker for anything else.

    A tensor that a module holds outside its parameters and buffers counts as data too, by its bytes.
    """
    if isinstance(value, Tensor):
        return type(value), f"{value.dtype} {tuple(value.shape)} {fingerprint(value)}"
    if isinstance(value, PLAIN):
        return type(value), value
    if isinstance(value, (list, tuple)):
        return type(value), tuple(plain(item) for item in value)
    if isinstance(value, dict):
        return type(value), tuple((str(key), plain(item)) for key, item in value.items())
    if hasattr(value, "to_dict"):
        return type(value), plain(value.to_dict())
    return "object"


def fingerprint(value: Tensor) -> int:
    if value.device.type == "meta" or value.is_quantized:
        return 0
    return zlib.crc32(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())


def attributes(model: nn.Module) -> dict[str, Any]:
    """Every plain attribute of every module: integers, tuples, strings, configs."""
    found = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for key, value in vars(module).items():
            if key not in INTERNAL and "hooks" not in key:
                found[f"{name}.{key}"] = plain(value)
    return found


def hooks(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {
        f"{name}.{key}": tuple(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if "hooks" in key and isinstance(value, dict)
    }


def tensors(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    found.update(model.named_buffers(remove_duplicate=False))
    return found


def ties(model: nn.Module) -> set[frozenset[str]]:
    """Which names stand for one and the same tensor."""
    groups: dict[int, set[str]] = {}
    for name, tensor in tensors(model).items():
        groups.setdefault(id(tensor), set()).add(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """Bit for bit, NaN included."""
    if a is None or b is None:
        return a is b
    if (a.shape, a.dtype, a.device, a.stride()) != (b.shape, b.dtype, b.device, b.stride()):
        return False
    if a.device.type == "meta":
        return True
    return a.contiguous().flatten().numpy().tobytes() == b.contiguous().flatten().numpy().tobytes()


@dataclass
class Snapshot:
    """Taken once; `differences` compares a model with it."""

    tensors: dict[str, Tensor]
    values: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    requires_grad: dict[str, bool]
    state: list[str]
    modes: dict[str, bool]
    hooks: dict[str, Any]
    attributes: dict[str, Any]
    ties: set[frozenset[str]]
    random: tuple[Any, ...]
    flags: tuple[Any, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Snapshot:
        named = tensors(model)
        return cls(
            tensors=named,
            values={k: v.detach().clone(memory_format=torch.preserve_format) for k, v in named.items()},
            gradients={k: None if v.grad is None else v.grad.detach().clone() for k, v in named.items()},
            requires_grad={k: v.requires_grad for k, v in named.items()},
            state=list(model.state_dict()),
            modes={name: module.training for name, module in model.named_modules()},
            hooks=hooks(model),
            attributes=attributes(model),
            ties=ties(model),
            random=(torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()),  # noqa: NPY002
            flags=global_flags(),
        )

    def differences(self, model: nn.Module, identity: bool = False, randomness: bool = False) -> list[str]:
        """What is not as it was. `identity`: also the tensor objects; `randomness`: also random states."""
        now = Snapshot.of(model)
        found = []
        if list(self.values) != list(now.values) or self.state != now.state:
            found.append("names of parameters and buffers")
        for key in self.values.keys() & now.values.keys():
            if not same(self.values[key], now.values[key]):
                found.append(f"value of {key}")
            if not same(self.gradients[key], now.gradients[key]):
                found.append(f"gradient of {key}")
            if self.requires_grad[key] != now.requires_grad[key]:
                found.append(f"requires_grad of {key}")
            if type(self.tensors[key]) is not type(now.tensors[key]):
                found.append(f"type of {key}")
            if identity and self.tensors[key] is not now.tensors[key]:
                found.append(f"identity of {key}")
        for what in ("modes", "hooks", "attributes"):
            before, after = getattr(self, what), getattr(now, what)
            keys = sorted(before.keys() | after.keys())
            found += [
                f"{what}: {k} was {before.get(k)}, is {after.get(k)}"
                for k in keys
                if before.get(k) != after.get(k)
            ]
        if self.ties != now.ties:
            found.append("tied tensors")
        if self.flags != now.flags:
            found.append(f"global flags: {self.flags} became {now.flags}")
        if randomness:
            if not torch.equal(self.random[0], now.random[0]):
                found.append("torch random state")
            if self.random[1:] != now.random[1:]:
                found.append("random state of Python or NumPy")
        return found


def global_flags() -> tuple[Any, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.mkldnn.enabled,
        torch.are_deterministic_algorithms_enabled(),
        torch._C._len_torch_function_stack(),
        torch._C._len_torch_dispatch_stack(),
    )
