"""Views: dimensions are permuted, merged, split, dropped or repeated; no value changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...graph.axes import reshape_groups
from ...graph.values import Op, Value
from ..facts import Facts, compressed, fitted, split, whole
from . import Needs, Rule, nothing, rule

if TYPE_CHECKING:
    from ..study import Study


def regrouped(tensor: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """A row-major reshape from full shape `old` to `new`, of a reduced tensor."""
    sizes, targets = list(tensor.shape), [1] * len(new)
    for group, wanted in reshape_groups(old, new):
        if any(sizes[d] > 1 for d in group):
            for d in group:
                sizes[d] = old[d]
            for d in wanted:
                targets[d] = new[d]
    return tensor.expand(sizes).reshape(targets)


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "unflatten", "flatten", "view_copy")
class View(Rule):
    def facts(self, op: Op, study: Study) -> list[Facts]:
        source, out = op.inputs()[0], op.outs[0]
        facts = study.facts(source)
        if self._odd(source, out):
            return nothing(op, study)
        parts = facts.mapped(lambda t: regrouped(t, source.shape, out.shape))
        sums = None
        if facts.sums_to_one is not None:  # the summed dimension stands alone and last before and after
            last = facts.sums_to_one == len(source.axes) - 1 and source.shape[-1] == out.shape[-1]
            sums = len(out.axes) - 1 if last else None
        return [compressed(replace(parts, sums_to_one=sums), study.plain_dims(out))]

    @staticmethod
    def _odd(source: Value, out: Value) -> bool:
        return 0 in source.shape or source.dtype != out.dtype

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        source, out = op.inputs()[0], op.outs[0]
        if self._odd(source, out):
            return Rule().needs(op, needs, study)
        assert needs[0] is not None
        return [(source, whole(regrouped(needs[0], out.shape, source.shape), study.plain_dims(source)))]


@rule("permute", "permute_copy", "transpose", "t", "numpy_T", "transpose_copy", "t_copy", "adjoint")
class Permute(Rule):
    @staticmethod
    def order(op: Op) -> list[int]:
        rank = len(op.outs[0].axes)
        if op.name.startswith("permute"):
            return [int(d) % rank for d in op.args["dims"]]
        order = list(range(rank))
        if rank > 1:
            first, second = int(op.args.get("dim0", 0)), int(op.args.get("dim1", rank - 1))
            if op.name == "adjoint":
                first, second = -2, -1
            order[first], order[second] = order[second], order[first]
        return order

    def facts(self, op: Op, study: Study) -> list[Facts]:
        order, facts = self.order(op), study.facts(op.inputs()[0])
        sums = None if facts.sums_to_one is None else order.index(facts.sums_to_one)
        return [replace(facts.mapped(lambda t: t.permute(order)), sums_to_one=sums)]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        order, (need,) = self.order(op), needs
        assert need is not None
        return [(op.inputs()[0], need.permute(sorted(range(len(order)), key=order.__getitem__)))]


@rule("unsqueeze", "unsqueeze_copy", "squeeze", "squeeze_copy")
class Ones(Rule):
    """Dimensions of size one come and go; all others keep their order."""

    @staticmethod
    def _fit(tensor: Tensor, source: Value, target: Value, op: Op, back: bool) -> Tensor:
        rank = max(len(source.axes), len(target.axes))
        if op.name.startswith("unsqueeze"):
            dims = [int(op.args["dim"]) % rank]
        else:
            given = op.args.get("dim")
            given = range(rank) if given is None else [given] if isinstance(given, int) else given
            shape = (target if back else source).shape
            dims = sorted({d % rank for d in given if shape[d % rank] == 1}) if rank else []
        sizes = list(tensor.shape)
        if op.name.startswith("unsqueeze") != back:
            for d in dims:
                sizes.insert(d, 1)
        else:
            sizes = [size for d, size in enumerate(sizes) if d not in dims]
        return tensor.reshape(sizes)

    def facts(self, op: Op, study: Study) -> list[Facts]:
        source, out = op.inputs()[0], op.outs[0]
        facts = study.facts(source)
        return [facts.mapped(lambda t: self._fit(t, source, out, op, back=False))]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        source, (need,) = op.inputs()[0], needs
        assert need is not None
        return [(source, self._fit(need, op.outs[0], source, op, back=True))]


@rule("expand", "expand_copy", "expand_as", "broadcast_to")
class Expand(Rule):
    """A reduced tensor is expanded by doing nothing: it is alike along the new dimensions."""

    def facts(self, op: Op, study: Study) -> list[Facts]:
        source, out = op.inputs()[0], op.outs[0]
        facts, lead = study.facts(source), len(out.axes) - len(source.axes)
        out_facts = facts.mapped(lambda t: t.reshape((1,) * lead + tuple(t.shape)))
        sums = facts.sums_to_one
        return [replace(out_facts, sums_to_one=None if sums is None else sums + lead)]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        assert needs[0] is not None
        return [(op.inputs()[0], fitted(needs[0], op.inputs()[0]))]


@rule("repeat", "tile")
class Repeat(Rule):
    """`r` copies of an axis `a` are `r x a`."""

    def facts(self, op: Op, study: Study) -> list[Facts]:
        return [study.facts(op.args["self"]).mapped(lambda t: self._tiled(t, op))]

    @staticmethod
    def _tiled(tensor: Tensor, op: Op) -> Tensor:
        counts = [int(n) for n in op.args["repeats"]]
        sizes = (1,) * (len(counts) - tensor.dim()) + tuple(tensor.shape)
        return tensor.reshape(sizes).repeat([1 if s == 1 else n for n, s in zip(counts, sizes, strict=True)])

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        source: Value = op.args["self"]
        need = needs[0]
        assert need is not None
        for d, count in enumerate(int(n) for n in op.args["repeats"]):
            if count > 1 and need.shape[d] > 1:
                need = split(need, d, (count, need.shape[d] // count)).any(d)
        return [(source, fitted(need, source))]


@rule("view_as_complex", "view_as_complex_copy", "view_as_real", "view_as_real_copy")
class Complex(Rule):
    """A last dimension of two is a complex number."""

    def facts(self, op: Op, study: Study) -> list[Facts]:
        source: Value = op.inputs()[0]
        facts = study.facts(source)
        if "real" in op.name:
            return [Facts(facts.known.unsqueeze(-1), torch.view_as_real(facts.value))]
        pair = facts.value.expand(*facts.value.shape[:-1], 2).contiguous()
        return [Facts(facts.known.all(-1), torch.view_as_complex(pair))]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        (need,) = needs
        assert need is not None
        return [(op.inputs()[0], need.any(-1) if "real" in op.name else need.unsqueeze(-1))]
