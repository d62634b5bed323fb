"""Pruning in steps: each one planned on the network as it was before the first, with today's scores.

What a step removes in all is asked of the original axes, so rounding does not add up from step to step, and
whatever a plan can be asked for (limits, multiples, heads, scopes, budgets) keeps its meaning: a fraction is
one of the original network. The scores come from the network as it is now; units that are gone rank lowest.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import CheckpointError, InputError, PlanError
from ..graph.axes import Node
from ..graph.cost import Costs
from ..graph.graph import Axis, Graph
from ..graph.trace import trace
from ..importance.base import resolve
from ..plan import Plan
from ..select.budget import Budget
from .reference import CurrentScores, detached, matched_axes, rivals
from .schedules import Schedule, agp, fractions

_SCALED = ("ratio", "head_ratio", "head_dim_ratio")
_COSTS = {"macs": "macs", "params": "params", "memory": "activation_bytes"}


class IterativePruning:
    """Prunes a model step by step towards a ratio or a budget; training goes on in between.

    Args:
        model, args, kwargs: as for `prunus.trace`.
        ratio: the fraction removed after the last step, as for `Graph.plan`. Step k reaches
            `schedule(k, steps)` times that, counted in units of the original network.
        budget: what may remain after the last step. After step k, the part `schedule(k, steps)` of the way
            from the original network's costs to the budget has been covered.
        steps: number of steps, at least 1.
        schedule: `(step, steps) -> fraction` (see `prunus.training.schedules`).
        calibrate: called with the graph of the network as it is, before its units are ranked, for importances
            that need data: `lambda graph: prunus.calibrate(graph, loader, loss)`.
        plan_options: the other arguments of `Graph.plan`.

    Attributes:
        step: steps done so far.
        steps: steps in all.
        fractions: the values of the schedule, `steps + 1` of them.
        original: costs of the network before the first step.

    Raises:
        InputError: as `Graph.plan` and `prunus.training.schedules.fractions` do.
        BudgetError: the budget is out of reach. All of this before anything is changed.
    """

    def __init__(
        self,
        model: nn.Module,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
        *,
        ratio: float | Mapping[Any, float] | None = None,
        budget: Budget | None = None,
        steps: int = 5,
        schedule: Schedule = agp,
        calibrate: Callable[[Graph], Any] | None = None,
        **plan_options: Any,
    ) -> None:
        if (ratio is None) == (budget is None):
            raise InputError("give either ratio=... (what to remove) or budget=... (what may remain)")
        if plan_options.get("depth") is not None:
            raise InputError(
                "blocks are not removed in steps: apply graph.plan(depth=...) first, then prune the widths"
            )
        self.fractions = fractions(schedule, steps)
        self.steps = steps
        self.step = 0
        self.model = model
        self.calibrate = calibrate
        self._inputs = (args, kwargs)
        graph = trace(model, args, kwargs)
        self.importance = resolve(plan_options.pop("importance", "l2"))
        self.seed = plan_options.pop("seed", None)
        self._options = {
            **_named(graph, plan_options),
            "ratio": _by_name(graph, ratio),
            "budget": budget,
        }
        self._kept: dict[Node, Tensor] = {}
        self.original = graph.cost()
        timed = isinstance(budget, Budget) and budget.latency is not None
        self._reference = trace(copy.deepcopy(model), args, kwargs) if timed else detached(graph)
        self._latency = _measured(model, args, kwargs, budget) if timed else 1.0
        self._rivals = rivals(self._reference)
        self._moving: frozenset[Node] = frozenset()
        if not timed:  # times are measured again in each step; doing so beforehand would double that
            self._moving = frozenset(self._planned(1.0, "random", local=ratio is not None).chosen)

    # -- stepping -------------------------------------------------------------------------------------

    def advance(self, optimizer: Optimizer | None = None) -> Plan:
        """Do the next step: rank, plan, and make the model smaller; the optimizer's state along with it.

        Returns the plan that was applied, on the graph of the network as it was just before: `plan.undo`
        takes it back.

        Raises:
            PlanError: all steps have been done, or the model was pruned by something else in between.
            PruningError: as `Graph.plan` and `Plan.apply` do; the model is as it was before the step.
        """
        if self.step >= self.steps:
            raise PlanError(f"all {self.steps} steps have been done")
        fraction = self.fractions[self.step + 1]
        now = trace(self.model, *self._inputs)
        matched = matched_axes(self._reference, now, self._kept)
        kept, chosen, latency = dict(self._kept), {}, None
        if fraction > self.fractions[self.step]:
            if self.calibrate is not None:
                self.calibrate(now)
            importance = CurrentScores(
                now=now, matched=matched, kept=self._kept, importance=self.importance, seed=self.seed
            )
            planned = self._planned(fraction, importance)
            latency = planned.latency
            for node, wanted in planned.chosen.items():
                before = kept.get(node, torch.arange(node.size))
                kept[node] = wanted[torch.isin(wanted, before)]
                if len(kept[node]) < len(before):
                    chosen[matched[node]] = torch.searchsorted(before, kept[node])
        plan = Plan(now, chosen)
        plan.latency = latency
        if chosen:
            plan.apply(self.model, optimizer)
        self._kept = kept
        self.step += 1
        return plan

    @property
    def graph(self) -> Graph:
        """The graph of the original network, without its weights."""
        return self._reference

    @property
    def asked(self) -> dict[str, Any]:
        """What the plans are asked for in the end; modules and axes by name."""
        return {**self._options, "importance": self.importance, "seed": self.seed}

    def cost(self) -> Costs:
        """What the network costs as it is now."""
        return self._reference.cost_model.at({node: len(index) for node, index in self._kept.items()})

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands: the step, and the kept units (of the original ones) by axis."""
        names = self._reference.by_node
        return {"step": self.step, "kept": {names[node].name: index for node, index in self._kept.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; the model has to be the pruned one of that moment.

        Raises:
            CheckpointError: the state is that of another network or another number of steps.
        """
        kept: dict[Node, Tensor] = {}
        for name, index in state["kept"].items():
            axis = self._reference.by_name.get(name)
            if axis is None or not (len(index) and int(index.max()) < axis.size):
                raise CheckpointError(f"the state is of another network: axis {name!r} does not fit this one")
            kept[axis.node] = index.clone()
        if not 0 <= state["step"] <= self.steps:
            raise CheckpointError(f"the state is at step {state['step']}, of {self.steps} steps here")
        self._kept, self.step = kept, int(state["step"])

    # -- planning -------------------------------------------------------------------------------------

    def _planned(self, fraction: float, importance: Any, local: bool = False) -> Plan:
        """A plan on the original axes that reaches a fraction of the whole way."""
        options = dict(self._options)
        if options["budget"] is not None:
            options["budget"] = _part_of_budget(options["budget"], fraction, self.original, self._latency)
        else:
            options.update({key: _scaled(options[key], fraction) for key in _SCALED if key in options})
        if local:
            options["scope"] = "local"
        options["ignore"] = [*options["ignore"], *self._kept_whole()]
        seed = 0 if importance == "random" else None  # the check beforehand draws no numbers of the caller's
        return self._reference.plan(importance=importance, seed=seed, **options)

    def _kept_whole(self) -> list[Axis]:
        """The other factors of products that are being cut: the factor that moves does not change midway."""
        moving = self._kept.keys() | self._moving
        held = {rival for node in moving for rival in self._rivals.get(node, ())} - moving
        return [self._reference.by_node[node] for node in held]


def _named(graph: Graph, options: Mapping[str, Any]) -> dict[str, Any]:
    """Plan options with modules, parameters and axes given by name, which a detached graph knows too."""
    out = {key: _by_name(graph, value) for key, value in options.items()}
    ignore = out.get("ignore", ())
    single = isinstance(ignore, str | nn.Module | Axis) or not isinstance(ignore, Iterable)
    out["ignore"] = [graph.name_of(item) for item in ([ignore] if single else ignore)]
    return out


def _by_name(graph: Graph, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {graph.name_of(item): part for item, part in value.items()}
    return value


def _scaled(value: Any, fraction: float) -> Any:
    if isinstance(value, Mapping):
        return {item: _scaled(part, fraction) for item, part in value.items()}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value * fraction if number and fraction < 1 else value


def _measured(model: nn.Module, args: Any, kwargs: dict[str, Any] | None, budget: Any) -> float:
    """The model's latency in ms, which milliseconds are compared with; a fraction needs no comparison."""
    if isinstance(budget.latency, float) and budget.latency <= 1:
        return 1.0
    from ..latency import measure

    return measure(model, args, kwargs)


def _part_of_budget(budget: Budget, fraction: float, full: Costs, latency: float) -> Budget:
    """The budget that covers a fraction of the way from the full costs, and from the latency in ms."""
    if fraction >= 1 or not isinstance(budget, Budget):
        return budget
    changed: dict[str, Any] = {}
    for key, name in _COSTS.items():
        value = getattr(budget, key)
        if value is not None:
            goal = value * full[name] if isinstance(value, float) else value
            changed[key] = max(math.floor(full[name] - fraction * (full[name] - goal)), 1)
    if budget.latency is not None:
        changed["latency"] = min(1 - fraction * (1 - budget.latency_limit(latency) / latency), 1.0)
    return dataclasses.replace(budget, **changed)
