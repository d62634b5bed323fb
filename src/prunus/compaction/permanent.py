"""Masks of `torch.nn.utils.prune` and of `prunus.masks` made permanent, and put back.

A masked module holds `weight_orig` and `weight_mask`, and a hook multiplies them into `weight` before each
forward. Compaction ends that, as `torch.nn.utils.prune.remove` does: the weight becomes an ordinary parameter
with zeros where it was masked. Unlike `remove`, this can be undone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from ..masks.reparametrize import names_of, set_names


def _hooks(module: nn.Module) -> Iterator[tuple[int, BasePruningMethod]]:
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, BasePruningMethod):
            yield key, hook


def make_permanent(model: nn.Module) -> Callable[[], None] | None:
    """Turn masked tensors into ordinary parameters; returns how to undo that, or None if there are none.

    A parameter that is masked in one module and used unmasked, or with another mask, in another one keeps
    its mask.
    """
    uses = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    undo: list[Callable[[], None]] = []
    for module in model.modules():
        masked = [
            (key, hook)
            for key, hook in _hooks(module)
            if uses[id(module._parameters[f"{hook._tensor_name}_orig"])] == 1
        ]
        if masked:
            undo.append(_unmask(module, masked))
    if not undo:
        return None

    def put_back() -> None:
        while undo:
            undo.pop()()

    return put_back


def _unmask(module: nn.Module, masked: list[tuple[int, BasePruningMethod]]) -> Callable[[], None]:
    spaces: list[dict[Any, Any]] = [module._parameters, module._buffers, module._forward_pre_hooks]
    saved = [dict(space) for space in spaces]
    masked_names = names_of(type(module))
    set_names(module, tuple(name for name in masked_names if name not in {h._tensor_name for _, h in masked}))
    values: list[tuple[nn.Parameter, Tensor, Tensor]] = []
    for key, hook in masked:
        name = hook._tensor_name
        original, mask = module._parameters.pop(f"{name}_orig"), module._buffers.pop(f"{name}_mask")
        assert original is not None
        assert mask is not None
        values.append((original, original.data, mask))
        original.data = original.data * mask.to(original.dtype)
        module.__dict__.pop(name, None)
        del module._forward_pre_hooks[key]
        setattr(module, name, original)  # recurrent layers keep a list of their weights up to date here

    def put_back() -> None:
        for original, before, mask in values:
            same = original.data == before * mask.to(before.dtype)
            original.data = before if bool(same.all()) else torch.where(same, before, original.data)
        for _, hook in masked:
            del module._parameters[hook._tensor_name]
        set_names(module, masked_names)
        for space, content in zip(spaces, saved, strict=True):
            now = {**content, **{key: value for key, value in space.items() if key not in content}}
            space.clear()
            space.update(now)
        for _, hook in masked:
            hook(module, None)  # the masked tensor itself, as before any forward

    return put_back
