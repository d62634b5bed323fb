"""`prunus.fit`: prune a step, fine-tune, evaluate, save, and again."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..checkpoint import load
from ..errors import ArgumentTypeError, CheckpointError, InputError
from ..graph.graph import Graph
from ..plan import Plan
from ..select.budget import Budget
from .epochs import Epochs
from .history import Fitted, Step
from .progress import Progress
from .run_folder import RunFolder
from .run_state import ModelValues, RunState
from .schedules import Schedule, agp
from .stepping import IterativePruning

Train = Callable[[nn.Module, Any, int], Any]
Evaluate = Callable[[nn.Module], Any]


def fit(
    model: nn.Module,
    args: Any = (),
    kwargs: dict[str, Any] | None = None,
    *,
    ratio: float | Mapping[Any, float] | None = None,
    budget: Budget | None = None,
    steps: int = 5,
    schedule: Schedule = agp,
    train: Train | None = None,
    evaluate: Evaluate | None = None,
    optimizer: Optimizer | None = None,
    floor: float | None = None,
    calibrate: Callable[[Graph], Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    state: Mapping[str, Any] | None = None,
    progress: bool = True,
    **plan_options: Any,
) -> Fitted:
    """Prune a model in steps, in place, with fine-tuning after each one.

    With a folder, the run can be interrupted at any moment: called again in the same way, on a model of the
    same original architecture, it goes on after the last finished step and ends with the same bits as a run
    that was not interrupted. What is saved: the model, the optimizer, gradients, the random states of
    PyTorch, Python and NumPy, and what is named in `state`. Where the run has ended already, the model is
    filled with its result.

    Args:
        model, args, kwargs: as for `prunus.trace`.
        ratio: the fraction removed in the end, as for `Graph.plan`, of the network as it is now.
        budget: what may remain in the end, instead of `ratio`.
        steps: number of steps, at least 1.
        schedule: `(step, steps) -> fraction` of the final sparsity (see `prunus.training.schedules`).
        train: `train(model, optimizer, step)` fine-tunes after step 1, 2, ...; or a `prunus.training.Epochs`.
        evaluate: `evaluate(model)` returns a number, the higher the better where there is a floor.
        optimizer: given to `train`; its state is sliced along.
        floor: the least that `evaluate` may return. The first step that ends below it is taken back, and the
            run ends: what remains is, bit for bit, the network after the step before.
        calibrate: called with the current graph before units are ranked, for importances that need data.
        folder: where the run is saved after each step; the last good one replaces the one before.
        state: by name, other things that training changes, such as a learning rate scheduler or the loader's
            `torch.Generator`; each has `state_dict` and `load_state_dict`, or `get_state` and `set_state`.
        progress: show a progress bar.
        plan_options: the other arguments of `Graph.plan`: `importance`, `scope`, `ignore`, and so on.

    Returns:
        The history: costs and metric after each step.

    Raises:
        InputError: neither or both of ratio and budget, a schedule that cannot be followed, `evaluate` that
            returns no finite number, a floor that the model does not reach before pruning.
        BudgetError: the budget is out of reach.
        PlanError: the optimizer is of another model.
        CheckpointError: the folder belongs to another run, is damaged, or cannot be written to.
        PruningError: as `trace`, `Graph.plan` and `Plan.apply` do.
            Up to the first step the model is untouched by any of these. Where a later step cannot be planned
            or applied, the model is as the step before left it; what `train` and `evaluate` raise passes
            through, and the model is as they left it.
    """
    _check_callables(train=train, evaluate=evaluate, calibrate=calibrate)
    if floor is not None:
        _check_floor(floor, evaluate)
    if isinstance(train, Epochs):
        train.check(optimizer)
    pruning = IterativePruning(
        model,
        args,
        kwargs,
        ratio=ratio,
        budget=budget,
        steps=steps,
        schedule=schedule,
        calibrate=calibrate,
        **plan_options,
    )
    run = _Run(pruning, RunState(pruning, optimizer, state or {}), train, evaluate, floor)
    if folder is not None:
        run.folder = RunFolder(folder, _settings(pruning))
    return run.go(progress)


class _Run:
    def __init__(
        self,
        pruning: IterativePruning,
        state: RunState,
        train: Train | None,
        evaluate: Evaluate | None,
        floor: float | None,
    ) -> None:
        self.pruning = pruning
        self.model = pruning.model
        self.state = state
        self.train = train
        self.evaluate = evaluate
        self.floor = floor
        self.folder: RunFolder | None = None
        self.result = Fitted()

    def go(self, show: bool) -> Fitted:
        with Progress(self.pruning.steps, show) as bar:
            if not self._resumed():
                self._begin(bar)
            while self.pruning.step < self.pruning.steps and self.result.stopped is None:
                bar.at(self.pruning.step, "pruning", self.result.last.metric)
                self._one_step(bar)
            bar.at(self.pruning.step, "done", self.result.last.metric)
        return self.result

    def _begin(self, bar: Progress) -> None:
        bar.at(0, "evaluating", None)
        began = time.perf_counter()
        metric = self._measured()
        if self.floor is not None and metric is not None and metric < self.floor:
            raise InputError(
                f"floor={self.floor:.6g} is above what the network reaches before pruning, {metric:.6g}"
            )
        costs = self.pruning.original
        self.result.history.append(Step.of(0, 0.0, costs, metric, time.perf_counter() - began))
        self._save()

    def _one_step(self, bar: Progress) -> None:
        began = time.perf_counter()
        values, before = None, None
        if self.floor is not None:
            values, before = ModelValues(self.model), copy.deepcopy(self.state.taken())
        plan = self.pruning.advance(self.state.optimizer)
        number = self.pruning.step
        bar.at(number - 1, "training", self.result.last.metric)
        if self.train is not None:
            self.train(self.model, self.state.optimizer, number)
        bar.at(number - 1, "evaluating", self.result.last.metric)
        metric = self._measured()
        costs, fraction = self.pruning.cost(), self.pruning.fractions[number]
        done = Step.of(number, fraction, costs, metric, time.perf_counter() - began)
        if values is not None and before is not None and metric is not None and metric < (self.floor or 0.0):
            self._take_back(plan, values, before)
            self.result.history.append(replace(done, kept=False))
            self.result.stopped = f"step {number} ended at {metric:.6g}, below the floor of {self.floor:.6g}"
            if self.folder is not None:  # the step before is there already, just as it is now
                self.folder.amend(self._record())
            return
        self.result.history.append(done)
        self._save()

    def _take_back(self, plan: Plan, values: ModelValues, before: dict[str, Any]) -> None:
        if plan.chosen:
            plan.undo(self.model)
        values.put_back(self.model)
        self.state.put_back(before)

    def _measured(self) -> float | None:
        if self.evaluate is None:
            return None
        given = self.evaluate(self.model)
        value = given.item() if isinstance(given, Tensor) and given.numel() == 1 else given
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(f"evaluate returned {value!r}, and not a number") from error
        if not math.isfinite(number):
            raise InputError(
                f"evaluate returned {number} at step {self.pruning.step}: the network computes no finite "
                "values any more, or the metric is undefined"
            )
        return number

    def _save(self) -> None:
        if self.folder is not None:
            self.result.checkpoint = self.folder.save(self.model, self.state.taken(), self._record())

    def _record(self) -> dict[str, Any]:
        result = self.result
        return {
            "step": self.pruning.step,
            "finished": result.stopped is not None or self.pruning.step == self.pruning.steps,
            "stopped": result.stopped,
            "history": [asdict(step) for step in result.history],
        }

    def _resumed(self) -> bool:
        record = None if self.folder is None else self.folder.record()
        if record is None or self.folder is None:
            return False
        try:
            history = [Step(**step) for step in record["history"]]
            stopped = record["stopped"]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"the record in {self.folder.path} is damaged ({error})") from error
        step = self.folder.step_folder(record)
        device = next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))
        state = self.folder.state(record, device)
        self.state.check(state)
        load(self.model, step)
        self.state.put_back(state)
        self.folder.tidy(record)
        self.result = Fitted(history, stopped, step)
        return True


def _check_callables(**given: Any) -> None:
    for name, function in given.items():
        if function is not None and not callable(function):
            raise ArgumentTypeError(f"{name} must be a function, got {type(function).__name__}")


def _check_floor(floor: Any, evaluate: Evaluate | None) -> None:
    if isinstance(floor, bool) or not isinstance(floor, int | float) or not math.isfinite(floor):
        raise InputError(f"floor={floor!r} must be a finite number: the least that evaluate may return")
    if evaluate is None:
        raise InputError("a floor needs evaluate=..., a function of the model that returns a number")


def _settings(pruning: IterativePruning) -> dict[str, Any]:
    """What tells one run from another, as plain data."""
    return {
        **{key: _plain(value) for key, value in pruning.asked.items() if value is not None},
        "fractions": list(pruning.fractions),
        "axes": {axis.name: axis.size for axis in pruning.graph.axes},
    }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    kind = getattr(value, "__qualname__", type(value).__qualname__)
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": kind, **{key: _plain(item) for key, item in vars(value).items()}}
    return kind
