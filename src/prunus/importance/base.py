"""The base of all importances, and the register of their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from ..errors import ArgumentTypeError, InputError
from ..graph.axes import Node
from .normaliser import NORMALISERS, Normaliser
from .reduction import REDUCTIONS, reduce
from .scoring import Members, Scoring


@dataclass(frozen=True, kw_only=True)
class Importance:
    """A score for each member of each axis, their reduction, and a normaliser.

    Attributes:
        reduction: how the scores of coupled members become one: "sum", "mean", "max", "prod" or "first"
            (the weight that makes the units).
        normalize: how axes become comparable: "none", "sum", "mean", "max", "standardise", "gaussian",
            "lamp", or a function of one axis's scores (float64 on the CPU, shape (units,)).

    A new importance is a frozen dataclass with a `members` of its own, in a file of its own, registered
    under a name. Axes for which it returns no vector are ranked by magnitude (see `scores`).
    """

    reduction: str = "sum"
    normalize: str | Normaliser = "mean"

    reads_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise InputError(f"unknown reduction {self.reduction!r}; there are {', '.join(REDUCTIONS)}")
        if not callable(self.normalize) and self.normalize not in NORMALISERS:
            raise InputError(f"unknown normaliser {self.normalize!r}; there are {', '.join(NORMALISERS)}")

    def members(self, scoring: Scoring) -> Members:
        """One vector of shape (units,) for each member of each axis that there is data for."""
        raise NotImplementedError

    def combine(self, vectors: Sequence[Tensor]) -> Tensor:
        """One vector from those of the members of an axis."""
        return reduce(vectors, self.reduction)

    def __call__(self, scoring: Scoring) -> dict[Node, Tensor]:
        """Scores before normalisation, float64 on the CPU, of the axes that there is data for."""
        return {node: self.combine(vectors) for node, vectors in self.members(scoring).items() if vectors}

    @property
    def normaliser(self) -> Normaliser:
        return self.normalize if callable(self.normalize) else NORMALISERS[self.normalize]


Scorer = Callable[[Scoring], dict[Node, Tensor]]
"""An `Importance`, or any function that gives a vector of shape (units,) for each axis."""

T = TypeVar("T", bound=Callable[..., Any])

REGISTRY: dict[str, Scorer] = {}


def register(name: str) -> Callable[[T], T]:
    """Give a name to an importance: a class that needs no arguments, an object, or a function."""

    def add(importance: T) -> T:
        REGISTRY[name] = importance() if isinstance(importance, type) else importance
        return importance

    return add


def resolve(importance: Any) -> Scorer:
    """The importance of a name; one that is given as such is returned as it is."""
    if isinstance(importance, str):
        if importance not in REGISTRY:
            raise InputError(f"unknown importance {importance!r}; there are {', '.join(sorted(REGISTRY))}")
        return REGISTRY[importance]
    if isinstance(importance, type) and issubclass(importance, Importance):
        raise ArgumentTypeError(
            f"importance is the class {importance.__name__}: make an object of it, {importance.__name__}()"
        )
    if not callable(importance):
        raise ArgumentTypeError(
            f"importance must be a name, an Importance or a function, got {type(importance).__name__}"
        )
    return importance  # type: ignore[no-any-return]
