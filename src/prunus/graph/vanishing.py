"""Whether a branch is zero once the parameters of its block are: `x + W f(x)` is, `x + sigmoid(W x)` is not.

Where it is, removing a block is the same as zeroing its parameters, which is what `Plan.exact` promises.
"""

from __future__ import annotations

from collections.abc import Collection

from .aliases import Record, plain_name
from .rules.pointwise import KEEP_ZERO
from .values import Op, Value

_LIKE_FIRST = frozenset(
    """
    view _unsafe_view reshape _reshape_alias flatten unsqueeze squeeze permute transpose t expand slice select
    clone contiguous detach alias lift_fresh _to_copy dropout split split_with_sizes chunk unbind mean sum
    flip roll repeat index index_select div embedding max_pool2d_with_indices avg_pool2d
    _adaptive_avg_pool2d pixel_shuffle
    """.split()
)
_NORMS = frozenset(
    """
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training batch_norm
    cudnn_batch_norm
    native_layer_norm layer_norm native_group_norm group_norm _fused_rms_norm rms_norm
    """.split()
)
_ANY = frozenset({"mul", "mm", "bmm", "matmul", "mv", "dot", "_weight_norm_interface"})
_ALL = frozenset({"add", "sub", "cat", "stack", "maximum", "minimum"})


class Vanishing:
    """Values that are zero when the parameters of these names are; none made before operation `start` is."""

    def __init__(self, record: Record, start: int, names: Collection[str]) -> None:
        self.record = record
        self.start = start
        self.names = names
        self._known: dict[int, bool] = {}

    def zero(self, value: Value, use: int) -> bool:
        """Whether a value is zero when operation `use` reads it; nothing recurses."""
        for op in self._before(value):
            for out in op.outs:
                self._known[id(out)] = self._result(op)
        return self._is_zero(value, use)

    def _before(self, value: Value) -> list[Op]:
        seen: set[int] = set()
        found: list[Op] = []
        stack = [value]
        while stack:
            op = stack.pop().producer
            if op is None or id(op) in seen or any(id(out) in self._known for out in op.outs):
                continue
            if self.record.number.get(id(op), -1) < self.start:
                continue
            seen.add(id(op))
            found.append(op)
            stack.extend(op.inputs())
        return sorted(found, key=lambda op: self.record.number[id(op)])

    def _is_zero(self, value: object, use: int) -> bool:
        if not isinstance(value, Value):
            return False
        made = self.record.made_at(value)
        if made < 0:
            return value.name in self.names
        return self._known.get(id(value), False) and not self.record.writes(value, made + 1, use)

    def _result(self, op: Op) -> bool:
        number, name, args = self.record.number[id(op)], plain_name(op), op.args
        inputs = op.inputs()

        def zero(item: object) -> bool:
            return self._is_zero(item, number)

        if not inputs:
            return name in ("zeros", "new_zeros")
        if name == "zeros_like":
            return True
        if name in _NORMS:
            return zero(args.get("weight")) and (args.get("bias") is None or zero(args["bias"]))
        if name == "convolution":
            rest = args.get("bias")
            return (zero(args["weight"]) or zero(args["input"])) and (rest is None or zero(rest))
        if name in ("addmm", "baddbmm", "addbmm"):
            matrices = [item for item in inputs if item is not args["self"]]
            return zero(args["self"]) and any(zero(item) for item in matrices)
        if "scaled_dot_product" in name:
            return zero(args.get("value"))
        if name in _ANY:
            return any(zero(item) for item in inputs)
        numbers = [args[key] for key in ("other", "value") if isinstance(args.get(key), int | float)]
        if name in _ALL:
            return all(zero(item) for item in inputs) and not any(numbers)
        if name in _LIKE_FIRST or (len(inputs) == 1 and (name in KEEP_ZERO or name == "hardswish")):
            return zero(inputs[0])
        return False
