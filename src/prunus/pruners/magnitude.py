"""Algorithms that rank by the weights alone: level, L1, L2, geometric median, batch-norm scales."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ..importance.rows import ROW_SCORES
from ..importance.scoring import wide
from .grains import CHANNELS, channel_rows, grain_of, pattern_mask
from .masker import Masks
from .ranking import CONVOLUTIONS, RankingMasker
from .wrapper import ModuleWrapper

BATCH_NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")


class LevelPrunerMasker(RankingMasker):
    """The entries of smallest magnitude, `|w|`; with channels as units, those of smallest `sum |w|`.

    Han, Pool, Tran, Dally: Learning both Weights and Connections for Efficient Neural Networks, 2015,
    arXiv:1506.02626. The bias is left alone, except that of whole filters.
    """

    grains: ClassVar[tuple[str, ...]] = ("element", *CHANNELS, "per_row", "N:M", "blocks")
    default_grain: ClassVar[str] = "element"

    def scores(self, wrapper: ModuleWrapper, grain: str) -> Tensor | None:
        """See `RankingMasker.scores`."""
        if grain == "element":
            weight: Any = wrapper.module.weight
            return wide(weight.detach()).abs()
        return ROW_SCORES["l1"](channel_rows(wrapper, grain))

    def calc_mask(
        self, sparsity: float, wrapper: ModuleWrapper, wrapper_idx: int | None = None
    ) -> Masks | None:
        """See `WeightMasker.calc_mask`."""
        grain = grain_of(wrapper, self.default_grain)
        if grain == "element" or grain in CHANNELS:
            return super().calc_mask(sparsity, wrapper, wrapper_idx)
        weight: Any = wrapper.module.weight
        mask = wrapper.weight_mask
        assert mask is not None
        return {"weight_mask": pattern_mask(weight.detach(), mask, grain, sparsity)}


class L1FilterPrunerMasker(RankingMasker):
    """The filters of smallest `sum |w|`.

    Li, Kadav, Durdanovic, Samet, Graf: Pruning Filters for Efficient ConvNets, 2017, arXiv:1608.08710.
    """

    takes: ClassVar[tuple[str, ...] | None] = CONVOLUTIONS
    grains: ClassVar[tuple[str, ...]] = CHANNELS
    norm: ClassVar[str] = "l1"

    def scores(self, wrapper: ModuleWrapper, grain: str) -> Tensor | None:
        """See `RankingMasker.scores`."""
        return ROW_SCORES[self.norm](channel_rows(wrapper, grain))


class L2FilterPrunerMasker(L1FilterPrunerMasker):
    """The filters of smallest `sqrt(sum w^2)`."""

    norm: ClassVar[str] = "l2"


class FPGMPrunerMasker(RankingMasker):
    """The filters with the smallest sum of Euclidean distances from all filters of the layer.

    He, Liu, Wang, Hu, Yang: Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
    Acceleration, 2019, arXiv:1811.00250. Filters that are gone count, at the origin, as the layer has them.
    """

    takes: ClassVar[tuple[str, ...] | None] = CONVOLUTIONS
    grains: ClassVar[tuple[str, ...]] = CHANNELS

    def scores(self, wrapper: ModuleWrapper, grain: str) -> Tensor | None:
        """See `RankingMasker.scores`."""
        return ROW_SCORES["fpgm"](channel_rows(wrapper, grain))


class SlimPrunerMasker(RankingMasker):
    """The channels of smallest batch-norm scale `|gamma|`, ranked over all layers together.

    Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network Slimming,
    2017, arXiv:1708.06519. Each layer keeps a channel. Layers with different sparsities, or with different
    `global_group_id`s, are ranked apart.
    """

    takes: ClassVar[tuple[str, ...] | None] = BATCH_NORMS

    def scores(self, wrapper: ModuleWrapper, grain: str) -> Tensor | None:
        """See `RankingMasker.scores`."""
        return ROW_SCORES["l1"](channel_rows(wrapper, grain))

    def group_of(self, wrapper: ModuleWrapper, sparsity: float) -> list[ModuleWrapper]:
        """See `RankingMasker.group_of`."""
        return self.layers_alike(wrapper)
