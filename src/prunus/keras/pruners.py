"""The pruners by name, with the calls that NNI 1.x had for TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..configuration import AGPEntry, Entry, check_gradual, gradual_sparsity
from .choosing import LayerWrapper
from .pruner import Pruner


class LevelPruner(Pruner):
    """The entries of smallest magnitude of each weight go. See `Level`."""

    def __init__(self, model: Any, config_list: Any, optimizer: Any = None) -> None:
        super().__init__(model, config_list, optimizer, pruning_algorithm="level")


class L1FilterPruner(Pruner):
    """The filters of smallest L1 norm of each convolution go. See `L1`."""

    def __init__(
        self, model: Any, config_list: Any, optimizer: Any = None, *, dependency_aware: bool = False
    ) -> None:
        super().__init__(
            model, config_list, optimizer, pruning_algorithm="l1", dependency_aware=dependency_aware
        )


class L2FilterPruner(Pruner):
    """The filters of smallest L2 norm of each convolution go. See `L2`."""

    def __init__(
        self, model: Any, config_list: Any, optimizer: Any = None, *, dependency_aware: bool = False
    ) -> None:
        super().__init__(
            model, config_list, optimizer, pruning_algorithm="l2", dependency_aware=dependency_aware
        )


class FPGMPruner(Pruner):
    """The filters nearest to all others of each convolution go. See `FPGM`."""

    def __init__(
        self, model: Any, config_list: Any, optimizer: Any = None, *, dependency_aware: bool = False
    ) -> None:
        super().__init__(
            model, config_list, optimizer, pruning_algorithm="fpgm", dependency_aware=dependency_aware
        )


class SlimPruner(Pruner):
    """The channels of smallest batch-norm scale go, of all layers together. See `Slim`.

    Train with an L1 penalty on the scales before (`gamma_regularizer="l1"`), which makes them small where
    they may be.
    """

    def __init__(self, model: Any, config_list: Any, optimizer: Any = None) -> None:
        super().__init__(model, config_list, optimizer, pruning_algorithm="slim")


class TaylorFOWeightFilterPruner(Pruner):
    """The filters of smallest `sum (w * dL/dw)^2` go. See `TaylorFO`.

    Args:
        model, config_list, optimizer, dependency_aware: as for `Pruner`.
        data: `(x, y)` of arrays, or an iterable of such batches; gradients are taken on it at `compress()`.
        statistics_batch_num: how many batches.
        loss: a function of targets and predictions; that of the compiled model by default.
    """

    def __init__(
        self,
        model: Any,
        config_list: Any,
        optimizer: Any = None,
        *,
        data: Any = None,
        statistics_batch_num: int = 1,
        loss: Callable[..., Any] | None = None,
        dependency_aware: bool = False,
    ) -> None:
        super().__init__(
            model,
            config_list,
            optimizer,
            pruning_algorithm="taylorfo",
            dependency_aware=dependency_aware,
            data=data,
            statistics_batch_num=statistics_batch_num,
            loss=loss,
        )


class AGPPruner(Pruner):
    """Prune gradually, by any of the algorithms.

    Zhu, Gupta: To prune, or not to prune: exploring the efficacy of pruning for model compression, 2017,
    arXiv:1710.01878, eq. 1, with epochs for steps: see `prunus.configuration.gradual_sparsity`. Call
    `update_epoch` at the start of each epoch, or give `PruningCallback(pruner)` to `fit`. What is pruned
    stays pruned.

    Args:
        model, config_list, optimizer: as for `Pruner`; the keys of an entry are those of
            `prunus.configuration.AGPEntry`.
        pruning_algorithm: a key of `ALGORITHMS`.
        dependency_aware: as for `Pruner`, for algorithms that remove filters. Layers that share filters lose
            none before all of them have started.
        options: of the algorithm, such as `data` of 'taylorfo'.
    """

    entry_schema: type[Entry] = AGPEntry

    def __init__(
        self,
        model: Any,
        config_list: Any,
        optimizer: Any = None,
        pruning_algorithm: str = "level",
        dependency_aware: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            model,
            config_list,
            optimizer,
            pruning_algorithm=pruning_algorithm,
            dependency_aware=dependency_aware,
            **options,
        )

    def check_entries(self, entries: Sequence[Entry]) -> None:
        """See `Pruner.check_entries`."""
        check_gradual(entries)

    def compute_target_sparsity(self, config: Mapping[str, Any]) -> float:
        """The sparsity in force at the current epoch."""
        return gradual_sparsity(config, self.epoch or 0)

    def target_sparsity(self, wrapper: LayerWrapper) -> float:
        """See `Pruner.target_sparsity`; nothing before the layer's first epoch."""
        started = (self.epoch or 0) >= wrapper.config.get("start_epoch", 0)
        return self.compute_target_sparsity(wrapper.config) if started else 0.0

    def compress(self) -> Any:
        """See `Pruner.compress`: prune to the sparsity of the first epoch."""
        return super().compress()

    def _started(self) -> list[LayerWrapper]:
        now = self.epoch or 0
        return [w for w in self.wrappers if now >= w.config.get("start_epoch", 0)]

    def _update(self, wrappers: Sequence[LayerWrapper]) -> None:
        started = {id(wrapper) for wrapper in self._started()}
        super()._update([wrapper for wrapper in wrappers if id(wrapper) in started])

    def update_epoch(self, epoch: int) -> None:
        """See `Pruner.update_epoch`: prune to the sparsity of this epoch."""
        self.check_epoch(epoch)
        before = {id(w): self.target_sparsity(w) for w in self._started()}
        super().update_epoch(epoch)
        if self.compressed:
            moved = [w for w in self._started() if before.get(id(w)) != self.target_sparsity(w)]
            self._update(moved)


AGP_Pruner = AGPPruner
