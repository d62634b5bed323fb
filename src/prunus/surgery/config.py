"""A Hugging Face configuration made to say the new sizes, by proof.

Which entry of a configuration shapes which layer is known to the model class alone. So candidate entries
are changed one at a time in a copy, the class is built from it on the meta device, and the change is kept
if more of the built shapes agree with the pruned model and none that agreed before differs now.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .blocks import Skip
from .operation import Operation, Path
from .repair import sub_sizes

if TYPE_CHECKING:
    from ..plan import Plan

MAX_BUILDS = 48
_MAY_BE_NONE = ("inner", "head_dim", "_size", "_dim")


def _entries(config: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Integers (and empty entries with a size-like name) of a configuration and those nested in it."""
    for key, value in vars(config).items():
        if key.startswith("_"):
            continue
        if type(value) is int and value > 1:
            yield (*path, key), value
        elif value is None and key.endswith(_MAY_BE_NONE):
            yield (*path, key), None
        elif hasattr(value, "to_dict") and hasattr(value, "model_type") and len(path) < 2:
            yield from _entries(value, (*path, key))


def _holder(config: Any, path: Path) -> Any:
    for step in path[:-1]:
        config = vars(config)[step]
    return config


class _Builder:
    """Builds the model's class from edited configurations and counts shapes that disagree."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.config: Any = model.config
        self.goal = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
        self.skipped = tuple(f"{name}." for name, item in model.named_modules() if isinstance(item, Skip))
        self.builds = 0

    def mismatches(self, edits: dict[Path, int]) -> set[str] | None:
        """Names of parameters whose shapes differ; None where the class refuses the configuration."""
        self.builds += 1
        config = copy.deepcopy(self.config)
        for path, value in edits.items():
            vars(_holder(config, path))[path[-1]] = value
        state = torch.get_rng_state()
        try:
            with torch.device("meta"):
                built = type(self.model)(config)
        except Exception:
            return None
        finally:
            torch.set_rng_state(state)
        shapes = {
            name: tuple(tensor.shape)
            for name, tensor in built.named_parameters()
            if not name.startswith(self.skipped)
        }
        if shapes.keys() != self.goal.keys():
            return None
        return {name for name, shape in shapes.items() if shape != self.goal[name]}


def repair_config(operation: Operation, plan: Plan) -> None:
    """Set the entries of `model.config` that the pruned shapes prove, and the same entries elsewhere."""
    model = operation.model
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict") or not hasattr(config, "model_type"):
        return
    changes = _size_changes(plan)
    edits = _proven_edits(_Builder(model), changes)
    for path, value in edits.items():
        old = vars(_holder(config, path))[path[-1]]
        operation.set("", ("config", *path), value)
        _spread(operation, path, old, value)


def _size_changes(plan: Plan) -> dict[int, set[int]]:
    changes: dict[int, set[int]] = {}
    memo: dict[Any, int] = {}
    graph = plan.graph
    for item in graph.held:
        if item.kind != "parameter":
            continue
        for node in graph.values[item.name].axes:
            for old, new in {
                (node.size, graph.terms.size(node, plan.counts, memo)),
                *sub_sizes(plan, node, memo),
            }:
                if old != new:
                    changes.setdefault(old, set()).add(new)
    return changes


def _proven_edits(builder: _Builder, changes: dict[int, set[int]]) -> dict[Path, int]:
    edits: dict[Path, int] = {}
    wrong = builder.mismatches(edits)
    if not wrong:
        return edits
    news = sorted({new for values in changes.values() for new in values})
    candidates = [
        (path, value, sorted(changes.get(value, ())) if value is not None else news)
        for path, value in _entries(builder.config)
    ]
    candidates = [item for item in candidates if item[2]]
    candidates.sort(key=lambda item: item[1] is None)
    for path, _, options in candidates:
        for new in options:
            if builder.builds >= MAX_BUILDS or not wrong:
                return edits
            after = builder.mismatches({**edits, path: new})
            if after is not None and after < wrong:
                edits[path] = new
                wrong = after
                break
    return edits


def _spread(operation: Operation, path: Path, old: Any, new: int) -> None:
    """Copies of the configuration that submodules hold say the same."""
    main = operation.model.__dict__.get("config")
    done = {id(main)}
    for name, module in operation.model.named_modules():
        own = module.__dict__.get("config")
        if own is None or id(own) in done or not hasattr(own, "to_dict"):
            continue
        done.add(id(own))
        key = path[-1]
        if vars(own).get(key, object()) == old:
            operation.set(name, ("config", key), new)
