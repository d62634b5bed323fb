"""Pruners whose masks come from an algorithm that scores units: the algorithms by name, and their base."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..configuration import Entry
from ..errors import InputError
from .dependency import SharedFilters
from .errors import PrunerStateError
from .grains import gone_units, unit_masks
from .layers import DEFAULT_TYPES
from .magnitude import (
    FPGMPrunerMasker,
    L1FilterPrunerMasker,
    L2FilterPrunerMasker,
    LevelPrunerMasker,
    SlimPrunerMasker,
)
from .pruner import Pruner
from .ranking import RankingMasker
from .shared_units import check_dependency_aware, check_tied_entry
from .statistics import (
    ActivationAPoZRankFilterPrunerMasker,
    ActivationMeanRankFilterPrunerMasker,
    StatisticsMasker,
    TaylorFOWeightFilterPrunerMasker,
)
from .wrapper import ModuleWrapper

MASKER_DICT: dict[str, type[RankingMasker]] = {
    "level": LevelPrunerMasker,
    "l1": L1FilterPrunerMasker,
    "l2": L2FilterPrunerMasker,
    "fpgm": FPGMPrunerMasker,
    "slim": SlimPrunerMasker,
    "apoz": ActivationAPoZRankFilterPrunerMasker,
    "mean_activation": ActivationMeanRankFilterPrunerMasker,
    "taylorfo": TaylorFOWeightFilterPrunerMasker,
}
"""Algorithms by name, as `pruning_algorithm` takes them."""


class RankingPruner(Pruner):
    """A pruner whose masks come from one of `MASKER_DICT`.

    Args:
        model, config_list, optimizer: as for `Pruner`.
        pruning_algorithm: a key of `MASKER_DICT`.
        dependency_aware: whether layers that share filters lose the same ones.
        dummy_input: an example input of the model, needed then.
        options: of the algorithm.

    Raises:
        InputError: an unknown algorithm, or dependency awareness without input or of single entries.
        as `Pruner`, and the algorithm.
    """

    entry_schema: type[Entry] = Entry

    def __init__(
        self,
        model: nn.Module,
        config_list: Any,
        optimizer: Optimizer | None,
        pruning_algorithm: str,
        dependency_aware: bool = False,
        dummy_input: Any = None,
        **options: Any,
    ) -> None:
        if pruning_algorithm not in list(MASKER_DICT):
            raise InputError(f"pruning_algorithm={pruning_algorithm!r}: there are {', '.join(MASKER_DICT)}")
        masker = MASKER_DICT[pruning_algorithm]
        masker.check_options(**options)
        self.pruning_algorithm = pruning_algorithm
        self.supported_types = masker.takes
        self.default_types = DEFAULT_TYPES if masker.takes is None else masker.takes
        self.dependency_aware = dependency_aware
        shared = None
        removes_filters = pruning_algorithm not in ("level", "slim")
        check_dependency_aware(dependency_aware, pruning_algorithm, removes_filters)
        if dependency_aware:
            if options.get("global_sort"):
                raise InputError("dependency_aware and global_sort do not go together: give one of them")
            shared = SharedFilters(model, dummy_input)
        self._shared = shared
        super().__init__(model, config_list, optimizer)
        own: Any = masker(model, self, **options)
        own.shared = shared
        self.masker: RankingMasker = own

    def _put_on(self) -> None:
        if self._shared is not None:
            self._shared.restrict([wrapper.name for wrapper in self.modules_wrapper])
            modules = dict(self.bound_model.named_modules())
            self.partners = [
                ModuleWrapper(modules[name], name, {}, self)
                for name in self._shared.partners
                if not hasattr(modules[name], "weight_mask")
            ]
        super()._put_on()

    def mask_partners(self) -> None:
        """See `Pruner.mask_partners`: batch norms lose the channels that no layer makes any more."""
        if self._shared is None or not self.partners:
            return
        left = {wrapper.name: ~gone_units(wrapper, "out_channel") for wrapper in self.modules_wrapper}
        for partner in self.partners:
            partner.set_masks(unit_masks(partner, "out_channel", self._shared.empty(partner.name, left)))

    def check_ready(self) -> None:
        """See `Pruner.check_ready`."""
        waiting = [wrapper.name for wrapper in self.modules_wrapper if not wrapper.if_calculated]
        if waiting and isinstance(self.masker, StatisticsMasker):
            named = ", ".join(waiting[:3]) + (", ..." if len(waiting) > 3 else "")
            raise PrunerStateError(
                f"{len(waiting)} layers ({named}) wait for data: masks are chosen at the first step of the "
                "optimizer, or call of step(), after "
                f"{self.masker.statistics_batch_num} batches"
            )

    def check_entry(self, entry: Entry, name: str, layer: nn.Module) -> None:
        """See `Pruner.check_entry`."""
        MASKER_DICT[self.pruning_algorithm].check_entry(entry, name, layer)
        if self.dependency_aware:
            check_tied_entry(entry, name)
