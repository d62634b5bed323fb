"""A callback for the Hugging Face Trainer that prunes in steps while a model is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

from ..errors import InputError
from ..graph.graph import Graph
from ..select.budget import Budget
from .moments import Moments, moved_to
from .schedules import Schedule, agp, fractions
from .stepping import IterativePruning

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError("prunus.training.transformers needs transformers: pip install transformers") from error


class PruningCallback(TrainerCallback):
    """Prunes at the start of training epochs or steps; the optimizer's state is sliced along.

    Everything that can be checked is checked when training begins, before anything changes. The Trainer's
    own checkpoints of a pruned model cannot be resumed from, since their sizes are not those of the model as
    it is built; save with `prunus.save(model, folder)`. Distributed training is refused.

    Args:
        args, kwargs: example inputs of the model, as for `prunus.trace`; moved to its device.
        ratio, budget, steps, schedule, calibrate, plan_options: as for `prunus.training.IterativePruning`.
        every: epochs, or steps of the optimizer, from one cut to the next.
        start: epochs or steps before the first cut.
        unit: "epoch" or "step": what `every` and `start` count.

    Attributes:
        pruning: the `IterativePruning`, from the begin of training on.

    Raises:
        InputError: here, bad numbers; when training begins, whatever `IterativePruning` raises, or less
            training than the cuts need, or distributed training.
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
        unit: str = "epoch",
        calibrate: Callable[[Graph], Any] | None = None,
        **plan_options: Any,
    ) -> None:
        if unit not in ("epoch", "step"):
            raise InputError(f"unit={unit!r} must be 'epoch' or 'step'")
        fractions(schedule, steps)
        self.moments = Moments(steps, every, start, unit)
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

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size > 1:
            raise InputError(
                f"pruning while training in {args.world_size} processes is not possible: train in one"
            )
        total = state.max_steps if self.moments.unit == "step" else state.num_train_epochs
        self.moments.check(total)
        model = kwargs["model"]
        own_args, own_kwargs = moved_to(model, self._inputs)
        self.pruning = IterativePruning(model, own_args, own_kwargs, **self._asked)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.moments.unit == "epoch":
            self._prune(round(state.epoch or 0), kwargs["optimizer"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.moments.unit == "step":
            self._prune(state.global_step, kwargs["optimizer"])

    def _prune(self, now: int, optimizer: Any) -> None:
        assert self.pruning is not None
        if self.moments.due(now, self.pruning.step):
            inner = getattr(optimizer, "optimizer", optimizer)  # Accelerate wraps the user's
            self.pruning.advance(inner if isinstance(inner, Optimizer) else None)
