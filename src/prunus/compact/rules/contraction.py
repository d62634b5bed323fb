"""Matrix products and convolutions: sums over an axis, which lose a unit if its terms are zero, or constant.

Shapes: B batch, M rows, K contracted, N columns; C channels, G groups, T kernel taps. A convolution is a
product of x_G1K and w_GKN, with the taps of its kernel summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...graph.axes import Node
from ...graph.values import Op, Value
from ..facts import Facts, alike, fitted, found, spread, unknown, whole
from . import Needs, Rule, everything, rule
from .pointwise import joined, ranked

if TYPE_CHECKING:
    from ..study import Study


@dataclass
class Product:
    """`a_BMK @ b_BKN`, reduced.

    Attributes:
        nonzero_b: entries of b that are not known to be zero.
        size: K.
        border: only a zero in `a` has the same effect everywhere (beside the padding of a convolution).
        grouped: B stands for groups, each with columns of its own.
    """

    a: Facts
    b: Facts
    nonzero_b: Tensor
    size: int
    border: bool = False
    grouped: bool = False

    @property
    def nonzero_a(self) -> Tensor:
        return ~self.a.zero

    @property
    def known_a(self) -> Tensor:
        """Where an entry of `a` has a known effect: beside a zero-padded border only zero has."""
        return self.a.zero if self.border else self.a.known

    def result(self) -> tuple[Tensor, Tensor]:
        """Known entries and values of the product."""
        if self._averages():
            return self.b.known, self.b.value
        mixed = _meets(~self.known_a, self.nonzero_b) | _meets(self.nonzero_a, ~self.b.known)
        if bool(mixed.all()):
            return ~mixed, torch.zeros((), device=mixed.device)
        value = matmul(torch.where(self.known_a, self.a.value, 0), self.b.value)
        if max(self.a.value.shape[-1], self.b.value.shape[-2]) == 1:
            value = value * self.size
        return ~mixed, value

    def _averages(self) -> bool:
        alike_k = self.b.value.shape[-2] == 1 and self.b.known.shape[-2] == 1
        return self.a.sums_to_one == self.a.known.dim() - 1 and alike_k

    def needs(self, need: Tensor) -> tuple[Tensor, Tensor]:
        """Which entries of a and b the needed entries of the product depend on."""
        return _meets(need, self.nonzero_b.mT), _meets(self.nonzero_a.mT, need)

    def unknown_terms(self, need_a: Tensor, need_b: Tensor) -> Tensor:
        """Positions k with a term that depends on the input and matters."""
        return _over_others(~self.known_a & need_a, -1) | _over_others(~self.b.known & need_b, -2)

    def constant_terms(self, need_a: Tensor) -> Tensor:
        """Positions k with a constant term that is not zero and matters."""
        return _over_others(self.known_a & self.nonzero_a & need_a, -1)

    def _row(self) -> tuple[Facts, Facts]:
        """`a` and `b` where they are alike for all of M, and for all of B unless that stands for groups."""
        rank = self.a.value.dim()
        batch = [] if self.grouped else list(range(rank - 2))
        return alike(Facts(self.known_a, self.a.value), [*batch, rank - 2]), alike(self.b, batch)

    def foldable(self) -> Tensor:
        """Positions k whose terms are the same constant in every row."""
        row, columns = self._row()
        one, two = _over_others(~row.known, -1), _over_others(~columns.known, -2)
        return ~(one | two).expand(self.size)

    def same_terms(self, other: Product) -> Tensor | None:
        """Positions k whose constants another product shares; None where their weights are not the same."""
        (row, columns), (row_other, columns_other) = self._row(), other._row()
        if columns.value.shape != columns_other.value.shape or not torch.equal(columns.value, columns_other.value):
            return None
        same = row.known & row_other.known & (row.value == row_other.value)
        return ~_over_others(~same, -1).expand(self.size)

    def shift(self, gone_K: Tensor) -> Tensor:
        """What the terms at some positions k add to each column."""
        row, columns = self._row()
        terms = row.value.double() * gone_K.to(row.value.device)
        chosen = gone_K.to(row.value.device).nonzero().flatten()
        b = columns.value.expand(*columns.value.shape[:-2], self.size, columns.value.shape[-1])
        return (terms.index_select(-1, chosen) @ b.index_select(-2, chosen).double()).reshape(-1)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """A product of reduced tensors: a contracted dimension of size one on one side is spread."""
    size = max(a.shape[-1], b.shape[-2])
    dtype = torch.promote_types(a.dtype, b.dtype)
    dtype = dtype if dtype.is_floating_point or dtype.is_complex else torch.float32
    a, b = a.expand(*a.shape[:-1], size), b.expand(*b.shape[:-2], size, b.shape[-1])
    return a.to(dtype) @ b.to(dtype)


def _meets(a: Tensor, b: Tensor) -> Tensor:
    """Whether any k has both a[m, k] and b[k, n]."""
    if not (bool(a.any()) and bool(b.any())):
        shape = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]) + (a.shape[-2], b.shape[-1])
        return torch.zeros(shape, dtype=torch.bool, device=a.device)
    return matmul(a.float(), b.float()) > 0


def _over_others(mask: Tensor, dim: int) -> Tensor:
    dim %= mask.dim()
    return whole(mask, [d for d in range(mask.dim()) if d != dim]).reshape(-1)


class Contraction(Rule):
    """What matrix products and convolutions share."""

    def product(self, op: Op, study: Study) -> Product:
        raise NotImplementedError

    def bias(self, op: Op) -> Value | None:
        return None

    def contracted_axis(self, op: Op, study: Study) -> Node:
        """The axis summed over, one group's where there are groups."""
        raise NotImplementedError

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
        a, b = study.facts(op.args[self.first]), study.facts(op.args[self.second])
        return Product(a, b, ~b.zero, op.args[self.first].shape[-1])

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

    _operands = {"mv": ("self", "vec"), "dot": ("self", "tensor"), "vdot": ("self", "other"), "addmv": ("mat", "vec")}

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        operands = [op.args[name] for name in self._operands[op.name.rstrip("_")]]
        bad = torch.ones(1, dtype=torch.bool, device=study.device)
        for value in operands:
            bad = bad & _over_others(~study.facts(value).zero, -1)
        study.hold(operands[0].axes[-1], bad, op, "it is read")
        return everything(op, study)


@rule("convolution", "_convolution", "cudnn_convolution", "mkldnn_convolution", "convolution_overrideable")
class Convolution(Contraction):
    """1d to 3d, transposed, grouped and depthwise."""

    def bias(self, op: Op) -> Value | None:
        return op.args.get("bias")

    def product(self, op: Op, study: Study) -> Product:
        x, weight, groups = op.args["input"], op.args["weight"], int(op.args["groups"])
        channels = x.shape[1]
        a = alike(study.facts(x), [d for d in range(len(x.axes)) if d != 1])
        known, value = (spread(t, [1], x.shape).reshape(groups, 1, channels // groups) for t in (a.known, a.value))
        b, nonzero = self._weight(op, study.facts(weight), weight, groups)
        return Product(Facts(known, value), b, nonzero, channels // groups, self._border(op), grouped=True)

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
        if not facts.any:
            shape = (groups, weight.shape[1], weight.shape[0] // groups)
            if op.args["transposed"]:
                shape = (groups, weight.shape[0] // groups, weight.shape[1])
            none = torch.zeros(shape, dtype=torch.bool, device=facts.known.device)
            return Facts(none, torch.zeros(shape, dtype=facts.value.dtype, device=none.device)), ~none
        full = [t.expand(weight.shape).flatten(2) for t in (facts.known, facts.value)]
        parts = (full[0].all(2), full[1].sum(2), (~full[0] | (full[1] != 0)).any(2))
        known, value, nonzero = (
            t.unflatten(0, (groups, -1)) if op.args["transposed"] else t.unflatten(0, (groups, -1)).mT for t in parts
        )
        return Facts(known, value), nonzero

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
        channels = whole(need, [d for d in range(need.dim()) if d != 1]).reshape(-1).expand(op.outs[0].shape[1])
        product = self.product(op, study)
        need_a, need_b = product.needs(channels.reshape(groups, 1, -1))
        self.weigh(op, product, need_a, need_b, study)
        taps = need_b if op.args["transposed"] else need_b.mT
        out = [(x, need_a.reshape(1, -1, *tail)), (weight, taps.flatten(0, 1).reshape(*taps.flatten(0, 1).shape, *tail))]
        return out if bias is None else [*out, (bias, channels)]

    def contracted_axis(self, op: Op, study: Study) -> Node:
        weight, groups = op.args["weight"], int(op.args["groups"])
        node: Node = weight.axes[0 if op.args["transposed"] else 1]
        inner = study.inner(node, groups) if op.args["transposed"] and groups > 1 else None
        return node if inner is None else inner

    def hold(self, op: Op, bad: Tensor, study: Study, why: str) -> None:
        node = self.contracted_axis(op, study)
        together = node.size == bad.numel() or not bool(bad.any())
        study.hold(node, bad if together else None, op, why)


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
                    study.hold(node, _over_others(live, place), op, "it is read")
        return everything(op, study)
