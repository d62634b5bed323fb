"""Branches: modules whose output is only added to what it was computed from, as in `x + mlp(norm(x))`."""

from __future__ import annotations

from .aliases import Record, plain_name, written
from .calls import Calls, ModuleCall, Source
from .effects import Refusal, check_leaks
from .identity import COPIES, ROW_MAJOR
from .rules.pointwise import KEEP_ZERO
from .values import Op, Value

_MOVES = frozenset({"permute", "transpose", "t", "slice", "roll", "expand", "select", "flip"})
_MULTIPLIES = frozenset(
    """
    convolution mm bmm addmm baddbmm addbmm matmul linear _scaled_dot_product_attention_math
    """.split()
)


def join_of(call: ModuleCall, record: Record, calls: Calls, y: Value) -> Source:
    """Where a branch finds an input that is as large as its output.

    Raises:
        Refusal: the module is no branch: its output is used elsewhere, or added to something else.
    """
    same = [source for source, value in call.inputs if value.shape == y.shape and value.dtype == y.dtype]
    if not same or y.producer is None or not call.start <= record.made_at(y) < call.stop:
        raise Refusal("its output has another shape than its input")
    join, other = _addition(record, y)
    if any(y is value for value in calls.results) or record.made_at(record.root(y)) < call.start:
        raise Refusal("its output is used outside")
    if not _feeds(other, call, record):
        raise Refusal(f"its output is added to something that it does not come from ({join.site})")
    for op in record.ops[call.start : call.stop]:
        for value in written(op):
            if record.made_at(record.root(value)) < call.start:
                raise Refusal(f"it writes to a tensor from outside ({op.name} in {op.site})")
    check_leaks(call, record, y, calls.results)
    return same[0]


def _addition(record: Record, y: Value) -> tuple[Op, Value]:
    """The addition that a value goes into, perhaps scaled or seen in another way, and the other operand."""
    while True:
        readers = [op for op in y.consumers if id(op) in record.number]
        if len(readers) != 1:
            raise Refusal(f"its output is used {len(readers)} times")
        op = readers[0]
        name, inputs = plain_name(op), op.inputs()
        if name in ("add", "sub") and len(inputs) == 2 and inputs[0] is not inputs[1]:
            return op, next(item for item in inputs if item is not y)
        linear = name in COPIES or name in ROW_MAJOR or name in _MOVES or name == "_to_copy" or name == "mul"
        unary = len(inputs) == 1 and name in KEEP_ZERO
        if not (linear or unary or (name == "div" and inputs[0] is y)) or len(op.outs) != 1:
            raise Refusal(f"its output goes into {name}, not into an addition")
        y = op.outs[0]


def _feeds(other: Value, call: ModuleCall, record: Record) -> bool:
    """Whether a module's input comes from a value without a matrix product in between."""
    origins = {id(other)}
    while other.producer is not None and plain_name(other.producer) in COPIES | ROW_MAJOR | _MOVES:
        other = other.producer.inputs()[0]
        origins.add(id(other))
    seen: set[int] = set()
    stack = [value for _, value in call.inputs]
    while stack:
        value = stack.pop()
        if id(value) in origins:
            return True
        if value.producer is None or id(value) in seen or plain_name(value.producer) in _MULTIPLIES:
            continue
        seen.add(id(value))
        stack.extend(value.producer.inputs())
    return False
