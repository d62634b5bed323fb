"""Importances that look at weights alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...importance import BatchNormScale, GeometricMedian, Magnitude, Members, Normaliser, Scoring, additive
from ...importance import Importance as AxisImportance
from ..group import DependencyGroup
from .on_axes import Grouped, Importance, OnAxes


@dataclass(frozen=True, kw_only=True)
class _Powers(Magnitude):
    """Sums of powers."""

    root: bool = (
        False  # the peer's scores are the sums: ranked across layers, their roots would order otherwise
    )

    def members(self, scoring: Scoring) -> Members:
        entries: Callable[[Tensor], Tensor] = lambda weight: weight.abs().pow(self.p)  # noqa: E731
        return scoring.sum_members(entries, where=additive.counts(scoring, self.biases))


class GroupMagnitudeImportance(OnAxes):
    """`sum |w|^p` of the weights that belong to a channel, member by member, reduced to one.

    Fang, Ma, Song, Mi, Wang: DepGraph: Towards Any Structural Pruning, 2023, arXiv:2301.12900, eq. 4.

    Args:
        p: the degree.
        group_reduction: "sum", "mean", "max", "prod" or "first".
        normalizer: "mean", "sum", "max", "standarization", "gaussian", "lamp", "sentinel_<fraction>", None,
            or a function of the scores.
        bias: whether biases count.
        target_types: only parameters of layers of these classes count; all by default.
    """

    def __init__(
        self,
        p: float = 2,
        group_reduction: str | None = "mean",
        normalizer: str | Normaliser | None = "mean",
        bias: bool = False,
        target_types: Iterable[type] | None = None,
    ) -> None:
        Grouped.__init__(self, group_reduction, normalizer, bias, target_types)
        self.p = p
        self.on_axes()

    def on_axes(self) -> AxisImportance:
        return _Powers(p=self.p, biases=self.bias)


class MagnitudeImportance(GroupMagnitudeImportance):
    """`GroupMagnitudeImportance` by its short name."""


GroupNormImportance = GroupMagnitudeImportance


class BNScaleImportance(OnAxes):
    """`|gamma|` of the batch norms of a channel; groups without any are not pruned.

    Liu, Li, Shen, Huang, Yan, Zhang: Network Slimming, 2017, arXiv:1708.06519.
    """

    def __init__(
        self, group_reduction: str | None = "mean", normalizer: str | Normaliser | None = "mean"
    ) -> None:
        Grouped.__init__(self, group_reduction, normalizer)

    def on_axes(self) -> AxisImportance:
        return BatchNormScale()


class LAMPImportance(GroupMagnitudeImportance):
    """Lee et al.: Layer-adaptive Sparsity for the Magnitude-based Pruning, 2021, arXiv:2010.07611."""

    def __init__(
        self,
        p: float = 2,
        group_reduction: str | None = "mean",
        normalizer: str | Normaliser | None = "lamp",
        bias: bool = False,
    ) -> None:
        super().__init__(p, group_reduction, normalizer, bias)


class FPGMImportance(OnAxes):
    """He, Liu, Wang, Hu, Yang: Filter Pruning via Geometric Median, 2019, arXiv:1811.00250.

    Distances are Euclidean, whatever `p`; biases take no part.
    """

    def __init__(
        self,
        p: float = 2,
        group_reduction: str | None = "mean",
        normalizer: str | Normaliser | None = "mean",
        bias: bool = False,
    ) -> None:
        Grouped.__init__(self, group_reduction, normalizer, bias)
        self.p = p

    def on_axes(self) -> AxisImportance:
        return GeometricMedian()


class RandomImportance(Importance):
    """Uniform in [0, 1), from torch's generator."""

    def __call__(self, group: DependencyGroup) -> Tensor:
        return torch.rand(len(group[0].idxs))
