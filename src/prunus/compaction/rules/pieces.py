"""Slices, concatenations and their kin: entries are moved about, none is computed.

What matters of the inputs is found by differentiation: the gradient of a function that only moves entries
says where each came from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...graph.values import Op, Value
from ..facts import Facts, compressed, found, whole
from . import Needs, Rule, nothing, rule
from .pointwise import evaluate

if TYPE_CHECKING:
    from ..study import Study

_DROPS = frozenset({"select", "select_copy", "unbind", "unbind_copy"})


def touched(op: Op, rank: int) -> list[int]:
    """The dimensions of an input along which entries move; `rank` is the input's."""
    if op.name in ("flip", "flip_copy", "roll"):
        return [int(d) % rank for d in op.args["dims"]] or list(range(rank))
    if op.name in ("channel_shuffle", "native_channel_shuffle"):
        return [1]
    if op.name in ("pixel_shuffle", "pixel_unshuffle"):
        return [rank - 3, rank - 2, rank - 1]
    if op.name in ("constant_pad_nd", "pad"):
        pads = [int(n) for n in op.args["pad"]]
        return [rank - 1 - i for i in range(len(pads) // 2) if pads[2 * i] or pads[2 * i + 1]]
    if op.name == "stack":
        return []
    return [int(op.args.get("dim", 0)) % rank]


@rule(
    "slice",
    "slice_copy",
    "narrow",
    "narrow_copy",
    "split",
    "split_with_sizes",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "chunk",
    "unsafe_chunk",
    "split_copy",
    "split_with_sizes_copy",
    "select",
    "select_copy",
    "unbind",
    "unbind_copy",
    "flip",
    "flip_copy",
    "roll",
    "cat",
    "concat",
    "concatenate",
    "_cat",
    "stack",
    "channel_shuffle",
    "native_channel_shuffle",
    "pixel_shuffle",
    "pixel_unshuffle",
    "constant_pad_nd",
)
class Pieces(Rule):
    @staticmethod
    def _inputs(op: Op) -> list[Value] | None:
        """The inputs that have entries; None where their ranks differ."""
        values = [value for value in op.inputs() if 0 not in value.shape]
        ranks = {len(value.axes) for value in values}
        return values if len(ranks) == 1 and len(values) == len(op.inputs()) else None

    def facts(self, op: Op, study: Study) -> list[Facts]:
        values = self._inputs(op)
        got = [study.facts(value) for value in values or ()]
        if values is None or not any(facts.any for facts in got):
            return nothing(op, study)
        rank = len(values[0].axes)
        shared = [max(t.shape[d] for f in got for t in (f.known, f.value)) for d in range(rank)]
        dims = touched(op, rank)

        def moved(tensors: list[Tensor], fill: Any) -> list[Tensor]:
            inputs = {}
            for value, tensor in zip(values, tensors, strict=True):
                sizes = [value.shape[d] if d in dims else size for d, size in enumerate(shared)]
                inputs[value] = tensor.expand(sizes)
            result = evaluate(_filled(op, fill), inputs)
            return [result] if isinstance(result, Tensor) else list(result)

        known = moved([facts.known for facts in got], True)
        value = moved([facts.value for facts in got], op.args.get("value"))
        facts = [found(*pair) for pair in zip(known, value, strict=True)]
        return [compressed(item, study.plain_dims(out)) for item, out in zip(facts, op.outs, strict=True)]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        values = self._inputs(op)
        if values is None:
            return [(value, study.full(value)) for value in op.inputs()]
        dims = touched(op, len(values[0].axes))
        shared = self._shared(op, needs, len(values[0].axes))
        inputs = {}
        for value in values:
            sizes = [value.shape[d] if d in dims else size for d, size in enumerate(shared)]
            inputs[value] = torch.zeros(sizes, device=study.device, requires_grad=True)
        result = evaluate(op, inputs, grad=True)
        outs = [result] if isinstance(result, Tensor) else list(result)
        used = [(out, need) for out, need in zip(outs, needs, strict=True) if need is not None]
        grads = torch.autograd.grad(
            [out for out, _ in used],
            list(inputs.values()),
            [need.expand(out.shape).float() for out, need in used],
            allow_unused=True,
            materialize_grads=True,
        )
        return [
            (value, whole(grad > 0, study.plain_dims(value)))
            for value, grad in zip(inputs, grads, strict=True)
        ]

    @staticmethod
    def _shared(op: Op, needs: list[Tensor | None], rank: int) -> list[int]:
        """Sizes of the needs along the dimensions of the inputs; those of touched ones do not matter."""
        shapes = [list(need.shape) for need in needs if need is not None]
        sizes = [max(column) for column in zip(*shapes, strict=True)]
        if op.name in _DROPS:
            sizes.insert(int(op.args.get("dim", 0)) % rank, 1)
        elif op.name == "stack":
            del sizes[int(op.args.get("dim", 0)) % (rank + 1)]
        return sizes


def _filled(op: Op, fill: Any) -> Op:
    if op.name not in ("constant_pad_nd", "pad"):
        return op
    return Op(op.name, op.func, {**op.args, "value": fill}, op.outs, op.site)
