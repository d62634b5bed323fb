"""Who shares memory with whom in a trace, who writes to it and when; and what interval a value lies in."""

from __future__ import annotations

import math
from collections import defaultdict

from .values import Op, Value

EVERYWHERE = (-math.inf, math.inf)
Interval = tuple[float, float]

_UNIT = {"sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "_softmax": (0.0, 1.0), "tanh": (-1.0, 1.0)}
_POSITIVE = frozenset({"abs", "exp", "square", "sqrt", "softplus"})
_WITHIN = frozenset(
    """
    view _unsafe_view reshape _reshape_alias flatten unsqueeze squeeze permute transpose t expand slice select
    clone contiguous detach alias lift_fresh dropout max_pool1d max_pool2d max_pool3d
    max_pool2d_with_indices max_pool3d_with_indices amax amin mean upsample_nearest2d repeat flip roll
    index_select split chunk
    """.split()
)
"""Each result is one of the operand's numbers, or lies between some of them."""
_WITHIN_OR_ZERO = frozenset({"avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d"})
MAX_DEPTH = 64


def plain_name(op: Op) -> str:
    """The name without the mark of an in-place operation."""
    return op.name[:-1] if op.name.endswith("_") and not op.name.endswith("__") else op.name


def clamped_to(op: Op) -> Interval | None:
    """The interval outside which an operation moves numbers to its ends; None if it does anything else."""
    name, low, high = plain_name(op), None, None
    if name == "relu":
        low = 0.0
    elif name == "relu6":
        low, high = 0.0, 6.0
    elif name in ("clamp", "clamp_min", "clamp_max", "hardtanh"):
        default = (-1.0, 1.0) if name == "hardtanh" else (None, None)
        low = op.args.get("min", op.args.get("min_val", default[0]))
        high = op.args.get("max", op.args.get("max_val", default[1]))
    else:
        return None
    if any(bound is not None and not isinstance(bound, int | float) for bound in (low, high)):
        return None
    interval = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
    return interval if interval[0] <= interval[1] else None


class Record:
    """The operations of a trace by number, with the memory that their results share."""

    def __init__(self, ops: list[Op]) -> None:
        self.ops = ops
        self.number = {id(op): number for number, op in enumerate(ops)}
        self._roots: dict[int, Value] = {}
        self._writes: dict[int, list[int]] = defaultdict(list)
        self._same: dict[int, list[Value | None]] = defaultdict(list)
        self._intervals: dict[int, Interval] = {}
        for number, op in enumerate(ops):
            for value in written(op):
                self._writes[id(self.root(value))].append(number)

    def made_at(self, value: Value) -> int:
        """The number of the operation that made a value; -1 for inputs, parameters and constants."""
        return -1 if value.producer is None else self.number.get(id(value.producer), -1)

    def root(self, value: Value) -> Value:
        """The value whose memory this one uses: views and results written in place lead back to it."""
        chain = []
        while id(value) not in self._roots:
            source = _aliased(value)
            if source is None:
                break
            chain.append(value)
            value = source
        found = self._roots.get(id(value), value)
        for item in chain:
            self._roots[id(item)] = found
        return found

    def writes(self, value: Value, start: int, stop: int) -> list[int]:
        """Operations in `start..stop-1` that write to the memory of a value."""
        return [number for number in self._writes.get(id(self.root(value)), ()) if start <= number < stop]

    # -- intervals --------------------------------------------------------------------------------------

    def equal(self, output: Value, source: Value | None) -> None:
        """Remember that a block may be removed: then its output is this input of it, or zero (None)."""
        self._same[id(output)].append(source)
        self._intervals.clear()

    def interval(self, value: Value, use: int, depth: int = 0) -> Interval:
        """An interval that every number of a value lies in when operation `use` reads it.

        It holds whichever of the blocks that were said to be removable are removed.
        """
        made = self.made_at(value)
        if depth > MAX_DEPTH or made < 0 or self.writes(value, made + 1, use):
            return EVERYWHERE
        known = self._intervals.get(id(value))
        if known is None:
            low, high = self._made(value, made, depth + 1)
            for other in self._same.get(id(value), ()):
                a, b = (0.0, 0.0) if other is None else self.interval(other, made, depth + 1)
                low, high = min(low, a), max(high, b)
            known = self._intervals[id(value)] = low, high
        return known

    def _made(self, value: Value, made: int, depth: int) -> Interval:
        op = self.ops[made]
        name = plain_name(op)
        clamp = clamped_to(op)
        if clamp is not None:
            return clamp
        if name in _UNIT:
            return _UNIT[name]
        if name in _POSITIVE:
            return (0.0, math.inf)
        inputs = op.inputs()
        if name in _WITHIN and inputs and op.outs[0] is value:
            return self.interval(inputs[0], made, depth)
        if name in _WITHIN_OR_ZERO and inputs and op.args.get("divisor_override") is None:
            low, high = self.interval(inputs[0], made, depth)
            return min(low, 0.0), max(high, 0.0)
        if name == "cat" and inputs:
            parts = [self.interval(item, made, depth) for item in inputs]
            return min(low for low, _ in parts), max(high for _, high in parts)
        if name in ("add", "mul") and len(inputs) == 2 and op.args.get("alpha", 1) in (1, None):
            (a, b), (c, d) = (self.interval(item, made, depth) for item in inputs)
            if name == "add":
                return a + c, b + d
            return (0.0, math.inf) if a >= 0 and c >= 0 else EVERYWHERE
        return EVERYWHERE


def written(op: Op) -> list[Value]:
    """The tensors that an operation writes to."""
    schema = op.func._schema
    if not schema.is_mutable:
        return []
    found = []
    for argument in schema.arguments:
        value = op.args.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Value):
            found.append(value)
    return found


def _aliased(value: Value) -> Value | None:
    """The argument whose memory a value uses, if it is a view or was written in place."""
    op = value.producer
    if op is None:
        return None
    schema = op.func._schema
    position = next((number for number, out in enumerate(op.outs) if out is value), 0)
    returned = schema.returns[min(position, len(schema.returns) - 1)].alias_info
    if returned is None:
        return None
    marks = set(returned.before_set) | set(returned.after_set)
    for argument in schema.arguments:
        own = argument.alias_info
        source = op.args.get(argument.name)
        if own is None or not isinstance(source, Value):
            continue
        if not marks or marks & (set(own.before_set) | set(own.after_set)):  # lists of views carry no mark
            return source
    return None
