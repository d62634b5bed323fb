"""Matrix products: sums over an axis, which lose a unit if its terms are zero, or constant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...graph.axes import Node
from ...graph.values import Op, Value
from ..facts import Facts, fitted, found, whole
from ..products import Product, over_others
from . import Needs, Rule, everything, rule
from .pointwise import joined, ranked

if TYPE_CHECKING:
    from ..study import Study


class Contraction(Rule):
    """What matrix products and convolutions share."""

    def product(self, op: Op, study: Study) -> Product:
        raise NotImplementedError

    def bias(self, op: Op) -> Value | None:
        return None

    def contracted_axis(self, op: Op, study: Study) -> Node:
        """The axis summed over, one group's where there are groups."""
        raise NotImplementedError

    def columns(self, op: Op) -> Node:
        """The axis of the columns."""
        return op.outs[0].axes[-1]

    def hold(self, op: Op, bad: Tensor, study: Study, why: str) -> None:
        """Hold the units behind contracted positions."""
        study.hold(self.contracted_axis(op, study), bad, op, why)

    def weigh(self, op: Op, product: Product, need_a: Tensor, need_b: Tensor, study: Study) -> None:
        bad = product.unknown_terms(need_a, need_b)
        why = "its constant meets the zero padding of a convolution" if product.border else "it is read"
        self.hold(op, bad, study, why)
        terms = product.constant_terms(need_a)
        if bool(terms.any()):
            study.fold(op, self, product, terms.expand(product.size))


class MatrixProduct(Contraction):
    first, second, added = "self", "mat2", ""

    def product(self, op: Op, study: Study) -> Product:
        first, second = op.args[self.first], op.args[self.second]
        a, b = study.facts(first), study.facts(second)
        return Product(a, b, b.nonzero, first.shape[-1], fixed=b.all and any(second.origin))

    def bias(self, op: Op) -> Value | None:
        value = op.args.get(self.added) if self.added and op.args.get("beta", 1) != 0 else None
        return value if isinstance(value, Value) else None

    def facts(self, op: Op, study: Study) -> list[Facts]:
        known, value = self.product(op, study).result()
        bias = self.bias(op)
        value = value * op.args.get("alpha", 1)
        if bias is not None:
            added = study.facts(bias)
            known, value = known & added.known, value + added.value * op.args.get("beta", 1)
        return [found(known, ranked(value, len(op.outs[0].axes)))]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        (need,) = needs
        assert need is not None
        product = self.product(op, study)
        need_a, need_b = product.needs(need)
        self.weigh(op, product, need_a, need_b, study)
        a, b, bias = op.args[self.first], op.args[self.second], self.bias(op)
        out = [(a, _reduced(need_a, a)), (b, _reduced(need_b, b))]
        return out if bias is None else [*out, (bias, fitted(need, bias))]

    def contracted_axis(self, op: Op, study: Study) -> Node:
        node: Node = op.args[self.first].axes[-1]
        return node


def _reduced(need: Tensor, value: Value) -> Tensor:
    """A need broadcast over the batch dimensions of the other operand."""
    return whole(need, [d for d, node in enumerate(value.axes) if node.size == 1])


@rule("mm", "bmm")
class Plain(MatrixProduct):
    pass


@rule("addmm")
class WithBias(MatrixProduct):
    first, second, added = "mat1", "mat2", "self"


@rule("baddbmm")
class BatchedWithBias(MatrixProduct):
    first, second, added = "batch1", "batch2", "self"


@rule("mv", "dot", "vdot", "addmv")
class VectorProduct(Rule):
    """A sum whose terms have to be zero."""

    _operands = {
        "mv": ("self", "vec"),
        "dot": ("self", "tensor"),
        "vdot": ("self", "other"),
        "addmv": ("mat", "vec"),
    }

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        operands = [op.args[name] for name in self._operands[op.name.rstrip("_")]]
        bad = torch.ones(1, dtype=torch.bool, device=study.device)
        for value in operands:
            bad = bad & over_others(~study.facts(value).zero, -1)
        study.hold(operands[0].axes[-1], bad, op, "it is read")
        return everything(op, study)


@rule("_trilinear")
class Trilinear(Rule):
    """A sum of products of three; `nn.Bilinear` is made of it. Only terms that are zero can go."""

    @staticmethod
    def _zero(op: Op, study: Study) -> Tensor:
        """Which terms are zero, before the sum."""
        terms = torch.zeros((), dtype=torch.bool, device=study.device)
        for number in (1, 2, 3):
            zero = study.facts(op.args[f"i{number}"]).zero
            for d in sorted(op.args[f"expand{number}"]):
                zero = zero.unsqueeze(d)
            terms = terms | zero
        return terms

    def facts(self, op: Op, study: Study) -> list[Facts]:
        dims = [int(d) for d in op.args["sumdim"]]
        live = whole(~self._zero(op, study), dims)
        zero = ~live.reshape([size for d, size in enumerate(live.shape) if d not in dims])
        return [Facts(zero, torch.zeros_like(zero, dtype=torch.float32))]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        need = joined(needs)
        dims = sorted(int(d) for d in op.args["sumdim"])
        for d in dims:
            need = need.unsqueeze(d)
        live = need & ~self._zero(op, study)
        for number in (1, 2, 3):
            value: Value = op.args[f"i{number}"]
            places = [d for d in range(live.dim()) if d not in op.args[f"expand{number}"]]
            for place, node in zip(places, value.axes, strict=True):
                if place in dims:
                    study.hold(node, over_others(live, place), op, "it is read")
        return everything(op, study)
