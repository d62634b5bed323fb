"""The proof that a module may be removed: with its branches zeroed it returns its input.

From the output one walks back through operations that leave numbers alone: additions, of which one operand
is followed and the other is a branch, views that are undone again, and clamps such as ReLU that do nothing
to the input because of where it comes from. The walk has to end at an input of the module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from .aliases import Record, clamped_to, plain_name, written
from .axes import Node, find, leaves
from .calls import Calls, ModuleCall, Source, values_inside
from .values import Op, Value

COPIES = frozenset({"clone", "alias", "detach", "contiguous", "lift_fresh", "dropout"})
ROW_MAJOR = frozenset(
    {"view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "_reshape_alias"}
)

Order = tuple[int, ...] | None
"""Where each dimension went, if any moved."""


class Refusal(Exception):
    """A module cannot be removed; the message is the reason, in one line."""


@dataclass(eq=False)
class Passage:
    """How a module's input gets through it.

    Attributes:
        source: where it is found among the arguments.
        x, y: the input, and the output that equals it once the branches are zero.
        path: values from `y` to `x`, both included.
        branches: what is added on the way.
        additions: the operations that add them.
        copies: `y` has its own memory and is written to later, so that `x` has to be copied.
    """

    source: Source
    x: Value
    y: Value
    path: list[Value]
    branches: list[Value] = field(default_factory=list)
    additions: list[Op] = field(default_factory=list)
    copies: bool = False


def main_output(call: ModuleCall) -> Value | None:
    """The output, or the first of several."""
    return next(iter(values_inside(call.output)), None)


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
    _check_writes(call, record, passage)
    check_leaks(call, record, y, calls.results)
    fresh = record.root(y) is not record.root(passage.x)
    passage.copies = fresh and bool(record.writes(y, call.stop, len(record.ops)))
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
        clamp = clamped_to(op)
        if clamp is not None:
            low, high = record.interval(passage.x, call.start)
            if low < clamp[0] or high > clamp[1]:
                raise Refusal(
                    f"its output goes through {plain_name(op)}, which may change what comes in unaltered"
                )
    if not passage.branches:
        raise Refusal("it adds nothing to its input")
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


def _check_axes(passage: Passage, calls: Calls) -> None:
    """Dimensions that weights run over are the same axes before and after."""

    def differ(a: Node, b: Node) -> bool:
        before, after = list(leaves(a)), list(leaves(b))
        return find(a) is not find(b) and before != after and bool(calls.weighted & {*before, *after})

    if any(differ(a, b) for a, b in zip(passage.y.axes, passage.x.axes, strict=True)):
        raise Refusal("its output has other axes than its input")


# -- what else has to hold ----------------------------------------------------------------------------------


def depends(value: Value, on: Value, call: ModuleCall, record: Record) -> bool:
    """Whether a value is computed from another one inside a call."""
    seen, stack = {id(value)}, [value]
    while stack:
        item = stack.pop()
        if item is on:
            return True
        if call.start <= record.made_at(item) < call.stop and item.producer is not None:
            for source in item.producer.inputs():
                if id(source) not in seen:
                    seen.add(id(source))
                    stack.append(source)
    return False


def _check_branches(call: ModuleCall, record: Record, passage: Passage) -> None:
    for branch in passage.branches:
        if branch is passage.x or not call.start <= record.made_at(branch) < call.stop:
            raise Refusal("it adds something to its input that it does not compute")
        if not depends(branch, passage.x, call, record):
            raise Refusal("what it adds to its input does not depend on that")
        if _walk(call, record, branch, {id(passage.x)}) is not None:
            raise Refusal("its input enters its output more than once")


def _check_writes(call: ModuleCall, record: Record, passage: Passage) -> None:
    """In-place operations: none on what others see, none that changes the path behind its back."""
    on_path = {id(value.producer) for value in passage.path[:-1]}
    roots = {id(record.root(value)) for value in passage.path[:-1]}
    for op in record.ops[call.start : call.stop]:
        if not op.func._schema.is_mutable or id(op) in on_path:
            continue
        for value in written(op):
            root = record.root(value)
            if record.made_at(root) < call.start:
                raise Refusal(f"it writes to a tensor from outside ({op.name} in {op.site})")
            if id(root) in roots and record.number[id(op)] > _first_use(passage, root, record):
                raise Refusal(f"{op.name} in {op.site} writes to what it returns")


def _first_use(passage: Passage, root: Value, record: Record) -> int:
    return min(record.made_at(value) for value in passage.path[:-1] if record.root(value) is root)


def check_leaks(call: ModuleCall, record: Record, y: Value, results: list[Value]) -> None:
    """Nothing made inside is used outside but the main output."""

    def inside(value: Value) -> bool:
        return call.start <= record.made_at(value) < call.stop

    ends = {id(value) for value in results}
    given = {id(value) for value in values_inside(call.output)}
    for op in record.ops[call.start : call.stop]:
        for value in op.outs:
            if value is y:
                continue
            readers = [reader for reader in value.consumers if id(reader) in record.number]
            outside = [r for r in readers if not call.start <= record.number[id(r)] < call.stop]
            if outside or id(value) in ends:
                what = "another output of it" if id(value) in given else "a tensor made inside it"
                where = (
                    f" by {outside[0].site.module or 'the model'}"
                    if outside
                    else " as an output of the model"
                )
                raise Refusal(f"{what} is used outside{where}")
    for label, value in call.stored:
        if inside(value):
            raise Refusal(
                f"it leaves tensors in its argument {label}, which outlives it: trace the model without that "
                "(for a cache, with use_cache=False)"
            )
