"""What a module does besides computing its output: who else uses what it makes, holds and writes to."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .aliases import Record, written
from .calls import Calls, ModuleCall, values_inside
from .values import Value


class Refusal(Exception):
    """A module cannot be removed; the message is the reason, in one line."""


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


def check_writes(call: ModuleCall, record: Record, path: Sequence[Value]) -> None:
    """In-place operations: none on what others see, none that changes the path behind its back."""
    on_path = {id(value.producer) for value in path}
    roots = {id(record.root(value)) for value in path}
    for op in record.ops[call.start : call.stop]:
        if not op.func._schema.is_mutable or id(op) in on_path:
            continue
        for value in written(op):
            root = record.root(value)
            if record.made_at(root) < call.start:
                raise Refusal(f"it writes to a tensor from outside ({op.name} in {op.site})")
            if id(root) in roots and record.number[id(op)] > _first_use(path, root, record):
                raise Refusal(f"{op.name} in {op.site} writes to what it returns")


def _first_use(path: Sequence[Value], root: Value, record: Record) -> int:
    return min(record.made_at(value) for value in path if record.root(value) is root)


def check_weights(call: ModuleCall, record: Record, calls: Calls, tensors: Collection[str]) -> None:
    """The tensors that a module alone holds are used by nothing else.

    Raises:
        Refusal: one is.
    """
    for name in tensors:
        for op in calls.parameters[name].consumers:
            if not call.start <= record.number.get(id(op), call.start) < call.stop:
                raise Refusal(f"its {name!r} is used outside, by {op.site.module or 'the model'}")


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
