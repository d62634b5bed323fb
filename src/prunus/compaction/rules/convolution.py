"""Convolutions: products of x_G1K and w_GKN, for G groups, with the taps of the kernel summed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...graph.axes import Node
from ...graph.values import Op, Value
from ..facts import Facts, alike, found, split, spread, unknown
from ..products import Product, over_others
from . import Needs, rule
from .contraction import Contraction
from .pointwise import joined

if TYPE_CHECKING:
    from ..study import Study


@rule("convolution", "_convolution", "cudnn_convolution", "mkldnn_convolution", "convolution_overrideable")
class Convolution(Contraction):
    """1d to 3d, transposed, grouped and depthwise."""

    def bias(self, op: Op) -> Value | None:
        return op.args.get("bias")

    def product(self, op: Op, study: Study) -> Product:
        x, weight, groups = op.args["input"], op.args["weight"], int(op.args["groups"])
        channels = x.shape[1]
        a = alike(study.facts(x), [d for d in range(len(x.axes)) if d != 1])
        size = channels // groups
        row = a.mapped(lambda t: spread(t, [1], x.shape).reshape(groups, 1, size))
        b, nonzero = study.once(op, lambda: self._weight(op, study.facts(weight), weight, groups))
        fixed = b.all and any(weight.origin)
        return Product(row, b, nonzero, size, self._border(op), grouped=True, fixed=fixed)

    @staticmethod
    def _border(op: Op) -> bool:
        """Whether a constant input gives an output that differs from place to place."""
        padded = any(int(p) for p in (*op.args["padding"], *(op.args.get("output_padding") or ())))
        kernel = op.args["weight"].shape[2:]
        spaced = any(k > 1 for k in kernel) or any(int(s) > 1 for s in op.args["stride"])
        return padded or (bool(op.args["transposed"]) and spaced)

    @staticmethod
    def _weight(op: Op, facts: Facts, weight: Value, groups: int) -> tuple[Facts, Tensor]:
        """The taps summed, as w_GKN, and which entries are not all zero."""

        def laid_out(tensor: Tensor) -> Tensor:
            tensor = split(tensor, 0, (groups, -1))
            return tensor if op.args["transposed"] else tensor.mT

        taps = facts.value.expand(weight.shape).flatten(2)
        ones = torch.ones(taps.shape[-1], dtype=taps.dtype, device=taps.device)
        total, nonzero = taps @ ones, laid_out(taps.abs() @ ones != 0)  # products are faster than sums here
        if facts.all:
            known = torch.ones((1, 1, 1), dtype=torch.bool, device=taps.device)
        else:
            known = laid_out(facts.known.expand(weight.shape).flatten(2).all(2))
            nonzero = nonzero | ~known
        return Facts(known, laid_out(total)), nonzero

    def facts(self, op: Op, study: Study) -> list[Facts]:
        known, value = self.product(op, study).result()
        out, bias = op.outs[0], self.bias(op)
        if not bool(known.any()):
            return [unknown(out, study.device)]
        shape = (known.shape[0], 1, max(known.shape[-1], value.shape[-1] if value.dim() else 1))
        known, value = (t.expand(shape).reshape(-1) for t in (known, value))
        if bias is not None:
            added = study.facts(bias)
            known, value = known & added.known, value + added.value
        tail = (1,) * (len(out.axes) - 2)
        return [found(known.reshape(1, -1, *tail), value.reshape(1, -1, *tail))]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        need = joined(needs)
        x, weight, bias = op.args["input"], op.args["weight"], self.bias(op)
        groups, tail = int(op.args["groups"]), (1,) * (len(x.axes) - 2)
        channels = over_others(need, 1).expand(op.outs[0].shape[1])
        product = self.product(op, study)
        need_a, need_b = product.needs(channels.reshape(groups, 1, -1))
        self.weigh(op, product, need_a, need_b, study)
        kernel = (need_b if op.args["transposed"] else need_b.mT).flatten(0, 1)
        own = study.full(weight) if product.fixed else kernel.reshape(*kernel.shape, *tail)
        out = [(x, need_a.reshape(1, -1, *tail)), (weight, own)]
        return out if bias is None else [*out, (bias, channels)]

    def columns(self, op: Op) -> Node:
        return op.outs[0].axes[1]

    def contracted_axis(self, op: Op, study: Study) -> Node:
        weight, groups = op.args["weight"], int(op.args["groups"])
        node: Node = weight.axes[0 if op.args["transposed"] else 1]
        inner = study.inner(node, groups) if op.args["transposed"] and groups > 1 else None
        return node if inner is None else inner

    def hold(self, op: Op, bad: Tensor, study: Study, why: str) -> None:
        node = self.contracted_axis(op, study)
        together = node.size == bad.numel() or not bool(bad.any())
        study.hold(node, bad if together else None, op, why)
