"""Physical removal for Keras: smaller models from masks, zeros, or a ratio.

Layers are lowered to a few kinds of steps between tensors written in axes (`rules/`, `building.py`), on
which one analysis finds what is constant and what is needed (`study.py`); a plan (`plan.py`) says which
units stay, and `rebuilding.py` makes the smaller model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .choosing import Importance
from .graph import Axis, KerasGraph
from .partial_norm import PartialLayerNormalization
from .plan import KerasPlan
from .tracing import trace

__all__ = ["Axis", "KerasGraph", "KerasPlan", "PartialLayerNormalization", "compact", "prune", "trace"]


def compact(model: Any) -> Any:
    """A smaller model without the units that masks or zeros have emptied; its outputs are the same.

    A unit goes if no output depends on it, or if it is constant whatever the input: then what reads it gets
    the constant in its bias, or a new bias. Beside a padded border, where that would not be exact, it stays.
    `prunus.keras.trace(model).compaction().left_alone` says of each empty unit that stays why it does.

    Args:
        model: a Functional or Sequential model, nested ones included, with or without masks of
            `prunus.keras`. It is not changed.

    Returns:
        a new model with the same names and dtypes, without masks, and weights of its own; compiled as the
        given one was, with an optimizer that starts anew. In inference it computes what `model` computes, up
        to rounding.

    Raises:
        ArgumentTypeError: not a Keras model.
        InputError: a subclassed model, one that is not built, or a layer that cannot be made again; by name.
    """
    return trace(model).compaction().model()


def prune(
    model: Any,
    ratio: float | Mapping[str, float] = 0.5,
    importance: Importance = "l1",
    scope: str = "local",
    ignore: Collection[str] = (),
    protect: float = 0.0,
    round_to: int = 1,
) -> Any:
    """A model without the least important units: coupled layers lose the same ones.

    It computes what the original does with the weights of those units set to zero, up to rounding:
    `prunus.keras.trace(model).plan(...)` is the plan in between, whose `zeroed()` is that model.

    Args:
        model: a Functional or Sequential model, nested ones included. It is not changed.
        ratio: the fraction of units removed on each axis, or a mapping from names of layers or axes to
            fractions.
        importance: `"l1"`, `"l2"`, `"fpgm"` (distances from all other units), or a function of an array
            (units, entries) that gives one score a unit.
        scope: `"local"`, each axis by its ratio, or `"global"`, one ranking of all units.
        ignore: names of layers or axes that stay whole.
        protect: the fraction of units that every axis keeps at least.
        round_to: kept units are rounded up to a multiple of this.

    Returns:
        a new model, as `compact` returns one.

    Raises:
        PruningError: as `compact` and `KerasGraph.plan` do.
    """
    return trace(model).plan(ratio, importance, scope, ignore, protect, round_to).model()
