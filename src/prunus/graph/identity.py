"""The proof that a module may be removed: with its branches zeroed it returns its input.

From the output one walks back through operations that leave numbers alone: additions, of which one operand
is followed and the other is a branch, views that are undone again, and clamps such as ReLU that do nothing
to the input because of where it comes from. The walk has to end at an input of the module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from .aliases import Record, clamped_to, plain_name
from .axes import Node, find, leaves
from .calls import Calls, ModuleCall, Source, values_inside
from .effects import Refusal, check_leaks, check_writes, depends
from .values import Op, Value

COPIES = frozenset({"clone", "alias", "detach", "contiguous", "lift_fresh", "dropout"})
ROW_MAJOR = frozenset(
    {"view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "_reshape_alias"}
)

Order = tuple[int, ...] | None
"""Where each dimension went, if any moved."""


@dataclass(eq=False)
class Passage:
    """How a module's input gets through it.

    Attributes:
        source: where it is found among the arguments.
        x, y: the input, and the output that equals it once the branches are zero.
        path: values from `y` to `x`, both included.
        branches: what is added on the way.
        additions: the operations that add them.
        copies: `y` has its own memory, and it or `x` is written to later, so that `x` has to be copied.
    """

    source: Source
    x: Value
    y: Value
    path: list[Value]
    branches: list[Value] = field(default_factory=list)
    additions: list[Op] = field(default_factory=list)
    copies: bool = False


def main_output(call: ModuleCall) -> Value | None:
    """The output; of several the first that is not just handed through."""
    given = {id(value) for _, value in call.inputs}
    found = values_inside(call.output)
    return next((value for value in found if id(value) not in given), found[0] if found else None)


def prove(call: ModuleCall, record: Record, calls: Calls) -> Passage:
    """The passage of a module's input to its main output.

    Raises:
        Refusal: there is none, or removing the module would change something else.
    """
    y = main_output(call)
    if y is None:
        raise Refusal("it returns no tensor")
    passage = _passage(call, record, y)
    _check_axes(passage, calls)
    _check_branches(call, record, passage)
    check_writes(call, record, passage.path[:-1])
    check_leaks(call, record, y, calls.results)
    fresh = record.root(y) is not record.root(passage.x)
    passage.copies = fresh and any(
        record.writes(value, call.stop, len(record.ops)) for value in (y, passage.x)
    )
    return passage


# -- the walk ---------------------------------------------------------------------------------------------


def _passage(call: ModuleCall, record: Record, y: Value) -> Passage:
    inputs = {id(value): source for source, value in reversed(call.inputs)}
    if id(y) in inputs:
        raise Refusal("it adds nothing to its input")
    found = _walk(call, record, y, set(inputs))
    if found is None:
        raise Refusal(_why_not(call, record, y))
    passage = Passage(inputs[id(found[-1])], found[-1], y, found)
    for value, following in pairwise(found):
        op = value.producer
        assert op is not None
        if plain_name(op) in ("add", "sub"):
            passage.additions.append(op)
            passage.branches += [item for item in op.inputs() if item is not following]
    if not passage.branches:
        raise Refusal("it adds nothing to its input")
    check_clamps(call, record, passage)
    if y.dtype != passage.x.dtype:
        raise Refusal(f"its output is {y.dtype}, its input {passage.x.dtype}")
    return passage


def _walk(call: ModuleCall, record: Record, y: Value, goals: set[int]) -> list[Value] | None:
    """Values from `y` back to one of the goals, each of which is the next but for branches."""
    start: tuple[Value, Order] = (y, None)
    came: dict[tuple[int, Order], tuple[Value, Order] | None] = {(id(y), None): None}
    stack = [start]
    while stack:
        value, order = stack.pop()
        if id(value) in goals and order is None and value.shape == y.shape:
            path: list[Value] = []
            step: tuple[Value, Order] | None = (value, order)
            while step is not None:
                path.append(step[0])
                step = came[id(step[0]), step[1]]
            return path[::-1]
        for following in _back(call, record, value, order):
            key = (id(following[0]), following[1])
            if key not in came:
                came[key] = (value, order)
                stack.append(following)
    return None


def _back(call: ModuleCall, record: Record, value: Value, order: Order) -> list[tuple[Value, Order]]:
    """The operands that a value equals where branches are zero."""
    made = record.made_at(value)
    if not call.start <= made < call.stop:
        return []
    op = record.ops[made]
    name, inputs = plain_name(op), op.inputs()
    if name in ("add", "sub"):
        return [(item, order) for item in _addends(op) if item.shape == value.shape]
    if not inputs or op.outs[0] is not value:
        return []
    source = inputs[0]
    if name in COPIES or clamped_to(op) is not None:
        return [(source, order)]
    if name == "_to_copy":
        return [(source, order)] if source.dtype == value.dtype else []
    if name in ROW_MAJOR:
        return [(source, order)] if order is None else []
    if name in ("permute", "transpose", "t"):
        moved = _moved(op, len(value.axes), order)
        return [(source, None if moved == tuple(range(len(moved))) else moved)]
    return []


def _addends(op: Op) -> list[Value]:
    """The operands that enter a sum with factor one, where all are tensors."""
    first, second = op.args.get("self"), op.args.get("other")
    if not isinstance(first, Value) or not isinstance(second, Value):
        return []
    plain = op.args.get("alpha", 1) in (1, None) and plain_name(op) == "add"
    return [second, first] if plain else [first]


def _moved(op: Op, rank: int, order: Order) -> tuple[int, ...]:
    own = list(range(rank))
    if op.name == "permute":
        own = [int(dim) % rank for dim in op.args["dims"]]
    elif rank > 1:
        a, b = int(op.args.get("dim0", 0)) % rank, int(op.args.get("dim1", 1)) % rank
        own[a], own[b] = own[b], own[a]
    return tuple(own[dim] for dim in (order if order is not None else range(rank)))


def _why_not(call: ModuleCall, record: Record, y: Value) -> str:
    if all(value.shape != y.shape for _, value in call.inputs):
        shapes = ", ".join(str(list(value.shape)) for _, value in call.inputs[:2]) or "no tensor"
        return f"its output has another shape than its input ({list(y.shape)}, was {shapes})"
    seen, stack, ends = {id(y)}, [(y, None)], []
    while stack:
        value, order = stack.pop()
        made = record.made_at(value)
        following = _back(call, record, value, order)
        if not following and call.start <= made < call.stop:
            ends.append(record.ops[made])
        for item in following:
            if id(item[0]) not in seen:
                seen.add(id(item[0]))
                stack.append((item[0], None))
    names = list(dict.fromkeys(plain_name(op) for op in ends))
    end = " and ".join(names[:3]) or "outside"
    where = f" ({ends[0].site.module or 'the model'})" if ends else ""
    return f"its output is not its input plus something: it comes out of {end}{where}"


def check_clamps(call: ModuleCall, record: Record, passage: Passage) -> None:
    """Clamps on the way do nothing to the input, whichever blocks before are removed.

    Raises:
        Refusal: one might.
    """
    for value in passage.path[:-1]:
        clamp = None if value.producer is None else clamped_to(value.producer)
        if clamp is None or value.producer is None:
            continue
        low, high = record.interval(passage.x, call.start)
        if low < clamp[0] or high > clamp[1]:
            name = plain_name(value.producer)
            raise Refusal(f"its output goes through {name}, which may change what comes in unaltered")


def _check_axes(passage: Passage, calls: Calls) -> None:
    """Dimensions that weights run over are the same axes before and after."""

    def differ(a: Node, b: Node) -> bool:
        before, after = list(leaves(a)), list(leaves(b))
        return find(a) is not find(b) and before != after and bool(calls.weighted & {*before, *after})

    if any(differ(a, b) for a, b in zip(passage.y.axes, passage.x.axes, strict=True)):
        raise Refusal("its output has other axes than its input")


def _check_branches(call: ModuleCall, record: Record, passage: Passage) -> None:
    for branch in passage.branches:
        if branch is passage.x or not call.start <= record.made_at(branch) < call.stop:
            raise Refusal("it adds something to its input that it does not compute")
        if not depends(branch, passage.x, call, record):
            raise Refusal("what it adds to its input does not depend on that")
        if _walk(call, record, branch, {id(passage.x)}) is not None:
            raise Refusal("its input enters its output more than once")
