"""What scores the units of a weight. The formulas are those of `prunus.pruners`; so are choice and ties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ArgumentTypeError, InputError
from ..importance.rows import ROW_SCORES
from ..pruners.grains import CHANNELS
from .gradients import squared_products
from .weights import DEFAULT_TYPES, FILTERS, Weight

BATCH_NORMS = ("BatchNormalization",)


class Algorithm:
    """Scores for the units of weights; the lowest go.

    Attributes:
        takes: the names of the layer classes that it is for; None for all with weights.
        default_types: what 'default' means.
        grains: the granularities it can prune at.
        default_grain: the one that 'default' means.
        scales: whether it looks at the scales of batch norms.
        together: whether layers of one sparsity are ranked together, without being told to.
        removes_filters: whether layers that share filters can be told to lose the same ones.
    """

    takes: ClassVar[tuple[str, ...] | None] = (*FILTERS, "Dense")
    default_types: ClassVar[tuple[str, ...]] = FILTERS
    grains: ClassVar[tuple[str, ...]] = CHANNELS
    default_grain: ClassVar[str] = "out_channel"
    scales: ClassVar[bool] = False
    together: ClassVar[bool] = False
    removes_filters: ClassVar[bool] = True

    def prepare(self, model: Any, weights: list[Weight]) -> None:
        """Gather what the scores need besides the weights; called before each choice."""

    def scores(self, weight: Weight, grain: str) -> Tensor:
        """Shape of the variable for 'element', (units,) for channels."""
        raise NotImplementedError


class Level(Algorithm):
    """`|w|`; with channels as units, `sum |w|`.

    Han, Pool, Tran, Dally: Learning both Weights and Connections for Efficient Neural Networks, 2015,
    arXiv:1506.02626.
    """

    takes: ClassVar[tuple[str, ...] | None] = None
    default_types: ClassVar[tuple[str, ...]] = DEFAULT_TYPES
    grains: ClassVar[tuple[str, ...]] = ("element", *CHANNELS, "per_row", "N:M", "blocks")
    default_grain: ClassVar[str] = "element"
    removes_filters: ClassVar[bool] = False

    def scores(self, weight: Weight, grain: str) -> Tensor:
        """See `Algorithm.scores`."""
        return weight.values().abs() if grain == "element" else ROW_SCORES["l1"](rows(weight, grain))


class L1(Algorithm):
    """`sum |w|` of a filter.

    Li, Kadav, Durdanovic, Samet, Graf: Pruning Filters for Efficient ConvNets, 2017, arXiv:1608.08710.
    """

    norm: ClassVar[str] = "l1"

    def scores(self, weight: Weight, grain: str) -> Tensor:
        """See `Algorithm.scores`."""
        return ROW_SCORES[self.norm](rows(weight, grain))


class L2(L1):
    """`sqrt(sum w^2)` of a filter."""

    norm: ClassVar[str] = "l2"


class FPGM(Algorithm):
    """The sum of a filter's Euclidean distances from all filters of the layer.

    He, Liu, Wang, Hu, Yang: Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
    Acceleration, 2019, arXiv:1811.00250.
    """

    def scores(self, weight: Weight, grain: str) -> Tensor:
        """See `Algorithm.scores`."""
        return ROW_SCORES["fpgm"](rows(weight, grain))


class Slim(Algorithm):
    """The batch-norm scale `|gamma|`, ranked over all layers together.

    Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network Slimming,
    2017, arXiv:1708.06519.
    """

    takes: ClassVar[tuple[str, ...] | None] = BATCH_NORMS
    default_types: ClassVar[tuple[str, ...]] = BATCH_NORMS
    grains: ClassVar[tuple[str, ...]] = ("out_channel",)
    scales: ClassVar[bool] = True
    together: ClassVar[bool] = True
    removes_filters: ClassVar[bool] = False

    def scores(self, weight: Weight, grain: str) -> Tensor:
        """See `Algorithm.scores`."""
        return weight.values().double().abs()


class TaylorFO(Algorithm):
    """`sum (w * dL/dw)^2` over the weights of a filter, averaged over batches.

    Molchanov, Mallya, Tyree, Frosio, Kautz: Importance Estimation for Neural Network Pruning, 2019,
    arXiv:1906.10771, eq. 8. Gradients are taken on `data`, when masks are chosen.

    Args:
        data: `(x, y)` of arrays, or an iterable of such batches that can be gone through again.
        statistics_batch_num: how many batches.
        loss: a function of targets and predictions; that of the compiled model by default.
    """

    def __init__(
        self, data: Any = None, statistics_batch_num: int = 1, loss: Callable[..., Any] | None = None
    ) -> None:
        if data is None:
            raise InputError("gradients are taken on data: give data=(x, y), or an iterable of such batches")
        if isinstance(statistics_batch_num, bool) or not isinstance(statistics_batch_num, int):
            raise ArgumentTypeError(f"statistics_batch_num must be an int, got {statistics_batch_num!r}")
        if statistics_batch_num < 1:
            raise InputError(f"statistics_batch_num={statistics_batch_num}: at least one batch is needed")
        self.data, self.batches, self.loss = data, statistics_batch_num, loss
        self._found: dict[int, Tensor] = {}

    def prepare(self, model: Any, weights: list[Weight]) -> None:
        """See `Algorithm.prepare`."""
        variables = [weight.variable for weight in weights]
        found = squared_products(model, variables, self.data, self.batches, self.loss)
        self._found = {id(one): value for one, value in zip(variables, found, strict=True)}

    def scores(self, weight: Weight, grain: str) -> Tensor:
        """See `Algorithm.scores`."""
        squares = weight.arranged(self._found[id(weight.variable)])
        return squares.movedim(dim_of(grain), 0).flatten(1).sum(1)


ALGORITHMS: dict[str, type[Algorithm]] = {
    "level": Level,
    "l1": L1,
    "l2": L2,
    "fpgm": FPGM,
    "slim": Slim,
    "taylorfo": TaylorFO,
}
"""Algorithms by name, as `pruning_algorithm` takes them."""


def dim_of(grain: str) -> int:
    """The dimension of a weight laid out as (outputs, inputs, ...) whose slices are the channels."""
    return 0 if grain == "out_channel" else 1


def rows(weight: Weight, grain: str) -> Tensor:
    """The weights of each channel as a row, float64, shape (channels, entries of one)."""
    arranged: Tensor = weight.arranged(weight.values()).to(torch.float64)
    moved = arranged.movedim(dim_of(grain), 0)
    return moved.reshape(moved.shape[0], -1)
