"""`prunus.sensitivity`: how much each axis can lose, measured one axis at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..errors import ArgumentTypeError, InputError, PruningError
from ..graph.axes import Node
from ..graph.graph import Axis, Graph
from ..graph.state import held_tensors
from ..plan import Plan
from ..select.request import check_ratio
from .curves import Curve, Point, Sensitivity
from .random_state import same_random_state
from .reference import rivals

RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9)


def sensitivity(
    graph: Graph,
    evaluate: Callable[[nn.Module], Any],
    ratios: Iterable[float] = RATIOS,
    axes: Iterable[Any] | None = None,
    importance: Any = "l2",
    seed: int | None = None,
    progress: bool = True,
) -> Sensitivity:
    """Measure a loss, or any metric, against the ratio at which each axis is cut, one axis at a time.

    Each cut is made on the model itself, with what is tied to the axis, and taken back after `evaluate`. All
    evaluations start from the same random state. Afterwards the model and the random state are, bit for bit,
    as they were, also where `evaluate` raises; it must not train the weights. Axes that are always cut
    together are measured once.

    Args:
        graph: of the model, as it is now.
        evaluate: `evaluate(model)` returns a number. It may change modes and buffers and compute gradients.
        ratios: fractions of units removed, in (0, 1).
        axes: axes, modules or names; all that can be pruned by default.
        importance, seed: which units go, as for `Graph.plan`.
        progress: show a progress bar.

    Raises:
        InputError: no ratios or bad ones, nothing to measure, `evaluate` returns no finite number on the
            model as it is.
        ArgumentTypeError: `evaluate` cannot be called or returns no number.
        UnknownNameError: a name in `axes` that the model does not have.
        PlanError: the model has been pruned since it was traced.
    """
    if not callable(evaluate):
        raise ArgumentTypeError(f"evaluate must be a function of the model, got {type(evaluate).__name__}")
    wanted = sorted({check_ratio(ratio, "a ratio") for ratio in ratios})
    if not wanted or wanted[0] == 0:
        raise InputError("ratios are fractions of units removed, in (0, 1): give at least one, and not 0")
    graph.check_current()
    chosen = _axes(graph, axes)
    with same_random_state():
        plans, skipped = _plans(graph, chosen, wanted, importance, seed)
    if not any(plan.chosen for plan in plans.values()):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise InputError(f"nothing can be cut at these ratios ({reasons}): give larger ratios or other axes")
    measured = _measured(graph, evaluate, plans, progress)
    baseline = measured[()]
    curves = {}
    for axis in chosen:
        if axis.name in skipped:
            continue
        points = [Point(0.0, 0.0, baseline)]
        for ratio in wanted:
            plan = plans[axis.name, ratio]
            removed = 1 - plan.counts.get(axis.node, axis.size) / axis.size
            cut = sorted(other.name for other in plan.cut_axes())
            points.append(Point(ratio, removed, measured[_key(plan)], cut))
        curves[axis.name] = Curve(axis.name, axis.size, points)
    rivalry = {
        graph.by_node[node].name: sorted(graph.by_node[other].name for other in others)
        for node, others in rivals(graph).items()
        if node in graph.by_node
    }
    return Sensitivity(curves, baseline, skipped, {name: rivalry.get(name, []) for name in curves})


def _axes(graph: Graph, axes: Iterable[Any] | None) -> list[Axis]:
    if axes is None:
        return graph.prunable
    if isinstance(axes, str | nn.Module | Axis):
        axes = [axes]
    found: dict[str, Axis] = {}
    for item in axes:
        name = item.name if isinstance(item, Axis) else graph.name_of(item)
        named = [graph.axis(name)] if name in graph.by_name else graph.axes_of(name, outputs_only=True)
        prunable = [axis for axis in named if axis.prunable]
        if not prunable:
            reasons = "; ".join(f"{axis.name} stays whole: {axis.reason}" for axis in named[:3])
            raise InputError(f"nothing in {name!r} can be pruned: {reasons or 'it has no axes'}")
        found.update({axis.name: axis for axis in prunable})
    return list(found.values())


def _plans(
    graph: Graph, axes: Sequence[Axis], ratios: Sequence[float], importance: Any, seed: int | None
) -> tuple[dict[tuple[str, float], Plan], dict[str, str]]:
    """The plan for each axis and ratio, and why some axes have none."""
    plans: dict[tuple[str, float], Plan] = {}
    skipped: dict[str, str] = {}
    others = rivals(graph)
    for axis in axes:
        alone = True
        for ratio in ratios:
            options: dict[str, Any] = {"ratio": {axis.name: ratio}}
            if not alone:
                options = {"ratio": ratio, "ignore": _bystanders(graph, axis, others)}
            try:
                plans[axis.name, ratio] = graph.plan(**options, importance=importance, seed=seed)
            except InputError:
                raise
            except PruningError as error:  # an equation ties its size to others
                reason, alone = str(error), False
                options = {"ratio": ratio, "ignore": _bystanders(graph, axis, others)}
                plan = graph.plan(**options, importance=importance, seed=seed)
                plans[axis.name, ratio] = plan
        if not alone and all(axis.node not in plans[axis.name, ratio].counts for ratio in ratios):
            skipped[axis.name] = reason
    return {key: plan for key, plan in plans.items() if key[0] not in skipped}, skipped


def _bystanders(graph: Graph, axis: Axis, others: Mapping[Node, set[Node]]) -> list[Axis]:
    """What stays whole while an axis is cut: all but those whose sizes are tied to it by equations.

    Of two factors of one product, one moves; so the axis's own rivals stay whole, too.
    """
    found, pending = {axis.node}, [axis.node]
    while pending:
        current = pending.pop()
        for constraint in graph.constraints.residual:
            variables = constraint.poly.variables()
            if current in variables:
                new = [other for other in variables if other in graph.by_node and other not in found]
                found.update(new)
                pending.extend(new)
    moving = found - others.get(axis.node, set())
    return [other for other in graph.prunable if other.node not in moving]


Key = tuple[tuple[str, tuple[int, ...]], ...]


def _key(plan: Plan) -> Key:
    """What a plan cuts; plans that cut the same have the same metric."""
    return tuple(sorted((name, tuple(index.tolist())) for name, index in plan.axes.items()))


def _measured(
    graph: Graph, evaluate: Callable[[nn.Module], Any], plans: dict[tuple[str, float], Plan], show: bool
) -> dict[Key, float]:
    """The metric of the model as it is, under the empty key, and under each plan."""
    from .progress import Progress

    different = {_key(plan): plan for plan in plans.values()}
    different.pop((), None)
    model = graph.model
    found: dict[Key, float] = {}
    with Progress(len(different) + 1, show) as bar, _left_as_it_was(model) as put_back:
        bar.at(0, "as it is")
        found[()] = _number(evaluate, model)
        put_back()
        if not math.isfinite(found[()]):
            raise InputError(
                f"evaluate returned {found[()]} on the model as it is: a finite number is wanted"
            )
        for number, (key, plan) in enumerate(different.items(), 1):
            bar.at(number, ", ".join(name for name, _ in key[:2]))
            plan.apply(model)
            try:
                found[key] = _number(evaluate, model)
            finally:
                _clear_gradients(model)
                plan.undo(model)
                put_back()
    return found


def _clear_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def _number(evaluate: Callable[[nn.Module], Any], model: nn.Module) -> float:
    with same_random_state():
        given = evaluate(model)
    value = given.item() if isinstance(given, Tensor) and given.numel() == 1 else given
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"evaluate returned {value!r}, and not a number") from error


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Sets gradients aside. Modes and buffers come back at each call of what it yields, and at the end."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    modules = dict(model.named_modules(remove_duplicate=False))
    buffers = [
        (item, item.tensor.detach().clone())
        for item in held_tensors(model)
        if item.kind != "parameter" and item.tensor.device.type != "meta"
    ]

    def put_back() -> None:
        for module, training in modes:
            module.training = training
        for item, value in buffers:
            item.tensor.data.copy_(value)
            for slot in item.slots:  # a forward pass may have put another tensor there
                space, key = slot.space(modules[slot.module])
                space[key] = item.tensor
        _clear_gradients(model)

    try:
        _clear_gradients(model)
        yield put_back
    finally:
        put_back()
        for parameter, gradient in gradients:
            parameter.grad = gradient
