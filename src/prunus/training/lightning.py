"""A Lightning callback that prunes in steps while a model is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..errors import InputError, UnknownNameError
from ..graph.graph import Graph
from ..select.budget import Budget
from .moments import Moments, moved_to
from .schedules import Schedule, agp, fractions
from .stepping import IterativePruning

try:
    from lightning.pytorch.callbacks import Callback
except ImportError as error:
    raise ImportError("prunus.training.lightning needs Lightning: pip install lightning") from error


class PruningCallback(Callback):
    """Prunes at the start of training epochs; the optimizer's state is sliced along.

    Everything that can be checked is checked when training begins, before anything changes. Lightning's own
    checkpoints of a pruned model cannot be resumed from, since their sizes are not those of the module as it
    is built; save with `prunus.save(module, folder)`. Training on several devices is refused.

    Args:
        args, kwargs: example inputs of the network, as for `prunus.trace`; moved to its device.
        ratio, budget, steps, schedule, calibrate, plan_options: as for `prunus.training.IterativePruning`.
        every: epochs from one cut to the next.
        start: epochs before the first cut.
        module: the name of the network inside the LightningModule; by default the module itself, whose
            `forward` is then what is traced.

    Attributes:
        pruning: the `IterativePruning`, from the begin of training on.

    Raises:
        InputError: here, bad numbers; when training begins, whatever `IterativePruning` raises, or fewer
            epochs than the cuts need, several devices, several optimizers on the network.
        UnknownNameError: when training begins: there is no such `module`.
    """

    def __init__(
        self,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
        *,
        ratio: float | Mapping[Any, float] | None = None,
        budget: Budget | None = None,
        steps: int = 5,
        schedule: Schedule = agp,
        every: int = 1,
        start: int = 0,
        module: str = "",
        calibrate: Callable[[Graph], Any] | None = None,
        **plan_options: Any,
    ) -> None:
        super().__init__()
        fractions(schedule, steps)
        self.moments = Moments(steps, every, start, "epoch")
        self.module = module
        self.pruning: IterativePruning | None = None
        self._inputs = (args, kwargs)
        self._asked = {
            "ratio": ratio,
            "budget": budget,
            "steps": steps,
            "schedule": schedule,
            "calibrate": calibrate,
            **plan_options,
        }

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.world_size > 1:
            raise InputError(
                f"pruning while training on {trainer.world_size} devices is not possible: use devices=1"
            )
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            self.moments.check(trainer.max_epochs)
        network = self._network(pl_module)
        self._optimizer(trainer, network)
        args, kwargs = moved_to(network, self._inputs)
        self.pruning = IterativePruning(network, args, kwargs, **self._asked)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        assert self.pruning is not None
        if self.moments.due(trainer.current_epoch, self.pruning.step):
            self.pruning.advance(self._optimizer(trainer, self.pruning.model))

    def _network(self, pl_module: nn.Module) -> nn.Module:
        try:
            return pl_module.get_submodule(self.module)
        except AttributeError as error:
            raise UnknownNameError(
                f"{type(pl_module).__name__} has no module named {self.module!r}"
            ) from error

    @staticmethod
    def _optimizer(trainer: Any, network: nn.Module) -> Optimizer | None:
        """The one optimizer that trains the network."""
        own = {id(parameter) for parameter in network.parameters()}
        found: list[Optimizer] = [
            optimizer
            for optimizer in trainer.optimizers
            if any(id(p) in own for group in optimizer.param_groups for p in group["params"])
        ]
        if len(found) > 1:
            raise InputError(
                f"{len(found)} optimizers train the network, and the state of one can be sliced: use one "
                "optimizer with several parameter groups"
            )
        return found[0] if found else None
