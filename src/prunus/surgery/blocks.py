"""Removing whole modules: what stands in their place, and how they come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import CheckpointError, PruningError
from ..graph.templates import Template
from .operation import Operation

_PLAIN = (str, bool, int, float, type(None))
_OWN = frozenset(nn.Module().__dict__)
MAX_DEPTH = 16


class Skip(nn.Module):
    """Takes the place of a removed module and returns what it would return with its branches zeroed.

    It has no parameters. Numbers, flags and strings that the module held are kept, those of its children
    too, since code outside may read them (`layer.attention_type`, `layers[0].self_attn.batch_first`); where
    it held tensors, there is None.

    Attributes:
        replaced: class name of the removed module.
        template: what to return, as nested tuples of strings (see `prunus.graph.templates.Template`).
    """

    def __init__(self, module: nn.Module, template: Template) -> None:
        super().__init__()
        for key, value in vars(_remains(module)).items():
            setattr(self, key, value)
        self.training = module.training
        self.replaced = type(module).__name__
        self.template = template

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _build(self.template, args, kwargs)

    def extra_repr(self) -> str:
        return f"in place of {self.replaced}"


def _remains(module: nn.Module) -> SimpleNamespace:
    """The plain attributes of a module, None for its tensors and, by name, the same of its children."""
    found: dict[str, Any] = {
        key: value
        for key, value in module.__dict__.items()
        if key not in _OWN and isinstance(value, _PLAIN) and not key.startswith("__")
    }
    found.update(dict.fromkeys([*module._parameters, *module._buffers]))
    for name, child in module.named_children():
        found[name] = _remains(child)
    return SimpleNamespace(**found)


def _build(template: Template, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    what, rest = template[0], template[1:]
    if what == "none":
        return None
    if what == "tuple":
        return tuple(_build(part, args, kwargs) for part in rest)
    if what == "list":
        return [_build(part, args, kwargs) for part in rest]
    if what == "dict":
        return {key: _build(part, args, kwargs) for key, part in rest}
    found = find_input(rest, args, kwargs)
    if what == "copy":
        return found.clone()
    return torch.zeros_like(found) if what == "zeros" else found


def find_input(source: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    position, keyword, *steps = source
    if keyword and keyword in kwargs:
        found = kwargs[keyword]
    elif position and int(position) < len(args):
        found = args[int(position)]
    else:
        what = f"argument {keyword!r}" if keyword else f"argument number {position}"
        raise PruningError(f"a module that stands for a removed one was called without {what}")
    return follow(found, steps)


def follow(item: Any, steps: Iterable[str]) -> Any:
    """What lies inside nested tuples, lists and dicts."""
    for step in steps:
        item = item[int(step[1:])] if step[0] == "#" else item[step[1:]]
    return item


# -- templates as plain data ----------------------------------------------------------------------------


def as_data(template: Template) -> list[Any]:
    """The template as nested lists, for JSON."""
    return [as_data(part) if isinstance(part, tuple) else part for part in template]


def from_data(data: Any, depth: int = 0) -> Template:
    """A template from nested lists, which may come from anywhere.

    Raises:
        CheckpointError: they are no template.
    """
    if depth <= MAX_DEPTH and isinstance(data, list) and data and isinstance(data[0], str):
        what, rest = data[0], data[1:]
        if what == "none" and not rest:
            return ("none",)
        if what in ("tuple", "list"):
            return (what, *(from_data(part, depth + 1) for part in rest))
        if what == "dict" and all(
            isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) for p in rest
        ):
            return ("dict", *((key, from_data(part, depth + 1)) for key, part in rest))
        if what in ("input", "copy", "zeros") and _is_source(rest):
            return (what, *rest)
    raise CheckpointError(
        f"{data!r:.60} does not say what a removed block returns: the checkpoint is damaged"
    )


def _is_source(parts: list[Any]) -> bool:
    if len(parts) < 2 or not all(isinstance(part, str) for part in parts):
        return False
    position, keyword, *steps = parts
    if not (position or keyword) or not (position == "" or (position.isdecimal() and len(position) < 6)):
        return False
    return all(
        step[:1] == "." or (step[:1] == "#" and step[1:].isdecimal() and len(step) < 8) for step in steps
    )


# -- surgery --------------------------------------------------------------------------------------------


def places(model: nn.Module, name: str) -> list[tuple[nn.Module, str]]:
    """Every parent that holds a module, with the name that it has there."""
    target = model.get_submodule(name)
    return [
        (parent, key)
        for parent in model.modules()
        for key, child in parent._modules.items()
        if child is target
    ]


def skip(operation: Operation, templates: Mapping[str, Template]) -> None:
    """Put a `Skip` in the place of each module, and take their parameters out of the optimizer."""
    model = operation.model
    removed = {name: model.get_submodule(name) for name in templates}
    before = {id(parameter) for parameter in model.parameters()}
    device = _device(model)
    for name, template in templates.items():
        stand_in = Skip(removed[name], template)
        where = places(model, name)
        operation.remember(_putting_back(model, where, removed[name], stand_in, device))
        for parent, key in where:
            parent._modules[key] = stand_in
    gone = before - {id(parameter) for parameter in model.parameters()}
    if operation.optimizer is not None:
        _drop(operation, operation.optimizer, gone)


def _device(model: nn.Module) -> torch.device | None:
    return next((parameter.device for parameter in model.parameters()), None)


def _putting_back(
    model: nn.Module,
    where: list[tuple[nn.Module, str]],
    module: nn.Module,
    stand_in: Skip,
    device: torch.device | None,
) -> Callable[[], None]:
    """The way back; a change of mode or device that the model has seen since is made up for."""
    training = stand_in.training

    def put() -> None:
        now = _device(model)
        for parent, key in where:
            parent._modules[key] = module
        if stand_in.training != training:
            module.train(stand_in.training)
        if now is not None and now != device:
            module.to(now)

    return put


def _drop(operation: Operation, optimizer: Optimizer, gone: set[int]) -> None:
    """Forget parameters, and their state, until the operation is undone."""
    for group in optimizer.param_groups:
        before: list[Tensor] = list(group["params"])
        if not any(id(parameter) in gone for parameter in before):
            continue
        names = list(group["param_names"]) if "param_names" in group else None
        keep = [number for number, parameter in enumerate(before) if id(parameter) not in gone]
        operation.remember(_restoring(group, before, names))
        group["params"] = [before[number] for number in keep]
        if names is not None:
            group["param_names"] = [names[number] for number in keep]
    order = list(optimizer.state)
    lost = {parameter: optimizer.state[parameter] for parameter in order if id(parameter) in gone}
    for parameter in lost:
        del optimizer.state[parameter]

    def remember() -> None:
        optimizer.state.update(lost)
        state = dict(optimizer.state)
        optimizer.state.clear()
        for parameter in [*order, *state]:
            if parameter in state:
                optimizer.state[parameter] = state[parameter]

    if lost:
        operation.remember(remember)


def _restoring(group: dict[str, Any], before: list[Tensor], names: list[Any] | None) -> Callable[[], None]:
    """Parameters that were put into the group since stay there, at its end."""

    def restore() -> None:
        known = {id(parameter) for parameter in before}
        now, later = group["params"], [n for n, p in enumerate(group["params"]) if id(p) not in known]
        group["params"] = [*before, *(now[n] for n in later)]
        if names is not None:
            group["param_names"] = [*names, *(group["param_names"][n] for n in later)]

    return restore
